"""Which command stands at which path. The operation id of each is the command's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from securechat.domain import commands as c

BASE: Final = "/api/v1"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    Attributes:
        method: HTTP method.
        path: Below `BASE`; names in braces are fields of the command.
        command: What it does.
        status: Of success.
        open: Whether it needs no token.
        session: Whether it opens or ends a session, and so may use the browser's cookie.
    """

    method: str
    path: str
    command: type[c.Command]
    status: int = 200
    open: bool = False
    session: bool = False

    @property
    def reply(self) -> type:
        """What it answers."""
        return c.REPLIES[self.command]


ROUTES: Final = (
    Route("POST", "/setup", c.SetupComplete, 201, open=True, session=True),
    Route("GET", "/invites/{code}", c.InviteGet, open=True),
    Route("POST", "/accounts", c.AccountRegister, 201, open=True, session=True),
    Route("POST", "/sessions", c.SessionCreate, 201, open=True, session=True),
    Route("POST", "/sessions/refresh", c.SessionRefresh, open=True, session=True),
    Route("DELETE", "/sessions/current", c.SessionDelete, session=True),
    Route("POST", "/password-reset", c.PasswordReset, open=True),
    Route("POST", "/passkeys:challenge", c.PasskeyChallenge, open=True),
    Route("POST", "/sessions/passkey", c.SessionPasskey, 201, open=True, session=True),
    Route("POST", "/sessions/current/confirm", c.SessionConfirm),
    Route("PUT", "/password", c.PasswordChange),
    Route("GET", "/factors", c.FactorList),
    Route("POST", "/factors/totp:begin", c.TotpBegin),
    Route("POST", "/factors/totp", c.TotpConfirm, 201),
    Route("DELETE", "/factors/totp", c.TotpRemove),
    Route("POST", "/factors/passkeys:begin", c.PasskeyBegin),
    Route("POST", "/factors/passkeys", c.PasskeyAdd, 201),
    Route("DELETE", "/factors/passkeys/{passkey}", c.PasskeyRemove),
    Route("POST", "/factors/recovery-codes", c.RecoveryCreate, 201),
    Route("GET", "/me", c.Me),
    Route("PATCH", "/me", c.UserUpdate),
    Route("GET", "/devices", c.DeviceList),
    Route("DELETE", "/devices/{device}", c.DeviceRevoke),
    Route("GET", "/providers", c.ProviderList, open=True),
    Route("POST", "/providers/{provider}/begin", c.ProviderBegin, open=True),
    Route("POST", "/providers/{provider}/finish", c.ProviderFinish, open=True),
    Route("POST", "/sessions/provider", c.SessionProvider, 201, open=True, session=True),
    Route("POST", "/accounts/provider", c.AccountProvider, 201, open=True, session=True),
    Route("GET", "/externals", c.ExternalList),
    Route("POST", "/externals/{provider}/begin", c.ExternalBegin),
    Route("POST", "/externals/{provider}/finish", c.ExternalAdd, 201),
    Route("DELETE", "/externals/{external}", c.ExternalRemove),
    Route("POST", "/consents:get", c.ConsentGet),
    Route("POST", "/consents", c.ConsentGive),
    Route("GET", "/grants", c.GrantList),
    Route("DELETE", "/grants/{app}", c.GrantRevoke),
    Route("GET", "/tokens", c.TokenList),
    Route("POST", "/tokens", c.TokenCreate, 201),
    Route("DELETE", "/tokens/{token}", c.TokenRevoke),
    Route("GET", "/users", c.UserFind),
    Route("POST", "/users:get", c.UserGet),
    Route("GET", "/blocks", c.UserBlocks),
    Route("PUT", "/blocks/{user}", c.UserBlock),
    Route("DELETE", "/blocks/{user}", c.UserUnblock),
    Route("GET", "/rooms", c.RoomList),
    Route("POST", "/rooms", c.RoomCreate, 201),
    Route("GET", "/rooms:browse", c.RoomBrowse),
    Route("GET", "/rooms:lookup", c.RoomLookup),
    Route("POST", "/rooms:direct", c.RoomDirect),
    Route("GET", "/rooms/{room}", c.RoomGet),
    Route("PATCH", "/rooms/{room}", c.RoomUpdate),
    Route("POST", "/rooms/{room}/join", c.RoomJoin),
    Route("POST", "/rooms/{room}/leave", c.RoomLeave),
    Route("GET", "/rooms/{room}/members", c.MemberList),
    Route("PUT", "/rooms/{room}/members/{user}", c.MemberAdd),
    Route("DELETE", "/rooms/{room}/members/{user}", c.MemberRemove),
    Route("PUT", "/rooms/{room}/members/{user}/role", c.MemberRole),
    Route("PUT", "/rooms/{room}/permissions/{action}", c.RoomPermit),
    Route("GET", "/rooms/{room}/subscriptions", c.SubscriptionList),
    Route("POST", "/rooms/{room}/subscriptions", c.SubscriptionCreate, 201),
    Route("DELETE", "/rooms/{room}/subscriptions/{subscription}", c.SubscriptionDelete),
    Route("POST", "/rooms/{room}/subscriptions/{subscription}/pause", c.SubscriptionPause),
    Route("POST", "/rooms/{room}/subscriptions/{subscription}/resume", c.SubscriptionResume),
    Route("POST", "/rooms/{room}/subscriptions/{subscription}/rotate", c.SubscriptionRotate),
    Route("GET", "/rooms/{room}/subscriptions/{subscription}/dead-letters", c.DeadLetterList),
    Route("POST", "/rooms/{room}/subscriptions/{subscription}/dead-letters:replay", c.DeadLetterReplay),
    Route("POST", "/rooms/{room}/subscriptions/{subscription}/dead-letters:drop", c.DeadLetterDrop),
    Route("GET", "/policy", c.PolicyExplain),
    Route("GET", "/rooms/{room}/entries", c.Fetch),
    Route("POST", "/rooms/{room}/messages", c.MessageSend, 201),
    Route("PATCH", "/rooms/{room}/messages/{seq}", c.MessageEdit),
    Route("DELETE", "/rooms/{room}/messages/{seq}", c.MessageDelete),
    Route("PUT", "/rooms/{room}/messages/{seq}/reactions/{emoji}", c.ReactionAdd),
    Route("DELETE", "/rooms/{room}/messages/{seq}/reactions/{emoji}", c.ReactionRemove),
    Route("PUT", "/rooms/{room}/read", c.ReadMark),
    Route("POST", "/rooms/{room}/typing", c.TypingStart),
    Route("GET", "/rooms/{room}/commands", c.CommandList),
    Route("PUT", "/commands", c.CommandSet),
    Route("GET", "/admin/invites", c.InviteList),
    Route("POST", "/admin/invites", c.InviteCreate, 201),
    Route("DELETE", "/admin/invites/{code}", c.InviteRevoke),
    Route("GET", "/admin/users", c.UserList),
    Route("POST", "/admin/users", c.UserCreate, 201),
    Route("PUT", "/admin/users/{user}/role", c.UserRole),
    Route("POST", "/admin/users/{user}/disable", c.UserDisable),
    Route("POST", "/admin/users/{user}/enable", c.UserEnable),
    Route("POST", "/admin/users/{user}/reset", c.UserReset),
    Route("DELETE", "/admin/users/{user}/factors", c.FactorClear),
    Route("POST", "/admin/bots", c.BotCreate, 201),
    Route("POST", "/admin/bots/{user}/rotate", c.BotRotate),
    Route("DELETE", "/admin/bots/{user}", c.BotRevoke),
    Route("GET", "/admin/apps", c.AppList),
    Route("POST", "/admin/apps", c.AppCreate, 201),
    Route("DELETE", "/admin/apps/{app}", c.AppDelete),
    Route("GET", "/admin/audit", c.AuditList),
)

FORMS: Final = (
    Route("POST", "/oauth/token", c.OauthToken, open=True),
    Route("POST", "/oauth/device", c.OauthDevice, open=True),
    Route("POST", "/oauth/revoke", c.OauthRevoke, open=True),
)
"""What apps send as forms, because OAuth says so. These paths are whole: they are not below `BASE`."""
