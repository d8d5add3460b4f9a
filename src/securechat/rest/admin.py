"""Administration: any command as the operator, metrics, deep health. Only on the admin socket or listener, never public."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from securechat.domain.accounts import OPERATOR
from securechat.domain.secret import mask_hook
from securechat.errors import ChatError, Internal, ProtocolViolation
from securechat.ops.health import Health
from securechat.ops.metrics import MetricsCollector
from securechat.protocol import frames as f
from securechat.protocol.handler import BadFrame, server_side
from securechat.services.dispatcher import CommandDispatcher

log = logging.getLogger(__name__)

_encode: Final = msgspec.json.Encoder().encode
Reload = Callable[[], list[str]]
"""Read the configuration again; returns what changed, raises `ChatError` when it is broken."""


class AdminApp:
    """What the operator's command line talks to.

    Args:
        dispatcher: Commands.
        metrics: For Prometheus.
        health: Deep health.
        settings: What holds now, for `config explain`; None on a listener, which is for scraping and takes no commands.
    """

    def __init__(
        self,
        dispatcher: CommandDispatcher,
        metrics: MetricsCollector,
        health: Health,
        *,
        settings: Callable[[], Any] | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._health = health
        routes = [
            Route("/metrics", self._metrics_text),
            Route("/healthz", self._alive),
            Route("/readyz", self._ready),
        ]
        if settings is not None:
            routes.append(Route("/command", self._command, methods=["POST"]))
            routes.append(Route("/settings", self._tell_settings))
        self._settings = settings or dict
        self.asgi: ASGIApp = Starlette(routes=routes)

    async def _metrics_text(self, _request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _alive(self, _request: Request) -> Response:
        return Response(b'{"alive":true}', media_type="application/json")

    async def _ready(self, _request: Request) -> Response:
        readiness = await self._health.readiness(in_words=True)
        return Response(_encode(readiness), status_code=200 if readiness.ready else 503, media_type="application/json")

    async def _tell_settings(self, _request: Request) -> Response:
        return Response(msgspec.json.encode(self._settings(), enc_hook=mask_hook), media_type="application/json")

    async def _command(self, request: Request) -> Response:
        """Take one frame, answer one frame: as on the gateway."""
        try:
            (frame,) = server_side().receive(b"[" + await request.body() + b"]", text=True)
        except (ProtocolViolation, ValueError):
            return Response(b"not one frame", status_code=400)
        if isinstance(frame, BadFrame):
            return Response(_encode(f.error_frame(frame.id, frame.error)), media_type="application/json")
        answer: Any
        try:
            answer = f.Reply(id=frame.id, data=await self._dispatcher.perform(OPERATOR, frame, "local"))
        except ChatError as error:
            answer = f.error_frame(frame.id, error)
        except Exception:
            log.exception("operator's command failed")
            answer = f.error_frame(frame.id, Internal())
        return Response(_encode(answer), media_type="application/json")
