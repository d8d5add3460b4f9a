"""The plain listener of a server with a real domain: it answers a certificate authority and sends everybody else to HTTPS."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

CHALLENGE_PATH: Final = "/.well-known/acme-challenge/"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SAFE_TARGET: Final = re.compile(rb"[!-~]{0,8000}")
"""Printable ASCII: nothing that could end a header."""
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_HEADERS: Final = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class ToHttps:
    """An ASGI application that shows nothing without TLS.

    Args:
        names: Domains of this server; the first one is where people without a known name are sent.
        base: The URL of a domain's TLS listener, without a path.
        answers: HTTP-01: token → key authorisation, at this moment.
        local: Answers those who come by a loopback name; None: they are sent away, too.
    """

    def __init__(
        self,
        names: list[str],
        base: Callable[[str], str],
        answers: Callable[[], dict[str, str]],
        local: ASGIApp | None = None,
    ) -> None:
        self._names = names
        self._base = base
        self._answers = answers
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        host = _host(scope)
        if self._local is not None and host in _LOOPBACK:
            await self._local(scope, receive, send)
        elif scope["path"].startswith(CHALLENGE_PATH) and scope["method"] in {"GET", "HEAD"}:
            token = scope["path"].removeprefix(CHALLENGE_PATH)
            answer = self._answers().get(token) if _TOKEN.fullmatch(token) else None
            if answer is None:
                await _respond(send, 404, b"There is no such challenge.\n")
            else:
                await _respond(send, 200, answer.encode(), content_type=b"application/octet-stream")
        elif scope["method"] in {"GET", "HEAD"}:
            await _respond(send, 308, b"Use HTTPS.\n", location=self._location(host, scope))
        else:
            # What came with it has been seen by everybody on the way: a redirect would hide the mistake.
            await _respond(send, 403, b"This port is not encrypted. Use HTTPS, and change what you have just sent.\n")

    def _location(self, host: str, scope: Scope) -> bytes:
        """Only to our own names, whatever the request says its host is."""
        base = self._base(host if host in self._names else self._names[0]).encode()
        target = scope.get("raw_path") or b"/"
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        if not target.startswith(b"/") or not _SAFE_TARGET.fullmatch(target):
            target = b"/"
        return base + target


def _host(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"host":
            host: str = value.decode("latin-1").lower()
            return host if host.endswith("]") else re.sub(r":[0-9]*$", "", host).rstrip(".")
    return ""


async def _respond(send: Send, status: int, body: bytes, *, content_type: bytes = b"text/plain", location: bytes = b"") -> None:
    headers = [*_HEADERS, (b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    if location:
        headers.append((b"location", location))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
