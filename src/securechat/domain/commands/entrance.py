"""Coming in: setup, invitations, sessions, devices."""

from __future__ import annotations

import msgspec

from securechat.domain.accounts import Device, User
from securechat.domain.commands.words import Command, Id, Text, no_secret
from securechat.domain.secret import MaskedRepr, Secret


class SetupComplete(Command, kw_only=True, tag="setup.complete"):
    """Create the first account, with the one-time link that the server printed."""

    token: Secret
    username: Text
    password: Secret
    display_name: Text = ""
    server_name: Text = ""
    device_name: Text = ""


class InviteGet(Command, kw_only=True, tag="invite.get"):
    """See what an invitation is for, before registering."""

    code: Secret


class AccountRegister(Command, kw_only=True, tag="account.register"):
    """Create an account with an invitation."""

    code: Secret = msgspec.field(default_factory=lambda: Secret(""))
    username: Text
    password: Secret
    display_name: Text = ""
    device_name: Text = ""


class SessionCreate(Command, kw_only=True, tag="session.create"):
    """Log in. An account with a second factor is answered `second_factor_required` until a code comes along."""

    username: Text
    password: Secret
    device_name: Text = ""
    code: Secret = msgspec.field(default_factory=no_secret)
    """Six digits of the authenticator app, or a recovery code."""


class SessionRefresh(Command, kw_only=True, tag="session.refresh"):
    """Exchange a refresh token for a new one and a new access token. A token used twice ends the session."""

    refresh_token: Secret


class SessionDelete(Command, kw_only=True, tag="session.delete"):
    """Log out: end the session of this device."""


class PasswordReset(Command, kw_only=True, tag="password.reset"):
    """Set a new password with a link from the operator; ends all sessions."""

    token: Secret
    password: Secret


class DeviceList(Command, kw_only=True, tag="device.list"):
    """List one's own devices."""


class DeviceRevoke(Command, kw_only=True, tag="device.revoke"):
    """Sign a device of one's own out; its connections are closed at once."""

    device: Id


class Me(Command, kw_only=True, tag="user.me"):
    """Who am I?"""


class Session(MaskedRepr, msgspec.Struct, kw_only=True):
    """A signed-in device. `refresh_token` is empty where a browser keeps it in a cookie.

    With `enrol`, the role wants a second factor and the account has none: only the commands that set one up are taken.
    """

    __secrets__ = ("access_token", "refresh_token")

    user: User
    device: str
    access_token: str
    expires_in: int
    refresh_token: str = ""
    enrol: bool = False


class Identity(msgspec.Struct, kw_only=True):
    """The account behind the token."""

    user: User
    device: str


class Devices(msgspec.Struct, kw_only=True):
    """Devices, newest first."""

    devices: list[Device]


class Invitation(msgspec.Struct, kw_only=True):
    """What a stranger with the code may know."""

    server_name: str
    invited_by: str
    rooms: list[str]
