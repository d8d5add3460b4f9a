"""Attacks on tokens, 45 to 54. What is tried, and that it is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from websockets.exceptions import ConnectionClosed

from securechat.auth.jwt_handler import LIFETIME_S, TOKEN_MAX, JWTHandler
from securechat.auth.manager import GRACE_MS
from securechat.domain import commands as c
from securechat.domain.entries import Entry
from securechat.domain.secret import Secret
from securechat.errors import Unauthorized
from securechat.protocol.frames import SignalFrame
from securechat.sdk.client import ChatClient
from securechat.sdk.profile import TokenSource
from support.identity import HERE, Identity
from support.running import PASSWORD, RunningServer
from support.sockets import ask, heard_until_closed, refusal, socket_of

LEFT_S: Final = 8
"""What a token has left: two rounds of the gateway, in the first of which it is told so."""

ELSEWHERE = "198.51.100.7"
# The order of the group of Ed25519's base point.
L = 2**252 + 27742317777372353535851937790883648493


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Forger:
    """Somebody who holds the server's signing key, and so can write any token: what is refused is refused for its form."""

    def __init__(self, keys: Path, user: str, device: str) -> None:
        found = json.loads(keys.read_text())["keys"][0]
        private = load_pem_private_key(found["private"].encode(), None)
        assert isinstance(private, ed25519.Ed25519PrivateKey)
        self.private, self.kid, self.user, self.device = private, found["id"], user, device

    @property
    def header(self) -> dict[str, Any]:
        return {"alg": "Ed25519", "typ": "at+jwt", "kid": self.kid}

    def claims(self, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": "securechat", "aud": "securechat-api", "sub": self.user, "dev": self.device, "iat": now,
            "exp": now + LIFETIME_S,
        } | more  # fmt: skip

    def head(self, **more: Any) -> str:
        fields = {key: value for key, value in (self.header | more).items() if value is not None}
        return b64(json.dumps(fields, separators=(",", ":")).encode())

    def sign(self, head: str, payload: bytes | str) -> str:
        signed = f"{head}.{payload if isinstance(payload, str) else b64(payload)}"
        return f"{signed}.{b64(self.private.sign(signed.encode()))}"

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        fields = {key: value for key, value in self.claims(**claims).items() if value is not ...}
        return self.sign(self.head(**(header or {})), json.dumps(fields, separators=(",", ":")).encode())


class World:
    """A server, a session on it, and who forges tokens for that session."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.session = server.set_up()
        self.forger = Forger(server.data / "keys/access-tokens.json", self.session["user"]["id"], self.session["device"])

    def status(self, token: str) -> int:
        with httpx.Client(trust_env=False, timeout=20) as http:
            headers = {"Authorization": f"Bearer {token}"}
            return http.get(f"{self.server.url}/api/v1/me", headers=headers).status_code


@pytest.fixture(scope="module")
def world(shared_server: RunningServer) -> Iterator[World]:
    found = World(shared_server)
    assert found.status(found.forger.token()) == 200, "the forger's honest token holds, so what follows is refused for its reason"
    yield found
    assert found.status(found.forger.token()) == 200, "and nothing of it ended the session"


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[Identity]:
    found = await Identity(tmp_path).open()
    yield found
    await found.close()


async def refused_at_both_doors(world: World, tokens: list[str]) -> None:
    for token in tokens:
        assert world.status(token) in {401, 400, 431}, token[:200]
    for token in tokens[:3]:
        error, code = await refusal(world.server, token)
        assert (error.get("code"), code) == ("unauthorized", 4401), token[:200]


async def test_045_another_algorithm_is_refused(world: World) -> None:
    forger = world.forger
    payload = b64(json.dumps(forger.claims()).encode())
    public = forger.private.public_key()
    tokens = [f"{forger.head(alg=alg)}.{payload}." for alg in ("none", "None", "NONE", "nOnE", "")]
    secrets_ = [
        public.public_bytes(Encoding.Raw, PublicFormat.Raw),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ]
    for secret in secrets_:
        signed = f"{forger.head(alg='HS256')}.{payload}"
        tokens.append(f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha256'))}")
    rsa_key = rsa.generate_private_key(65_537, 2_048)
    ec_key = ec.generate_private_key(ec.SECP256R1())
    for alg in ("RS256", "Ed25519"):
        signed = f"{forger.head(alg=alg)}.{payload}"
        tokens.append(f"{signed}.{b64(rsa_key.sign(signed.encode(), rsa_padding.PKCS1v15(), SHA256()))}")
    for alg in ("ES256", "Ed25519"):
        signed = f"{forger.head(alg=alg)}.{payload}"
        tokens.append(f"{signed}.{b64(ec_key.sign(signed.encode(), ec.ECDSA(SHA256())))}")
    # The right key and a right signature under a wrong name: header and key disagree.
    tokens += [forger.token({"alg": alg}) for alg in ("EdDSA", "RS256", "ES256", "ed25519", "Ed448", "HS256", None)]

    await refused_at_both_doors(world, tokens)


async def test_046_an_unknown_or_crooked_key_id_is_refused(world: World) -> None:
    crooked = [None, "", "key_0000000000000000", "../../dev/null", "/dev/null", "' OR 1=1 --", "x" * 10_000, 7, [world.forger.kid]]

    await refused_at_both_doors(world, [world.forger.token({"kid": kid}) for kid in crooked])


def test_046_unknown_key_ids_fetch_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = JWTHandler(tmp_path / "keys.json", now=1_000)
    forger = Forger(tmp_path / "keys.json", "usr_1", "dev_1")
    reads: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", reads.append)
    for number in range(1_000):
        with pytest.raises(Unauthorized):
            handler.verify(Secret(forger.token({"kid": f"key_{number}"})), now=time.time())

    assert reads == []
    assert len(handler._headers) == 1


async def test_047_headers_that_bring_a_key_or_a_demand_are_refused(world: World) -> None:
    own = ed25519.Ed25519PrivateKey.generate()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))}
    extras: list[dict[str, Any]] = [
        {"jku": "http://127.0.0.1:1/keys"}, {"x5u": "http://127.0.0.1:1/cert"}, {"x5c": ["AAAA"]}, {"jwk": jwk},
        {"crit": []}, {"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"zip": "DEF"}, {"x": 1},
    ]  # fmt: skip
    tokens = [world.forger.token(extra) for extra in extras]
    head = world.forger.head(jwk=jwk)
    signed = f"{head}.{b64(json.dumps(world.forger.claims()).encode())}"
    tokens.append(f"{signed}.{b64(own.sign(signed.encode()))}")
    jwe = b64(b'{"alg":"dir","enc":"A256GCM"}')
    tokens += [f"{jwe}..AAAA.AAAA.AAAA", f"{jwe}.AAAA.AAAA.AAAA.AAAA"]

    await refused_at_both_doors(world, tokens)


async def test_048_times_that_are_wrong_or_no_times_are_refused(world: World) -> None:
    now = int(time.time())
    claims: list[dict[str, Any]] = [
        {"exp": now - 1, "iat": now - 601}, {"exp": now, "iat": now - 600}, {"exp": ...}, {"exp": str(now + 300)},
        {"exp": 10**18}, {"exp": now + 300.5}, {"exp": True}, {"exp": None}, {"iat": now, "exp": now + LIFETIME_S + 1}, {"exp": -1},
        {"nbf": now + 300}, {"iat": now + 3_600, "exp": now + 4_000}, {"iat": ...}, {"iat": str(now)}, {"iat": now - 10**6},
        {"iat": now + 0.5}, {"exp": [now + 300]}, {"exp": float("inf")}, {"exp": float("nan")},
    ]  # fmt: skip

    await refused_at_both_doors(world, [world.forger.token(**each) for each in claims])
    assert world.status(world.forger.token(iat=now + 30, exp=now + 600)) == 200, "a clock that is half a minute ahead is forgiven"


async def test_049_tokens_for_something_or_somebody_else_are_refused(world: World) -> None:
    claims: list[dict[str, Any]] = [
        {"aud": ...}, {"aud": "other"}, {"aud": ["securechat-api"]}, {"aud": ["securechat-api", "other"]}, {"aud": None},
        {"iss": ...}, {"iss": "https://evil.example"}, {"iss": ["securechat"]}, {"sub": ...}, {"sub": 1}, {"dev": ...},
        {"dev": {"$ne": ""}}, {"dev": "dev_0000000000000000"}, {"role": "owner"}, {"scope": "admin"},
    ]  # fmt: skip
    tokens = [world.forger.token(**each) for each in claims]
    tokens += [world.forger.token({"typ": typ}) for typ in ("JWT", "id+jwt", "rt+jwt", "at+JWT", "", None)]
    tokens += [world.session["refresh_token"], world.session["device"], "sc_bot_" + "A" * 43, "sc_lnk_x", "sc_ref_x.y"]

    await refused_at_both_doors(world, tokens)
    world.server.post("/sessions/refresh", {"refresh_token": world.session["access_token"]}, status=401)


async def test_049_a_token_of_one_account_for_the_session_of_another_is_refused(world: World) -> None:
    eve = world.server.invite("eve-049")

    assert world.status(world.forger.token(sub=eve["user"]["id"], dev=eve["device"])) == 200
    await refused_at_both_doors(world, [world.forger.token(sub=world.session["user"]["id"], dev=eve["device"])])


async def test_050_every_token_has_one_spelling(world: World) -> None:
    forger = world.forger
    good = forger.token()
    head, payload, signature = good.split(".")
    body = json.dumps(forger.claims())
    twice = body[:-1] + ', "sub": "usr_0000000000000000"}'
    # The last character of 64 bytes in base64url carries four bits that say nothing.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other_spelling = signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ 1]
    tokens = [
        forger.sign(head, twice.encode()), forger.sign(head, body.replace('"sub"', '"sub": "x", "sub"').encode()),
        f"{good}=", f"{good}==", f"{head}=.{payload}.{signature}", f"{head}.{payload}==.{signature}", f"{good}.", f".{good}",
        f"{good}.{signature}", f"{head}.{payload}", f"{head}..{signature}", f"{head}.{payload}.", "..", ".", "...",
        f"{head}.{payload}.{other_spelling}", f"{head} .{payload}.{signature}", good.replace("_", "/").replace("-", "+") + "/",
        forger.sign(head, b"[]"), forger.sign(head, b"null"), forger.sign(head, b"{}"), forger.sign(head, b"\xff\xfe"),
        forger.sign(head, b"[" * 300), good.upper(), good[::-1],
    ]  # fmt: skip

    await refused_at_both_doors(world, tokens)


def test_050_a_token_of_a_megabyte_costs_nothing(tmp_path: Path) -> None:
    handler = JWTHandler(tmp_path / "keys.json", now=1_000)
    good = handler.issue(user_id="usr_1", device_id="dev_1", now=1_000)
    assert len(good) < TOKEN_MAX
    long = good + "A" * 1_000_000
    began = time.perf_counter()
    for _ in range(1_000):
        with pytest.raises(Unauthorized):
            handler.verify(Secret(long), now=1_000)

    assert time.perf_counter() - began < 0.5, "refused by its size: a signature over it would take seconds"


async def test_051_degenerate_signatures_are_refused(world: World) -> None:
    head, payload, signature = world.forger.token().split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = raw[:32], int.from_bytes(raw[32:], "little")
    ec_key = ec.generate_private_key(ec.SECP256R1())
    der = ec_key.sign(f"{head}.{payload}".encode(), ec.ECDSA(SHA256()))
    identity_point = (1).to_bytes(32, "little")
    signatures = [
        bytes(64), bytes(32), b"", r + (s + L).to_bytes(32, "little"), identity_point + bytes(32), b"\xff" * 64, der,
        raw + b"\x00", raw[:63], raw[32:] + raw[:32], hashlib.sha512(raw).digest(),
    ]  # fmt: skip
    psychic = [f"{world.forger.head(alg='ES256')}.{payload}.{b64(bytes(64))}"]

    await refused_at_both_doors(world, [f"{head}.{payload}.{b64(each)}" for each in signatures] + psychic)


async def test_052_a_stolen_access_token_is_short_and_ends_with_its_session(server: RunningServer) -> None:
    server.set_up()
    session = server.post("/sessions", {"username": "ana", "password": PASSWORD})
    claims = json.loads(base64.urlsafe_b64decode(session["access_token"].split(".")[1] + "=="))
    assert claims["exp"] - claims["iat"] <= 600
    assert session["expires_in"] <= 600

    stolen, _ = await socket_of(server, session["access_token"])
    server.request("DELETE", "/sessions/current", token=session["access_token"])
    async with asyncio.timeout(1):
        await stolen.wait_closed()

    assert stolen.close_code == 4401
    server.request("GET", "/me", token=session["access_token"], status=401)
    assert (await refusal(server, session["access_token"]))[1] == 4401


async def test_053_a_refresh_token_after_its_rotation_ends_the_family(identity: Identity) -> None:
    user = await identity.user("ana")
    first = await identity.log_in("ana")
    second = await identity.auth.refresh(c.SessionRefresh(refresh_token=Secret(first.refresh_token)), HERE)
    identity.clock.forward(GRACE_MS / 1_000 + 0.1)

    with pytest.raises(Unauthorized):
        await identity.auth.refresh(c.SessionRefresh(refresh_token=Secret(first.refresh_token)), HERE)
    with pytest.raises(Unauthorized):
        await identity.auth.refresh(c.SessionRefresh(refresh_token=Secret(second.refresh_token)), HERE)
    with pytest.raises(Unauthorized):
        await identity.who(second)
    assert identity.bus.disconnected == [(user.id, (first.device,), 4401)]


async def test_053_the_identical_concurrent_request_gets_the_identical_answer(identity: Identity) -> None:
    await identity.user("ana")
    first = await identity.log_in("ana")
    command = c.SessionRefresh(refresh_token=Secret(first.refresh_token))
    answers = await asyncio.gather(*(identity.auth.refresh(command, HERE) for _ in range(8)))
    identity.clock.forward(GRACE_MS / 1_000)
    late = await identity.new_auth().refresh(command, HERE)

    assert {each.refresh_token for each in [*answers, late]} == {answers[0].refresh_token}
    assert answers[0].refresh_token != first.refresh_token
    following = await identity.auth.refresh(c.SessionRefresh(refresh_token=Secret(late.refresh_token)), HERE)
    assert (await identity.who(following)).device_id == first.device


async def test_053_the_grace_is_for_the_same_place_and_the_newest_rotation_only(identity: Identity) -> None:
    await identity.user("ana")
    for thief in ("elsewhere", "skipped"):
        first = await identity.log_in("ana")
        second = await identity.auth.refresh(c.SessionRefresh(refresh_token=Secret(first.refresh_token)), HERE)
        if thief == "skipped":
            second = await identity.auth.refresh(c.SessionRefresh(refresh_token=Secret(second.refresh_token)), HERE)
        with pytest.raises(Unauthorized):
            await identity.auth.refresh(
                c.SessionRefresh(refresh_token=Secret(first.refresh_token)), ELSEWHERE if thief == "elsewhere" else HERE
            )
        with pytest.raises(Unauthorized):
            await identity.who(second)


def test_053_a_refresh_token_after_logging_out_is_dead(server: RunningServer) -> None:
    session = server.set_up()
    following = server.post("/sessions/refresh", {"refresh_token": session["refresh_token"]})
    server.request("DELETE", "/sessions/current", token=following["access_token"])

    for token in (session["refresh_token"], following["refresh_token"]):
        server.post("/sessions/refresh", {"refresh_token": token}, status=401)


def test_053_refresh_tokens_are_stored_as_hashes_only(server: RunningServer) -> None:
    session = server.set_up()
    following = server.post("/sessions/refresh", {"refresh_token": session["refresh_token"]})
    server.stop()
    stored = b"".join(path.read_bytes() for path in server.data.rglob("*") if path.is_file())

    for token in (session["refresh_token"], following["refresh_token"], following["access_token"]):
        assert token.encode() not in stored
        assert token.rpartition(".")[2].encode() not in stored


async def test_054_a_socket_whose_token_ends_is_closed_and_a_refreshed_one_loses_nothing(server: RunningServer) -> None:
    session = server.set_up()
    room = server.room("ops", session["user"]["id"])
    forger = Forger(server.data / "keys/access-tokens.json", session["user"]["id"], session["device"])
    soon = int(time.time()) + LEFT_S
    short = forger.token(iat=soon - 600, exp=soon)
    left, ready = await socket_of(server, short)
    kept, _ = await socket_of(server, short)
    assert ready["expires_in"] <= LEFT_S, "a client is told when to bring a fresh token"
    sender = server.bot("writer", room)
    got: set[int] = set()

    async def listen() -> None:
        while len(got) < 60:
            got.update(int(frame["cmid"]) for frame in json.loads(await kept.recv()) if frame.get("cmid"))

    listening = asyncio.create_task(listen())
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {sender}"}) as http:
        for number in range(60):
            if number == 20:
                await kept.send(json.dumps([{"op": "auth", "id": "extend", "token": session["access_token"]}]))
            if number == 40:
                warned = await asyncio.wait_for(heard_until_closed(left), 15)
            await http.post(f"{server.url}/api/v1/rooms/{room}/messages", json={"cmid": str(number), "body": "x"})
    await asyncio.wait_for(listening, 10)

    assert left.close_code == 4401
    assert [0 <= each["expires_in"] <= LEFT_S for each in warned if each.get("type") == "auth.expiring"] == [True], "once"
    assert got == set(range(60))
    assert (await ask(kept, "user.me"))["op"] == "reply"
    await kept.close()


class Ending(TokenSource):
    """A token that ends in a moment, then the one that `refresh` got."""

    def __init__(self, short: str, fresh: str) -> None:
        self.short, self.fresh, self.asked = short, fresh, 0

    async def token(self) -> str:
        self.asked += 1
        if self.asked == 2:
            raise ConnectionError("once, the server of tokens cannot be reached")
        return self.short if self.asked == 1 else self.fresh

    def refused(self) -> None:
        """The next one is another anyway."""

    def renew(self) -> None:
        """The next one is another anyway."""

    def forget(self) -> None:
        """Nothing is kept."""


async def test_054_the_sdk_extends_in_time_and_stays_on_its_connection(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("securechat.sdk.client.EXTEND_PAUSES_S", (0.0, 0.0))
    session = server.set_up()
    room = server.room("ops", session["user"]["id"])
    forger = Forger(server.data / "keys/access-tokens.json", session["user"]["id"], session["device"])
    soon = int(time.time()) + LEFT_S
    short = forger.token(iat=soon - 600, exp=soon)
    client = ChatClient(server.url, short)
    source = client._tokens = Ending(short, session["access_token"])
    left, _ = await socket_of(server, short)
    async with client:
        await asyncio.wait_for(heard_until_closed(left), 15)  # Now the first token has ended.
        sent = await client.rooms[room].send("still here")
        async for event in client.events():
            assert not isinstance(event, SignalFrame) or event.type != "auth.expiring", "nobody else has to care"
            if isinstance(event, Entry) and event.seq == sent.seq:
                break
        assert client.connects == 1
    assert source.asked == 3


async def test_054_a_token_of_another_device_does_not_extend_a_socket(server: RunningServer) -> None:
    session = server.set_up()
    other = server.post("/sessions", {"username": "ana", "password": PASSWORD})
    socket, _ = await socket_of(server, session["access_token"])

    assert (await ask(socket, "auth", token=other["access_token"]))["code"] == "conflict"
    await socket.close()


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Hammer:
    """Asks without a pause, over REST and the gateway, and notes every refusal."""

    def __init__(self, server: RunningServer, session: dict[str, Any]) -> None:
        self.server = server
        self.first = session["access_token"]
        self.session = session
        self.refused: list[str] = []
        self.rest = self.gateway = self.refreshes = 0
        self.stopped = False

    async def use_rest(self, *, fresh: bool) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            while not self.stopped:
                token = self.session["access_token"] if fresh else self.first
                try:
                    answer = await http.get(f"{self.server.url}/api/v1/me", headers={"Authorization": f"Bearer {token}"})
                except httpx.TransportError:
                    await asyncio.sleep(0.05)  # It is being started anew.
                    continue
                if answer.status_code == 200:
                    self.rest += 1
                elif answer.status_code != 503:
                    self.refused.append(f"REST {answer.status_code} {answer.text}")

    async def use_gateway(self) -> None:
        while not self.stopped:
            try:
                socket, _ = await socket_of(self.server, self.session["access_token"])
                await ask(socket, "user.me")
                await socket.close()
                self.gateway += 1
            except AssertionError as error:
                if "'op': 'error'" in str(error):  # and not that the server is stopping
                    self.refused.append(f"gateway {error}")
            except ConnectionClosed as closed:
                if closed.rcvd is not None and closed.rcvd.code == 4401:
                    self.refused.append("gateway 4401")
            except (OSError, EOFError, httpx.TransportError):
                await asyncio.sleep(0.05)
            except Exception as error:  # the handshake was cut by the restart
                if type(error).__module__.partition(".")[0] != "websockets":
                    raise
                await asyncio.sleep(0.05)

    async def refresh(self) -> None:
        """Renew the session again and again; a lost answer is asked for again, as clients do."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            while not self.stopped:
                body = {"refresh_token": self.session["refresh_token"]}
                try:
                    answer = await http.post(f"{self.server.url}/api/v1/sessions/refresh", json=body)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                if answer.status_code == 200:
                    self.session = answer.json()
                    self.refreshes += 1
                elif answer.status_code != 503:
                    self.refused.append(f"refresh {answer.status_code} {answer.text}")
                    return


async def test_keys_rotate_and_the_server_restarts_without_one_refusal(server: RunningServer) -> None:
    session = server.set_up()
    hammer = Hammer(server, session)
    work = [
        asyncio.create_task(each)
        for each in (hammer.use_rest(fresh=True), hammer.use_rest(fresh=False), hammer.use_gateway(), hammer.refresh())
    ]
    rounds = 3
    for number in range(rounds):
        goal = (hammer.rest + 30, hammer.gateway + 5, hammer.refreshes + 3)
        await asyncio.to_thread(server.operator().perform, c.TokenKeyRotate())
        async with asyncio.timeout(30):
            while hammer.rest < goal[0] or hammer.gateway < goal[1] or hammer.refreshes < goal[2]:
                assert not any(task.done() for task in work), [hammer.refused, work]
                await asyncio.sleep(0.02)
        await asyncio.to_thread(server.operator().perform, c.TokenKeyRotate())
        await asyncio.to_thread(server.stop, 9 if number == 1 else 15)
        await asyncio.to_thread(server.start)
    hammer.stopped = True
    await asyncio.gather(*work)
    keys = server.operator().perform(c.TokenKeyList()).keys

    assert hammer.refused == []
    assert len(keys) == 2 * rounds + 1
    assert [key.signs for key in keys] == [True] + [False] * 2 * rounds
    assert (server.data / "keys/access-tokens.json").stat().st_mode & 0o777 == 0o600


def test_dropping_keys_refuses_every_token_until_it_is_refreshed(server: RunningServer) -> None:
    session = server.set_up()
    server.operator().perform(c.TokenKeyRotate(drop=True))

    server.request("GET", "/me", token=session["access_token"], status=401)
    fresh = server.post("/sessions/refresh", {"refresh_token": session["refresh_token"]})
    server.request("GET", "/me", token=fresh["access_token"])
