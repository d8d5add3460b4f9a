"""Outgoing: requests to other providers, within bounds.

https only, one deadline for all of it, no redirects, no proxies of the environment, and an answer that is small JSON or nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2 as httpx
import msgspec

from securechat.domain.secret import Secret
from securechat.errors import Unavailable

DEADLINE_S: Final = 10.0
"""Seconds for a whole request and its answer."""
ANSWER_MAX: Final = 262_144
"""Bytes of an answer."""
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def is_allowed(url: str, *, insecure: bool) -> bool:
    """Return whether a URL may be asked: https, or with `insecure` http to this very machine; no name and password in it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment:
        return False
    return parts.scheme == "https" or (insecure and parts.scheme == "http" and host in LOOPBACK)


class Outgoing:
    """Asks one provider.

    Args:
        insecure: Whether http to this machine is allowed, for tests.
        ca: File of a CA of the provider's own; empty for the system's.
    """

    def __init__(self, *, insecure: bool = False, ca: str = "") -> None:
        self._insecure = insecure
        self._ca = ca

    async def get(self, url: str) -> dict[str, Any]:
        """Return the JSON object at a URL.

        Raises:
            Unavailable: It did not come, or is something else.
        """
        status, found = await self._ask("GET", url)
        if status != httpx.codes.OK or found is None:
            raise Unavailable("The sign-in provider does not answer as it should. Try again in a moment.")
        return found

    async def post(
        self, url: str, form: Mapping[str, str], *, user: str = "", password: Secret | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Send a form and return (status, the JSON object that came back, empty for anything else).

        Args:
            url: Where to.
            form: Its fields.
            user: For Basic authentication, already in the form that RFC 6749 2.3.1 wants.
            password: For that, the same.

        Raises:
            Unavailable: No answer came.
        """
        auth = None if password is None else httpx.BasicAuth(user, password.reveal())
        status, found = await self._ask("POST", url, form=form, auth=auth)
        return status, found or {}

    async def _ask(
        self, method: str, url: str, *, form: Mapping[str, str] | None = None, auth: httpx.BasicAuth | None = None
    ) -> tuple[int, dict[str, Any] | None]:
        if not is_allowed(url, insecure=self._insecure):
            raise Unavailable("The sign-in provider names an address that is not https.")
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "SecureChat"}
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=self._ca) if self._ca else True
        try:
            async with (
                asyncio.timeout(DEADLINE_S),
                httpx.AsyncClient(verify=verify, trust_env=False, follow_redirects=False, timeout=DEADLINE_S) as http,
                http.stream(method, url, data=form, auth=auth, headers=headers) as answer,
            ):
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise Unavailable("The sign-in provider answers in a form that was not asked for.")
                body = bytearray()
                async for chunk in answer.aiter_raw():
                    body += chunk
                    if len(body) > ANSWER_MAX:
                        raise Unavailable("The sign-in provider answers with too much.")
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ssl.SSLError) as error:
            raise Unavailable("The sign-in provider cannot be reached. Try again in a moment.") from error
        try:
            found = msgspec.json.decode(bytes(body))
        except msgspec.DecodeError:
            return status, None
        return status, found if isinstance(found, dict) else None
