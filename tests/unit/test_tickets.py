"""Tickets: what travels sealed between two steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from securechat.auth.tickets import LIFETIME_S, USED_MAX, Tickets
from securechat.crypto.key_provider import FileKeys
from securechat.errors import Forbidden
from securechat.store.keys import KeyStore
from securechat.store.migrate import migrate
from securechat.store.sealing import Secrets
from securechat.store.sqlite import SqliteDatabase
from support.fakes import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def tickets(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Tickets]:
    migrate(tmp_path / "test.db")
    database = SqliteDatabase(tmp_path / "test.db")
    keys = KeyStore(database, FileKeys(tmp_path), clock)
    await keys.unlock()
    yield Tickets(Secrets(keys), clock)
    await database.close()


def test_a_ticket_is_for_one_purpose_one_user_and_some_minutes(tickets: Tickets, clock: ManualClock) -> None:
    ticket = tickets.issue("add", "usr_ana", b"what it remembers")

    assert tickets.read("add", "usr_ana", ticket)[1] == b"what it remembers"
    for purpose, user, text in [
        ("use", "usr_ana", ticket),
        ("add", "usr_bob", ticket),
        ("add", "", ticket),
        ("add", "usr_ana", ""),
    ]:
        with pytest.raises(Forbidden):
            tickets.read(purpose, user, text)
    clock.forward(LIFETIME_S)
    with pytest.raises(Forbidden):
        tickets.read("add", "usr_ana", ticket)


def test_of_two_who_read_a_ticket_at_once_one_finishes_it(tickets: Tickets) -> None:
    ticket = tickets.issue("add", "usr_ana", b"")
    first, second = tickets.read("add", "usr_ana", ticket)[0], tickets.read("add", "usr_ana", ticket)[0]
    tickets.finish(first)

    with pytest.raises(Forbidden):
        tickets.finish(second)
    with pytest.raises(Forbidden):
        tickets.read("add", "usr_ana", ticket)


def test_what_was_finished_is_forgotten_when_its_ticket_has_ended(tickets: Tickets, clock: ManualClock) -> None:
    for number in range(USED_MAX + 10):
        tickets.finish(str(number))
    assert len(tickets._used) <= USED_MAX
    clock.forward(LIFETIME_S)
    tickets.finish("new")
    assert list(tickets._used) == ["new"]


def test_a_ticket_does_not_outlive_the_process_that_remembers_which_were_finished(tickets: Tickets, clock: ManualClock) -> None:
    after = Tickets(tickets._box, clock)
    ticket = tickets.issue("use", "", b"challenge")
    tickets.finish(tickets.read("use", "", ticket)[0])

    with pytest.raises(Forbidden):
        after.read("use", "", ticket)
