"""What is told of a running server: readiness, worries and figures, from its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from securechat import __version__
from securechat.domain.breaker import Breaker
from securechat.ops.health import Health
from securechat.ops.metrics import Gauges, Labelled, MetricsCollector
from securechat.server.wiring import Parts
from securechat.store.opening import HOME_DEPENDENCY


def health_of(parts: Parts) -> Health:
    """Return the health of a server: home is needed, other databases and Redis are not."""
    checks = {} if parts.pools else {"store": parts.maintenance.ping}
    return Health(checks, _worries(parts), lambda: breakers_of(parts), {HOME_DEPENDENCY})


def breakers_of(parts: Parts) -> dict[str, Breaker]:
    """Return the breaker of each dependency."""
    found = {name: pool.breaker for name, pool in parts.pools.items()}
    found |= {f"sign-in {each.config.id}": each.breaker for each in parts.providers}
    return found if parts.redis is None else found | parts.redis.links.breakers


def metrics_of(parts: Parts, health: Health) -> MetricsCollector:
    """Return the figures of a server."""
    gauges: Gauges = {
        "connections": ("WebSocket connections", lambda: len(parts.gateway.connections)),
        "commits_waiting": ("Operations that wait for the next commit", lambda: parts.room_log.waiting),
        "database_waiting": (
            "Who waits for a connection to PostgreSQL",
            lambda: sum(each.waiting for each in parts.pools.values()),
        ),
        "certificate_expiry_timestamp_seconds": ("When the TLS certificate ends, in Unix time", parts.tls.expiry),
        "certificate_problem": ("1 when the TLS certificate needs care", lambda: float(bool(parts.desk.problem))),
        "storage_job_problem": ("1 when a storage job waits or broke", lambda: float(bool(parts.storage.problem))),
        "damaged_texts": ("Stored texts that did not open", lambda: parts.sealing.damaged),
        "tasks": ("Tasks of the event loop", lambda: len(asyncio.all_tasks())),
        "event_loop_lag_seconds": ("How late the event loop was at the last look", lambda: health.loop_lag_s),
        **_webhook_gauges(parts),
        **_cluster_gauges(parts),
    }
    labelled: Labelled = {
        "webhook_deliveries": ("Deliveries to targets of subscriptions", "result", lambda: parts.relay.figures.results),
    }
    return MetricsCollector(parts.counters, gauges, __version__, labelled, lambda: breakers_of(parts))


def _worries(parts: Parts) -> dict[str, Callable[[], str]]:
    """Return what is looked at besides the store: it takes no traffic away, and needs somebody's care."""
    found = {
        "tls": lambda: parts.desk.problem,
        "identity": lambda: parts.identities.problem,
        "storage": lambda: parts.storage.problem,
        "webhooks": lambda: parts.relay.problem,
    }
    if parts.redis is not None and parts.shared_files is not None:
        links, files = parts.redis.links, parts.shared_files
        found |= {"redis": lambda: links.problem, "keys": lambda: files.problem}
    return found


def _webhook_gauges(parts: Parts) -> Gauges:
    """Return what deliveries to targets of subscriptions are measured by; on the server that leads."""
    relay = parts.relay
    return {
        "webhook_subscriptions": ("Subscriptions that are active", lambda: relay.figures.subscriptions),
        "webhook_dead_letters": ("Entries that could not be delivered", lambda: relay.figures.dead_letters),
        "webhook_queue_age_seconds": ("Age of the oldest entry that waits for its delivery", relay.queue_age_s),
        "webhook_hosts_paused": ("Hosts that are left alone because they fail", relay.paused_hosts),
    }


def _cluster_gauges(parts: Parts) -> Gauges:
    """Return what several servers are measured by."""
    redis, sequencer = parts.redis, parts.sequencer
    if redis is None or sequencer is None:
        return {}
    traffic, refusals, figures = redis.links.traffic, redis.refusals, sequencer.figures
    return {
        "bus_up": ("1 when all of Redis answers", lambda: float(not redis.links.problem)),
        "bus_servers": ("Servers that are heard on the bus, this one included", lambda: redis.peers + 1),
        "bus_leads": ("1 on the server that works on jobs", lambda: float(parts.locks is not None and parts.locks.leads)),
        "bus_messages_sent": ("Messages sent to other servers", lambda: traffic.sent),
        "bus_bytes_sent": ("Bytes of them", lambda: traffic.sent_bytes),
        "bus_messages_received": ("Messages received, our own included", lambda: traffic.received),
        "bus_messages_dropped": ("Messages that could not be sent", lambda: traffic.dropped),
        "bus_losses": ("Times that a connection to Redis ended", lambda: traffic.losses),
        "bus_messages_forged": ("Messages without a mark of our key", lambda: refusals.forged),
        "bus_messages_mistaken": ("Messages that could not be taken because of a mistake", lambda: refusals.mistakes),
        "bus_messages_repeated": ("Messages that came again, or too late", lambda: refusals.repeated),
        "limits_shared": (
            "1 while limits hold for all servers together",
            lambda: float(parts.sharing is not None and not parts.sharing.alone),
        ),
        "sequencer_rooms": ("Rooms that are followed", lambda: sequencer.followed),
        "sequencer_entries_healed": ("Entries read from the log because they did not come", lambda: figures.healed),
        "sequencer_entries_held": ("Entries that came before one that was to come first", lambda: figures.held),
        "sequencer_entries_repeated": ("Entries that came again", lambda: figures.repeated),
        "sequencer_memberships_healed": (
            "Memberships set right because the entry did not come",
            lambda: sequencer.memberships.corrected,
        ),
    }
