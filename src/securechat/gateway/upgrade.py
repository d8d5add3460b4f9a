"""From HTTP to WebSocket: how an upgrade is refused, and the protocol (picows) that takes the transport over when it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from picows import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSAutoPingStrategy, WSProtocol  # type: ignore[attr-defined]  # public class, absent from the stubs

from securechat.domain.limits import LIMITS

log = logging.getLogger(__name__)

HEAD_S: Final = 5.0
"""A request head has to be there within this time."""
_READ_BYTES: Final = 4 * 1024

Admit = Callable[[WSUpgradeRequest], WSUpgradeResponseWithListener]
"""Accepts or refuses an upgrade, before anything is allocated for it."""


class _Quiet:
    """A logger for picows: it makes one logger per connection of a real one, and logs what clients do wrong."""

    def isEnabledFor(self, _level: int) -> bool:  # noqa: N802 - the name is the library's
        return False

    def info(self, *_values: object) -> None:
        """Say nothing."""

    log = debug = warning = error = info

    def exception(self, *values: object) -> None:
        """Pass on what is our own mistake."""
        log.error("gateway callback failed: %s", values[0] if values else "", exc_info=True)  # noqa: LOG014 - picows calls this while it handles the exception


_quiet: Final = _Quiet()


def websocket_protocol(admit: Admit) -> Any:
    """Return the protocol of one connection, as picows makes it."""
    return WSProtocol(
        host_port=None,
        ws_path=None,
        is_client_side=False,
        ws_listener_factory=admit,
        logger=_quiet,
        disconnect_on_exception=True,
        websocket_handshake_timeout=HEAD_S,
        enable_auto_ping=False,  # `look_after` pings all connections without a task for each
        auto_ping_idle_timeout=0,
        auto_ping_reply_timeout=0,
        auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
        enable_auto_pong=False,  # a ping is a sign of life, so `ClientConnection` answers it
        max_frame_size=LIMITS.websocket_message_bytes,
        extra_headers=None,
        read_buffer_init_size=_READ_BYTES,
    )


def feed(protocol: Any, data: bytes) -> None:
    """Give a protocol of picows what was read before it was there."""
    while data:
        buffer = protocol.get_buffer(-1)
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        data = data[size:]
        protocol.buffer_updated(size)


def refusal(status: HTTPStatus, retry_after_ms: int = 1_000) -> WSUpgradeResponseWithListener:
    """Return the answer to an upgrade that is refused; where waiting helps, with when to come back, in whole seconds."""
    wait = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
    headers = {"Retry-After": str(-(-retry_after_ms // 1_000))} if status in wait else {}
    if status is HTTPStatus.UPGRADE_REQUIRED:
        headers["Sec-WebSocket-Version"] = "13"
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(status, status.phrase.encode(), headers), None)
