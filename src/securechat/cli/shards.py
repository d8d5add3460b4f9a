"""`securechat db shards`: the databases that rooms and users live in, and moving them between those while servers run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import typer

from securechat.cli.main import Config, Data, Json
from securechat.cli.output import say, say_json
from securechat.errors import InvalidInput, Shutdown
from securechat.server.config import ConfigManager, Settings
from securechat.store.buckets import BUCKETS, USERS
from securechat.store.handing_over import BucketMoved
from securechat.store.moving import move
from securechat.store.moving_users import COUNTS
from securechat.store.postgres import PostgresDatabase, open_postgres
from securechat.store.shards import HOME, ShardedDatabase, add, open_sharded, registered

shards = typer.Typer(
    help="The databases that rooms and users live in.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Shard(msgspec.Struct):
    """One of the databases.

    Attributes:
        buckets: Which of 0–255 of the rooms live in it.
        user_buckets: Which of 0–255 of the users do.
        users: How many users have something in it: devices, blocks, passkeys and the like.
        devices: How many devices they have.
    """

    name: str
    host: str
    buckets: list[int]
    user_buckets: list[int]
    rooms: int
    entries: int
    users: int
    devices: int


@shards.command("list")
def list_shards(*, config: Config = None, data: Data = None, json: Json = False) -> None:
    """Show the databases, and how many buckets, rooms and users each has."""
    found = asyncio.run(_list(_settings(config, data)))
    if json:
        say_json(found)
        return
    for each in found:
        rooms = f"{len(each.buckets):>4} of {BUCKETS} buckets{each.rooms:>12,} rooms{each.entries:>16,} entries"
        users = f"{len(each.user_buckets):>4} of {BUCKETS} buckets{each.users:>12,} users{each.devices:>16,} devices"
        say(f"{each.name:<16}{each.host:<32}{rooms}")
        say(f"{'':<48}{users}")


@shards.command("add")
def add_shard(
    *,
    name: Annotated[str, typer.Argument(help="As database_shards calls it.")],
    config: Config = None,
    data: Data = None,
) -> None:
    """Take an empty database in, whose address is in database_shards. Nothing moves there by itself."""
    settings = _settings(config, data)
    if name not in settings.database_shards:
        raise InvalidInput(f"database_shards does not say where {name} is.")
    if name == HOME:
        raise InvalidInput(f"{HOME} is what the database in database_url is called.")
    asyncio.run(_add(settings, name))
    say(f"{name} is there. Restart the servers that were started without it, then: securechat db shards move --to {name} --count 1")


@shards.command("move")
def move_buckets(
    *,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="Where they shall be; home is the first database.")],
    bucket: Annotated[list[int] | None, typer.Option("--bucket", metavar="N", help="Which one; may be repeated.")] = None,
    count: Annotated[int, typer.Option("--count", min=0, max=BUCKETS, help="How many, from whoever has most.")] = 0,
    config: Config = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Move buckets of rooms and of users while servers run. What was interrupted goes on when it is begun again."""
    if not bucket and not count:
        raise InvalidInput("Say which: --bucket or --count.")
    asyncio.run(_move(_settings(config, data), to, bucket or [], count, json=json))


def _settings(config: Any, data: Any) -> Settings:
    settings = ConfigManager(config, {"data_dir": data}).settings
    if not settings.database_url:
        raise Shutdown("Shards are for PostgreSQL: give database_url, or SECURECHAT_DATABASE_URL.")
    return settings


def _urls(settings: Settings, names: Sequence[str]) -> dict[str, str]:
    home = {HOME: settings.database_url.reveal() if settings.database_url else ""}
    if unknown := sorted(set(names) - settings.database_shards.keys()):
        raise Shutdown(f"database_shards does not say where {', '.join(unknown)} is.")
    return home | {name: settings.database_shards[name].reveal() for name in names}


async def _open(settings: Settings) -> tuple[PostgresDatabase, dict[str, str]]:
    home = await open_postgres(_urls(settings, [])[HOME], connections=3)
    urls = _urls(settings, (await registered(home)).names)
    return await open_sharded(home, {name: url for name, url in urls.items() if name != HOME}, connections=3), urls


async def _list(settings: Settings) -> list[Shard]:
    database, urls = await _open(settings)
    try:
        found = []
        for name, part in zip(urls, database.parts, strict=True):
            ((rooms, entries, users, devices),) = await part.read_beside(COUNTS)
            place = urlsplit(urls[name])
            every = list(range(BUCKETS))
            of_rooms, of_users = (
                (database.buckets(name), database.user_buckets(name)) if isinstance(database, ShardedDatabase) else (every, every)
            )
            host = f"{place.hostname}:{place.port or 5432}{place.path}"
            found.append(Shard(name, host, of_rooms, of_users, rooms, entries, users, devices))
        return found
    finally:
        await database.close()


async def _add(settings: Settings, name: str) -> None:
    home = await open_postgres(_urls(settings, [])[HOME], connections=3)
    try:
        await add(home, name, settings.database_shards[name].reveal())
    finally:
        await home.close()


async def _move(settings: Settings, to: str, buckets: list[int], count: int, *, json: bool) -> None:
    database, urls = await _open(settings)
    try:
        if to not in urls or not isinstance(database, ShardedDatabase):
            raise InvalidInput(f"{to} is no shard. Take it in first: securechat db shards add {to}")
        held = {name: sorted({*database.buckets(name), *database.user_buckets(name)}) for name in urls}
    finally:
        await database.close()
    wanted = list(buckets)
    for _ in range(count):
        most = max((name for name in held if name != to), key=lambda name: len(held[name]))
        if not held[most]:
            break
        wanted.append(held[most].pop())
    for bucket in dict.fromkeys(wanted):  # One may have been in two: its rooms here, its users there.
        for each in (bucket, USERS + bucket):
            _tell(await move(urls, each, to), json=json)


def _tell(done: BucketMoved, *, json: bool) -> None:
    if json:
        say_json(done)
    elif done.source == done.target:
        say(f"bucket {done.bucket} of {done.of} is at {done.target}")
    else:
        what = f"{done.rooms:,} rooms, {done.entries:,} entries" if done.of == "rooms" else f"{done.rows:,} devices and other rows"
        say(f"bucket {done.bucket} of {done.of}: {done.source} → {done.target}, {what}, {done.pause_ms} ms without writes")
