"""`securechat serve`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvloop

from securechat.cli.output import say
from securechat.server.config import ConfigManager
from securechat.server.server import Server


def run(config: Path | None, flags: dict[str, Any]) -> None:
    """Serve until asked to stop."""
    manager = ConfigManager(config, flags)

    async def serve() -> None:
        await Server(manager, _announce).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _announce(text: str) -> None:
    say(text)
    sys.stdout.flush()
