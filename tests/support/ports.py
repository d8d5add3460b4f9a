"""Ports for servers that a test starts itself, also when several workers test side by side."""

from __future__ import annotations

import itertools
import os
import socket
from typing import Final

_FIRST: Final = 12_000
_PER_WORKER: Final = 2_000
_worker: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw8").removeprefix("gw"))
# Another run on the same machine begins somewhere else.
_numbers: Final = itertools.count(os.getpid() * 7)


def free_port() -> int:
    """Return a port that nobody listens on, below those that the kernel gives to outgoing connections.

    A client that tries again and again at a port of the kernel's range can meet itself there while the server is down. Every worker
    has numbers of its own, and gives each of them again only after all others.
    """
    for _ in range(_PER_WORKER):
        port = _FIRST + (_worker % 9) * _PER_WORKER + next(_numbers) % _PER_WORKER
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")
