"""The web client's page, before anybody is signed in."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request

from securechat.rest.static import StaticFiles

INDEX = (Path(__file__).parents[2] / "web/index.html").read_text()


def request(path: str, etag: str = "") -> Request:
    headers = [(b"if-none-match", etag.encode())] if etag else []
    return Request({"type": "http", "method": "GET", "path": f"/{path}", "headers": headers, "path_params": {"path": path}})


async def test_every_page_bears_the_servers_name_and_no_markup_of_it(tmp_path: Path) -> None:
    name = "SecureChat"
    (tmp_path / "index.html").write_text(INDEX)
    files = StaticFiles(tmp_path, lambda: name)
    before = await files.respond(request(""))
    assert bytes(before.body).decode() == INDEX
    name = 'A "<b>house</b>" & more'
    etags = set()
    for path in ("", "index.html", "r/rm_1", "login"):
        page = await files.respond(request(path))
        text = bytes(page.body).decode()
        assert "<title>A &quot;&lt;b&gt;house&lt;/b&gt;&quot; &amp; more</title>" in text
        assert '<meta name="application-name" content="A &quot;&lt;b&gt;house&lt;/b&gt;&quot; &amp; more"' in text
        assert "<b>" not in text
        etags.add(page.headers["etag"])
    (etag,) = etags
    assert etag != before.headers["etag"]
    assert (await files.respond(request("", etag))).status_code == 304
    assert (await files.respond(request("", before.headers["etag"]))).status_code == 200


async def test_metrics_are_not_a_page_and_whoever_looks_for_them_is_told_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(INDEX)
    answer = await StaticFiles(tmp_path).respond(request("metrics"))
    assert (answer.status_code, b"admin_listen" in bytes(answer.body)) == (404, True)
