"""The door for apps: OAuth's endpoints, whose forms and words the standards say, over the same commands."""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from securechat.auth.oauth import GRANTS
from securechat.domain import commands as c
from securechat.domain.scopes import WORDS
from securechat.domain.secret import Secret, decode_hook
from securechat.errors import ChatError, GrantRefused, RateLimited
from securechat.rest.body import read_body
from securechat.rest.routes import FORMS, Route

METADATA: Final = "/.well-known/oauth-authorization-server"
FORM_MAX: Final = 16_384
"""Bytes of a form."""
FIELDS_MAX: Final = 32

Perform = Callable[[c.Command, str], Awaitable[Any]]
"""(command, address) → reply."""


def metadata(issuer: str) -> dict[str, Any]:
    """Return what the server says of itself to apps (RFC 8414)."""
    methods = ["none", "client_secret_basic", "client_secret_post"]
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "device_authorization_endpoint": f"{issuer}/oauth/device",
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "scopes_supported": list(WORDS),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": list(GRANTS),
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_methods_supported": methods,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
    }


class OAuthDoor:
    """Forms → commands → OAuth's JSON.

    Args:
        perform: Performs a command of a stranger.
        authorization: Takes the Authorization header of a request, which is kept apart.
    """

    def __init__(self, perform: Perform, authorization: Callable[[Request], Secret]) -> None:
        self._perform = perform
        self._authorization = authorization

    def endpoints(self) -> list[tuple[str, Callable[[Request], Awaitable[Response]]]]:
        """Return (path, endpoint) of each form."""
        return [(route.path, self._at(route)) for route in FORMS]

    def _at(self, route: Route) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            if request.method != "POST":
                return _refuse(GrantRefused("This path takes POST.", field="invalid_request"), status=405)
            address = request.client.host if request.client else ""
            basic = self._authorization(request)
            try:
                command = await _read(route, request, basic)
                reply = await self._perform(command, address)
            except GrantRefused as error:
                return _refuse(error, basic=bool(basic))
            except RateLimited as error:
                return _refuse(error, status=429)
            except ChatError as error:
                return _refuse(error, status=error.status)
            body = {} if isinstance(reply, c.Done) else reply
            return Response(msgspec.json.encode(body), media_type="application/json", headers={"Pragma": "no-cache"})

        return endpoint


async def _read(route: Route, request: Request, basic: Secret) -> c.Command:
    """Read a form, strictly: each name once, no other encoding, nothing in the address.

    Raises:
        GrantRefused: It is something else.
        InvalidInput: See `read_body`.
        TooLarge: It is too large.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise GrantRefused("Send application/x-www-form-urlencoded.", field="invalid_request")
    if request.scope.get("query_string"):
        raise GrantRefused("Parameters stand in the body, not in the address.", field="invalid_request")
    body = await read_body(request, FORM_MAX)
    try:
        pairs = urllib.parse.parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict", max_num_fields=FIELDS_MAX
        )
    except ValueError as error:
        raise GrantRefused("The body is no form.", field="invalid_request") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise GrantRefused("A parameter is given twice.", field="invalid_request")
    # Empty ones count as left out, and unknown ones are ignored (RFC 6749 3.2).
    known = {info.name for info in msgspec.structs.fields(route.command)} - {"id"}
    fields = {name: value for name, value in fields.items() if value and name in known}
    if basic:
        fields |= _client_of(basic, fields)
    try:
        return msgspec.convert(fields, route.command, dec_hook=decode_hook)
    except msgspec.ValidationError as error:
        raise GrantRefused("A parameter is too long.", field="invalid_request") from error


def _client_of(header: Secret, fields: dict[str, str]) -> dict[str, str]:
    """Return client id and secret of a Basic header, which then stand nowhere else (RFC 6749 2.3)."""
    scheme, _, encoded = header.reveal().partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError(scheme)  # noqa: TRY301 - everything that is wrong with it has one answer
        name, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
        client_id, client_secret = urllib.parse.unquote_plus(name), urllib.parse.unquote_plus(secret)
    except (ValueError, binascii.Error, UnicodeDecodeError):
        raise GrantRefused("Authenticate the app with Basic, or in the form.", field="invalid_client") from None
    if not colon or "client_secret" in fields or fields.get("client_id", client_id) != client_id:
        raise GrantRefused("Authenticate the app once: with Basic, or in the form.", field="invalid_request")
    return {"client_id": client_id, "client_secret": client_secret}


def _refuse(error: ChatError, *, status: int = 400, basic: bool = False) -> Response:
    """Return a refusal in OAuth's form; details are plain ASCII, as RFC 6749 5.2 wants."""
    word = (error.field if isinstance(error, GrantRefused) else None) or ("slow_down" if status == 429 else "invalid_request")
    if status >= 500:
        word = "temporarily_unavailable"
    headers = {"Pragma": "no-cache"}
    if word == "invalid_client" and basic:
        status, headers["WWW-Authenticate"] = 401, "Basic"
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    if status == 405:
        headers["Allow"] = "POST"
    body = {"error": word, "error_description": error.detail.encode("ascii", "replace").decode()}
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json", headers=headers)
