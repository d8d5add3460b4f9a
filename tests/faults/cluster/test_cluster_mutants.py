"""The checker of the cluster, proved on servers that are broken on purpose: each must be noticed, and the whole one must pass."""

from __future__ import annotations

import contextlib

import pytest

from support import checker
from support.cluster_load import Load
from support.cluster_mutants import CLUSTER_MUTANTS
from support.cluster_verdict import readings, violations_of
from support.cluster_world import Cluster

pytestmark = [pytest.mark.alone, pytest.mark.faults, pytest.mark.timeout(180)]
FEW = {"load": Load(20, 6, 40)}


async def run(cluster: Cluster, *mutant: str) -> list[checker.Violation]:
    """Talk, cut everybody off, end a session, and look."""
    await cluster.start(*mutant)
    cluster.talk.start()
    await cluster.for_a_while(2)
    before = await readings(cluster)
    one, two = cluster.servers
    await cluster.cut_off(one, two)
    victim = cluster.victims[0]
    with contextlib.suppress(TimeoutError):
        await cluster.revoke(victim, by=two if victim.url == one.url else one, within_s=2)
    await cluster.for_a_while(3)
    with contextlib.suppress(TimeoutError):
        await cluster.quiet(5)
    for client in cluster.clients:
        if not client.revoked.is_set():
            client.quiet()
    return await violations_of(cluster, before)


@pytest.mark.parametrize("cluster", [FEW], indirect=True, ids=[""])
@pytest.mark.parametrize("mutant", list(CLUSTER_MUTANTS))
async def test_a_broken_server_is_noticed(cluster: Cluster, mutant: str) -> None:
    found = await run(cluster, "--cluster-mutant", mutant)
    invariant = CLUSTER_MUTANTS[mutant][1]
    assert invariant in {violation.invariant for violation in found}, checker.summary(found)
    print(f"{mutant}: {checker.summary(found).splitlines()[0]}; {next(v for v in found if v.invariant == invariant)}")


@pytest.mark.parametrize("cluster", [FEW], indirect=True, ids=[""])
async def test_records_that_were_changed_are_noticed(cluster: Cluster) -> None:
    await cluster.start()
    before = await readings(cluster)
    newest = "(SELECT max(n) FROM audit WHERE action = 'bot.create')"
    cluster.postgres.sql(f"UPDATE audit SET subject = 'usr_somebody' WHERE n = {newest}", cluster.database)
    cluster.talk.start()
    await cluster.quiet()
    assert "I12" in {violation.invariant for violation in await violations_of(cluster, before)}


@pytest.mark.parametrize("cluster", [FEW], indirect=True, ids=[""])
async def test_whole_servers_pass_the_same_run(cluster: Cluster) -> None:
    found = await run(cluster)
    assert not found, checker.summary(found)
