"""One run: a seed says who talks, how the network and the disk are, and what goes wrong when. Then the faults end, and everything has
to come right within a minute of virtual time.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from securechat.domain import commands as c
from securechat.errors import ChatError
from securechat.server.datadir import DataDir
from securechat.store.sqlite import SqliteDatabase
from sim import chance
from sim.client import SimClient
from sim.disk import Disk
from sim.faults import Faults
from sim.loop import Deadlock, ProcessLoop, Timeline
from sim.network import Weather
from sim.population import OUTSIDER, Failed, Population
from sim.server import JOURNAL, STOP_S, SimServer, narrow
from sim.shared import Shared
from sim.story import Diary, Traits

BEGINS_S: Final = 1_100.0
CONVERGE_S: Final = 60.0
"""After the last fault everybody has everything within this time."""
SLOW: Final = "ended without the last audit records"
"""What a server says that was asked to stop while a commit took seconds."""
EMOJI: Final = ("👍", "🎉", "🙂")


@dataclass
class Ended:
    """A session that was ended, for I7.

    Attributes:
        clients: Names of the clients whose session it was.
        at: When that was acknowledged.
    """

    clients: list[str]
    at: float


@dataclass
class Membership:
    """Who may hear of a room, as far as it was acknowledged, for I6.

    Attributes:
        out: (user, room) → since when the user is surely out, as the acknowledgement said. Not there: may be in.
    """

    out: dict[tuple[str, str], float] = field(default_factory=dict)
    spans: list[tuple[str, str, float, float]] = field(default_factory=list)
    """(user, room, surely out since, maybe in again at)."""

    def left(self, user: str, room: str, now: float) -> None:
        """It was acknowledged that the user is out."""
        self.out[user, room] = now

    def maybe_in(self, user: str, room: str, now: float) -> None:
        """Somebody asks that the user be let in."""
        since = self.out.pop((user, room), None)
        if since is not None:
            self.spans.append((user, room, since, now))


class Run:
    """One run.

    Args:
        seed: Says everything.
        people: The folder to begin with.
        others: How many servers there are besides one.
        disk: Where the files are.
        folder: Where this run's are.

    Attributes:
        servers: All of them; the database is in the folder of the first.
        shared: What several have in common.
        trouble: What broke besides the history: the server does not come right, or does not end.
        faults: What goes wrong.
        acked: Operator's commands that were acknowledged: (action, subject, room).
    """

    def __init__(self, seed: int, people: Population, disk: Disk, folder: Path, others: int = 0) -> None:
        self.seed = seed
        self.people = people
        self.rng = random.Random(f"{seed} plan")
        chance.reseed(f"{seed} secrets")
        JOURNAL.lines.clear()
        narrow(random.Random(f"{seed} limits"))
        self.timeline = Timeline(BEGINS_S)
        rng = self.rng
        latency = rng.choice([(0.0005, 0.003), (0.002, 0.03), (0.02, 0.15)])
        window = rng.choice([65_536, 16_384, 2_048])
        weather = Weather(random.Random(f"{seed} net"), latency, window, rng.choice([65_536, 8_192]), rng.choice([0.0, 0.1, 0.5]))
        self.shared = Shared(random.Random(f"{seed} shared")) if others else None
        self.servers: list[SimServer] = []
        commit_s = rng.choice([(0.0005, 0.003), (0.005, 0.04), (0.05, 0.3)])
        for number in range(1 + others):
            root = folder / str(number)
            shutil.copytree(people.root, root, ignore=shutil.ignore_patterns("securechat.db*") if number else None)
            database = DataDir(folder / "0").database if others else None
            chance_ = random.Random(f"{seed} disk{number or ''}")
            server = SimServer(self.timeline, disk, root, chance_, weather, self.shared, database)
            server.commit_s = commit_s
            self.servers.append(server)
        if self.shared is not None:
            self.shared.latency = rng.choice([(0.0002, 0.002), (0.001, 0.02), (0.02, 0.1)])
        self.loop = ProcessLoop(self.timeline)
        self.diary = Diary()
        self.clients: dict[str, SimClient] = {}
        self.trouble: list[str] = []
        self.acked: list[tuple[str, str, str]] = []
        self.ended: list[Ended] = []
        self.membership = Membership()
        self._over = False
        self._talking = True
        self._let_in: set[tuple[str, str]] = set()
        """(user, room): somebody asked that the user be let in; that may happen late."""
        self.open_asks: dict[object, SimServer] = {}
        """Commands of the operator without an answer yet, and which server was asked."""
        self.faults = Faults(self)

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def play(self) -> None:
        """Run to the end."""
        try:
            self._play()
        except Deadlock as error:
            self.trouble.append(f"L: {error}")
        for server in self.servers:
            server.kill(power=False, tear=False, silent=True)
        if self.shared is not None:
            self.shared.life.end(None, keep=True)
        if self.loop.problems:
            raise Failed(f"the simulation itself: {self.loop.problems[:3]}")

    def _play(self) -> None:
        for server in self.servers:
            server.start()
        self._people()
        talk_s = self.rng.uniform(2.0, 5.0)
        self.faults.plan(talk_s)
        self.loop.call_later(0.2, self._keep_up)
        self.timeline.run(lambda: False, talk_s)
        self._talking = self.faults.on = False
        for server in self.servers:
            server.life.full = server.life.failing = False
            server.commit_s = (0.0005, 0.003)
            server.loop.ends_at = -1
            server.loop.thaw()
            server.weather.latency = (0.0005, 0.003)
        if self.shared is not None:
            self.shared.latency = (0.0002, 0.002)
            self.shared.down, self.shared.loses, self.shared.late_s = False, 0.0, 0.0
        if not self._becomes(self._settled, CONVERGE_S):
            self.trouble.append(f"L: not everybody has everything within {CONVERGE_S:.0f} s: {self._why_not()}")
        for client in self.clients.values():
            if not client.over:
                client.quiet()
        self._end()

    def _people(self) -> None:
        rng = self.rng
        square, den, corner = (self.people.rooms[name] for name in ("square", "den", "corner"))
        away = set(rng.sample(["ana-laptop", "ben-phone", "cleo", "dan", "eve"], rng.choice([0, 1, 2, 3, 3, 3, 3])))
        for name, account in self.people.accounts.items():
            if name in away:
                continue
            traits = Traits(rng.random() < 0.5, rng.random() < 0.35, rng.choice([0.2, 0.5, 3.0]))
            start = [corner] if account.name == OUTSIDER else [square, den] if account.name != "dan" else [square, corner]
            chance_ = random.Random(f"{self.seed} {name}")
            resumes = start if rng.random() < 0.7 else ()
            where = partial(self.any_server, chance_)
            client = SimClient(name, account, where, self.loop, self.diary, chance_, traits, resumes)
            self.clients[name] = client
            self.loop.call_later(rng.uniform(0.05, 0.6), client.connect)
            pause = rng.choice([0.3, 0.8, 2.0]) if name != OUTSIDER else 2.0
            self.loop.call_later(rng.uniform(0.3, 1.0), self._act, client, chance_, pause)
        self.membership.left(self.people.accounts[OUTSIDER].user, den, 0.0)

    def any_server(self, chance_: random.Random) -> SimServer:
        """Return a server that takes connections, if there is one."""
        if len(self.servers) == 1:
            return self.servers[0]
        return chance_.choice([server for server in self.servers if server.ready] or self.servers)

    # ── what people do ───────────────────────────────────────────────────────────────────────────────────────────────

    def _act(self, client: SimClient, rng: random.Random, pause: float) -> None:
        if not self._talking or client.over:
            return
        self.loop.call_later(rng.expovariate(1 / pause) + 0.01, self._act, client, rng, pause)
        rooms = sorted(client.rooms)
        if not rooms or client.unanswered > 12:
            return
        room, what = rng.choice(rooms), rng.random()
        if what < 0.62:
            for _ in range(rng.choice([1, 1, 1, 2, 4])):
                client.post(room, self._text(rng))
        elif what < 0.70 and client.sent:
            known, cmid, body, _ = rng.choice(client.sent)
            if rng.random() < 0.6:
                client.again("repeat", known, cmid, body)
            else:
                client.again("conflict", known, cmid, "something else")
        elif what < 0.78:
            client.fetch(room)
        elif what < 0.84:
            client.command("typing.start", room=room)
        elif what < 0.90 and client.sent:
            known, _, _, seq = rng.choice(client.sent)
            client.command("reaction.add", room=known, seq=seq, emoji=rng.choice(EMOJI))
        elif what < 0.94 and client.sent:
            known, _, _, seq = rng.choice(client.sent)
            client.command("message.edit", room=known, seq=seq, body=self._text(rng))
        elif what < 0.97:
            client.command("read.mark", room=room, seq=client.last.get(room, 0))
        elif client.account.name != OUTSIDER:
            self._visit(client)

    def say(self, client: SimClient, room: str) -> None:
        """Have a client say something now."""
        if self._talking and client.ready and not client.over:
            client.post(room, self._text(self.rng))

    @staticmethod
    def _text(rng: random.Random) -> str:
        size = rng.choice([5, 40, 40, 200, 3_000])
        return f"{rng.getrandbits(64):x} ".ljust(size, "x")

    def _visit(self, client: SimClient) -> None:
        """Join the hall, or leave it."""
        hall, user = self.people.rooms["hall"], client.user
        if hall not in client.rooms:
            self._let_in.add((user, hall))
            self.membership.maybe_in(user, hall, self.timeline.now)
            client.command("room.join", room=hall)
            return

        client.command("room.leave", room=hall)

    # ── what the operator does ───────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, command: Any, subject: str, room: str, done: Callable[[], None] = lambda: None) -> None:
        ask = object()

        def answered(result: Any) -> None:
            self.open_asks.pop(ask, None)
            if not isinstance(result, ChatError):
                action = str(type(command).__struct_config__.tag)
                if action != "member.add":  # Who is in it already is let in without a word.
                    self.acked.append((action, subject, room))
                self.diary.add("operator", action, room=room, user=subject)
                done()

        server = self.any_server(self.rng)
        if server.ask(command, answered, self.loop):
            self.open_asks[ask] = server

    def remove(self, user: str, room: str) -> None:
        """Have the operator remove somebody."""
        self._ask(c.MemberRemove(room=room, user=user), user, room, lambda: self._surely_out(user, room))

    def _surely_out(self, user: str, room: str) -> None:
        if (user, room) not in self._let_in:
            self.membership.left(user, room, self.timeline.now)

    def add(self, user: str, room: str) -> None:
        """Have the operator let somebody in."""
        if not self.faults.on:
            return
        self._let_in.add((user, room))
        self.membership.maybe_in(user, room, self.timeline.now)
        self._ask(c.MemberAdd(room=room, user=user), user, room)

    def revoke(self, what: str) -> None:
        """End a session, by its owner or by the operator."""
        if what in {"device.revoke", "session.delete"}:
            gone, by = self.clients.get("ana-laptop"), self.clients.get("ana-phone" if what == "device.revoke" else "ana-laptop")
            if gone is None or by is None:
                return

            def done(answer: Any) -> None:
                if answer is not None and answer["op"] == "reply":
                    self.acked.append((what, gone.user if what == "device.revoke" else "", ""))
                    self._signed_out([gone])

            fields = {"device": gone.account.device} if what == "device.revoke" else {}
            if by.ready:
                by.command(what, done, **fields)
            return
        name = "ben-phone" if what == "user.disable" else "cleo"
        victim = self.clients.get(name)
        if victim is None:
            return
        command: Any = c.UserDisable(user=victim.user) if what == "user.disable" else c.BotRevoke(user=victim.user)
        self._ask(command, victim.user, "", lambda: self._signed_out([victim]))

    def _signed_out(self, clients: list[SimClient]) -> None:
        self.ended.append(Ended([each.name for each in clients], self.timeline.now))
        for client in clients:
            client.traits.patience = 3.0

    def _keep_up(self) -> None:
        """Start servers again that are down, as whoever watches over them would."""
        if self._over:
            return
        for server in self.servers:
            if server.ended and self.timeline.now >= self.faults.down_until.get(server, 0.0):
                if not server.loop.dead:
                    problem = server.reap()
                    self.nobody_knows(server)
                    if problem and not self.faults.disk_failed:
                        self.trouble.append(f"L: the server ended by itself: {problem}")
                server.start()
        self.loop.call_later(0.2, self._keep_up)

    def nobody_knows(self, server: SimServer) -> None:
        """Give up the operator's commands to a server that ended."""
        for ask in [ask for ask, asked in self.open_asks.items() if asked is server]:
            del self.open_asks[ask]

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _wanted(self) -> dict[str, dict[str, int]]:
        """Return user → room → the newest `seq` there, as it is stored."""
        parts = self.servers[0].parts
        assert parts is not None
        assert isinstance(parts.database, SqliteDatabase)
        found: dict[str, dict[str, int]] = {}
        for user, room, seq in parts.database.rows(
            "SELECT m.user_id, m.room_id, (SELECT max(seq) FROM entries e WHERE e.room_id = m.room_id) FROM members m"
        ):
            found.setdefault(user, {})[room] = seq
        return found

    def _settled(self) -> bool:
        if not all(server.at_rest for server in self.servers) or self.open_asks:
            return False
        clients = [client for client in self.clients.values() if not client.over]
        if not all(
            client.ready and not client.unanswered and client.wire is not None and not client.wire.deaf for client in clients
        ):
            return False
        wanted = self._wanted()
        return not any(_behind(client, wanted) for client in clients)

    def _why_not(self) -> str:
        for number, server in enumerate(self.servers):
            if not server.ready:
                return f"server {number} is not ready"
            if not server.at_rest:
                return f"server {number} is not at rest"
        wanted = self._wanted()
        found = [f"{len(self.open_asks)} commands of the operator open"] if self.open_asks else []
        for name, client in self.clients.items():
            behind = _behind(client, wanted)
            if not client.over and (not client.ready or client.unanswered or behind):
                found.append(f"{name} ready={client.ready} unanswered={client.unanswered} behind={behind}")
        return "; ".join(found)

    def _end(self) -> None:
        """Have everybody leave, look whether anything stays, and stop the server."""
        self._over = True
        for client in self.clients.values():
            client.leave()
        self._becomes(lambda: not any(map(self._left_behind, self.servers)), 45.0)
        if not all(server.parts is not None and server.ready for server in self.servers):
            self.trouble.append("L: a server went away in peace")
            return
        for server in self.servers:
            self.trouble += self._left_behind(server)
        for server in self.servers:
            self._stop(server)
        complaints = [each for each in JOURNAL.lines if SLOW not in each]
        if complaints and not self.faults.disk_failed:
            self.trouble.append(f"I11: the server complains: {complaints[:3]}")

    def _stop(self, server: SimServer) -> None:
        """Ask a server to stop, and look how it ends."""
        server.ask_to_stop()
        self.loop.call_later(STOP_S + 1, lambda: None)
        if not self.timeline.run(lambda: server.ended, STOP_S):
            self.trouble.append(f"I11: the server does not end within {STOP_S:.0f} s of SIGTERM")
            return
        for task in list(server.loop.tasks):  # As `asyncio.run` does.
            task.cancel()
        if not self.timeline.run(lambda: not server.loop.tasks, 5.0):
            names = sorted(task.get_name() for task in server.loop.tasks)
            self.trouble.append(f"I11: tasks that do not end when they are cancelled: {names}")
        if problem := server.reap():
            self.trouble.append(f"I11: the server ended with {problem}")
        if server.problems:
            self.trouble.append(f"I11: nobody caught {server.problems[:3]}")

    def _becomes(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Run until something is so; look every now and then."""
        end = self.timeline.now + within_s
        while not condition():
            if self.timeline.now >= end:
                return False
            self.timeline.run(lambda: False, 0.25)
        return True

    def _left_behind(self, server: SimServer) -> list[str]:
        """Compare a server that nobody is connected to with one that nobody ever was connected to."""
        parts = server.parts
        if parts is None:
            return ["there is no server"]
        hub, gateway = parts.hub, parts.gateway
        counts = {
            "users": len(hub._users), "audiences": len(hub._rooms), "floors": len(hub._floors), "expected": len(hub._expected),
            "connections": len(gateway.connections), "pending": gateway.pending.total, "http connections": len(gateway.http),
            "waiting operations": parts.room_log.waiting, "commands": len(parts.dispatcher._tasks),
        }  # fmt: skip
        found = [f"I11: {count} {name} are left" for name, count in counts.items() if count]
        names: dict[str, int] = {}
        idle = self.people.idle if self.shared is None else self.people.idle_beside
        for task in server.loop.tasks:
            name = task.get_name()
            names[name if name in idle else "another"] = names.get(name if name in idle else "another", 0) + 1
        found += [
            f"I11: {count} tasks '{name}' instead of {idle.get(name, 0)}"
            for name, count in sorted(names.items())
            if count > idle.get(name, 0)
        ]
        return found


def _behind(client: SimClient, wanted: dict[str, dict[str, int]]) -> dict[str, tuple[int, int]]:
    """Return the rooms of a client in which it does not hold the newest: what it holds, and what there is."""
    rooms = wanted.get(client.user, {})
    behind = {room: (client.last.get(room, 0), seq) for room, seq in rooms.items() if client.last.get(room, 0) < seq}
    return behind | {room: (client.last.get(room, 0), 0) for room in client.rooms - rooms.keys()}
