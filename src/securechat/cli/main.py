"""securechat: the one command line. Each command loads only what it needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from securechat import __version__
from securechat.errors import ChatError, Shutdown, Unauthorized
from securechat.program import program

app = typer.Typer(
    name="securechat",
    help="SecureChat: a chat server that starts with one command, its clients, and everything to run it.\n\n"
    f"Begin with [bold]{program()} serve[/bold]; chat in a terminal with [bold]{program()} chat[/bold].",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[
    str | None, typer.Option("--data", metavar="FOLDER", help="Data folder (SECURECHAT_DATA_DIR).", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", envvar="SECURECHAT_CONFIG", help="Configuration in JSON.")]


def _version(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        sys.stdout.write(f"SecureChat {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


@app.command(rich_help_panel="Server")
def serve(
    *,
    config: Config = None,
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for all.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port with TLS.", show_default="8443")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port without TLS, loopback only; 0 for none.", show_default="8080")] = None,
    public_url: Annotated[str | None, typer.Option(help="What people type to get here.", show_default=False)] = None,
    log_level: Annotated[str | None, typer.Option(help="TRACE DEBUG INFO WARN ERROR FATAL.", show_default="INFO")] = None,
) -> None:
    """Start the server. It makes its data folder, keys and certificate by itself."""
    from securechat.cli.serve import run  # noqa: PLC0415

    flags: dict[str, Any] = {
        "data_dir": data, "host": host, "port": port, "http_port": http_port, "public_url": public_url, "log_level": log_level,
    }  # fmt: skip
    run(config, flags)


@app.command(rich_help_panel="Server")
def doctor(*, config: Config = None, data: Data = None, json: Json = False) -> None:
    """Look for what is wrong, and say which command repairs it. Exit 0 fine, 1 warnings, 2 failures."""
    from securechat.cli.doctor import examine  # noqa: PLC0415

    raise typer.Exit(examine(config, data, as_json=json))


@app.command(rich_help_panel="People and rooms")
def explain(
    username: Annotated[str, typer.Argument(help="Who: a username.")],
    action: Annotated[str, typer.Argument(help="What: a command's name, for example message.send.")],
    room: Annotated[str, typer.Argument(help="Where: a room's name or id.", show_default=False)] = "",
    *,
    data: Data = None,
    json: Json = False,
) -> None:
    """Say whether somebody may do something, and which rule decides."""
    from securechat.cli.permissions import explain  # noqa: PLC0415

    explain(data, username, action, room, as_json=json)


@app.command("setup-link", rich_help_panel="Server")
def setup_link(*, data: Data = None, json: Json = False) -> None:
    """Make a new link for the first account; earlier ones end."""
    from securechat.cli import admin  # noqa: PLC0415

    admin.setup_link(data, as_json=json)


@app.command(rich_help_panel="Server")
def status(*, data: Data = None, json: Json = False) -> None:
    """Show how the server is."""
    from securechat.cli import admin  # noqa: PLC0415

    admin.status(data, as_json=json)


@app.command(rich_help_panel="Server")
def bench(
    *,
    only: Annotated[str | None, typer.Option(help="Letters of the measurements, for example `ab`.", show_default="all")] = None,
    seconds: Annotated[float, typer.Option(help="Length of each measurement.")] = 5.0,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Where the figures go as JSON.")] = None,
) -> None:
    """Measure this machine: messages, deliveries, latency, memory, logins. Needs the source tree and gcc."""
    from securechat.cli.bench import run_bench  # noqa: PLC0415

    run_bench(only, seconds, json)


def _groups() -> None:
    from securechat.cli.apps import app as apps  # noqa: PLC0415
    from securechat.cli.apps import grant, token  # noqa: PLC0415
    from securechat.cli.audit import audit  # noqa: PLC0415
    from securechat.cli.database import database  # noqa: PLC0415
    from securechat.cli.groups import backup, bot, cert, config, invite, room, user  # noqa: PLC0415
    from securechat.cli.identity import clear_factors, token_keys  # noqa: PLC0415
    from securechat.cli.key_commands import keys, servers  # noqa: PLC0415
    from securechat.cli.storage import storage  # noqa: PLC0415

    app.add_typer(user, name="user", rich_help_panel="People and rooms")
    app.add_typer(invite, name="invite", rich_help_panel="People and rooms")
    app.add_typer(room, name="room", rich_help_panel="People and rooms")
    app.add_typer(bot, name="bot", rich_help_panel="People and rooms")
    app.add_typer(apps, name="app", rich_help_panel="People and rooms")
    app.add_typer(token, name="token", rich_help_panel="Chat")
    app.add_typer(grant, name="grant", rich_help_panel="Chat")
    app.add_typer(config, name="config", rich_help_panel="Server")
    app.add_typer(cert, name="cert", rich_help_panel="Server")
    app.add_typer(keys, name="keys", rich_help_panel="Server")
    app.add_typer(backup, name="backup", rich_help_panel="Server")
    app.add_typer(servers, name="servers", rich_help_panel="Chat")
    app.add_typer(audit, name="audit", rich_help_panel="Server")
    app.add_typer(storage, name="storage", rich_help_panel="Server")
    app.add_typer(database, name="db", rich_help_panel="Server")
    app.add_typer(token_keys, name="token-keys", rich_help_panel="Server")
    user.command("clear-factors")(clear_factors)


@app.command(rich_help_panel="Chat")
def login(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="SERVER|LINK",
            help="The server, for example https://chat.example.org; or its setup link, an invitation, or a link for a new "
            "password. Asked for when left out: a link is a secret.",
            show_default=False,
        ),
    ] = None,
    *,
    username: Annotated[str | None, typer.Option("--user", "-u", help="Username; asked for otherwise.", show_default=False)] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the server's own CA.", show_default=False)] = None,
    code: Annotated[str, typer.Option(help="An invitation: create the account first.", show_default=False)] = "",
    name: Annotated[str, typer.Option(help="Display name of a new account.", show_default=False)] = "",
    server_name: Annotated[str, typer.Option(help="With the setup link: what people call this server.", show_default=False)] = "",
    device: Annotated[
        bool, typer.Option("--device", help="Without a password here: show a code, and approve it in a browser.")
    ] = False,
) -> None:
    """Sign this terminal in: with an account, or with a link that makes one. The password is asked for, or read from a pipe."""
    from securechat.cli.signin import log_in, log_in_by_device  # noqa: PLC0415

    if device:
        log_in_by_device(url, ca=ca)
        return
    log_in(url, username=username, ca=ca, code=code, name=name, server_name=server_name)


@app.command(rich_help_panel="Chat")
def logout() -> None:
    """Sign this terminal out: end its session on the server, forget its tokens."""
    from securechat.cli.signin import log_out  # noqa: PLC0415

    log_out()


@app.command(rich_help_panel="Chat")
def password() -> None:
    """Change your password; all other sessions end. Both are asked for, or read from a pipe: the current one, then the new one."""
    from securechat.cli.signin import change_password  # noqa: PLC0415

    change_password()


@app.command(rich_help_panel="Chat")
def whoami(*, json: Json = False) -> None:
    """Show who one is, and whether the server answers."""
    from securechat.cli.chat import who_am_i  # noqa: PLC0415

    who_am_i(as_json=json)


@app.command(rich_help_panel="Chat")
def send(
    room: Annotated[str, typer.Argument(help="Room name, or @username for a direct message.")],
    text: Annotated[str | None, typer.Argument(help="The message; standard input when left out.", show_default=False)] = None,
    *,
    cmid: Annotated[str, typer.Option(help="Own id: the same send twice is one message.", show_default=False)] = "",
    json: Json = False,
) -> None:
    """Send one message and wait until the server has stored it."""
    from securechat.cli.chat import send_one  # noqa: PLC0415

    send_one(room, text, cmid, as_json=json)


@app.command(rich_help_panel="Chat")
def chat(
    room: Annotated[str | None, typer.Argument(help="Room to begin in; the first one otherwise.", show_default=False)] = None,
    *,
    plain: Annotated[
        bool, typer.Option("--plain", help="Line mode: for pipes, screen readers and tests (the only one so far).")
    ] = True,
) -> None:
    """Chat in the terminal. Lines are messages; /help lists commands."""
    from securechat.cli.chat import chat_plain  # noqa: PLC0415

    _ = plain
    chat_plain(room)


def main() -> None:
    """Run the command line; refusals become one line and an exit status, never a traceback."""
    _groups()
    try:
        app()
    except Shutdown as stop:
        sys.stderr.write(f"error: {stop.line}\n")
        sys.exit(stop.code)
    except ChatError as refusal:
        sys.stderr.write(f"error: {refusal.detail}  [{refusal.code}]\n")
        sys.exit(3 if refusal.status == Unauthorized.status else 2)
