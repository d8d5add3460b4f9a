"""One account of every kind of person (`domain.matrix.KINDS`) on a real server, through both doors, keeping all that it is told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx2 as httpx
import msgspec
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from securechat.domain import commands as c
from securechat.domain.accounts import Role
from securechat.domain.matrix import KINDS, Kind
from securechat.domain.rooms import RoomKind, RoomRole
from securechat.domain.secret import Secret, encode_hook
from securechat.protocol.frames import name_of
from securechat.rest.routes import BASE, ROUTES
from support.running import PASSWORD, RunningServer

BY_COMMAND = {route.command: route for route in ROUTES}


class Person:
    """An account, its token and everything that the server told it."""

    def __init__(self, server: RunningServer, kind: Kind, username: str, user: str, token: str) -> None:
        self.kind = kind
        self.username = username
        self.user = user
        self.token = token
        self.heard: list[str] = []
        self._server = server
        self._ids = itertools.count(1)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(trust_env=False, timeout=20, base_url=server.url + BASE, headers=headers)
        self._socket = self._connect() if token else None

    def close(self) -> None:
        """Disconnect."""
        self.http.close()
        if self._socket is not None:
            self._socket.close()

    def by_rest(self, command: c.Command) -> tuple[int, str]:
        """Do a command over REST; return status and code."""
        route = BY_COMMAND[type(command)]
        fields: dict[str, Any] = {
            key: value
            for key, value in msgspec.to_builtins(command, enc_hook=encode_hook).items()
            if key not in {"op", "id"} and value is not None
        }
        path = route.path
        for name in [part[1:-1] for part in path.split("/") if part.startswith("{")]:
            path = path.replace("{" + name + "}", str(fields.pop(name)))
        if route.method in {"GET", "DELETE"}:
            answer = self.http.request(route.method, path, params={key: value for key, value in fields.items() if value != ""})
        else:
            answer = self.http.request(route.method, path, json=fields)
        self.heard.append(f"{answer.headers} {answer.text}")
        return answer.status_code, "" if answer.status_code < 300 else answer.json()["code"]

    def by_gateway(self, command: c.Command) -> tuple[int, str]:
        """Do a command over the gateway; return status and code."""
        command.id = f"c{next(self._ids)}"
        socket = self._socket or self._open()
        socket.send(json.dumps([msgspec.to_builtins(command, enc_hook=encode_hook)]))
        for frame in self._frames(socket):
            if frame.get("id") == command.id:
                if self._socket is None:
                    socket.close()
                return (frame["status"], frame["code"]) if frame["op"] == "error" else (200, "")
        raise AssertionError(name_of(type(command)))

    def listen(self) -> str:
        """Return everything heard, up to now."""
        self.by_gateway(c.Me())
        return "\n".join(self.heard)

    def _frames(self, socket: ClientConnection) -> Iterator[Any]:
        while True:
            message = socket.recv(timeout=20)
            assert isinstance(message, str)
            self.heard.append(message)
            yield from json.loads(message)

    def _open(self) -> ClientConnection:
        url = self._server.url.replace("http", "ws", 1) + "/gateway"
        socket = connect(
            url,
            subprotocols=[Subprotocol("securechat.v1.clear")],
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=0.2,
            legacy=True,
        )
        next(self._frames(socket))
        return socket

    def _connect(self) -> ClientConnection:
        socket = self._open()
        socket.send(json.dumps([{"op": "auth", "id": "auth", "token": self.token}]))
        assert next(frame["op"] for frame in self._frames(socket) if frame["op"] in {"ready", "error"}) == "ready"
        return socket


class People:
    """Everybody, and rooms for them."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        socket = str(server.data / "admin.sock")
        self._admin = httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=20)
        self._numbers = itertools.count(1)
        server.set_up("founder")
        self.everybody = [self._make(kind) for kind in KINDS]
        self.member = self.account(Role.MEMBER, "somebody")
        self.newcomer = self.new_user()

    def close(self) -> None:
        """Disconnect everybody."""
        for person in [*self.everybody, self.member]:
            person.close()
        self._admin.close()

    def perform(self, command: c.Command) -> Any:
        """Do a command as the operator, on one connection."""
        answer = self._admin.post("http://admin/command", content=msgspec.json.encode(command, enc_hook=encode_hook)).json()
        assert answer["op"] == "reply", answer
        return msgspec.convert(answer["data"], c.REPLIES[type(command)])

    def number(self) -> int:
        """Return a number that was not given before."""
        return next(self._numbers)

    def new_user(self) -> str:
        """Create an account that nobody uses; return its id."""
        return str(self.perform(c.UserCreate(username=f"extra{self.number()}")).user.id)

    def account(self, role: Role, username: str, kind: Kind | None = None) -> Person:
        """Create an account with a role on the server and sign it in."""
        if role is Role.BOT:
            bot = self.perform(c.BotCreate(username=username))
            return Person(self.server, kind or KINDS[0], username, bot.user.id, bot.token)
        user = self.perform(c.UserCreate(username=username, password=Secret(PASSWORD))).user
        if role is not Role.MEMBER:
            self.perform(msgspec.convert({"user": user.id, "role": role.value}, c.UserRole))
        return Person(self.server, kind or KINDS[0], username, user.id, self.log_in(username)["access_token"])

    def log_in(self, username: str) -> Any:
        """Open another session."""
        return self.server.post("/sessions", {"username": username, "password": PASSWORD})

    def room(self, person: Person, *, topic: str = "") -> str:
        """Make the room that a kind of person stands to as its name says; `member` is always in it."""
        kind = person.kind
        inside = kind.inside is not None or kind.was_inside
        members = [self.member.user, *([person.user] if inside else [])]
        public: Literal["public", "private"] = "public" if kind.room is RoomKind.PUBLIC else "private"
        room = str(self.perform(c.RoomCreate(name=f"room {self.number()}", kind=public, topic=topic, members=members)).id)
        if kind.was_inside:
            self.perform(c.MemberRemove(room=room, user=person.user))
        elif kind.inside not in {None, RoomRole.MEMBER}:
            assert kind.inside is not None
            self.perform(msgspec.convert({"room": room, "user": person.user, "role": kind.inside.value}, c.MemberRole))
        return room

    def say(self, person: Person, room: str, body: str) -> int:
        """Send a message; return its `seq`."""
        answer = person.http.post(f"/rooms/{room}/messages", json={"cmid": f"m{self.number()}", "body": body})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["seq"])

    def _make(self, kind: Kind) -> Person:
        if kind.role is None:
            return Person(self.server, kind, "", "", "")
        return self.account(kind.role, kind.name.replace(" ", "-"), kind)
