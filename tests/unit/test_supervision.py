"""Work in the background: it begins again when it breaks, and never dies without a word."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from securechat.errors import Shutdown
from securechat.ops.health import Health
from securechat.server import supervision, tls
from securechat.server.supervision import DEATHS_MAX, WINDOW_S, Supervisor
from securechat.server.tls import TLSContext
from support.waiting import until


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.001)


@pytest.mark.parametrize("error", [ValueError("out of range"), OSError(28, "No space left on device"), Shutdown("no key")])
async def test_what_breaks_is_logged_and_begun_again(caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    given_up: list[str] = []
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise error

    await Supervisor(given_up.append).supervise("some work", work)

    assert (runs, given_up) == (3, [])
    assert [record.work for record in caplog.records] == ["some work", "some work"]  # type: ignore[attr-defined]


async def test_what_breaks_again_and_again_is_given_up_and_what_breaks_seldom_is_not() -> None:
    given_up: list[str] = []
    now = [0.0]
    runs = 0

    def broken(step_s: float, last: int) -> Callable[[], object]:
        async def work() -> None:
            nonlocal runs
            runs += 1
            now[0] += step_s
            if runs < last:
                raise ValueError

        return work

    supervisor = Supervisor(given_up.append, lambda: now[0])
    await supervisor.supervise("seldom", broken(WINDOW_S / 3, 20))  # type: ignore[arg-type]
    assert (runs, given_up) == (20, [])
    runs = 0
    await supervisor.supervise("often", broken(WINDOW_S / 10, 20))  # type: ignore[arg-type]
    assert (runs, given_up) == (DEATHS_MAX, ["often"])


@pytest.mark.slow
def test_the_process_ends_when_work_is_given_up(tmp_path: Path) -> None:
    script = f"""
import asyncio
from securechat.server import supervision
from securechat.server.config import ConfigManager
from securechat.server.reloading import Reloading
from securechat.server.server import Server

async def broken(self): raise ValueError("out of range")

supervision.FIRST_PAUSE_S = 0.001
Reloading.watch = broken
settings = dict(data_dir={str(tmp_path / "data")!r}, port=0, http_port=0, drain_s=0.1)
asyncio.run(Server(ConfigManager(None, settings, {{}}), lambda text: None).run())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 1
    assert "breaks again and again" in done.stderr
    assert done.stderr.count("out of range") >= DEATHS_MAX


async def test_work_that_was_given_up_makes_the_server_not_ready() -> None:
    health = Health({})
    health.started = True
    assert (await health.readiness()).ready
    health.broken.append("configuration")

    found = await health.readiness()
    assert (found.ready, found.checks) == (False, {"configuration": "broken"})


async def test_a_full_disk_does_not_end_the_care_for_the_own_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "POLL_S", 0.005)
    monkeypatch.setattr(tls, "CARE_S", 0.01)
    context = TLSContext(tmp_path)
    context.load()
    real = context.ca.certificate

    def full(*_values: object, **_more: object) -> tuple[Path, Path]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(context.ca, "certificate", full)
    task = asyncio.create_task(context.watch())
    await until(lambda: task.done() or bool(context.problem))
    assert not task.done()
    assert "No space left" in context.problem
    assert not context.renew_own()
    monkeypatch.setattr(context.ca, "certificate", real)
    await until(lambda: not context.problem)
    task.cancel()
