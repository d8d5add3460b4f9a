"""Answers: the frames of one client that wait for theirs, by id."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from securechat.sdk.errors import ConnectionLost


class Answers:
    """What was asked and is not answered. Ids are never used twice by one client."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Any]] = {}

    def new_id(self, prefix: str = "") -> str:
        """Return an id for a frame."""
        return f"{prefix}{next(self._ids)}"

    @contextmanager
    def expected(self, prefix: str = "") -> Iterator[tuple[str, asyncio.Future[Any]]]:
        """Give an id for a frame, and its answer: what the block waits for."""
        frame_id = self.new_id(prefix)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[frame_id] = answer
        try:
            yield frame_id, answer
        finally:
            self._waiting.pop(frame_id, None)

    def __contains__(self, frame_id: str) -> bool:
        """Return whether somebody waits for the answer to a frame."""
        return frame_id in self._waiting

    def take(self, frame_id: str, data: Any) -> None:
        """Hand an answer to whoever waits for it, if anybody does; an exception is raised there."""
        answer = self._waiting.get(frame_id)
        if answer is None or answer.done():
            return
        if isinstance(data, Exception):
            answer.set_exception(data)
        else:
            answer.set_result(data)

    def lose(self) -> None:
        """The connection is over: no answer comes any more, and nobody knows what became of what was asked."""
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionLost("The connection was lost before the answer came."))
