"""A server in this process, without TLS and with everything in reach of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from securechat.gateway.listener import Listener
from securechat.server.config import Settings
from securechat.server.datadir import DataDir
from securechat.server.wiring import Parts, build


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Parts, int]]:
    """Serve the gateway on loopback from a data folder; give the server's parts and the port."""
    data = DataDir(folder)
    data.open()
    settings = Settings(data_dir=str(folder))
    parts = await build(lambda: settings, data, lambda: "")
    listener = Listener(None, parts.gateway, frozenset)
    try:
        yield parts, await listener.listen("127.0.0.1", 0, None)
    finally:
        listener.stop_accepting()
        parts.gateway.abort()
        while parts.gateway.connections:
            await asyncio.sleep(0)
        await parts.database.close()
        parts.passwords.close()
        parts.session_layer.admission.close()
        data.close()
