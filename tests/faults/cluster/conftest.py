"""PostgreSQL and Redis for all faults, a cluster for each, and the report of a whole run in the folder `FAULT_REPORT`."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster_load import BASE, FULL
from support.cluster_world import Cluster
from support.fault_report import FaultReport, write_reports
from support.postgres import Postgres
from support.postgres import running as running_postgres
from support.redis import RedisNode, one_node

REPORTS: list[FaultReport] = []


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as found:
        yield found


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisNode]:
    with one_node() as found:
        yield found


@pytest.fixture
async def cluster(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres, redis: RedisNode) -> AsyncIterator[Cluster]:
    """A cluster that is not started yet; the parameter says what `Cluster` gets."""
    made = Cluster(tmp_path, request.node.name, postgres, redis, **getattr(request, "param", {}))
    try:
        yield made
    finally:
        try:
            await made.leave()
        finally:
            made.clean_up()


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> FaultReport:
    """The report of a fault: its number is in the test's name, what is done in the first line of its docstring."""
    number = re.match(r"test_(f\d+)", request.node.name)
    assert number is not None
    text = (request.function.__doc__ or "").strip().splitlines()
    variant = re.search(r"\[(.*)\]", request.node.name)
    report = FaultReport(number[1].upper(), text[0] + (f" ({variant[1]})" if variant else ""))
    REPORTS.append(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    made = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(made, Cluster):
        report.sections.append(("fault run", made.describe()))
        found = getattr(item, "funcargs", {}).get("fault")
        if isinstance(found, FaultReport):
            found.passed = False
            found.notes.append(str(call.excinfo.value).splitlines()[0][:200] if call.excinfo else "")
    return report


def pytest_sessionfinish() -> None:
    folder = os.environ.get("FAULT_REPORT")
    if folder and REPORTS:
        about = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "form": "full" if FULL else "short",
            "cores": os.cpu_count(), "python": platform.python_version(), "connections": BASE.connections,
            "rooms": BASE.rooms, "messages_per_s": BASE.per_s,
        }  # fmt: skip
        write_reports(REPORTS, Path(folder), about)
