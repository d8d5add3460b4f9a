"""Commands: what a signed-in client can ask the server for. Each method is one command; `docs/reference/sdk.md` has the table.

The methods of a room are in `Room`, those of somebody who is not signed in in `Entrance`.
"""

from __future__ import annotations

from securechat.sdk.commands.administration import AdministrationCommands
from securechat.sdk.commands.apps import AppCommands
from securechat.sdk.commands.oneself import OwnCommands
from securechat.sdk.commands.people import PeopleCommands
from securechat.sdk.commands.rooms import RoomCommands
from securechat.sdk.commands.security import SecurityCommands


class Commands(RoomCommands, PeopleCommands, OwnCommands, SecurityCommands, AdministrationCommands, AppCommands):
    """Typed methods over `call`, by subject in the modules of this package.

    Every method raises `ChatError` when the server refuses, `ConnectionLost` when no answer came (the outcome is unknown) and
    `LoginRequired` when the token does not hold. What else can happen is said at each.
    """
