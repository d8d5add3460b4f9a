"""Supervisor: work in the background that nobody waits for does not end without a word.

What breaks is logged and begun again, with more patience each time. What breaks again and again ends the process: readiness turns
red, connections are drained, and whoever started the server (systemd, a container) starts it anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from securechat.errors import Shutdown

log = logging.getLogger(__name__)

DEATHS_MAX: Final = 5
"""So many within `WINDOW_S` are too many."""
WINDOW_S: Final = 60.0
FIRST_PAUSE_S: Final = 0.5
"""Before work is begun again; doubled with each death within the window."""


class Supervisor:
    """Runs work, and begins it again when it breaks. One of the few places that catch whatever comes.

    Args:
        give_up: Gets the name of the work that broke too often.
        clock: Seconds, for the window.
    """

    def __init__(self, give_up: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._give_up = give_up
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()  # Strong references: the loop keeps only weak ones.

    def supervise(self, name: str, work: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
        """Run `work` until it returns or the task is cancelled; call it again after it broke."""
        task = asyncio.create_task(self._keep(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()

    async def _keep(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        deaths: deque[float] = deque()
        while True:
            try:
                await work()
            except (Exception, Shutdown):  # `Shutdown` is for a command line; from a task it would end the loop.
                log.exception("work in the background broke", extra={"work": name})
            else:
                return
            now = self._clock()
            deaths.append(now)
            while now - deaths[0] > WINDOW_S:
                deaths.popleft()
            if len(deaths) >= DEATHS_MAX:
                log.critical("work in the background breaks again and again", extra={"work": name, "deaths": len(deaths)})
                self._give_up(name)
                return
            await asyncio.sleep(FIRST_PAUSE_S * 2 ** (len(deaths) - 1))
