"""What becomes of errors that nobody caught."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from securechat.gateway.acceptor import quiet_about_strangers


async def _nothing() -> None:
    pass


async def _heard(**context: Any) -> bool:
    """Return whether it is told."""
    told: list[Any] = []
    loop: Any = SimpleNamespace(default_exception_handler=told.append)
    quiet_about_strangers(loop, context)
    return bool(told)


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), ConnectionResetError])
async def test_a_broken_connection_of_a_stranger_is_no_line_in_the_log(error: object) -> None:
    assert not await _heard(message="Fatal error on transport", exception=error, transport=object())


async def test_a_name_that_is_not_found_when_nobody_waits_for_it_any_more_is_none_either() -> None:
    lookup = asyncio.get_running_loop().create_future()
    assert not await _heard(message="Future exception was never retrieved", exception=socket.gaierror(-3, "later"), future=lookup)


async def test_everything_else_is_told() -> None:
    task = asyncio.create_task(_nothing())
    await task
    future = asyncio.get_running_loop().create_future()

    assert await _heard(message="Task exception was never retrieved", exception=socket.gaierror(-3, "later"), future=task)
    assert await _heard(message="Future exception was never retrieved", exception=ValueError("ours"), future=future)
    assert await _heard(message="Exception in callback", exception=socket.gaierror(-3, "later"))
