"""A real Chromium, one for all tests of a process: a test gets pages of its own in it, and leaves none behind."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from support.browsing import FLAGS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have all tests with a browser run in one event loop: a browser is of the loop in which it was started."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield found
        await found.close()


@pytest_asyncio.fixture(loop_scope="session")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """Nothing in it is known from an earlier test: every context has cookies and stores of its own."""
    yield chromium
    for context in chromium.contexts:
        await context.close()
