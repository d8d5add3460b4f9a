"""People spread over three databases, for tests of what hangs off them."""

from __future__ import annotations

from securechat.domain.accounts import Device, User
from securechat.domain.audit import AuditEvent, AuditRecord, Head, hash_after
from securechat.domain.ports import AuditQuery, ExternalRecord, PasskeyRecord, ScopedDevice
from securechat.store.shards import ShardedDatabase
from support.stores import StoreUnderTest

PEOPLE = ANA, BOB, ZOE = "usr_ana", "usr_bob", "usr_zoe"
"""In shard1, at home, and in shard2."""
EVENT = AuditEvent(action="test.event")


def shards_of(store: StoreUnderTest) -> ShardedDatabase:
    """Return its databases."""
    assert isinstance(store.database, ShardedDatabase)
    return store.database


async def add_user(store: StoreUnderTest, user: str, password: str | None = "hash") -> None:
    """Make somebody."""
    await store.accounts.create_user(User(id=user, username=user[4:], display_name="x"), password, 1)


async def log_in(store: StoreUnderTest, user: str, name: str, *, password: str | None = "hash", passkey: str | None = None) -> bool:
    """Open a session; return whether there is one."""
    device = Device(id=f"dev_{name}", name="D", created_at=1, last_seen_at=1)
    event = AuditEvent(action="session.create", actor=user, device=device.id)
    return await store.accounts.recording(event).create_device(
        device, user, refresh_hash=f"r{name}", refresh_family=f"f{name}", password_hash=password, passkey=passkey
    )


async def alive(store: StoreUnderTest, user: str, name: str) -> bool:
    """Return whether a session lives."""
    found = await store.accounts.session(user_id=user, device_id=f"dev_{name}")
    return found is not None and not found.device.revoked


def passkey(name: str, user: str) -> PasskeyRecord:
    """Make one."""
    return PasskeyRecord(name, user, "Key", b"\x00cose", 0, 1, 0)


def external(name: str, user: str, subject: str = "s") -> ExternalRecord:
    """Make an account at a provider."""
    return ExternalRecord(name, user, "https://i", subject, "name", 1, 0)


def scoped(name: str, user: str) -> ScopedDevice:
    """Make an app's session."""
    return ScopedDevice(f"dev_{name}", user, "App", "app_1", ["profile"], 5, 5, refresh_hash=f"r{name}", refresh_family=f"f{name}")


async def records(store: StoreUnderTest) -> list[AuditRecord]:
    """Return the whole audit log, which is a chain."""
    await store.audit.settle()
    found: list[AuditRecord] = []
    while page := await store.audit.page(AuditQuery(after=found[-1].n if found else 0), limit=500):
        found += page
    before: Head | None = None
    for record in found:
        assert record.n == (1 if before is None else before.n + 1)
        assert record.hash == hash_after("0" * 64 if before is None else before.hash, replace_hash(record))
        before = Head(record.chain, record.n, record.hash, record.at)
    for part in store.database.parts:
        assert await part.read("SELECT (SELECT count(*) FROM audit_pending), (SELECT count(*) FROM audit_taken)") == [(0, 0)]
    return found


def replace_hash(record: AuditRecord) -> AuditRecord:
    return AuditRecord(**{name: getattr(record, name) for name in record.__struct_fields__ if name != "hash"})


async def everything(store: StoreUnderTest, user: str) -> None:
    """Have something of a user in every table."""
    assert await log_in(store, user, user)
    await store.accounts.set_block(user, "usr_x", on=True)
    async with store.database.users.transaction(user) as own:
        await own.execute("INSERT INTO commands (user_id, name, definition) VALUES (?, 'poll', '{}')", (user,))
    assert await store.factors.set_totp(user, b"sealed", 7, 1)
    assert await store.factors.add_passkey(passkey(f"key_{user}", user))
    await store.factors.set_recovery_codes(user, ["x", "y"])
    assert await store.oauth.add_external(external(f"ext_{user}", user, user), EVENT)
