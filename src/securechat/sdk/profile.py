"""Where the server is and who one is: from arguments, the environment, or the profile that `securechat login` wrote."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit

import httpx2 as httpx
import msgspec

from securechat.domain import commands as c
from securechat.domain.secret import MaskedRepr, Secret, encode_hook
from securechat.errors import GrantRefused, Unauthorized
from securechat.program import program
from securechat.sdk.errors import LoginRequired, to_error

EARLY_S: Final = 60
"""An access token is renewed this long before it ends."""
_PATHS: Final = {
    c.SessionCreate: "/sessions",
    c.SessionRefresh: "/sessions/refresh",
    c.AccountRegister: "/accounts",
    c.SetupComplete: "/setup",
    c.PasswordReset: "/password-reset",
    c.PasskeyChallenge: "/passkeys:challenge",
    c.SessionPasskey: "/sessions/passkey",
    c.TotpBegin: "/factors/totp:begin",
    c.TotpConfirm: "/factors/totp",
    c.ProviderBegin: "/providers/{provider}/begin",
    c.ProviderFinish: "/providers/{provider}/finish",
    c.SessionProvider: "/sessions/provider",
    c.AccountProvider: "/accounts/provider",
}
"""Where a command that needs no connection stands in REST; names in braces are fields of it."""
_GETS: Final = {c.InviteGet: "/invites/{code}", c.ProviderList: "/providers", c.Me: "/me"}
"""The same of those that only read."""
_FORMS: Final = {c.OauthToken: "/oauth/token", c.OauthDevice: "/oauth/device", c.OauthRevoke: "/oauth/revoke"}
TERMINAL: Final = "securechat-terminal"
"""Client id of the terminal, which every server knows."""


class Profile(MaskedRepr, msgspec.Struct, kw_only=True):
    """A signed-in device, as kept on disk (mode 0600)."""

    __secrets__ = ("refresh_token",)

    url: str
    username: str = ""
    device: str = ""
    refresh_token: str = ""
    ca: str = ""
    app: str = ""
    """Client id, when somebody let this terminal in from elsewhere (`login --device`); empty for a session of their own."""


def profile_path() -> Path:
    """Return where the profile is: `SECURECHAT_PROFILE`, or in the user's data folder."""
    if given := os.environ.get("SECURECHAT_PROFILE"):
        return Path(given)
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "securechat" / "profile.json"


def load_profile(path: Path | None = None) -> Profile:
    """Read the profile.

    Raises:
        LoginRequired: There is none.
    """
    path = path or profile_path()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except (OSError, msgspec.DecodeError) as error:
        raise LoginRequired(f"Not signed in. Run: {program()} login URL") from error


def save_profile(profile: Profile, path: Path | None = None) -> None:
    """Write the profile, whole or not at all: a lost refresh token is a lost session."""
    path = path or profile_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(profile)))
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def check_url(url: str) -> str:
    """Return the server's URL without a slash at the end.

    Raises:
        ValueError: Not http(s), or http to another machine: passwords do not travel in the clear.
    """
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError(f"{url} is not the URL of a server.")
    if parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("http:// is for this machine only; use https://.")
    return f"{parts.scheme}://{parts.netloc}"


def tls_context(url: str, ca: str) -> ssl.SSLContext | None:
    """Return the TLS settings for a server: the system's authorities, or the one CA given."""
    if not url.startswith("https"):
        return None
    context = ssl.create_default_context(cafile=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


async def ask_openly(url: str, command: c.Command, ca: str = "", *, token: str = "") -> Any:
    """Perform a command that needs no connection, over REST, and return its reply. Those of no account need no token.

    Raises:
        ChatError: The server refused.
        OSError: The server cannot be reached.
    """
    fields = _fields(command)
    path = (_GETS | _PATHS)[type(command)]
    for name in re.findall(r"{(\w+)}", path):
        path = path.replace(f"{{{name}}}", quote(fields.pop(name), safe=""))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if type(command) in _GETS:
        answer = await _send(url, ca, "GET", f"/api/v1{path}", headers=headers)
    else:
        answer = await _send(url, ca, "POST", f"/api/v1{path}", json=fields, headers=headers)
    if answer.status_code >= 400:
        raise to_error(_problem_of(url, answer))
    return msgspec.json.decode(answer.content, type=c.REPLIES[type(command)])


async def ask_as_app(url: str, command: c.Command, ca: str = "") -> Any:
    """Perform a command of an app, as a form, and return its reply.

    Raises:
        GrantRefused: The server refused; `field` is OAuth's word for the reason.
        OSError: The server cannot be reached.
    """
    form = {key: value for key, value in _fields(command).items() if value}
    answer = await _send(url, ca, "POST", _FORMS[type(command)], data=form)
    if answer.status_code >= 400:
        problem = _problem_of(url, answer)
        raise GrantRefused(str(problem.get("error_description") or ""), field=str(problem.get("error")))
    return msgspec.json.decode(answer.content, type=c.REPLIES[type(command)])


def _fields(command: c.Command) -> dict[str, Any]:
    found = msgspec.to_builtins(command, enc_hook=encode_hook)
    return {key: value for key, value in found.items() if key not in {"op", "id"}}


async def _send(url: str, ca: str, method: str, path: str, **more: Any) -> httpx.Response:
    context = tls_context(url, ca)
    try:
        async with httpx.AsyncClient(verify=context if context is not None else True, trust_env=False, timeout=30) as http:
            return await http.request(method, url + path, **more)
    except httpx.TransportError as error:
        raise ConnectionError(why_unreachable(url, error)) from error


def why_unreachable(url: str, error: Exception | None = None) -> str:
    """Return one line that tells a person why there is no connection to a server."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return (
            f"{url} shows a certificate that this machine does not trust. If the server has its own CA, get its ca.crt from"
            " who runs it (`securechat cert show` there), and give it with --ca."
        )
    place = url.partition("://")[2]
    if "WRONG_VERSION_NUMBER" in str(error) and urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}:
        return f"This port speaks http: use http://{place}"
    if url.startswith("http://") and "without sending a response" in str(error):
        return f"{url} hangs up without a word, as a port does that speaks https: try https://{place}"
    return f"Nothing answers at {url}. Is the server running, and on this port?" + (f" ({error})" if str(error or "") else "")


def _problem_of(url: str, answer: httpx.Response) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError:
        raise ConnectionError(f"{url} answered {answer.status_code}.") from None


def _lock_file(handle: int) -> None:
    """Wait for the only lock of a file; it ends when the file is closed."""
    if sys.platform != "win32":
        import fcntl  # noqa: PLC0415 - there is none on Windows

        fcntl.flock(handle, fcntl.LOCK_EX)


class TokenSource(Protocol):
    """Where access tokens come from."""

    async def token(self) -> str:
        """Return a token that holds now. Raises `LoginRequired` or `OSError`."""

    def refused(self) -> None:
        """The server answered that the token of the last call does not hold: the next one has to be another."""

    def renew(self) -> None:
        """The next token should be a fresh one, where tokens end: a connection was closed for want of one, or soon will be."""

    def forget(self) -> None:
        """The session is over: nothing of it stays on this machine."""


@dataclass(slots=True)
class FixedToken:
    """A bot's token, which has no end."""

    value: str
    _bad: bool = False

    async def token(self) -> str:
        """Return the token."""
        if self._bad:
            raise LoginRequired("The server does not take this token. A new one: securechat bot rotate NAME")
        return self.value

    def refused(self) -> None:
        """There is no other."""
        self._bad = True

    def renew(self) -> None:
        """See `TokenSource.renew`: it does not end, and only an answer says that it does not hold."""

    def forget(self) -> None:
        """Nothing is stored here; whoever gave the token has it."""
        self._bad = True


class ProfileToken:
    """The access token of a signed-in device, renewed with its refresh token.

    Args:
        profile: The device.
        path: Where it is kept.
    """

    def __init__(self, profile: Profile, path: Path | None = None) -> None:
        self._profile = profile
        self._path = path
        self._access = ""
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def token(self) -> str:
        """See `TokenSource.token`."""
        async with self._lock:
            if not self._access or time.monotonic() > self._until:
                await self._renew()
            return self._access

    def refused(self) -> None:
        """See `TokenSource.refused`."""
        self._access = ""

    def renew(self) -> None:
        """See `TokenSource.renew`."""
        self._access = ""

    def forget(self) -> None:
        """Remove the profile's file."""
        (self._path or profile_path()).unlink(missing_ok=True)
        self._access = ""

    async def _renew(self) -> None:
        """Exchange the refresh token. One process at a time: a token works once, and all share the file."""
        lock = (self._path or profile_path()).with_suffix(".lock")
        with lock.open("w") as file:
            await asyncio.to_thread(_lock_file, file.fileno())
            await self._exchange(load_profile(self._path))

    async def _exchange(self, profile: Profile) -> None:
        session: c.Session | c.OauthTokens
        token = Secret(profile.refresh_token)
        try:
            if profile.app:
                form = c.OauthToken(grant_type="refresh_token", client_id=profile.app, refresh_token=token)
                session = await ask_as_app(profile.url, form, profile.ca)
            else:
                session = await ask_openly(profile.url, c.SessionRefresh(refresh_token=token), profile.ca)
        except (Unauthorized, GrantRefused) as error:
            raise LoginRequired(f"The session has ended. Run: {program()} login") from error
        profile.refresh_token = session.refresh_token
        save_profile(profile, self._path)
        self._profile = profile
        self._access = session.access_token
        self._until = time.monotonic() + session.expires_in - EARLY_S
