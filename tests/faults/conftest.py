"""One data folder with bots, copied for each test; servers that never outlive their test; on failure, what is needed to look into it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest

from support.fault_world import World
from support.server_process import Population, populate


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Population]:
    folder = tmp_path_factory.mktemp("template") / "data"
    return folder, populate(folder, rooms=2, bots=16)


@pytest.fixture
async def world(template: tuple[Path, Population], tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    root, people = template
    shutil.copytree(root, tmp_path / "data")
    made = World(tmp_path, people, request.node.name)
    try:
        yield made
    finally:
        try:
            await made.leave()
        finally:
            made.server.clean_up()
            made.history.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    found = getattr(item, "funcargs", {}).get("world")
    if report.failed and isinstance(found, World):
        report.sections.append(("fault run", found.describe()))
    return report
