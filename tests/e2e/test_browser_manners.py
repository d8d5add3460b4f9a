"""What somebody meets who does not know the web client yet: a quiet first page, the server's name, ways to bring people in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, expect

from securechat.domain import commands as c
from support.browsing import DESKTOP, PHONE, Look, create_room, message, person, register, set_up, write
from support.running import PASSWORD, RunningServer


def listen(page: Page) -> list[str]:
    """Return the list to which the page's console writes what it complains about, and answers that are no success."""
    heard: list[str] = []
    page.on("console", lambda told: heard.append(told.text) if told.type in {"error", "warning"} else None)
    page.on("response", lambda answer: heard.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    return heard


async def sign_in(page: Page) -> None:
    await page.get_by_label("Username").fill("ana")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_role("button", name="Settings")).to_be_visible()


async def test_the_first_pages_are_quiet_and_what_others_write_is_heard_as_words(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana, person(browser) as bob:
        heard = listen(ana)
        await ana.goto(server.url)
        await expect(ana.get_by_role("heading", name="Sign in to SecureChat")).to_be_visible()
        await set_up(ana, server)
        await create_room(ana, "ops")
        await ana.reload()
        await expect(ana.get_by_role("heading", name="ops", level=1)).to_be_visible()
        await ana.get_by_role("button", name="Settings").click()
        await ana.get_by_role("button", name="Log out").click()
        await expect(ana.get_by_role("heading", name="Sign in to Acme")).to_be_visible()
        await ana.reload()
        await expect(ana.get_by_role("heading", name="Sign in to Acme")).to_be_visible()
        await sign_in(ana)
        heard_by_bob = listen(bob)
        await register(bob, server, "Bob", "ops")
        await ana.get_by_role("link", name=re.compile("^ops")).click()
        await expect(ana.get_by_role("textbox", name="Message #ops")).to_be_visible()
        await write(bob, "**Done**, see [the page](https://example.org/a) and https://example.org/b?c=d `now`")
        await expect(ana.get_by_role("log", name="New messages")).to_have_text(
            "Bob: Done, see the page, link and link to example.org now"
        )

    assert heard + heard_by_bob == []


async def test_the_address_of_the_server_opens_the_last_room_and_the_words_about_the_connection_fit_it(
    browser: Browser, server: RunningServer
) -> None:
    async with person(browser, ignore_https_errors=True) as ana:
        await set_up(ana, server)
        await create_room(ana, "ops")
        await create_room(ana, "lobby")
        await ana.get_by_role("link", name=re.compile("^ops")).click()
        await expect(ana.get_by_role("heading", name="ops", level=1)).to_be_visible()
        await ana.goto(server.url)
        await expect(ana.get_by_role("heading", name="ops", level=1)).to_be_visible()
        await ana.set_viewport_size(PHONE)
        await ana.get_by_role("button", name="Back to rooms").click()
        await expect(ana.get_by_role("link", name=re.compile("^lobby"))).to_be_visible()

        assert ana.url == f"{server.url}/"
        for url, words in (
            (server.url, "They do not leave this machine"),
            (server.tls_url, "Signing in and invitations are protected by TLS only."),
        ):
            await ana.goto(url)
            if url == server.tls_url:
                await sign_in(ana)
            await ana.set_viewport_size(DESKTOP)
            await ana.get_by_role("button", name=re.compile("Sealed")).click()
            await expect(ana.get_by_role("dialog", name="Connection")).to_contain_text(words)
            assert ("TLS" in await ana.get_by_role("dialog").inner_text()) == (url == server.tls_url)
            await ana.keyboard.press("Escape")


async def test_people_are_found_by_any_word_and_invited_from_where_one_looks_for_them(
    browser: Browser, server: RunningServer
) -> None:
    async with person(browser) as ana, person(browser) as bob:
        await set_up(ana, server)
        await expect(ana.get_by_role("main").get_by_role("button", name="Invite people")).to_be_visible()
        await create_room(ana, "ops")
        await create_room(ana, "lobby")
        await ana.get_by_role("button", name="New", exact=True).click()
        await ana.keyboard.press("ArrowUp")
        await expect(ana.get_by_role("menuitem", name="Invite people")).to_be_focused()
        await ana.keyboard.press("Escape")
        await expect(ana.get_by_role("button", name="New", exact=True)).to_be_focused()
        await ana.get_by_role("button", name="New direct message").click()
        await expect(ana.get_by_text("Nobody else is here yet")).to_be_visible()
        await ana.get_by_role("dialog").get_by_role("button", name="Invite people").click()
        dialog = ana.get_by_role("dialog", name="Invite people to Acme")
        await dialog.get_by_label("For how many people").fill("3")
        await dialog.get_by_role("checkbox", name="lobby").check()
        await dialog.get_by_role("button", name="Create link").click()
        link = await dialog.get_by_label("Invitation link").input_value()
        code = link.rpartition("/")[2].partition("#")[0]
        assert server.request("GET", f"/invites/{code}")["rooms"] == ["lobby"]
        assert [each.uses_left for each in server.operator().perform(c.InviteList()).invites] == [3]

        await ana.keyboard.press("Escape")
        await register(bob, server, "Bob", "ops")
        await bob.get_by_role("button", name="New", exact=True).click()
        await expect(bob.get_by_role("menuitem")).to_have_count(3)
        await bob.get_by_role("menuitem", name="Write to somebody").click()
        for words in ("ruiz", "Ana R", "RUI an"):
            await bob.get_by_label("Find a person").fill(words)
            await expect(bob.get_by_role("list", name="People").get_by_role("button")).to_have_count(1)
            await expect(bob.get_by_role("button", name=re.compile("Ana Ruiz"))).to_be_visible()
        await bob.get_by_label("Find a person").fill("uiz")
        await expect(bob.get_by_text("Nobody found")).to_be_visible()
        await expect(bob.get_by_text("Who runs this server can invite people.")).to_be_visible()


async def test_an_unknown_command_is_not_sent_before_one_says_so(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await set_up(ana, server)
        await create_room(ana, "ops")
        operator = server.operator()
        room = operator.room_id("ops")
        token = operator.perform(c.BotCreate(username="roller", rooms=[room])).token
        server.request("PUT", "/commands", {"commands": [{"name": "roll"}]}, token)
        await write(ana, "/rol 2")
        await expect(ana.get_by_text("Nobody here answers to /rol, and nothing was sent.")).to_be_visible()
        await expect(ana.get_by_role("textbox", name="Message #ops")).to_have_value("/rol 2")
        await write(ana, "/roll 2")
        await expect(message(ana, "/roll 2")).to_be_visible()
        await expect(ana.get_by_text("nothing was sent")).to_have_count(0)
        await write(ana, "//shrug as they say")
        await expect(message(ana, "/shrug as they say")).to_be_visible()
        await write(ana, "/etc/hosts is gone")
        await expect(message(ana, "/etc/hosts is gone")).to_be_visible()
        await write(ana, "/me waves")
        await ana.get_by_role("button", name="Send it as a message").click()
        await expect(message(ana, "/me waves")).to_be_visible()
        await expect(ana.get_by_title("Waiting to be sent")).to_have_count(0)

        bodies = [entry.body for entry in operator.perform(c.Fetch(room=room, limit=100)).entries if entry.body]
        assert bodies == ["/roll 2", "/shrug as they say", "/etc/hosts is gone", "/me waves"]


async def test_a_used_reset_link_says_what_to_do(browser: Browser, server: RunningServer) -> None:
    server.set_up()
    link = server.operator().perform(c.UserReset(user=server.operator().user("ana").id)).url
    async with person(browser) as ana:
        for words in ("The password is set", "This link does not work any more"):
            await ana.goto(server.url)
            await ana.goto(link)
            await ana.get_by_label("New password").fill(PASSWORD)
            await ana.get_by_role("button", name="Set password").click()
            await expect(ana.get_by_role("heading", name=words)).to_be_visible()


async def test_what_is_new_looks_as_it_should(browser: Browser, server: RunningServer, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"desktop": DESKTOP, "phone": PHONE}
    async with person(browser) as ana:
        await set_up(ana, server)
        for name in ("ops", "lobby", "a-room-with-a-rather-long-name-that-somebody-thought-of"):
            await create_room(ana, name)
        for name, size in sizes.items():
            await ana.set_viewport_size(size)
            look = Look(ana, tmp_path)
            await ana.goto(server.url)
            await write(ana, "/shrug")
            await expect(ana.get_by_text("nothing was sent")).to_be_visible()
            await look.at(f"unknown-command-{name}")
            if name == "phone":
                await ana.get_by_role("button", name="Back to rooms").click()
            await ana.get_by_role("button", name="New", exact=True).click()
            await expect(ana.get_by_role("menu")).to_be_visible()
            await look.at(f"menu-{name}")
            await ana.get_by_role("menuitem", name="Write to somebody").click()
            await expect(ana.get_by_text("Nobody else is here yet")).to_be_visible()
            await look.at(f"nobody-{name}")
            await ana.get_by_role("dialog").get_by_role("button", name="Invite people").click()
            await ana.get_by_role("checkbox", name="lobby").check()
            await ana.get_by_role("button", name="Create link").click()
            await expect(ana.get_by_label("Invitation link")).to_be_visible()
            await look.at(f"invite-{name}")
            await ana.keyboard.press("Escape")
            await ana.get_by_role("button", name=re.compile("Sealed")).click()
            await look.at(f"connection-{name}")
            await ana.keyboard.press("Escape")


async def test_a_large_room_shows_its_members_in_pages(browser: Browser, server: RunningServer) -> None:
    async with person(browser) as ana:
        await ana.goto(server.url)
        await set_up(ana, server)
        await create_room(ana, "ops")
        server.crowd(ana.url.rsplit("/", 1)[-1], 1_200)
        await ana.reload()
        await ana.get_by_role("button", name=re.compile("Room details")).click()
        members = ana.get_by_role("list", name="Members").get_by_role("listitem")
        await expect(members).to_have_count(1_000)
        await expect(ana.get_by_role("heading", name="Members (1201)")).to_be_visible()
        await ana.get_by_role("button", name="Show more members").click()
        await expect(members).to_have_count(1_201)
        await expect(ana.get_by_role("button", name="Show more members")).to_have_count(0)
        panel = ana.get_by_role("complementary", name="Room details")
        await ana.keyboard.press("Escape")
        await expect(panel).to_be_visible()  # It has a place of its own.
        await ana.set_viewport_size({"width": 768, "height": 900})
        await ana.keyboard.press("Escape")
        await expect(panel).to_have_count(0)


async def test_a_tap_on_a_message_opens_its_actions_and_presses_none(browser: Browser, server: RunningServer) -> None:
    async with person(browser, size=PHONE, has_touch=True, is_mobile=True) as ana:
        await set_up(ana, server)
        await create_room(ana, "ops")
        for text in ("first", "second"):
            await write(ana, text)
            await expect(message(ana, text)).to_be_visible()
        bars = ana.get_by_role("toolbar", name="Message actions")
        await ana.mouse.move(5, 5)  # It was used to make the room, and may point at a message now.
        await expect(bars).to_have_count(0)
        for part in (0.1, 0.3, 0.5, 0.7, 0.95):
            for text in ("first", "second"):
                await ana.get_by_role("heading", name="ops", level=1).tap()
                box = await message(ana, text).bounding_box()
                assert box is not None
                await ana.touchscreen.tap(box["x"] + part * box["width"], box["y"] + box["height"] / 2)
                await expect(message(ana, text).get_by_role("toolbar", name="Message actions")).to_be_visible()
                await expect(bars).to_have_count(1)
                bar, words = await bars.bounding_box(), await message(ana, text).locator(".text").bounding_box()
                assert bar is not None
                assert words is not None
                assert bar["y"] >= words["y"] + words["height"]
        await expect(ana.locator(".reaction")).to_have_count(0)
        await expect(ana.get_by_role("dialog")).to_have_count(0)
