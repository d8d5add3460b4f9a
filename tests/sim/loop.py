"""Virtual time: one timeline, and on it an event loop for each simulated process.

Nothing waits: when nobody can run, time jumps to the next timer. When there is no timer either, nobody will ever run again, and that
is told. A process can be ended at any step of its loop: what it had planned is gone, no `finally` of it is heard of any more.
"""

from __future__ import annotations

import asyncio
import heapq
import warnings
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from sim.chance import clocks

Stall = tuple[float, float]
"""(until it begins, until it is told): seconds that a thread takes."""
STEPS_MAX: Final = 2_000_000
"""More steps than any run takes: past it something runs in circles without time passing."""

CLOSES_MAX: Final = 100


class Deadlock(Exception):
    """Nobody will ever run again."""


class Timeline:
    """Whose turn it is, and what time it is.

    Args:
        begins: The time at the beginning, in seconds.
    """

    def __init__(self, begins: float = 1_000.0) -> None:
        clocks.now = begins
        clocks.offset = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._number = 0
        self.steps = 0

    @property
    def now(self) -> float:
        """Seconds."""
        return clocks.now

    def soon(self, handle: asyncio.Handle) -> None:
        """Run it after everything that is ready."""
        self._ready.append(handle)

    def at(self, handle: asyncio.TimerHandle) -> None:
        """Run it when its time has come."""
        self._number += 1
        heapq.heappush(self._timers, (max(handle.when(), clocks.now), self._number, handle))

    def run(self, until: Callable[[], bool], within_s: float) -> bool:
        """Run until a condition holds, or this much time has passed; return whether it holds.

        Raises:
            Deadlock: Nobody will ever run again.
        """
        end = clocks.now + within_s
        ready, timers = self._ready, self._timers
        current: ProcessLoop | None = None
        try:
            while True:
                while ready:
                    handle = ready.popleft()
                    loop: ProcessLoop = handle._loop  # type: ignore[attr-defined]
                    if handle.cancelled() or loop.dead:
                        continue
                    if loop.frozen is not None:
                        loop.frozen.append(handle)
                        continue
                    if loop is not current:
                        current = loop
                        events._set_running_loop(loop)
                        clocks.offset = loop.offset
                    handle._run()
                    self.steps += 1
                    loop.steps += 1
                    if loop.steps == loop.ends_at:
                        loop.on_end()
                    if self.steps > STEPS_MAX:
                        raise Deadlock("it runs in circles")
                if until():
                    return True
                while timers and (timers[0][2].cancelled() or timers[0][2]._loop.dead):  # type: ignore[attr-defined]
                    heapq.heappop(timers)
                if not timers:
                    raise Deadlock("nobody will ever run again")
                if timers[0][0] > end:
                    clocks.now = end
                    return until()
                when, _, timer = heapq.heappop(timers)
                clocks.now = max(clocks.now, when)
                ready.append(timer)
        finally:
            events._set_running_loop(None)
            clocks.offset = 0.0


_Base: Any = asyncio.AbstractEventLoop
"""Half of it is about sockets and processes, which there are none of here."""


class ProcessLoop(_Base):  # type: ignore[misc]
    """The event loop of one simulated process.

    Args:
        timeline: Shared by all.

    Attributes:
        dead: Whether the process has ended.
        offset: What its wall clock is ahead.
        steps: How many there were.
        ends_at: `on_end` is called after this step.
        on_end: Ends the process.
        frozen: What waits because the process stands still; None when it does not.
        problems: What nobody caught.
        work: Does what was handed to a thread, in place of calling it: it may take time, or fail.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.dead = False
        self.offset = 0.0
        self.steps = 0
        self.frozen: list[asyncio.Handle] | None = None
        self.ends_at = -1
        self.on_end: Callable[[], None] = lambda: None
        self.problems: list[str] = []
        self.takes: Callable[[Any], Stall] = lambda _function: (0.0, 0.0)
        self.work: Callable[[Callable[[], Any]], Any] = lambda function: function()
        self._free_at: dict[Any, float] = {}
        self._signals: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self._handler: Callable[[Any, dict[str, Any]], object] | None = None
        self.tasks: dict[asyncio.Task[Any], None] = {}

    # ── what asyncio asks for ────────────────────────────────────────────────────────────────────────────────────────

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.dead:
            self._timeline.soon(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        return self.call_at(clocks.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.dead:
            self._timeline.at(handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing to do: it is passed over when its time comes."""

    def time(self) -> float:
        return clocks.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None) -> Any:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.dead

    def set_exception_handler(self, handler: Any) -> None:
        self._handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.dead:
            return  # What is left of a process that ended says nothing any more.
        if self._handler is None:
            self.default_exception_handler(context)
        else:
            self._handler(self, context)

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        self._signals[sig] = (callback, args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self._signals.pop(sig, None) is not None

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Hand something to a thread: it is done a moment later, and told another moment later. One thread does one at a time."""
        future = self.create_future()
        before, after = self.takes(func)
        starts = clocks.now
        if executor is not None and getattr(executor, "_max_workers", 1) == 1:
            starts = max(starts, self._free_at.get(executor, 0.0))
            self._free_at[executor] = starts + before
        self.call_at(starts + before, self._do, future, func, args, after)
        return future

    def _do(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...], after: float) -> None:
        try:
            outcome: Any = self.work(lambda: func(*args))
            failed = False
        except Exception as error:  # noqa: BLE001 - as a thread does: whoever waits gets it
            outcome, failed = error, True
        self.call_later(after, self._told, future, outcome, failed)

    @staticmethod
    def _told(future: asyncio.Future[Any], outcome: Any, failed: bool) -> None:  # noqa: FBT001
        if future.done():
            return
        if failed:
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    # ── what the simulation does to it ───────────────────────────────────────────────────────────────────────────────

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        callback, args = self._signals[number]
        self.call_soon(callback, *args)

    def freeze(self) -> None:
        """Stop the process, as SIGSTOP does: nothing of it runs, and time goes on."""
        if self.frozen is None:
            self.frozen = []

    def thaw(self) -> None:
        """Have it go on."""
        waiting, self.frozen = self.frozen or [], None
        for handle in waiting:
            self._timeline.soon(handle)

    def kill(self) -> None:
        """End the process now: nothing of it runs any more, and nothing that is cleaned up afterwards matters to anybody."""
        self.dead = True
        self.frozen = None
        running = events._get_running_loop()
        events._set_running_loop(self)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What had not begun is never awaited.
            for task in list(self.tasks):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
        self.tasks.clear()
        events._set_running_loop(running)


def _close(coroutine: Any) -> None:
    """Close a coroutine, however often it awaits something while it is closed."""
    for _ in range(CLOSES_MAX):
        try:
            coroutine.close()
        except RuntimeError:
            continue
        return
    raise AssertionError(f"{coroutine} cannot be closed")
