"""Coming in at a terminal, and going out: log in, set up, register, choose a new password, log out."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from securechat.cli.output import note, say
from securechat.domain import commands as c
from securechat.domain.accounts import PASSWORD_MIN, clean_password
from securechat.domain.secret import Secret
from securechat.errors import ConfirmationRequired, GrantRefused, InvalidInput, SecondFactorRequired, Shutdown
from securechat.program import program
from securechat.sdk.client import ChatClient
from securechat.sdk.entrance import Entrance
from securechat.sdk.errors import ConnectionLost, LoginRequired
from securechat.sdk.pins import pins_of, secret_of
from securechat.sdk.profile import check_url, load_profile, profile_path, why_unreachable

T = TypeVar("T")
DEVICE_NAME: Final = "Terminal"
REACH_S: Final = 5
"""How long one command tries to reach the server; logging out forgets the session then anyway."""


def no_session() -> str:
    """Return what a bot is told that wants to log out."""
    return f"SECURECHAT_TOKEN is a bot's token, and no session to leave. It ends with: {program()} bot revoke NAME"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a client's work; what keeps it from going on becomes one line and an exit status."""
    try:
        return asyncio.run(work)
    except LoginRequired as error:
        raise Shutdown(str(error), 3) from error
    except (ConnectionLost, OSError) as error:
        raise Shutdown(str(error) or "The server cannot be reached.") from error
    except ValueError as error:
        raise Shutdown(str(error), 64) from error


@asynccontextmanager
async def reached() -> AsyncIterator[ChatClient]:
    """Give a connected client, or give up after `REACH_S`: whoever types one command does not wait for a server to be repaired.

    Raises:
        ConnectionLost: There is no connection; the text says why.
    """
    client = ChatClient.connect()
    try:
        try:
            async with asyncio.timeout(REACH_S):
                await client.start()
        except TimeoutError as error:
            raise ConnectionLost(client.trouble or why_unreachable(client.url)) from error
        yield client
    finally:
        await client.close()


@dataclass(frozen=True, slots=True)
class Link:
    """Where to sign in, and with what.

    Attributes:
        url: The server.
        kind: `log_in`, `set_up`, `register` or `reset`.
        secret: The token or code of the link.
        pins: Ids of the server's keys that the link names.
    """

    url: str
    kind: str = "log_in"
    secret: str = ""
    pins: tuple[str, ...] = ()


def read_link(text: str) -> Link:
    """Return what a server's address, its setup link, an invitation or a reset link asks for.

    Raises:
        ValueError: It is none of them, or a part of one.
    """
    if len(text.split()) != 1:
        raise ValueError("This is no address and no link: there is a space in it.")  # Not shown: it may be a password.
    url = check_url(text)
    parts = urlsplit(text if "://" in text else f"https://{text}")
    pins = tuple(pins_of(parts.fragment))
    if invitation := re.fullmatch(r"/i/([^/]+)/?", parts.path):
        return Link(url, "register", unquote(invitation[1]), pins)
    kind = {"/setup": "set_up", "/reset": "reset"}.get(parts.path.rstrip("/"))
    if kind is None:
        return Link(url, pins=pins)
    secret = secret_of(parts.fragment)
    if not secret:
        raise ValueError("This is not the whole link: there is more after a #.")
    return Link(url, kind, secret, pins)


def log_in(
    target: str | None,
    *,
    username: str | None = None,
    ca: Path | None = None,
    code: str = "",
    name: str = "",
    server_name: str = "",
) -> None:
    """Sign this terminal in and keep the profile.

    Args:
        target: The server's address or a link of it; asked for otherwise, so that no secret stands in the list of processes.
        username: Asked for otherwise.
        ca: Certificate of the server's own CA.
        code: An invitation.
        name: Display name of a new account.
        server_name: What people will call a new server.
    """
    interactive = sys.stdin.isatty()
    if username is None and not interactive:
        raise Shutdown("Give --user when standard input is not a terminal.", 64)
    if target is not None and not target.strip():
        raise Shutdown("SERVER is empty: the address of a server, or a link of it.", 64)
    try:
        link = read_link(target or _line("Server, or a link of it: "))
        authority = str(ca.resolve()) if ca else own_ca(link.url)
        entrance = Entrance(link.url, ca=authority, pins=link.pins)
    except ValueError as error:
        raise Shutdown(str(error), 64) from error
    if code:
        link = Link(link.url, "register", code, link.pins)
    run(entrance.check_server())
    if link.kind == "register":
        _tell_invitation(run(entrance.see_invite(link.secret)))
    if username is None:
        username = input("Username: ")
    if interactive and link.kind in {"set_up", "register"} and not name:
        name = input(f"Display name [{username}]: ")
    if interactive and link.kind == "set_up" and not server_name:
        server_name = input("What people call this server [SecureChat]: ")
    password = _new_password() if interactive and link.kind != "log_in" else ask_secret("Password: ")

    async def work(second: str = "") -> c.Session:
        match link.kind:
            case "set_up":
                return await entrance.set_up(
                    link.secret, username, password, display_name=name, server_name=server_name, device_name=DEVICE_NAME
                )
            case "register":
                return await entrance.register(link.secret, username, password, display_name=name, device_name=DEVICE_NAME)
            case "reset":
                await entrance.reset_password(link.secret, password)
                note("The new password holds; all sessions have ended.")
        return await entrance.log_in(username, password, code=second, device_name=DEVICE_NAME)

    try:
        session = run(work())
    except SecondFactorRequired:
        link = Link(link.url)  # What the link was for is done.
        session = run(work(ask_secret("Code of your authenticator app, or a recovery code: ")))
    if session.enrol:
        run(set_up_totp(entrance, session))
    entrance.keep(session)
    say(f"Signed in to {link.url} as @{session.user.username}. Kept in {profile_path()}.")


def log_in_by_device(target: str | None, *, ca: Path | None) -> None:
    """Let somebody approve this terminal in a browser, and keep the profile. No password is typed here.

    Args:
        target: The server's address; asked for otherwise.
        ca: Certificate of the server's own CA.
    """
    try:
        url = check_url(target or _line("Server: "))
        entrance = Entrance(url, ca=str(ca.resolve()) if ca else own_ca(url))
    except ValueError as error:
        raise Shutdown(str(error), 64) from error
    begun = run(entrance.begin_device())
    say(f"Open {begun.verification_uri} and type {begun.user_code}")
    note(f"or open {begun.verification_uri_complete}\nWaiting for you to say yes there ...")

    async def work() -> str:
        tokens = await entrance.wait_for_device(begun)
        return (await entrance.keep_tokens(tokens)).username

    try:
        username = run(work())
    except GrantRefused as error:
        raise Shutdown(error.detail, 3) from error
    say(f"Signed in to {url} as @{username}. Kept in {profile_path()}.")


async def set_up_totp(entrance: Entrance, session: c.Session) -> None:
    """Lead somebody whose role wants a second factor through setting an authenticator app up."""
    begun = await entrance.begin_totp(session)
    note("Your role wants a second factor. Add this to an authenticator app, then type the code that it shows.")
    if sys.stdout.isatty():
        note(_drawn(begun.qr))
    say(f"{begun.uri}\nor type the key: {begun.secret}")
    while True:
        try:
            codes = await entrance.confirm_totp(session, begun.ticket, _line("Code: "))
            break
        except InvalidInput as error:
            if not sys.stdin.isatty():
                raise
            note(error.detail)
    if codes:
        note("Recovery codes: each signs you in once when the app is lost. They are shown this once; keep them.")
        say("\n".join(codes))


def _drawn(rows: list[str]) -> str:
    """Return a QR code as text for a dark or light terminal: two rows per line, black on white."""
    width = len(rows[0]) + 8 if rows else 0
    framed = ["0" * width] * 4 + [f"0000{row}0000" for row in rows] + ["0" * width] * 5
    blocks = {"00": " ", "01": "▄", "10": "▀", "11": "█"}
    lines = [
        "".join(blocks[upper + lower] for upper, lower in zip(framed[row], framed[row + 1], strict=True))
        for row in range(0, len(framed) - 1, 2)
    ]
    return "\n".join(f"\x1b[30;107m{line}\x1b[0m" for line in lines)


def change_password() -> None:
    """Change one's own password; all other sessions end."""
    current = ask_secret("Current password: ")
    password = _new_password() if sys.stdin.isatty() else ask_secret("")

    async def work() -> None:
        async with reached() as client:
            try:
                await client.change_password(current, password)
            except ConfirmationRequired:
                await confirm_by_password(client, current)
                await client.change_password(current, password)

    run(work())
    say("The new password holds. All other sessions have ended.")


async def confirm_by_password(client: ChatClient, password: str) -> None:
    """Confirm that it is oneself; a code is asked for when there is a second factor."""
    try:
        await client.confirm(password)
    except SecondFactorRequired:
        await client.confirm(password, code=ask_secret("Code of your authenticator app, or a recovery code: "))


def _tell_invitation(invitation: c.Invitation) -> None:
    rooms = ", ".join(f"#{name}" for name in invitation.rooms)
    note(f"{invitation.invited_by or 'The operator'} invites you to {invitation.server_name}{', into ' + rooms if rooms else ''}.")


def _line(prompt: str) -> str:
    """Ask, or take the next line of a pipe."""
    return input(prompt).strip() if sys.stdin.isatty() else sys.stdin.readline().strip()


def ask_secret(prompt: str) -> str:
    """Ask without showing what is typed, or take the next line of a pipe."""
    return getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def _new_password() -> str:
    while True:
        password = getpass.getpass(f"New password ({PASSWORD_MIN} characters or more): ")
        try:
            clean_password(Secret(password))
        except InvalidInput as error:
            note(error.detail)
            continue
        if password == getpass.getpass("The same again: "):
            return password
        note("They differ.")


def own_ca(url: str) -> str:
    """Return the CA of a server whose data folder is right here, as after `make run`."""
    ca = Path("securechat-data/tls/ca.crt")
    local = urlsplit(url).hostname in {"localhost", "127.0.0.1"}
    return str(ca.resolve()) if local and ca.exists() else ""


def log_out() -> None:
    """End the session on the server and forget the profile."""
    if os.environ.get("SECURECHAT_TOKEN"):
        raise Shutdown(no_session(), 64)
    try:
        load_profile()
    except LoginRequired as error:
        raise Shutdown(str(error), 3) from error

    async def work() -> None:
        client = ChatClient.connect()
        try:
            async with asyncio.timeout(REACH_S):
                await client.start()
            await client.log_out()
        finally:
            await client.close()

    try:
        run(work())
    except Shutdown as error:
        if error.code != 3:  # 3: the session had ended before.
            note(f"The server was not told. End the session from another device. {error.line}")
    profile_path().unlink(missing_ok=True)
    say("Signed out.")
