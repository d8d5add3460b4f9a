"""The commands of the line mode, part by part: each is a function that does what one line says."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from securechat.cli.durations import seconds_of
from securechat.cli.line_table import LINES, Misused, Quit, help_text, line, to_limit, to_seq
from securechat.cli.output import columns, counted, note, say, table, when
from securechat.cli.show import printable, room_name
from securechat.cli.signin import no_session
from securechat.domain import commands as c
from securechat.domain.accounts import Device, Role
from securechat.domain.limits import LIMITS
from securechat.errors import ChatError, NotFound
from securechat.sdk.errors import ConnectionLost

if TYPE_CHECKING:
    from securechat.cli.line_mode import LineMode

__all__ = ["LINES"]  # With everything that is registered below.
# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────


@line("messages", "/reply N TEXT", "answer message N")
async def _reply(mode: LineMode, rest: str) -> None:
    number, _, text = rest.partition(" ")
    await mode.here.send(text, reply_to=to_seq(number))


@line("messages", "/edit N TEXT", "change your message N")
async def _edit(mode: LineMode, rest: str) -> None:
    number, _, text = rest.partition(" ")
    await mode.here.edit(to_seq(number), text)


@line("messages", "/delete N", "delete message N")
async def _delete(mode: LineMode, rest: str) -> None:
    await mode.here.delete(to_seq(rest))


@line("messages", "/react N EMOJI", "react to message N")
async def _react(mode: LineMode, rest: str) -> None:
    number, _, emoji = rest.partition(" ")
    await mode.here.react(to_seq(number), emoji)


@line("messages", "/unreact N EMOJI", "take your reaction back")
async def _unreact(mode: LineMode, rest: str) -> None:
    number, _, emoji = rest.partition(" ")
    await mode.here.unreact(to_seq(number), emoji)


@line("messages", "/history [COUNT]", "show the newest again")
async def _history(mode: LineMode, rest: str) -> None:
    await mode.screen.show_page(mode.here, await mode.here.page(limit=to_limit(rest)))


@line("messages", "/history before N [COUNT]", "what was written before N")
async def _history_before(mode: LineMode, rest: str) -> None:
    number, _, count = rest.partition(" ")
    await mode.screen.show_page(mode.here, await mode.here.page(before=to_seq(number), limit=to_limit(count)))


@line("messages", "/history after N [COUNT]", "what was written after N")
async def _history_after(mode: LineMode, rest: str) -> None:
    number, _, count = rest.partition(" ")
    await mode.screen.show_page(mode.here, await mode.here.page(after=to_seq(number), limit=to_limit(count)))


@line("messages", "/history around N [COUNT]", "what was written around N")
async def _history_around(mode: LineMode, rest: str) -> None:
    number, _, count = rest.partition(" ")
    await mode.screen.show_page(mode.here, await mode.here.page(around=to_seq(number), limit=to_limit(count)))


@line("messages", "/unread N", "keep N and what follows as unread")
async def _unread(mode: LineMode, rest: str) -> None:
    mode.screen.to_mark.pop(mode.here.id, None)
    state = await mode.here.mark_read(max(0, to_seq(rest) - 1), back=True)
    note(f"── {state.unread} unread")


@line("messages", "/typing", "show the others that you are writing")
async def _type(mode: LineMode, _rest: str) -> None:
    await mode.here.typing()


@line("messages", "/commands", "what the bots in this room answer to")
async def _commands(mode: LineMode, _rest: str) -> None:
    found = await mode.here.commands()
    _list([(_call(each), printable(each.description)) for each in found], "no bot here answers to anything")


# ── rooms ────────────────────────────────────────────────────────────────────────────────────────────────────────


@line("rooms", "/rooms", "your rooms, and how much is unread")
async def _rooms(mode: LineMode, _rest: str) -> None:
    rooms = await mode.client.list_rooms()
    _list([(room_name(room), f"{room.unread} unread", _size(room), room.topic) for room in rooms], "no rooms yet")


@line("rooms", "/browse [WORD]", "public rooms that begin with WORD")
async def _browse(mode: LineMode, rest: str) -> None:
    found = await mode.client.browse_rooms(rest)
    _list([(room_name(room), _size(room), room.topic) for room in found.rooms], "no such public room")
    if found.next_cursor is not None:
        note("── there are more: /browse WORD")


@line("rooms", "/join ROOM", "go to a room; join it if it is public")
async def _join(mode: LineMode, rest: str) -> None:
    room = await mode.client.room(rest)
    if room.id not in mode.client.rooms:
        await room.join()
    await mode.screen.enter(room)


@line("rooms", "/create [--public] NAME", "create a room for those you add; --public for everybody")
async def _create(mode: LineMode, rest: str) -> None:
    words = rest.split()
    options = {word for word in words if word.startswith("--")}
    if unknown := sorted(options - {"--public", "--private"}):
        raise Misused(f"there is no option {unknown[0]}")
    name = " ".join(word for word in words if word not in options)
    if not name or len(options) > 1:
        raise Misused
    await mode.screen.enter(await mode.client.create_room(name, kind="public" if "--public" in options else "private"))


@line("rooms", "/dm USER", "talk to one person")
async def _dm(mode: LineMode, rest: str) -> None:
    await mode.screen.enter(await mode.client.direct(await _user_id(mode, rest)))


@line("rooms", "/who", "who is in this room, and who is online")
async def _who(mode: LineMode, _rest: str) -> None:
    members = await mode.here.members()
    columns([(f"@{each.user.username}", each.user.display_name, _role(each), each.presence) for each in members])


@line("rooms", "/add USER", "bring somebody in")
async def _add(mode: LineMode, rest: str) -> None:
    await mode.here.add(await _user_id(mode, rest))


@line("rooms", "/remove USER", "remove somebody")
async def _remove(mode: LineMode, rest: str) -> None:
    await mode.here.remove(await _user_id(mode, rest))


@line("rooms", "/topic TEXT", "say what this room is about")
async def _topic(mode: LineMode, rest: str) -> None:
    await mode.here.update(topic=rest)


@line("rooms", "/rename NAME", "give this room another name")
async def _rename(mode: LineMode, rest: str) -> None:
    await mode.here.update(name=rest)


@line("rooms", "/leave", "leave this room")
async def _leave(mode: LineMode, _rest: str) -> None:
    room, mode.screen.room = mode.here, None
    try:
        await room.leave()
    except ChatError:
        mode.screen.room = room
        raise
    note(f"── you left {room.name}; /rooms lists the others")


# ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────


@line("people", "/people [WORD]", "people whose name begins with WORD")
async def _people(mode: LineMode, rest: str) -> None:
    found = await mode.client.find_users(rest)
    _list([(f"@{user.username}", user.display_name, user.role.value) for user in found], "nobody")


@line("people", "/block USER", "no direct messages from them; theirs are folded away")
async def _block(mode: LineMode, rest: str) -> None:
    await mode.client.block(await _user_id(mode, rest))
    note(f"── {rest} is blocked")


@line("people", "/unblock USER", "take a block back")
async def _unblock(mode: LineMode, rest: str) -> None:
    await mode.client.unblock(await _user_id(mode, rest))
    note(f"── {rest} is not blocked any more")


@line("people", "/blocks", "whom you have blocked")
async def _blocks(mode: LineMode, _rest: str) -> None:
    _list([(f"@{user.username}", user.display_name) for user in await mode.client.list_blocks()], "nobody")


# ── account ──────────────────────────────────────────────────────────────────────────────────────────────────────


@line("account", "/me", "who you are here")
async def _me(mode: LineMode, _rest: str) -> None:
    user = (await mode.client.me()).user
    say(f"@{user.username} ({user.display_name}, {user.role.value}) on {mode.client.url}")


@line("account", "/name TEXT", "change the name that others see")
async def _name_me(mode: LineMode, rest: str) -> None:
    note(f"── you are {(await mode.client.update_me(rest)).user.display_name} now")


@line("account", "/devices", "where you are signed in")
async def _devices(mode: LineMode, _rest: str) -> None:
    columns([(each.id, each.name, _last_seen(each), each.address) for each in await mode.client.list_devices()])


@line("account", "/revoke DEVICE", "sign a device out; the beginning of its id is enough")
async def _revoke(mode: LineMode, rest: str) -> None:
    found = [
        each for each in await mode.client.list_devices() if each.id.removeprefix("dev_").startswith(rest.removeprefix("dev_"))
    ]
    if len(found) != 1 or rest == "dev_":
        raise Misused("no such device" if not found else "more than one device begins like this")
    if found[0].current:
        raise Misused("this is the device you are on; /logout")
    await mode.client.revoke_device(found[0].id)
    note(f"── {found[0].name} is signed out")


@line("account", "/logout", "sign this terminal out, and leave")
async def _logout(mode: LineMode, _rest: str) -> None:
    if os.environ.get("SECURECHAT_TOKEN"):
        note(f"error: {no_session()}")
        return
    if mode.client.connected:
        await mode.client.outbox.flush()
        await mode.screen.mark()
    try:
        await mode.client.log_out()
        note("Signed out.")
    except ConnectionLost as error:
        note(f"Signed out here; the server was not told: {error} Sign this device out from another one.")
    raise Quit


@line("account", "/quit", "leave; you stay signed in (Ctrl+D)")
async def _quit(_mode: LineMode, _rest: str) -> None:
    raise Quit


@line("account", "/help [WORD]", "this list, or what it says of a command")
async def _help(_mode: LineMode, rest: str) -> None:
    note(help_text(rest))


# ── administration ───────────────────────────────────────────────────────────────────────────────────────────────


@line("server", "/invite create [USES] [7d] [ROOM …]", "an invitation for so many people, so long, into rooms")
async def _invite_create(mode: LineMode, rest: str) -> None:
    uses, expires_s, names = 1, 604_800, []
    for word in rest.split():
        seconds = seconds_of(word)
        if seconds is not None:
            expires_s = seconds
        elif word.isascii() and word.isdigit():
            uses = to_seq(word)
        else:
            names.append(word)
    invite = await mode.client.create_invite(uses=uses, expires_s=expires_s, rooms=await _room_ids(mode, names))
    say(f"{invite.url}\n{counted(invite.uses_left, 'use')}, until {when(invite.expires_at)}")


@line("server", "/invite list", "invitations that work")
async def _invite_list(mode: LineMode, _rest: str) -> None:
    invites = await mode.client.list_invites()
    table(("code", "uses left", "until"), [(each.code, each.uses_left, when(each.expires_at)) for each in invites])


@line("server", "/invite revoke CODE", "end an invitation")
async def _invite_revoke(mode: LineMode, rest: str) -> None:
    await mode.client.revoke_invite(rest)
    note(f"── {rest} does not work any more")


@line("server", "/bot create NAME [ROOM …]", "a bot and its token, shown once")
async def _bot_create(mode: LineMode, rest: str) -> None:
    name, *rooms = rest.split()
    _show_token(mode, await mode.client.create_bot(name, rooms=await _room_ids(mode, rooms)))


@line("server", "/bot rotate NAME", "give a bot a new token")
async def _bot_rotate(mode: LineMode, rest: str) -> None:
    _show_token(mode, await mode.client.rotate_bot(await _account_id(mode, rest)))


@line("server", "/bot revoke NAME", "end a bot")
async def _bot_revoke(mode: LineMode, rest: str) -> None:
    await mode.client.revoke_bot(await _account_id(mode, rest))
    note(f"── {rest} cannot connect any more")


def _show_token(mode: LineMode, bot: c.BotCreated) -> None:
    note(f"── @{bot.user.username}: its token is shown this once")
    say(f"export SECURECHAT_URL={mode.client.url}\nexport SECURECHAT_TOKEN={bot.token}")
    if bot.pin:
        say(f"export SECURECHAT_PIN={bot.pin}")
    if mode.client.ca:
        say(f"export SECURECHAT_CA={mode.client.ca}")


async def _account_id(mode: LineMode, name: str) -> str:
    """Find an account, locked or not."""
    cursor: str | None = ""
    while cursor is not None:
        page = await mode.client.list_users(cursor=cursor, limit=LIMITS.page_entries)
        for user in page.users:
            if user.username == name.removeprefix("@").lower():
                return user.id
        cursor = page.next_cursor
    raise NotFound(f"No user {name}.")


async def _room_ids(mode: LineMode, names: Collection[str]) -> list[str]:
    return [(await mode.client.room(name)).id for name in names]


async def _user_id(mode: LineMode, name: str) -> str:
    return (await mode.client.find_user(name)).id


def _list(rows: Sequence[Sequence[object]], empty: str) -> None:
    columns(rows) if rows else note(f"── {empty}")


def _call(command: c.BotCommand) -> str:
    options = (option.name if option.required else f"[{option.name}]" for option in command.options)
    return " ".join([f"/{command.name}", *options])


def _size(room: c.RoomSummary) -> str:
    return "" if room.kind == "direct" else f"{room.members} member{'' if room.members == 1 else 's'}"


def _role(member: c.Member) -> str:
    return member.user.role.value if member.user.role is Role.BOT else member.role


def _last_seen(device: Device) -> str:
    return "this one" if device.current else f"seen {when(device.last_seen_at)}"
