"""How PostgreSQL does what servers ask all the time, on a database that is not small: by its indexes, and never by reading tables.

The plans are those of real calls, as PostgreSQL itself reports them after it has done them (auto_explain).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from securechat.domain.entries import EntryType
from securechat.domain.ports import LogTransaction
from securechat.store.postgres_log import PostgresLog
from securechat.store.rows import to_row
from support.logs import made, opened
from support.postgres import Postgres
from support.stores import Place, StoreUnderTest

pytestmark = pytest.mark.slow

HOT = [f"rm_{number}" for number in range(1, 17)]
"""The rooms with all of the entries: as in a team that has few rooms, of which the planner expects much to be read."""
MOST = 7_000
"""Rows that one statement may look at: a page, members, or the 5,000 entries in which unread ones are counted; less than any table
has."""
FILL = """
INSERT INTO users (id, username, display_name, name_key, role, created_at)
  SELECT 'usr_' || i, 'u' || i, 'U' || i, 'u' || i, 'member', 0 FROM generate_series(1, 16000) AS i;
INSERT INTO devices (id, user_id, name, address, created_at, last_seen_at, refreshed_at, token_hash)
  SELECT 'dev_' || i, 'usr_' || i, 'bot', '', 0, 0, 0, 'hash' || i FROM generate_series(1, 16000) AS i;
INSERT INTO rooms (id, kind, name, name_key, topic, created_at, last_seq)
  SELECT 'rm_' || i, 'public', 'r' || i, 'r' || i, '', 0, CASE WHEN i <= 16 THEN 8000 ELSE 0 END FROM generate_series(1, 8000) AS i;
INSERT INTO members (room_id, user_id, role)
  SELECT 'rm_' || (1 + i % 8000), 'usr_' || (1 + i / 4), 'member' FROM generate_series(0, 63999) AS i;
INSERT INTO reads (user_id, room_id, read_seq) SELECT user_id, room_id, 1 FROM members;
INSERT INTO entries (room_id, seq, type, at, user_id, device_id, cmid, body)
  SELECT 'rm_' || r, s, 'message.sent', 0, 'usr_1', 'dev_1', 'c' || s, repeat('x', 100)
    FROM generate_series(1, 16) AS r, generate_series(1, 8000) AS s;
ANALYZE;
"""


class Watched:
    """A database that is not small, and what PostgreSQL says of the plans of everybody who connects to it from now on."""

    def __init__(self, postgres: Postgres, folder: Path) -> None:
        self.place = Place(folder, lambda: postgres)
        postgres.sql(FILL, self.place.name)
        for name, value in {
            "session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0", "auto_explain.log_analyze": "on",
            "auto_explain.log_nested_statements": "on", "auto_explain.log_timing": "off",
        }.items():  # fmt: skip
            self.set(name, value)
        self._log = postgres.folder / "server.log"

    def set(self, name: str, value: str) -> None:
        """Have everybody who connects from now on work with a setting."""
        assert self.place.postgres is not None
        self.place.postgres.sql(f"ALTER DATABASE {self.place.name} SET {name} = '{value}'")

    def end(self) -> None:
        """Have others who get the database not watched."""
        assert self.place.postgres is not None
        self.place.postgres.sql(f"ALTER DATABASE {self.place.name} RESET ALL")

    async def plans(self, work: Callable[[], Awaitable[object]]) -> list[str]:
        """Do something and return the plans of its statements."""
        before = self._log.stat().st_size
        await work()
        with self._log.open() as log:
            log.seek(before)
            return [
                each for each in re.split(r"^\d{4}-\d\d-\d\d .*? LOG: ", log.read(), flags=re.MULTILINE) if "Query Text" in each
            ]


@pytest.fixture(scope="module")
def watched(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    found = Watched(postgres, tmp_path_factory.mktemp("plans"))
    yield found
    found.end()


def looked_at(plan: str, tables: str) -> int:
    """Return how many rows the scans of these tables looked at."""
    count = 0
    scan = rf"Scan .*?on (?:{tables})\w* .*?\(actual rows=(\d+) loops=(\d+)\)((?:\n(?!.*(?:->|Plan)).*)*)"
    for rows, loops, rest in re.findall(scan, plan):
        removed = re.findall(r"Rows Removed by (?:Filter|Index Recheck): (\d+)", rest)
        count += int(loops) * (int(rows) + sum(map(int, removed)))
    return count


def adding(
    rooms: Sequence[str], *cmids: str, kind: EntryType = EntryType.MESSAGE_SENT, target: int | None = None, **more: object
) -> Callable[[LogTransaction], Awaitable[None]]:
    """Return the work of a batch that adds to some logs what is not there yet."""

    async def work(tx: LogTransaction) -> None:
        sent = [(room, "dev_1", cmid) for room in rooms for cmid in cmids]
        await tx.load(rooms, sent, [(room, target) for room in rooms] if target is not None else [])
        for room, device, cmid in sent:
            if tx.sent((room, device, cmid)) is None:
                state = tx.room(room)
                assert state is not None
                tx.append(made(room, state.last_seq + 1, kind, device=device, cmid=cmid, target=target, **more))

    return work


def everything(one: StoreUnderTest, other: StoreUnderTest) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return what is asked all the time, by name."""
    log, accounts = one.log, one.accounts
    assert isinstance(log, PostgresLog)
    room = HOT[0]
    lane = log.lane(room)
    rooms = [each for each in HOT if log.lane(each) == lane]
    many = [f"c{number}" for number in range(1, 400)]
    new = map("new {}".format, itertools.count())
    people = itertools.count(9_000)

    def sending(*cmids: str) -> Callable[[LogTransaction], Awaitable[None]]:
        return adding(rooms, *cmids, body="y")

    async def behind(work: Callable[[LogTransaction], Awaitable[None]]) -> None:
        """Send when another server has just added something."""
        await other.log.commit(work, lane)
        await log.commit(sending(next(new)), lane)

    async def behind_a_join() -> None:
        member = f"usr_{next(people)}"
        await behind(adding([room], next(new), kind=EntryType.MEMBER_JOINED, member=member, role="member"))

    return {
        "send": lambda: log.commit(sending(next(new)), lane),
        "send many again, which others sent": lambda: log.commit(adding([room], *many, body="y"), lane),
        "edit": lambda: log.commit(adding(rooms, next(new), kind=EntryType.MESSAGE_EDITED, target=17, body="z"), lane),
        "another server is ahead": lambda: behind(sending(next(new))),
        "another server is ahead by a join": behind_a_join,
        "an answer was lost": lambda: log._look_for(
            [to_row(made(room, seq, EntryType.MESSAGE_SENT), None) for seq in range(100, 500)]
        ),
        "a page": lambda: log.page(room, before=5_000, limit=50),
        "the newest page": lambda: log.page(room, limit=50),
        "what was missed": lambda: log.page(room, after=100, limit=200),
        "the rooms of somebody": lambda: log.heads("usr_77"),
        "one room of somebody": lambda: log.head("usr_77", room),
        "the directory of rooms": lambda: log.browse(user_id="usr_77", query="r7", after="", limit=50),
        "a room by name": lambda: log.lookup("usr_77", "r4711"),
        "members": lambda: log.members("rm_4711", limit=50),
        "who is where": lambda: log.rooms_of([f"usr_{number}" for number in range(1, 20)]),
        "how far rooms are": lambda: log.newest([f"rm_{number}" for number in range(1, 300)]),
        "how far somebody read": lambda: log.read_state("usr_77", room),
        "a session by its token": lambda: accounts.session(token_hash="hash4711"),
        "a session by its device": lambda: accounts.session(device_id="dev_4711"),
        "the devices of somebody": lambda: accounts.devices("usr_4711"),
        "people by id": lambda: accounts.users([f"usr_{number}" for number in range(1, 100)]),
        "an account": lambda: accounts.account(username="u4711"),
    }


@pytest.mark.parametrize(
    ("reluctant", "tables"), [("on", "entries|rooms"), ("off", "")], ids=["as it likes", "as where every table is large"]
)
async def test_what_is_asked_all_the_time_looks_at_few_rows(watched: Watched, reluctant: str, tables: str) -> None:
    """The small tables are read as a whole for good reasons: so it is told not to, and then each has the index that is needed."""
    watched.set("enable_seqscan", reluctant)
    wrong: dict[str, str] = {}
    async with opened(watched.place) as one, opened(watched.place) as other:
        for name, work in everything(one, other).items():
            for _ in range(7):  # From the sixth time on, the plan may be another one.
                plans = await watched.plans(work)
                assert plans, name
                for plan in plans:
                    if looked_at(plan, tables) > MOST:
                        wrong.setdefault(name, f"{looked_at(plan, tables)} rows:\n{plan}")
    assert not wrong, "\n".join([", ".join(wrong), *wrong.values()])
