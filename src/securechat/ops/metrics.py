"""MetricsCollector: plain integers on the hot path, Prometheus text when asked."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from securechat.domain.breaker import Breaker, BreakerState


@dataclass(slots=True)
class Counters:
    """Counted since the start; each becomes `securechat_<name>_total`."""

    deliveries: int = 0
    """Entries handed to connections."""
    writes: int = 0
    """Writes to client sockets."""
    refused: int = 0
    """Commands refused."""
    slow_consumers: int = 0
    """Connections closed with 4008."""
    connections_opened: int = 0
    """WebSocket connections since the start."""
    sealed_sessions: int = 0
    """Sealed sessions since the start."""
    sessions_refused: int = 0
    """Sealed sessions ended because of what came."""
    connections_refused: int = 0
    """Connections refused because there were too many."""
    http_requests: int = 0
    """REST and static requests."""
    auth_failures: int = 0
    """Refused tokens and passwords."""


_STATES: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
Gauges = dict[str, tuple[str, Callable[[], float]]]
"""name → (help, how to read it)."""
Labelled = dict[str, tuple[str, str, Callable[[], Mapping[str, float]]]]
"""name → (help, label, how to read the count of each of its values)."""


class MetricsCollector(Collector):
    """Everything that Prometheus gets.

    Args:
        counters: Of this process.
        gauges: Read at each scrape.
        version: Of this server.
        labelled: Counted by a label since the start.
        breakers: Returns name → the breaker of each dependency.
    """

    def __init__(
        self,
        counters: Counters,
        gauges: Gauges,
        version: str,
        labelled: Labelled | None = None,
        breakers: Callable[[], Mapping[str, Breaker]] = dict,
    ) -> None:
        self._counters = counters
        self._breakers = breakers
        self._gauges = gauges
        self._version = version
        self._labelled = labelled or {}
        self._started = time.time()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Give the metrics of this moment."""
        build = GaugeMetricFamily("securechat_build_info", "The version that runs", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        yield GaugeMetricFamily("securechat_start_time_seconds", "When this process started", value=self._started)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield CounterMetricFamily("securechat_cpu_seconds", "CPU time of this process", value=usage.ru_utime + usage.ru_stime)
        for name, (text, read) in self._gauges.items():
            yield GaugeMetricFamily(f"securechat_{name}", text, value=read())
        for name, (text, label, read_all) in self._labelled.items():
            family = CounterMetricFamily(f"securechat_{name}", text, labels=[label])
            for value, count in sorted(read_all().items()):
                family.add_metric([value], count)
            yield family
        yield from self._of_breakers()
        for each in fields(self._counters):
            yield CounterMetricFamily(
                f"securechat_{each.name}", each.name.replace("_", " "), value=getattr(self._counters, each.name)
            )

    def _of_breakers(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "securechat_breaker_state", "0 when a dependency is asked, 1 while one looks whether it answers, 2 when nobody asks",
            labels=["dependency"],
        )  # fmt: skip
        opens = CounterMetricFamily("securechat_breaker_opens", "Times that a dependency went away", labels=["dependency"])
        refused = CounterMetricFamily("securechat_breaker_refused", "Requests refused meanwhile", labels=["dependency"])
        for name, breaker in self._breakers().items():
            state.add_metric([name], _STATES[breaker.state])
            opens.add_metric([name], breaker.opens)
            refused.add_metric([name], breaker.refused)
        yield from (state, opens, refused)

    def text(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self._registry)
