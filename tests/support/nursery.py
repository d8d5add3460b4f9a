"""Where servers of tests come from: a process that has imported them, and becomes one as often as it is asked to.

Of the time that a server takes to start, most goes into imports, and a run of all tests starts some thousand of them. What comes
from here has the same code, the same command line and the same ends as one that was started anew; a few tests start those, too.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NoReturn

TESTS: Final = Path(__file__).parent.parent
LOOK_S: Final = 0.005
_MESSAGE_MAX: Final = 65_536
_IMPORTED: Final = (
    "securechat.cli.serve", "securechat.server.server", "support.server_main",
    "alembic.command", "sqlalchemy.dialects.sqlite", "typer._adapters", "uvicorn.lifespan.off", "webauthn",
)  # fmt: skip
"""What every server has loaded soon, and what makes the schema of a new one."""


class Child:
    """A process of the nursery; used like a `subprocess.Popen`.

    Attributes:
        pid: Process id.
        stdout: What it prints, if nobody else gets that.
        returncode: Exit status; negative for a signal, None while nobody has seen its end.
    """

    def __init__(self, nursery: Nursery, pid: int, stdout: IO[str] | None) -> None:
        self._nursery = nursery
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.status(self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return its exit status as soon as it has ended.

        Raises:
            TimeoutExpired: It has not, in time.
        """
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(LOOK_S)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The test's end of it. There is one for each process that runs tests; it ends with that, and all that came from it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.nursery", str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._socket = ours
        self._turn = threading.Lock()

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        stdout: IO[Any] | None,
        stderr: IO[Any],
        environment: Mapping[str, str],
        stdin: int | None = None,
    ) -> Child:
        """Start `python -m module` with these arguments; without `stdout` its lines are read from the child."""
        reading = None
        if stdout is None:
            read, write = os.pipe()
            reading = os.fdopen(read)
        else:
            write = os.dup(stdout.fileno())
        what = {"module": module, "arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
        reads = os.open(os.devnull, os.O_RDONLY) if stdin is None else os.dup(stdin)
        try:
            pid = self._ask(what, reads, write, stderr.fileno())["pid"]
        finally:
            os.close(reads)
            os.close(write)
        return Child(self, pid, reading)

    def status(self, pid: int) -> int | None:
        """Return the exit status of a child that has ended."""
        found: int | None = self._ask({"ended": pid})["status"]
        return found

    def _ask(self, what: dict[str, Any], *files: int) -> Any:
        with self._turn:
            socket.send_fds(self._socket, [json.dumps(what).encode()], list(files))
            answer = self._socket.recv(_MESSAGE_MAX)
        assert answer, "the nursery has ended"
        return json.loads(answer)


_one: list[Nursery] = []


def nursery() -> Nursery:
    """Return that of this process."""
    if not _one:
        _one.append(Nursery())
    return _one[0]


# ── its own end ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _serve(asked: socket.socket) -> None:
    running: set[int] = set()
    try:
        while True:
            data, files, _, _ = socket.recv_fds(asked, _MESSAGE_MAX, 3)
            if not data:
                return
            what = json.loads(data)
            if "ended" in what:
                pid, status = os.waitpid(what["ended"], os.WNOHANG)
                running.discard(pid)
                asked.send(json.dumps({"status": os.waitstatus_to_exitcode(status) if pid else None}).encode())
                continue
            pid = os.fork()
            if not pid:
                asked.close()
                _become(what, files)
            running.add(pid)
            for each in files:
                os.close(each)
            asked.send(json.dumps({"pid": pid}).encode())
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)


def _become(what: dict[str, Any], files: Sequence[int]) -> NoReturn:
    """Be the process that was asked for, and end as it does."""
    status = 1
    try:
        gc.enable()
        for number, each in enumerate(files):
            os.dup2(each, number)
        os.closerange(3, max(files) + 1)
        os.environ.clear()
        os.environ.update(what["environment"])
        os.chdir(what["folder"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = [what["module"], *what["arguments"]]
        status = _run(what["module"])
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _run(module: str) -> int:
    try:
        importlib.import_module(module).main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    except KeyboardInterrupt:
        return 130
    except BaseException:  # noqa: BLE001 - whatever it is, it is shown as the interpreter does
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    for name in _IMPORTED:
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "only who has no threads may fork"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the tests: it ends with them.
    gc.collect()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
