"""`securechat db`: the database's schema, and the way from SQLite to PostgreSQL."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from securechat.cli.main import Config, Data, Json
from securechat.cli.output import say, say_json
from securechat.cli.shards import shards
from securechat.domain.secret import Secret
from securechat.errors import Shutdown
from securechat.program import program
from securechat.server.config import ConfigManager
from securechat.server.datadir import DataDir
from securechat.store.copying import copy_database
from securechat.store.migrate import HEAD, current, migrate
from securechat.store.postgres import current_postgres, migrate_postgres

database = typer.Typer(
    help="The database: its schema, and moving from SQLite to PostgreSQL.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

database.add_typer(shards, name="shards")


@database.command("status")
def status(*, config: Config = None, data: Data = None, json: Json = False) -> None:
    """Show which database it is, and whether its schema is that of this version. Exit 1 when it is not."""
    settings = ConfigManager(config, {"data_dir": data}).settings
    others = {name: asyncio.run(current_postgres(url.reveal())) for name, url in settings.database_shards.items()}
    if settings.database_url:
        kind, have = "postgresql", asyncio.run(current_postgres(settings.database_url.reveal()))
    else:
        kind, have = "sqlite", current(_sqlite(DataDir(settings.data_dir)).database)
    if json:
        say_json({"database": kind, "schema": have, "code": HEAD} | ({"shards": others} if others else {}))
    else:
        for name, found in {kind: have, **others}.items():
            say(f"{name}, schema {found or '-'}, this version {HEAD}: {_state(found)}")
    raise typer.Exit(0 if {have, *others.values()} == {HEAD} else 1)


def _state(have: str | None) -> str:
    if have is None:
        return "empty"
    return "up to date" if have == HEAD else f"older: {program()} db migrate" if have < HEAD else "newer"


@database.command("migrate")
def migrate_now(*, config: Config = None, data: Data = None) -> None:
    """Bring the schema to this version, as the server does when it starts."""
    settings = ConfigManager(config, {"data_dir": data}).settings
    if settings.database_url:
        have = asyncio.run(migrate_postgres(settings.database_url.reveal()))
        for url in settings.database_shards.values():
            asyncio.run(migrate_postgres(url.reveal()))
    else:
        folder = _sqlite(DataDir(settings.data_dir))
        folder.open()
        try:
            have = current(folder.database)
            migrate(folder.database)
        finally:
            folder.close()
    say(f"schema {HEAD}" + (", as before" if have == HEAD else f", before {have or 'nothing'}"))


@database.command("copy")
def copy(
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="postgresql://… of an empty database; - reads it from standard input.")
    ],
    config: Config = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Copy everything from SQLite to an empty PostgreSQL database, and compare both. The server must be stopped."""
    settings = ConfigManager(config, {"data_dir": data}).settings
    folder = DataDir(settings.data_dir)
    if not folder.database.exists():
        raise Shutdown(f"There is no SQLite database in {folder.root}.")
    url = Secret(typer.get_text_stream("stdin").readline().strip() if to == "-" else to)
    folder.open()
    try:
        found = asyncio.run(copy_database(folder.database, url.reveal()))
    finally:
        folder.close()
    if json:
        say_json(found)
        return
    for each in found:
        say(f"{each.table:<16}{each.rows:>12,} rows   {each.sha256[:16]} = {each.sha256_there[:16]}")
    say("Everything is there. Now set database_url (or SECURECHAT_DATABASE_URL), keep the folder of the data with its keys, and")
    say(f"move {os.fspath(folder.database)} away: it is as it was.")


def _sqlite(folder: DataDir) -> DataDir:
    if folder.elsewhere.exists():
        raise Shutdown("The data is in PostgreSQL: give database_url, or SECURECHAT_DATABASE_URL.")
    return folder
