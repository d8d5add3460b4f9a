"""Publisher: never in anybody's way, whatever happens to the connection; and what nobody knows of is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from securechat.bus import publisher as publisher_module
from securechat.bus.publisher import Publisher, Traffic


class Connection:
    """Stands for one of redis-py."""

    def __init__(self) -> None:
        self._writer: Any = self
        self.written: list[bytes] = []
        self.answers: asyncio.Queue[object] = asyncio.Queue()

    def pack_command(self, *words: bytes | str) -> list[bytes]:
        return [b" ".join(word.encode() if isinstance(word, str) else word for word in words)]

    def writelines(self, pieces: Sequence[bytes]) -> None:
        self.written += pieces

    async def read_response(self, *, timeout: float) -> object:
        async with asyncio.timeout(timeout):
            answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Closed:
    def writelines(self, pieces: Sequence[bytes]) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")


@pytest.fixture
def connection() -> Connection:
    return Connection()


async def test_it_leaves_at_once_and_is_counted_when_it_was_answered(connection: Connection) -> None:
    traffic = Traffic()
    publisher = Publisher(connection, traffic)
    publisher.put(b"c", b"one")
    publisher.put(b"c", b"four")
    assert connection.written == [b"SPUBLISH c one", b"SPUBLISH c four"]
    assert traffic.sent == 0
    assert not publisher.idle.is_set()

    running = asyncio.create_task(publisher.run())
    connection.answers.put_nowait(2)
    connection.answers.put_nowait(2)
    await publisher.idle.wait()
    assert (traffic.sent, traffic.sent_bytes, traffic.dropped) == (2, 7, 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("writer", [None, Closed()], ids=["none", "closed"])
async def test_a_connection_that_is_gone_drops_and_raises_nothing(connection: Connection, writer: Any) -> None:
    traffic = Traffic()
    publisher = Publisher(connection, traffic)
    connection._writer = writer
    publisher.put(b"c", b"one")
    assert traffic.dropped == 1
    assert publisher.idle.is_set()


async def test_what_is_too_much_is_dropped_until_there_are_answers(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "WAITING_BYTES", 10)
    traffic = Traffic()
    publisher = Publisher(connection, traffic)
    for _ in range(3):
        publisher.put(b"c", b"12345")
    assert (len(connection.written), traffic.dropped) == (2, 1)

    running = asyncio.create_task(publisher.run())
    connection.answers.put_nowait(2)
    connection.answers.put_nowait(2)
    await publisher.idle.wait()
    publisher.put(b"c", b"12345")
    assert (len(connection.written), traffic.dropped) == (3, 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("answer", [ConnectionError("gone"), None], ids=["gone", "silent"])
async def test_who_waits_for_answers_learns_how_it_ended(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, answer: Exception | None
) -> None:
    monkeypatch.setattr(publisher_module, "ANSWER_S", 0.05)
    traffic = Traffic()
    publisher = Publisher(connection, traffic)
    publisher.put(b"c", b"one")
    if answer is not None:
        connection.answers.put_nowait(answer)
    with pytest.raises(TimeoutError if answer is None else ConnectionError):
        await publisher.run()
    publisher.close()
    assert (traffic.sent, traffic.dropped) == (0, 1)
    assert publisher.idle.is_set(), "who leaves would wait for it"
