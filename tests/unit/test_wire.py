"""Wire, Publisher and Subscriber: at once, in nobody's way whatever happens to the connection, and what nobody knows of is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from redis.exceptions import InvalidResponse, ResponseError

from securechat.bus import publisher as publisher_module
from securechat.bus import subscriber as subscriber_module
from securechat.bus.publisher import Publisher, Traffic
from securechat.bus.subscriber import Subscriber
from securechat.bus.wire import TURN, Wire


class Connection(asyncio.Protocol):
    """Stands for one of redis-py, its stream, its transport and the protocol that it had before."""

    def __init__(self) -> None:
        self._writer = self.transport = self
        self.protocol: Any = self
        self.written: list[bytes] = []
        self.closing = self.paused = False
        self.was_lost: list[Exception | None] = []

    def pack_command(self, *words: bytes) -> list[bytes]:
        return [b" ".join(words)]

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.written += pieces

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.was_lost.append(exc)


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
async def ended() -> asyncio.Future[Exception]:
    return asyncio.get_running_loop().create_future()


# ── Wire ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_answers_are_taken_when_they_are_whole_and_in_the_turn_they_come(
    connection: Connection, ended: asyncio.Future[Exception]
) -> None:
    took: list[Any] = []
    Wire(connection, took.append, ended)
    connection.protocol.data_received(b":1\r\n*2\r\n$3\r\none\r\n$5\r\nt")
    assert took == [1]
    connection.protocol.data_received(b"hree\r\n#f\r\n>1\r\n+push\r\n")
    assert took == [1, [b"one", b"three"], False, [b"push"]]
    assert not ended.done()


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"-MOVED 5 1.2.3.4:6379\r\n:1\r\n", ResponseError), (b"what?\r\n", InvalidResponse)],
    ids=["refused", "garbage"],
)
async def test_an_error_ends_it_and_what_comes_after_is_not_taken(
    connection: Connection, ended: asyncio.Future[Exception], data: bytes, error: type[Exception]
) -> None:
    took: list[Any] = []
    wire = Wire(connection, took.append, ended)
    connection.protocol.data_received(data)
    assert type(ended.result()) is error
    assert connection.closing
    assert not took
    assert not wire.send(b"PING")
    assert not connection.written


@pytest.mark.parametrize("error", [OSError("reset"), None], ids=["reset", "closed"])
async def test_whoever_waits_hears_that_it_was_lost_and_redis_py_too(
    connection: Connection, ended: asyncio.Future[Exception], error: Exception | None
) -> None:
    Wire(connection, lambda _: None, ended)
    connection.protocol.connection_lost(error)
    assert isinstance(ended.result(), OSError)
    assert connection.was_lost == [error], "closing it would wait for ever"


async def test_one_that_is_closed_already_is_none(connection: Connection, ended: asyncio.Future[Exception]) -> None:
    connection.abort()
    with pytest.raises(ConnectionError):
        Wire(connection, lambda _: None, ended)
    assert connection.protocol is connection


# ── Publisher ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_it_leaves_at_once_and_is_counted_when_it_was_answered(
    connection: Connection, ended: asyncio.Future[Exception]
) -> None:
    traffic = Traffic()
    publisher = Publisher(connection, traffic, ended)
    publisher.put(b"c", b"one")
    publisher.put(b"c", b"four")
    assert connection.written == [b"SPUBLISH c one", b"SPUBLISH c four"]
    connection.protocol.data_received(b":2\r\n")
    assert (traffic.sent, traffic.sent_bytes) == (1, 3)
    assert not publisher.idle.is_set()
    connection.protocol.data_received(b">1\r\n+notice\r\n:2\r\n")
    assert (traffic.sent, traffic.sent_bytes, traffic.dropped) == (2, 7, 0)
    assert publisher.idle.is_set()


async def test_a_connection_that_is_gone_drops_and_raises_nothing(connection: Connection, ended: asyncio.Future[Exception]) -> None:
    traffic = Traffic()
    publisher = Publisher(connection, traffic, ended)
    connection.abort()
    publisher.put(b"c", b"one")
    assert traffic.dropped == 1
    assert publisher.idle.is_set()


async def test_what_is_too_much_is_dropped_until_there_are_answers(
    connection: Connection, ended: asyncio.Future[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "WAITING_BYTES", 10)
    traffic = Traffic()
    publisher = Publisher(connection, traffic, ended)
    for _ in range(3):
        publisher.put(b"c", b"12345")
    assert (len(connection.written), traffic.dropped) == (2, 1)
    connection.protocol.data_received(b":2\r\n")
    publisher.put(b"c", b"12345")
    assert (len(connection.written), traffic.dropped) == (3, 1)


async def test_an_answer_that_does_not_come_is_told_and_counted(
    connection: Connection, ended: asyncio.Future[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = Traffic()
    publisher = Publisher(connection, traffic, ended)
    publisher.put(b"c", b"one")
    publisher.look()
    monkeypatch.setattr(publisher_module, "ANSWER_S", -1.0)
    with pytest.raises(TimeoutError):
        publisher.look()
    publisher.close()
    assert (traffic.sent, traffic.dropped) == (0, 1)
    assert publisher.idle.is_set(), "who leaves would wait for it"
    publisher.look()


# ── Subscriber ───────────────────────────────────────────────────────────────────────────────────────────────────────


def subscriber_of(
    connection: Connection, ended: asyncio.Future[Exception]
) -> tuple[Subscriber, list[tuple[bytes, bytes]], Traffic]:
    heard: list[tuple[bytes, bytes]] = []
    traffic = Traffic()
    return (
        Subscriber(connection, [b"a", b"b"], lambda channel, message: heard.append((channel, message)), traffic, ended),
        heard,
        traffic,
    )


@pytest.mark.parametrize("kind", [b"*", b">"], ids=["RESP2", "RESP3"])
async def test_it_hears_what_is_said_on_its_channels(connection: Connection, ended: asyncio.Future[Exception], kind: bytes) -> None:
    subscriber, heard, traffic = subscriber_of(connection, ended)
    assert connection.written == [b"SSUBSCRIBE a", b"SSUBSCRIBE b"]
    connection.protocol.data_received(kind + b"3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n")
    connection.protocol.data_received(kind + b"3\r\n$8\r\nsmessage\r\n$1\r\na\r\n$3\r\none\r\n")
    assert not subscriber.subscribed.done()
    connection.protocol.data_received(kind + b"3\r\n$10\r\nssubscribe\r\n$1\r\nb\r\n:2\r\n")
    assert subscriber.subscribed.done()
    assert heard == [(b"a", b"one")]
    assert traffic.received == 1


async def test_a_channel_that_moved_ends_it(connection: Connection, ended: asyncio.Future[Exception]) -> None:
    subscriber_of(connection, ended)
    connection.protocol.data_received(b"*3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:0\r\n")
    assert ended.done()
    assert connection.closing


async def test_silence_is_told(connection: Connection, ended: asyncio.Future[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    subscriber, _, _ = subscriber_of(connection, ended)
    subscriber.look()
    monkeypatch.setattr(subscriber_module, "SILENCE_S", 0.05)
    while asyncio.get_running_loop().time() - subscriber._heard_at <= subscriber_module.SILENCE_S:
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        subscriber.look()
    connection.protocol.data_received(b"*3\r\n$8\r\nsmessage\r\n$1\r\na\r\n$3\r\none\r\n")
    subscriber.look()


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_to_what_was_given_up_is_passed_over(connection: Connection, ended: asyncio.Future[Exception]) -> None:
    traffic = Traffic()
    publisher = Publisher(connection, traffic, ended)
    publisher.put(b"c", b"one")
    publisher.close()
    connection.protocol.data_received(b":2\r\n")
    assert (traffic.sent, traffic.dropped) == (0, 1)
    assert not ended.done()


async def test_a_mistake_of_who_takes_it_ends_it_and_is_told(
    connection: Connection, ended: asyncio.Future[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(_answer: object) -> None:
        raise KeyError("a mistake")

    Wire(connection, mistaken, ended)
    connection.protocol.data_received(b":1\r\n:2\r\n")
    assert isinstance(ended.result(), ConnectionError)
    assert connection.closing
    assert len(caplog.records) == 1


async def test_others_have_their_turn_between_very_many_and_no_more_is_read_meanwhile(
    connection: Connection, ended: asyncio.Future[Exception]
) -> None:
    took: list[int] = []
    Wire(connection, took.append, ended)
    numbers = range(2 * TURN + 50)
    data = b"".join(b":%d\r\n" % number for number in numbers)
    connection.protocol.data_received(data[:-1])
    assert len(took) == TURN
    assert connection.paused
    connection.protocol.data_received(data[-1:])  # What was on its way.
    assert len(took) == TURN
    await asyncio.sleep(0)
    assert len(took) == 2 * TURN
    await asyncio.sleep(0)
    assert took == list(numbers)
    assert not connection.paused


async def test_what_a_link_says_first_is_told_to_nobody(connection: Connection, ended: asyncio.Future[Exception]) -> None:
    _, heard, traffic = subscriber_of(connection, ended)
    connection.protocol.data_received(b"*3\r\n$8\r\nsmessage\r\n$1\r\na\r\n$0\r\n\r\n")
    assert not heard
    assert traffic.received == 0
