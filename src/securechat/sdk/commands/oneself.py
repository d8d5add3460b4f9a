"""Oneself: one's name, one's devices, and the commands that one answers as a bot."""

from __future__ import annotations

from collections.abc import Iterable

from securechat.domain import commands as c
from securechat.domain.accounts import Device
from securechat.sdk.commands.asking import Asking


class OwnCommands(Asking):
    """Commands for oneself."""

    async def me(self) -> c.Identity:
        """Return who one is, and on which device."""
        return await self.ask(c.Me(), c.Identity)

    async def update_me(self, display_name: str) -> c.Identity:
        """Change one's own display name (1 to 64 characters), and return who one is now.

        Raises:
            InvalidInput: Empty, too long, or with characters that cannot be seen.
        """
        return await self.ask(c.UserUpdate(display_name=display_name), c.Identity)

    async def list_devices(self) -> list[Device]:
        """Return one's own signed-in devices, newest first; `current` is this one."""
        return (await self.ask(c.DeviceList(), c.Devices)).devices

    async def revoke_device(self, device_id: str) -> None:
        """Sign one of one's own devices out; its connections are closed at once.

        Raises:
            NotFound: No such device of one's own.
            Forbidden: A bot has no devices to choose from.
        """
        await self.call(c.DeviceRevoke(device=device_id))

    async def end_session(self) -> None:
        """End the session of this device on the server. `ChatClient.log_out` also forgets the stored tokens."""
        await self.call(c.SessionDelete())

    async def set_commands(self, commands: Iterable[c.BotCommand]) -> None:
        """As a bot: replace the list of commands that one answers, at most 100.

        Raises:
            Forbidden: One is not a bot.
            InvalidInput: Two have the same name, or a name has other characters than a–z, 0–9, `_` and `-`.
        """
        await self.call(c.CommandSet(commands=list(commands)))
