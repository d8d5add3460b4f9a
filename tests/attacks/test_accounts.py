"""Attacks on log-in and accounts, 34 to 44. What is tried, and that it is refused."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import time
import unicodedata
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pyotp
import pytest

from securechat.auth.addresses import source_of
from securechat.auth.passwords import WAITING_MAX
from securechat.auth.rate_limiter import Rate
from securechat.auth.throttle import KEYS_MAX, WAIT_MAX_S, Throttle
from securechat.auth.totp import STEP_S
from securechat.domain import commands as c
from securechat.domain.accounts import PASSWORD_MAX, Role
from securechat.domain.secret import Secret
from securechat.errors import ConfirmationRequired, RateLimited, SecondFactorRequired, Unauthorized
from securechat.rest.routes import BASE, ROUTES
from support.identity import HERE, Identity
from support.running import PASSWORD, RunningServer
from support.sockets import heard_until_closed, socket_of

STRANGER = "127.0.0.2"
"""Another address of this machine."""
BLANK = {"refresh_token": ""}
"""What a page sends whose token is in the cookie."""


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[Identity]:
    found = await Identity(tmp_path).open()
    yield found
    await found.close()


@pytest.fixture(scope="module")
def acme(shared_server: RunningServer) -> RunningServer:
    """A server with one account, for tests that leave it as it was."""
    shared_server.set_up()
    return shared_server


@pytest.fixture
def limited(server: RunningServer) -> RunningServer:
    """A server with the limits that it ships with."""
    server.stop()
    server.config.write_text("{}")
    return server.start()


def log_in(server: RunningServer, name: str, password: str, address: str = "127.0.0.1", **more: Any) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=20) as http:
        url = server.url.replace("localhost", "127.0.0.1")
        return http.post(f"{url}/api/v1/sessions", json={"username": name, "password": password, **more})


# ── 34 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_034_guessing_is_slowed_down_and_the_owner_is_not_locked_out(limited: RunningServer) -> None:
    limited.set_up()
    answers = [log_in(limited, "ana", f"wrong password {number}", STRANGER) for number in range(10)]

    assert [each.status_code for each in answers] == [401] * 6 + [429] * 4
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 10
    assert answers[-1].json()["retryable"] is True
    assert log_in(limited, "ana", PASSWORD, STRANGER).status_code == 429, "a right guess is not tried either"
    assert log_in(limited, "ana", PASSWORD).status_code == 201, "the owner, from another address"


def test_034_one_password_for_many_accounts_is_slowed_down_by_address(limited: RunningServer) -> None:
    limited.set_up()
    began = time.monotonic()
    for tried in range(150):  # On a busy machine each takes a second, and what was taken comes back meanwhile: one in two seconds.
        answer = log_in(limited, f"user{tried}", "Summer2026!", STRANGER)
        if answer.status_code != 401:
            break

    assert answer.status_code == 429
    assert tried <= 30 + 0.5 * (time.monotonic() - began)
    assert int(answer.headers["retry-after"]) >= 1
    assert log_in(limited, "ana", PASSWORD).status_code == 201


def test_034_the_wait_doubles_has_an_end_and_success_forgives() -> None:
    throttle = Throttle(lambda: {"x": Rate(burst=3, per_s=0.1)})
    now, waits = 1_000.0, []
    for _ in range(14):
        try:
            throttle.begin("x", "ana", now)
        except RateLimited as refusal:
            wait = (refusal.retry_after_ms or 0) / 1_000
            waits.append(round(wait))
            now += wait
            throttle.begin("x", "ana", now)

    assert waits[:4] == [10, 20, 40, 80]
    assert max(waits) == WAIT_MAX_S
    throttle.begin("x", "bob", now)
    throttle.forgive("x", "ana")
    for _ in range(3):
        throttle.begin("x", "ana", now)
    with pytest.raises(RateLimited):
        throttle.begin("x", "ana", now)
    throttle.begin("x", "ana", now + 2 * WAIT_MAX_S + 1)


def test_034_what_is_remembered_of_strangers_has_a_limit() -> None:
    throttle = Throttle(lambda: {"x": Rate(burst=3, per_s=0.1)})
    for number in range(KEYS_MAX + 1_000):
        throttle.begin("x", str(number), 0.0)

    assert len(throttle._failures) == KEYS_MAX


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2::7", "2001:db8:1:2::/64"), ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"), ("local", "local"), ("", ""),
    ],
)  # fmt: skip
def test_034_the_addresses_of_one_customer_are_one_place(address: str, place: str) -> None:
    assert source_of(address) == place


# ── 35, 36, 37 ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_035_unknown_user_wrong_password_and_locked_account_answer_alike(server: RunningServer) -> None:
    server.set_up()
    server.invite("bob")
    server.operator().perform(c.UserDisable(user=server.operator().user("bob").id))
    server.operator().perform(c.UserCreate(username="fresh"))
    names = ("ana", "nobody", "bob", "fresh", "Not A Name", "x" * 4_000, "")
    answers = [log_in(server, name, "not the password") for name in names]
    answers.append(log_in(server, "bob", PASSWORD))

    assert {each.status_code for each in answers} == {401}
    assert len({json.dumps({**each.json(), "request_id": ""}, sort_keys=True) for each in answers}) == 1
    assert len({tuple(sorted(name for name, _ in each.headers.items())) for each in answers}) == 1


@pytest.mark.alone
def test_035_the_time_of_the_answer_says_nothing(server: RunningServer) -> None:
    server.set_up()
    times: dict[str, list[float]] = {"ana": [], "nobody": []}
    with httpx.Client(trust_env=False, timeout=20) as http:
        for number in range(204):
            name = "ana" if number % 2 else "nobody"
            began = time.perf_counter()
            http.post(f"{server.url}/api/v1/sessions", json={"username": name, "password": "not the password"})
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(found[2:]) for name, found in times.items()}

    assert abs(medians["ana"] - medians["nobody"]) < 0.005, medians
    assert min(medians.values()) > 0.005, "a hash is computed for both"


@pytest.mark.alone
async def test_036_a_flood_of_log_ins_is_cut_and_the_others_are_served(tmp_path: Path) -> None:
    """From one address, which here may have as many connections as it likes: the passwords are what is limited."""
    server = RunningServer(tmp_path / "data", settings={"max_pending": 1_000, "max_pending_address": 1_000}).start()
    try:
        await _flood(server)
    finally:
        server.stop()


async def _flood(server: RunningServer) -> None:
    session = server.set_up()
    lags: list[float] = []
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=httpx.Limits(max_connections=300)) as http:

        async def one(number: int) -> httpx.Response:
            return await http.post(
                f"{server.url}/api/v1/sessions", json={"username": f"user{number}", "password": "wrong password"}
            )

        async with httpx.AsyncClient(
            trust_env=False, timeout=60, headers={"Authorization": f"Bearer {session['access_token']}"}
        ) as me:
            await me.get(f"{server.url}/api/v1/me")
            flood = asyncio.gather(*(one(number) for number in range(200)))
            while not flood.done():
                began = time.perf_counter()
                assert (await me.get(f"{server.url}/api/v1/me")).status_code == 200
                lags.append(time.perf_counter() - began)
            answers = await flood

    codes = [each.status_code for each in answers]
    assert set(codes) == {401, 503}, "none waits without an end, none is let in"
    assert codes.count(503) >= 200 - WAITING_MAX - 60
    assert all(int(each.headers["retry-after"]) >= 1 for each in answers if each.status_code == 503)
    # The machine of the tests is shared, and this measures the client too: the middle, and not the tail.
    assert statistics.median(lags) < 0.1, lags


@pytest.mark.parametrize(
    ("password", "status"),
    [
        ("", 400), ("seven77", 400), ("x" * PASSWORD_MAX, 201), ("x" * (PASSWORD_MAX + 1), 400), ("x" * 3_000, 400),
        ("a\u0301" * PASSWORD_MAX, 201), ("e\u0301" * 7, 400), ("nul\x00 in the middle", 201), ("日本語のパスワード", 201),
        ("🔑" * 8, 201),
    ],
)  # fmt: skip
def test_037_a_password_has_a_length_in_characters_after_nfc(acme: RunningServer, password: str, status: int) -> None:
    name = f"user{zlib.crc32(password.encode())}"
    code = acme.operator().perform(c.InviteCreate()).code

    acme.post("/accounts", {"code": code, "username": name, "password": password}, status=status)
    if status == 201:
        assert log_in(acme, name, password).status_code == 201
        assert log_in(acme, name, unicodedata.normalize("NFD", password)[:2_048]).status_code == (
            201 if len(unicodedata.normalize("NFD", password)) <= 2_048 else 401
        )


def test_037_every_byte_of_a_password_counts(server: RunningServer) -> None:
    long = "x" * 100
    server.post("/setup", {"token": server.setup_token, "username": "ana", "password": long + "a"})

    assert log_in(server, "ana", long + "b").status_code == 401, "nothing is cut off after 72 bytes"
    assert log_in(server, "ana", long).status_code == 401
    assert log_in(server, "ana", long + "a\x00").status_code == 401
    assert log_in(server, "ana", long + "a").status_code == 201


def test_037_a_password_of_a_megabyte_or_without_characters_is_refused(server: RunningServer) -> None:
    server.set_up()

    assert log_in(server, "ana", "x" * 1_000_000).status_code == 413
    assert log_in(server, "ana", "x" * 100_000).status_code == 400
    with httpx.Client(trust_env=False, headers={"content-type": "application/json"}) as http:
        for text in (r'"\ud800\ud800\ud800\ud800"', '["x"]', '{"$ne": ""}', "null", "12345678"):
            answer = http.post(f"{server.url}/api/v1/sessions", content=f'{{"username": "ana", "password": {text}}}')
            assert answer.status_code in {400, 401}, text


# ── 38, 39 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["ANA", "Ana", " ana ", "@ana", "ＡＮＡ", "аna", "ana\u200b", "an\u0430", "ana\u0000"])
def test_038_a_name_that_looks_the_same_is_no_second_account(acme: RunningServer, name: str) -> None:
    before = acme.operator().perform(c.ServerStatus()).users
    code = acme.operator().perform(c.InviteCreate()).code
    with httpx.Client(trust_env=False) as http:
        answer = http.post(f"{acme.url}/api/v1/accounts", json={"code": code, "username": name, "password": PASSWORD})

    assert answer.json()["code"] in {"name_taken", "invalid_input"}
    assert acme.operator().perform(c.ServerStatus()).users == before


def test_038_strangers_learn_no_names(server: RunningServer) -> None:
    server.set_up()
    code = server.operator().perform(c.InviteCreate()).code

    def told(path: str, body: dict[str, Any]) -> Any:
        with httpx.Client(trust_env=False) as http:
            answer = http.post(f"{server.url}/api/v1{path}", json=body)
        return answer.status_code, {**answer.json(), "request_id": ""}

    for known, unknown in (("ana", "nobody"),):
        for path, body in (
            ("/accounts", {"username": ..., "password": PASSWORD}),
            ("/accounts", {"code": "AAAA-BBBB-CCCC", "username": ..., "password": PASSWORD}),
            ("/sessions", {"username": ..., "password": "not the password"}),
        ):
            assert told(path, body | {"username": known}) == told(path, body | {"username": unknown})
    assert server.request("GET", "/invites/AAAA-BBBB-CCCC", status=403)["code"] == "link_invalid"
    assert "ana" not in json.dumps(server.request("GET", f"/invites/{code}"))
    first = server.post("/passkeys:challenge", {})
    assert first["options"]["allowCredentials"] == [], "a challenge names no account"


def test_039_links_are_used_once_and_only_for_what_they_are(server: RunningServer) -> None:
    setup = server.setup_token
    server.set_up()
    operator = server.operator()
    bob = server.invite("bob")["user"]["id"]

    def reset(user: str) -> str:
        return str(operator.perform(c.UserReset(user=user)).url.partition("t=")[2])

    older, token = reset(bob), reset(bob)
    ana = reset(operator.user("ana").id)
    invite = operator.perform(c.InviteCreate()).code
    wrong = [
        older, setup, token[:-1], token + "x", token.upper(), token.removeprefix("sc_lnk_"), "sc_lnk_", "", invite,
        f" {token}", token.replace("sc_lnk_", "sc_ref_"),
    ]  # fmt: skip
    for text in wrong:
        server.post("/password-reset", {"token": text, "password": "another horse"}, status=403)
        server.post("/setup", {"token": text, "username": "eve", "password": PASSWORD}, status=403)
        server.post(
            "/accounts", {"code": text or "-", "username": "eve", "password": PASSWORD}, status=403
        ) if text != invite else None
    server.post("/setup", {"token": token, "username": "eve", "password": PASSWORD}, status=403)
    server.post("/password-reset", {"token": token, "password": "short"}, status=400)
    server.post("/password-reset", {"token": token, "password": "another horse"})
    server.post("/password-reset", {"token": token, "password": "a third horse"}, status=403)

    assert log_in(server, "bob", "another horse").status_code == 201
    assert log_in(server, "ana", PASSWORD).status_code == 201, "nobody else's password changed"
    server.post("/password-reset", {"token": ana, "password": "another horse"})


def test_039_links_end_and_are_stored_as_hashes(server: RunningServer) -> None:
    server.set_up()
    operator = server.operator()
    token = operator.perform(c.UserReset(user=operator.user("ana").id)).url.partition("t=")[2]
    invite = operator.perform(c.InviteCreate()).code
    server.stop()
    stored = b"".join(path.read_bytes() for path in server.data.rglob("*") if path.is_file())
    assert token.encode() not in stored
    database = sqlite3.connect(server.data / "securechat.db")
    with database:
        database.execute("UPDATE links SET expires_at = 1")
        database.execute("UPDATE invites SET expires_at = 1")
    database.close()
    server.start()

    server.post("/password-reset", {"token": token, "password": "another horse"}, status=403)
    server.post("/accounts", {"code": invite, "username": "eve", "password": PASSWORD}, status=403)


def test_039_guessing_links_is_slowed_down(limited: RunningServer) -> None:
    limited.set_up()
    with httpx.Client(trust_env=False) as http:
        codes = [
            http.post(
                f"{limited.url}/api/v1/password-reset", json={"token": f"sc_lnk_{n}", "password": "another horse"}
            ).status_code
            for n in range(30)
        ]

    assert codes[0] == 403
    assert codes[-1] == 429


# ── 40 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def disable(server: RunningServer, user: str, _session: dict[str, Any]) -> None:
    server.operator().perform(c.UserDisable(user=user))


def change_password(server: RunningServer, _user: str, session: dict[str, Any]) -> None:
    server.request("PUT", "/password", {"current": PASSWORD, "password": "another horse"}, session["access_token"])


def reset_password(server: RunningServer, user: str, _session: dict[str, Any]) -> None:
    token = server.operator().perform(c.UserReset(user=user)).url.partition("t=")[2]
    server.post("/password-reset", {"token": token, "password": "another horse"})


def clear_factors(server: RunningServer, user: str, _session: dict[str, Any]) -> None:
    server.operator().perform(c.FactorClear(user=user))


@pytest.mark.parametrize("end", [disable, change_password, reset_password, clear_factors])
async def test_040_what_ends_sessions_closes_their_sockets_at_once(server: RunningServer, end: Callable[..., None]) -> None:
    server.set_up()
    mine = server.invite("bob")
    user = mine["user"]["id"]
    room = server.room("ops", user)
    others = [server.post("/sessions", {"username": "bob", "password": PASSWORD}) for _ in range(5)]
    sockets = [(await socket_of(server, each["access_token"]))[0] for each in others]
    writer = server.bot("writer", room)
    heard = [asyncio.create_task(heard_until_closed(socket)) for socket in sockets]
    await asyncio.to_thread(end, server, user, mine)
    ended = time.monotonic()
    await asyncio.to_thread(server.post, f"/rooms/{room}/messages", {"cmid": "after", "body": "not for you"}, writer)
    found = await asyncio.wait_for(asyncio.gather(*heard), 2)

    assert time.monotonic() - ended < 1
    assert [socket.close_code for socket in sockets] == [4401] * 5
    assert "not for you" not in json.dumps(found)
    for each in others:
        server.request("GET", "/me", token=each["access_token"], status=401)
        server.post("/sessions/refresh", {"refresh_token": each["refresh_token"]}, status=401)
    status = 200 if end is change_password else 401
    server.request("GET", "/me", token=mine["access_token"], status=status)


@pytest.mark.alone
async def test_040_a_device_that_is_signed_out_hears_nothing_more_and_the_others_go_on(server: RunningServer) -> None:
    session = server.set_up()
    phone = server.post("/sessions", {"username": "ana", "password": PASSWORD, "device_name": "Phone"})
    gone, _ = await socket_of(server, phone["access_token"])
    stays, _ = await socket_of(server, session["access_token"])
    began = time.monotonic()
    await asyncio.to_thread(server.request, "DELETE", f"/devices/{phone['device']}", None, session["access_token"])
    await asyncio.wait_for(gone.wait_closed(), 2)

    assert time.monotonic() - began < 1
    assert gone.close_code == 4401
    assert stays.close_code is None
    server.post("/sessions/refresh", {"refresh_token": phone["refresh_token"]}, status=401)
    devices = server.request("GET", "/devices", token=session["access_token"])["devices"]
    assert [(each["id"], each["current"]) for each in devices] == [(session["device"], True)]
    assert devices[0]["address"] == "127.0.0.1"
    assert devices[0]["last_seen_at"] >= devices[0]["created_at"]
    await stays.close()


async def test_040_a_socket_is_closed_also_when_nobody_told_the_gateway(server: RunningServer) -> None:
    session = server.set_up()
    socket, _ = await socket_of(server, session["access_token"])
    database = sqlite3.connect(server.data / "securechat.db", timeout=10)
    with database:  # As another server would, while the bus is down.
        database.execute("UPDATE devices SET revoked_at = ?, refresh_hash = NULL", (int(time.time() * 1_000),))
    database.close()
    began = time.monotonic()
    await asyncio.wait_for(socket.wait_closed(), 10)

    assert socket.close_code == 4401
    assert time.monotonic() - began < 5


async def test_040_a_changed_role_ends_sessions_when_it_is_told_so(identity: Identity) -> None:
    user = await identity.user("ana", Role.ADMIN)
    session = await identity.log_in("ana")
    await identity.accounts.update_user(user.id, role=Role.MEMBER)

    assert (await identity.who(session)).role is Role.MEMBER, "a request is judged by the role of now"
    await identity.auth.end_sessions(user.id)
    assert identity.bus.disconnected == [(user.id, (session.device,), 4401)]


@pytest.mark.parametrize("change", ["password", "disabled"])
async def test_040_a_log_in_under_way_does_not_outlive_what_ended_all_sessions(identity: Identity, change: str) -> None:
    user = await identity.user("ana")
    new = await identity.passwords.hash(Secret("a brand new horse"))
    begun, go_on, check = asyncio.Event(), asyncio.Event(), identity.passwords.check

    async def slow(stored: str | None, password: Secret) -> bool:
        begun.set()
        await go_on.wait()
        return await check(stored, password)

    identity.passwords.check = slow  # type: ignore[method-assign]
    thief = asyncio.create_task(identity.log_in("ana"))
    await begun.wait()
    if change == "password":
        await identity.accounts.update_user(user.id, password_hash=new)
    else:
        await identity.accounts.update_user(user.id, disabled_at=identity.clock.ms)
    await identity.auth.end_sessions(user.id)
    go_on.set()

    with pytest.raises(Unauthorized, match="username or the password is wrong"):
        await thief
    assert await identity.accounts.devices(user.id) == []


async def test_040_a_session_that_nobody_used_for_long_ends(identity: Identity) -> None:
    user = await identity.user("ana")
    used, forgotten = await identity.log_in("ana"), await identity.log_in("ana")
    for _ in range(2):
        identity.clock.forward(60 * 86_400)
        used = await identity.auth.refresh(c.SessionRefresh(refresh_token=Secret(used.refresh_token)), HERE)
    with pytest.raises(Unauthorized, match="The session has ended"):
        await identity.auth.refresh(c.SessionRefresh(refresh_token=Secret(forgotten.refresh_token)), HERE)

    assert [each.id for each in await identity.accounts.devices(user.id)] == [used.device]
    identity.idle_days = 0
    identity.clock.forward(5 * 365 * 86_400)
    await identity.auth.refresh(c.SessionRefresh(refresh_token=Secret(used.refresh_token)), HERE)


async def test_040_a_wrong_current_password_changes_nothing(identity: Identity) -> None:
    await identity.user("ana")
    session = await identity.log_in("ana")
    who = await identity.who(session)
    for _ in range(6):
        with pytest.raises(Exception, match="wrong") as refusal:
            await identity.confirmation.change_password(
                who, c.PasswordChange(current=Secret("not it at all"), password=Secret("another horse"))
            )
        assert refusal.type.__name__ == "Forbidden"
    with pytest.raises(RateLimited):
        await identity.confirmation.change_password(
            who, c.PasswordChange(current=Secret(PASSWORD), password=Secret("another horse"))
        )

    await identity.log_in("ana")


async def test_040_a_dangerous_change_long_after_the_log_in_asks_again(identity: Identity) -> None:
    await identity.user("ana")
    who = await identity.who(await identity.log_in("ana"))
    identity.clock.forward(601)
    changes: list[Any] = [
        identity.confirmation.change_password(who, c.PasswordChange(current=Secret(PASSWORD), password=Secret("another horse"))),
        identity.factors.begin_totp(who, c.TotpBegin()),
        identity.factors.remove_totp(who, c.TotpRemove()),
        identity.factors.begin_passkey(who, c.PasskeyBegin()),
        identity.factors.remove_passkey(who, c.PasskeyRemove(passkey="x")),
        identity.factors.create_codes(who, c.RecoveryCreate()),
        identity.factors.confirm_totp(who, c.TotpConfirm(ticket="x", code=Secret("000000"))),
        identity.factors.add_passkey(who, c.PasskeyAdd(ticket="x", credential={})),
    ]
    for change in changes:
        with pytest.raises(ConfirmationRequired):
            await change
    await identity.confirmation.confirm(who, c.SessionConfirm(password=Secret(PASSWORD)))

    assert (await identity.factors.begin_totp(who, c.TotpBegin())).secret


# ── 41 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def with_totp(identity: Identity, name: str) -> pyotp.TOTP:
    await identity.user(name)
    who = await identity.who(await identity.log_in(name))
    begun = await identity.factors.begin_totp(who, c.TotpBegin())
    totp = pyotp.TOTP(begun.secret)
    await identity.factors.confirm_totp(who, c.TotpConfirm(ticket=begun.ticket, code=Secret(totp.at(int(identity.now)))))
    identity.clock.forward(3 * STEP_S)
    return totp


async def test_041_a_code_works_once(identity: Identity) -> None:
    totp = await with_totp(identity, "ana")
    code = totp.at(int(identity.now))
    answers = await asyncio.gather(*(identity.log_in("ana", code=code) for _ in range(3)), return_exceptions=True)

    assert sorted(type(each).__name__ for each in answers) == ["SecondFactorRequired", "SecondFactorRequired", "Session"]
    identity.clock.forward(STEP_S)
    with pytest.raises(SecondFactorRequired):
        await identity.log_in("ana", code=code)


async def test_041_an_earlier_code_does_not_work_after_a_later_one(identity: Identity) -> None:
    totp = await with_totp(identity, "ana")
    await identity.log_in("ana", code=totp.at(int(identity.now) + STEP_S))
    with pytest.raises(SecondFactorRequired):
        await identity.log_in("ana", code=totp.at(int(identity.now)))


@pytest.mark.parametrize(("steps", "good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
async def test_041_one_step_early_or_late_is_forgiven_and_no_more(identity: Identity, steps: int, good: bool) -> None:  # noqa: FBT001
    totp = await with_totp(identity, "ana")
    code = totp.at(int(identity.now) + steps * STEP_S)
    if good:
        assert (await identity.log_in("ana", code=f" {code[:3]} {code[3:]} ")).device
    else:
        with pytest.raises(SecondFactorRequired):
            await identity.log_in("ana", code=code)


async def test_041_five_tries_then_it_gets_slow(identity: Identity) -> None:
    totp = await with_totp(identity, "ana")
    tries, day = 0, identity.clock.seconds + 86_400
    seen: list[str] = []
    while identity.clock.seconds < day:
        good = {totp.at(int(identity.now) + step * STEP_S) for step in (-1, 0, 1)}
        wrong = next(f"{number:06}" for number in range(1_000_000) if f"{number:06}" not in good)
        try:
            await identity.log_in("ana", code=wrong, address=f"192.0.2.{tries % 250}")
        except SecondFactorRequired:
            tries += 1
            seen.append("wrong")
        except RateLimited as refusal:
            seen.append("wait")
            identity.clock.forward((refusal.retry_after_ms or 0) / 1_000)

    assert seen[:6] == ["wrong"] * 5 + ["wait"]
    assert tries < 120, "a day gives a guesser a chance of 1 in 2,700, from however many addresses"


async def test_041_who_knows_the_password_cannot_lock_the_owner_out(identity: Identity) -> None:
    await identity.user("ana")
    who = await identity.who(await identity.log_in("ana"))
    begun = await identity.factors.begin_totp(who, c.TotpBegin())
    code = pyotp.TOTP(begun.secret).at(int(identity.now))
    codes = (await identity.factors.confirm_totp(who, c.TotpConfirm(ticket=begun.ticket, code=Secret(code)))).recovery_codes
    for _ in range(5):
        with pytest.raises(SecondFactorRequired):
            await identity.log_in("ana", code="000000", address="198.51.100.9")
    with pytest.raises(RateLimited):
        await identity.log_in("ana", code="000000", address="198.51.100.9")

    assert (await identity.log_in("ana", code=codes[0])).device
    with pytest.raises(SecondFactorRequired):
        await identity.log_in("ana", code=codes[0])


@pytest.mark.parametrize(
    "code", ["", "0", "12345", "1234567", "٠٠٠٠٠٠", "-00001", "0x0000", "1e5   ", "''''''", "A" * 16, "-" * 2_000]
)
async def test_041_what_is_no_code_is_refused(identity: Identity, code: str) -> None:
    await with_totp(identity, "ana")
    with pytest.raises(SecondFactorRequired):
        await identity.log_in("ana", code=code)


async def test_041_the_code_is_asked_for_after_the_password_only(identity: Identity) -> None:
    totp = await with_totp(identity, "ana")
    for name in ("ana", "nobody"):
        with pytest.raises(Unauthorized) as refusal:
            await identity.log_in(name, password="not the password", code=totp.at(int(identity.now)))
        assert refusal.value.code == "unauthorized"
    assert (await identity.log_in("ana", code=totp.at(int(identity.now)))).device, "the code was not used up"


async def test_041_secrets_and_codes_are_not_readable_in_the_data_folder(identity: Identity) -> None:
    await identity.user("ana")
    who = await identity.who(await identity.log_in("ana"))
    begun = await identity.factors.begin_totp(who, c.TotpBegin())
    code = pyotp.TOTP(begun.secret).at(int(identity.now))
    codes = (await identity.factors.confirm_totp(who, c.TotpConfirm(ticket=begun.ticket, code=Secret(code)))).recovery_codes
    stored = b"".join(path.read_bytes() for path in identity.folder.iterdir())

    for secret in (begun.secret, pyotp.TOTP(begun.secret).byte_secret().decode("latin-1"), *codes, codes[0].replace("-", "")):
        assert secret.encode("latin-1") not in stored
    assert (identity.folder / "kek-1.key").stat().st_mode & 0o377 == 0


async def test_041_a_sealed_secret_does_not_open_for_somebody_else(identity: Identity) -> None:
    totp = await with_totp(identity, "ana")
    eve = await identity.user("eve")
    record = await identity.store.totp((await identity.accounts.account(username="ana")).user.id)  # type: ignore[union-attr]
    assert record is not None
    await identity.store.set_totp(eve.id, record.sealed_secret, 0, 0)
    with pytest.raises(Exception, match="cannot be checked"):
        await identity.log_in("eve", code=totp.at(int(identity.now)))


# ── 42, 43, 44 ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_042_a_session_is_never_taken_over_from_before_the_log_in(server: RunningServer) -> None:
    server.set_up()
    mallory = server.invite("mallory")
    with httpx.Client(trust_env=False, headers={"X-SecureChat-Session": "cookie"}) as http:
        http.cookies.set(f"securechat-{server.http_port}", mallory["refresh_token"])
        answer = http.post(f"{server.url}/api/v1/sessions", json={"username": "ana", "password": PASSWORD})
        given = answer.cookies[f"securechat-{server.http_port}"]

    assert answer.json()["device"] != mallory["device"]
    assert given != mallory["refresh_token"]
    assert given.partition(".")[0] != mallory["refresh_token"].partition(".")[0]
    assert answer.json()["refresh_token"] == ""
    assert server.request("GET", "/me", token=mallory["access_token"])["user"]["username"] == "mallory"


def test_042_nothing_is_kept_by_caches_and_the_cookie_dies_with_the_session(server: RunningServer) -> None:
    server.set_up()
    with httpx.Client(trust_env=False, headers={"X-SecureChat-Session": "cookie"}) as http:
        answer = http.post(f"{server.url}/api/v1/sessions", json={"username": "ana", "password": PASSWORD})
        http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        seen = [answer, http.get(f"{server.url}/api/v1/me"), http.get(f"{server.url}/api/v1/devices")]
        cookie = http.cookies.get(f"securechat-{server.http_port}")
        out = http.delete(f"{server.url}/api/v1/sessions/current")
        http.cookies.set(f"securechat-{server.http_port}", cookie or "", path="/api/v1/sessions")
        back = [http.get(f"{server.url}/api/v1/me"), http.post(f"{server.url}/api/v1/sessions/refresh", json=BLANK)]

    assert all("no-store" in each.headers["cache-control"] for each in [*seen, out, *back])
    assert "Max-Age=0" in out.headers["set-cookie"]
    assert [each.status_code for each in back] == [401, 401]


async def test_042_nothing_that_was_sent_beside_the_log_out_is_taken_after_it(server: RunningServer) -> None:
    session = server.set_up()
    room = server.room("ops", session["user"]["id"])
    headers = {"Authorization": f"Bearer {session['access_token']}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=20) as http:
        sends = [http.post(f"{server.url}/api/v1/rooms/{room}/messages", json={"cmid": str(n), "body": "x"}) for n in range(40)]
        sends.insert(20, http.delete(f"{server.url}/api/v1/sessions/current"))
        answers = await asyncio.gather(*sends)
        after = await http.post(f"{server.url}/api/v1/rooms/{room}/messages", json={"cmid": "after", "body": "x"})
    stored = server.operator().perform(c.ServerStatus()).entries

    codes = [each.status_code for each in answers]
    assert codes[20] == 200
    assert set(codes) <= {200, 201, 401}
    assert after.status_code == 401
    assert stored == 2 + codes.count(201), "what was answered is stored, and nothing else"


def test_043_a_cookie_opens_nothing_but_its_own_refresh(server: RunningServer) -> None:
    session = server.set_up()
    cookie = {f"securechat-{server.http_port}": session["refresh_token"]}
    foreign = {"Origin": "https://evil.example"}
    own = {"X-SecureChat-Session": "cookie"}
    with httpx.Client(trust_env=False, cookies=cookie) as http:
        for route in ROUTES:
            if route.open or route.method == "GET":
                continue
            path = route.path
            for name in ("room", "user", "device", "code", "seq", "emoji", "passkey"):
                path = path.replace(f"{{{name}}}", "1")
            for headers in ({}, foreign, own):
                status = http.request(route.method, f"{server.url}{BASE}{path}", headers=headers).status_code
                assert status in {400, 401}, (route.command.__name__, headers, status)
        refresh = f"{server.url}{BASE}/sessions/refresh"
        refused = [
            http.post(refresh, json=BLANK, headers=own | foreign),
            http.post(refresh, json=BLANK, headers=own | {"Origin": "null"}),
            http.post(refresh, json=BLANK, headers=own | {"Origin": f"{server.url}.evil.example"}),
        ]
        ignored = [
            http.post(refresh, json=BLANK),
            http.post(refresh, json=BLANK, headers=foreign),
            http.post(refresh, content="{}", headers=own | {"Content-Type": "text/plain"}),
            http.post(refresh, content="a=b", headers=own | {"Content-Type": "application/x-www-form-urlencoded"}),
            http.get(refresh, headers=own),
            http.post(f"{server.url}{BASE}/me", headers=own | {"X-HTTP-Method-Override": "PATCH"}),
            http.post(f"{server.url}{BASE}/devices/{session['device']}?_method=DELETE", headers=own),
        ]

    assert [each.status_code for each in refused] == [403] * 3
    assert all(each.status_code in {400, 401, 405} for each in ignored), ignored
    assert server.post("/sessions/refresh", {"refresh_token": session["refresh_token"]})["device"] == session["device"]


def test_043_a_page_of_another_origin_gets_no_leave_to_send_our_header(server: RunningServer) -> None:
    with httpx.Client(trust_env=False) as http:
        answer = http.options(
            f"{server.url}{BASE}/sessions/refresh",
            headers={
                "Origin": "https://evil.example",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "x-securechat-session",
            },
        )

    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_044_two_who_set_up_at_once_become_one_owner(server: RunningServer) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        answers = await asyncio.gather(
            *(
                http.post(
                    f"{server.url}/api/v1/setup",
                    json={"token": server.setup_token, "username": f"user{number}", "password": PASSWORD},
                )
                for number in range(8)
            )
        )

    assert sorted(each.status_code for each in answers) == [201] + [403] * 7
    users = server.operator().perform(c.UserList()).users
    assert [user.role for user in users] == [Role.OWNER]


def test_044_there_is_no_second_bootstrap_and_no_default(server: RunningServer) -> None:
    for name in ("admin", "root", "operator", "owner", "securechat"):
        for password in ("admin123", "password", "securechat", "changeme", PASSWORD):
            assert log_in(server, name, password).status_code == 401
    server.set_up()
    server.stop()
    server.start()

    assert "Setup" not in server.banner
    with pytest.raises(Exception, match="set up"):
        server.operator().perform(c.SetupLink())
