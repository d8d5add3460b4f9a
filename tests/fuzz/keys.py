"""What tells who somebody is: the signed list of a server's keys, and access tokens."""

from __future__ import annotations

import base64
import functools
import hashlib
import tempfile
from pathlib import Path

import msgspec

from fuzz.sessions import IDENTITY
from securechat.auth.jwt_handler import JWTHandler
from securechat.crypto.identity import KEY_LIST
from securechat.domain.secret import Secret
from securechat.errors import Unauthorized
from securechat.protocol.key_list import SignedKeyList, check_list

NOW = 1_795_000_000
HOST = "chat.example.org"


def key_list(data: bytes) -> None:
    """First byte: odd for a list that the pinned root signed, whatever is in it; else the published document itself."""
    if data[:1] and data[0] & 1:
        signed = _signed(data[1:])
        root = IDENTITY.key.key_id.hex()
    else:
        try:
            signed = msgspec.json.decode(data[1:], type=SignedKeyList)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        root = signed.root_kid
    try:
        found = check_list(signed, host=HOST, root_kid=root, now=NOW, last=signed.root_spki)
        found = check_list(signed, host=HOST, root_kid=root, now=NOW)
    except ValueError:
        return
    assert found.host == HOST
    assert found.expires > NOW
    assert data[0] & 1, "nobody but the root signs"


@functools.lru_cache(maxsize=256)
def _signed(content: bytes) -> SignedKeyList:
    root = IDENTITY.key
    return SignedKeyList(
        list=_text(content),
        root_kid=root.key_id.hex(),
        root_spki=_text(root.spki),
        sig=_text(root.sign(KEY_LIST, hashlib.sha256(content).digest())),
    )


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@functools.lru_cache(maxsize=1)
def _tokens() -> JWTHandler:
    with tempfile.TemporaryDirectory() as folder:
        return JWTHandler(Path(folder) / "keys.json", now=NOW)


def access_token(data: bytes) -> None:
    """First byte: odd for a payload behind a header of ours; else the whole token."""
    handler = _tokens()
    text = data[1:].decode("utf-8", "surrogateescape")
    if data[:1] and data[0] & 1:
        good = handler.issue(user_id="usr_1", device_id="dev_1", now=NOW)
        text = f"{good.partition('.')[0]}.{text}"
    try:
        handler.verify(Secret(text), now=NOW)
    except Unauthorized:
        return
    raise AssertionError("a token that this server did not make")
