"""Attacks 2 and 28 in a real browser: a page of another site, and markup in everything that people write."""

from __future__ import annotations

import re
from typing import Any, Final

import httpx2 as httpx
from playwright.async_api import Browser, Page, expect

from securechat.domain import commands as c
from support.browsing import person, set_up
from support.running import RunningServer

# ── 2 ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

OPEN = """(url) => new Promise((done) => {
    const socket = new WebSocket(url, ["securechat.v1.clear"]);
    socket.onopen = () => { done("open"); socket.close(); };
    socket.onclose = (event) => done(event.code);
})"""
REFRESH = """async (url) => {
    const options = {method: "POST", credentials: "include", headers: {"Content-Type": "text/plain"}, body: '{"refresh_token":""}'};
    const found = [];
    for (const more of [{}, {mode: "no-cors"}, {headers: {"Content-Type": "application/json", "X-SecureChat-Session": "cookie"}}]) {
        try { found.push((await fetch(url, {...options, ...more})).status); } catch (error) { found.push(error.name); }
    }
    return found;
}"""


async def test_002_a_page_of_another_site_gets_nothing_by_the_victims_cookie(browser: Browser, server: RunningServer) -> None:
    gateway, refresh = f"ws://localhost:{server.http_port}/gateway", f"{server.url}/api/v1/sessions/refresh"
    async with person(browser) as ana:
        await set_up(ana, server)
        before = await ana.context.cookies()
        evil_url = f"http://127.0.0.1:{server.http_port}/evil"  # Another site than localhost.

        async def serve(route: Any) -> None:
            await route.fulfill(body="<!doctype html><title>evil</title>", content_type="text/html")

        await ana.context.route(evil_url, serve)
        evil = await ana.context.new_page()
        await evil.goto(evil_url)
        stolen, refreshed = await evil.evaluate(OPEN, gateway), await evil.evaluate(REFRESH, refresh)
        await evil.close()
        own = await ana.evaluate(OPEN, gateway)
        after = await ana.context.cookies()

    assert [each["sameSite"] for each in before] == ["Strict"]
    assert (stolen, own) == (1006, "open")
    assert refreshed == ["TypeError"] * 3, "nothing of an answer can be read, or even got"
    assert after == before, "the session was not refreshed, and so not used up"


# ── 28 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

RUNS: Final = (
    "window.evil=1",
    "window['ev'+'il']=1",
    "eval('window.evil=1')",
    "Function`window.evil=1```",
    "location='javascript:window.evil=1'",
)
MARKUP: Final = (
    "<script>@</script>", "<ScRiPt>@</sCrIpT>", "<scr<script>ipt>@</scr</script>ipt>", "<script src=data:text/javascript,@></script>",
    "<script\x0c>@</script>", "<script/x>@</script>", "<svg><script>@</script></svg>", "<img src=x onerror=@>",
    '<img src="x" onerror="@">', "<img/src=x/onerror=@>", "<IMG SRC=x OnErRoR=@>", "<img src=x onerror&#61;@>", "<svg onload=@>",
    "<svg/onload=@//", "<svg><animate onbegin=@ attributeName=x dur=1s>", "<svg><set onend=@ dur=1ms>", "<body onload=@>",
    "<iframe src=javascript:@></iframe>", "<iframe srcdoc='<script>parent.@</script>'></iframe>", "<object data=javascript:@></object>",
    "<embed src=javascript:@>", "<video onerror=@><source></video>", "<audio src=x onerror=@>", "<details open ontoggle=@>x</details>",
    "<input autofocus onfocus=@>", "<textarea autofocus onfocus=@></textarea>", "<select autofocus onfocus=@></select>",
    "<marquee onstart=@>x</marquee>", "<form><button formaction=javascript:@>x</button></form>", "<a href=javascript:@>x</a>",
    "<math><mtext></mtext><style><img src=x onerror=@></style></math>", "<noscript><p title='</noscript><img src=x onerror=@>'>",
    "<style>@import 'javascript:@';</style>", "<link rel=stylesheet href=javascript:@>", "<meta http-equiv=refresh content=0;url=javascript:@>",
    "<base href=javascript:@//>", "<x style=animation-name:y onanimationstart=@>", '"><script>@</script>', "'><img src=x onerror=@>",
    '" onmouseover="@" x="', "' autofocus onfocus='@", "`-@-`", "-->'\"/></sCript><svg onload=@>", "]]><img src=x onerror=@>",
    "&lt;script&gt;@&lt;/script&gt;", "&#60;img src=x onerror=@&#62;", "\\u003cimg src=x onerror=@\\u003e", "${@}", "{{constructor.constructor('@')()}}",
)  # fmt: skip
LINKS: Final = (
    "[x](javascript:@)", "[x](JaVaScRiPt:@)", "[x](\tjavascript:@)", "[x](java\tscript:@)", "[x](javascript&colon;@)", "[x](&#106;avascript:@)",
    "[x](%6aavascript:@)", "[x](vbscript:@)", "[x](data:text/html,<script>@</script>)", "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "![x](javascript:@)", '![x](x"onerror="@)', "[x][1]\n\n[1]: javascript:@", "<javascript:@>", '[x](https://a.example/"onmouseover="@)',
    "[<img src=x onerror=@>](https://a.example/)", "https://a.example/<img/src=x/onerror=@>", "https://a.example/'onclick='@", "[x](//a.example/@)",
    "`<img src=x onerror=@>`", "```\n</code><script>@</script>\n```", "> <img src=x onerror=@>", "**<svg onload=@>**", "@everyone<img src=x onerror=@>",
)  # fmt: skip
FIRST: Final = "the very first"
VECTORS: Final = [form.replace("@", run) for run in RUNS for form in (*MARKUP, *LINKS)]
NAMES: Final = [form.replace("@", "evil=1") for form in MARKUP if len(form) < 50 and "\x0c" not in form][:24]
INERT = """() => {
    const troubles = [];
    for (const element of document.querySelectorAll("*")) {
        for (const {name, value} of element.attributes) {
            if (name.startsWith("on") || name === "srcdoc" || name === "formaction") troubles.push(`${element.tagName} ${name}`);
            if (["href", "src", "action", "data", "xlink:href"].includes(name) && !/^(https?:|\\/|#|blob:|data:image\\/|\\.)/i.test(value))
                troubles.push(`${element.tagName} ${name}=${value.slice(0, 60)}`);
        }
        if (element.closest("article") && /^(script|img|iframe|object|embed|style|link|meta|base|form|video|audio|math|marquee|details|select)$/i.test(element.tagName))
            troubles.push(element.tagName);
    }
    return [...new Set(troubles)];
}"""


async def test_028_more_than_two_hundred_ways_of_markup_are_text_wherever_they_stand(
    browser: Browser, server: RunningServer
) -> None:
    assert len(set(VECTORS)) > 200
    dialogs: list[str] = []
    async with person(browser) as ana:
        ana.on("dialog", lambda dialog: dialogs.append(dialog.message))
        await set_up(ana, server)
        me = server.operator().user("ana").id
        room = server.room("attack", me)
        token = server.bot("writer", room)
        for name in NAMES:
            server.operator().perform(c.RoomCreate(name=name, kind="private", topic=name, members=[me]))
        bodies = ["\n\n".join(VECTORS[start : start + 15]) for start in range(0, len(VECTORS), 15)]
        with httpx.Client(trust_env=False, base_url=f"{server.url}/api/v1", headers={"Authorization": f"Bearer {token}"}) as http:
            for number, body in enumerate([FIRST, *bodies]):
                assert http.post(f"/rooms/{room}/messages", json={"cmid": f"v{number}", "body": body}).status_code == 201
            for number, name in enumerate(NAMES):  # As the name of who wrote it, which people see beside the text.
                assert http.patch("/me", json={"display_name": name}).status_code == 200
                assert (
                    http.post(f"/rooms/{room}/messages", json={"cmid": f"n{number}", "body": f"named {number}"}).status_code == 201
                )
        await ana.reload()
        rooms = ana.get_by_role("navigation", name="Rooms")
        await rooms.get_by_role("link", name=re.compile("^attack")).click()
        await expect(ana.get_by_role("article").filter(has_text=f"named {len(NAMES) - 1}")).to_be_visible()
        seen = await everything(ana)
        assert await ana.evaluate(INERT) == []
        for name in NAMES[:4]:
            await rooms.get_by_role("link").filter(has_text=re.compile(re.escape(name))).first.click()
            await expect(ana.get_by_role("heading", level=1)).to_have_text(re.compile(re.escape(name[:10])))
            assert await ana.evaluate(INERT) == []
        listed = await rooms.inner_text()
        assert await ana.evaluate("window.evil") is None

    assert dialogs == []
    assert all(name in listed for name in NAMES)
    shown = " ".join(seen.split())
    for form in MARKUP:  # Nothing was taken out either: what somebody wrote is what the others read.
        vector = form.replace("@", RUNS[0])
        assert "`" in vector or " ".join(vector.split()) in shown, vector


async def everything(page: Page) -> str:
    """Scroll to the beginning of a room, and return all that was to be read on the way."""
    seen = ""
    await page.get_by_role("feed", name="Messages").hover()
    for _ in range(200):
        seen += await page.locator("main").inner_text()
        if FIRST in seen:
            return seen
        await page.mouse.wheel(0, -1_500)
        await page.wait_for_timeout(20)
    raise AssertionError("the beginning was not reached")
