"""The real server on a simulated clock, disk and network: thousands of seeds, and the proof that what they look for is found.

A seed that fails is told with the command that replays it. `SIM_SEEDS` says how many there are, `SIM_FIRST` where they begin.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

import securechat

RUN: Final = Path(__file__).parent / "run.py"
SOURCE: Final = Path(securechat.__file__).parent
PROCESSES: Final = 2
FIRST: Final = int(os.environ.get("SIM_FIRST", "0"))
SEEDS: Final = int(os.environ.get("SIM_SEEDS", "2000"))
MUTANTS: Final = {
    "ack_before_commit": ("I1", "I10"),
    "sequence_order": ("I1",),
    "forget_cmid": ("I1",),
    "drop_deliveries": ("I3", "I5"),
    "no_cut_at_removal": ("I6",),
    "swap_entries": ("I5",),
    "reuse_nonce": ("I13",),
    "keep_sessions": ("I7",),
    "leak_task": ("I11",),
    "swallow_cancel": ("I11",),
    "skip_audit": ("I12",),
}
"""What breaks, and the invariants of which one has to say so."""
MUTANT_SEEDS: Final = 250
"""Within so many seeds each of them is noticed."""
BESIDE: Final = ("--beside", "2")
"""One or two servers more, on the same database, and a Redis between them."""
MUTANTS_BESIDE: Final = {
    "believe_the_bus": ("I3", "L"),
    "keep_sessions": ("I7",),
    "tell_everybody": ("I6",),
    "skip_audit": ("I12",),
}
"""The same among several: of `support.cluster_mutants`."""

Lines = list[dict[str, Any]]


def run(*arguments: str, hash_seed: int = 0) -> Lines:
    """Run seeds in a process of their own and return what it told, a summary last."""
    found = subprocess.run(
        [sys.executable, str(RUN), *arguments], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
    )  # fmt: skip
    assert found.returncode in {0, 1}, found.stderr
    assert not found.stderr, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


@pytest.mark.alone
@pytest.mark.timeout(max(300, SEEDS // 5))
@pytest.mark.parametrize(("seeds", "beside"), [(SEEDS, ()), (SEEDS // 5, BESIDE)], ids=["one server", "several servers"])
def test_every_seed_keeps_every_promise(seeds: int, beside: tuple[str, ...]) -> None:
    share = -(-seeds // PROCESSES)
    ranges = [f"{first}-{min(first + share, FIRST + seeds) - 1}" for first in range(FIRST, FIRST + seeds, share)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(lambda some: run(some, *beside), ranges))
    failed = [line for lines in found for line in lines[:-1]]
    sums = {name: round(sum(lines[-1][name] for lines in found), 1) for name in found[0][-1]}
    print(f"{sums}, the longer process {max(lines[-1]['took_s'] for lines in found)} s")
    told = "\n\n".join(
        f"seed {each['seed']}: {each['what']}\n  faults: {', '.join(each['faults'])}\n  replay it:"
        f" .venv/bin/python {RUN.relative_to(RUN.parents[2])} {each['seed']} {' '.join([*beside, '--story'])}"
        for each in failed[:5]
    )
    assert not failed, f"{len(failed)} of {seeds} seeds failed\n\n{told}"
    assert sums["seeds"] == seeds
    assert sums["starts"] > (3.1 if beside else 1.3) * seeds, "servers hardly ever ended: the faults are not there"
    assert sums["messages"] > 10 * seeds, "hardly anybody talked"


@pytest.mark.alone
@pytest.mark.parametrize("beside", [(), BESIDE], ids=["one server", "several servers"])
def test_a_seed_is_the_same_story_whatever_ran_before_it_and_however_strings_are_hashed(beside: tuple[str, ...]) -> None:
    with ThreadPoolExecutor(PROCESSES) as pool:
        one, other = pool.map(lambda how: run(how[0], "--trace", *beside, hash_seed=how[1]), [("0-29", 1), ("10-29", 2)])
    traces = {line["seed"]: line["trace"] for line in one[:-1] if "trace" in line}
    again = {line["seed"]: line["trace"] for line in other[:-1] if "trace" in line}
    assert set(again) == set(range(10, 30))
    assert again == {seed: traces[seed] for seed in again}
    assert len(set(traces.values())) == len(traces), "different seeds are different stories"


@pytest.fixture(scope="module")
def noticed() -> Iterator[dict[tuple[str, tuple[str, ...]], Future[Lines]]]:
    """Each mutant, with its seeds until one fails; two at a time."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        yield {
            (name, beside): pool.submit(run, f"0-{MUTANT_SEEDS - 1}", "--stop", "--mutant", name, *beside)
            for name, _, beside in _MUTANTS
        }


_MUTANTS: Final = [
    *((name, promises, ()) for name, promises in MUTANTS.items()),
    *((name, promises, BESIDE) for name, promises in MUTANTS_BESIDE.items()),
]


@pytest.mark.alone
@pytest.mark.parametrize(
    ("mutant", "promises", "beside"), _MUTANTS, ids=[f"{name}{' of several' * bool(beside)}" for name, _, beside in _MUTANTS]
)
def test_a_server_broken_on_purpose_is_noticed_in_few_seeds(
    noticed: dict[tuple[str, tuple[str, ...]], Future[Lines]], mutant: str, promises: tuple[str, ...], beside: tuple[str, ...]
) -> None:
    *failed, summary = noticed[mutant, beside].result(100)
    assert failed, f"{summary['seeds']} seeds, and nobody noticed"
    what = failed[-1]["what"]
    print(f"{mutant}: seed {failed[-1]['seed']}, {summary['took_s']} s, {what.splitlines()[0]}")
    told = {each.split(" x ")[0] for each in what.splitlines()[0].split(", ")}
    assert told & {*promises}, what


FORBIDDEN: Final = {"now", "utcnow", "today", "uuid1", "uuid4", "getrandom", "Thread"}
REPLACED: Final = {"disk_thread.py"}
"""Begins a thread; the simulation has its own (`sim.server.replace_edges`)."""
SIMULATED: Final = ("auth", "bus", "domain", "gateway", "ops", "protocol", "services", "store")


def _escapes(path: Path) -> Iterator[str]:
    """Find what would escape the simulation: a clock or chance that it cannot replace."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "random", "secrets"}:
            yield f"{path.relative_to(SOURCE)}:{node.lineno} imports names out of {node.module}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN:
            owner = node.func.value
            if isinstance(owner, ast.Name | ast.Attribute) and (owner.id if isinstance(owner, ast.Name) else owner.attr) in {
                "datetime", "date", "uuid", "os", "threading",
            }:  # fmt: skip
                yield f"{path.relative_to(SOURCE)}:{node.lineno} calls {ast.unparse(node.func)}"


def test_nothing_that_is_simulated_takes_time_or_chance_from_elsewhere() -> None:
    paths = [path for folder in SIMULATED for path in sorted((SOURCE / folder).rglob("*.py")) if path.name not in REPLACED]
    found = [each for path in paths for each in _escapes(path)]
    assert not found, "\n".join(found)


def test_the_search_for_escapes_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "bad.py").write_text("from time import monotonic\nimport datetime as dt\ndt.datetime.now()\nos.getrandom(4)\n")
    assert len(list(_escapes(tmp_path / "bad.py"))) == 3
