"""The parent of several processes on one port."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from securechat.domain.secret import Secret
from securechat.server.config import Settings
from securechat.server.workers import Workers
from support.ports import free_port

CHILD = """
import os, pathlib, sys
folder, number = pathlib.Path(sys.argv[1]), sys.argv[2]
(folder / ("admin.sock" if number == "0" else f"admin-{number}.sock")).touch()
(folder / f"pid-{number}").write_text(str(os.getpid()))
sys.stdin.read()
"""


def workers(folder: Path) -> Workers:
    settings = Settings(
        data_dir=str(folder), database_url=Secret("postgresql://nowhere"), redis_url=Secret("redis://nowhere"), port=free_port(),
        http_port=0, redirect_port=0,
    )  # fmt: skip
    return Workers(settings, [sys.executable, "-c", CHILD, str(folder)], 2)


def pid(folder: Path, number: int) -> int:
    try:
        return int((folder / f"pid-{number}").read_text())
    except (OSError, ValueError):
        return 0


async def changes(folder: Path, number: int, before: int) -> int:
    async with asyncio.timeout(20):
        while (found := pid(folder, number)) in {0, before}:
            await asyncio.sleep(0.01)
    return found


async def test_every_worker_that_is_killed_is_started_again_the_first_one_too(tmp_path: Path) -> None:
    running = asyncio.create_task(workers(tmp_path).run())
    first = [await changes(tmp_path, number, 0) for number in (0, 1)]
    os.kill(first[0], signal.SIGKILL)
    assert await changes(tmp_path, 0, first[0])
    assert pid(tmp_path, 1) == first[1]
    os.kill(first[1], 0)
    os.kill(os.getpid(), signal.SIGTERM)
    await running
