"""Sealing: the client's side of the session layer: what it offers, which keys it takes, and that it never falls back."""

from __future__ import annotations

import logging
import os
import re
import ssl
import time
from typing import Final, Literal, cast, get_args
from urllib.parse import urlsplit

import httpx2 as httpx
import msgspec

from securechat.program import program
from securechat.protocol.codec import Encoding
from securechat.protocol.frames import SUBPROTOCOL, SUBPROTOCOL_CLEAR
from securechat.protocol.handshake import ClientHandshake, UnknownKey
from securechat.protocol.key_list import PATH, SignedKeyList, check_list
from securechat.sdk.errors import Untrusted
from securechat.sdk.pins import Pins, PinStore, shown

log = logging.getLogger(__name__)

SealPolicy = Literal["required", "preferred", "off"]
FETCH_S: Final = 10.0
LIST_MAX: Final = 64 * 1024
_KEY_ID: Final = re.compile("[0-9a-f]{64}")
_PORTS: Final = {"https": 443, "http": 80}


def seal_policy() -> SealPolicy:
    """Return what `SECURECHAT_SEAL` says; preferred if it says nothing.

    Raises:
        ValueError: It says something else.
    """
    found = os.environ.get("SECURECHAT_SEAL", "preferred")
    if found in get_args(SealPolicy):
        return cast("SealPolicy", found)
    raise ValueError("SECURECHAT_SEAL is required, preferred or off.")


class ClientClock:
    """A `SessionClock` of the system."""

    def monotonic(self) -> float:
        """See `SessionClock.monotonic`."""
        return time.monotonic()

    def now_ms(self) -> int:
        """See `SessionClock.now_ms`."""
        return time.time_ns() // 1_000_000


def host_of(url: str) -> str:
    """Return a server's host as dialled: `name[:port]`, lower case, without the scheme's own port."""
    parts = urlsplit(url)
    name = (parts.hostname or "").encode("idna").decode() if (parts.hostname or "").isascii() is False else parts.hostname or ""
    name = f"[{name}]" if ":" in name else name
    return name if parts.port in {None, _PORTS.get(parts.scheme)} else f"{name}:{parts.port}"


class Sealing:
    """What one client knows and demands of one server.

    Args:
        url: The server.
        policy: `required` never talks without a sealed session, `preferred` only to a server that never had one, `off` always.
        store: Where pins are.
        pins: Ids of keys that were given beforehand, in hex: nothing has to be believed at the first contact.

    Attributes:
        key_id: Of the key of the last session, in hex.
    """

    def __init__(self, url: str, policy: SealPolicy, store: PinStore, pins: list[str] | None = None) -> None:
        self.host = host_of(url)
        self.key_id = ""
        self._url = url
        self._policy = policy
        self._store = store
        self._given = list(pins or [])

    def _known(self) -> Pins:
        try:
            found = self._store.of(self.host)
        except ValueError as error:
            raise Untrusted(str(error)) from error
        return msgspec.structs.replace(found, keys=[*dict.fromkeys([*self._given, *found.keys])])

    def offered(self) -> list[str]:
        """Return the sub-protocols to offer."""
        if self._policy == "off":
            return [SUBPROTOCOL_CLEAR]
        if self._policy == "required" or self._must():
            return [SUBPROTOCOL]
        return [SUBPROTOCOL, SUBPROTOCOL_CLEAR]

    def _must(self) -> bool:
        known = self._known()
        return known.sealed or bool(known.keys)

    def refused(self) -> None:
        """The server took none of the sub-protocols.

        Raises:
            Untrusted: It had a sealed session before, or one was demanded.
        """
        if self.offered() == [SUBPROTOCOL]:
            reason = "it had one before" if self._must() else "this client demands one"
            raise Untrusted(
                f"{self.host} does not offer a sealed session, but {reason}. Somebody may be between you and the server,"
                " or its operator turned sealing off: ask."
            )

    def handshake(self) -> ClientHandshake:
        """Return the client's side of a new handshake."""
        pins = [bytes.fromhex(kid) for kid in self._known().keys]
        return ClientHandshake(self.host, pins, Encoding.MSGPACK, self.offered(), ClientClock())

    def established(self, key_id: bytes) -> bool:
        """Every check passed: keep the key, if it is the first one. Return whether nothing was known of this server before."""
        known = self._known()
        first = not known.keys and not known.root
        self.key_id = key_id.hex()
        if self.key_id not in known.keys:
            level = logging.WARNING if self._store.path is not None else logging.DEBUG
            log.log(level, "first contact with %s: its key is %s, and no other is taken from now on", self.host, shown(self.key_id))
            known.keys.append(self.key_id)
        elif known.sealed:
            return False
        known.sealed = True
        self._store.keep(self.host, known)
        return first

    async def another_key(self, error: UnknownKey, tls: ssl.SSLContext | None) -> None:
        """The server showed a key that is not pinned: see whether its root has signed it.

        Raises:
            Untrusted: It has not.
        """
        known = self._known()
        told = (
            f"{self.host} showed another key than the one you know.\n"
            f"  known  {', '.join(map(shown, known.keys))}\n  shown  {shown(error.key_id)}\n"
            "Either its operator changed the key, or somebody is between you and the server. Ask the operator for the key by"
            f" another way; if it is right: {program()} servers forget {self.host}"
        )
        if not known.root:
            raise Untrusted(told) from error
        try:
            signed = await self._fetch(tls)
            found = check_list(signed, host=self.host, root_kid=known.root, now=time.time(), last=known.key_list)
        except (OSError, ValueError) as reason:
            raise Untrusted(f"{told}\n(The list of its keys was not taken: {reason})") from error
        if error.key_id.hex() not in {key.kid for key in found.keys}:
            raise Untrusted(told) from error
        known.keys = [key.kid for key in found.keys]
        known.key_list = signed.list
        self._store.keep(self.host, known)

    def keep_root(self, root: str) -> None:
        """At the first contact: keep the root that the server named inside the session.

        Whoever is believed with its key is believed with its root. Later it is not: a key that was known beforehand could be a
        stolen one, and must not name its successors.
        """
        if _KEY_ID.fullmatch(root):
            self._store.keep(self.host, msgspec.structs.replace(self._known(), root=root))

    async def _fetch(self, tls: ssl.SSLContext | None) -> SignedKeyList:
        """Fetch the signed list. Raises `OSError` or `ValueError`."""
        try:
            async with httpx.AsyncClient(verify=tls if tls is not None else True, trust_env=False, timeout=FETCH_S) as http:
                answer = await http.get(f"{self._url}{PATH}", follow_redirects=False)
        except httpx.TransportError as error:
            raise ConnectionError(str(error)) from error
        if answer.status_code != 200 or len(answer.content) > LIST_MAX:
            raise ValueError("the server publishes none")
        try:
            return msgspec.json.decode(answer.content, type=SignedKeyList)
        except msgspec.DecodeError as error:
            raise ValueError("not a key list") from error
