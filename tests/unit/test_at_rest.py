"""Sealed texts, wrapped keys, and who may hold the key-encryption key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securechat.crypto import at_rest
from securechat.crypto.at_rest import Damaged, TextCipher
from securechat.crypto.key_provider import EnvironmentKeys, FileKeys, KeyProvider
from securechat.errors import Unavailable

KEY = bytes(range(32))


def test_a_text_opens_with_its_key_and_what_it_belongs_to() -> None:
    sealed = TextCipher(KEY, 7, 0).seal(b"hello", b"room 1")

    assert TextCipher(KEY, 7, 0).open(sealed, b"room 1") == b"hello"
    assert at_rest.version_of(sealed) == 7
    assert len(sealed) == len(b"hello") + at_rest.OVERHEAD
    assert b"hello" not in sealed


@pytest.mark.parametrize(
    ("cipher", "aad"),
    [(TextCipher(KEY, 7, 0), b"room 2"), (TextCipher(KEY, 7, 1), b"room 1"), (TextCipher(bytes(32), 7, 0), b"room 1")],
    ids=["elsewhere", "another block", "another key"],
)
def test_a_text_opens_nowhere_else(cipher: TextCipher, aad: bytes) -> None:
    sealed = TextCipher(KEY, 7, 0).seal(b"hello", b"room 1")

    with pytest.raises(Damaged):
        cipher.open(sealed, aad)


def test_no_byte_of_a_sealed_text_can_be_changed() -> None:
    cipher = TextCipher(KEY, 7, 0)
    sealed = cipher.seal(b"hello", b"")
    for place in range(5, len(sealed)):
        with pytest.raises(Damaged):
            cipher.open(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :], b"")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x02" + bytes(60), bytes(60)])
def test_what_is_no_sealed_text_is_refused(sealed: bytes) -> None:
    with pytest.raises(Damaged):
        at_rest.version_of(sealed)


def test_the_same_text_is_never_sealed_the_same_twice() -> None:
    cipher = TextCipher(KEY, 1, 0)

    assert len({cipher.seal(b"hello", b"") for _ in range(1_000)}) == 1_000


def test_the_message_key_is_hkdf_of_the_data_key() -> None:
    # HKDF-Expand with SHA-256 of 32 bytes is one HMAC (RFC 5869): computed here by hand, so that stored data outlives the library.
    sealed = TextCipher(KEY, 1, 5).seal(b"hello", b"aad")
    key = hmac.digest(KEY, b"sc/msg/v1" + (5).to_bytes(8, "big") + b"\x01", hashlib.sha256)

    assert sealed[:5] == b"\x01\x00\x00\x00\x01"
    assert AESGCM(key).decrypt(sealed[5:17], sealed[17:], b"aad") == b"hello"


def test_a_wrapped_key_opens_for_its_purpose_only() -> None:
    wrapped = at_rest.wrap_key(KEY, bytes(32), b"room 1")

    assert at_rest.unwrap_key(KEY, wrapped, b"room 1") == bytes(32)
    for key, given, aad in (
        (KEY, wrapped, b"room 2"),
        (bytes(32), wrapped, b"room 1"),
        (KEY, wrapped[:-1], b"room 1"),
        (KEY, b"", b""),
    ):
        with pytest.raises(Damaged):
            at_rest.unwrap_key(key, given, aad)


def test_a_secret_opens_for_its_purpose_and_owner_only() -> None:
    sealed = at_rest.seal_secret(KEY, 3, b"JBSWY3DP", purpose="totp", aad=b"usr_1")

    assert at_rest.open_secret(KEY, sealed, purpose="totp", aad=b"usr_1") == b"JBSWY3DP"
    for purpose, aad in (("oidc", b"usr_1"), ("totp", b"usr_2")):
        with pytest.raises(Damaged):
            at_rest.open_secret(KEY, sealed, purpose=purpose, aad=aad)


# ── providers ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir(mode=0o700)
    return made


def wrap(keys: KeyProvider, key_id: int = 1) -> bytes:
    return keys.wrap(key_id, KEY, b"org")


def test_key_files_are_made_numbered_private_and_differ(folder: Path) -> None:
    keys = FileKeys(folder)

    assert keys.current() is None
    assert [keys.create(), keys.create()] == [1, 2]
    assert keys.current() == 2
    assert sorted(path.name for path in folder.iterdir()) == ["kek-1.key", "kek-2.key"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o400}
    assert keys.unwrap(1, wrap(keys), b"org") == KEY
    with pytest.raises(Unavailable, match="not the key"):
        keys.unwrap(2, wrap(keys), b"org")


def test_a_key_that_was_half_written_is_no_key(folder: Path) -> None:
    (folder / ".kek-1.key.x7f3").write_bytes(b"half")
    keys = FileKeys(folder)

    assert keys.current() is None
    assert keys.create() == 1
    assert [path.name for path in folder.glob("[!.]*")] == ["kek-1.key"]
    assert keys.current() == 1


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o444, 0o420, 0o644])
def test_a_key_file_that_others_can_read_is_refused(folder: Path, mode: int) -> None:
    keys = FileKeys(folder)
    keys.create()
    (folder / "kek-1.key").chmod(mode)

    with pytest.raises(Unavailable, match="can be read by others"):
        wrap(keys)


def test_a_folder_that_others_can_write_is_refused(folder: Path) -> None:
    keys = FileKeys(folder)
    keys.create()
    folder.chmod(0o770)

    with pytest.raises(Unavailable, match="can be changed by others"):
        wrap(keys)


def test_a_symbolic_link_is_no_key_file(folder: Path, tmp_path: Path) -> None:
    keys = FileKeys(folder)
    keys.create()
    (folder / "kek-1.key").rename(tmp_path / "elsewhere")
    (folder / "kek-1.key").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Unavailable, match="symbolic link"):
        wrap(keys)


def test_a_key_file_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = FileKeys(folder)
    keys.create()
    owner = (folder / "kek-1.key").stat().st_uid
    if owner == 0:  # Root's files are trusted by all, so let it belong to somebody.
        os.chown(folder / "kek-1.key", 65_534, 65_534)
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)

    with pytest.raises(Unavailable, match="belongs to another user"):
        wrap(keys)


@pytest.mark.parametrize(
    "text", ["", "short", base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(64)).decode(), "ü" * 44]
)
def test_what_is_no_key_is_refused_without_showing_it(folder: Path, text: str) -> None:
    (folder / "kek-1.key").write_text(text)
    (folder / "kek-1.key").chmod(0o600)
    for keys in (FileKeys(folder), EnvironmentKeys({"SECURECHAT_KEK_1": text})):
        with pytest.raises(Unavailable) as refusal:
            wrap(keys)
        assert not text or text not in refusal.value.detail


def test_missing_keys_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(Unavailable, match=r"kek-1\.key is missing"):
        wrap(FileKeys(folder))
    with pytest.raises(Unavailable, match="SECURECHAT_KEK_1 is not set"):
        wrap(EnvironmentKeys({}))
    with pytest.raises(Unavailable, match="cannot be read"):
        FileKeys(tmp_path / "none").current()


def test_keys_of_the_environment_are_made_elsewhere() -> None:
    keys = EnvironmentKeys({"SECURECHAT_KEK_1": base64.b64encode(KEY).decode(), "SECURECHAT_KEK_x": "", "OTHER": ""})

    assert keys.current() == 1
    assert keys.unwrap(1, wrap(keys), b"org") == KEY
    with pytest.raises(Unavailable, match="SECURECHAT_KEK_2"):
        keys.create()
