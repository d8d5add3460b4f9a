"""Commands over REST: path, query and body of a request become a struct, or are refused."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request

from fuzz.sockets import loop
from securechat.domain.commands import Command
from securechat.errors import ChatError
from securechat.protocol.codec import encode_json
from securechat.protocol.frames import name_of
from securechat.rest.app import _read_command
from securechat.rest.routes import ROUTES

PARAMETER: Final = "rm_000000000000r001"
BY_NAME: Final = {name_of(route.command).encode(): route for route in ROUTES}


def read(data: bytes) -> None:
    """First line: the name of the command, or anything for any. The rest: the body, or the query of a route without one."""
    name, _, body = data.partition(b"\n")
    route = BY_NAME.get(name) or ROUTES[sum(name) % len(ROUTES)]
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    values = {name: "4" if name == "seq" else PARAMETER for name in names}
    bodyless = route.method in {"GET", "DELETE"}
    scope: dict[str, Any] = {
        "type": "http",
        "method": route.method,
        "path": route.path,
        "query_string": quote(body, safe="=&%+").encode() if bodyless else b"",
        "headers": [(b"content-type", b"application/json")],
        "path_params": values,
    }
    messages = [{"type": "http.request", "body": b"" if bodyless else body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop()

    try:
        command = loop().run_until_complete(_read_command(route, Request(scope, receive)))
    except ChatError as error:
        assert 400 <= error.status < 500, error
        return
    assert type(command) is route.command
    assert isinstance(command, Command)
    assert "reveal" not in repr(command)
    encode_json(command)
