import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.receiver import Receiver
from support.running import RunningServer


@pytest.fixture(scope="session")
def started_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as a server leaves it that was started and stopped: with keys, a certificate, and nobody in it.

    To make it takes a server longer than to start.
    """
    data = tmp_path_factory.mktemp("started") / "data"
    RunningServer(data).start().stop()
    return data


@pytest.fixture
def server(tmp_path: Path, started_once: Path) -> Iterator[RunningServer]:
    """A real server of its own for one test."""
    running = RunningServer(shutil.copytree(started_once, tmp_path / "data")).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory, started_once: Path) -> Iterator[RunningServer]:
    """A real server for the tests of one file."""
    running = RunningServer(shutil.copytree(started_once, tmp_path_factory.mktemp("shared") / "data")).start()
    yield running
    running.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A target of webhooks."""
    found = Receiver()
    yield found
    found.close()
