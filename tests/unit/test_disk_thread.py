"""DiskThread: one after the other, to the end, whoever is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from securechat.store.disk_thread import DiskThread


@pytest.fixture
def thread() -> Iterator[DiskThread]:
    made = DiskThread("test-disk")
    yield made
    made.close()


async def test_things_are_done_in_their_order_in_one_thread(thread: DiskThread) -> None:
    done: list[tuple[int, str]] = []
    await asyncio.gather(
        *(thread.to_the_end(lambda n=n: done.append((n, threading.current_thread().name))) for n in range(20))  # type: ignore[misc]
    )
    assert done == [(n, "test-disk") for n in range(20)]


async def test_what_breaks_is_raised_and_the_thread_goes_on(thread: DiskThread) -> None:
    def breaks() -> None:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        await thread.to_the_end(breaks)
    done: list[int] = []
    await thread.to_the_end(lambda: done.append(1))
    assert done == [1]


async def test_who_is_cancelled_more_than_once_waits_for_the_end_all_the_same(thread: DiskThread) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(10)
        ended.set()

    waiting = asyncio.create_task(thread.to_the_end(slow))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


async def test_closing_waits_for_what_is_under_way() -> None:
    thread = DiskThread("test-disk")
    ended = threading.Event()
    work = thread.submit(ended.set)
    thread.close()
    assert ended.is_set()
    assert await work is None


def test_a_loop_that_is_gone_does_not_end_the_thread(thread: DiskThread) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(10)

    async def leave() -> None:
        thread.submit(slow)
        await asyncio.to_thread(begun.wait, 10)

    asyncio.run(leave())
    go.set()
    done: list[int] = []
    asyncio.run(thread.to_the_end(lambda: done.append(1)))
    assert done == [1]
