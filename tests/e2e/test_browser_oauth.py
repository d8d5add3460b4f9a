"""Signing in with a real provider, and letting apps in, in a real Chromium."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pyotp
import pytest
from playwright.async_api import Browser, Page, Route, ViewportSize, expect

from securechat.domain import commands as c
from support.browsing import AXE
from support.oauth import App, change, s256
from support.provider import RunningProvider
from support.running import PASSWORD, SECURECHAT, RunningServer, clean_environment

SIZES: list[ViewportSize] = [{"width": 360, "height": 740}, {"width": 1280, "height": 800}]


@asynccontextmanager
async def person(browser: Browser, **more: Any) -> AsyncIterator[Page]:
    context = await browser.new_context(**more)
    page = await context.new_page()
    page.set_default_timeout(10_000)
    yield page
    await context.close()


@pytest.fixture
def provider(server: RunningServer) -> Iterator[RunningProvider]:
    """Run a provider, and a server that knows it."""
    found = RunningProvider()
    with found.running(server.url):
        server.set_up()
        server.stop()
        server.config.write_text(json.dumps(json.loads(server.config.read_text()) | {"oidc": [found.settings()]}))
        server.start()
        yield found


async def at_provider(page: Page, name: str) -> None:
    """Sign in at the provider, and let SecureChat know."""
    await page.get_by_placeholder("Enter any login").fill(name)
    await page.get_by_placeholder("and password").fill("x")
    await page.get_by_role("button", name="Sign-in").click()
    await page.get_by_role("button", name="Continue").click()


async def sign_in(page: Page, server: RunningServer, path: str = "/login") -> None:
    await page.goto(server.url + path)
    await page.get_by_label("Username").fill("ana")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()


async def is_in(page: Page) -> None:
    await expect(page.get_by_role("button", name="Settings")).to_be_visible()


async def link(page: Page, name: str) -> None:
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("button", name="Link an account: Acme").click()
    await at_provider(page, name)
    await is_in(page)


async def test_a_new_person_comes_with_an_invitation_and_signs_in_again(
    browser: Browser, server: RunningServer, provider: RunningProvider
) -> None:
    code = server.operator().perform(c.InviteCreate()).code
    async with person(browser) as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        await page.goto(f"{server.url}/i/{code}")
        await page.get_by_role("button", name="Join with Acme").click()
        await at_provider(page, "bob")
        await expect(page.get_by_label("Username")).to_have_value("bob")
        await page.get_by_role("button", name="Create account").click()
        await is_in(page)
        await page.reload()
        await is_in(page)
        assert not [url for url in requests if "sc_ref_" in url or "eyJ" in url], "no token is part of an address"
        assert await page.evaluate("sessionStorage.length") == 0
    async with person(browser) as page:
        await page.goto(f"{server.url}/login")
        await page.get_by_role("button", name="Sign in with Acme").click()
        await at_provider(page, "bob")
        await is_in(page)
        assert urlsplit(page.url).query == ""
    assert provider.issuer


async def test_056_an_email_or_a_name_links_nothing_and_a_new_subject_is_somebody_else(
    browser: Browser, server: RunningServer, provider: RunningProvider
) -> None:
    async with person(browser) as page:
        await page.goto(f"{server.url}/login")
        await page.get_by_role("button", name="Sign in with Acme").click()
        await at_provider(page, "ana")
        await expect(page.get_by_role("heading", name="No account here yet")).to_be_visible()
    async with person(browser) as page:
        await sign_in(page, server)
        await is_in(page)
        await link(page, "ana")
    change(server, "UPDATE externals SET subject = 'sub-of-somebody-before'")
    async with person(browser) as page:
        await page.goto(f"{server.url}/login")
        await page.get_by_role("button", name="Sign in with Acme").click()
        await at_provider(page, "ana")
        await expect(page.get_by_role("heading", name="No account here yet")).to_be_visible()
    change(server, "UPDATE externals SET subject = 'sub-ana', issuer = 'https://other.example'")
    async with person(browser) as page:
        await page.goto(f"{server.url}/login")
        await page.get_by_role("button", name="Sign in with Acme").click()
        await at_provider(page, "ana")
        await expect(page.get_by_role("heading", name="No account here yet")).to_be_visible()
    assert provider.issuer


async def test_a_linked_account_opens_the_account_after_its_second_factor_and_is_unlinked(
    browser: Browser, server: RunningServer, provider: RunningProvider
) -> None:
    session = server.post("/sessions", {"username": "ana", "password": PASSWORD})
    async with person(browser) as page:
        await sign_in(page, server)
        await is_in(page)
        await link(page, "carl")
    begun = server.post("/factors/totp:begin", {}, session["access_token"])
    totp = pyotp.TOTP(begun["secret"])
    server.post("/factors/totp", {"ticket": begun["ticket"], "code": totp.at(int(time.time()) - 30)}, session["access_token"])
    async with person(browser) as page:
        await page.goto(f"{server.url}/login")
        await page.get_by_role("button", name="Sign in with Acme").click()
        await at_provider(page, "carl")
        await expect(page.get_by_role("heading", name="One more step")).to_be_visible()
        await page.get_by_label("Code").fill("000000")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_text("The code is wrong or was used.")).to_be_visible()
        await page.get_by_label("Code").fill(totp.now())
        await page.get_by_role("button", name="Continue").click()
        await is_in(page)
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_role("button", name="Unlink Acme").click()
        await expect(page.get_by_role("button", name="Unlink Acme")).to_have_count(0)
    assert provider.issuer


async def test_055_an_answer_with_another_state_or_in_another_tab_or_twice_finishes_nothing(
    browser: Browser, server: RunningServer, provider: RunningProvider
) -> None:
    session = server.post("/sessions", {"username": "ana", "password": PASSWORD})
    async with person(browser) as page:
        await sign_in(page, server)
        await is_in(page)
        await link(page, "carl")
    async with person(browser) as page:
        answers: list[str] = []
        page.on("request", lambda request: answers.append(request.url) if "/oidc/acme?" in request.url else None)
        await page.route("**/providers/acme/finish", lambda route: route.abort())
        await page.goto(f"{server.url}/login")
        begun: list[dict[str, str]] = []

        async def note(route: Route) -> None:
            response = await route.fetch()
            begun.append(await response.json())
            await route.fulfill(response=response)

        await page.route("**/providers/acme/begin", note)
        await page.get_by_role("button", name="Sign in with Acme").click()
        await at_provider(page, "carl")
        await expect(page.get_by_text("The server cannot be reached.")).to_be_visible()
        away = begun[0]
        stolen = {name: values[0] for name, values in parse_qs(urlsplit(answers[0]).query).items()}
        kept = json.dumps(
            {
                "provider": "acme", "state": away["state"], "ticket": away["ticket"], "what": "login", "invitation": "",
                "back": "/login",
            }
        )  # fmt: skip
        refused = page.get_by_text("This page belongs to no sign-in that was begun in this tab.")
        await page.goto(answers[0])  # What was kept is taken once.
        await expect(refused).to_be_visible()
        for query in (stolen | {"state": "another"}, {"code": stolen["code"], "iss": stolen["iss"]}):
            await page.evaluate("kept => sessionStorage.setItem('securechat-away', kept)", kept)
            await page.goto(f"{server.url}/oidc/acme?{urlencode(query)}")
            await expect(refused).to_be_visible()
    async with person(browser) as victim:
        await victim.goto(answers[0])
        await expect(victim.get_by_text("This page belongs to no sign-in")).to_be_visible()
    body = {"ticket": away["ticket"], "state": stolen["state"], "code": stolen["code"], "iss": stolen["iss"]}
    for wrong in ({"state": "another"}, {"ticket": "x"}, {"state": ""}):
        server.post("/providers/acme/finish", body | wrong, status=403)
    server.post(
        "/externals/acme/finish", body, session["access_token"], status=403
    )  # A sign-in of somebody else links nothing here.
    back = server.post("/providers/acme/finish", body)
    assert back["known"]
    server.post("/providers/acme/finish", body, status=403)
    server.post("/accounts/provider", {"ticket": away["ticket"], "username": "eve"}, status=403)
    assert server.post("/sessions/provider", {"ticket": back["ticket"]})["user"]["username"] == "ana"
    server.post("/sessions/provider", {"ticket": back["ticket"]}, status=403)
    fresh = server.post("/providers/acme/begin", {})
    server.post("/providers/acme/begin", {"origin": "https://evil.example"}, status=400)
    mixed = body | {"ticket": fresh["ticket"], "state": fresh["state"], "iss": "https://evil.example"}
    server.post("/providers/acme/finish", mixed, status=401)
    again = server.post("/providers/acme/begin", {})
    server.post("/providers/acme/finish", body | {"ticket": again["ticket"], "state": again["state"]}, status=401)
    assert provider.issuer


async def test_the_last_way_in_stays(browser: Browser, server: RunningServer, provider: RunningProvider) -> None:
    code = server.operator().perform(c.InviteCreate()).code
    async with person(browser) as page:
        await page.goto(f"{server.url}/i/{code}")
        await page.get_by_role("button", name="Join with Acme").click()
        await at_provider(page, "dora")
        await page.get_by_role("button", name="Create account").click()
        await is_in(page)
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_role("button", name="Unlink Acme").click()
        await expect(page.get_by_text("This is your only way in.")).to_be_visible()
    assert provider.issuer


async def test_an_app_is_let_in_or_not(browser: Browser, server: RunningServer) -> None:
    owner = server.set_up()["access_token"]
    app = App(server, owner, redirect_uris=[f"{server.url}/back"])
    request = app.request(redirect_uri=f"{server.url}/back", scope="rooms:read messages:write")
    async with person(browser) as page:
        await sign_in(page, server, f"/oauth/authorize?{urlencode(request)}")  # One is asked to sign in first, and goes on.
        await expect(page.get_by_role("heading", name="Let Poll bot in?")).to_be_visible()
        items = page.get_by_role("list", name="What the app may do").get_by_role("listitem")
        await expect(items).to_have_count(2)
        async with page.expect_navigation(url="**/back?*"):
            await page.get_by_role("button", name="Let it in").click()
        answer = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
        assert (answer["state"], answer["iss"]) == ("st", server.url)
        status, tokens = app.ask(app.form(answer["code"], redirect_uri=f"{server.url}/back"))
        assert (status, tokens["scope"]) == (200, "rooms:read messages:write")
        await page.goto(f"{server.url}/oauth/authorize?{urlencode(request)}")
        async with page.expect_navigation(url="**/back?*"):
            await page.get_by_role("button", name="No", exact=True).click()
        assert "error=access_denied" in page.url
        await page.goto(f"{server.url}/oauth/authorize?{urlencode(request | {'redirect_uri': 'https://evil.example/'})}")
        await expect(page.get_by_role("heading", name="This app cannot be let in")).to_be_visible()
        await page.goto(f"{server.url}/")
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_role("button", name="Let out Poll bot").click()
        await expect(page.get_by_role("button", name="Let out Poll bot")).to_have_count(0)
        server.request("GET", "/rooms", token=tokens["access_token"], status=401)
        await page.get_by_label("Name of a new token").fill("script")
        await page.get_by_role("button", name="Create token").click()
        token = await page.get_by_label("Your new token").input_value()
        assert server.request("GET", "/me", token=token)["user"]["username"] == "ana"
        await page.get_by_role("button", name="Revoke script").click()
        await expect(page.get_by_role("button", name="Revoke script")).to_have_count(0)
        server.request("GET", "/me", token=token, status=401)


async def test_a_terminal_is_signed_in_by_its_code(browser: Browser, server: RunningServer, tmp_path: Path) -> None:
    session = server.set_up()
    room = server.room("ops", session["user"]["id"])
    environment = clean_environment(SECURECHAT_PROFILE=str(tmp_path / "profile.json"))

    async def run(*words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            SECURECHAT, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment, cwd=tmp_path
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    login = await asyncio.create_subprocess_exec(
        SECURECHAT, "login", "--device", server.url, stdout=asyncio.subprocess.PIPE, env=environment | {"PYTHONUNBUFFERED": "1"}
    )
    assert login.stdout is not None
    shown = (await login.stdout.readline()).decode()
    code = re.findall(r"[A-Z]{4}-[A-Z]{4}", shown)[0]
    async with person(browser) as page:
        await sign_in(page, server, "/device")
        await page.get_by_label("Code of the device").fill(code.lower())
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_role("heading", name="Let SecureChat in a terminal in?")).to_be_visible()
        await page.get_by_role("button", name="Let it in").click()
        await expect(page.get_by_role("heading", name="The device is in")).to_be_visible()
    out, _ = await login.communicate()
    assert login.returncode == 0
    assert "Signed in" in out.decode()
    for words in (("whoami",), ("send", "ops", "from the terminal")):
        status, said = await run(*words)
        assert status == 0, said
    page_ = server.request("GET", f"/rooms/{room}/entries", token=session["access_token"])
    assert "from the terminal" in {entry.get("body") for entry in page_["entries"]}
    assert "forbidden" in (await run("token", "create", "x", "--scope", "profile"))[1]
    assert (await run("logout"))[0] == 0


@pytest.mark.parametrize("size", SIZES, ids=["phone", "desktop"])
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing(
    browser: Browser, server: RunningServer, provider: RunningProvider, size: ViewportSize, theme: Any, tmp_path: Path
) -> None:
    async def look(where: str) -> None:
        await page.evaluate(AXE.read_text() + ";0")
        found = await page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.target.join(' '))]))")
        await page.screenshot(path=tmp_path / f"{where}-{size['width']}-{theme}.png")
        assert found == [], where
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), where

    async with person(browser, viewport=size, color_scheme=theme, reduced_motion="reduce") as page:
        await page.goto(f"{server.url}/login")
        await expect(page.get_by_role("button", name="Sign in with Acme")).to_be_visible()
        await look("login")
        code = server.operator().perform(c.InviteCreate()).code
        await page.goto(f"{server.url}/i/{code}")
        await expect(page.get_by_role("button", name="Join with Acme")).to_be_visible()
        await look("invite")
        await page.goto(f"{server.url}/oidc/acme?code=x&state=y")
        await expect(page.get_by_role("heading", name="That did not work")).to_be_visible()
        await look("failed")
        await sign_in(page, server)
        await is_in(page)
        owner = server.post("/sessions", {"username": "ana", "password": PASSWORD})["access_token"]
        app = App(server, owner)
        await page.goto(f"{server.url}/oauth/authorize?{urlencode(app.request())}")
        await expect(page.get_by_role("button", name="Let it in")).to_be_visible()
        await look("consent")
        await page.goto(f"{server.url}/oauth/authorize?client_id=none")
        await expect(page.get_by_role("heading", name="This app cannot be let in")).to_be_visible()
        await look("consent-refused")
        await page.goto(f"{server.url}/device")
        await expect(page.get_by_label("Code of the device")).to_be_visible()
        await look("device")
        app.tokens()
        await page.goto(f"{server.url}/")
        await page.get_by_role("button", name="Settings").click()
        section = page.get_by_role("region", name="Apps and tokens")
        await expect(section.get_by_role("button", name="Let out Poll bot")).to_be_visible()
        await section.scroll_into_view_if_needed()
        await look("apps")
        await page.get_by_role("region", name="Sign-in and security").scroll_into_view_if_needed()
        await look("security")
    assert s256("x")
