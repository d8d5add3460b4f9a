"""TokenKeys: the keys that sign access tokens. One signs; those before it verify until their last token has ended.

So a rotation refuses nobody: what an earlier key signed holds to its end, in this process and after a restart.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from joserfc.jwk import OKPKey

from securechat.domain.ids import new_id
from securechat.errors import Conflict, Shutdown
from securechat.files import read_private, write_private

KEY: Final = "key"
"""The prefix of a key id."""
KEYS_MAX: Final = 32
"""Keys at the same time. Rotating is refused past it: dropping one would refuse tokens that hold."""


class _Stored(msgspec.Struct, kw_only=True):
    """A key in the file. Times in seconds since 1970; `retired_at` is 0 for the one that signs."""

    id: str
    created_at: float
    retired_at: float = 0
    private: str


class _File(msgspec.Struct, kw_only=True):
    keys: list[_Stored]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key: it signs unless `retired_at`, in seconds since 1970, is set."""

    id: str
    created_at: float
    retired_at: float
    pair: OKPKey


class TokenKeys:
    """The list of keys, newest first, and the file that holds it.

    Args:
        path: The file, mode 0600; made with a first key when it is missing. Every change is on the disk before it is used.
        overlap_s: How long a retired key verifies: the life of a token, and what clocks may differ.
        now: Seconds since 1970.

    Raises:
        Shutdown: The file is damaged, or others can read it.
    """

    def __init__(self, path: Path, *, overlap_s: float, now: float) -> None:
        self._path = path
        self._overlap_s = overlap_s
        self._lock = threading.Lock()
        self._stamp = 0
        if path.exists():
            self._stamp = path.stat().st_mtime_ns
            self.keys = _read(path)
        else:
            self.keys = (_fresh(now),)
            self._write(self.keys)

    @property
    def signing(self) -> SigningKey:
        """The key that signs."""
        return self.keys[0]

    def reload(self) -> None:
        """Read the file again if somebody else wrote it.

        Raises:
            Shutdown: It is damaged; the keys stay as they are.
        """
        with self._lock:
            stamp = self._path.stat().st_mtime_ns if self._path.exists() else self._stamp
            if stamp != self._stamp:
                self.keys = _read(self._path)
                self._stamp = stamp

    def holds(self, key: SigningKey, now: float) -> bool:
        """Return whether a key verifies at this time."""
        return not key.retired_at or now < key.retired_at + self._overlap_s

    def verifies_until(self, key: SigningKey) -> float:
        """Return when a retired key ends, in seconds since 1970; 0 for the one that signs."""
        return key.retired_at + self._overlap_s if key.retired_at else 0.0

    def rotate(self, now: float, *, drop: bool = False) -> None:
        """Make a new key that signs from now on, and forget those that ended.

        Args:
            now: Seconds since 1970.
            drop: Forget all earlier ones, as after a theft.

        Raises:
            Conflict: There are too many that still verify.
        """
        with self._lock:
            earlier = [] if drop else [key for key in self.keys if self.holds(key, now)]
            if len(earlier) >= KEYS_MAX:
                raise Conflict("There were too many rotations just now; wait until the earlier keys have ended.")
            retired = [SigningKey(key.id, key.created_at, key.retired_at or now, key.pair) for key in earlier]
            keys = (_fresh(now), *retired)
            self._write(keys)
            self.keys = keys

    def _write(self, keys: tuple[SigningKey, ...]) -> None:
        stored = [
            _Stored(
                id=key.id, created_at=key.created_at, retired_at=key.retired_at, private=key.pair.as_pem(private=True).decode()
            )
            for key in keys
        ]  # fmt: skip
        write_private(self._path, msgspec.json.format(msgspec.json.encode(_File(keys=stored))))
        self._stamp = self._path.stat().st_mtime_ns


def _fresh(now: float) -> SigningKey:
    return SigningKey(new_id(KEY), now, 0.0, OKPKey.generate_key("Ed25519"))


def _read(path: Path) -> tuple[SigningKey, ...]:
    try:
        found = msgspec.json.decode(read_private(path), type=_File)
        keys = tuple(SigningKey(key.id, key.created_at, key.retired_at, OKPKey.import_key(key.private)) for key in found.keys)
    except (msgspec.DecodeError, ValueError) as error:
        raise Shutdown(
            f"{path} is damaged. Restore it from a backup, or delete it: everybody's access token is renewed."
        ) from error
    if not keys or keys[0].retired_at:
        raise Shutdown(f"{path} holds no key that signs. Restore it from a backup, or delete it.")
    return keys
