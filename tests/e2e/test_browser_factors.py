"""Second factors in a real Chromium, with its virtual authenticator for passkeys."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pyotp
import pytest
from playwright.async_api import Browser, Locator, Page, ViewportSize, expect

from securechat.domain import commands as c
from support.running import PASSWORD, RunningServer
from support.totp import earlier_code

ROOT = Path(__file__).parents[2]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
SIZES: list[ViewportSize] = [{"width": 360, "height": 740}, {"width": 1920, "height": 1080}]
NEW = "another horse"


async def page_of(browser: Browser, **more: Any) -> Page:
    context = await browser.new_context(**more)
    page = await context.new_page()
    page.set_default_timeout(10_000)
    return page


async def with_authenticator(page: Page) -> Any:
    """Give the page's browser an authenticator that always says yes; return the session that controls it."""
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
        "isUserVerified": True, "automaticPresenceSimulation": True,
    }  # fmt: skip
    await devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return devtools


async def sign_in(page: Page, server: RunningServer, password: str = PASSWORD) -> None:
    await page.goto(server.url + "/login")
    await page.get_by_label("Username").fill("ana")
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in", exact=True).click()


async def open_settings(page: Page) -> Locator:
    await page.get_by_role("button", name="Settings").click()
    section = page.get_by_role("region", name="Sign-in and security")
    await expect(section.get_by_role("button", name="Change password")).to_be_visible()
    return section


async def set_up_app(page: Page) -> tuple[pyotp.TOTP, list[str]]:
    """Follow the dialog; return what the phone has, and the recovery codes."""
    await expect(page.get_by_role("img", name="QR code for the authenticator app")).to_be_visible()
    secret = re.sub(r"\s", "", await page.locator("code.secret").inner_text())
    totp = pyotp.TOTP(secret)
    await page.get_by_label("Code", exact=True).fill(earlier_code(totp))
    await page.get_by_role("button", name="Turn on").click()
    items = page.get_by_role("list", name="Recovery codes").get_by_role("listitem")
    await expect(items).to_have_count(10)
    codes = await items.all_inner_texts()
    await page.get_by_role("button", name="I kept them").click()
    return totp, codes


def chat_of(page: Page) -> Locator:
    return page.get_by_role("button", name="Settings")


async def log_out(page: Page) -> None:
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()


async def test_an_authenticator_app_is_set_up_used_and_turned_off(browser: Browser, server: RunningServer) -> None:
    server.set_up()
    page = await page_of(browser)
    await sign_in(page, server)
    section = await open_settings(page)
    await section.get_by_role("button", name="Set up app").click()
    totp, codes = await set_up_app(page)
    await expect(section.get_by_text("10 left")).to_be_visible()
    await log_out(page)

    await sign_in(page, server)
    await expect(page.get_by_role("heading", name="One more step")).to_be_visible()
    await expect(page.get_by_label("Code")).to_be_focused()
    await page.get_by_label("Code").fill("000000")
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_text("The code is wrong or was used.")).to_be_visible()
    await page.get_by_label("Code").fill(totp.now())
    await page.get_by_role("button", name="Continue").click()
    section = await open_settings(page)
    await log_out(page)
    await sign_in(page, server)
    await page.get_by_label("Code").fill(codes[0])
    await page.get_by_role("button", name="Continue").click()
    section = await open_settings(page)
    await expect(section.get_by_text("9 left")).to_be_visible()
    await section.get_by_role("button", name="Turn off app").click()
    await page.get_by_role("dialog", name="Turn off the app").get_by_role("button", name="Turn off").click()
    await expect(section.get_by_role("button", name="Set up app")).to_be_visible()
    await page.context.close()


async def test_a_passkey_is_added_signs_in_and_is_removed(browser: Browser, server: RunningServer) -> None:
    server.set_up()
    page = await page_of(browser)
    devtools = await with_authenticator(page)
    await sign_in(page, server)
    section = await open_settings(page)
    await section.get_by_role("button", name="Add passkey").click()
    await expect(page.get_by_role("dialog", name="Recovery codes")).to_be_visible()
    await page.get_by_role("button", name="I kept them").click()
    await expect(section.get_by_text(re.compile("^Passkey · made"))).to_be_visible()
    await section.get_by_role("button", name="Add passkey").click()
    await expect(page.get_by_text("This device has a passkey for your account already.")).to_be_visible()
    await page.get_by_role("button", name="Dismiss").click()
    await log_out(page)

    await page.get_by_role("button", name="Use a passkey").click()
    section = await open_settings(page)
    await expect(section.get_by_text(re.compile("^Passkey · last used"))).to_be_visible()
    await log_out(page)
    await sign_in(page, server)
    await expect(page.get_by_role("heading", name="One more step")).to_be_visible()
    await page.get_by_role("button", name="Use a passkey").click()
    section = await open_settings(page)
    await section.get_by_role("button", name=re.compile("^Remove passkey")).click()
    await page.get_by_role("dialog", name="Remove passkey").get_by_role("button", name="Remove passkey").click()
    await expect(section.get_by_text(re.compile("^Passkey · last used"))).to_have_count(0)
    await log_out(page)
    await page.get_by_role("button", name="Use a passkey").click()
    await expect(page.get_by_text("This passkey does not work here.")).to_be_visible()
    await devtools.detach()
    await page.context.close()


async def test_a_password_is_changed_after_confirming_and_other_devices_are_out(browser: Browser, server: RunningServer) -> None:
    other = server.set_up()
    page = await page_of(browser)
    await sign_in(page, server)
    section = await open_settings(page)
    await age_confirmations(server)
    await section.get_by_role("button", name="Change password").click()
    dialog = page.get_by_role("dialog", name="Change password")
    await dialog.get_by_label("Current password").fill(PASSWORD)
    await dialog.get_by_label("New password").fill(NEW)
    await dialog.get_by_role("button", name="Change password").click()
    question = page.get_by_role("dialog", name="Confirm that it is you")
    await question.get_by_label("Your password").fill("not the password")
    await question.get_by_role("button", name="Confirm").click()
    await expect(question.get_by_text("The password is wrong.")).to_be_visible()
    await question.get_by_label("Your password").fill(PASSWORD)
    await question.get_by_role("button", name="Confirm").click()
    await expect(page.get_by_text("Password changed. Your other devices are signed out.")).to_be_visible()
    server.request("GET", "/me", token=other["access_token"], status=401)
    await page.reload()
    await expect(chat_of(page)).to_be_visible()
    server.post("/sessions", {"username": "ana", "password": NEW})
    await page.context.close()


async def age_confirmations(server: RunningServer) -> None:
    """Let everybody have logged in an hour ago."""

    def age() -> None:
        database = sqlite3.connect(server.data / "securechat.db", timeout=10)
        with database:
            database.execute("UPDATE devices SET confirmed_at = confirmed_at - 3600000")
        database.close()

    await asyncio.to_thread(age)


async def test_who_has_to_enrol_is_led_through_it(browser: Browser, server: RunningServer) -> None:
    server.set_up()
    page = await page_of(browser)
    await sign_in(page, server)
    await expect(chat_of(page)).to_be_visible()
    server.stop()
    server.config.write_text(json.dumps(json.loads(server.config.read_text()) | {"second_factor_roles": ["owner"]}))
    server.start()
    await expect(page.get_by_role("heading", name="Set up a second factor")).to_be_visible(timeout=30_000)
    await age_confirmations(server)
    await page.reload()
    await page.get_by_role("button", name="Use an authenticator app").click()
    await expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
    await sign_in(page, server)  # It was long ago: once more, and then
    await page.get_by_role("button", name="Use an authenticator app").click()
    await set_up_app(page)
    await expect(chat_of(page)).to_be_visible()
    fresh = await page_of(browser)
    await with_authenticator(fresh)
    server.operator().perform(c.FactorClear(user=server.operator().user("ana").id))
    await expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
    await sign_in(fresh, server)
    await expect(fresh.get_by_role("heading", name="Set up a second factor")).to_be_visible()
    await fresh.get_by_role("button", name="Use a passkey").click()
    await fresh.get_by_role("button", name="I kept them").click()
    await expect(chat_of(fresh)).to_be_visible()
    await page.context.close()
    await fresh.context.close()


@pytest.mark.parametrize("size", SIZES, ids=["phone", "wide"])
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing(browser: Browser, server: RunningServer, size: ViewportSize, theme: Any, tmp_path: Path) -> None:
    server.set_up()
    page = await page_of(browser, viewport=size, color_scheme=theme, reduced_motion="reduce")
    await with_authenticator(page)

    async def look(where: str) -> None:
        await page.evaluate(AXE.read_text() + ";0")
        found = await page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.target.join(' '))]))")
        await page.screenshot(path=tmp_path / f"{where}.png")
        assert found == [], where
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), where

    await page.goto(server.url + "/login")
    await expect(page.get_by_role("button", name="Use a passkey")).to_be_visible()
    await look("login")
    await sign_in(page, server)
    section = await open_settings(page)
    await section.get_by_role("button", name="Add passkey").click()
    await expect(page.get_by_role("dialog", name="Recovery codes")).to_be_visible()
    await look("codes")
    await page.get_by_role("button", name="I kept them").click()
    await section.get_by_role("button", name="Set up app").click()
    await expect(page.get_by_role("dialog", name="Authenticator app")).to_be_visible()
    await look("app")
    await page.get_by_role("button", name="Cancel").click()
    await section.scroll_into_view_if_needed()
    await look("security")
    await age_confirmations(server)
    await section.get_by_role("button", name="Change password").click()
    await look("password")
    await page.get_by_label("Current password").fill(PASSWORD)
    await page.get_by_label("New password").fill(NEW)
    await page.get_by_role("dialog", name="Change password").get_by_role("button", name="Change password").click()
    await expect(page.get_by_role("dialog", name="Confirm that it is you")).to_be_visible()
    await look("confirm")
    server.stop()
    server.config.write_text(json.dumps(json.loads(server.config.read_text()) | {"second_factor_roles": ["owner"]}))
    server.start()
    await page.context.clear_cookies()
    await sign_in(page, server)
    await expect(page.get_by_role("heading", name="One more step")).to_be_visible()
    await look("code")
    server.operator().perform(c.FactorClear(user=server.operator().user("ana").id))
    await sign_in(page, server)
    await expect(page.get_by_role("heading", name="Set up a second factor")).to_be_visible()
    await look("enrol")
    await page.context.close()
