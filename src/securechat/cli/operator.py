"""The operator's door: through the admin socket while a server runs, else directly under the data folder's lock."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec

from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR, User
from securechat.domain.secret import encode_hook
from securechat.errors import NotFound, Shutdown
from securechat.ops.health import Readiness
from securechat.protocol.frames import ErrorFrame, Reply
from securechat.sdk.errors import to_error
from securechat.server.datadir import DataDir


def data_root(given: str | None) -> Path:
    """Return the data folder: the flag, `SECURECHAT_DATA_DIR`, or the default."""
    return Path(given or os.environ.get("SECURECHAT_DATA_DIR", "./securechat-data"))


class Running(msgspec.Struct):
    """The settings of a running server: key → value, secrets masked; key → where it comes from."""

    settings: dict[str, Any]
    origin: dict[str, str]


def running_settings(root: Path) -> Running | None:
    """Return the settings of the server that runs on a data folder; None when none does."""
    socket = DataDir(root).admin_socket
    if not socket.exists():
        return None
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=60) as http:
            answer = http.get("http://admin/settings")
    except httpx.ConnectError:
        return None  # Left behind by a server that was killed.
    if answer.status_code != httpx.codes.OK:
        raise Shutdown("The running server is of another version and does not tell its settings.")
    return msgspec.json.decode(answer.content, type=Running)


def readiness(root: Path) -> Readiness | None:
    """Return what the server that runs on a data folder says of itself and of what it depends on; None when none does."""
    socket = DataDir(root).admin_socket
    if not socket.exists():
        return None
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=10) as http:
            return msgspec.json.decode(http.get("http://admin/readyz").content, type=Readiness)
    except (httpx.TransportError, msgspec.DecodeError):
        return None  # Left behind by a server that was killed; or it does not answer, which its other commands tell.


class Operator:
    """Performs commands on one data folder.

    Args:
        root: The data folder.

    Attributes:
        is_running: Whether a server performed the last command.

    Raises:
        Shutdown: There is nothing in it.
    """

    is_running = False

    def __init__(self, root: Path) -> None:
        self._data = DataDir(root)
        if not self._data.has_data:
            raise Shutdown(f"There is no SecureChat data in {root}. Start the server once, or give --data.")

    def perform(self, command: c.Command) -> Any:
        """Perform one command and return its reply.

        Raises:
            ChatError: It was refused.
            Shutdown: Neither the socket nor the folder can be used.
        """
        reply = self._through_socket(command)
        self.is_running = reply is not None
        if reply is None:
            return asyncio.run(self._directly(command))
        return reply

    def user(self, username: str) -> User:
        """Find an account by exact username.

        Raises:
            NotFound: There is none.
        """
        name = username.removeprefix("@").lower()
        after = ""
        while True:
            page: c.UserPage = self.perform(c.UserList(cursor=after, limit=200))
            for user in page.users:
                if name in {user.username, user.id}:
                    return user
            if page.next_cursor is None:
                raise NotFound(f"No user {username}.")
            after = page.next_cursor

    def room_id(self, name: str) -> str:
        """Find a room by id or, among public rooms, by name.

        Raises:
            NotFound: There is none.
            Ambiguous: Several fit.
        """
        if name.startswith("rm_"):
            return name
        return str(self.perform(c.RoomLookup(name=name)).id)

    def _through_socket(self, command: c.Command) -> Any:
        if not self._data.admin_socket.exists():
            return None
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(self._data.admin_socket)), timeout=600) as http:
                answer = http.post("http://admin/command", content=msgspec.json.encode(command, enc_hook=encode_hook))
        except httpx.ConnectError:
            return None  # Left behind by a server that was killed.
        frame = msgspec.json.decode(answer.content, type=Reply | ErrorFrame)
        if isinstance(frame, ErrorFrame):
            raise to_error(frame)
        return msgspec.convert(frame.data, c.REPLIES[type(command)])

    async def _directly(self, command: c.Command) -> Any:
        # The server's code is slow to load and needed only here.
        from securechat.server.config import ConfigManager  # noqa: PLC0415
        from securechat.server.wiring import build  # noqa: PLC0415

        config = ConfigManager(None, {"data_dir": str(self._data.root)})
        self._data.open()
        try:
            settings = config.settings
            parts = await build(
                lambda: settings,
                self._data,
                lambda: settings.public_url or f"http://localhost:{settings.http_port or settings.port}",
            )
            try:
                return await parts.dispatcher.perform(OPERATOR, command, "local")
            finally:
                await parts.auditor.settle()
                await parts.database.close()
                parts.passwords.close()
        finally:
            self._data.close()
