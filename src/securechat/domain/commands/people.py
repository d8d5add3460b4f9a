"""People, blocks, and the commands of bots."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from securechat.domain.accounts import User
from securechat.domain.commands.words import Command, Id, Text
from securechat.domain.limits import LIMITS


class UserGet(Command, kw_only=True, tag="user.get"):
    """Get users by id; ids that do not exist are left out."""

    users: Annotated[list[Id], Meta(max_length=200)]


class UserFind(Command, kw_only=True, tag="user.find"):
    """Find users: each word of the query begins a word of their username or display name. An exact username comes first."""

    query: Text = ""
    limit: Annotated[int, Meta(ge=1, le=LIMITS.page_entries)] = 20


class UserBlock(Command, kw_only=True, tag="user.block"):
    """Block a user: no direct messages from them, and their messages are folded away."""

    user: Id


class UserUnblock(Command, kw_only=True, tag="user.unblock"):
    """Take a block back."""

    user: Id


class UserBlocks(Command, kw_only=True, tag="user.blocks"):
    """List whom one has blocked."""


class UserUpdate(Command, kw_only=True, tag="user.update"):
    """Change one's own display name."""

    display_name: Text


class Users(msgspec.Struct, kw_only=True):
    """Users; `online` are the ids of those who have a connection."""

    users: list[User]
    online: list[str] = []


class BotOption(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One argument of a bot's command."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}(?![\s\S])")]
    type: Literal["str", "int", "float", "bool"] = "str"
    required: bool = True
    default: Annotated[str, Meta(max_length=256)] = ""


class BotCommand(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A command that a bot answers: people write `/name arguments` as a message."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}(?![\s\S])")]
    description: Annotated[str, Meta(max_length=256)] = ""
    options: Annotated[list[BotOption], Meta(max_length=16)] = []
    bot: str = ""
    """User id of the bot; filled in by the server."""


class CommandSet(Command, kw_only=True, tag="command.set"):
    """As a bot: replace the list of commands that one answers."""

    commands: Annotated[list[BotCommand], Meta(max_length=100)]


class CommandList(Command, kw_only=True, tag="command.list"):
    """List the commands of the bots in a room, for autocompletion."""

    room: Id


class BotCommands(msgspec.Struct, kw_only=True):
    """Commands, by name."""

    commands: list[BotCommand]
