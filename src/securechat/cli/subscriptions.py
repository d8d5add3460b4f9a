"""`securechat subscription` and `securechat dead-letters`: where else rooms are sent, and what could not be delivered there."""

from __future__ import annotations

from typing import Annotated

import typer

from securechat.cli.groups import make_group
from securechat.cli.main import Data, Json
from securechat.cli.operator import Operator, data_root
from securechat.cli.output import note, say, say_json, table, when
from securechat.domain import commands as c
from securechat.errors import NotFound, Shutdown
from securechat.program import program

subscription = make_group("Subscriptions: send what happens in a room to a URL (outgoing webhooks).")
dead_letters = make_group("Dead letters: what could not be delivered to a subscription.")

RoomName = Annotated[str, typer.Argument(metavar="ROOM", help="Room name or id.")]
Which = Annotated[str, typer.Argument(metavar="SUBSCRIPTION", help="Its id, as `subscription list` shows it.")]
SeqOption = Annotated[int | None, typer.Option("--seq", min=1, help="Only this one.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
LETTERS: int = 200


@subscription.command("create")
def create(
    room: RoomName,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to: https://…")],
    *,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="Only entries of this type, for example message.sent; may be repeated.", show_default=False),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Send the entries of a room to a URL from now on. The room is told, and the secret that signs is printed, once."""
    operator = Operator(data_root(data))
    command = c.SubscriptionCreate(room=operator.room_id(room), url=url, types=types or [])
    _say_created(operator.perform(command), as_json=json)


@subscription.command("list")
def list_subscriptions(
    room: Annotated[str, typer.Argument(metavar="ROOM", help="Only those of this room: its name or id.", show_default=False)] = "",
    *,
    data: Data = None,
    json: Json = False,
) -> None:
    """List subscriptions: whether they work, how far behind they are, how many dead letters they have."""
    operator = Operator(data_root(data))
    command = c.SubscriptionList(room=operator.room_id(room)) if room else c.SubscriptionOverview()
    found: c.Subscriptions = operator.perform(command)
    if json:
        say_json(found)
        return
    rows = [(each.id, each.room, each.state, each.behind, each.dead_letters, each.url, each.reason) for each in found.subscriptions]
    table(("subscription", "room", "state", "behind", "dead letters", "url", ""), rows)


@subscription.command("delete")
def delete(which: Which, *, data: Data = None) -> None:
    """End a subscription; its dead letters go with it, and the room is told."""
    operator = Operator(data_root(data))
    operator.perform(c.SubscriptionDelete(room=_room_of(operator, which), subscription=which))
    say(f"{which} is deleted.")


@subscription.command("pause")
def pause(which: Which, *, data: Data = None) -> None:
    """Send nothing for a while; what comes meanwhile is sent when it is resumed."""
    operator = Operator(data_root(data))
    operator.perform(c.SubscriptionPause(room=_room_of(operator, which), subscription=which))
    say(f"{which} is paused.")


@subscription.command("resume")
def resume(which: Which, *, data: Data = None) -> None:
    """Go on where it was: after a pause, or when the server has disabled it."""
    operator = Operator(data_root(data))
    operator.perform(c.SubscriptionResume(room=_room_of(operator, which), subscription=which))
    say(f"{which} goes on.")


@subscription.command("rotate")
def rotate(
    which: Which,
    *,
    keep_hours: Annotated[int, typer.Option(min=0, max=168, help="How long the old secret signs, too.")] = 24,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make a new secret and print it, once; the old one signs, too, for a while."""
    operator = Operator(data_root(data))
    command = c.SubscriptionRotate(room=_room_of(operator, which), subscription=which, keep_hours=keep_hours)
    _say_created(operator.perform(command), as_json=json)


@dead_letters.command("list")
def list_letters(which: Which, *, data: Data = None, json: Json = False) -> None:
    """List what could not be delivered, and why."""
    operator = Operator(data_root(data))
    room = _room_of(operator, which)
    letters: list[c.DeadLetter] = []
    after: int | None = 0
    while after is not None:
        page: c.DeadLetters = operator.perform(c.DeadLetterList(room=room, subscription=which, after=after, limit=LETTERS))
        letters += page.letters
        after = page.next_after
    if json:
        say_json(letters)
        return
    rows = [
        (each.seq, each.attempts, when(each.first_at), when(each.last_at), each.status or "", each.reason, "waits" * each.waiting)
        for each in letters
    ]
    table(("seq", "tries", "first", "last", "status", "reason", ""), rows)


@dead_letters.command("replay")
def replay(which: Which, *, seq: SeqOption = None, every: All = False, data: Data = None, json: Json = False) -> None:
    """Send dead letters again: each entry as it is now, a deleted message without its text."""
    _require_one(seq, every=every)
    operator = Operator(data_root(data))
    found: c.DeadLettersTaken = operator.perform(c.DeadLetterReplay(room=_room_of(operator, which), subscription=which, seq=seq))
    say_json(found) if json else say(f"{found.count} sent again; what fails stays (`{program()} dead-letters list {which}`).")


@dead_letters.command("drop")
def drop(which: Which, *, seq: SeqOption = None, every: All = False, data: Data = None, json: Json = False) -> None:
    """Remove dead letters: they will not be delivered."""
    _require_one(seq, every=every)
    operator = Operator(data_root(data))
    found: c.DeadLettersTaken = operator.perform(c.DeadLetterDrop(room=_room_of(operator, which), subscription=which, seq=seq))
    say_json(found) if json else say(f"{found.count} dropped.")


def _require_one(seq: int | None, *, every: bool) -> None:
    if (seq is None) is not every:
        raise Shutdown("Say which: --seq NUMBER, or --all.", 64)


def _room_of(operator: Operator, which: str) -> str:
    found: c.Subscriptions = operator.perform(c.SubscriptionOverview())
    for each in found.subscriptions:
        if each.id == which:
            return each.room
    raise NotFound(f"No subscription {which}.")


def _say_created(created: c.SubscriptionCreated, *, as_json: bool) -> None:
    if as_json:
        say_json(created)
        return
    say(f"subscription  {created.subscription.id}\nsecret        {created.secret}")
    note("The secret is shown this once. Whoever gets the deliveries verifies them with it.")
    if created.old_until:
        note(f"The old one signs, too, until {when(created.old_until)}.")
