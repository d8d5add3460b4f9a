"""The list of a server's identity keys, signed by its offline root (spec/session-layer.md 2).

A client that pinned the root takes new keys from it without asking; a stolen key of the server cannot name its successor.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec

from securechat.crypto.identity import KEY_LIST, IdentityKey, key_id_of, verify

PATH: Final = "/.well-known/securechat-identity"
LIST_S: Final = 45 * 86_400
CLOCKS_S: Final = 86_400
"""How wrong a client's clock may be about the beginning of a list."""


class ListedKey(msgspec.Struct, kw_only=True):
    """A key: its id in hex, from when to when it signs, in seconds since 1970; `naf` 0 for no end."""

    kid: str
    nbf: int
    naf: int


class KeyList(msgspec.Struct, kw_only=True):
    """What the root signs.

    Attributes:
        host: Of the server, as clients dial it.
        serial: Higher than that of every list before.
        issued: Seconds since 1970.
        expires: At most 45 days later.
        keys: Which keys may be the server's.
    """

    host: str
    serial: int
    issued: int
    expires: int
    keys: list[ListedKey]


class SignedKeyList(msgspec.Struct, kw_only=True):
    """As published; byte strings in base64url without padding."""

    list: str
    root_kid: str
    root_spki: str
    sig: str

    def read(self) -> KeyList:
        """Return what is in it, unchecked."""
        return msgspec.json.decode(_bytes(self.list), type=KeyList)


def sign_list(keys: KeyList, root: IdentityKey) -> SignedKeyList:
    """Return the list with the root's signature."""
    content = msgspec.json.encode(keys)
    signature = root.sign(KEY_LIST, hashlib.sha256(content).digest())
    return SignedKeyList(list=_text(content), root_kid=root.key_id.hex(), root_spki=_text(root.spki), sig=_text(signature))


def check_list(signed: SignedKeyList, *, host: str, root_kid: str, now: float, last: str = "") -> KeyList:
    """Return the list, if this root signed it for this host and it holds now.

    Args:
        signed: As fetched.
        host: As dialled.
        root_kid: The pinned root, in hex.
        now: The client's own clock, seconds since 1970.
        last: The `list` that was taken last.

    Raises:
        ValueError: It is not to be taken, with the reason.
    """
    try:
        spki, content, signature = _bytes(signed.root_spki), _bytes(signed.list), _bytes(signed.sig)
        if key_id_of(spki).hex() != root_kid:
            raise ValueError("signed by another root")
        if not verify(spki, KEY_LIST, hashlib.sha256(content).digest(), signature):
            raise ValueError("the signature is wrong")
        found = msgspec.json.decode(content, type=KeyList)
        old = msgspec.json.decode(_bytes(last), type=KeyList).serial if last and last != signed.list else -1
    except msgspec.DecodeError as error:
        raise ValueError("not a key list") from error
    if found.host != host:
        raise ValueError("for another host")
    if found.serial <= old:
        raise ValueError("not newer than the one known")
    if not found.issued - CLOCKS_S <= now < found.expires <= found.issued + LIST_S:
        raise ValueError("not valid at this time")
    return found


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
