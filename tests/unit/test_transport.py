"""The SDK's transport, where no connection comes about."""

from __future__ import annotations

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from securechat.sdk import transport
from securechat.sdk.pins import PinStore
from securechat.sdk.sealing import Sealing
from securechat.sdk.transport import HINT_S, Closed, Transport

URL = "https://chat.example.org"


@pytest.mark.parametrize(
    ("told", "stays_away_s"),
    [
        ({"Retry-After": "7"}, 7),
        ({}, 0),
        ({"Retry-After": "86400"}, HINT_S),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "²"}, 0),
    ],
)
async def test_who_is_refused_stays_away_for_as_long_as_is_told(
    told: dict[str, str], stays_away_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **_also: object) -> None:
        raise InvalidStatus(Response(429, "Too Many Requests", Headers(told)))

    monkeypatch.setattr(transport, "connect", refused)
    with pytest.raises(Closed) as closed:
        await Transport.open(URL, None, Sealing(URL, "preferred", PinStore(None)))
    assert closed.value.wait_s == stays_away_s
