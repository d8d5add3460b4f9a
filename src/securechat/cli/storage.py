"""`securechat storage`: how texts are stored, and the keys that seal them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Final

import typer

from securechat.cli.groups import RoomName
from securechat.cli.main import Data, Json
from securechat.cli.operator import Operator, data_root
from securechat.cli.output import note, say, say_json, when
from securechat.domain import commands as c
from securechat.errors import Shutdown
from securechat.program import program

POLL_S: Final = 0.5
_WORDS: Final = {
    "seal": "encrypt what is there", "unseal": "decrypt what is there", "reseal": "encrypt again with new keys",
    "rewrap": "wrap rooms' keys again", "erase": "erase a shredded room",
}  # fmt: skip

storage = typer.Typer(
    help="How texts are stored: encryption at rest, its keys, erasing a room for good.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Show the progress until it is done.")]


@storage.command("status")
def status(*, data: Data = None, json: Json = False) -> None:
    """Show what is encrypted, which keys are in use, and how far jobs are."""
    found: c.Storage = Operator(data_root(data)).perform(c.StorageStatus())
    if json:
        say_json(found)
        return
    say(f"encryption at rest  {found.at_rest}   (setting at_rest)")
    say(f"texts               {found.sealed:,} encrypted, {found.clear:,} not" + _damaged(found.damaged))
    say(f"keys                {found.keys}: kek-{found.kek} wraps organisation key {found.org_key}")
    say(f"rooms' keys         {found.room_keys:,}, and {found.shredded_keys:,} destroyed")
    for job in found.jobs:
        say(f"job                 {_told(job)}")
    if not found.running and any(job.finished_at is None for job in found.jobs):
        say(f"Jobs go on while the server runs: {program()} serve")
    if found.problem:
        say(f"PROBLEM             {found.problem}")


@storage.command("rotate")
def rotate(
    *,
    messages: Annotated[
        bool, typer.Option("--messages", help="Also encrypt every text again, and destroy rooms' old keys.")
    ] = False,
    wait: Wait = True,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make a new key file and organisation key, and wrap the rooms' keys with it. Texts stay as they are."""
    operator = Operator(data_root(data))
    found: c.Storage = operator.perform(c.StorageRotate(messages=messages))
    if wait:
        found = _follow(operator, found, lambda job: job.kind in {"rewrap", "reseal"})
    if json:
        say_json(found)
    else:
        say(f"kek-{found.kek} and organisation key {found.org_key} are in use.")
        say(f"Older key files open only older backups ({found.keys}): delete them when no backup needs them.")


@storage.command("shred")
def shred(
    room: RoomName,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Wait = True,
    data: Data = None,
    json: Json = False,
) -> None:
    """Erase everything that was said in a room until now, by destroying its keys. Nobody can undo it."""
    operator = Operator(data_root(data))
    room_id = operator.room_id(room)
    if not yes and not typer.confirm(f"Erase everything that was said in {room}?"):
        raise Shutdown("Nothing was erased.", 1)
    sent: c.Sent = operator.perform(c.StorageShred(room=room_id))
    if wait:
        found: c.Storage = operator.perform(c.StorageStatus())
        _follow(operator, found, lambda job: job.kind == "erase" and job.room == room_id)
    if json:
        say_json(sent)
    else:
        say(f"Erased in {room}: everything before entry {sent.seq}. Its members see that it was.")
        say("Backups from before still hold it: delete them, or rotate and delete their key files.")


def _follow(operator: Operator, found: c.Storage, mine: Callable[[c.StorageJob], bool]) -> c.Storage:
    """Show how far jobs are until none of them waits, and return the newest status."""
    shown = ""
    while waiting := [job for job in found.jobs if job.finished_at is None and mine(job)]:
        if not found.running:
            note("The server does not run: this goes on when it does.")
            return found
        text = _told(waiting[0])
        if text != shown:
            note(text)
            shown = text
        time.sleep(POLL_S)
        found = operator.perform(c.StorageStatus())
    return found


def _told(job: c.StorageJob) -> str:
    text = _WORDS.get(job.kind, job.kind) + (f" {job.room}" if job.room else "")
    if job.finished_at is not None:
        text += f"   done {when(job.finished_at)}, {job.done:,}"
    elif job.total is None:
        text += "   waits"
    else:
        text += f"   {100 * job.done // max(1, job.total)} %   {job.done:,} of {job.total:,}"
    return text + _damaged(job.damaged)


def _damaged(count: int) -> str:
    return f"   {count:,} DAMAGED, see the log" if count else ""
