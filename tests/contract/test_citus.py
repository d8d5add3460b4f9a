"""The same schema on Citus: its rules, checked on the statements in docs/explanation/data-placement.md and on the real catalogue."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from support.postgres import Postgres

PAGE = Path(__file__).parents[2] / "docs/explanation/data-placement.md"


class Placed(NamedTuple):
    """Where a table lies: by which column, together with which table."""

    column: str
    group: str


class Schema(NamedTuple):
    """What Citus looks at.

    Attributes:
        keys: (table, its columns) of each primary and unique key.
        foreign: (table, columns, other table, its columns) of each foreign key.
        types: (table, column) → type.
        together: Tables that one commit writes.
    """

    tables: set[str]
    keys: Sequence[tuple[str, Sequence[str]]]
    foreign: Sequence[tuple[str, Sequence[str], str, Sequence[str]]]
    types: Mapping[tuple[str, str], str]
    together: set[str]


def placed(page: str) -> tuple[dict[str, Placed], set[str]]:
    """Return what the page distributes, and what it copies to every node."""
    found = {}
    for table, column, group in re.findall(r"create_distributed_table\('(\w+)', '(\w+)'(?:, colocate_with => '(\w+)')?\)", page):
        found[table] = Placed(column, group if group not in {"", "none"} else table)
    return found, set(re.findall(r"create_reference_table\('(\w+)'\)", page))


def mistakes(spread: Mapping[str, Placed], copied: set[str], schema: Schema) -> list[str]:
    """Return what Citus would refuse, or would make slow."""
    found = [f"{table} is not placed" for table in schema.tables - spread.keys() - copied]
    found += [f"{table} is placed and not there" for table in (spread.keys() | copied) - schema.tables]
    found += [f"{table} is placed twice" for table in spread.keys() & copied]
    for table, columns in schema.keys:
        if table in spread and spread[table].column not in columns:
            found.append(f"a key of {table} has no {spread[table].column}")
    for table, columns, other, others in schema.foreign:
        if table in copied and other in spread:
            found.append(f"{table} is everywhere and refers to {other}, which is not")
        elif table in spread and other in spread:
            here, there = spread[table], spread[other]
            if here.group != there.group or (here.column, there.column) not in list(zip(columns, others, strict=True)):
                found.append(f"{table} refers to {other}, which lies elsewhere")
    for table, place in spread.items():
        leader = spread.get(place.group)
        if leader is None or leader.group != place.group:
            found.append(f"{table} lies with {place.group}, which leads nobody")
        elif schema.types.get((table, place.column)) != schema.types.get((place.group, leader.column)):
            found.append(f"{table} and {place.group} are spread by columns of two types")
    if len({spread[table].group if table in spread else "" for table in schema.together - copied}) != 1:
        found.append("one commit writes to more than one place")
    return found


async def read_schema(url: str) -> Schema:
    """Read the catalogue of a real database."""
    connection = await asyncpg.connect(url)
    try:
        mine = "c.relnamespace = 'public'::regnamespace AND NOT c.relispartition AND c.relname <> 'alembic_version'"
        columns = (
            "(SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest({0}::int2[]) WITH ORDINALITY AS k (number, place)"
            " JOIN pg_attribute a ON a.attrelid = {1} AND a.attnum = k.number)"
        )
        tables = await connection.fetch(f"SELECT c.relname::text FROM pg_class c WHERE c.relkind IN ('r', 'p') AND {mine}")
        keys = await connection.fetch(
            f"SELECT c.relname::text, {columns.format('i.indkey', 'c.oid')} FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
            f" WHERE i.indisunique AND {mine}"
        )
        foreign = await connection.fetch(
            f"SELECT c.relname::text, {columns.format('f.conkey', 'c.oid')}, f.confrelid::regclass::text,"
            f" {columns.format('f.confkey', 'f.confrelid')}"
            f" FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid WHERE f.contype = 'f' AND {mine}"
        )
        types = await connection.fetch(
            "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod) || ' ' || a.attcollation::text"
            f" FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attnum > 0 AND {mine}"
        )
        bodies = "SELECT string_agg(prosrc, ' ') FROM pg_proc WHERE proname IN ('securechat_store')"
        body = await connection.fetchval(bodies)
    finally:
        await connection.close()
    together = set(re.findall(r"(?:INSERT INTO|UPDATE|DELETE FROM|JOIN|FROM) (\w+)\b", body))
    return Schema(
        {row[0] for row in tables}, [tuple(row) for row in keys], [tuple(row) for row in foreign],
        {(row[0], row[1]): row[2] for row in types}, together & {row[0] for row in tables},
    )  # fmt: skip


async def test_the_schema_follows_the_rules_of_citus(postgres: Postgres) -> None:
    schema = await read_schema(postgres.url(await asyncio.to_thread(postgres.emptied)))
    spread, copied = placed(PAGE.read_text())

    assert schema.together >= {"rooms", "entries", "members", "reactions", "reads", "room_keys"}
    assert mistakes(spread, copied, schema) == []


GOOD = Schema(
    {"rooms", "entries", "settings"},
    [("rooms", ["id"]), ("entries", ["room_id", "seq"])],
    [("entries", ["room_id"], "rooms", ["id"]), ("entries", ["seq"], "settings", ["key"])],
    {("rooms", "id"): "text", ("entries", "room_id"): "text", ("entries", "seq"): "bigint"},
    {"rooms", "entries"},
)
SPREAD = {"rooms": Placed("id", "rooms"), "entries": Placed("room_id", "rooms")}


def test_what_follows_the_rules_is_taken() -> None:
    assert mistakes(SPREAD, {"settings"}, GOOD) == []


@pytest.mark.parametrize(
    ("spread", "copied", "schema", "what"),
    [
        (SPREAD, set(), GOOD, "settings is not placed"),
        (SPREAD, {"settings", "old"}, GOOD, "old is placed and not there"),
        (SPREAD, {"settings", "rooms"}, GOOD, "rooms is placed twice"),
        (SPREAD, {"settings"}, GOOD._replace(keys=[("entries", ["device_id", "cmid"])]), "a key of entries has no room_id"),
        (SPREAD | {"entries": Placed("room_id", "entries")}, {"settings"}, GOOD, "entries refers to rooms, which lies elsewhere"),
        (
            SPREAD,
            {"settings"},
            GOOD._replace(foreign=[("settings", ["key"], "rooms", ["id"])]),
            "settings is everywhere and refers",
        ),
        (SPREAD | {"entries": Placed("seq", "rooms")}, {"settings"}, GOOD, "entries and rooms are spread by columns of two types"),
        (SPREAD | {"entries": Placed("room_id", "users")}, {"settings"}, GOOD, "entries lies with users, which leads nobody"),
        (SPREAD | {"entries": Placed("room_id", "entries")}, {"settings"}, GOOD, "one commit writes to more than one place"),
    ],
)
def test_what_breaks_a_rule_is_told(spread: dict[str, Placed], copied: set[str], schema: Schema, what: str) -> None:
    assert any(each.startswith(what) for each in mistakes(spread, copied, schema))
