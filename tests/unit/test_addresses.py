"""Addresses: what may stand in `redis_url`."""

from __future__ import annotations

import pytest

from securechat.bus.addresses import addresses_of, mistake_of


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("redis://one", [("one", 6379)]),
        ("rediss://user:p%40ss@one:7000?ssl_ca_certs=/etc/ca.crt", [("one", 7000)]),
        ("redis+cluster://one:1,two,[::1]:3", [("one", 1), ("two", 6379), ("::1", 3)]),
        ("rediss+cluster://user:pass@one:1,two:2/0", [("one", 1), ("two", 2)]),
        ("REDIS+cluster://u:p@[::2]?ssl_ca_certs=/a,b@c", [("::2", 6379)]),
    ],
)
def test_what_is_right(url: str, addresses: list[tuple[str, int]]) -> None:
    assert addresses_of(url) == addresses
    assert not mistake_of(url)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://one", "is wanted"),
        ("redis://", "is wanted"),
        ("redis+cluster://one,", "is wanted"),
        ("redis://one:70000", "Port"),
        ("redis://one:x", "Port"),
        ("redis://one,two", "cluster"),
        ("redis://[::1", "IPv6"),
        ("redis+cluster://one,[::1", "IPv6"),
        ("one:6379", "is wanted"),
    ],
)
def test_what_is_wrong(url: str, told: str) -> None:
    assert told in mistake_of(url)
