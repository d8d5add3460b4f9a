"""The groups of the command line: user, invite, room, bot, config, cert, backup."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from securechat.cli import admin, permissions
from securechat.cli.identity import clear_factors
from securechat.cli.main import Config, Data, Json
from securechat.cli.operator import data_root
from securechat.domain.secret import Secret


def make_group(text: str) -> typer.Typer:
    """Return an empty group of commands."""
    return typer.Typer(help=text, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


user = make_group("People: create, list, lock, reset passwords.")
invite = make_group("Invitations: how people come in.")
room = make_group("Rooms: create, list, change members.")
bot = make_group("Bots and their tokens.")
config = make_group("Settings: explain them, check them.")
cert = make_group("The server's certificate and its own CA.")
backup = make_group("Backups: create while running, verify by restoring, restore.")

user.command("clear-factors")(clear_factors)

Username = Annotated[str, typer.Argument(help="Username.")]
Rooms = Annotated[str, typer.Option(help="Rooms, separated by commas.", show_default=False)]
Name = Annotated[str, typer.Option(help="Display name.", show_default=False)]


@user.command("list")
def user_list(
    words: Annotated[
        str, typer.Argument(metavar="WORDS", help="Only those of whose names they begin words.", show_default=False)
    ] = "",
    *,
    data: Data = None,
    json: Json = False,
) -> None:
    """List accounts, locked ones too."""
    admin.user_list(data, words, as_json=json)


@user.command("create")
def user_create(
    username: Username,
    *,
    name: Name = "",
    make_admin: Annotated[bool, typer.Option("--admin", help="With the rights of an administrator.")] = False,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Create an account; the answer is a link to set the first password."""
    password = Secret(sys.stdin.readline().rstrip("\n")) if password_stdin else None
    admin.user_create(data, username, name, admin=make_admin, password=password, as_json=json)


RoleName = Annotated[str, typer.Argument(help="owner, admin, moderator, member or guest.")]


@user.command("role")
def user_role(username: Username, role: RoleName, *, data: Data = None) -> None:
    """Give an account another role on the server; it holds at once."""
    permissions.user_role(data, username, role)


@user.command("disable")
def user_disable(username: Username, *, data: Data = None) -> None:
    """Lock an account; its connections are closed at once."""
    admin.user_disable(data, username, disable=True)


@user.command("enable")
def user_enable(username: Username, *, data: Data = None) -> None:
    """Unlock an account."""
    admin.user_disable(data, username, disable=False)


@user.command("reset")
def user_reset(username: Username, *, data: Data = None, json: Json = False) -> None:
    """Make a link with which a user sets a new password; used once."""
    admin.user_reset(data, username, as_json=json)


@invite.command("create")
def invite_create(
    *,
    uses: Annotated[int, typer.Option(help="How many people.")] = 1,
    expires: Annotated[str, typer.Option(help="How long: 30m, 12h, 7d.")] = "7d",
    rooms: Rooms = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Create an invitation link."""
    admin.invite_create(data, uses, expires, rooms, as_json=json)


@invite.command("list")
def invite_list(*, data: Data = None, json: Json = False) -> None:
    """List invitations that work."""
    admin.invite_list(data, as_json=json)


@invite.command("revoke")
def invite_revoke(code: Annotated[str, typer.Argument(help="The code.")], *, data: Data = None) -> None:
    """End an invitation."""
    admin.invite_revoke(data, code)


RoomName = Annotated[str, typer.Argument(help="Room name or id.")]


@room.command("create")
def room_create(
    name: Annotated[str, typer.Argument(help="Name.")],
    *,
    public: Annotated[bool, typer.Option("--public/--private", help="Who can find and join it.")] = True,
    topic: Annotated[str, typer.Option(help="What it is about.", show_default=False)] = "",
    members: Annotated[str, typer.Option(help="First members, separated by commas.", show_default=False)] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Create a room."""
    admin.room_create(data, name, public=public, topic=topic, members=members, as_json=json)


@room.command("list")
def room_list(*, data: Data = None, json: Json = False) -> None:
    """List public rooms; private ones are seen by their members only."""
    admin.room_list(data, as_json=json)


@room.command("add")
def room_add(room_name: RoomName, username: Username, *, data: Data = None) -> None:
    """Bring somebody into a room."""
    admin.room_member(data, room_name, username, add=True)


@room.command("remove")
def room_remove(room_name: RoomName, username: Username, *, data: Data = None) -> None:
    """Remove somebody from a room."""
    admin.room_member(data, room_name, username, add=False)


@room.command("role")
def room_role(
    room_name: RoomName,
    username: Username,
    role: Annotated[str, typer.Argument(help="owner, moderator, member or guest.")],
    *,
    data: Data = None,
) -> None:
    """Give a member another role in a room."""
    permissions.room_role(data, room_name, username, role)


@room.command("permit")
def room_permit(
    room_name: RoomName,
    action: Annotated[str, typer.Argument(help="What, for example message.send.")],
    role: Annotated[str, typer.Argument(help="Least role that may: owner, moderator, member, guest; or default.")],
    *,
    data: Data = None,
    json: Json = False,
) -> None:
    """Decide who may do something in a room: post, invite, change the topic, delete others' messages, call everybody."""
    permissions.room_permit(data, room_name, action, role, as_json=json)


@bot.command("create")
def bot_create(username: Username, *, room: Rooms = "", name: Name = "", data: Data = None, json: Json = False) -> None:
    """Create a bot; prints the environment that its program needs."""
    admin.bot_create(data, username, name, room, as_json=json)


@bot.command("rotate")
def bot_rotate(username: Username, *, data: Data = None, json: Json = False) -> None:
    """Give a bot a new token; the old one ends. A bot that was revoked can connect with it again."""
    admin.bot_rotate(data, username, as_json=json)


@bot.command("revoke")
def bot_revoke(username: Username, *, data: Data = None) -> None:
    """End a bot."""
    admin.bot_revoke(data, username)


@config.command("explain")
def config_explain(*, config: Config = None, data: Data = None, json: Json = False) -> None:
    """Show every setting: its value, where that comes from, what it is for; of the running server if there is one."""
    from securechat.cli.settings import explain  # noqa: PLC0415

    explain(config, data, as_json=json)


@config.command("check")
def config_check(*, config: Config = None, data: Data = None) -> None:
    """Check the configuration; all mistakes are told at once."""
    from securechat.cli.settings import check  # noqa: PLC0415

    check(config, data)


@cert.command("show")
def cert_show(*, config: Config = None, data: Data = None, json: Json = False) -> None:
    """Show the certificate: who signed it, for which names, how long it is good; and the own CA's fingerprint."""
    from securechat.cli.certificate import show  # noqa: PLC0415

    show(config, data, as_json=json)


@cert.command("renew")
def cert_renew(*, config: Config = None, data: Data = None, json: Json = False) -> None:
    """Get a new certificate now: by ACME, of the own CA, or from the files again. Nobody is disconnected."""
    from securechat.cli.certificate import renew  # noqa: PLC0415

    renew(config, data, as_json=json)


@cert.command("trust")
def cert_trust(
    *, data: Data = None, install: Annotated[bool, typer.Option("--install", help="Do it, instead of telling how.")] = False
) -> None:
    """Tell this machine to trust the server's CA, so that browsers show no warning."""
    from securechat.cli.trust import trust  # noqa: PLC0415

    trust(data_root(data) / "tls" / "ca.crt", install=install)


Archive = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]


@backup.command("create")
def backup_create(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="Where to, for example securechat.tar.gz.")],
    *,
    data: Data = None,
    json: Json = False,
) -> None:
    """Back everything up, keys included, while the server runs; verified before it is called done."""
    admin.backup_create(data, to, as_json=json)


@backup.command("verify")
def backup_verify(path: Archive, *, json: Json = False) -> None:
    """Restore into a temporary folder and compare hashes and counts."""
    admin.backup_verify(path, as_json=json)


@backup.command("restore")
def backup_restore(
    path: Archive, to: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new data folder.")], *, json: Json = False
) -> None:
    """Restore into a new data folder."""
    admin.backup_restore(path, to, as_json=json)
