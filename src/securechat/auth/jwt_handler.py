"""JWTHandler: access tokens, EdDSA as `Ed25519` (RFC 9864), one algorithm pinned, nothing taken from the header but the key id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from securechat.domain.secret import Secret
from securechat.errors import Unauthorized

LIFETIME_S: Final = 600
_TYPE: Final = "at+jwt"
_ISSUER: Final = "securechat"
_registry: Final = JWSRegistry(algorithms=["Ed25519"])


class JWTHandler:
    """Issue and verify access tokens.

    Args:
        path: The key file, mode 0600; made when it is missing.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            key = OKPKey.generate_key("Ed25519")
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(key.as_pem(private=True))
        self._key = OKPKey.import_key(path.read_bytes())

    def issue(self, *, user_id: str, device_id: str, now: float) -> str:
        """Return a token for a device that ends in `LIFETIME_S` seconds."""
        claims = {"iss": _ISSUER, "sub": user_id, "dev": device_id, "iat": int(now), "exp": int(now) + LIFETIME_S}
        return jwt.encode({"alg": "Ed25519", "typ": _TYPE}, claims, self._key, registry=_registry)

    def verify(self, token: Secret, *, now: float) -> tuple[str, str, float]:
        """Return (user id, device id, expiry in seconds since 1970).

        Raises:
            Unauthorized: Not ours, changed, or past its end. The answer does not say which.
        """
        try:
            found = jwt.decode(token.reveal(), self._key, registry=_registry)
        except (JoseError, ValueError, TypeError, UnicodeDecodeError) as error:
            raise Unauthorized("The access token is not valid.") from error
        claims = found.claims
        user_id, device_id, expiry = claims.get("sub"), claims.get("dev"), claims.get("exp")
        good = (
            found.header.get("typ") == _TYPE
            and found.header.get("alg") == "Ed25519"
            and "crit" not in found.header
            and claims.get("iss") == _ISSUER
            and isinstance(user_id, str)
            and isinstance(device_id, str)
            and isinstance(expiry, int)
            and expiry > now
        )
        if not good or not isinstance(expiry, int):
            raise Unauthorized("The access token is not valid.")
        return str(user_id), str(device_id), float(expiry)
