"""`securechat audit`: read, export, verify and prune the audit log."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TextIO

import msgspec
import typer

from securechat.cli.durations import seconds_of
from securechat.cli.main import Config, Data, Json
from securechat.cli.operator import Operator, data_root
from securechat.cli.output import note, say, say_json, table, when
from securechat.domain import commands as c
from securechat.domain.audit import AuditRecord
from securechat.errors import Shutdown

audit = typer.Typer(
    help="The audit log: who did what to whom; read it, export it, verify it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_HEAD = ("n", "at", "action", "result", "reason", "actor", "actor_name", "device", "address", "subject", "subject_name", "room")
_FORMULA = re.compile(r"^[\s'\"]*[=+\-@\t\r\n|%]")
"""What a spreadsheet may take for a formula, also behind blanks and quotes."""

Action = Annotated[str, typer.Option(help="Only this action; with a dot at the end, all that begin so: user.", show_default=False)]
Actor = Annotated[str, typer.Option(help="Only what this user did (username or id).", show_default=False)]
Subject = Annotated[str, typer.Option(help="Only what was done to this user (username or id).", show_default=False)]
RoomId = Annotated[str, typer.Option(help="Only this room (name or id).", show_default=False)]
Address = Annotated[str, typer.Option(help="Only from this address.", show_default=False)]
ResultWord = Annotated[str, typer.Option(help="Only done, refused or failed.", show_default=False)]
Since = Annotated[str, typer.Option(help="Not before: 7d (ago), 2026-01-31 or 2026-01-31T12:00 (UTC).", show_default=False)]
Until = Annotated[str, typer.Option(help="Not after; as --since.", show_default=False)]


def _time(text: str) -> int | None:
    """Return milliseconds since 1970 of `7d` (ago) or of a date in UTC."""
    if not text:
        return None
    now = datetime.now(UTC)
    if (ago := seconds_of(text)) is not None:
        return int((now.timestamp() - ago) * 1_000)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Shutdown(f"{text} is no time; write 7d, 2026-01-31 or 2026-01-31T12:00.", 64) from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1_000)


def _user_id(operator: Operator, name: str) -> str:
    """Return a user's id; an id stays as it is, whether the account still exists or not."""
    if not name or name.startswith("usr_"):
        return name
    return "usr_operator" if name == "operator" else operator.user(name).id


def _query(
    operator: Operator, action: str, actor: str, subject: str, room: str, address: str, result: str, since: str, until: str
) -> c.AuditList:
    if result not in {"", "done", "refused", "failed"}:
        raise Shutdown(f"{result} is no result; write done, refused or failed.", 64)
    words: dict[str, Literal["", "done", "refused", "failed"]] = {
        "": "", "done": "done", "refused": "refused", "failed": "failed",
    }  # fmt: skip
    return c.AuditList(
        action=action,
        actor=_user_id(operator, actor),
        subject=_user_id(operator, subject),
        room=operator.room_id(room) if room else "",
        address=address,
        result=words[result],
        since=_time(since),
        until=_time(until),
    )


@audit.command("list")
def audit_list(
    *,
    action: Action = "",
    actor: Actor = "",
    subject: Subject = "",
    room: RoomId = "",
    address: Address = "",
    result: ResultWord = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, the newest first.")] = 50,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show the newest records."""
    operator = Operator(data_root(data))
    query = _query(operator, action, actor, subject, room, address, result, since, until)
    page: c.AuditPage = operator.perform(msgspec.structs.replace(query, limit=limit))
    if json:
        say_json(page)
        return
    rows = [
        (
            record.n,
            when(record.at),
            record.action,
            record.result if not record.reason else f"{record.result}: {record.reason}",
            _name(page, record.actor),
            _name(page, record.subject),
            record.room,
            record.address,
            " ".join(f"{name}={_one_line(value)}" for name, value in record.details.items()),
        )
        for record in page.records
    ]
    table(("n", "when", "action", "result", "who", "whom", "room", "from", ""), rows)
    if page.next is not None:
        note(f"There are more. Older ones: --until {datetime.fromtimestamp(page.records[-1].at / 1000, UTC):%Y-%m-%dT%H:%M:%S}")


@audit.command("export")
def audit_export(
    to: Annotated[Path | None, typer.Argument(metavar="FILE", help="Where to; standard output when left out.")] = None,
    *,
    form: Annotated[str, typer.Option("--format", help="jsonl or csv.")] = "jsonl",
    action: Action = "",
    actor: Actor = "",
    subject: Subject = "",
    room: RoomId = "",
    address: Address = "",
    result: ResultWord = "",
    since: Since = "",
    until: Until = "",
    data: Data = None,
) -> None:
    """Write records, the oldest first: JSON lines with everything that the hashes cover, or a table for spreadsheets."""
    if form not in {"jsonl", "csv"}:
        raise Shutdown(f"{form} is no format; write jsonl or csv.", 64)
    operator = Operator(data_root(data))
    query = _query(operator, action, actor, subject, room, address, result, since, until)
    if to is None:
        count = _export(operator, query, form, sys.stdout)
    else:
        try:
            handle = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise Shutdown(f"{to} cannot be written: {error.strerror}.") from error
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            count = _export(operator, query, form, file)
    note(f"{count} records")


def _export(operator: Operator, query: c.AuditList, form: str, file: TextIO) -> int:
    count = 0
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    if form == "csv":
        writer.writerow([*_HEAD, "details", "chain", "hash"])
    for record, page in _all(operator, query):
        if form == "jsonl":
            file.write(msgspec.json.encode(record, order="sorted").decode() + "\n")
        else:
            writer.writerow([cell(value) for value in _columns(record, page)])
        count += 1
    return count


def _all(operator: Operator, query: c.AuditList) -> Iterator[tuple[AuditRecord, c.AuditPage]]:
    after: int | None = 0
    while after is not None:
        page: c.AuditPage = operator.perform(msgspec.structs.replace(query, after=after, limit=200))
        yield from ((record, page) for record in page.records)
        after = page.next


def _columns(record: AuditRecord, page: c.AuditPage) -> list[object]:
    return [
        record.n,
        datetime.fromtimestamp(record.at / 1000, UTC).isoformat(timespec="milliseconds"),
        record.action,
        record.result,
        record.reason,
        record.actor,
        page.names.get(record.actor, ""),
        record.device,
        record.address,
        record.subject,
        page.names.get(record.subject, ""),
        record.room,
        msgspec.json.encode(record.details).decode(),
        record.chain,
        record.hash,
    ]


def cell(value: object) -> str:
    """Return a value as a spreadsheet shows it and does not calculate it (OWASP: CSV injection)."""
    text = str(value)
    if isinstance(value, int):
        return text
    return f"'{text}" if _FORMULA.match(text) else text


@audit.command("verify")
def audit_verify(
    *,
    config: Config = None,
    data: Data = None,
    checkpoints: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The other folder with checkpoints; default: the setting audit_folder.")
    ] = None,
    key: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Public key that you kept; may be given again.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Look for changed, removed, added or moved records. Exit 0 whole, 1 the clock was set back, 2 not whole."""
    from securechat.server.audit import verify_folder  # noqa: PLC0415
    from securechat.server.config import ConfigManager  # noqa: PLC0415
    from securechat.server.datadir import DataDir  # noqa: PLC0415

    settings = ConfigManager(config, {"data_dir": data}).settings
    folder = DataDir(settings.data_dir)
    if not folder.has_data:
        raise Shutdown(f"There is no SecureChat data in {folder.root}. Start the server once, or give --data.")
    if checkpoints is not None and not checkpoints.is_dir():
        raise Shutdown(f"{checkpoints} is not a folder.")
    elsewhere = checkpoints or (Path(settings.audit_folder) if settings.audit_folder else None)
    try:
        report = verify_folder(folder, elsewhere, key or (), url=settings.database_url)
    except ValueError as error:
        raise Shutdown(str(error)) from error
    if json:
        say_json({"whole": report.whole, **msgspec.to_builtins(report)})
    else:
        for finding in report.findings:
            say(f"{finding.kind:<10} {finding.text}")
        state = "is whole" if report.whole else "is NOT whole"
        ends = ", ".join(f"{chain} reaches {n}" for chain, n in report.heads.items()) or "it is empty"
        say(f"The audit log {state}: {report.records} records, {report.checkpoints} checkpoints; {ends}.")
        say(f"public key  {', '.join(report.keys)}")
        if elsewhere is None:
            note("Compared with checkpoints in the data folder only. Whoever has the folder has the key: set audit_folder.")
    raise typer.Exit(2 if report.tampered else 0 if report.whole else 1)


@audit.command("prune")
def audit_prune(
    keep: Annotated[str, typer.Option("--keep", help="How much to keep, in days or weeks: 365d, 52w.")],
    *,
    data: Data = None,
    json: Json = False,
) -> None:
    """Remove records that are older, with a signed statement of what was removed."""
    days = (seconds_of(keep) or 0) // 86_400
    if not days:
        raise Shutdown("At least one day is kept.", 64)
    found: c.AuditPruned = Operator(data_root(data)).perform(c.AuditPrune(keep_days=days))
    say_json(found) if json else say(f"{found.records} records removed.")


def _name(page: c.AuditPage, user_id: str) -> str:
    return f"@{page.names[user_id]}" if user_id in page.names else user_id.removeprefix("usr_") or "-"


def _one_line(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()
