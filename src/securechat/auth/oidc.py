"""OidcProvider: one provider of OpenID Connect, as a client of it.

What it says is believed after every check, and then only who somebody is: (`iss`, `sub`).
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeGuard, TypeVar
from urllib.parse import quote_plus, urlencode

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from msgspec import Meta

from securechat.auth.outgoing import Outgoing, is_allowed
from securechat.domain.breaker import Breaker
from securechat.domain.ports import Clock, ExternalIdentity
from securechat.domain.secret import Secret
from securechat.errors import Unauthorized, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

ALGORITHMS: Final = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]
"""Of id_tokens. Public keys only: no `none`, nothing with a shared secret."""
LEEWAY_S: Final = 60
ID_TOKEN_MAX: Final = 16_384
SUBJECT_MAX: Final = 255
DISCOVERY_S: Final = 3_600.0
"""How long what a provider says of itself is kept, in seconds."""
KEYS_S: Final = 3_600.0
"""The same of its keys."""
REFRESH_S: Final = 60.0
"""Keys are not asked for more often than this, whatever key ids come in, in seconds."""
REST_S: Final = 5.0
"""A provider that fails again and again is left alone so long at most, in seconds."""
_registry: Final = JWSRegistry(algorithms=ALGORITHMS)
_NOT_VALID: Final = "The sign-in provider's answer does not hold. Begin again."


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider, as configured.

    Attributes:
        id: Stands in the address that the provider sends browsers back to: `<origin>/oidc/<id>`.
        name: What the button says.
        issuer: Its issuer, exactly as it says it itself.
        client_id, client_secret: What it knows this server by; without a secret, a public client.
        client_secret_file: A file with the secret instead.
        scopes: What is asked for; `openid` is among them.
        register: Whether its accounts open new accounts here without an invitation.
        insecure: Whether http is allowed, on this machine only: for tests.
        ca: File of the provider's own CA.
    """

    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}(?![\s\S])")]
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    issuer: Annotated[str, Meta(min_length=1, max_length=255)]
    client_id: Annotated[str, Meta(min_length=1, max_length=255)]
    client_secret: Secret = msgspec.field(default_factory=lambda: Secret(""))
    client_secret_file: str = ""
    scopes: list[str] = msgspec.field(default_factory=lambda: ["openid", "profile"])
    register: bool = False
    insecure: bool = False
    ca: str = ""

    def mistake(self) -> str:
        """Return what is wrong with it, or an empty text."""
        if not is_allowed(self.issuer, insecure=self.insecure) or "?" in self.issuer:
            return f"{self.id}: issuer is an https URL without query and fragment (http on this machine with insecure)"
        if "openid" not in self.scopes:
            return f"{self.id}: scopes has openid in it"
        if self.client_secret and self.client_secret_file:
            return f"{self.id}: client_secret or client_secret_file, not both"
        for path in (self.client_secret_file, self.ca):
            if path and not Path(path).is_file():
                return f"{self.id}: {path} is not a file"
        return ""

    def secret(self) -> Secret:
        """Return the client secret, from its file if it is in one."""
        return Secret(Path(self.client_secret_file).read_text().strip()) if self.client_secret_file else self.client_secret


class _Discovered(msgspec.Struct, frozen=True):
    """What is used of a provider's metadata."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: list[str] = msgspec.field(default_factory=lambda: ["client_secret_basic"])
    authorization_response_iss_parameter_supported: bool = False


class OidcProvider:
    """See `Provider`.

    Args:
        config: Its settings.
        clock: Time.
        outgoing: Asks it.

    Attributes:
        breaker: Whether it is asked; nobody looks by themselves, so the next one who signs in is the probe.
    """

    def __init__(self, config: ProviderConfig, clock: Clock, outgoing: Outgoing | None = None) -> None:
        self.config = config
        self._clock = clock
        self._outgoing = outgoing or Outgoing(insecure=config.insecure, ca=config.ca)
        self._metadata: tuple[float, _Discovered] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._asked_keys_at = -REFRESH_S
        self.breaker = Breaker(failures_max=1, pause_max_s=REST_S)

    async def authorization_url(self, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """See `Provider.authorization_url`."""
        found = await self._discover()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.config.client_id,
                "redirect_uri": redirect_uri,
                "scope": " ".join(self.config.scopes),
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        return f"{found.authorization_endpoint}{'&' if '?' in found.authorization_endpoint else '?'}{query}"

    async def redeem(self, redirect_uri: str, code: Secret, verifier: Secret, nonce: str, issuer: str) -> ExternalIdentity:
        """See `Provider.redeem`."""
        found = await self._discover()
        # RFC 9207: a provider that announces `iss` sends it; one that comes is the right one, whoever sent it.
        if (issuer or found.authorization_response_iss_parameter_supported) and issuer != found.issuer:
            raise Unauthorized("This answer is of another sign-in provider. Begin again.")
        form = {
            "grant_type": "authorization_code",
            "code": code.reveal(),
            "redirect_uri": redirect_uri,
            "code_verifier": verifier.reveal(),
        }
        user, password = "", None
        secret = self.config.secret()
        if not secret or "client_secret_basic" not in found.token_endpoint_auth_methods_supported:
            form["client_id"] = self.config.client_id
        if secret and "client_secret_basic" in found.token_endpoint_auth_methods_supported:
            user, password = quote_plus(self.config.client_id), Secret(quote_plus(secret.reveal()))
        elif secret:
            form["client_secret"] = secret.reveal()
        ask = partial(self._outgoing.post, found.token_endpoint, form, user=user, password=password)
        status, answer = await self._asked(ask)
        token = answer.get("id_token")
        if status != 200 or not isinstance(token, str) or len(token) > ID_TOKEN_MAX:
            reason = str(answer.get("error", ""))[:64]
            log.warning("sign-in provider refused a code", extra={"provider": self.config.id, "status": status, "reason": reason})
            if status >= 500:
                self.breaker.failed(self._clock.monotonic(), f"refuses: {status}")
                raise Unavailable("The sign-in provider has a problem. Try again in a moment.")
            raise Unauthorized(_NOT_VALID)
        claims = await self._verify(token, found, nonce)
        return ExternalIdentity(
            found.issuer,
            claims["sub"],
            _text(claims.get("preferred_username")),
            _text(claims.get("name")),
        )

    async def _verify(self, token: str, found: _Discovered, nonce: str) -> dict[str, Any]:
        """Return the claims of an id_token after every check of OpenID Connect Core 3.1.3.7."""
        try:
            claims = json.loads(await self._payload(token, found), object_pairs_hook=_once)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            log.warning("id_token refused", extra={"provider": self.config.id, "reason": type(error).__name__})
            raise Unauthorized(_NOT_VALID) from error
        wrong = self._wrong(claims, found, nonce)
        if wrong:
            log.warning("id_token refused", extra={"provider": self.config.id, "reason": wrong})
            raise Unauthorized(_NOT_VALID)
        return dict(claims)

    async def _payload(self, token: str, found: _Discovered) -> bytes:
        """Return the payload of a token that one of the provider's keys signed; ask for the keys again if none did."""
        keys = await self._key_set(found)
        try:
            return jws.deserialize_compact(token, keys, registry=_registry).payload or b""
        except (JoseError, ValueError):
            fresh = await self._key_set(found, fresh=True)
            if fresh is keys:
                raise
            return jws.deserialize_compact(token, fresh, registry=_registry).payload or b""

    def _wrong(self, claims: Any, found: _Discovered, nonce: str) -> str:
        """Return the claim that does not hold, or an empty text."""
        if not isinstance(claims, dict):
            return "claims"
        now = self._clock.now_ms() / 1_000
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        expiry, issued, subject = claims.get("exp"), claims.get("iat"), claims.get("sub")
        if claims.get("iss") != found.issuer:
            return "iss"
        if self.config.client_id not in audiences:
            return "aud"
        if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != self.config.client_id:
            return "azp"
        if not _is_time(expiry) or expiry + LEEWAY_S <= now:
            return "exp"
        if not _is_time(issued) or issued > now + LEEWAY_S:
            return "iat"
        if not isinstance(claims.get("nonce"), str) or not hmac.compare_digest(claims["nonce"].encode(), nonce.encode()):
            return "nonce"
        if not isinstance(subject, str) or not subject.isascii() or not 0 < len(subject) <= SUBJECT_MAX:
            return "sub"
        return ""

    async def _discover(self) -> _Discovered:
        now = self._clock.monotonic()
        if self._metadata is not None and now - self._metadata[0] < DISCOVERY_S:
            return self._metadata[1]
        found = await self._fetch(f"{self.config.issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            metadata = msgspec.convert(found, _Discovered)
        except msgspec.ValidationError as error:
            raise self._broken("metadata") from error
        if metadata.issuer != self.config.issuer:
            raise self._broken("issuer")
        addresses = (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri)
        if not all(is_allowed(each, insecure=self.config.insecure) for each in addresses):
            raise self._broken("endpoint")
        self._metadata = (now, metadata)
        return metadata

    async def _key_set(self, found: _Discovered, *, fresh: bool = False) -> KeySet:
        """Return the provider's keys: those that are here, unless they are old, or others are wanted and a minute has passed."""
        now = self._clock.monotonic()
        is_due = now - self._asked_keys_at >= REFRESH_S
        if self._keys is not None and not (is_due and (fresh or now - self._keys[0] >= KEYS_S)):
            return self._keys[1]
        if not is_due:
            raise Unavailable("The sign-in provider's keys are not known. Try again in a minute.")
        self._asked_keys_at = now
        answer = await self._fetch(found.jwks_uri)
        offered = answer.get("keys")
        usable = [each for each in offered if _is_usable(each)] if isinstance(offered, list) else []
        try:
            keys = KeySet.import_key_set({"keys": usable})
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise self._broken("keys") from error
        if not keys.keys:
            raise self._broken("keys")
        self._keys = (now, keys)
        return keys

    async def _fetch(self, url: str) -> dict[str, Any]:
        return await self._asked(partial(self._outgoing.get, url))

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask it something, unless it is left alone now."""
        now, breaker = self._clock.monotonic, self.breaker
        breaker.enter(now(), "The sign-in provider cannot be reached. Try again in a moment.")
        try:
            found = await ask()
        except Unavailable as error:
            breaker.failed(now(), f"unreachable: {error.detail}")
            log.warning("sign-in provider does not answer", extra={"provider": self.config.id, "reason": error.detail})
            raise
        except BaseException:
            breaker.gave_up(now())
            raise
        breaker.succeeded(now())
        return found

    def _broken(self, what: str) -> Unavailable:
        self.breaker.failed(self._clock.monotonic(), f"broken: {what}")
        log.error("sign-in provider answers something else than it should", extra={"provider": self.config.id, "reason": what})
        return Unavailable("The sign-in provider does not answer as it should. Ask the operator.")


def _is_usable(key: Any) -> bool:
    """Return whether a key of a set is a public one for signatures, of a kind that is known."""
    return isinstance(key, dict) and key.get("kty") in {"RSA", "EC", "OKP"} and key.get("use", "sig") == "sig" and "d" not in key


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a claim stands there twice")
    return found


def _text(value: Any) -> str:
    """Return a suggestion, short enough to travel in a ticket."""
    return value[:64] if isinstance(value, str) else ""
