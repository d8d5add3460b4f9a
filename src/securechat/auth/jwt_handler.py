"""JWTHandler: access tokens, EdDSA as `Ed25519` (RFC 9864).

The header of a token is compared and never parsed: it has to be, byte for byte, the one this server writes for one of its keys.
So no algorithm, key id, `jku`, `jwk`, `crit` or compression of somebody else is ever looked at.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from securechat.auth.token_keys import SigningKey, TokenKeys
from securechat.domain.secret import Secret
from securechat.errors import Unauthorized

LIFETIME_S: Final = 600
LEEWAY_S: Final = 60
"""What the clocks of two servers may differ."""
TOKEN_MAX: Final = 1_024
"""Characters. Ours have about 350."""
_ALGORITHM: Final = "Ed25519"
_TYPE: Final = "at+jwt"
_ISSUER: Final = "securechat"
_AUDIENCE: Final = "securechat-api"
_CLAIMS: Final = frozenset({"iss", "aud", "sub", "dev", "iat", "exp"})
_registry: Final = JWSRegistry(algorithms=[_ALGORITHM])


class JWTHandler:
    """Issue and verify access tokens.

    Args:
        path: The file of the keys.
        now: Seconds since 1970.
    """

    def __init__(self, path: Path, *, now: float) -> None:
        self.keys = TokenKeys(path, overlap_s=LIFETIME_S + LEEWAY_S, now=now)
        self._headers: dict[str, SigningKey] = {}
        self._known: tuple[SigningKey, ...] = ()

    def issue(self, *, user_id: str, device_id: str, now: float) -> str:
        """Return a token for a device that ends in `LIFETIME_S` seconds."""
        key = self.keys.signing
        claims = {
            "iss": _ISSUER, "aud": _AUDIENCE, "sub": user_id, "dev": device_id, "iat": int(now), "exp": int(now) + LIFETIME_S,
        }  # fmt: skip
        return jws.serialize_compact(_header(key), json.dumps(claims, separators=(",", ":")), key.pair, registry=_registry)

    def verify(self, token: Secret, *, now: float) -> tuple[str, str, float]:
        """Return (user id, device id, expiry in seconds since 1970).

        Raises:
            Unauthorized: Not ours, changed, or past its end. The answer does not say which.
        """
        text = token.reveal()
        parts = text.split(".", 3) if len(text) <= TOKEN_MAX else []
        key = self._key(parts[0]) if len(parts) == 3 else None
        if key is None or not self.keys.holds(key, now):
            raise Unauthorized("The access token is not valid.")
        try:
            # The library takes base64url in its one canonical spelling only; a test holds it to that.
            payload = jws.deserialize_compact(text, key.pair, registry=_registry).payload
            claims = json.loads(payload, object_pairs_hook=_without_duplicates)
        except (JoseError, ValueError, TypeError) as error:
            raise Unauthorized("The access token is not valid.") from error
        if not _are_good(claims, now):
            raise Unauthorized("The access token is not valid.")
        return claims["sub"], claims["dev"], float(claims["exp"])

    def _key(self, header: str) -> SigningKey | None:
        """Return the key whose tokens begin with this header."""
        if self._known is not self.keys.keys:
            self._known = self.keys.keys
            self._headers = {_segment(_header(key)): key for key in self._known}
        return self._headers.get(header)


def _header(key: SigningKey) -> dict[str, Any]:
    return {"alg": _ALGORITHM, "typ": _TYPE, "kid": key.id}


def _segment(header: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(header, separators=(",", ":")).encode()).rstrip(b"=").decode()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a claim stands there twice")
    return found


def _are_good(claims: Any, now: float) -> bool:
    if not isinstance(claims, dict) or claims.keys() != _CLAIMS:
        return False
    issued, expiry = claims["iat"], claims["exp"]
    return (
        claims["iss"] == _ISSUER
        and claims["aud"] == _AUDIENCE
        and isinstance(claims["sub"], str)
        and isinstance(claims["dev"], str)
        and type(issued) is int  # `True` is an int to isinstance
        and type(expiry) is int
        and issued <= now + LEEWAY_S
        and issued < expiry <= issued + LIFETIME_S
        and now < expiry
    )
