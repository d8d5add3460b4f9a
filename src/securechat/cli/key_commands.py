"""The groups `keys` (the server's identity) and `servers` (which servers this terminal knows)."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from securechat.cli.groups import make_group
from securechat.cli.main import Data, Json
from securechat.cli.operator import data_root
from securechat.cli.output import note, say, say_json, table
from securechat.crypto.identity import IdentityKey
from securechat.errors import Shutdown
from securechat.files import write_private
from securechat.program import program
from securechat.sdk.pins import PinStore, pins_path, shown
from securechat.server.identity import NEXT_AFTER_S, IdentityKeys

keys = make_group("The server's identity keys, by which clients know it.")
servers = make_group("Servers that this terminal knows, and by which keys.")

Bits = Annotated[int, typer.Option(help="2048 or 3072.")]
RootFile = Annotated[Path, typer.Argument(metavar="FILE", help="The root key. It belongs on a medium that is in no server.")]


def _identities(data: str | None, bits: int = 2_048) -> IdentityKeys:
    folder = data_root(data) / "keys"
    if not (folder / "identity.json").exists():
        raise Shutdown(f"There is no identity in {folder} yet. Start the server once: {program()} serve")
    found = IdentityKeys(folder, bits)
    found.load()
    return found


def _password(path: Path, *, new: bool) -> bytes:
    """Ask for the password of a root key; from a pipe, its first line."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n").encode()
    return str(typer.prompt(f"Password of {path}", hide_input=True, confirmation_prompt=new)).encode()


@keys.command("init-root")
def init_root(path: RootFile, *, bits: Bits = 3_072) -> None:
    """Make the root key, once. It signs which identity keys are the server's, and is kept off the server."""
    password = _password(path, new=True)
    if len(password) < 12:
        raise Shutdown("The password of the root key has at least 12 characters.")
    try:
        root = IdentityKey.generate(bits)
        write_private(path, root.pem(password), anew=True)
    except (ValueError, OSError) as error:
        raise Shutdown(f"{path}: {error}") from error
    say(f"root  {shown(root.key_id)}")
    say(f"file  {path} (keep it on a medium that is in no server, and its password elsewhere)")
    say(f"Next: {program()} keys publish {path} --host HOST")


@keys.command("list")
def list_keys(*, data: Data = None, json: Json = False) -> None:
    """List the identity keys: which one signs, which comes next."""
    found = _identities(data)
    now = time.time()
    current = found.choose(()).key_id.hex()
    rows = []
    for each in found.records():
        state = (
            "signs"
            if each.kid == current
            else "next"
            if each.not_before > now
            else "ended"
            if 0 < each.not_after <= now
            else "holds"
        )
        rows.append((state, shown(each.kid), _day(each.not_before) or "the start", _day(each.not_after) or "-", each.kid))
    if json:
        say_json([{"kid": row[4], "state": row[0], "from": row[2], "until": row[3]} for row in rows])
    else:
        table(("STATE", "KEY", "FROM", "UNTIL"), [row[:4] for row in rows])


@keys.command("rotate")
def rotate(
    *,
    data: Data = None,
    bits: Bits = 2_048,
    at_once: Annotated[
        bool, typer.Option("--now", help="Sign with the new key at once: after a theft. Clients without a root ask.")
    ] = False,
) -> None:
    """Make the next identity key. It signs in 30 days, when every client has heard of it from the published list."""
    found = _identities(data, bits)
    record = found.add(not_before=int(time.time()) + (0 if at_once else NEXT_AFTER_S))
    say(f"key   {shown(record.kid)}")
    say(f"from  {_day(record.not_before)}")
    note(f"Now tell the clients: {program()} keys publish ROOT_FILE --host HOST")


@keys.command("publish")
def publish(
    path: RootFile,
    *,
    host: Annotated[str, typer.Option(help="The server as clients dial it, for example chat.example.org.")],
    data: Data = None,
) -> None:
    """Sign the list of identity keys with the root; the server shows it at once. To be repeated within 45 days."""
    try:
        root = IdentityKey.load(path.read_bytes(), _password(path, new=False))
    except (OSError, ValueError) as error:
        raise Shutdown(f"{path}: {error}") from error
    made = _identities(data).publish(host.lower(), root)
    say(f"list   {made.serial}, {len(made.keys)} keys, for {made.host}, good until {_day(made.expires)}")
    say(f"root   {shown(root.key_id)}")


@servers.command("list")
def list_servers(*, json: Json = False) -> None:
    """List the servers whose keys are kept here."""
    found = _pins().all()
    if json:
        say_json(found)
    else:
        table(
            ("HOST", "KEY", "ROOT"),
            [(host, shown(kid), shown(pins.root) or "-") for host, pins in found.items() for kid in pins.keys],
        )


@servers.command("forget")
def forget(host: Annotated[str, typer.Argument(help="As in the list.")]) -> None:
    """Forget a server's key: the next one that it shows is taken. Ask its operator first whether it changed."""
    if not _pins().forget(host.lower()):
        raise Shutdown(f"{host} is not known here.")
    say(f"{host} is forgotten. The next connection is a first contact.")


def _pins() -> PinStore:
    store = PinStore(pins_path())
    try:
        store.all()
    except ValueError as error:
        raise Shutdown(str(error)) from error
    return store


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds)) if seconds else ""
