"""The benches start, and measure something.

`make bench`: one small figure of every group: commands, history, encryption at rest, sealed; and of the bare server. `make bench-cluster`: everything
small, with two servers.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

from securechat.cli.bench import ROOT, build_client
from support.running import wait_until

SMALL = """
import sys
from pathlib import Path
from benchmarks import measure, sealed, world

world.HISTORY_ENTRIES = world.AT_REST_ENTRIES = 2_000
world.PAIRS, world.BIG, world.ROOMS, world.ROOM, world.READERS = 4, 10, 2, 5, 2
measure.SETTLE_S, measure.BARE_SECONDS = 0.1, 0.2
sealed.ROUNDS, sealed.SECONDS = 1, 0.2
for letter, cases in dict(measure.CASES).items():
    measure.CASES[letter] = lambda at, cases=cases: [cases(at)[-1 if cases is measure.CASES.get("r") else 0]]
measure.run("agrs", 0.2, Path(sys.argv[1]))
"""


SMALL_CLUSTER = """
import sys
from pathlib import Path
from securechat.cli.bench import run_bench
sys.path[:0] = [".", "tests"]
from benchmarks import cluster, world

world.PAIRS, world.ROOMS, world.ROOM = 4, 2, 6
cluster.SERVERS, cluster.SETTLE_S, cluster.WARMUP_S, cluster.STORM_S, cluster.ROUNDS = (2,), 0.1, 0.1, 1.0, 1
cluster.LONG_S, cluster.LATENCY_S = 0.2, 0.5
doors = cluster._doors
cluster._doors = lambda letter, count: doors(letter, count) if letter == "a" else doors(letter, count)[:3 if letter in "dl" else 2]
run_bench(None, 0.2, Path(sys.argv[1]), cluster=True)
"""


def test_every_group_of_the_bench_measures_something(tmp_path: Path) -> None:
    build_client()
    found = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-c", SMALL, str(found)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    rows = json.loads(found.read_bytes())["rows"]

    assert {row["letter"] for row in rows} == set("agrs")
    for row in rows:
        if row["letter"] == "s":
            continue
        assert row["figure"] > 0, row
        assert row["bare"] > 0, row
    assert [row for row in rows if row["letter"] == "s"]
    assert "ratio" in done.stdout


def test_the_bench_of_a_cluster_measures_every_figure(tmp_path: Path) -> None:
    found = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-c", SMALL_CLUSTER, str(found)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    document = json.loads(found.read_bytes())

    assert {row["letter"] for row in document["rows"]} == set("adlsb")
    assert {row["door"] for row in document["rows"]} == {"embedded", "direct", "HAProxy", "one of them", "a core each"}
    for row in document["rows"]:
        assert row["accepted_per_s"] > 0, row
        if row["door"] == "embedded":
            continue
        elsewhere = row["figures"].get("another one")
        assert elsewhere is None or elsewhere["value"] > 0, "nobody heard anything by way of the other server"
        assert row["accepted_per_bus_message"] > 0, "nothing went over the bus"
    assert [run["result"]["storm_s"] for run in document["runs"] if "back" in run["case"]][-1] > 0
    assert document["stored_bytes_per_message"] > 200
    assert len(document["gates"]) == 3, "not everything was compared"  # (a) is, of one server


def test_what_a_bench_started_ends_with_it(tmp_path: Path) -> None:
    build_client()
    with (tmp_path / "log").open("w") as log:
        bench = subprocess.Popen(
            [sys.executable, "-m", "securechat", "bench", "--only", "e", "--seconds", "60"], cwd=ROOT, stdout=log, stderr=log
        )
    started: dict[int, str] = {}

    def is_measuring() -> bool:
        started.update(_children(bench.pid))
        return any("/load/load" in command for command in started.values())

    try:
        wait_until(is_measuring, "it measures", 60)
        bench.terminate()
        assert bench.wait(30) == 128 + signal.SIGTERM, (tmp_path / "log").read_text()
    finally:
        bench.kill()
    assert any(" serve " in command for command in started.values()), started
    assert not [command for pid, command in started.items() if command and _command(pid) == command]


def _children(pid: int) -> dict[int, str]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return {int(child): _command(int(child)) for child in tasks.read_text().split()} if tasks.exists() else {}


def _command(pid: int) -> str:
    """Return how a process was started; nothing of one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""
