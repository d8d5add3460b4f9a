"""SIGTERM while PostgreSQL does not answer: clients are told, and the process is gone in time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from securechat.sdk.client import ChatClient
from securechat.sdk.pins import PinStore
from support.postgres import Postgres, running
from support.running import RunningServer, wait_until_async

GRACE_S = 10.0


@pytest.fixture(name="postgres", scope="module")
def _postgres() -> Iterator[Postgres]:
    with running() as found:
        yield found


async def test_a_server_whose_database_hangs_ends_in_time_and_what_waited_is_stored_once(
    tmp_path: Path, postgres: Postgres
) -> None:
    server = RunningServer(tmp_path / "data", settings={"database_url": postgres.url(postgres.new_database())}).start()
    room_id = server.room("ops")
    async with ChatClient(server.url, server.bot("one", room_id), pins=PinStore(None)) as client:
        room = await client.room(room_id)
        await room.send("stored")
        with postgres.hanging():
            sending = asyncio.create_task(room.send("on its way"))
            await wait_until_async(lambda: client.outbox.waiting == 1, "the message waits")
            assert server.process is not None
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.process.wait, 60)
            took = time.monotonic() - began
        assert "server draining" in server.log
        server.stop()
        server.start()
        sent = await asyncio.wait_for(sending, 30)
        page = await room.page()
    server.stop()

    print(f"ended in {took:.1f} s")
    assert took < GRACE_S
    assert [entry.seq for entry in page.entries if entry.body == "on its way"] == [sent.seq]
