"""People in real browsers: Chromium, steps that many tests take, and a look at pages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, expect

from securechat.domain import commands as c
from support.running import PASSWORD, RunningServer

ROOT = Path(__file__).parents[2]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 740}
WIDE: ViewportSize = {"width": 1920, "height": 1080}
# What sticks out at a side, and words that are cut without "…".
LAYOUT = """() => {
    const troubles = [];
    if (document.documentElement.scrollWidth > innerWidth) troubles.push("the page scrolls sideways");
    const modal = document.querySelector("dialog:modal");
    for (const element of (modal ?? document).querySelectorAll("button, a, input, textarea, h1, h2, h3, p, label, li")) {
        const box = element.getBoundingClientRect();
        if (!box.width || !box.height || element.closest(".hidden")) continue;
        const what = `${element.tagName} ${element.className} ${element.textContent.slice(0, 40)}`;
        if (box.left < -0.5 || box.right > innerWidth + 0.5) troubles.push(`outside: ${what}`);
        const style = getComputedStyle(element);
        const cuts = style.overflowX !== "visible" && style.textOverflow !== "ellipsis" && element.tagName !== "INPUT";
        if (cuts && element.scrollWidth > element.clientWidth + 1) troubles.push(`cut: ${what}`);
    }
    return troubles;
}"""


@asynccontextmanager
async def person(browser: Browser, *, size: ViewportSize = DESKTOP, **more: Any) -> AsyncIterator[Page]:
    """Give a browser of one's own; what the page breaks or the policy refuses fails the test."""
    context: BrowserContext = await browser.new_context(viewport=size, **more)
    context.set_default_timeout(10_000)
    troubles: list[str] = []
    context.on("weberror", lambda trouble: troubles.append(str(trouble.error)))
    context.on(
        "console",
        lambda message: (
            troubles.append(message.text) if "Content Security Policy" in message.text or "TrustedHTML" in message.text else None
        ),
    )
    yield await context.new_page()
    assert troubles == []
    await context.close()


async def set_up(page: Page, server: RunningServer, *, pinned: bool = True) -> None:
    """Go through the setup link; not `pinned` without the keys that it names."""
    link = server.banner.split("Setup")[1].split()[0]
    await page.goto(link if pinned else f"{link.partition('#')[0]}#t={server.setup_token}")
    await page.get_by_label("Name of the server").fill("Acme")
    await page.get_by_label("Your name").fill("Ana Ruiz")
    await page.get_by_label("Username").fill("ana")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Create server").click()
    await expect(page.get_by_role("button", name="Settings")).to_be_visible()


async def create_room(page: Page, name: str) -> None:
    await page.get_by_role("button", name="New", exact=True).click()
    await page.get_by_role("menuitem", name="Create room").click()
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


class Look:
    """Looks at a page in both themes: with axe, at its layout, and with a picture for people."""

    def __init__(self, page: Page, folder: Path) -> None:
        self._page = page
        self._folder = folder

    async def at(self, where: str) -> None:
        page = self._page
        for theme in ("light", "dark"):
            await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            if not await page.evaluate("'axe' in window"):
                await page.evaluate(AXE.read_text() + ";0")
            await page.screenshot(path=self._folder / f"{where}-{theme}.png")
            found = await page.evaluate(
                "axe.run({rules: {'target-size': {enabled: true}}})"
                ".then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.target.join(' '))]))"
            )
            assert found == [], (where, theme)
        assert await page.evaluate(LAYOUT) == [], where
