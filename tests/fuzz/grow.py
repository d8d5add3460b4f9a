"""Let the kept corpus grow: `python tests/fuzz/grow.py SECONDS [TARGET...]`.

Each target is fuzzed for that long from what is kept and the seeds; of all that, the smallest inputs that together reach
everything are kept. To be run when an entry point changes, and after a finding was repaired.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from fuzz.corpus import LONGEST, keep, kept, spread  # noqa: E402 - a program of its own
from fuzz.seeds import SEEDS  # noqa: E402


def grow(target: str, seconds: float) -> int:
    """Fuzz one target and keep what is worth it; return how many inputs that are."""
    with tempfile.TemporaryDirectory() as name:
        work = spread(Path(name) / "work", [*kept(target), *(each for each in SEEDS[target]() if len(each) <= LONGEST)])
        small = spread(Path(name) / "small", [])
        run = [sys.executable, str(HERE / "run.py"), target, "-verbosity=0", f"-artifact_prefix={name}/", f"-max_len={LONGEST}"]
        for options in ([f"-max_total_time={seconds:g}", "-timeout=10"], ["-merge=1", str(small)]):
            done = subprocess.run([*run, *options, str(work)], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
        found = [each.read_bytes() for each in small.iterdir()]
        keep(target, found)
        return len(found)


if __name__ == "__main__":
    for each in sys.argv[2:] or SEEDS:
        print(each, grow(each, float(sys.argv[1])), "inputs", flush=True)
