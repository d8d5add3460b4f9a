"""Administration, in verbs: each is one command through the operator's door."""

from __future__ import annotations

from pathlib import Path

from securechat.cli.durations import seconds_of
from securechat.cli.operator import Operator, data_root
from securechat.cli.output import counted, note, say, say_json, table, when
from securechat.domain import commands as c
from securechat.domain.accounts import fits
from securechat.domain.secret import Secret
from securechat.errors import Shutdown
from securechat.program import program


def setup_link(data: str | None, *, as_json: bool) -> None:
    """Print a setup link."""
    link: c.Link = Operator(data_root(data)).perform(c.SetupLink())
    say_json(link) if as_json else say(f"{link.url}\none time, until {when(link.expires_at)}")


def status(data: str | None, *, as_json: bool) -> None:
    """Print figures."""
    operator = Operator(data_root(data))
    found: c.Status = operator.perform(c.ServerStatus())
    if as_json:
        say_json(found)
    else:
        say(
            (
                f"SecureChat {found.version}   up {found.uptime_s:.0f} s   {found.connections} connections\n"
                if operator.is_running
                else f"SecureChat {found.version}   not running (data {data_root(data)})\n"
            )
            + f"{counted(found.users, 'user')}   {counted(found.rooms, 'room')}   {counted(found.entries, 'entry', 'entries')}"
        )


def user_list(data: str | None, words: str, *, as_json: bool) -> None:
    """List accounts; only those that the words fit, if there are any."""
    operator = Operator(data_root(data))
    users = []
    cursor: str | None = ""
    while cursor is not None:
        page: c.UserPage = operator.perform(c.UserList(cursor=cursor, limit=200))
        users += [user for user in page.users if fits(user, words)]
        cursor = page.next_cursor
    if as_json:
        say_json(users)
    else:
        rows = [(user.username, user.display_name, user.role.value, "locked" if user.disabled else "", user.id) for user in users]
        table(("username", "name", "role", "", "id"), rows)


def user_create(data: str | None, username: str, name: str, *, admin: bool, password: Secret | None, as_json: bool) -> None:
    """Create an account."""
    command = c.UserCreate(username=username, display_name=name, role="admin" if admin else "member", password=password)
    created: c.UserCreated = Operator(data_root(data)).perform(command)
    if as_json:
        say_json(created)
    else:
        say(f"@{created.user.username} created." + (f"\nThey set their password at {created.url}" if created.url else ""))


def user_disable(data: str | None, username: str, *, disable: bool) -> None:
    """Lock or unlock an account."""
    operator = Operator(data_root(data))
    user = operator.user(username)
    operator.perform(c.UserDisable(user=user.id) if disable else c.UserEnable(user=user.id))
    say(f"@{user.username} is {'locked; its connections are closed' if disable else 'unlocked'}.")


def user_reset(data: str | None, username: str, *, as_json: bool) -> None:
    """Print a link to set a new password."""
    operator = Operator(data_root(data))
    link: c.Link = operator.perform(c.UserReset(user=operator.user(username).id))
    say_json(link) if as_json else say(f"{link.url}\none time, until {when(link.expires_at)}")


def invite_create(data: str | None, uses: int, expires: str, rooms: str, *, as_json: bool) -> None:
    """Create an invitation."""
    expires_s = seconds_of(expires)
    if expires_s is None:
        raise Shutdown(f"{expires} is no duration; write 30m, 12h, 7d or 2w.", 64)
    operator = Operator(data_root(data))
    ids = [operator.room_id(name.strip()) for name in rooms.split(",") if name.strip()]
    invite: c.Invite = operator.perform(c.InviteCreate(uses=uses, expires_s=expires_s, rooms=ids))
    say_json(invite) if as_json else say(f"{invite.url}\n{counted(invite.uses_left, 'use')}, until {when(invite.expires_at)}")


def invite_list(data: str | None, *, as_json: bool) -> None:
    """List invitations that work."""
    found: c.Invites = Operator(data_root(data)).perform(c.InviteList())
    if as_json:
        say_json(found.invites)
    else:
        table(("code", "uses left", "until"), [(each.code, each.uses_left, when(each.expires_at)) for each in found.invites])


def invite_revoke(data: str | None, code: str) -> None:
    """End an invitation."""
    Operator(data_root(data)).perform(c.InviteRevoke(code=Secret(code)))
    say(f"{code} does not work any more.")


def room_create(data: str | None, name: str, *, public: bool, topic: str, members: str, as_json: bool) -> None:
    """Create a room."""
    operator = Operator(data_root(data))
    ids = [operator.user(each.strip()).id for each in members.split(",") if each.strip()]
    room: c.RoomSummary = operator.perform(
        c.RoomCreate(name=name, kind="public" if public else "private", topic=topic, members=ids)
    )
    say_json(room) if as_json else say(f"#{room.name} ({room.kind}) created: {room.id}")


def room_list(data: str | None, *, as_json: bool) -> None:
    """List public rooms."""
    operator = Operator(data_root(data))
    rooms = []
    cursor: str | None = ""
    while cursor is not None:
        page: c.Rooms = operator.perform(c.RoomBrowse(cursor=cursor, limit=200))
        rooms += page.rooms
        cursor = page.next_cursor
    if as_json:
        say_json(rooms)
    else:
        table(("room", "members", "entries", "topic", "id"), [(f"#{r.name}", r.members, r.last_seq, r.topic, r.id) for r in rooms])
        note(f"Public rooms. Private ones are for their members, who see them with /rooms in: {program()} chat")


def room_member(data: str | None, room: str, username: str, *, add: bool) -> None:
    """Add or remove a member."""
    operator = Operator(data_root(data))
    room_id, user = operator.room_id(room), operator.user(username)
    operator.perform(c.MemberAdd(room=room_id, user=user.id) if add else c.MemberRemove(room=room_id, user=user.id))
    say(f"@{user.username} {'is in' if add else 'was removed from'} {room}.")


def bot_create(data: str | None, username: str, name: str, rooms: str, *, as_json: bool) -> None:
    """Create a bot and print what its program needs."""
    operator = Operator(data_root(data))
    ids = [operator.room_id(each.strip()) for each in rooms.split(",") if each.strip()]
    _say_bot(data, operator.perform(c.BotCreate(username=username, display_name=name, rooms=ids)), as_json=as_json)


def bot_rotate(data: str | None, username: str, *, as_json: bool) -> None:
    """Give a bot a new token."""
    operator = Operator(data_root(data))
    _say_bot(data, operator.perform(c.BotRotate(user=operator.user(username).id)), as_json=as_json)


def bot_revoke(data: str | None, username: str) -> None:
    """End a bot."""
    operator = Operator(data_root(data))
    operator.perform(c.BotRevoke(user=operator.user(username).id))
    say(f"@{username} cannot connect any more.")


def _say_bot(data: str | None, bot: c.BotCreated, *, as_json: bool) -> None:
    if as_json:
        say_json(bot)
        return
    url = Operator(data_root(data)).perform(c.ServerStatus()).url
    ca = data_root(data).resolve() / "tls" / "ca.crt"
    note(f"@{bot.user.username}: its token is shown this once.")
    say(
        f"export SECURECHAT_URL={url}\n"
        f"export SECURECHAT_TOKEN={bot.token}"
        + (f"\nexport SECURECHAT_PIN={bot.pin}" if bot.pin else "")
        + (f"\nexport SECURECHAT_CA={ca}" if url.startswith("https") else "")
    )


def backup_create(data: str | None, to: Path, *, as_json: bool) -> None:
    """Write a backup."""
    backup: c.Backup = Operator(data_root(data)).perform(c.BackupCreate(path=str(to.resolve())))
    _say_backup(backup, as_json=as_json)
    _require_whole(backup)


def backup_verify(path: Path, *, as_json: bool) -> None:
    """Restore a backup into a folder that is thrown away, and count."""
    from securechat.server.backup import verify_backup  # noqa: PLC0415

    backup = verify_backup(path)
    _say_backup(backup, as_json=as_json)
    _require_whole(backup)


def backup_restore(path: Path, to: Path, *, as_json: bool) -> None:
    """Restore a backup into a new data folder."""
    from securechat.server.backup import restore_backup  # noqa: PLC0415

    _say_backup(restore_backup(path, to), as_json=as_json)
    if not as_json:
        say(f"Start it with: {program()} serve --data {to}")


def _say_backup(backup: c.Backup, *, as_json: bool) -> None:
    if as_json:
        say_json(backup)
    else:
        say(
            f"{backup.path}  {backup.bytes / 1e6:.1f} MB  schema {backup.schema}  users {backup.users}  rooms {backup.rooms}"
            f"  entries {backup.entries}\nrestored in a temporary folder, hashes and counts equal: ok"
        )
        say(f"audit log is NOT whole: {backup.audit}" if backup.audit else "audit log: whole")
        if backup.key_apart:
            say(f"It does NOT hold the storage key {backup.key_apart}: keep a copy of that apart, nothing opens without it.")


def _require_whole(backup: c.Backup) -> None:
    if backup.audit:
        raise Shutdown(f"The backup is complete; the audit log in it is not whole. Look at it: {program()} audit verify")
