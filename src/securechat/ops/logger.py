"""Logger: structured JSON, one event per line, written by a thread of its own; readable on a terminal.

The event loop only puts records into a bounded queue. Full means: the record is dropped and counted, and the next line that is
written says how many. Values come from `extra`; texts of messages, names and tokens never belong there.
"""

from __future__ import annotations

import gzip
import logging
import logging.handlers
import os
import queue
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

TRACE: Final = 5
FATAL: Final = 60
LEVELS: Final = {"TRACE": TRACE, "DEBUG": 10, "INFO": 20, "WARN": 30, "ERROR": 40, "FATAL": FATAL}
WAITING_MAX: Final = 10_000
VALUE_MAX: Final = 2_000

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS: Final = {"TRACE": "2", "DEBUG": "2", "INFO": "32", "WARN": "33", "ERROR": "31", "FATAL": "31;1"}


_SECRETS: Final = re.compile(
    r"sc_(?:ref|bot|lnk)_[A-Za-z0-9_.-]{8,}"  # refresh, bot, setup and reset tokens
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"  # access tokens
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)


def redact(text: str) -> str:
    """Return the text with everything that has the form of a token or a private key as `***`.

    The second lock: secrets are of a type that does not show itself. This is for what libraries put into their exceptions.
    """
    return _SECRETS.sub("***", text)


def _level_name(level: int) -> str:
    return next((name for name, number in reversed(LEVELS.items()) if level >= number), "TRACE")


def _plain(value: Any) -> Any:
    """Make a value safe for one line: numbers stay, everything else is a short text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:VALUE_MAX]


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `ts level event logger …`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": _level_name(record.levelno),
            "event": record.getMessage()[:VALUE_MAX],
            "logger": record.name,
        }
        line |= {key: _plain(value) for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(msgspec.json.encode(line).decode())


class ConsoleFormatter(logging.Formatter):
    """`20:15:01 INFO  event  key=value …`, in colour on a terminal."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; control characters are escaped, so that no value can draw on the terminal."""
        level = _level_name(record.levelno)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        values = "".join(f"  {key}={_escape(str(_plain(value)))}" for key, value in vars(record).items() if key not in _STANDARD)
        shown = f"\x1b[{_COLOURS[level]}m{level:<5}\x1b[0m" if self._colour else f"{level:<5}"
        line = f"{clock} {shown} {_escape(record.getMessage())}{values}"
        return redact(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


def _escape(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()


class RotatingFile(logging.handlers.TimedRotatingFileHandler):
    """A file that starts anew each midnight (UTC) and at a size; old ones are compressed, and the oldest removed.

    Args:
        path: The file in use.
        max_bytes: Its size at most.
        keep: How many old files stay.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        super().__init__(path, when="midnight", utc=True, backupCount=keep, encoding="utf-8", delay=False)
        path.chmod(0o600)
        self._max_bytes = max_bytes
        self._keep = keep
        self._path = path

    def shouldRollover(self, record: logging.LogRecord) -> int:  # noqa: N802 - the name is the library's
        """Return whether the file is too old or too large."""
        return int(bool(super().shouldRollover(record)) or self._path.stat().st_size >= self._max_bytes)

    def doRollover(self) -> None:  # noqa: N802 - the name is the library's
        """Compress the file away and start a new one."""
        if self.stream:
            self.stream.close()
        now = time.time_ns()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 1_000_000_000))
        # Nanoseconds keep the names in order when a second sees several.
        target = self._path.with_name(f"{self._path.stem}-{stamp}.{now % 1_000_000_000:09d}.log.gz")
        with self._path.open("rb") as source, gzip.open(target, "wb") as packed:
            shutil.copyfileobj(source, packed)
        target.chmod(0o600)
        self._path.unlink()
        self.stream = self._open()
        self._path.chmod(0o600)
        self.rolloverAt = self.computeRollover(int(time.time()))
        for old in sorted(self._path.parent.glob(f"{self._path.stem}-*.log.gz"))[: -self._keep or None]:
            old.unlink()


class _Queue(logging.handlers.QueueHandler):
    """Never waits: what does not fit is counted."""

    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        if self.dropped:
            record.dropped = self.dropped
        try:
            self.queue.put_nowait(record)
            self.dropped = 0
        except queue.Full:
            self.dropped += 1

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


class Logger:
    """The logging of one process, from `start` to `stop`.

    Args:
        level: A word of `LEVELS`.
        style: `json`, `console`, or `auto`: console on a terminal.
        path: A file to write to besides standard error, always JSON; None for none.
        max_bytes: Of the file before it is rotated.
        keep: Old files.
        stream: Standard error, or another.
    """

    def __init__(
        self,
        *,
        level: str = "INFO",
        style: str = "auto",
        path: Path | None = None,
        max_bytes: int = 16 * 1024 * 1024,
        keep: int = 14,
        stream: TextIO | None = None,
    ) -> None:
        stream = stream or sys.stderr
        console = logging.StreamHandler(stream)
        on_terminal = stream.isatty()
        readable = style == "console" or (style == "auto" and on_terminal)
        console.setFormatter(ConsoleFormatter(colour=on_terminal and "NO_COLOR" not in os.environ) if readable else JsonFormatter())
        handlers: list[logging.Handler] = [console]
        if path is not None:
            file = RotatingFile(path, max_bytes=max_bytes, keep=keep)
            file.setFormatter(JsonFormatter())
            handlers.append(file)
        waiting: queue.Queue[logging.LogRecord] = queue.Queue(WAITING_MAX)
        self._handler = _Queue(waiting)
        self._listener = logging.handlers.QueueListener(waiting, *handlers)
        self._handlers = handlers
        self.set_level(level)

    def start(self) -> None:
        """Take over logging."""
        root = logging.getLogger()
        root.handlers = [self._handler]
        # Libraries say what they do at INFO; an operator wants what we say.
        for name in ("picows", "uvicorn", "asyncio", "watchfiles", "httpx2", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("picows").setLevel(logging.CRITICAL)  # A client's nonsense is counted, not logged at ERROR.
        self._listener.start()

    def set_level(self, level: str) -> None:
        """Change the level while running."""
        logging.getLogger("securechat").setLevel(LEVELS[level])
        logging.getLogger().setLevel(max(LEVELS[level], logging.INFO))

    def stop(self) -> None:
        """Write what waits, and let go."""
        self._listener.stop()
        logging.getLogger().handlers = []
        for handler in self._handlers:
            handler.flush()
            if isinstance(handler, RotatingFile):
                handler.close()
