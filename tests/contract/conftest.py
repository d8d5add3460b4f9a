from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.postgres import Postgres, running
from support.stores import Place


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL for all contract tests, each with a database of its own."""
    with running() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a store is kept, on each database."""
    if request.param == "sqlite":
        return Place(tmp_path, None)
    return Place(tmp_path, lambda: request.getfixturevalue("postgres"))
