"""Run seeds: `python tests/sim/run.py 17` replays one and tells its story, `0-1999` runs many.

One line of JSON for each seed that failed goes to standard output, and one at the end for all. The exit status is 1 when any failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from shutil import rmtree

sys.path[:0] = [str(Path(__file__).parent.parent)]

from sim import chance  # noqa: E402 - found only now

SHM = Path("/dev/shm")


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", help="one seed, or the first and the last with - between")
    parser.add_argument(
        "--mutant", default="", help="break the server: a name of support.mutants, or with --beside of support.cluster_mutants"
    )
    parser.add_argument("--stop", action="store_true", help="stop at the first seed that fails")
    parser.add_argument("--trace", action="store_true", help="print a fingerprint of each seed")
    parser.add_argument("--story", action="store_true", help="print everything that clients did and saw")
    parser.add_argument("--beside", type=int, default=0, help="up to so many servers beside the first, on one database and Redis")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    chance.install()
    with tempfile.TemporaryDirectory(prefix="sim-", dir=SHM if SHM.is_dir() else None) as folder:
        return _run(seeds, Path(folder), asked)


def _run(seeds: range, folder: Path, asked: argparse.Namespace) -> int:
    # Only now: these modules keep the clocks and the sources of chance that they find.
    from sim import scenario, server, verdict  # noqa: PLC0415
    from sim.disk import Disk  # noqa: PLC0415
    from sim.population import populate  # noqa: PLC0415
    from support import checker  # noqa: PLC0415
    from support.cluster_mutants import CLUSTER_MUTANTS  # noqa: PLC0415
    from support.mutants import MUTANTS  # noqa: PLC0415
    from support.nonces import NONCES  # noqa: PLC0415

    began = chance.real_monotonic()
    server.replace_edges()
    NONCES.install()
    disk = Disk()
    people = populate(disk, folder / "people")
    if asked.mutant:
        breaks = {name: patch for name, (patch, _) in CLUSTER_MUTANTS.items()} if asked.beside else MUTANTS
        breaks[asked.mutant]()
    gc.collect()
    gc.freeze()
    gc.disable()  # What is collected when must not depend on what ran before.
    failed = steps = messages = starts = 0
    done = 0
    for seed in seeds:
        NONCES.clear()
        run = scenario.Run(seed, people, disk, folder / "run", asked.beside and 1 + seed % asked.beside)
        run.play()
        violations = verdict.judge(run)
        steps += run.timeline.steps
        messages += run.diary.acknowledged
        starts += sum(server.starts for server in run.servers)
        done += 1
        if asked.trace:
            print(json.dumps({"seed": seed, "trace": verdict.fingerprint(run)}))
        if asked.story:
            for record in run.diary.records:
                print(record)
            print("\n".join(run.faults.told))
        if violations:
            failed += 1
            what = checker.summary(violations)
            print(
                json.dumps({"seed": seed, "what": what, "faults": run.faults.told, "complaints": server.JOURNAL.lines[:5]}),
                flush=True,
            )
        rmtree(folder / "run")
        del run
        if done % 200 == 0:
            gc.collect()
        if violations and asked.stop:
            break
    took = chance.real_monotonic() - began
    print(
        json.dumps(
            {
                "seeds": done,
                "failed": failed,
                "steps": steps,
                "messages": messages,
                "starts": starts,
                "took_s": round(took, 2),
                "cpu_s": round(time.process_time(), 2),
            }
        ),
        flush=True,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
