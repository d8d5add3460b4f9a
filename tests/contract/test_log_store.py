"""The contract of `LogStore`, for every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from securechat.domain.accounts import Role, User
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction
from securechat.domain.rooms import RoomKind, RoomRole
from securechat.errors import NameTaken
from securechat.store.database import Dialect
from securechat.store.migrate import HEAD, current
from support.stores import Place, StoreUnderTest

ROOM = "rm_1"


@pytest.fixture(params=["clear", "sealed"])
async def stores(any_place: Place, request: pytest.FixtureRequest) -> AsyncIterator[StoreUnderTest]:
    found = await any_place.open()
    found.sealing.on = request.param == "sealed"
    await found.keys.unlock()
    yield found
    await found.database.close()


def entry(seq: int, what: EntryType = EntryType.MESSAGE_SENT, **more: object) -> Entry:
    fields = {"user": "usr_ana", **more}
    if what is EntryType.MESSAGE_SENT:
        fields = {"device": "dev_1", "cmid": f"c{seq}", "body": f"text {seq}", **fields}
    return Entry(type=what, seq=seq, at=1_000 + seq, **{"room": ROOM, **fields})  # type: ignore[arg-type]


async def append(stores: StoreUnderTest, *entries: Entry) -> None:
    async def work(tx: LogTransaction) -> None:
        targets = [(each.room, each.target) for each in entries if each.target is not None]
        await tx.load(sorted({each.room for each in entries}), [], targets)
        for each in entries:
            tx.append(each)

    await stores.log.commit(work)


async def make_room(stores: StoreUnderTest) -> None:
    for name in ("ana", "bob"):
        user = User(id=f"usr_{name}", username=name, display_name=name.title(), role=Role.MEMBER)
        await stores.accounts.create_user(user, None, 0)
    await append(
        stores,
        entry(1, EntryType.ROOM_CREATED, kind="public", name="Ops", topic="t"),
        entry(2, EntryType.MEMBER_JOINED, member="usr_ana", role="owner"),
        entry(3, EntryType.MEMBER_JOINED, member="usr_bob", role="member"),
    )


async def test_migrations_lead_to_the_head_that_the_code_names(stores: StoreUnderTest, any_place: Place) -> None:
    versions = Path(__file__).parents[2] / "src/securechat/store/migrations/versions"
    found = (
        current(any_place.path)
        if any_place.postgres is None
        else any_place.postgres.sql("SELECT version_num FROM alembic_version", any_place.name)
    )

    assert found == HEAD == max(path.name[:4] for path in versions.glob("0*.py"))


async def test_committed_entries_are_read_back_as_they_were(stores: StoreUnderTest) -> None:
    await make_room(stores)
    await append(stores, entry(4), entry(5, reply_to=4))

    page = await stores.log.page(ROOM, limit=10)

    assert [each.seq for each in page.entries] == [1, 2, 3, 4, 5]
    assert page.entries[3] == entry(4)
    assert page.entries[4].reply_to == 4
    assert page.last_seq == 5


async def test_texts_are_sealed_exactly_when_they_should_be(stores: StoreUnderTest) -> None:
    await make_room(stores)
    await append(stores, entry(4))
    await append(stores, entry(5, EntryType.MESSAGE_EDITED, target=4, body="better"))

    rows = await stores.rows("SELECT body IS NULL, sealed IS NULL FROM entries WHERE seq > 3")

    assert rows == ([(True, False)] * 2 if stores.sealing.on else [(False, True)] * 2)


async def test_an_entry_that_is_not_the_next_one_undoes_the_whole_commit(stores: StoreUnderTest) -> None:
    await make_room(stores)

    with pytest.raises(ValueError):
        await append(stores, entry(4), entry(6))

    assert (await stores.log.page(ROOM, limit=10)).last_seq == 3
    await append(stores, entry(4))
    assert (await stores.log.page(ROOM, limit=10)).last_seq == 4


async def test_work_that_raises_leaves_nothing_in_memory_either(stores: StoreUnderTest) -> None:
    await make_room(stores)

    async def work(tx: LogTransaction) -> None:
        await tx.load([ROOM], [], [])
        tx.append(entry(4, EntryType.MEMBER_LEFT, member="usr_bob"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await stores.log.commit(work)

    async def look(tx: LogTransaction) -> tuple[int, set[str]]:
        await tx.load([ROOM], [], [])
        room = tx.room(ROOM)
        assert room is not None
        return room.last_seq, set(room.members)

    assert await stores.log.commit(look) == (3, {"usr_ana", "usr_bob"})


async def test_a_cmid_is_found_in_the_store_and_in_the_batch(stores: StoreUnderTest) -> None:
    await make_room(stores)
    await append(stores, entry(4))

    async def work(tx: LogTransaction) -> list[int | None]:
        known, fresh = (ROOM, "dev_1", "c4"), (ROOM, "dev_1", "c5")
        await tx.load([ROOM], [known, fresh], [])
        before = tx.sent(fresh)
        tx.append(entry(5))
        return [None if found is None else found.seq for found in (tx.sent(known), before, tx.sent(fresh))]

    assert await stores.log.commit(work) == [4, None, 5]


async def test_pages_before_and_after_exclude_the_given_seq(stores: StoreUnderTest) -> None:
    await make_room(stores)
    await append(stores, *(entry(seq) for seq in range(4, 14)))

    assert [each.seq for each in (await stores.log.page(ROOM, before=10, limit=3)).entries] == [7, 8, 9]
    assert [each.seq for each in (await stores.log.page(ROOM, after=10, limit=3)).entries] == [11, 12, 13]
    assert (await stores.log.page(ROOM, after=13, limit=3)).entries == []
    assert (await stores.log.page(ROOM, before=1, limit=3)).entries == []


async def test_an_edit_keeps_the_first_text_and_shows_the_newest(stores: StoreUnderTest) -> None:
    await make_room(stores)
    await append(stores, entry(4))
    await append(stores, entry(5, EntryType.MESSAGE_EDITED, target=4, body="better"))
    await append(stores, entry(6, EntryType.MESSAGE_EDITED, target=4, body="best"))

    message = (await stores.log.page(ROOM, after=3, limit=1)).entries[0]

    assert message.body == "text 4"
    assert message.edited is not None
    assert (message.edited.seq, message.edited.body) == (6, "best")


async def test_a_deletion_erases_the_text_and_its_edits_from_the_file(stores: StoreUnderTest, any_place: Place) -> None:
    await make_room(stores)
    await append(stores, entry(4, body="CANARY-one"))
    await append(stores, entry(5, EntryType.MESSAGE_EDITED, target=4, body="CANARY-two"))
    await append(stores, entry(6, EntryType.REACTION_ADDED, target=4, emoji="👍"))
    await append(stores, entry(7, EntryType.MESSAGE_DELETED, target=4))

    entries = (await stores.log.page(ROOM, after=3, limit=10)).entries
    if stores.database.dialect is Dialect.SQLITE:  # PostgreSQL writes over it when it vacuums.
        await stores.database.close()
        files = b"".join(path.read_bytes() for path in any_place.path.parent.glob("securechat.db*"))
        stores.database = (await any_place.open()).database
    else:
        files = b""
    left = await stores.rows("SELECT body, sealed FROM entries WHERE seq IN (4, 5)")

    assert [(each.body, each.deleted) for each in entries[:2]] == [(None, 7), (None, 7)]
    assert entries[0].reactions is None
    assert b"CANARY" not in files
    assert left == [(None, None)] * 2


async def test_reactions_are_listed_by_emoji_in_the_order_they_came(stores: StoreUnderTest) -> None:
    await make_room(stores)
    await append(stores, entry(4))
    await append(stores, entry(5, EntryType.REACTION_ADDED, target=4, emoji="👍", user="usr_bob"))
    await append(stores, entry(6, EntryType.REACTION_ADDED, target=4, emoji="👍"))
    await append(stores, entry(7, EntryType.REACTION_ADDED, target=4, emoji="🎉"))
    await append(stores, entry(8, EntryType.REACTION_REMOVED, target=4, emoji="🎉"))

    assert (await stores.log.page(ROOM, after=3, limit=1)).entries[0].reactions == {"👍": ["usr_bob", "usr_ana"]}


async def test_heads_count_what_others_wrote_after_the_marker(stores: StoreUnderTest) -> None:
    await make_room(stores)
    await append(stores, entry(4), entry(5, user="usr_bob"), entry(6, user="usr_bob"))

    async def read(tx: LogTransaction) -> None:
        tx.mark_read("usr_ana", ROOM, 5, back=False)

    assert [(head.unread, head.read_seq) for head in (await stores.log.heads("usr_ana")).rooms] == [(2, 0)]
    await stores.log.commit(read)
    assert await stores.log.read_state("usr_ana", ROOM) == (5, 1)
    assert await stores.log.read_state("usr_bob", ROOM) == (0, 1)


async def test_a_read_marker_goes_back_only_when_asked(stores: StoreUnderTest) -> None:
    await make_room(stores)

    async def mark(seq: int, *, back: bool) -> int:
        async def work(tx: LogTransaction) -> None:
            tx.mark_read("usr_ana", ROOM, seq, back=back)

        await stores.log.commit(work)
        return (await stores.log.read_state("usr_ana", ROOM))[0]

    assert [await mark(3, back=False), await mark(1, back=False), await mark(1, back=True)] == [3, 3, 1]


async def test_members_come_in_pages_by_id(stores: StoreUnderTest) -> None:
    await make_room(stores)
    both = [user.id for user, _ in await stores.log.members(ROOM, limit=9)]

    assert both == sorted(both)
    assert len(both) == 2
    assert [user.id for user, _ in await stores.log.members(ROOM, limit=1)] == both[:1]
    assert [user.id for user, _ in await stores.log.members(ROOM, after=both[0], limit=1)] == both[1:]
    assert await stores.log.members(ROOM, after=both[1], limit=1) == []


async def test_members_follow_the_log(stores: StoreUnderTest) -> None:
    await make_room(stores)
    await append(stores, entry(4, EntryType.MEMBER_REMOVED, member="usr_bob"))

    assert [(user.username, role) for user, role in await stores.log.members(ROOM, limit=9)] == [("ana", RoomRole.OWNER)]
    assert (await stores.log.heads("usr_bob")).rooms == []
    room = await stores.log.room(ROOM, user_id="usr_bob")
    assert room is not None
    assert (room.kind, room.members, room.last_seq) == (RoomKind.PUBLIC, {}, 4)


async def test_who_comes_and_goes_within_one_commit_is_what_they_were_last(stores: StoreUnderTest) -> None:
    await make_room(stores)
    steps = [
        ("MEMBER_LEFT", "bob", None),
        ("MEMBER_JOINED", "cid", "member"),
        ("MEMBER_CHANGED", "cid", "moderator"),
        ("MEMBER_JOINED", "dan", "member"),
        ("MEMBER_REMOVED", "dan", None),
        ("MEMBER_JOINED", "bob", "member"),
        ("MEMBER_CHANGED", "ana", "moderator"),
        ("MEMBER_CHANGED", "bob", "owner"),
        ("MEMBER_JOINED", "eve", "member"),
    ]
    for name in ("cid", "dan", "eve"):
        user = User(id=f"usr_{name}", username=name, display_name=name.title(), role=Role.MEMBER)
        await stores.accounts.create_user(user, None, 0)
    entries = [entry(seq, EntryType[what], member=f"usr_{name}", role=role) for seq, (what, name, role) in enumerate(steps, 4)]

    await append(stores, *entries)

    members = {user.username: role for user, role in await stores.log.members(ROOM, after="", limit=9)}
    assert members == {"ana": "moderator", "bob": "owner", "cid": "moderator", "eve": "member"}
    assert await stores.log.rooms_of(["usr_dan", "usr_eve"]) == {"usr_eve": {ROOM}}


async def test_a_room_that_is_only_made_if_there_is_none_is_made_with_its_members(stores: StoreUnderTest) -> None:
    """However often the store asks what is to be done."""
    await make_room(stores)
    entries = [
        entry(1, EntryType.ROOM_CREATED, kind="direct", name="", topic="", room="rm_2"),
        entry(2, EntryType.MEMBER_JOINED, member="usr_ana", role="member", room="rm_2"),
        entry(3, EntryType.MEMBER_JOINED, member="usr_bob", role="member", room="rm_2"),
    ]

    async def work(tx: LogTransaction) -> None:
        await tx.load(["rm_2"], [], [])
        if tx.room("rm_2") is None:
            for each in entries:
                tx.append(each)

    for _ in range(2):
        await stores.log.commit(work)

    room = await stores.log.room("rm_2", user_id="usr_ana")
    assert room is not None
    assert room.last_seq == 3
    assert await stores.log.rooms_of(["usr_ana", "usr_bob"]) == {"usr_ana": {ROOM, "rm_2"}, "usr_bob": {ROOM, "rm_2"}}


async def test_where_rooms_are_and_who_is_in_them_is_told_for_many_at_once(stores: StoreUnderTest) -> None:
    await make_room(stores)
    await append(stores, entry(4), entry(5, EntryType.MEMBER_LEFT, member="usr_bob", user="usr_bob"))

    assert await stores.log.newest([ROOM, "rm_none"]) == {ROOM: 5}
    assert await stores.log.newest([]) == {}
    assert await stores.log.rooms_of(["usr_ana", "usr_bob"]) == {"usr_ana": {ROOM}}


async def test_two_public_rooms_do_not_share_a_name(stores: StoreUnderTest) -> None:
    await make_room(stores)
    other = Entry(type=EntryType.ROOM_CREATED, room="rm_2", seq=1, at=1, user="usr_ana", kind="public", name="OPS", topic="")

    with pytest.raises(NameTaken):
        await append(stores, other)

    assert [room.name for room in (await stores.log.browse(user_id="usr_ana", query="o", after="", limit=5)).rooms] == ["Ops"]
    assert await stores.log.lookup("usr_bob", "oPS") == [ROOM]


async def test_a_name_that_fits_exactly_goes_before_one_that_fits_without_case(stores: StoreUnderTest) -> None:
    await make_room(stores)
    made = Entry(type=EntryType.ROOM_CREATED, room="rm_2", seq=1, at=1, user="usr_bob", kind="private", name="OPS", topic="")
    await append(
        stores, made, Entry(type=EntryType.MEMBER_JOINED, room="rm_2", seq=2, at=1, user="usr_bob", member="usr_bob", role="owner")
    )

    assert await stores.log.lookup("usr_bob", "Ops") == [ROOM]
    assert await stores.log.lookup("usr_bob", "OPS") == ["rm_2"]
    assert sorted(await stores.log.lookup("usr_bob", "ops")) == [ROOM, "rm_2"]


async def test_several_rooms_that_fit_equally_well_are_all_found(stores: StoreUnderTest) -> None:
    for number, name in enumerate(("OPS", "ops", "Ops", "ops")):
        made = Entry(
            type=EntryType.ROOM_CREATED, room=f"rm_{number}", seq=1, at=number, user="usr_bob", kind="private", name=name, topic=""
        )
        joined = Entry(
            type=EntryType.MEMBER_JOINED, room=f"rm_{number}", seq=2, at=number, user="usr_bob", member="usr_bob", role="owner"
        )
        await append(stores, made, joined)

    assert await stores.log.lookup("usr_bob", "oPs") == ["rm_0", "rm_1", "rm_2", "rm_3"]
    assert await stores.log.lookup("usr_bob", "ops") == ["rm_1", "rm_3"]
    assert await stores.log.lookup("usr_bob", "Ops") == ["rm_2"]
    assert await stores.log.lookup("usr_eve", "Ops") == []
