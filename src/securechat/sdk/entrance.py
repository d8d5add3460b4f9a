"""Entrance: what somebody who is not signed in can ask a server for. Over REST; no connection is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from securechat.domain import commands as c
from securechat.domain.secret import Secret
from securechat.errors import GrantRefused
from securechat.sdk.errors import ConnectionLost
from securechat.sdk.pins import PinStore, default_store
from securechat.sdk.profile import TERMINAL, Profile, ask_as_app, ask_openly, check_url, save_profile, tls_context
from securechat.sdk.sealing import Sealing, host_of
from securechat.sdk.transport import Closed, Transport

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"


class Entrance:
    """The way in.

    Every method raises `ChatError` when the server refuses (`RateLimited` after too many attempts) and `OSError` when it cannot be
    reached. What else can happen is said at each.

    Args:
        url: The server, `https://…`; `http://` for this machine only.
        ca: A CA's certificate, for a server with its own CA.
        pins: Ids of the server's keys, in hex, as `sdk.pins.pins_of` reads them from a link.

    Raises:
        ValueError: This is no URL of a server, or an unprotected one.
    """

    def __init__(self, url: str, *, ca: str = "", pins: Sequence[str] = ()) -> None:
        self.url = check_url(url)
        self.ca = ca
        self.pins = list(pins)

    async def check_server(self) -> None:
        """Make sure that the server has one of the keys that were given; without any, do nothing.

        To be asked before a secret is sent. What follows here goes over REST, which only TLS protects.

        Raises:
            Untrusted: It has another one, or does not seal.
            ConnectionLost: It does not answer.
        """
        if not self.pins:
            return
        sealing = Sealing(self.url, "required", PinStore(None), self.pins)
        try:
            await (await Transport.open(self.url, tls_context(self.url, self.ca), sealing)).close()
        except Closed as error:
            raise ConnectionLost(f"{self.url} does not answer: {error}") from error

    async def set_up(
        self, token: str, username: str, password: str, *, display_name: str = "", server_name: str = "", device_name: str = ""
    ) -> c.Session:
        """Create the first account, the owner's, and sign in.

        Args:
            token: What stands after `t=` in the link that the server printed.
            username: 2 to 32 of a–z, 0–9, `.`, `_`, `-`.
            password: 8 to 1,024 characters.
            display_name: At most 64 characters; the username otherwise.
            server_name: What people will call this server, at most 64 characters.
            device_name: How this device is listed, at most 64 characters.

        Raises:
            LinkInvalid: The link was used, or is too old.
            InvalidInput: A name or the password is out of bounds.
        """
        command = c.SetupComplete(
            token=Secret(token),
            username=username,
            password=Secret(password),
            display_name=display_name,
            server_name=server_name,
            device_name=device_name,
        )
        return await self._session(command)

    async def see_invite(self, code: str) -> c.Invitation:
        """Return what an invitation is for: the server's name, who invites, into which rooms.

        Raises:
            LinkInvalid: It does not work (any more).
        """
        found: c.Invitation = await ask_openly(self.url, c.InviteGet(code=Secret(code)), self.ca)
        return found

    async def register(
        self, code: str, username: str, password: str, *, display_name: str = "", device_name: str = ""
    ) -> c.Session:
        """Create an account with an invitation's code (empty where registration is open), and sign in. Bounds as in `set_up`.

        Raises:
            RegistrationClosed: It needs an invitation.
            LinkInvalid: The invitation does not work (any more).
            NameTaken: Somebody has this username; the invitation keeps its use.
            InvalidInput: A name or the password is out of bounds.
        """
        command = c.AccountRegister(
            code=Secret(code), username=username, password=Secret(password), display_name=display_name, device_name=device_name
        )
        return await self._session(command)

    async def log_in(self, username: str, password: str, *, code: str = "", device_name: str = "") -> c.Session:
        """Sign in: a new device, whose name has at most 64 characters.

        Returns:
            The session. With `enrol`, the role wants a second factor and there is none: nothing else is taken before
            `begin_totp` and `confirm_totp`.

        Raises:
            SecondFactorRequired: The password is right; the code (six digits, or a recovery code) is missing or wrong.
            Unauthorized: Wrong; the answer does not say what.
        """
        secret = Secret(password)
        return await self._session(c.SessionCreate(username=username, password=secret, code=Secret(code), device_name=device_name))

    async def passkey_challenge(self) -> c.PasskeyOptions:
        """Return what WebAuthn's `get` needs, for `log_in_by_passkey` or `ChatClient.confirm`; good for ten minutes.

        Raises:
            Conflict: The server is reached by an address and has no name.
        """
        found: c.PasskeyOptions = await ask_openly(self.url, c.PasskeyChallenge(), self.ca)
        return found

    async def log_in_by_passkey(self, ticket: str, credential: dict[str, Any], *, device_name: str = "") -> c.Session:
        """Sign in with WebAuthn's answer, in its JSON form; it is both factors at once.

        Raises:
            Unauthorized: The passkey does not work here; the answer does not say why.
        """
        return await self._session(c.SessionPasskey(ticket=ticket, credential=credential, device_name=device_name))

    async def list_providers(self) -> list[c.SignInProvider]:
        """Return the providers whose accounts open this server."""
        found: c.Providers = await ask_openly(self.url, c.ProviderList(), self.ca)
        return found.providers

    async def begin_provider(self, provider: str, *, origin: str = "") -> c.ProviderStart:
        """Begin to sign in at a provider: a browser goes to `url`, and comes back to `origin` or the server's own URL.

        Raises:
            NotFound: There is no such provider.
            Unavailable: It does not answer.
        """
        found: c.ProviderStart = await ask_openly(self.url, c.ProviderBegin(provider=provider, origin=origin), self.ca)
        return found

    async def finish_provider(self, provider: str, ticket: str, *, state: str, code: str, iss: str = "") -> c.ProviderOutcome:
        """Bring what the browser came back with: `state`, `code` and `iss` stand in its address.

        Raises:
            Forbidden: It does not belong to the ticket, or took longer than ten minutes.
            Unauthorized: The provider's answer does not hold.
        """
        command = c.ProviderFinish(provider=provider, ticket=ticket, state=state, code=Secret(code), iss=iss)
        found: c.ProviderOutcome = await ask_openly(self.url, command, self.ca)
        return found

    async def log_in_by_provider(self, ticket: str, *, code: str = "", device_name: str = "") -> c.Session:
        """Sign in with the ticket of `finish_provider`.

        Raises:
            SecondFactorRequired: The account has a second factor; the code is missing or wrong. The ticket still holds.
            Unauthorized: No account is linked.
        """
        return await self._session(c.SessionProvider(ticket=ticket, code=Secret(code), device_name=device_name))

    async def register_by_provider(
        self, ticket: str, username: str, *, code: str = "", display_name: str = "", device_name: str = ""
    ) -> c.Session:
        """Create an account that the provider's account opens; `code` is an invitation. Bounds as in `set_up`.

        Raises:
            RegistrationClosed: It needs an invitation.
            LinkInvalid: The invitation does not work (any more).
            NameTaken: Somebody has this username.
        """
        command = c.AccountProvider(
            ticket=ticket, username=username, display_name=display_name, code=Secret(code), device_name=device_name
        )
        return await self._session(command)

    async def begin_device(self, *, scope: str = "") -> c.DeviceAuthorization:
        """Ask to be let in as the terminal: somebody opens `verification_uri` and types `user_code`."""
        found: c.DeviceAuthorization = await ask_as_app(self.url, c.OauthDevice(client_id=TERMINAL, scope=scope), self.ca)
        return found

    async def wait_for_device(self, begun: c.DeviceAuthorization) -> c.OauthTokens:
        """Return the tokens once somebody said yes.

        Raises:
            GrantRefused: They said no (`field` is `access_denied`), or nobody did in time (`expired_token`).
        """
        command = c.OauthToken(grant_type=DEVICE_GRANT, client_id=TERMINAL, device_code=Secret(begun.device_code))
        pause = begun.interval
        while True:
            await asyncio.sleep(pause)
            try:
                found: c.OauthTokens = await ask_as_app(self.url, command, self.ca)
            except GrantRefused as error:
                if error.field == "slow_down":
                    pause += 5
                elif error.field != "authorization_pending":
                    raise
            else:
                return found

    async def keep_tokens(self, tokens: c.OauthTokens, path: Path | None = None) -> Profile:
        """As `keep`, for what `wait_for_device` returned."""
        me: c.Identity = await ask_openly(self.url, c.Me(), self.ca, token=tokens.access_token)
        profile = Profile(
            url=self.url, username=me.user.username, device=me.device, refresh_token=tokens.refresh_token, ca=self.ca, app=TERMINAL
        )
        save_profile(profile, path)
        return profile

    async def begin_totp(self, session: c.Session) -> c.TotpSecret:
        """As `ChatClient.begin_totp`, for a session that has to enrol before anything else."""
        found: c.TotpSecret = await ask_openly(self.url, c.TotpBegin(), self.ca, token=session.access_token)
        return found

    async def confirm_totp(self, session: c.Session, ticket: str, code: str) -> list[str]:
        """As `ChatClient.confirm_totp`, for a session that has to enrol before anything else."""
        command = c.TotpConfirm(ticket=ticket, code=Secret(code))
        found: c.RecoveryCodes = await ask_openly(self.url, command, self.ca, token=session.access_token)
        return found.recovery_codes

    async def refresh(self, refresh_token: str) -> c.Session:
        """Exchange a refresh token for the next one and a new access token. `ChatClient` does this by itself for a kept profile.

        Raises:
            Unauthorized: The session has ended, or the token was used before, which ends it.
        """
        return await self._session(c.SessionRefresh(refresh_token=Secret(refresh_token)))

    async def reset_password(self, token: str, password: str) -> None:
        """Set a new password (8 to 1,024 characters) with what stands after `t=` in a reset link; all sessions end.

        Raises:
            LinkInvalid: The link was used, or is too old.
            InvalidInput: The password is out of bounds; the link still works.
        """
        await ask_openly(self.url, c.PasswordReset(token=Secret(token), password=Secret(password)), self.ca)

    def keep(self, session: c.Session, path: Path | None = None) -> Profile:
        """Write a session to the profile that `ChatClient.connect` and the terminal use, mode 0600, and return it.

        Keys that were given are kept as those by which the server is known, unless others are known.
        """
        profile = Profile(
            url=self.url,
            username=session.user.username,
            device=session.device,
            refresh_token=session.refresh_token,
            ca=self.ca,
        )
        save_profile(profile, path)
        default_store(self.url).suggest(host_of(self.url), self.pins)
        return profile

    async def _session(self, command: c.Command) -> c.Session:
        session: c.Session = await ask_openly(self.url, command, self.ca)
        return session
