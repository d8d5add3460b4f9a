"""IdentityKeys: by which keys this server is known, which one signs now, and the list of them that the offline root signed.

`keys/identity.json` names the keys and when they hold; each private key is a file of its own. `securechat keys` changes them, while
the server runs or not: it looks at the files again. What it cannot read then is told, and the keys that it has stay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from securechat.crypto.identity import IdentityKey
from securechat.errors import Shutdown
from securechat.files import read_private, write_private
from securechat.protocol.key_list import LIST_S, KeyList, ListedKey, SignedKeyList, sign_list

log = logging.getLogger(__name__)

INDEX: Final = "identity.json"
NEXT_AFTER_S: Final = 30 * 86_400
"""A next key is listed this long before it signs, so that every client has heard of it."""
LOOK_S: Final = 2.0


class KeyRecord(msgspec.Struct, kw_only=True):
    """One key. Times in seconds since 1970.

    Attributes:
        kid: Its id, in hex.
        not_before: It signs from then on.
        not_after: It does not sign any more; 0 for no end.
    """

    kid: str
    not_before: int
    not_after: int = 0


class IdentityKeys:
    """The keys of one data folder.

    Args:
        folder: The data folder's `keys`.
        bits: Of new keys.
    """

    def __init__(self, folder: Path, bits: int = 2_048) -> None:
        self._folder = folder
        self._index = folder / INDEX
        self.published_path = folder / "identity-list.json"
        self._bits = bits
        self._records: list[KeyRecord] = []
        self._keys: dict[bytes, IdentityKey] = {}
        self._stamp = -1
        self._problem = ""
        self._looked = float("-inf")
        self._root = ""
        self._root_looked = float("-inf")

    def load(self) -> None:
        """Read the keys, and make the first one.

        Raises:
            Shutdown: They cannot be used.
        """
        if not self._index.exists():
            self.add(not_before=0)
        self._read()

    @property
    def problem(self) -> str:
        """Why keys that changed were not taken, one line; empty when all is well."""
        self._look()
        return self._problem

    def records(self) -> list[KeyRecord]:
        """Return every key, oldest first."""
        self._look()
        return list(self._records)

    def choose(self, pins: Collection[bytes]) -> IdentityKey:
        """See `protocol.handshake.Identities`."""
        self._look()
        now = time.time()
        alive = [each for each in self._records if each.not_before <= now and not 0 < each.not_after <= now]
        pinned = [each for each in alive if bytes.fromhex(each.kid) in pins]
        chosen = max(pinned or alive or self._records, key=lambda each: each.not_before)
        return self._keys[bytes.fromhex(chosen.kid)]

    def pins(self) -> list[str]:
        """Return the ids, in hex, of the keys that sign now or later: what a client should know this server by."""
        self._look()
        now = time.time()
        return [each.kid for each in self._records if not 0 < each.not_after <= now][-8:]

    def add(self, *, not_before: int) -> KeyRecord:
        """Make a key that signs from this time on; those before it end a while later, when every client has the new one."""
        key = IdentityKey.generate(self._bits)
        record = KeyRecord(kid=key.key_id.hex(), not_before=not_before)
        write_private(self._path(record), key.pem())
        for each in self._records:
            if not each.not_after:
                each.not_after = not_before + NEXT_AFTER_S
        self._records.append(record)
        write_private(self._index, msgspec.json.format(msgspec.json.encode(self._records)))
        self._keys[key.key_id] = key
        return record

    def publish(self, host: str, root: IdentityKey) -> KeyList:
        """Sign the list of keys with the offline root and put it where the server shows it."""
        self._look()
        serial = 1
        if self.published_path.exists():
            serial = msgspec.json.decode(self.published_path.read_bytes(), type=SignedKeyList).read().serial + 1
        now = int(time.time())
        keys = [ListedKey(kid=each.kid, nbf=each.not_before, naf=each.not_after) for each in self._records]
        made = KeyList(host=host, serial=serial, issued=now, expires=now + LIST_S, keys=keys)
        write_private(self.published_path, msgspec.json.encode(sign_list(made, root)))
        return made

    def published(self) -> bytes | None:
        """Return the signed list, if there is one."""
        try:
            return self.published_path.read_bytes()
        except OSError:
            return None

    def root(self) -> str:
        """Return the id of the root that signed the published list, in hex; empty without one."""
        now = time.monotonic()
        if now - self._root_looked >= LOOK_S:
            self._root_looked = now
            try:
                self._root = msgspec.json.decode(self.published() or b"", type=SignedKeyList).root_kid
            except msgspec.DecodeError:
                self._root = ""
        return self._root

    def _path(self, record: KeyRecord) -> Path:
        return self._folder / f"identity-{record.kid[:16]}.pem"

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        try:
            if self._index.stat().st_mtime_ns == self._stamp:
                return
            self._read()
        except (OSError, Shutdown) as error:
            # This is a handshake of anybody, or a probe: it neither ends the server nor goes without an answer.
            problem = str(error) if isinstance(error, Shutdown) else f"The identity keys cannot be used: {error}"
            if problem != self._problem:
                log.error("identity keys refused, the old ones stay", extra={"reason": problem})  # noqa: TRY400 - no traceback helps
            self._problem = problem
            self._stamp = -1  # Looked at again, until it is repaired.
        else:
            self._problem = ""

    def _read(self) -> None:
        try:
            self._stamp = self._index.stat().st_mtime_ns
            records = msgspec.json.decode(self._index.read_bytes(), type=list[KeyRecord])
            keys = {}
            for record in records:
                keys[bytes.fromhex(record.kid)] = IdentityKey.load(read_private(self._path(record)))
        except (OSError, TypeError, ValueError, msgspec.DecodeError) as error:
            raise Shutdown(f"The identity keys in {self._folder} cannot be used: {error}") from error
        if not records or any(key.key_id != key_id for key_id, key in keys.items()):
            raise Shutdown(f"The identity keys in {self._folder} do not fit {self._index.name}.")
        self._records, self._keys = records, keys
