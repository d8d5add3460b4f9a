"""Addresses: what a URL of Redis says. Without redis-py, which takes memory, and few need it."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

SINGLE: Final = ("redis", "rediss")
CLUSTER: Final = ("redis+cluster", "rediss+cluster")
PORT: Final = 6379

Address = tuple[str, int]


def mistake_of(url: str) -> str:
    """Return what is wrong with a URL of Redis, or nothing."""
    try:
        addresses = addresses_of(url)
    except ValueError as error:
        return f"{error}"
    if urlsplit(url).scheme not in {*SINGLE, *CLUSTER} or not all(host for host, _ in addresses):
        return "redis://HOST:PORT is wanted, or rediss://, redis+cluster://, rediss+cluster://"
    if len(addresses) > 1 and urlsplit(url).scheme in SINGLE:
        return "several addresses are for a cluster: redis+cluster://, rediss+cluster://"
    return ""


def addresses_of(url: str) -> list[Address]:
    """Return the addresses that a URL names, separated by commas; an empty host where there is none.

    Raises:
        ValueError: A port is no port.
    """
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    parts = [urlsplit(f"//{host}") for host in hosts]
    return [(part.hostname or "", part.port or PORT) for part in parts]
