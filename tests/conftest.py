from collections.abc import Iterator
from pathlib import Path

import pytest

from support.receiver import Receiver
from support.running import RunningServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A real server of its own for one test."""
    running = RunningServer(tmp_path / "data").start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A real server for the tests of one file."""
    running = RunningServer(tmp_path_factory.mktemp("shared") / "data").start()
    yield running
    running.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A target of webhooks."""
    found = Receiver()
    yield found
    found.close()
