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
from securechat.server.workers import Workers


def run(config: Path | None, flags: dict[str, Any], *, workers: int = 1, worker: int | None = None) -> None:
    """Serve until asked to stop.

    Args:
        config: The file.
        flags: Settings of the command line.
        workers: How many processes serve; more than one are the children of this one.
        worker: Which child this one is.
    """
    manager = ConfigManager(config, flags)

    async def serve() -> None:
        if workers > 1 and worker is None:
            await Workers(manager.settings, _command(config, flags, workers), workers).run()
        else:
            await Server(manager, _announce, worker=worker, workers=workers).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _command(config: Path | None, flags: dict[str, Any], workers: int) -> list[str]:
    """Return what starts a worker; its number is missing at the end."""
    command = [sys.executable, "-m", "securechat", "serve", *(["--config", str(config)] if config else [])]
    for name, value in flags.items():
        if value is not None:
            command += [f"--{'data' if name == 'data_dir' else name.replace('_', '-')}", str(value)]
    return [*command, "--workers", str(workers), "--worker"]


def _announce(text: str) -> None:
    say(text)
    sys.stdout.flush()
