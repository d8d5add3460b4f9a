"""Who else may act for one: accounts at other providers, apps, personal tokens."""

from __future__ import annotations

from collections.abc import Iterable

from securechat.domain import commands as c
from securechat.domain.secret import Secret
from securechat.sdk.commands.asking import Asking


class AppCommands(Asking):
    """Commands for accounts at other providers, for apps and for tokens."""

    async def list_externals(self) -> list[c.ExternalAccount]:
        """Return the accounts at providers by which one signs in."""
        return (await self.ask(c.ExternalList(), c.ExternalAccounts)).externals

    async def begin_external(self, provider: str, *, origin: str = "") -> c.ProviderStart:
        """Begin to link an account at a provider: a browser goes to `url`, and comes back to `origin` or the server's own URL.

        Raises:
            ConfirmationRequired: `confirm` first.
            NotFound: There is no such provider.
            Unavailable: It does not answer.
        """
        return await self.ask(c.ExternalBegin(provider=provider, origin=origin), c.ProviderStart)

    async def add_external(self, provider: str, ticket: str, *, state: str, code: str, iss: str = "") -> list[c.ExternalAccount]:
        """Link the account with which the browser came back: `state`, `code` and `iss` stand in its address.

        Raises:
            Forbidden: It does not belong to the ticket, or took longer than ten minutes.
            Unauthorized: The provider's answer does not hold.
            Conflict: It is linked already.
        """
        command = c.ExternalAdd(provider=provider, ticket=ticket, state=state, code=Secret(code), iss=iss)
        return (await self.ask(command, c.ExternalAccounts)).externals

    async def remove_external(self, external_id: str) -> list[c.ExternalAccount]:
        """Unlink an account at a provider, and return those that are left.

        Raises:
            ConfirmationRequired: `confirm` first.
            NotFound: It is not linked to one's own.
            Conflict: It is the only way in.
        """
        return (await self.ask(c.ExternalRemove(external=external_id), c.ExternalAccounts)).externals

    async def get_consent(self, request: c.ConsentGet) -> c.Consent:
        """Return what an app asks for: fill in what stands in its address, or only `user_code` for a device.

        Raises:
            NotFound: There is no such app, or no device waits with this code.
            InvalidInput: The app asks for something else than it is registered for.
        """
        return await self.ask(request, c.Consent)

    async def give_consent(self, request: c.ConsentGive) -> str:
        """Let an app in, or not; return where the browser goes with the answer, empty for a device.

        Raises:
            ConfirmationRequired: It is a yes: `confirm` first.
            NotFound, InvalidInput: As in `get_consent`.
        """
        return (await self.ask(request, c.ConsentAnswer)).url

    async def list_grants(self) -> list[c.Grant]:
        """Return the apps that one has let in, newest first."""
        return (await self.ask(c.GrantList(), c.Grants)).grants

    async def revoke_grant(self, app_id: str) -> None:
        """Let an app out; its connections are closed at once.

        Raises:
            NotFound: One has not let it in.
        """
        await self.call(c.GrantRevoke(app=app_id))

    async def create_token(self, name: str, scopes: Iterable[str], *, expires_days: int = 90) -> c.TokenCreated:
        """Make a personal token; `secret` is shown this once.

        Args:
            name: What it is for, at most 64 characters.
            scopes: What it may do: `profile`, `rooms:read`, `rooms:write`, `messages:read`, `messages:write`.
            expires_days: 1 to 365.

        Raises:
            ConfirmationRequired: `confirm` first.
            InvalidInput: There is no such scope.
            Conflict: There are 50 already.
        """
        return await self.ask(c.TokenCreate(name=name, scopes=list(scopes), expires_days=expires_days), c.TokenCreated)

    async def list_tokens(self) -> list[c.PersonalToken]:
        """Return one's personal tokens that hold, newest first."""
        return (await self.ask(c.TokenList(), c.PersonalTokens)).tokens

    async def revoke_token(self, token_id: str) -> None:
        """End a personal token; its connections are closed at once.

        Raises:
            NotFound: No such token of one's own.
        """
        await self.call(c.TokenRevoke(token=token_id))

    async def create_app(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        redirect_uris: Iterable[str] = (),
        confidential: bool = False,
        device_flow: bool = False,
    ) -> c.AppCreated:
        """Register an app that people can let in; the secret of a confidential one is shown this once.

        Args:
            name: What people are shown, at most 64 characters.
            scopes: The most that it may ask for.
            redirect_uris: Where browsers are sent back to: https, or a scheme of the app's own; compared letter by letter.
            confidential: Whether it can keep a secret.
            device_flow: Whether it may ask without a browser.

        Raises:
            InvalidInput: A redirect address or a scope is none.
            Forbidden: Only an administrator may do this.
        """
        command = c.AppCreate(
            name=name, scopes=list(scopes), redirect_uris=list(redirect_uris), confidential=confidential, device_flow=device_flow
        )
        return await self.ask(command, c.AppCreated)

    async def list_apps(self) -> list[c.App]:
        """Return all registered apps, by name.

        Raises:
            Forbidden: Only an administrator may do this.
        """
        return (await self.ask(c.AppList(), c.Apps)).apps

    async def delete_app(self, app_id: str) -> None:
        """Remove an app; its sessions end with everybody, and its connections are closed at once.

        Raises:
            NotFound: There is no such app.
            Forbidden: Only an administrator may do this.
        """
        await self.call(c.AppDelete(app=app_id))
