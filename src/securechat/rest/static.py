"""The web client's files: read once at start, compressed once, served with their headers.

They are few and small; a file that is not in the folder cannot be asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
    " connect-src 'self'; worker-src 'self'; manifest-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_PAGE: Final = "index.html"
_ELSEWHERE: Final = {"metrics": "Metrics are on the admin socket, and where `admin_listen` says."}
"""What people look for at the public door, and is not there."""
_NAME: Final = "SecureChat"
_NAMED: Final = ((b"<title>", b"</title>"), (b'<meta name="application-name" content="', b'"'))
"""Where the page says what the server is called: what stands before and after the name."""
_FOREVER: Final = "public, max-age=31536000, immutable"
_COMPRESSIBLE: Final = ("text/", "application/javascript", "application/json", "image/svg", "application/manifest")


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes | None
    media_type: str
    etag: str
    cache: str


class StaticFiles:
    """The built web client.

    Args:
        folder: Where it was built; may be missing, then a page says how to build it.
        server_name: What people call this server: the page bears the name before anybody has signed in.
    """

    def __init__(self, folder: Path, server_name: Callable[[], str] = lambda: _NAME) -> None:
        self._server_name = server_name
        self._named: tuple[str, _File] | None = None
        self._files: dict[str, _File] = {}
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                self._files[name] = _read(path, cache=_FOREVER if name.startswith("assets/") else "no-cache")

    @property
    def built(self) -> bool:
        """Whether there is a web client."""
        return _PAGE in self._files

    def _page(self, page: _File) -> _File:
        """Return the page with this server's name in it."""
        name = self._server_name()
        if self._named is None or self._named[0] != name:
            shown = html.escape(name).encode()
            body = page.body
            for before, after in _NAMED:
                body = body.replace(before + _NAME.encode() + after, before + shown + after)
            self._named = (name, _file(body, page.media_type, cache=page.cache))
        return self._named[1]

    async def respond(self, request: Request) -> Response:
        """Answer with a file; unknown paths without a dot are the client's own pages."""
        name = request.path_params.get("path", "")
        file = self._files.get(name)
        if file is None and "." not in name.rpartition("/")[2] and name not in _ELSEWHERE:
            file = self._files.get(_PAGE)
        if file is not None and file is self._files.get(_PAGE):
            file = self._page(file)
        if file is None:
            text = "Not found." if self.built else "The web client is not built: run `make web`."
            text = _ELSEWHERE.get(name, text)
            return Response(text + "\n", status_code=404, media_type="text/plain")
        headers = {
            "Cache-Control": file.cache, "ETag": file.etag, "Vary": "Accept-Encoding", "Content-Security-Policy": CSP,
            "Cross-Origin-Opener-Policy": "same-origin", "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        }  # fmt: skip
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(file.packed, media_type=file.media_type, headers=headers | {"Content-Encoding": "gzip"})
        return Response(file.body, media_type=file.media_type, headers=headers)


def _read(path: Path, *, cache: str) -> _File:
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if media_type == "text/javascript":
        media_type = "application/javascript"
    return _file(path.read_bytes(), media_type, cache=cache)


def _file(body: bytes, media_type: str, *, cache: str) -> _File:
    packed = gzip.compress(body, 9, mtime=0) if media_type.startswith(_COMPRESSIBLE) and len(body) > 512 else None
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return _File(body, packed, media_type, etag, cache)
