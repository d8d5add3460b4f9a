"""Asking: how a command gets its reply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

from securechat.domain import commands as c
from securechat.sdk.outbox import Outbox

R = TypeVar("R")


class Asking(ABC):
    """Whoever can ask the server.

    Attributes:
        outbox: What waits to be sent.
    """

    outbox: Outbox

    @abstractmethod
    async def call(self, command: c.Command) -> Any:
        """Send a command and return its reply."""

    async def ask(self, command: c.Command, reply: type[R]) -> R:
        """Do as `call`, for a reply of a known type."""
        found = await self.call(command)
        if not isinstance(found, reply):
            raise TypeError(f"{type(found).__name__} came, and not {reply.__name__}")
        return found
