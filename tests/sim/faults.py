"""What goes wrong in a run: which kinds of faults, how often, and when, drawn from its seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from sim.client import SimClient
from sim.server import SimServer
from sim.shared import Shared

if TYPE_CHECKING:
    from sim.scenario import Run

REVOCATIONS: Final = ("device.revoke", "session.delete", "user.disable", "bot.revoke")


class Faults:
    """The faults of one run.

    Args:
        run: Where they happen.

    Attributes:
        on: Whether there still are any.
        told: What was done and when, for people.
        disk_failed: Whether the disk ever refused something: then the server may complain.
        down_until: A server that was ended is not started before.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rng = run.rng
        self._loop = run.loop
        self._clients = run.clients
        self._timeline = run.timeline
        self._people = run.people
        self._diary = run.diary
        self._began = run.timeline.now
        self._usual_s = run.servers[0].commit_s
        self.on = True
        self.told: list[str] = []
        self.disk_failed = False
        self.down_until: dict[SimServer, float] = {}

    def plan(self, talk_s: float) -> None:
        """Draw which kinds of faults this run has, and when."""
        rng = self._rng
        kinds: list[tuple[Callable[[], None], float, int]] = [
            (self._crash, 0.45, 1),
            (self._crash_at_a_step, 0.45, 2),
            (self._restart, 0.15, 1),
            (self._full_disk, 0.15, 1),
            (self._failing_disk, 0.15, 1),
            (self._slow_disk, 0.2, 2),
            (self._cut, 0.4, 4),
            (self._deafen, 0.3, 2),
            (self._stall, 0.3, 3),
            (self._vanish, 0.3, 3),
            (self._slow_reader, 0.3, 2),
            (self._jump, 0.2, 1),
            (self._membership, 0.5, 4),
        ]
        if self._run.shared is not None:
            kinds += [
                (self._break_link, 0.4, 2),
                (self._silence_link, 0.4, 2),
                (self._lose_messages, 0.4, 2),
                (self._delay_messages, 0.3, 2),
                (self._end_redis, 0.3, 1),
                (self._stand_still, 0.3, 2),
            ]
        for fault, likely, most in kinds:
            if rng.random() < likely:
                for _ in range(rng.randint(1, most)):
                    self._loop.call_later(rng.uniform(0.8, talk_s), self._fault, fault)
        if rng.random() < 0.35:
            self._loop.call_later(rng.uniform(1.0, talk_s), self._run.revoke, rng.choice(REVOCATIONS))

    def _fault(self, fault: Callable[[], None]) -> None:
        if self.on:
            self.told.append(f"{self._timeline.now - self._began:.3f} {fault.__name__[1:]}")
            fault()

    @property
    def _server(self) -> SimServer:
        """Whose turn it is to have a fault."""
        servers = self._run.servers
        return servers[0] if len(servers) == 1 else self._rng.choice(servers)

    def _kill(self, server: SimServer) -> None:
        rng = self._rng
        power = rng.random() < 0.6
        server.kill(power=power, tear=power and rng.random() < 0.5, silent=rng.random() < 0.3)
        self.down_until[server] = self._timeline.now + rng.choice([0.0, 0.3, 2.0])
        self._run.nobody_knows(server)

    def _crash(self) -> None:
        server = self._server
        if not server.loop.dead:
            self._kill(server)

    def _crash_at_a_step(self) -> None:
        server = self._server
        server.loop.ends_at = server.loop.steps + self._rng.randint(1, 250)
        server.loop.on_end = partial(self._kill, server)

    def _restart(self) -> None:
        server = self._server
        if server.ready:
            server.ask_to_stop()

    def _full_disk(self) -> None:
        self._disk("full", self._rng.uniform(0.1, 2.0))

    def _failing_disk(self) -> None:
        self._disk("failing", self._rng.uniform(0.1, 1.0))

    def _disk(self, how: str, seconds: float) -> None:
        life = self._server.life
        self.disk_failed = True
        self._diary.add("disk", "refusing")
        setattr(life, how, True)
        self._loop.call_later(seconds, setattr, life, how, False)  # noqa: FBT003 - `setattr` takes no names

    def _slow_disk(self) -> None:
        server = self._server
        server.commit_s = (0.2, 1.5)
        self._loop.call_later(self._rng.uniform(0.5, 2.0), self._usual_disk, server)

    def _usual_disk(self, server: SimServer) -> None:
        if self.on:
            server.commit_s = self._usual_s

    def _victim(self) -> SimClient:
        return self._clients[self._rng.choice(sorted(self._clients))]

    def _cut(self) -> None:
        wire = self._victim().wire
        if wire is not None:
            wire.cut()

    def _deafen(self) -> None:
        wire = self._victim().wire
        if wire is not None:
            wire.deaf = True

    def _stall(self) -> None:
        wire = self._victim().wire
        if wire is not None:
            wire.stall(self._rng.uniform(0.5, 8.0))

    def _vanish(self) -> None:
        self._victim().drop(silently=self._rng.random() < 0.5)

    def _slow_reader(self) -> None:
        wire = self._victim().wire
        if wire is not None:
            wire.slow_bps = self._rng.choice([4_000.0, 20_000.0])
            self._loop.call_later(self._rng.uniform(1.0, 6.0), setattr, wire, "slow_bps", 0.0)

    def _jump(self) -> None:
        self._server.jump(self._rng.choice([-3_600.0, -300.0, -5.0, 5.0, 300.0]))

    # ── between servers ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _shared(self) -> Shared:
        assert self._run.shared is not None
        return self._run.shared

    def _some_link(self, *, silently: bool) -> None:
        links = list(self._shared.links)
        if links:
            self._rng.choice(links).lose(silently=silently)

    def _break_link(self) -> None:
        self._some_link(silently=False)

    def _silence_link(self) -> None:
        self._some_link(silently=True)

    def _lose_messages(self) -> None:
        shared = self._shared
        shared.loses = self._rng.choice([0.05, 0.3, 1.0])
        self._loop.call_later(self._rng.uniform(0.1, 1.0), setattr, shared, "loses", 0.0)

    def _delay_messages(self) -> None:
        shared = self._shared
        shared.late_s = self._rng.choice([0.05, 0.5, 2.0])
        self._loop.call_later(self._rng.uniform(0.3, 2.0), setattr, shared, "late_s", 0.0)

    def _end_redis(self) -> None:
        shared = self._shared
        shared.down = True
        if self._rng.random() < 0.5:
            shared.buckets.clear()
        for link in list(shared.links):
            link.lose(silently=self._rng.random() < 0.5)
        self._loop.call_later(self._rng.uniform(0.1, 2.0), setattr, shared, "down", False)  # noqa: FBT003 - as above

    def _stand_still(self) -> None:
        server = self._server
        loop = server.loop
        if not loop.dead:
            loop.freeze()
            self._loop.call_later(self._rng.uniform(0.1, 6.0), loop.thaw)

    def _membership(self) -> None:
        rng = self._rng
        client = self._clients[rng.choice([name for name in ("ana-phone", "ben-phone", "cleo", "dan") if name in self._clients])]
        room = self._people.rooms[rng.choice(["den", "den", "hall"])]
        for each in self._clients.values():  # All talk while somebody goes or comes.
            if each.ready and room in each.rooms and rng.random() < 0.7:
                self._loop.call_later(rng.uniform(0.0, 0.2), self._run.say, each, room)
        if room in client.rooms:
            self._run.remove(client.user, room)
            if rng.random() < 0.5:
                self._loop.call_later(rng.uniform(0.0, 1.0), self._run.add, client.user, room)
        else:
            self._run.add(client.user, room)
