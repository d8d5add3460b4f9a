"""The real command line, with chosen faults put into the process first.

`python -m support.server_main [--mutant NAME] [--failpoint NAME:COUNT] [--cluster-failpoint NAME:COUNT] [--storage lose|tear:SEED] … serve …`
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from securechat.cli.main import main as command_line
from support import clocks, cluster_mutants, failpoints, mutants, nonces, power_loss


def main() -> None:
    """Put the faults in, then run the server."""
    parser = argparse.ArgumentParser(prog="server_main")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS))
    parser.add_argument("--failpoint", metavar="NAME:COUNT")
    parser.add_argument("--cluster-failpoint", metavar="NAME:COUNT")
    parser.add_argument("--cluster-mutant", choices=sorted(cluster_mutants.CLUSTER_MUTANTS))
    parser.add_argument("--clock", type=Path, metavar="FILE")
    parser.add_argument("--storage", metavar="lose|tear:SEED")
    parser.add_argument("--slow-disk", type=float, metavar="SECONDS")
    parser.add_argument("--slow-publish", type=float, metavar="SECONDS")
    parser.add_argument("--checkpoints", type=int, metavar="PAGES")
    parser.add_argument("--storage-step", type=int, metavar="ROWS")
    parser.add_argument("--nonces", type=Path, metavar="FILE")
    parser.add_argument("--heartbeat", metavar="PING,PONG")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    layer = power_loss.install(given.storage) if given.storage else None
    if given.nonces:
        nonces.Nonces(given.nonces).install()
    if given.clock:
        clocks.install(given.clock)
    if given.slow_disk:
        mutants.slow_disk(given.slow_disk)
    if given.slow_publish:
        mutants.slow_publish(given.slow_publish)
    if given.checkpoints:
        mutants.frequent_checkpoints(given.checkpoints)
    if given.storage_step:
        mutants.small_storage_steps(given.storage_step)
    if given.heartbeat:
        ping, _, pong = given.heartbeat.partition(",")
        mutants.short_heartbeat(float(ping), float(pong))
    if given.mutant:
        mutants.MUTANTS[given.mutant]()
    if given.failpoint:
        name, _, count = given.failpoint.partition(":")
        mutants.FAILPOINTS[name](int(count))
    if given.cluster_mutant:
        cluster_mutants.CLUSTER_MUTANTS[given.cluster_mutant][0]()
    if given.cluster_failpoint:
        name, _, count = given.cluster_failpoint.partition(":")
        failpoints.CLUSTER_POINTS[name](int(count))
    sys.argv = ["securechat", *given.command]
    command_line()
    _ = layer  # SQLite holds no reference to it.


if __name__ == "__main__":
    main()
