"""What can go wrong on the client's side. Refusals of the server are the classes of `securechat.errors`."""

from __future__ import annotations

from typing import Any

from securechat.errors import ChatError, Internal, all_errors
from securechat.protocol.frames import ErrorFrame


class ConnectionLost(Exception):
    """The answer did not come: the command may have been carried out, or not."""


class Stopped(ConnectionLost):
    """The client was closed, or the server wants it to stop: there will be no other connection."""


class Untrusted(Stopped):
    """The server is not the one that is known, or would talk without the session that it had before. Nothing was sent to it."""


class LoginRequired(Exception):
    """The token does not hold; a person has to sign in."""


_BY_CODE = {error.code: error for error in all_errors()}


def to_error(frame: ErrorFrame | dict[str, Any]) -> ChatError:
    """Return the exception for a refusal; codes of a newer server become `Internal` with their text."""
    if isinstance(frame, ErrorFrame):
        frame = {"code": frame.code, "detail": frame.detail, "field": frame.field, "retry_after_ms": frame.retry_after_ms}
    kind = _BY_CODE.get(str(frame.get("code")), Internal)
    return kind(str(frame.get("detail") or ""), field=frame.get("field"), retry_after_ms=frame.get("retry_after_ms"))
