"""The contract of `AuditStore`, and of the stores that write what is to be remembered in their own transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from securechat.domain.accounts import Device, User
from securechat.domain.audit import AuditEvent, AuditRecord, Result, canonical, place
from securechat.domain.commands import Invite
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import AuditQuery, LinkRecord, LogTransaction
from securechat.errors import NameTaken, Unavailable
from securechat.store.accounts import SqlAccounts
from securechat.store.audit import SqlAudit
from support.stores import Place, StoreUnderTest

ANA = User(id="usr_ana", username="ana", display_name="Ana")
EVENT = AuditEvent(action="user.create", actor="usr_owner", subject="usr_ana")
ALL = AuditQuery(after=0)


async def actions(stores: StoreUnderTest) -> list[str]:
    return [record.action for record in await stores.audit.page(ALL, limit=1_000)]


@pytest.fixture
async def stores(users_place: Place) -> AsyncIterator[StoreUnderTest]:
    found = await users_place.open()
    yield found
    await found.database.close()


def created(room: str = "rm_1") -> Entry:
    return Entry(type=EntryType.ROOM_CREATED, room=room, seq=1, at=1, user="usr_ana", kind="private", name="x", topic="")


# ── the same transaction ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_account_and_its_record_are_stored_together(stores: StoreUnderTest) -> None:
    await stores.accounts.recording(EVENT).create_user(ANA, None, 1)

    (record,) = await stores.audit.page(ALL, limit=10)
    assert (record.n, record.at, record.action, record.actor, record.subject) == (
        1,
        stores.clock.ms,
        *("user.create",),
        "usr_owner",
        "usr_ana",
    )


async def test_what_is_not_stored_is_not_remembered(stores: StoreUnderTest) -> None:
    await stores.accounts.create_user(ANA, None, 1)

    with pytest.raises(NameTaken):
        await stores.accounts.recording(EVENT).create_user(msgspec.structs.replace(ANA, id="usr_other"), None, 1)
    assert await actions(stores) == []


async def test_what_cannot_be_remembered_is_not_stored(stores: StoreUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise Unavailable

    for name in ("append", "remember"):
        monkeypatch.setattr(stores.audit, name, full)

    with pytest.raises(Unavailable):
        await stores.accounts.recording(EVENT).create_user(ANA, None, 1)
    assert await stores.accounts.account(user_id="usr_ana") is None
    with pytest.raises(Unavailable):
        await stores.log.commit(_room_with_record)
    assert await stores.log.room("rm_1", user_id="usr_ana") is None


async def _room_with_record(transaction: LogTransaction) -> None:
    await transaction.load(["rm_1"], [], [])
    transaction.append(created())
    transaction.record(AuditEvent(action="room.create", actor="usr_ana", room="rm_1"))
    assert len(transaction.recorded) == 1


async def test_a_change_of_a_room_and_its_record_are_stored_together_or_not_at_all(stores: StoreUnderTest) -> None:
    async def fails(transaction: LogTransaction) -> None:
        await _room_with_record(transaction)
        raise Unavailable

    with pytest.raises(Unavailable):
        await stores.log.commit(fails)
    assert await actions(stores) == []
    await stores.log.commit(_room_with_record)
    assert await actions(stores) == ["room.create"]


async def test_a_change_that_changes_nothing_is_not_remembered(stores: StoreUnderTest) -> None:
    recording = stores.accounts.recording(EVENT)

    assert not await recording.update_user("usr_nobody", display_name="x")
    assert await recording.revoke_devices("usr_nobody", None, 1) == []
    assert not await recording.revoke_invite("X")
    assert not await recording.rotate_refresh("usr_ana", "dev_x", "a", "b", 1, "")
    assert await actions(stores) == []


async def test_an_event_is_remembered_once_by_the_first_change(stores: StoreUnderTest) -> None:
    recording = stores.accounts.recording(EVENT, AuditEvent(action="second"))
    await recording.create_user(ANA, None, 1)
    await recording.update_user("usr_ana", display_name="Ana R.")

    assert await actions(stores) == ["user.create", "second"]


async def test_every_writing_method_takes_a_record_along(stores: StoreUnderTest) -> None:
    def recording(action: str) -> SqlAccounts:
        return stores.accounts.recording(AuditEvent(action=action))

    await recording("create_user").create_user(ANA, None, 1)
    await recording("update_user").update_user("usr_ana", display_name="Ana R.")
    device = Device(id="dev_1", name="x", created_at=1, last_seen_at=1)
    await recording("create_device").create_device(device, "usr_ana", refresh_hash="a", refresh_family="f")
    await recording("rotate_refresh").rotate_refresh("usr_ana", "dev_1", "a", "b", 2, "")
    await recording("revoke_devices").revoke_devices("usr_ana", None, 3)
    await recording("create_invite").create_invite(Invite(code="X", uses_left=2, expires_at=9), "usr_ana")
    await recording("use_invite").use_invite("X", 1)
    await recording("unuse_invite").unuse_invite("X")
    await recording("revoke_invite").revoke_invite("X")
    await recording("create_link").create_link("h", LinkRecord("reset", "usr_ana", 9))
    await recording("use_link").use_link("h", "reset", 1)
    await recording("set_block").set_block("usr_ana", "usr_bob", on=True)
    await recording("set_setting").set_setting("k", "v")

    assert await actions(stores) == [
        "create_user", "update_user", "create_device", "rotate_refresh", "revoke_devices", "create_invite", "use_invite",
        "unuse_invite", "revoke_invite", "create_link", "use_link", "set_block", "set_setting",
    ]  # fmt: skip


async def test_ordinary_messages_cost_the_audit_log_nothing(stores: StoreUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    await stores.log.commit(_room_with_record)
    monkeypatch.setattr(stores.audit, "append", None)  # calling it would fail

    async def send(transaction: LogTransaction) -> None:
        await transaction.load(["rm_1"], [], [])
        transaction.append(
            Entry(type=EntryType.MESSAGE_SENT, room="rm_1", seq=2, at=2, user="usr_ana", device="dev_1", cmid="c", body="hello")
        )

    await stores.log.commit(send)
    assert await actions(stores) == ["room.create"]


# ── the chain ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_records_count_on_and_follow_each_other(stores: StoreUnderTest) -> None:
    await stores.audit.write([EVENT, EVENT])
    await stores.audit.write([EVENT])

    found = await stores.audit.page(ALL, limit=10)
    assert [record.n for record in found] == [1, 2, 3]
    assert len({record.hash for record in found}) == 3
    assert len({record.chain for record in found}) == 1
    head = await stores.audit.head()
    assert head is not None
    assert (head.n, head.hash) == (3, found[2].hash)
    assert await stores.audit.head("aud_other") is None


async def test_a_second_process_goes_on_with_the_chain(stores: StoreUnderTest, tmp_path: Path) -> None:
    await stores.audit.write([EVENT])
    other = SqlAudit(stores.database)
    await other.write([EVENT])

    head = await other.head()
    assert head is not None
    assert [(record.n, record.chain) for record in await other.page(ALL, limit=10)] == [(1, head.chain), (2, head.chain)]


async def test_an_empty_log_has_no_head_and_no_page(stores: StoreUnderTest) -> None:
    assert await stores.audit.head() is None
    assert await stores.audit.page(ALL, limit=10) == []


async def test_records_are_found_by_every_filter(stores: StoreUnderTest) -> None:
    def event(number: int, **more: str) -> AuditEvent:
        return msgspec.structs.replace(EVENT, details={"number": number}, **more)

    await stores.audit.write([event(1), event(2, action="user.disable", subject="usr_bob"), event(3, actor="usr_eve", room="rm_1")])
    stores.clock.forward(10)
    await stores.audit.write(
        [event(4, address="10.0.0.1"), msgspec.structs.replace(event(5), action="userx", result=Result.REFUSED)]
    )
    at = stores.clock.ms

    async def numbers(limit: int = 10, **query: object) -> list[object]:
        found = await stores.audit.page(AuditQuery(**query), limit=limit)  # type: ignore[arg-type]
        return [record.details["number"] for record in found]

    assert await numbers() == [5, 4, 3, 2, 1]
    assert await numbers(after=0) == [1, 2, 3, 4, 5]
    assert await numbers(limit=2, before=4) == [3, 2]
    assert await numbers(limit=2, after=2) == [3, 4]
    assert await numbers(action="user.") == [4, 3, 2, 1]
    assert await numbers(action="user.disable") == [2]
    assert await numbers(action="user") == []
    assert await numbers(actor="usr_eve") == [3]
    assert await numbers(subject="usr_bob") == [2]
    assert await numbers(room="rm_1") == [3]
    assert await numbers(address="10.0.0.1") == [4]
    assert await numbers(result="refused") == [5]
    assert await numbers(since=at) == [5, 4]
    assert await numbers(until=at - 1) == [3, 2, 1]
    assert await numbers(chain="aud_other") == []
    assert await numbers(action="' OR 1=1 --") == []


# ── the encoding ─────────────────────────────────────────────────────────────────────────────────────────────────────

_texts = st.text(max_size=80)
_details = st.dictionaries(_texts, st.one_of(_texts, st.booleans(), st.integers(-(2**60), 2**60)), max_size=20)


@given(_texts, _texts, _details)
def test_the_encoding_under_the_hash_is_rfc_8785(action: str, address: str, details: dict[str, str | int | bool]) -> None:
    event = AuditEvent(action=action, address=address + "\ud800", details=details)
    record = place(event, None, chain="aud_1", at=1)
    fields = msgspec.structs.asdict(record)
    del fields["hash"]

    assert canonical(record, without="hash") == rfc8785.dumps(fields)
    assert len(record.action) <= 64
    assert len(record.details) <= 16


@given(_texts, _details)
def test_a_record_comes_out_of_its_columns_as_it_went_in(action: str, details: dict[str, str | int | bool]) -> None:
    record = place(AuditEvent(action=action, details=details), None, chain="aud_1", at=1)

    again = msgspec.json.decode(msgspec.json.encode(record), type=AuditRecord)
    assert canonical(again, without="hash") == canonical(record, without="hash")
