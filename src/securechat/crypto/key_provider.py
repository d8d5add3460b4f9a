"""Key providers: who holds the key-encryption key (KEK). A directory of files, the environment, later a KMS.

A provider is asked at the start and at a rotation, in a thread, never while a transaction runs: it may wait for a network.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from securechat.crypto.at_rest import KEY_BYTES, Damaged, new_key, unwrap_key, wrap_key
from securechat.errors import Unavailable
from securechat.files import write_private

ENVIRONMENT: Final = "SECURECHAT_KEK_"
"""Prefix of the variables of `EnvironmentKeys`; the number of the key follows."""

_FILE: Final = re.compile(r"kek-([1-9][0-9]{0,8})\.key")


class KeyProvider(Protocol):
    """Holds key-encryption keys, numbered; the highest number is current, the others only open."""

    @property
    def description(self) -> str:
        """Say where the keys are, for a person; never a key."""

    def current(self) -> int | None:
        """Return the number of the key that wraps from now on; None when there is none yet.

        Raises:
            Unavailable: The keys cannot be used.
        """

    def create(self) -> int:
        """Make the next key and return its number.

        Raises:
            Unavailable: This provider's keys are made elsewhere.
        """

    def wrap(self, key_id: int, key: bytes, aad: bytes) -> bytes:
        """Seal a key.

        Raises:
            Unavailable: There is no such key, or it may not be used.
        """

    def unwrap(self, key_id: int, wrapped: bytes, aad: bytes) -> bytes:
        """Open a key.

        Raises:
            Unavailable: There is no such key, or it does not open this.
        """


class _LocalKeys:
    """What providers share that get the key itself."""

    description = ""

    def wrap(self, key_id: int, key: bytes, aad: bytes) -> bytes:
        """See `KeyProvider.wrap`."""
        return wrap_key(self._key(key_id), key, aad)

    def unwrap(self, key_id: int, wrapped: bytes, aad: bytes) -> bytes:
        """See `KeyProvider.unwrap`."""
        try:
            return unwrap_key(self._key(key_id), wrapped, aad)
        except Damaged as error:
            raise Unavailable(f"Key {key_id} from {self.description} is not the key that this data was stored with.") from error

    def _key(self, key_id: int) -> bytes:
        raise NotImplementedError


class FileKeys(_LocalKeys):
    """Files `kek-<number>.key` in one folder: 32 bytes in base64, readable by their owner only.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.description = f"files in {folder}"

    def current(self) -> int | None:
        """See `KeyProvider.current`."""
        try:
            names = [path.name for path in self._folder.iterdir()]
        except OSError as error:
            raise Unavailable(f"The folder of the storage keys, {self._folder}, cannot be read: {error.strerror}.") from error
        return max((int(found[1]) for name in names if (found := _FILE.fullmatch(name))), default=None)

    def create(self) -> int:
        """See `KeyProvider.create`. The file is on the disk when this returns."""
        key_id = (self.current() or 0) + 1
        path = self._path(key_id)
        try:
            write_private(path, base64.b64encode(new_key()) + b"\n", mode=0o400, anew=True)
        except OSError as error:
            raise Unavailable(
                f"{path} cannot be made: {error.strerror}. Put 32 random bytes in base64 there yourself, mode 0400, and restart."
            ) from error
        return key_id

    def _path(self, key_id: int) -> Path:
        return self._folder / f"kek-{key_id}.key"

    def _key(self, key_id: int) -> bytes:
        path = self._path(key_id)
        try:
            folder = self._folder.stat()
        except OSError as error:
            raise Unavailable(f"The folder of the storage keys, {self._folder}, cannot be read: {error.strerror}.") from error
        _require_private(folder, str(self._folder), writable_only=True)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Unavailable(f"{path} is missing, and stored data needs it. Bring it back from where you keep a copy.") from error
        except OSError as error:
            raise Unavailable(f"{path} cannot be used (a symbolic link?): {error.strerror}.") from error
        try:
            _require_private(os.fstat(file), str(path), writable_only=False)
            return _decode(os.read(file, 256).decode("ascii", "replace"), str(path))
        finally:
            os.close(file)


class EnvironmentKeys(_LocalKeys):
    """Variables `SECURECHAT_KEK_<number>`, 32 bytes in base64 each: for tests and containers without files.

    Args:
        environ: The environment.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._keys = {
            int(name.removeprefix(ENVIRONMENT)): text
            for name, text in environ.items()
            if name.startswith(ENVIRONMENT) and name.removeprefix(ENVIRONMENT).isdecimal()
        }
        self.description = "the environment"

    def current(self) -> int | None:
        """See `KeyProvider.current`."""
        return max(self._keys, default=None)

    def create(self) -> int:
        """See `KeyProvider.create`."""
        number = (self.current() or 0) + 1
        raise Unavailable(f"Keys in the environment are made elsewhere: set {ENVIRONMENT}{number} and restart.")

    def _key(self, key_id: int) -> bytes:
        name = f"{ENVIRONMENT}{key_id}"
        if key_id not in self._keys:
            raise Unavailable(f"{name} is not set, and stored data needs it.")
        return _decode(self._keys[key_id], name)


def _require_private(status: os.stat_result, what: str, *, writable_only: bool) -> None:
    """Refuse what others than the owner may read (or, for the folder, write), and what belongs to somebody else.

    Raises:
        Unavailable: It is not private.
    """
    forbidden = 0o022 if writable_only else 0o077
    if stat.S_IMODE(status.st_mode) & forbidden:
        verb = "changed" if writable_only else "read"
        raise Unavailable(f"{what} can be {verb} by others than its owner, so it is not used: chmod go= {what}")
    if status.st_uid not in {0, os.geteuid()}:
        raise Unavailable(f"{what} belongs to another user, so it is not used.")


def _decode(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unavailable(f"{where} is not base64.") from error
    if len(key) != KEY_BYTES:
        raise Unavailable(f"{where} has {len(key)} bytes instead of {KEY_BYTES}: openssl rand -base64 {KEY_BYTES}")
    return key
