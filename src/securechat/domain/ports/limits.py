"""Limits that servers share. See `securechat.domain.ports`."""

from __future__ import annotations

from typing import NamedTuple


class Spend(NamedTuple):
    """Tokens that a server took from a bucket that all servers share.

    Attributes:
        what: The bucket's name.
        who: Whose it is.
        cost: How many.
        burst: What it holds when it is full.
        per_s: What comes back each second.
    """

    what: str
    who: str
    cost: float
    burst: float
    per_s: float


class Failure(NamedTuple):
    """A change of the number of failures in a row that all servers share.

    Attributes:
        what: What is throttled.
        who: By what it is counted.
        change: 1: one more; -1: it was none; 0: forget them all.
    """

    what: str
    who: str
    change: int
