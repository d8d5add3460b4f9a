"""The page on capacity is computed from a run that is kept: `tools/generate --check` compares, this looks at the arithmetic."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from benchmarks.capacity import BUSY, RECORDED, SIZES, Assumptions, costs_of, need_of, tables


@pytest.fixture
def run() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_bytes())
    return found


def test_a_recorded_run_gives_every_cost(run: dict[str, Any]) -> None:
    costs = costs_of(run)

    assert 10 < costs.accept < 1_000
    assert 5 < costs.deliver < 500
    assert costs.hear > 0
    assert costs.login > costs.accept
    assert costs.stored_bytes > 200


def test_a_run_that_lacks_a_measurement_is_refused(run: dict[str, Any]) -> None:
    without = copy.deepcopy(run)
    without["rows"] = [row for row in run["rows"] if row["letter"] != "b"]

    with pytest.raises(ValueError, match="no \\(b\\)"):
        costs_of(without)


def test_what_is_needed_grows_with_the_users_until_the_bus_is_too_much(run: dict[str, Any]) -> None:
    costs, how = costs_of(run), Assumptions()
    needs = [need_of(users, costs, how) for users in SIZES]

    for smaller, larger in itertools.pairwise(needs):
        times = larger.users / smaller.users
        assert larger.cpu == pytest.approx(smaller.cpu * times)
        assert larger.memory_gb == pytest.approx(smaller.memory_gb * times)
    assert needs[0].servers == 1
    assert needs[0].parts == 1
    assert needs[-1].hearing > BUSY
    assert needs[-1].servers == 0
    assert needs[-1].hearing / needs[-1].parts <= BUSY / 2


def test_presence_is_counted_by_who_sees_it(run: dict[str, Any]) -> None:
    how = Assumptions()
    need = need_of(1_000_000, costs_of(run), how)

    assert need_of(1_000_000, costs_of(run), replace(how, seen=2 * how.seen)).shown == pytest.approx(2 * need.shown)


def test_every_table_has_a_line_for_each_thing(run: dict[str, Any]) -> None:
    found = tables(run)

    assert "100,000,000" in found["needs"]
    assert len(found["gates"].splitlines()) == 2 + len(run["gates"])
    assert all(text.strip() for text in found.values())
