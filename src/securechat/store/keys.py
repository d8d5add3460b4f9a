"""The key store: organisation keys and the rooms' data keys, wrapped in the database, unwrapped in memory.

The organisation keys are unwrapped once, at the start. From then on nothing here waits: a new room key is made and wrapped in
microseconds, inside the group commit that needs it, and is stored by that commit.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from securechat.crypto import at_rest
from securechat.crypto.key_provider import KeyProvider
from securechat.domain.ids import new_id
from securechat.domain.ports import Clock
from securechat.errors import Unavailable
from securechat.store.database import Database, Dialect, Duplicate, Row, Transaction

ROOM_KEYS_CACHED: Final = 10_000
CIPHERS_CACHED: Final = 16
"""Message keys kept per room key; deriving one again costs 2 µs."""
KEY_LIFE_MS: Final = 30 * 86_400_000
"""Age at which a room gets a new data key."""
KEY_PLACES: Final = 2**24
"""Places of the log after which a room gets a new data key."""

_ROOM_KEY: Final = "room_id, version, org_version, wrapped, created_at, first_seq, retired_at, erased_seq"
_NEWEST: Final = (
    f"SELECT {_ROOM_KEY} FROM room_keys WHERE room_id = ? AND wrapped IS NOT NULL AND retired_at IS NULL"
    " ORDER BY version DESC LIMIT 1"
)


@dataclass(slots=True)
class RoomKey:
    """A room's data key.

    Attributes:
        place: Installation and room, the beginning of what each text belongs to (`sealing.aad_of`).
        data_key: 32 bytes, or None when it was destroyed.
        first_seq: The place that it was made for.
        retired: Whether it only opens, until everything is sealed again with a newer one.
        erased_seq: Place of the entry that destroyed it.
    """

    room_id: str
    place: str
    version: int
    data_key: bytes | None = field(repr=False)
    created_at: int
    first_seq: int
    retired: bool = False
    erased_seq: int | None = None
    _ciphers: dict[int, at_rest.TextCipher] = field(default_factory=dict, repr=False)

    def cipher(self, seq: int) -> at_rest.TextCipher:
        """Return what seals and opens the text of this place.

        Raises:
            Damaged: The key was destroyed.
        """
        block = seq // at_rest.PLACES_PER_KEY
        found = self._ciphers.get(block)
        if found is None:
            if self.data_key is None:
                raise at_rest.Damaged
            if len(self._ciphers) >= CIPHERS_CACHED:
                self._ciphers.clear()
            found = self._ciphers[block] = at_rest.TextCipher(self.data_key, self.version, block)
        return found

    def is_spent(self, seq: int, at: int) -> bool:
        """Return whether a text at this place and time (milliseconds since 1970) wants a newer key."""
        return at - self.created_at > KEY_LIFE_MS or seq - self.first_seq >= KEY_PLACES


class KeyStore:
    """Gives keys.

    Args:
        database: Where they are, wrapped.
        provider: Who holds the key that wraps them.
        clock: For the dates of keys.
    """

    def __init__(self, database: Database, provider: KeyProvider, clock: Clock) -> None:
        self._db = database
        self.provider = provider
        self._clock = clock
        self._org_keys: dict[int, bytes] = {}
        self._org_id = ""
        self._newest: OrderedDict[str, RoomKey] = OrderedDict()
        self._by_version: OrderedDict[tuple[str, int], RoomKey] = OrderedDict()

    # ── organisation keys ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def org_id(self) -> str:
        """Name of this installation, part of what is authenticated with each text."""
        self._require_org_keys()
        return self._org_id

    @property
    def org_version(self) -> int:
        """Version of the organisation key that wraps from now on."""
        self._require_org_keys()
        return max(self._org_keys)

    def org_key(self, version: int) -> bytes:
        """Return an organisation key.

        Raises:
            Damaged: There is none with this version.
        """
        self._require_org_keys()
        try:
            return self._org_keys[version]
        except KeyError as error:
            raise at_rest.Damaged from error

    async def unlock(self) -> None:
        """Unwrap the organisation keys; make the first one; wrap them again if the provider has a newer key.

        Raises:
            Unavailable: The provider does not give the key.
        """
        loop = asyncio.get_running_loop()
        rows = await self._org_rows()
        if not rows:
            try:
                await self.add_org_key(await loop.run_in_executor(None, self._first_kek))
            except Duplicate:  # Another server started at the same moment.
                rows = await self._org_rows()
            else:
                return
        self._take(rows, await loop.run_in_executor(None, self._unwrap, rows))
        kek = await loop.run_in_executor(None, self.provider.current)
        if kek is not None and any(row[2] != kek for row in rows):
            await self._rewrap(kek)

    async def add_org_key(self, kek: int, also: Callable[[Transaction], Awaitable[None]] | None = None) -> None:
        """Make the next organisation key, and wrap all of them with this key-encryption key, in one transaction.

        Args:
            kek: Number of the key.
            also: What else belongs into the transaction; room keys are read anew after it.
        """
        org_id = self._org_id or new_id("org")
        version = max(self._org_keys, default=0) + 1
        key = at_rest.new_key()
        loop = asyncio.get_running_loop()
        wrapped = await loop.run_in_executor(None, self.provider.wrap, kek, key, org_aad(org_id, version))
        older = await loop.run_in_executor(None, self._wrap_all, kek)
        async with self._db.transaction() as transaction:
            await self._store_wraps(transaction, kek, older)
            await transaction.execute(
                "INSERT INTO org_keys (version, org_id, kek, wrapped, created_at) VALUES (?, ?, ?, ?, ?)",
                (version, org_id, kek, wrapped, self._clock.now_ms()),
            )
            if also is not None:
                await also(transaction)
        self.forget_all()
        self._org_id = org_id
        self._org_keys[version] = key
        self._db.erase_soon()  # The old wraps are still in the WAL.

    async def _rewrap(self, kek: int) -> None:
        older = await asyncio.get_running_loop().run_in_executor(None, self._wrap_all, kek)
        async with self._db.transaction() as transaction:
            await self._store_wraps(transaction, kek, older)
        self._db.erase_soon()

    @staticmethod
    async def _store_wraps(transaction: Transaction, kek: int, wraps: dict[int, bytes]) -> None:
        for version, wrapped in wraps.items():
            await transaction.execute("UPDATE org_keys SET kek = ?, wrapped = ? WHERE version = ?", (kek, wrapped, version))

    def _wrap_all(self, kek: int) -> dict[int, bytes]:
        return {version: self.provider.wrap(kek, key, org_aad(self._org_id, version)) for version, key in self._org_keys.items()}

    def _first_kek(self) -> int:
        return self.provider.current() or self.provider.create()

    def _require_org_keys(self) -> None:
        if not self._org_keys:
            raise Unavailable("There are no storage keys yet. Start the server once.")

    async def require_org_keys(self) -> None:
        """Unwrap at the first need, where nobody called `unlock`: a single command on the data folder of a stopped server.

        Raises:
            Unavailable: There are none.
        """
        if not self._org_keys:
            rows = await self._org_rows()
            if rows:
                self._take(rows, self._unwrap(rows))
            self._require_org_keys()

    async def _have_org_keys(self, rows: list[Row]) -> None:
        """Read the organisation keys anew if another server made one that wraps one of these rooms' keys."""
        if any(row[3] is not None and row[2] not in self._org_keys for row in rows):
            found = await self._org_rows()
            self._take(found, await asyncio.get_running_loop().run_in_executor(None, self._unwrap, found))

    async def _org_rows(self) -> list[Row]:
        return await self._db.read("SELECT version, org_id, kek, wrapped FROM org_keys ORDER BY version")

    def _unwrap(self, rows: list[Row]) -> dict[int, bytes]:
        return {version: self.provider.unwrap(kek, wrapped, org_aad(org_id, version)) for version, org_id, kek, wrapped in rows}

    def _take(self, rows: list[Row], keys: dict[int, bytes]) -> None:
        self._org_keys = keys
        self._org_id = str(rows[0][1])

    # ── room keys ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def newest(self, room_id: str) -> RoomKey | None:
        """Return the committed key that seals new texts of a room, or None when the next one has to be made."""
        found = self._newest.get(room_id)
        if found is not None:
            self._newest.move_to_end(room_id)
            return found
        await self.require_org_keys()
        rows = await self._db.for_room(room_id).read(_NEWEST, (room_id,))
        if not rows:
            return None
        await self._have_org_keys(rows)
        key = self._unwrap_room_key(rows[0])
        self._remember(key)
        return key

    async def newest_in(self, transaction: Transaction, room_id: str) -> RoomKey | None:
        """Return what `newest` does, so that it stays the newest until the transaction ends."""
        if transaction.dialect is Dialect.SQLITE:
            return await self.newest(room_id)  # There is no other writer.
        await self.require_org_keys()
        rows = await transaction.execute(_NEWEST + " FOR SHARE", (room_id,))
        if not rows:
            return None
        await self._have_org_keys(rows)
        key = self._unwrap_room_key(rows[0])
        self._remember(key)
        return key

    async def load(self, room_id: str, versions: Iterable[int]) -> None:
        """Have these committed keys of a room in memory; what there is not stays away."""
        missing = sorted(version for version in versions if (room_id, version) not in self._by_version)
        if not missing:
            return
        await self.require_org_keys()
        place = self._db.for_room(room_id)
        # Whoever read the texts a moment ago may have read them where the room has moved since, or has not been yet.
        for database in (place, *(each for each in self._db.parts if each is not place)):
            marks = ", ".join("?" * len(missing))
            rows = await database.read(
                f"SELECT {_ROOM_KEY} FROM room_keys WHERE room_id = ? AND version IN ({marks})", (room_id, *missing)
            )
            await self._have_org_keys(rows)
            for row in rows:
                missing.remove(row[1])
                with suppress(at_rest.Damaged):
                    self._keep(self._unwrap_room_key(row))
            if not missing:
                return

    def by_version(self, room_id: str, version: int) -> RoomKey:
        """Return a committed key of a room that was loaded.

        Raises:
            Damaged: There is none with this version, or it does not open.
        """
        found = self._by_version.get((room_id, version))
        if found is None:
            raise at_rest.Damaged
        return found

    async def make(self, transaction: Transaction, room_id: str, *, seq: int, at: int) -> RoomKey:
        """Make a room's next key inside a transaction. It counts when that commits: then call `adopt`."""
        await self.require_org_keys()
        ((last,),) = await transaction.execute("SELECT coalesce(max(version), 0) FROM room_keys WHERE room_id = ?", (room_id,))
        key = RoomKey(room_id, self._place(room_id), last + 1, at_rest.new_key(), at, seq)
        org_version = self.org_version
        wrapped = self.wrap_room_key(key.room_id, key.version, org_version, key.data_key or b"")
        await transaction.execute(
            "INSERT INTO room_keys (room_id, version, org_version, wrapped, created_at, first_seq) VALUES (?, ?, ?, ?, ?, ?)",
            (room_id, key.version, org_version, wrapped, at, seq),
        )
        return key

    def adopt(self, key: RoomKey) -> None:
        """Take a key that was made, after its commit."""
        self._remember(key)

    def forget(self, room_id: str) -> None:
        """Drop what is in memory of a room's keys."""
        self._newest.pop(room_id, None)
        for place in [place for place in self._by_version if place[0] == room_id]:
            del self._by_version[place]

    def forget_all(self) -> None:
        """Drop all room keys from memory: they were changed in the database."""
        self._newest.clear()
        self._by_version.clear()

    def wrap_room_key(self, room_id: str, version: int, org_version: int, data_key: bytes) -> bytes:
        """Wrap a room's key with an organisation key."""
        return at_rest.wrap_key(self._org_keys[org_version], data_key, self._room_aad(room_id, version))

    def unwrap_room_key(self, room_id: str, version: int, org_version: int, wrapped: bytes) -> bytes:
        """Open a room's key.

        Raises:
            Damaged: It was changed.
        """
        return at_rest.unwrap_key(self.org_key(org_version), wrapped, self._room_aad(room_id, version))

    def _unwrap_room_key(self, row: Row) -> RoomKey:
        room_id, version, org_version, wrapped, created_at, first_seq, retired_at, erased_seq = row
        data_key = None if wrapped is None else self.unwrap_room_key(room_id, version, org_version, wrapped)
        return RoomKey(room_id, self._place(room_id), version, data_key, created_at, first_seq, retired_at is not None, erased_seq)

    def _remember(self, key: RoomKey) -> None:
        self._newest[key.room_id] = key
        if len(self._newest) > ROOM_KEYS_CACHED:
            self._newest.popitem(last=False)
        self._keep(key)

    def _keep(self, key: RoomKey) -> None:
        self._by_version[key.room_id, key.version] = key
        if len(self._by_version) > ROOM_KEYS_CACHED:
            self._by_version.popitem(last=False)

    def _place(self, room_id: str) -> str:
        return f"{self.org_id}\0{room_id}\0"

    def _room_aad(self, room_id: str, version: int) -> bytes:
        return f"sc/room/v1\0{self.org_id}\0{room_id}\0{version}".encode()


def org_aad(org_id: str, version: int) -> bytes:
    """Return what a wrapped organisation key belongs to."""
    return f"sc/org/v1\0{org_id}\0{version}".encode()
