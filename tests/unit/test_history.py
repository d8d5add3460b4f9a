"""Pages by their size: nothing that is sent is larger than a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from securechat.domain.commands import Fetch
from securechat.domain.entries import PAGE_BYTES, Edited, Entry, EntryType, Page, size_bound
from securechat.domain.limits import LIMITS
from securechat.protocol.codec import encode_json, encode_msgpack
from securechat.services.history import HistoryService
from support.fakes import principal

WORST = "\x01" * LIMITS.body_bytes
"""A byte that JSON writes in six."""


def entry(seq: int, **fields: Any) -> Entry:
    return Entry(type=EntryType.MESSAGE_SENT, room="rm_1", seq=seq, at=1, user="usr_ana", **{"body": WORST, **fields})


class Store:
    """A room whose every message is the worst one."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.sizes: list[int] = []

    async def room(self, room: str, *, user_id: str) -> Any:
        return None

    async def page(self, room: str, *, before: int | None = None, after: int | None = None, limit: int) -> Page:
        found = [each for each in self.entries if each.seq > (after or 0) and (before is None or each.seq < before)]
        self.sizes.append(limit)
        kept = found[:limit] if after is not None else found[-limit:]
        return Page(room=room, entries=kept, last_seq=len(self.entries))


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> HistoryService:
    monkeypatch.setattr("securechat.domain.policy.require_in", lambda *_: None)
    worst = [entry(seq, edited=Edited(seq=1_000, at=1, body=WORST)) for seq in range(1, 401)]
    return HistoryService(None, Store(worst), None)  # type: ignore[arg-type]


async def fetch(history: HistoryService, **where: Any) -> list[int]:
    page = await history.fetch(principal("ana"), Fetch(room="rm_1", limit=LIMITS.page_entries, **where))
    assert len(encode_json(page)) < PAGE_BYTES
    return [each.seq for each in page.entries]


async def test_a_page_is_a_stretch_beside_the_place_that_was_asked_for_and_no_larger_than_fits(history: HistoryService) -> None:
    newest = await fetch(history)
    assert newest == list(range(newest[0], 401))
    older = await fetch(history, before=newest[0])
    assert older == list(range(older[0], newest[0]))
    newer = await fetch(history, after=100)
    assert newer == list(range(101, 101 + len(newer)))
    around = await fetch(history, around=200)
    assert around == list(range(around[0], around[-1] + 1))
    assert around[0] < 200 < around[-1]
    assert min(map(len, (newest, older, newer, around))) > 30


async def test_pages_go_on_to_the_end(history: HistoryService) -> None:
    seen: list[int] = []
    while page := await fetch(history, after=seen[-1] if seen else 0):
        seen += page

    assert seen == list(range(1, 401))


@pytest.mark.parametrize("after", [100, -5_000], ids=["within reach", "too far behind"])
async def test_catching_up_comes_in_pieces_that_fit(history: HistoryService, after: int) -> None:
    pieces = [piece async for piece in history.missed("rm_1", after, 200 if after > 0 else 400)]

    assert [each.seq for piece in pieces for each in piece] == list(range(101, 201) if after > 0 else range(351, 401))
    assert max(len(encode_json(piece)) for piece in pieces) < PAGE_BYTES


@pytest.mark.parametrize(("far_s", "sizes"), [(60.0, [15] * 13 + [5]), (-1.0, [15, 60, 60, 60, 5])], ids=["near", "far away"])
async def test_more_is_read_at_once_from_a_database_that_is_far_away_and_not_more_told(
    monkeypatch: pytest.MonkeyPatch, far_s: float, sizes: list[int]
) -> None:
    store = Store([entry(seq, body="x") for seq in range(1, 401)])
    monkeypatch.setattr("securechat.services.history.FAR_S", far_s)
    history = HistoryService(None, store, None)  # type: ignore[arg-type]

    pieces = [piece async for piece in history.missed("rm_1", 0, 200)]

    assert store.sizes == sizes
    assert [each.seq for piece in pieces for each in piece] == list(range(1, 201))
    assert max(map(len, pieces)) == 15


async def test_an_entry_that_is_too_large_by_itself_is_a_page_of_its_own() -> None:
    crowd = [f"usr_{number:016}" for number in range(LIMITS.members)]
    entries = [entry(seq, reactions={f"emoji {number}": crowd for number in range(LIMITS.reactions)}) for seq in (1, 2)]
    history = HistoryService(None, Store(entries), None)  # type: ignore[arg-type]

    assert size_bound(entries[0]) > PAGE_BYTES
    assert [len(piece) async for piece in history.missed("rm_1", 0, 2)] == [1, 1]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "body": "\u20ac" * 5_000,
            "edited": Edited(seq=2**40, at=2**45, body=WORST),
            "cmid": "\\" * 64,
            "device": "dev_" + "x" * 16,
        },
        {"body": None, "topic": '"' * LIMITS.topic_chars, "name": "\U0001f600" * LIMITS.name_chars},
        {"body": None, "permissions": {f"some.action.{number}": "moderator" for number in range(40)}},
        {"reactions": {"\U0001f468\u200d" * 16: [f"usr_{number:016}" for number in range(1_000)]}},
    ],
)
def test_the_bound_holds_in_both_encodings(fields: dict[str, Any]) -> None:
    found = entry(2**40, **fields)

    assert max(len(encode_json(found)), len(encode_msgpack(found))) < size_bound(found)
