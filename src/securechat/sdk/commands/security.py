"""One's own security: password and second factors."""

from __future__ import annotations

from typing import Any

from securechat.domain import commands as c
from securechat.domain.secret import Secret
from securechat.sdk.commands.asking import Asking


class SecurityCommands(Asking):
    """Commands for the ways in which one signs in."""

    async def confirm(
        self, password: str = "", *, code: str = "", ticket: str = "", credential: dict[str, Any] | None = None
    ) -> None:
        """Show that it is still oneself. Everything below asks for it when one authenticated more than ten minutes ago.

        Args:
            password: One's password; or
            ticket: That of `Entrance.passkey_challenge`, with `credential`.
            code: Six digits or a recovery code, where there is a second factor.
            credential: What WebAuthn answered, in its JSON form.

        Raises:
            Forbidden: Wrong.
            SecondFactorRequired: A code is wanted besides, or is wrong.
        """
        await self.call(c.SessionConfirm(password=Secret(password), code=Secret(code), ticket=ticket, credential=credential or {}))

    async def change_password(self, current: str, password: str) -> None:
        """Change one's password (8 to 1,024 characters); all other sessions end.

        Raises:
            Forbidden: The current one is wrong.
            ConfirmationRequired: `confirm` first.
        """
        await self.call(c.PasswordChange(current=Secret(current), password=Secret(password)))

    async def list_factors(self) -> c.Factors:
        """Return one's own second factors."""
        return await self.ask(c.FactorList(), c.Factors)

    async def begin_totp(self) -> c.TotpSecret:
        """Return a secret for an authenticator app; `confirm_totp` turns it on, within ten minutes.

        Raises:
            Conflict: There is one already.
            ConfirmationRequired: `confirm` first.
        """
        return await self.ask(c.TotpBegin(), c.TotpSecret)

    async def confirm_totp(self, ticket: str, code: str) -> list[str]:
        """Turn the authenticator app on, and return recovery codes, shown this once; none when there were some.

        Raises:
            InvalidInput: The code is wrong.
            Forbidden: It took too long.
            ConfirmationRequired: `confirm` first.
        """
        return (await self.ask(c.TotpConfirm(ticket=ticket, code=Secret(code)), c.RecoveryCodes)).recovery_codes

    async def remove_totp(self) -> None:
        """Turn the authenticator app off.

        Raises:
            NotFound: There is none.
            Conflict: One's role must have a second factor, and this is the last one.
            ConfirmationRequired: `confirm` first.
        """
        await self.call(c.TotpRemove())

    async def begin_passkey(self) -> c.PasskeyOptions:
        """Return what WebAuthn's `create` needs; `add_passkey` takes its answer, within ten minutes.

        Raises:
            Conflict: There are too many, or the server is reached by an address and has no name.
            ConfirmationRequired: `confirm` first.
        """
        return await self.ask(c.PasskeyBegin(), c.PasskeyOptions)

    async def add_passkey(self, ticket: str, credential: dict[str, Any], *, name: str = "") -> list[str]:
        """Add a passkey (its name has at most 64 characters), and return recovery codes as `confirm_totp` does.

        Raises:
            Forbidden: It is not what was asked for, or it took too long.
            ConfirmationRequired: `confirm` first.
        """
        return (await self.ask(c.PasskeyAdd(ticket=ticket, credential=credential, name=name), c.RecoveryCodes)).recovery_codes

    async def remove_passkey(self, passkey_id: str) -> None:
        """Remove a passkey of one's own.

        Raises:
            NotFound: No such passkey.
            Conflict: One's role must have a second factor, and this is the last one.
            ConfirmationRequired: `confirm` first.
        """
        await self.call(c.PasskeyRemove(passkey=passkey_id))

    async def create_recovery_codes(self) -> list[str]:
        """Return new recovery codes, shown this once; the earlier ones end.

        Raises:
            Conflict: There is no second factor.
            ConfirmationRequired: `confirm` first.
        """
        return (await self.ask(c.RecoveryCreate(), c.RecoveryCodes)).recovery_codes
