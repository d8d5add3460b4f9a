"""The web client in a real Chromium against a real server."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Browser, Page, ViewportSize, expect

from securechat.domain import commands as c
from support.browsing import DESKTOP, PHONE, WIDE, Look, act, create_room, message, person, register, set_up, write
from support.running import PASSWORD, RunningServer, wait_until

OUTBOX = """() => new Promise((done, fail) => {
    const opening = indexedDB.open("securechat");
    opening.onerror = fail;
    opening.onsuccess = () => {
        const db = opening.result;
        db.transaction("outbox").objectStore("outbox").count().onsuccess = (event) => { db.close(); done(event.target.result); };
    };
})"""


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


async def test_a_setup_link_that_was_used_says_so_before_anything_is_filled_in(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana, person(browser) as late:
        await set_up(ana, server)
        await late.goto(server.banner.split("Setup")[1].split()[0])

        await expect(late.get_by_role("heading", name="This server is set up already")).to_be_visible()
        await expect(late.get_by_label("Username")).to_have_count(0)
        await late.get_by_role("link", name="Sign in instead").click()
        await expect(late.get_by_role("heading", name="Sign in to Acme")).to_be_visible()


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


async def outbox_has(page: Page, count: int) -> None:
    """Return when this browser's disk holds so many unsent things."""
    for _ in range(500):
        if await page.evaluate(OUTBOX) == count:
            return
        await page.wait_for_timeout(20)
    raise AssertionError(f"the outbox never had {count}")


async def test_changes_made_without_a_server_are_seen_at_once_and_arrive_after_a_reload(
    browser: Browser, server: RunningServer
) -> None:
    async with person(browser) as ana, person(browser) as bob:
        await set_up(ana, server)
        await create_room(ana, "ops")
        await register(bob, server, "Bob", "ops")
        await write(bob, "from Bob")
        for text in ("to be changed", "a mistake"):
            await write(ana, text)
        await expect(message(bob, "a mistake")).to_be_visible()
        await expect(message(ana, "from Bob")).to_be_visible()
        server.stop(signal.SIGKILL)
        await act(ana, "to be changed", "Edit")
        await write(ana, "corrected")
        await act(ana, "a mistake", "Delete")
        await ana.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await act(ana, "from Bob", "React with heart")
        await expect(message(ana, "corrected")).to_contain_text("(edited)")
        await expect(ana.get_by_text("Message deleted")).to_be_visible()
        await expect(message(ana, "from Bob").get_by_role("button", name=re.compile("heart: You"))).to_be_visible()
        await outbox_has(ana, 3)
        server.start()
        await ana.reload()
        await bob.reload()
        await expect(message(bob, "from Bob").get_by_role("button", name=re.compile("heart: Ana Ruiz"))).to_be_visible()
        await expect(message(bob, "corrected")).to_be_visible()
        await expect(bob.get_by_text("Message deleted")).to_be_visible()
        await expect(message(ana, "corrected")).to_be_visible()
        await outbox_has(ana, 0)
        room = server.operator().room_id("ops")
        entries = server.operator().perform(c.Fetch(room=room, limit=100)).entries

    changes = [entry.type.value for entry in entries if entry.target is not None]
    assert changes == ["message.edited", "message.deleted", "reaction.added"]


async def test_two_tabs_send_each_message_once_and_in_order_when_one_is_closed_offline(
    browser: Browser, server: RunningServer
) -> None:
    async with person(browser) as first:
        await set_up(first, server)
        await create_room(first, "ops")
        second = await first.context.new_page()
        await second.goto(first.url)
        await expect(second.get_by_role("textbox", name="Message #ops")).to_be_visible()
        server.stop(signal.SIGKILL)
        expected = []
        for number in range(8):
            for page, name in ((first, "first"), (second, "second")):
                expected.append(f"{number} {name}")
                await write(page, expected[-1])
        await outbox_has(second, 16)
        await first.close()
        server.start()
        await expect(message(second, "7 first")).to_be_visible(timeout=20_000)
        await outbox_has(second, 0)
        room = server.operator().room_id("ops")
        entries = server.operator().perform(c.Fetch(room=room, limit=100)).entries

        assert [entry.body for entry in entries if entry.body] == expected
        await expect(second.get_by_role("article").filter(has_text=re.compile("first|second"))).to_have_count(16)


async def test_two_tabs_send_each_message_once_when_both_come_back(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as first:
        await set_up(first, server)
        await create_room(first, "ops")
        second = await first.context.new_page()
        await second.goto(first.url)
        await expect(second.get_by_role("textbox", name="Message #ops")).to_be_visible()
        server.stop(signal.SIGKILL)
        for number in range(8):
            for page, name in ((first, "first"), (second, "second")):
                await write(page, f"{number} {name}")
        await outbox_has(second, 16)
        server.start()
        await outbox_has(second, 0)
        room = server.operator().room_id("ops")
        bodies = [entry.body for entry in server.operator().perform(c.Fetch(room=room, limit=100)).entries if entry.body]
        for page in (first, second):
            await expect(page.get_by_role("article").filter(has_text=re.compile("first|second"))).to_have_count(16)

    assert len(bodies) == 16
    for name in ("first", "second"):
        assert [body for body in bodies if name in body] == [f"{number} {name}" for number in range(8)]


async def test_a_short_interruption_is_not_worth_a_word(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        await create_room(ana, "ops")
        await ana.evaluate(
            "new MutationObserver(() => { if (document.body.textContent.includes('Connection lost')) window.told = true })"
            ".observe(document.body, {subtree: true, childList: true, characterData: true})"
        )
        for number in range(1, 6):  # On a busy machine a short one may take several tries.
            await ana.evaluate("window.told = false")
            began = time.monotonic()
            server.stop(signal.SIGKILL)
            server.start()
            await write(ana, f"still here {number}")
            wait_until(
                lambda stored=2 + number: server.operator().perform(c.ServerStatus()).entries >= stored, "the message is stored"
            )
            if time.monotonic() - began < 3:
                assert await ana.evaluate("window.told") is False
                return
        pytest.fail("it always took longer than what is short")


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
        token = server.operator().perform(c.UserReset(user=user.id)).url.partition("t=")[2]
        server.post("/password-reset", {"token": token, "password": "another horse"})

        await expect(ana.get_by_role("button", name="Sign in")).to_be_visible()


async def test_a_device_is_signed_out_from_another_and_what_it_wrote_waits_for_its_return(
    browser: Browser, server: RunningServer
) -> None:
    async with person(browser) as ana, person(browser) as phone:
        await set_up(ana, server)
        await create_room(ana, "ops")
        await phone.goto(server.url)

        async def sign_in() -> None:
            await phone.get_by_label("Username").fill("ana")
            await phone.get_by_label("Password").fill(PASSWORD)
            await phone.get_by_role("button", name="Sign in").click()
            await expect(phone.get_by_role("button", name="Settings")).to_be_visible()

        await sign_in()
        await phone.get_by_role("link", name=re.compile("^ops")).click()
        await phone.get_by_role("textbox", name="Message #ops").fill("half a sentence")
        await ana.get_by_role("button", name="Settings").click()
        devices = ana.get_by_role("list", name="Devices")
        await expect(devices.get_by_role("listitem")).to_have_count(2)
        await devices.get_by_role("button", name=re.compile("^Sign out")).click()
        await expect(devices.get_by_role("listitem")).to_have_count(1)
        await expect(phone.get_by_text("You were signed out.")).to_be_visible()
        await sign_in()

        await expect(phone.get_by_role("textbox", name="Message #ops")).to_have_value("half a sentence")


async def test_settings_end_invitations_and_bots(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        await ana.get_by_role("button", name="Settings").click()
        dialog = ana.get_by_role("dialog", name="Settings")
        await dialog.get_by_role("button", name="Create link").click()
        link = await dialog.get_by_label("Invitation link").input_value()
        await dialog.get_by_role("list", name="Invitations").get_by_role("button", name=re.compile("^Revoke")).click()
        await expect(dialog.get_by_role("list", name="Invitations")).to_have_count(0)
        await expect(dialog.get_by_label("Invitation link")).to_have_count(0)
        code = link.rpartition("/")[2]
        server.request("GET", f"/invites/{code}", status=403)

        await dialog.get_by_label("Username of a new bot").fill("roller")
        await dialog.get_by_role("button", name="Create bot").click()
        token = dialog.get_by_label("Token of roller")
        tokens = [await token.input_value()]
        server.request("GET", "/me", token=tokens[0])
        for verb in ("New token", "Revoke"):
            await dialog.get_by_role("button", name=f"{verb}: roller").click()
            await ana.get_by_role("dialog", name=f"{verb}: roller").get_by_role("button", name=verb, exact=True).click()
            if verb == "New token":
                await expect(token).not_to_have_value(tokens[0])
                tokens.append(await token.input_value())
                server.request("GET", "/me", token=tokens[1])
        await expect(dialog.get_by_role("list", name="Bots")).to_have_count(0)
        for old in tokens:
            server.request("GET", "/me", token=old, status=401)


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


sizes = pytest.mark.parametrize("size", [PHONE, DESKTOP, WIDE], ids=["phone", "desktop", "wide"])


@sizes
async def test_the_way_in_looks_as_it_should(browser: Browser, server: RunningServer, tmp_path: Path, size: ViewportSize) -> None:
    async with person(browser, size=size) as page:
        look = Look(page, tmp_path)
        await page.goto(server.url + "/setup")
        await expect(page.get_by_text("needs the link")).to_be_visible()
        await look.at("setup-without-link")
        await page.goto(server.banner.split("Setup")[1].split()[0])
        await expect(page.get_by_role("button", name="Create server")).to_be_visible()
        await look.at("setup")
        server.set_up()
        operator = server.operator()
        rooms = [server.room(name) for name in ("lobby", "a-room-with-a-rather-long-name-that-somebody-thought-of")]
        await page.goto(server.url + "/login")
        await page.get_by_label("Username").fill("ana")
        await page.get_by_label("Password").fill("wrong horse battery")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).not_to_be_empty()
        await look.at("login-refused")
        await page.goto(operator.perform(c.InviteCreate(rooms=rooms)).url)
        await expect(page.get_by_role("heading", name=re.compile("^Join "))).to_be_visible()
        await page.get_by_label("Your name").fill("Bob")
        await page.get_by_label("Username").fill("ana")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Create account").click()
        await expect(page.get_by_label("Username")).to_have_attribute("aria-invalid", "true")
        await look.at("invitation-refused")
        await page.goto(server.url + "/i/AAAA-AAAA-AAAA")
        await expect(page.get_by_text("This invitation does not work")).to_be_visible()
        await look.at("invitation-gone")
        await page.goto(operator.perform(c.UserReset(user=operator.user("ana").id)).url)
        await expect(page.get_by_role("button", name="Set password")).to_be_visible()
        await look.at("reset")


@sizes
async def test_rooms_look_as_they_should(browser: Browser, server: RunningServer, tmp_path: Path, size: ViewportSize) -> None:
    async with person(browser, size=size) as ana:
        look = Look(ana, tmp_path)
        await set_up(ana, server)
        await look.at("no-rooms")
        await create_room(ana, "ops")
        await expect(ana.get_by_role("article", name="Beginning of the room")).to_be_visible()
        await look.at("empty-room")
        bob = server.invite("bob", [server.operator().room_id("ops")])
        room = server.operator().room_id("ops")
        for number, body in enumerate(
            ["Good morning!", "Deployed **4.2** to staging, see https://example.org/a/rather/long/address?with=parameters&and=more",
             "```\nsecurechat doctor\nsecurechat backup create --to /srv/backups/a-rather-long-name-of-a-file-that-scrolls\n```", "🎉"]
        ):  # fmt: skip
            server.post(f"/rooms/{room}/messages", {"cmid": str(number), "body": body}, bob["access_token"])
        await write(ana, "Thank you")
        await write(ana, "> a quote\n`code` and _words_ for @ana and @bob")
        await act(ana, "Good morning", "React with heart")
        await expect(message(ana, "Good morning").get_by_role("button", name=re.compile("^heart: You"))).to_be_visible()
        await act(ana, "Thank you", "Reply")
        await look.at("reply")
        await write(ana, "A longer answer, " + "with many words that fill more than one line, " * 6)
        await expect(message(ana, "A longer answer").get_by_role("button", name=re.compile("In reply to"))).to_be_visible()
        await look.at("room")
        await act(ana, "Good morning", "React")
        await look.at("emoji")
        await ana.get_by_role("dialog").get_by_role("button", name="Close").click()
        await act(ana, "Thank you", "Delete")
        await look.at("delete")
        await ana.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(ana.get_by_text("Message deleted")).to_be_visible()
        await ana.get_by_role("button", name=re.compile("^Room details")).click()
        await expect(ana.get_by_role("complementary", name="Room details").get_by_text("Ana Ruiz").first).to_be_visible()
        await look.at("details")
        await ana.get_by_role("button", name="Close details").click()


@sizes
async def test_dialogs_look_as_they_should(browser: Browser, server: RunningServer, tmp_path: Path, size: ViewportSize) -> None:
    async with person(browser, size=size) as ana:
        look = Look(ana, tmp_path)
        await set_up(ana, server)
        bob = server.invite("bob")
        user = server.operator().user("ana").id
        server.request("POST", "/rooms:direct", {"user": user}, bob["access_token"])
        server.room("lobby")
        await expect(ana.get_by_role("link", name=re.compile("^Bob"))).to_be_visible()
        await look.at("rooms")
        await ana.get_by_role("button", name="New", exact=True).click()
        await ana.get_by_role("menuitem", name="Create room").click()
        await look.at("create")
        await ana.keyboard.press("Escape")
        for button, found in (("Browse rooms", "lobby"), ("New direct message", "Bob"), ("Go to…", "Bob")):
            await ana.get_by_role("button", name=button).first.click()
            await expect(ana.get_by_role("dialog").get_by_text(found).first).to_be_visible()
            await look.at(button.split()[0].lower())
            await ana.keyboard.press("Escape")
        await ana.get_by_role("button", name="Settings").click()
        dialog = ana.get_by_role("dialog", name="Settings")
        await dialog.get_by_role("button", name="Create link").click()
        await expect(dialog.get_by_role("list", name="Invitations").get_by_role("listitem")).to_have_count(1)
        await dialog.get_by_label("Username of a new bot").fill("roller")
        await dialog.get_by_role("button", name="Create bot").click()
        await expect(dialog.get_by_role("list", name="Bots").get_by_role("listitem")).to_have_count(1)
        await expect(dialog.get_by_role("list", name="Devices").get_by_role("listitem")).to_have_count(1)
        for section in ("Profile", "Bots", "Devices", "Blocked people"):
            await dialog.get_by_role("heading", name=section).evaluate("e => e.scrollIntoView()")
            await look.at(f"settings-{section.split()[0].lower()}")
        await dialog.get_by_role("button", name=re.compile("^Revoke: ")).click()
        await look.at("confirm")
        await ana.keyboard.press("Escape")
        await dialog.get_by_role("button", name="Keyboard shortcuts").click()
        await look.at("shortcuts")


BEGIN_AN_EDIT: Final = """area => new Promise(told => {
  area.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowUp", bubbles: true, cancelable: true}));
  const turns = new MessageChannel();
  turns.port1.onmessage = () => {
    if (!area.value) return turns.port2.postMessage(0);
    area.select();
    requestAnimationFrame(() => setTimeout(() => told(area.value.slice(area.selectionStart, area.selectionEnd)), 300));
  };
  turns.port2.postMessage(0);
})"""
"""Edit the last message and select its text as soon as it is in the field, before it is painted; return what is selected then."""


async def test_what_is_selected_as_soon_as_an_edit_begins_stays_selected(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        bob = server.invite("bob")
        server.request("POST", "/rooms:direct", {"user": server.operator().user("ana").id}, bob["access_token"])
        await ana.get_by_role("link", name=re.compile("^Bob")).click()
        await write(ana, "Hello Bob")
        await expect(ana.get_by_text("Waiting to be sent")).to_have_count(0)
        composer = ana.get_by_role("textbox", name="Message Bob")
        await composer.focus()

        assert await composer.evaluate(BEGIN_AN_EDIT) == "Hello Bob"


@sizes
async def test_trouble_looks_as_it_should(browser: Browser, server: RunningServer, tmp_path: Path, size: ViewportSize) -> None:
    async with person(browser, size=size) as ana:
        look = Look(ana, tmp_path)
        await set_up(ana, server)
        bob = server.invite("bob")
        user = server.operator().user("ana").id
        server.request("POST", "/rooms:direct", {"user": user}, bob["access_token"])
        await ana.get_by_role("link", name=re.compile("^Bob")).click()
        await write(ana, "Hello Bob")
        await expect(ana.get_by_text("Waiting to be sent")).to_have_count(0)
        server.request("PUT", f"/blocks/{user}", None, bob["access_token"])
        await write(ana, "Are you there?")
        await expect(message(ana, "Are you there?").get_by_role("alert")).to_contain_text("Not sent: This person")
        await act(ana, "Hello Bob", "Edit")
        await expect(ana.get_by_role("textbox", name="Message Bob")).to_have_value("Hello Bob")
        await write(ana, "Good morning Bob")
        await expect(message(ana, "Good morning Bob").get_by_role("alert")).to_contain_text("Edit not saved: This person")
        await expect(message(ana, "Hello Bob").first).to_be_visible()
        await look.at("refused")
        await message(ana, "Good morning Bob").get_by_role("button", name="Edit").click()
        composer = ana.get_by_role("textbox", name="Message Bob")
        await expect(composer).to_have_value("Good morning Bob")
        await composer.press("Escape")
        server.stop(signal.SIGKILL)
        await write(ana, "Later, then")
        await expect(ana.get_by_role("button", name="Retry now")).to_be_visible()
        await look.at("offline")
