"""`make bench` starts: one small figure of every group: commands, history, encryption at rest, sealed; and of the bare server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from securechat.cli.bench import ROOT, build_client

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
