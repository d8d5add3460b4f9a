"""Sealing: texts leave this process sealed, and come back open. Everything above the store sees text only.

Sealed with a text, and so not to be changed without it: the installation, the room, `seq`, the type, the time, the author, the
target and the rarer fields of its entry. Not sealed, because queries need it: those same fields, sizes, names and members of rooms.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from securechat.crypto import at_rest
from securechat.crypto.at_rest import PLACES_PER_KEY, Damaged
from securechat.domain.entries import Entry, EntryType
from securechat.errors import Internal
from securechat.store.database import Row, Transaction
from securechat.store.keys import KeyStore, RoomKey

log = logging.getLogger(__name__)

COLUMNS: Final = "seq, type, at, user_id, device_id, cmid, target, body, extra, edit_seq, deleted_seq, sealed"
"""Of an entry's row, as it is read."""
SETTING: Final = "at_rest"
"""Key in the table `settings`: `on` or `off`, what the server was last started with."""


class Sealing:
    """Opens texts, and gives what seals them.

    Args:
        keys: The key store.

    Attributes:
        on: Whether new texts are sealed. What is sealed is opened either way.
        damaged: Texts that did not open, since the start.
    """

    def __init__(self, keys: KeyStore) -> None:
        self.keys = keys
        self.on = False
        self.damaged = 0

    def sealer(self, transaction: Transaction | None, now: int | None = None) -> Sealer:
        """Return what seals the texts of one transaction. `now` is given where they are older than the transaction."""
        return Sealer(self.keys, transaction, now)

    async def known_keys(self, entries: Sequence[Entry]) -> dict[str, RoomKey] | None:
        """Return the keys that seal the texts of these entries by room, or None when one has to be made."""
        found: dict[str, RoomKey] = {}
        for entry in entries:
            if entry.body is not None:
                key = found.get(entry.room) or await self.keys.newest(entry.room)
                if key is None or key.is_spent(entry.seq, entry.at):
                    return None
                found[entry.room] = key
        return found

    def committed(self, entries: Sequence[Entry], sealer: Sealer | None) -> None:
        """Take in what a commit did to the keys: rooms were shredded, keys were made."""
        for entry in entries:
            if entry.type is EntryType.ROOM_ERASED:
                self.keys.forget(entry.room)
        for key in sealer.made if sealer is not None else ():
            self.keys.adopt(key)

    async def open(self, entries: Sequence[Entry], rows: Sequence[Row]) -> None:
        """Put the texts of one room's entries into them, as `open_known` does, with the keys that this needs."""
        heads = {row[11][:5] for row in rows if row[11] is not None}
        if heads:
            await self.keys.load(entries[0].room, {at_rest.version_in(head) for head in heads})
            self.open_known(entries, rows)

    def open_known(self, entries: Sequence[Entry], rows: Sequence[Row]) -> None:
        """Put the texts of one room's entries, as far as they are sealed, into them.

        A text whose key was destroyed, or that was changed by others, comes back deleted: as absent, never as something else.

        Args:
            entries: Made of the rows.
            rows: In the order of `COLUMNS`.
        """
        head, block, key, cipher = b"", -1, None, None
        for entry, row in zip(entries, rows, strict=True):
            sealed = row[11]
            if sealed is None:
                continue
            seq, kind, at, user, _, _, target, _, extra, _, _, _ = row
            try:
                if key is None or cipher is None or sealed[:5] != head or seq // PLACES_PER_KEY != block:
                    key = self.key_of(entry.room, sealed)
                    if key.data_key is None:
                        entry.deleted = key.erased_seq or seq
                        key = None
                        continue
                    head, block, cipher = sealed[:5], seq // PLACES_PER_KEY, key.cipher(seq)
                entry.body = cipher.open(sealed, aad_of(key.place, seq, kind, at, user, target, extra)).decode()
            except Damaged:
                self.damaged += 1
                entry.deleted = entry.deleted or seq
                log.error("a stored text is damaged", extra={"room": entry.room, "seq": seq})  # noqa: TRY400 - a traceback tells nothing

    def key_of(self, room_id: str, sealed: bytes) -> RoomKey:
        """Return the key that seals a text; it was loaded.

        Raises:
            Damaged: There is none.
        """
        return self.keys.by_version(room_id, at_rest.version_of(sealed))


class Sealer:
    """Seals the texts of one transaction.

    Args:
        keys: The key store.
        transaction: New keys are stored with the texts that they seal. None where only keys that there are will be used.
        now: Milliseconds since 1970; None for the time of each entry.

    Attributes:
        made: Keys made in this transaction, for `KeyStore.adopt` after its commit.
    """

    __slots__ = ("_in_use", "_keys", "_now", "_transaction", "made")

    def __init__(self, keys: KeyStore, transaction: Transaction | None, now: int | None) -> None:
        self._now = now
        self._keys = keys
        self._transaction = transaction
        self._in_use: dict[str, RoomKey | None] = {}
        self.made: list[RoomKey] = []

    def use(self, keys: Mapping[str, RoomKey]) -> None:
        """Seal with these."""
        self._in_use.update(keys)

    async def prepare(self, entry: Entry) -> None:
        """Have the key that seals the text of this entry."""
        if self._in_use.get(entry.room) is None:
            await self._choose(entry)

    def seal(self, entry: Entry, extra: str | None) -> bytes:
        """Return the sealed text of an entry that has one, and was prepared for."""
        key = self._in_use[entry.room]
        if key is None:
            raise Internal
        aad = aad_of(key.place, entry.seq, entry.type, entry.at, entry.user, entry.target, extra)
        return key.cipher(entry.seq).seal((entry.body or "").encode(), aad)

    def renew(self, room_id: str) -> None:
        """Seal what follows in this room with a new key: the old one is destroyed by this transaction."""
        self._in_use[room_id] = None
        self.made = [key for key in self.made if key.room_id != room_id]

    async def _choose(self, entry: Entry) -> None:
        if self._transaction is None:
            raise Internal
        renewed = entry.room in self._in_use
        key = None if renewed else await self._keys.newest_in(self._transaction, entry.room)
        at = entry.at if self._now is None else self._now
        if key is None or key.is_spent(entry.seq, at):
            key = await self._keys.make(self._transaction, entry.room, seq=entry.seq, at=at)
            self.made.append(key)
        self._in_use[entry.room] = key


def aad_of(place: str, seq: int, kind: str, at: int, user: str, target: int | None, extra: str | None) -> bytes:
    """Return what a text belongs to. No field but the last can hold a NUL, so no two entries have the same.

    Args:
        place: `RoomKey.place`.
        seq: Place in the room's log.
        kind: Type of the entry.
        at: Milliseconds since 1970.
        user: Who wrote it.
        target: `seq` of the message that an edit is for.
        extra: Rarer fields, as stored.
    """
    return f"{place}{seq}\0{kind}\0{at}\0{user}\0{target or 0}\0{extra or ''}".encode()


class Secrets:
    """Small secrets that have to be readable again. Sealed whether texts are or not. See `domain.ports.SecretBox`.

    Args:
        keys: The key store.
    """

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    def seal(self, secret: bytes, *, purpose: str, owner: str) -> bytes:
        """See `SecretBox.seal`."""
        version = self._keys.org_version
        return at_rest.seal_secret(self._keys.org_key(version), version, secret, purpose=purpose, aad=self._aad(purpose, owner))

    def open(self, sealed: bytes, *, purpose: str, owner: str) -> bytes:
        """See `SecretBox.open`."""
        found = self.try_open(sealed, purpose=purpose, owner=owner)
        if found is None:
            log.error("a stored secret is damaged", extra={"purpose": purpose, "owner": owner})
            raise Internal
        return found

    def try_open(self, sealed: bytes, *, purpose: str, owner: str) -> bytes | None:
        """See `SecretBox.try_open`."""
        try:
            org_key = self._keys.org_key(at_rest.version_of(sealed))
            return at_rest.open_secret(org_key, sealed, purpose=purpose, aad=self._aad(purpose, owner))
        except Damaged:
            return None

    def is_current(self, sealed: bytes) -> bool:
        """See `SecretBox.is_current`."""
        return at_rest.version_of(sealed) == self._keys.org_version

    def _aad(self, purpose: str, owner: str) -> bytes:
        return f"{self._keys.org_id}\0{purpose}\0{owner}".encode()
