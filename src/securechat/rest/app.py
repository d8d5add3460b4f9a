"""The ASGI application: REST over the commands, health, docs, the web client."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from securechat.auth.addresses import host_of
from securechat.auth.manager import AuthManager
from securechat.auth.rate_limiter import RateLimiter
from securechat.domain import commands as c
from securechat.domain.accounts import STRANGER, Principal
from securechat.domain.ids import new_id
from securechat.domain.secret import Secret, decode_hook
from securechat.errors import ChatError, Forbidden, Internal, InvalidInput, NotFound, RateLimited, TooDeep, Unauthorized
from securechat.ops.health import Health
from securechat.ops.metrics import Counters
from securechat.protocol import key_list as key_list_module
from securechat.protocol.handler import invalid_input, too_deep
from securechat.rest import docs, oauth
from securechat.rest.body import read_body
from securechat.rest.openapi import Problem, document
from securechat.rest.routes import BASE, ROUTES, Route
from securechat.rest.static import StaticFiles
from securechat.services import costs
from securechat.services.dispatcher import CommandDispatcher

log = logging.getLogger(__name__)

BODY_MAX: Final = 128 * 1024
SESSION_HEADER: Final = "x-securechat-session"
COOKIE_AGE_S: Final = 90 * 86_400
_encode: Final = msgspec.json.Encoder().encode
_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


class RestApp:
    """The handlers behind the routes.

    Args:
        dispatcher: Commands.
        auth: Tokens.
        limiter: For the headers that tell the limits.
        health: For `/healthz` and `/readyz`.
        counters: What is counted.
        static: The web client.
        origins: Origins allowed besides the server's own.
        key_list: The signed list of identity keys, if one is published.
        strict_for: How long browsers remember to use HTTPS only for a host, in seconds; 0: not at all.
        issuer: What apps call the server: its public URL.
    """

    def __init__(
        self,
        dispatcher: CommandDispatcher,
        auth: AuthManager,
        limiter: RateLimiter,
        health: Health,
        counters: Counters,
        static: StaticFiles,
        origins: Callable[[], frozenset[str]],
        key_list: Callable[[], bytes | None],
        strict_for: Callable[[str], int] = lambda _host: 0,
        issuer: Callable[[], str] = str,
    ) -> None:
        self._issuer = issuer
        self._dispatcher = dispatcher
        self._auth = auth
        self._limiter = limiter
        self._health = health
        self._counters = counters
        self._origins = origins
        self._key_list = key_list
        openapi = document()
        self._openapi = _encode(openapi)
        self._docs = docs.page(openapi).encode()
        found: dict[str, dict[str, Route]] = {}
        for route in ROUTES:
            found.setdefault(route.path, {})[route.method] = route
        routes = [
            StarletteRoute(BASE + path, self._at(methods), methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
            for path, methods in found.items()
        ]
        apps = oauth.OAuthDoor(self._perform_openly, lambda request: request.scope[_AUTHORIZATION])
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        self.asgi: ASGIApp = _Borders(
            Starlette(
                routes=[
                    StarletteRoute("/healthz", self._healthz),
                    StarletteRoute("/readyz", self._readyz),
                    StarletteRoute(key_list_module.PATH, self._serve_key_list),
                    StarletteRoute(oauth.METADATA, self._serve_metadata),
                    *[StarletteRoute(path, endpoint, methods=methods) for path, endpoint in apps.endpoints()],
                    StarletteRoute("/api/openapi.json", self._serve_openapi),
                    StarletteRoute("/api/docs", self._serve_docs),
                    StarletteRoute("/api/docs.css", self._serve_docs_style),
                    *routes,
                    StarletteRoute("/api/{rest:path}", _no_such_path, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
                    StarletteRoute("/gateway", _no_such_path),
                    StarletteRoute("/{path:path}", static.respond, methods=["GET"]),
                ],
                exception_handlers={ChatError: _refusal, HTTPException: _http_refusal},
            ),
            counters,
            strict_for,
            self._knock,
        )

    def _at(self, methods: dict[str, Route]) -> Callable[[Request], Awaitable[Response]]:
        allow = ", ".join(sorted(methods))

        async def endpoint(request: Request) -> Response:
            route = methods.get(request.method)
            if route is None:
                problem = InvalidInput(f"This path takes {allow}.")
                return _problem(problem, status=405, headers={"Allow": allow})
            return await self._answer(route, request)

        return endpoint

    async def _answer(self, route: Route, request: Request) -> Response:
        address = request.client.host if request.client else ""
        cookies = route.session and request.headers.get(SESSION_HEADER) == "cookie"
        if cookies:
            self._require_own_origin(request)
        who = STRANGER if route.open else await self._principal(request)
        command = await _read_command(route, request)
        if isinstance(command, c.SessionRefresh) and cookies:
            command.refresh_token = _cookie(request.scope[_COOKIE], _cookie_name(request))
        try:
            reply = await self._dispatcher.perform(who, command, address)
        except Unauthorized:
            self._counters.auth_failures += 1
            raise
        except RateLimited as error:
            return _problem(error, headers=self._limit_headers(who, command, address))
        headers = self._limit_headers(who, command, address)
        response = Response(b"", status_code=route.status, media_type="application/json", headers=headers)
        if cookies:
            reply = _move_token_to_cookie(response, request, reply)
        response.body = _encode(reply)
        response.headers["content-length"] = str(len(response.body))
        return response

    async def _principal(self, request: Request) -> Principal:
        token = _bearer(request.scope[_AUTHORIZATION])
        if not token:
            raise Unauthorized
        try:
            return await self._auth.authenticate(token)
        except Unauthorized:
            self._counters.auth_failures += 1
            raise

    def _require_own_origin(self, request: Request) -> None:
        """A page of another origin cannot set our header without asking first; this is the second lock."""
        origin = request.headers.get("origin")
        if origin is None:
            return
        if origin != f"{request.url.scheme}://{request.headers.get('host', '')}" and origin not in self._origins():
            raise Forbidden("This origin is not allowed.")

    def _limit_headers(self, who: Principal, command: c.Command, address: str) -> dict[str, str]:
        wanted = [(costs.ADDRESS, address)]
        if who.user_id:
            wanted = [*costs.buckets_of(who, is_entry=c.REPLIES[type(command)] is c.Sent), *wanted]
        return self._limiter.headers(wanted, time.monotonic())

    def _knock(self, address: str) -> Response | None:
        """Charge an address for a request before anything is done for it; return the answer when there is nothing left."""
        try:
            self._dispatcher.knock(address)
        except RateLimited as error:
            self._counters.refused += 1
            return _problem(error, headers=self._limiter.headers([(costs.ADDRESS, address)], time.monotonic()))
        return None

    async def _perform_openly(self, command: c.Command, address: str) -> Any:
        return await self._dispatcher.perform(STRANGER, command, address)

    async def _serve_metadata(self, _request: Request) -> Response:
        return Response(_encode(oauth.metadata(self._issuer())), media_type="application/json")

    async def _healthz(self, _request: Request) -> Response:
        return Response(b'{"alive":true}', media_type="application/json")

    async def _readyz(self, _request: Request) -> Response:
        readiness = await self._health.readiness()
        return Response(_encode(readiness), status_code=200 if readiness.ready else 503, media_type="application/json")

    async def _serve_key_list(self, _request: Request) -> Response:
        found = await asyncio.to_thread(self._key_list)
        if found is None:
            raise NotFound("No key list is published.")
        return Response(found, media_type="application/json")

    async def _serve_openapi(self, _request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    async def _serve_docs(self, _request: Request) -> Response:
        policy = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"
        return Response(self._docs, media_type="text/html", headers={"Content-Security-Policy": policy})

    async def _serve_docs_style(self, _request: Request) -> Response:
        return Response(docs.STYLE, media_type="text/css")


async def _refusal(_request: Request, error: Exception) -> Response:
    return _problem(error if isinstance(error, ChatError) else Internal())


async def _http_refusal(_request: Request, error: Exception) -> Response:
    """Put what the framework itself refuses (a method, mostly) into the same form."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _problem(InvalidInput("This path does not take this method."), status=status)


async def _no_such_path(_request: Request) -> Response:
    raise NotFound("There is no such path.")


async def _read_command(route: Route, request: Request) -> c.Command:
    """Put path, query and body together and let the struct judge them."""
    fields: dict[str, Any] = {}
    if route.method in {"GET", "DELETE"}:
        for name, value in request.query_params.multi_items():
            if name in fields:
                raise InvalidInput(f"{name} is given twice.", field=name)
            fields[name] = value
    else:
        fields = await _read_body(request)
    if route.command is c.MessageSend and (key := request.headers.get("idempotency-key")):
        fields.setdefault("cmid", key)
    if "op" in fields or "id" in fields:
        raise InvalidInput("op and id belong to the gateway.", field="op" if "op" in fields else "id")
    fields |= request.path_params
    from_text = route.method in {"GET", "DELETE"} or bool(request.path_params.get("seq"))
    try:
        return msgspec.convert(fields, route.command, strict=not from_text, dec_hook=decode_hook)
    except msgspec.ValidationError as error:
        raise invalid_input(error, route.command) from error


async def _read_body(request: Request) -> dict[str, Any]:
    body = await read_body(request, BODY_MAX)
    if not body:
        return {}
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidInput("Send application/json.")
    if too_deep(body):
        raise TooDeep
    try:
        json.loads(body, object_pairs_hook=_once)  # Only this parser says when a name comes twice; each parser takes another value.
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidInput("The body is not JSON.") from error
    if not isinstance(fields, dict):
        raise InvalidInput("The body is not an object.")
    return fields


def _once(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise InvalidInput("A name is given twice.")


def _cookie_name(request: Request) -> str:
    """Cookies ignore ports, so each listener has its own name."""
    port = request.url.port or (443 if request.url.scheme == "https" else 80)
    return f"__Host-securechat-{port}" if request.url.scheme == "https" else f"securechat-{port}"


def _move_token_to_cookie(response: Response, request: Request, reply: Any) -> Any:
    # The prefix __Host- binds the cookie to this very host, and asks for the path / and Secure.
    secure = request.url.scheme == "https"
    path = "/" if secure else f"{BASE}/sessions"
    attributes: dict[str, Any] = {"path": path, "secure": secure, "httponly": True, "samesite": "strict"}
    if isinstance(reply, c.Session):
        response.set_cookie(_cookie_name(request), reply.refresh_token, max_age=COOKIE_AGE_S, **attributes)
        return msgspec.structs.replace(reply, refresh_token="")
    response.delete_cookie(_cookie_name(request), **attributes)
    return reply


def _problem(error: ChatError, *, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    found = Problem(
        type=f"/api/docs#error-{error.code}",
        title=error.title,
        status=status or error.status,
        code=error.code,
        detail=error.detail,
        retryable=error.retryable,
        field=error.field,
        retry_after_ms=error.retry_after_ms,
        request_id=_request_id.get(),
    )
    headers = headers or {}
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    if error.status == Unauthorized.status:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(_encode(found), status_code=found.status, media_type="application/problem+json", headers=headers)


_AUTHORIZATION: Final = "securechat.authorization"
_COOKIE: Final = "securechat.cookie"


def _seal(scope: Scope) -> Scope:
    """Return the request with what proves who asks taken out of its headers: whoever prints a scope prints no token."""
    taken = {b"authorization": Secret(""), b"cookie": Secret("")}
    kept = []
    for name, value in scope.get("headers", ()):
        if name not in taken:
            kept.append((name, value))
        elif name == b"cookie":  # A client may send several: they are one list.
            taken[name] = Secret(f"{taken[name].reveal()}; {value.decode('latin-1')}")
        elif not taken[name]:
            taken[name] = Secret(value.decode("latin-1"))
    return {**scope, "headers": kept, _AUTHORIZATION: taken[b"authorization"], _COOKIE: taken[b"cookie"]}


def _bearer(header: Secret) -> Secret:
    """Return the token of an Authorization header, or an empty one."""
    scheme, _, token = header.reveal().partition(" ")
    return Secret(token.strip() if scheme.lower() == "bearer" else "")


def _cookie(header: Secret, name: str) -> Secret:
    """Return the value of one cookie, or an empty one."""
    return Secret(cookie_parser(header.reveal()).get(name, ""))


def _shown_path(path: str) -> str:
    """Return a path for the log: on one line, and without the invitation code that some have."""
    return _CODE_IN_PATH.sub(r"\1***", urllib.parse.quote(path))


_CODE_IN_PATH: Final = re.compile(r"(/invites/|^/i/)[^/]+")


class _Borders:
    """Around everything: request id, headers that every answer has, errors → problem+json."""

    def __init__(
        self, app: ASGIApp, counters: Counters, strict_for: Callable[[str], int], knock: Callable[[str], Response | None]
    ) -> None:
        self._app = app
        self._knock = knock
        self._counters = counters
        self._strict_for = strict_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._counters.http_requests += 1
        scope = _seal(scope)
        started = time.perf_counter()
        request_id = new_id("req")
        host = _host(scope)
        token = _request_id.set(request_id)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                message["headers"] += [(name, value) for name, value in _HEADERS if name not in present]
                message["headers"].append((b"x-request-id", request_id.encode()))
                if scope["scheme"] == "https" and host and (seconds := self._strict_for(host)):
                    message["headers"].append((b"strict-transport-security", f"max-age={seconds}".encode()))
            await send(message)

        try:
            refusal = None
            if scope["path"] not in _PROBES:
                refusal = self._knock(scope["client"][0] if scope["client"] else "")
            if host is None and refusal is None:  # What follows would stumble over it.
                refusal = _problem(InvalidInput("The Host header is no host."), status=400)
            await (refusal or self._app)(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = 499
        except Exception:
            # The framework has answered 500 already; a person finds the reason by the request id.
            log.exception("request failed", extra={"request_id": request_id, "path": _shown_path(scope["path"])})
        finally:
            _request_id.reset(token)
            if log.isEnabledFor(logging.DEBUG):
                path = _shown_path(scope["path"])
                duration = round((time.perf_counter() - started) * 1000, 2)
                extra = {"request_id": request_id, "method": scope["method"], "path": path, "status": status, "dur_ms": duration}
                log.debug("request", extra=extra)


def _host(scope: Scope) -> str | None:
    """Return the name in the Host header, without its port; None when it is no host."""
    for name, value in scope["headers"]:
        if name == b"host":
            return host_of(value.decode("latin-1"))
    return ""


_PROBES: Final = frozenset({"/healthz", "/readyz"})
"""Who watches the server has to see it also when somebody floods it from the same address."""
_HEADERS: Final = (
    (b"cache-control", b"no-store, private"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
