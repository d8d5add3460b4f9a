"""The session layer in a real Chromium: sealed, with new keys in the middle, and refusing what it has to refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import httpx2 as httpx
import pytest
from playwright.async_api import Browser, Page, ViewportSize, WebSocket, expect

from securechat.crypto.identity import IdentityKey
from securechat.domain import commands as c
from securechat.server.identity import IdentityKeys
from support.browsing import DESKTOP, PHONE, Look, create_room, message, person, register, set_up, write
from support.running import PASSWORD, RunningServer

RECORDS = 1_024
OTHER_PIN = "5c" * 32


KNOWN_ROOT = """([key, root]) => new Promise((done, fail) => {
    const opening = indexedDB.open("securechat");
    opening.onerror = fail;
    opening.onsuccess = () => {
        const db = opening.result;
        const asked = db.transaction("settings").objectStore("settings").get(key);
        asked.onsuccess = () => { db.close(); done(asked.result?.root === root); };
    };
})"""


class Wire:
    """What goes over a page's WebSockets."""

    def __init__(self, page: Page) -> None:
        self.sockets: list[WebSocket] = []
        self.texts: list[str] = []
        self.sealed: list[bytes] = []
        page.on("websocket", self._follow)

    def _follow(self, socket: WebSocket) -> None:
        self.sockets.append(socket)
        for way in ("framesent", "framereceived"):
            cast("Any", socket).on(way, self._take)

    def _take(self, payload: str | bytes) -> None:
        if isinstance(payload, str):
            self.texts.append(payload)
        else:
            self.sealed.append(payload)

    @property
    def epochs(self) -> set[int]:
        """Of the records."""
        return {int.from_bytes(one[4:8], "big") for one in self.sealed if one[:4] == b"\x10\x01\x00\x00"}


def change_setting(server: RunningServer, **settings: Any) -> None:
    server.config.write_text(json.dumps(json.loads(server.config.read_text()) | settings))


def key_of(server: RunningServer) -> str:
    """Return what people see of its key: the first half of the id."""
    (record,) = json.loads((server.data / "keys" / "identity.json").read_text())
    return str(record["kid"])[:32]


async def fingerprint(page: Page, name: str) -> str:
    return (await page.get_by_role("img", name=re.compile(f"^{name}")).inner_text()).replace("\n", "").replace(" ", "")


async def details(page: Page) -> Any:
    """Open what the page tells about its connection."""
    await page.get_by_role("button", name=re.compile("^Sealed")).click()
    return page.get_by_role("dialog", name="Connection")


async def test_nothing_but_noise_is_on_the_wire_and_people_see_the_key(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana, person(browser) as ben:
        wire = Wire(ana)
        await set_up(ana, server, pinned=False)
        await create_room(ana, "ops")
        await register(ben, server, "Ben", "ops")
        await write(ana, "the launch code is swordfish")
        await expect(message(ben, "swordfish")).to_be_visible()
        await write(ben, "never heard of it")
        await expect(message(ana, "never heard")).to_be_visible()

        assert wire.texts == []
        assert wire.sealed
        assert not any(word in one for one in wire.sealed for word in (b"swordfish", b"never", b"token", b"ops"))
        # At the first visit in words; later a lock alone.
        await expect(ana.get_by_role("button", name="Sealed", exact=True)).to_be_visible()
        dialog = await details(ana)
        await expect(dialog).to_contain_text("kept at this browser's first visit")
        key = await fingerprint(ana, "Fingerprint")
        assert key == key_of(server)
        await ana.reload()
        await expect(ana.get_by_role("button", name="Sealed connection")).to_be_visible()


async def test_new_keys_in_the_middle_of_a_talk_lose_nothing(browser: Browser, tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data", settings={"session_key_records": RECORDS}).start()
    try:
        async with person(browser) as ana:
            wire = Wire(ana)
            await set_up(ana, server)
            await create_room(ana, "ops")
            operator = server.operator()
            room = operator.room_id("ops")
            bot = operator.perform(c.BotCreate(username="writer", rooms=[room]))
            count = 0
            headers = {"Authorization": f"Bearer {bot.token}"}
            with httpx.Client(trust_env=False, base_url=f"{server.url}/api/v1/rooms/{room}", headers=headers) as http:
                while len(wire.epochs) < 3:
                    assert count < 4 * RECORDS
                    for number in range(count, count + 50):
                        http.post("/messages", json={"cmid": str(number), "body": f"line {number:04}"}).raise_for_status()
                    count += 50
                    await write(ana, f"between {count}")
                    await expect(message(ana, f"between {count}").last).to_be_visible()
            await expect(message(ana, f"line {count - 1:04}").last).to_be_visible()

            assert len(wire.sockets) == 1
            assert wire.texts == []
            dialog = await details(ana)
            await expect(dialog).to_contain_text(re.compile("Keys changed\\s*(once|[2-9] times)"))
    finally:
        server.stop()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
async def test_a_server_with_another_key_is_refused_until_somebody_compared_it(
    browser: Browser, server: RunningServer, tmp_path: Path, size: ViewportSize
) -> None:
    async with person(browser, size=size) as ana:
        look = Look(ana, tmp_path)
        await set_up(ana, server)
        if size == DESKTOP:
            await create_room(ana, "ops")
        dialog = await details(ana)
        old = await fingerprint(ana, "Fingerprint")
        await look.at("sealed-details")
        await dialog.get_by_role("button", name="Close").click()

        server.stop()
        for file in (server.data / "keys").glob("identity*"):
            file.unlink()
        server.start()
        wire = Wire(ana)
        await expect(ana.get_by_role("heading", name="This server shows another key")).to_be_visible(timeout=60_000)
        assert await fingerprint(ana, "Known key") == old
        new = key_of(server)
        assert await fingerprint(ana, "Key shown now") == new != old
        await look.at("another-key")
        # Trying again, or loading the page again, leads to the same page, and nothing but a ClientHello was sent.
        await ana.get_by_role("button", name="Try again").click()
        await expect(ana.get_by_role("heading", name="This server shows another key")).to_be_visible()
        await ana.reload()
        await expect(ana.get_by_role("heading", name="This server shows another key")).to_be_visible()
        assert {one[0] for one in wire.sealed} <= {1, 2, 3, 4}

        await ana.get_by_role("button", name=re.compile("compare the keys$")).click()
        await ana.get_by_label("The last group that they read to you").fill("nope")
        await ana.get_by_role("button", name=re.compile("trust this key$")).click()
        await expect(ana.get_by_text("This is not the last group")).to_be_visible()
        await look.at("compare-keys")
        await ana.get_by_label("The last group that they read to you").fill(new[-4:].upper())
        await ana.get_by_role("button", name=re.compile("trust this key$")).click()
        if size == DESKTOP:
            await write(ana, "with the new key")
            await expect(message(ana, "with the new key")).to_be_visible()
        dialog = await details(ana)
        await expect(dialog).to_contain_text("accepted by you")
        assert await fingerprint(ana, "Fingerprint") == new


async def test_a_key_that_the_servers_root_signed_is_taken_without_a_word(browser: Browser, server: RunningServer) -> None:
    root = IdentityKey.generate(3_072)
    host = f"localhost:{server.http_port}"
    keys = IdentityKeys(server.data / "keys")
    keys.load()
    keys.publish(host, root)
    async with person(browser) as ana:
        await set_up(ana, server, pinned=False)
        await create_room(ana, "ops")
        old = key_of(server)
        await ana.wait_for_function(KNOWN_ROOT, arg=[f"server-key:{host}", root.key_id.hex()])

        server.stop()
        new = keys.add(not_before=0).kid
        keys.publish(host, root)
        server.start()
        await write(ana, "with the next key")
        await expect(message(ana, "with the next key")).to_be_visible()
        await expect(ana.get_by_role("button", name="Sealed connection")).to_be_visible(timeout=60_000)
        await details(ana)
        assert await fingerprint(ana, "Fingerprint") == new[:32] != old


async def test_a_server_that_does_without_sealing_is_refused_once_it_was_sealed(
    browser: Browser, server: RunningServer, tmp_path: Path
) -> None:
    async with person(browser, size=PHONE) as ana:
        await set_up(ana, server, pinned=False)
        await expect(ana.get_by_role("button", name="Sealed", exact=True)).to_be_visible()
        server.stop()
        change_setting(server, session_layer="off")
        server.start()
        wire = Wire(ana)
        await expect(ana.get_by_role("heading", name="This server does not seal any more")).to_be_visible(timeout=60_000)
        await Look(ana, tmp_path).at("downgraded")
        assert [text for text in wire.texts if '"auth"' in text] == []

        server.stop()
        change_setting(server, session_layer="preferred")
        server.start()
        await ana.get_by_role("button", name="Try again").click()
        await expect(ana.get_by_role("button", name="Sealed connection")).to_be_visible(timeout=60_000)


async def test_a_connection_in_the_clear_says_so(browser: Browser, tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data", settings={"session_layer": "off"}).start()
    try:
        async with person(browser) as ana:
            await set_up(ana, server)
            await create_room(ana, "ops")
            await write(ana, "hello")
            await expect(message(ana, "hello")).to_be_visible()
            await ana.get_by_role("button", name="Not sealed").click()
            await expect(ana.get_by_role("dialog", name="Connection")).to_contain_text("does not offer sealing")
            await Look(ana, tmp_path).at("not-sealed")
    finally:
        server.stop()


async def test_the_key_that_a_link_names_is_the_only_one_taken(browser: Browser, server: RunningServer) -> None:
    server.set_up()
    async with person(browser) as ben:
        invite = server.operator().perform(c.InviteCreate(rooms=[]))
        await ben.goto(f"{invite.url.partition('#')[0]}#pin={OTHER_PIN}")
        await ben.get_by_label("Your name").fill("Ben")
        await ben.get_by_label("Username").fill("ben")
        await ben.get_by_label("Password").fill(PASSWORD)
        await ben.get_by_role("button", name="Create account").click()
        await expect(ben.get_by_role("heading", name="This server shows another key")).to_be_visible()
        assert await fingerprint(ben, "Known key") == OTHER_PIN[:32]


async def test_a_server_that_is_set_up_anew_on_this_machine_is_another_server(
    browser: Browser, server: RunningServer, tmp_path: Path
) -> None:
    async with person(browser) as ana:
        await set_up(ana, server, pinned=False)
        await expect(ana.get_by_role("button", name="Sealed", exact=True)).to_be_visible()
        server.stop()
        fresh = RunningServer(tmp_path / "fresh", ports=(server.port, server.http_port)).start()
        try:
            await set_up(ana, fresh, pinned=False)
            await create_room(ana, "ops")
            await details(ana)
            assert await fingerprint(ana, "Fingerprint") == key_of(fresh)
        finally:
            fresh.stop()
