"""Post: one delivery, within bounds. No redirects, no proxies of the environment, no cookies; of the answer, the status alone."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

import httpx2 as httpx

from securechat.webhooks.gate import Gate, Place, Refused, Unreachable, place_of

DEADLINE_S: Final = 10.0
"""Seconds for one delivery: the name, the connection, TLS, the request, the answer."""
CLOSE_S: Final = 1.0
ANSWER_MAX: Final = 16_384
"""Bytes of an answer that are read, so that the connection can be used again."""
AGAIN: Final = frozenset({408, 425, 429})
"""Of 4xx, those that say: later."""


class Result(StrEnum):
    """What became of a delivery."""

    OK = "ok"
    RETRY = "retry"
    """It may work later."""
    DEAD = "dead"
    """It will not."""
    GONE = "gone"
    """The target wants nothing any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a delivery, why in words, and the HTTP status; 0 when no answer came."""

    result: Result
    reason: str = ""
    status: int = 0


class Target:
    """A connection to one target, opened when it is first needed; it goes to the address that was looked at, and to no other.

    Args:
        url: Where to.
        gate: Says whether.
        tls: Whom we believe; None for the authorities that browsers believe.
        turn: Which of its addresses is taken, so that the next try takes the next one.
        deadline_s: Seconds for one delivery.
    """

    def __init__(
        self, url: str, gate: Gate, tls: ssl.SSLContext | None = None, *, turn: int = 0, deadline_s: float = DEADLINE_S
    ) -> None:
        self._url = url
        self._gate = gate
        self._tls = tls
        self._turn = turn
        self._deadline_s = deadline_s
        self._place: Place | None = None
        self._base = ""
        self._client: httpx.AsyncClient | None = None

    async def post(self, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Deliver once. Never raises for what the target does."""
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._post(headers, body)
        except TimeoutError:
            return Outcome(Result.RETRY, f"no answer within {self._deadline_s:g} s")
        except (Refused, Unreachable) as error:
            return Outcome(Result.RETRY, str(error))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ssl.SSLError) as error:
            return Outcome(Result.RETRY, _words_of(error))

    async def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            with contextlib.suppress(TimeoutError, httpx.HTTPError, OSError):
                async with asyncio.timeout(CLOSE_S):
                    await self._client.aclose()

    async def _post(self, headers: Mapping[str, str], body: bytes) -> Outcome:
        client, place = await self._open()
        request = client.build_request(
            "POST", self._base + place.path, content=body,
            headers={
                **headers, "Host": place.authority, "Content-Type": "application/json", "Accept-Encoding": "identity",
                "User-Agent": "SecureChat",
            },
            timeout=self._deadline_s, extensions={"sni_hostname": place.host},
        )  # fmt: skip
        answer = await client.send(request, stream=True)
        try:
            read = 0
            async for chunk in answer.aiter_raw():
                read += len(chunk)
                if read > ANSWER_MAX:
                    break  # Closed, and opened anew for the next one.
        finally:
            await answer.aclose()
        return _judged(answer.status_code)

    async def _open(self) -> tuple[httpx.AsyncClient, Place]:
        if self._client is None or self._place is None:
            place = place_of(self._url)
            addresses = await self._gate.addresses(place)
            address = addresses[self._turn % len(addresses)]
            host = f"[{address}]" if ":" in address else address
            self._place, self._base = place, f"{place.scheme}://{host}:{place.port}"
            # A client for each target: a pool tells connections apart by address, and would mix up the names behind one.
            self._client = httpx.AsyncClient(
                verify=self._tls or _browsers_tls(), trust_env=False, follow_redirects=False,
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            )  # fmt: skip
        return self._client, self._place


@cache
def _browsers_tls() -> ssl.SSLContext:
    """Return one context for all targets: the authorities take some milliseconds to read."""
    return httpx.create_ssl_context()


def _judged(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(Result.OK, status=status)
    if status == httpx.codes.GONE:
        return Outcome(Result.GONE, "the target answered 410: it wants nothing any more", status)
    if status >= 500 or status in AGAIN:
        return Outcome(Result.RETRY, f"the target answered {status}", status)
    if 300 <= status < 400:
        return Outcome(Result.DEAD, f"the target answered {status}: redirects are not followed", status)
    return Outcome(Result.DEAD, f"the target refused it with {status}", status)


def _words_of(error: Exception) -> str:
    """Return what went wrong, without what the target said of itself."""
    text = str(error).lower()
    if isinstance(error, ssl.SSLError) or "certificate" in text or "ssl" in text or "tls" in text:
        return "the target's certificate does not hold, or TLS failed"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "the target takes no connection"
    return "the connection broke"
