"""Attacks 3, 4, 19 to 24, 50, 72 and 80 to 83, and what nobody thought of: the kept corpus, and some seconds of fuzzing from it.

`SECURECHAT_FUZZ_S` says how many seconds each target has; `make test-long` gives it a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.corpus import LONGEST, kept, spread
from fuzz.run import GUIDED
from fuzz.seeds import SEEDS

RUN = Path(__file__).with_name("run.py")
SECONDS = float(os.environ.get("SECURECHAT_FUZZ_S", "2"))


def fuzz(target: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    corpus = spread(folder / "corpus", kept(target))
    command = [sys.executable, str(RUN), target, "-timeout=10", f"-max_len={LONGEST}", f"-artifact_prefix={folder}/", *options]
    return subprocess.run([*command, str(corpus)], capture_output=True, text=True, check=False, timeout=SECONDS + 60)


@pytest.mark.parametrize("target", SEEDS)
def test_nothing_is_found(target: str, tmp_path: Path) -> None:
    assert kept(target), "nothing is kept: python tests/fuzz/grow.py 60"
    done = fuzz(target, tmp_path, f"-max_total_time={SECONDS:g}")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4_000:]}"


@pytest.mark.parametrize("target", SEEDS)
def test_the_corpus_is_small_and_whole(target: str) -> None:
    found = kept(target)
    assert len(found) == len(set(found)) <= 400
    assert max(map(len, found)) <= LONGEST


def test_a_bug_behind_five_bytes_is_found(tmp_path: Path) -> None:
    done = fuzz("planted", tmp_path, "-max_total_time=30", "-seed=1")
    assert (done.returncode != 0) is GUIDED, done.stderr[-4_000:]
    assert ("the planted bug" in done.stdout) is GUIDED
