from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from support.raw_socket import RawSocket

Open = Callable[[int], Awaitable[RawSocket]]


@pytest.fixture
async def attach() -> AsyncIterator[Open]:
    """Open connections by hand that are ended with the test."""
    opened: list[RawSocket] = []

    async def open_one(port: int) -> RawSocket:
        opened.append(await RawSocket.open(port, limit=2**20))
        return opened[-1]

    yield open_one
    for each in opened:
        each.end()
        await each.gone()
