"""The web client in a real Chromium against a real server."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, async_playwright, expect

from securechat.domain import commands as c
from support.running import PASSWORD, RunningServer, wait_until

ROOT = Path(__file__).parents[2]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 740}


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield found
        await found.close()


@asynccontextmanager
async def person(browser: Browser, *, size: ViewportSize = DESKTOP, **more: Any) -> AsyncIterator[Page]:
    """Give a browser of one's own; what the page breaks or the policy refuses fails the test."""
    context: BrowserContext = await browser.new_context(viewport=size, **more)
    page = await context.new_page()
    page.set_default_timeout(10_000)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "console",
        lambda message: (
            troubles.append(message.text) if "Content Security Policy" in message.text or "TrustedHTML" in message.text else None
        ),
    )
    yield page
    assert troubles == []
    await context.close()


async def set_up(page: Page, server: RunningServer) -> None:
    await page.goto(server.banner.split("Setup")[1].split()[0])
    await page.get_by_label("Name of the server").fill("Acme")
    await page.get_by_label("Your name").fill("Ana Ruiz")
    await page.get_by_label("Username").fill("ana")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Create server").click()
    await expect(page.get_by_role("button", name="Settings")).to_be_visible()


async def create_room(page: Page, name: str) -> None:
    await page.get_by_role("button", name="Create room", exact=True).first.click()
    dialog = page.get_by_role("dialog", name="Create a room")
    await dialog.get_by_label("Name", exact=True).fill(name)
    await dialog.get_by_role("radio", name=re.compile("^Public")).check()
    await dialog.get_by_role("button", name="Create room").click()
    await expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()


async def register(page: Page, server: RunningServer, name: str, room: str) -> None:
    invite = server.operator().perform(c.InviteCreate(rooms=[server.operator().room_id(room)]))
    await page.goto(invite.url)
    await expect(page.get_by_role("heading", name="Join Acme")).to_be_visible()
    await page.get_by_label("Your name").fill(name)
    await page.get_by_label("Username").fill(name.lower())
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Create account").click()
    await page.get_by_role("navigation", name="Rooms").get_by_role("link", name=re.compile(f"^{room}")).click()


async def write(page: Page, text: str) -> None:
    composer = page.get_by_role("textbox", name=re.compile("^Message "))
    await composer.fill(text)
    await composer.press("Enter")


def message(page: Page, text: str) -> Any:
    return page.get_by_role("article").filter(has_text=text)


async def act(page: Page, text: str, action: str) -> None:
    article = message(page, text).first
    await article.hover()
    await article.get_by_role("toolbar", name="Message actions").get_by_role("button", name=action, exact=True).click()


async def test_two_people_meet_and_talk(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana, person(browser) as bob:
        await set_up(ana, server)
        await create_room(ana, "ops")
        await register(bob, server, "Bob", "ops")
        await write(ana, "Hello **Bob**")
        await expect(message(bob, "Hello Bob")).to_be_visible()
        await expect(bob.locator("strong", has_text="Bob")).to_be_visible()
        await bob.get_by_role("textbox", name="Message #ops").press_sequentially("Hi")
        await expect(ana.get_by_text("Bob is typing")).to_be_visible()

        await act(bob, "Hello Bob", "Reply")
        await write(bob, "Hi Ana")
        await expect(message(ana, "Hi Ana").get_by_role("button", name=re.compile("In reply to"))).to_be_visible()
        await act(ana, "Hi Ana", "React with heart")
        await expect(message(bob, "Hi Ana").get_by_role("button", name=re.compile("heart: Ana Ruiz"))).to_be_visible()
        await act(bob, "Hi Ana", "Edit")
        await write(bob, "Good morning Ana")
        await expect(message(ana, "Good morning Ana")).to_contain_text("(edited)")
        await act(ana, "Hello Bob", "Delete")
        await ana.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(bob.get_by_text("Message deleted")).to_be_visible()
        await expect(bob.get_by_text("Hello Bob")).to_have_count(0)
        await expect(ana).to_have_title(re.compile(r"#ops.*Acme"))

        await bob.reload()
        await expect(message(bob, "Good morning Ana")).to_be_visible()


async def test_unread_counts_agree_on_two_devices(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana, person(browser) as phone, person(browser) as bob:
        await set_up(ana, server)
        await create_room(ana, "ops")
        await create_room(ana, "lobby")
        await phone.goto(server.url)
        await phone.get_by_label("Username").fill("ana")
        await phone.get_by_label("Password").fill(PASSWORD)
        await phone.get_by_role("button", name="Sign in").click()
        await expect(phone.get_by_role("navigation", name="Rooms")).to_be_visible()
        await register(bob, server, "Bob", "ops")
        for number in range(3):
            await write(bob, f"news {number}")
        for page in (ana, phone):
            await expect(page.get_by_role("link", name=re.compile("^ops 3 unread"))).to_be_visible()

        await ana.bring_to_front()
        await ana.get_by_role("link", name=re.compile("^ops")).click()
        for page in (ana, phone):
            await expect(page.get_by_role("link", name=re.compile("^ops.*unread"))).to_have_count(0)


async def test_what_is_written_without_a_server_arrives_once_and_in_order_after_a_reload(
    browser: Browser, server: RunningServer
) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        await create_room(ana, "ops")
        await write(ana, "before")
        await expect(message(ana, "before")).to_be_visible()
        server.stop(signal.SIGKILL)
        for number in range(20):
            await write(ana, f"offline {number:02}")
        await expect(ana.get_by_role("status", name="Connection").get_by_role("button", name="Retry now")).to_be_visible()
        server.start()
        await ana.reload()
        await expect(message(ana, "offline 19")).to_be_visible(timeout=20_000)
        room = server.operator().room_id("ops")

        def bodies() -> list[str]:
            entries = server.operator().perform(c.Fetch(room=room, limit=100)).entries
            return [entry.body for entry in entries if entry.body]

        wait_until(lambda: len(bodies()) >= 21, "everything is stored")
        assert bodies() == ["before", *(f"offline {number:02}" for number in range(20))]
        await expect(ana.get_by_role("article").filter(has_text="offline 07")).to_have_count(1)


async def test_a_short_interruption_is_not_worth_a_word(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        await create_room(ana, "ops")
        await ana.evaluate(
            "new MutationObserver(() => { if (document.body.textContent.includes('Connection lost')) window.told = true })"
            ".observe(document.body, {subtree: true, childList: true, characterData: true})"
        )
        server.stop(signal.SIGKILL)
        server.start()
        await write(ana, "still here")
        wait_until(lambda: server.operator().perform(c.ServerStatus()).entries >= 3, "the message is stored")

        assert await ana.evaluate("window.told === true") is False


async def test_history_is_scrolled_back_to_the_beginning(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        await create_room(ana, "ops")
        operator = server.operator()
        bot = operator.perform(c.BotCreate(username="writer", rooms=[operator.room_id("ops")]))
        room = operator.room_id("ops")
        for number in range(300):
            server.post(f"/rooms/{room}/messages", {"cmid": str(number), "body": f"line {number:03}"}, bot.token)
        await ana.reload()
        await expect(message(ana, "line 299")).to_be_visible()
        feed = ana.get_by_role("feed", name="Messages")
        await feed.hover()
        for _ in range(120):
            if await ana.get_by_text("line 000").count():
                break
            await ana.mouse.wheel(0, -1_500)
            await ana.wait_for_timeout(30)

        await expect(message(ana, "line 000")).to_be_attached()
        assert await ana.get_by_role("article").count() < 100
        await ana.get_by_role("button", name=re.compile("Jump to the newest message")).click()
        await expect(message(ana, "line 299")).to_be_visible()


async def test_a_bots_command_is_completed_in_the_composer(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        await create_room(ana, "ops")
        operator = server.operator()
        token = operator.perform(c.BotCreate(username="roller", rooms=[operator.room_id("ops")])).token
        definition = {
            "name": "roll",
            "description": "Roll some dice.",
            "options": [{"name": "dice", "type": "int", "required": False}],
        }
        server.request("PUT", "/commands", {"commands": [definition]}, token)
        composer = ana.get_by_role("textbox", name="Message #ops")
        await composer.press_sequentially("/ro")
        await expect(
            ana.get_by_role("listbox", name="Commands").get_by_role("option", name=re.compile("roll.*dice"))
        ).to_be_visible()
        await composer.press("Tab")

        assert (await composer.input_value()).startswith("/roll")


async def test_enter_does_not_send_while_an_input_method_composes(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        await create_room(ana, "ops")
        composer = ana.get_by_role("textbox", name="Message #ops")
        await composer.fill("にほん")
        for guard in ("isComposing: true", "keyCode: 229"):
            await composer.evaluate(f"e => e.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter', bubbles: true, {guard}}}))")

        assert await composer.input_value() == "にほん"


async def test_text_is_never_markup(browser: Browser, server: RunningServer) -> None:
    evil = [
        "<img src=x onerror=window.evil=1>",
        "[x](javascript:window.evil=1)",
        '"><script>window.evil=1</script>',
        "<svg/onload=window.evil=1>",
    ]
    async with person(browser) as ana:
        await set_up(ana, server)
        await create_room(ana, "<b>ops</b>")
        for text in evil:
            await write(ana, text)
        await expect(message(ana, "<svg/onload")).to_be_visible()

        assert await ana.evaluate("window.evil") is None
        assert await ana.locator('a[href^="javascript"], article img, article script, article svg[onload]').count() == 0


async def test_signing_out_elsewhere_ends_this_one(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        user = server.operator().user("ana")
        token = server.operator().perform(c.UserReset(user=user.id)).url.partition("#t=")[2]
        server.post("/password-reset", {"token": token, "password": "another horse"})

        await expect(ana.get_by_role("button", name="Sign in")).to_be_visible()


async def test_the_server_with_tls_serves_the_same_page(browser: Browser, server: RunningServer) -> None:
    server.set_up()
    async with person(browser, ignore_https_errors=True) as ana:
        await ana.goto(server.tls_url)
        await ana.get_by_label("Username").fill("ana")
        await ana.get_by_label("Password").fill(PASSWORD)
        await ana.get_by_role("button", name="Sign in").click()
        await expect(ana.get_by_text("No rooms yet").first).to_be_visible()
        (cookie,) = await ana.context.cookies()
        await ana.reload()
        await expect(ana.get_by_text("No rooms yet").first).to_be_visible()

    assert (cookie.get("name"), cookie.get("httpOnly"), cookie.get("secure")) == (f"__Host-securechat-{server.port}", True, True)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing(browser: Browser, server: RunningServer, size: ViewportSize, theme: Any) -> None:
    async with person(browser, size=size, color_scheme=theme, reduced_motion="reduce") as ana:

        async def look(where: str) -> None:
            await ana.evaluate(AXE.read_text() + ";0")
            found = await ana.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.target.join(' '))]))")
            assert found == [], where
            assert await ana.evaluate("document.documentElement.scrollWidth <= innerWidth"), where

        await ana.goto(server.url + "/login")
        await expect(ana.get_by_role("button", name="Sign in")).to_be_visible()
        await look("login")
        await set_up(ana, server)
        await look("empty")
        await create_room(ana, "ops")
        for text in ("Hello", "> a quote\n`code` and **bold**", "https://example.org"):
            await write(ana, text)
        await act(ana, "Hello", "React with heart")
        await expect(message(ana, "Hello").get_by_role("button", name=re.compile("^heart: You"))).to_be_visible()
        await look("room")
        await ana.get_by_role("button", name=re.compile("^Room details")).click()
        await expect(ana.get_by_role("complementary", name="Room details").get_by_text("Ana Ruiz").first).to_be_visible()
        await look("details")
        await ana.get_by_role("button", name="Close details").click()
        if size is PHONE:
            await ana.get_by_role("button", name="Back to rooms").click()
        await ana.get_by_role("button", name="Settings").click()
        await expect(ana.get_by_role("dialog", name="Settings")).to_be_visible()
        await look("settings")
