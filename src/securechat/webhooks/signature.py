"""Signatures of Standard Webhooks: HMAC-SHA256 over id, time and body, by a secret that both sides have."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from securechat.domain.secret import Secret

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
TOLERANCE_S: Final = 300
"""How far the clocks of the two sides may be apart, and how long a delivery may be under way."""
SIGNATURES_MAX: Final = 16
"""Signatures of one delivery that are looked at."""


class InvalidSignature(ValueError):
    """It is not from the server that has the secret, was changed, or is too old. Answer 401, and do nothing."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What a webhook tells.

    Attributes:
        id: The same for every delivery of the same entry: whoever remembers it drops repetitions.
        type: Of the entry, for example `message.sent`.
        timestamp: When it happened, in RFC 3339.
        data: The entry, as clients get it.
    """

    id: str
    type: str
    timestamp: str
    data: dict[str, Any]


class _Body(msgspec.Struct):
    type: str
    timestamp: str
    data: dict[str, Any]


_body_of: Final = msgspec.json.Decoder(_Body).decode


def new_secret() -> Secret:
    """Return a fresh secret, in the form of the specification."""
    return Secret(PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())


def sign(secret: Secret, message_id: str, at_s: int, body: bytes) -> str:
    """Return the signature of a delivery: `v1,` and Base64.

    Args:
        secret: `whsec_…`.
        message_id: Of the delivery.
        at_s: When it is sent, in seconds since 1970.
        body: As it is sent, byte by byte.
    """
    signed = f"{message_id}.{at_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(_key_of(secret), signed, "sha256")).decode()


def headers_of(signing: Sequence[Secret], message_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a delivery, signed by each of these secrets."""
    signatures = " ".join(sign(secret, message_id, at_s, body) for secret in signing)
    return {ID: message_id, TIMESTAMP: str(at_s), SIGNATURE: signatures}


def verify(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: Secret | str,
    *,
    tolerance_s: int = TOLERANCE_S,
    now_s: float | None = None,
) -> Event:
    """Return what a webhook tells, if it is from the server that has the secret.

    Args:
        headers: Of the request; the case of their names does not matter.
        body: As it came, byte by byte: not decoded and encoded again.
        secret: What `subscription create` showed, `whsec_…`.
        tolerance_s: How old, or how far ahead, it may be.
        now_s: The time, in seconds since 1970; now, when left out.

    Raises:
        InvalidSignature: It is not.
    """
    found = {name.lower(): value for name, value in headers.items()}
    message_id, at, given = (found.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    data = body.encode() if isinstance(body, str) else body
    if not message_id or not given or not at.isascii() or not at.isdecimal() or len(at) > 15:
        raise InvalidSignature("A header of Standard Webhooks is missing or wrong.")
    if abs((time.time() if now_s is None else now_s) - int(at)) > tolerance_s:
        raise InvalidSignature("It is too old, or from the future.")
    try:
        wanted = sign(secret if isinstance(secret, Secret) else Secret(secret), message_id, int(at), data).encode()
    except (ValueError, binascii.Error):
        raise InvalidSignature("The secret is not of the form whsec_….") from None
    matches = [hmac.compare_digest(each.encode(), wanted) for each in given.split(" ")[:SIGNATURES_MAX]]
    if not any(matches):
        raise InvalidSignature("The signature is wrong.")
    try:
        told = _body_of(data)
    except msgspec.DecodeError as error:
        raise InvalidSignature("It is signed, and not an event.") from error
    return Event(id=message_id, type=told.type, timestamp=told.timestamp, data=told.data)


def _key_of(secret: Secret) -> bytes:
    return base64.b64decode(secret.reveal().removeprefix(PREFIX), validate=True)
