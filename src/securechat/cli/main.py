"""securechat: the one command line. Each command loads only what it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

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
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes on one port; more than one need PostgreSQL and Redis.")
    ] = 1,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start the server. It makes its data folder, keys and certificate by itself."""
    from securechat.cli.serve import run  # noqa: PLC0415

    flags: dict[str, Any] = {
        "data_dir": data, "host": host, "port": port, "http_port": http_port, "public_url": public_url, "log_level": log_level,
    }  # fmt: skip
    run(config, flags, workers=workers, worker=worker)


@app.command(rich_help_panel="Server")
def doctor(*, config: Config = None, data: Data = None, json: Json = False) -> None:
    """Look for what is wrong, and say which command repairs it. Exit 0: fine, 1: a warning, 2: a failure."""
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
    seconds: Annotated[float | None, typer.Option(help="Length of each measurement.", show_default="5, with --cluster 2.5")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Where the figures go as JSON.")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="One, two and three servers on PostgreSQL and Redis.")] = False,
) -> None:
    """Measure this machine: messages, deliveries, latency, memory, logins. Needs the source tree and gcc."""
    from securechat.cli.bench import run_bench  # noqa: PLC0415

    run_bench(only, seconds, json, cluster=cluster)


GROUPS: Final[dict[str, tuple[str, str, str]]] = {
    "user": ("groups", "user", "People and rooms"),
    "invite": ("groups", "invite", "People and rooms"),
    "room": ("groups", "room", "People and rooms"),
    "bot": ("groups", "bot", "People and rooms"),
    "subscription": ("subscriptions", "subscription", "People and rooms"),
    "dead-letters": ("subscriptions", "dead_letters", "People and rooms"),
    "app": ("apps", "app", "People and rooms"),
    "token": ("apps", "token", "Chat"),
    "grant": ("apps", "grant", "Chat"),
    "config": ("groups", "config", "Server"),
    "cert": ("groups", "cert", "Server"),
    "keys": ("key_commands", "keys", "Server"),
    "backup": ("groups", "backup", "Server"),
    "servers": ("key_commands", "servers", "Chat"),
    "audit": ("audit", "audit", "Server"),
    "storage": ("storage", "storage", "Server"),
    "db": ("database", "database", "Server"),
    "token-keys": ("identity", "token_keys", "Server"),
}
"""Groups of commands, in the order of the help text: module, attribute, panel."""


def add_groups(arguments: Sequence[str]) -> None:
    """Add the groups that these arguments need: one, all for the help text and for completion, none for `serve` and its like.

    A group brings half of the program with it, which is most of the time that a command takes to start.
    """
    wanted = next((word for word in arguments if not word.startswith("-")), "")
    plain = {each.name or getattr(each.callback, "__name__", "").replace("_", "-") for each in app.registered_commands}
    if wanted in plain:
        return
    for name in [wanted] if wanted in GROUPS else GROUPS:
        module, attribute, panel = GROUPS[name]
        app.add_typer(getattr(import_module(f"securechat.cli.{module}"), attribute), name=name, rich_help_panel=panel)


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
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Give up when there is no answer in this time.")
    ] = 30,
    json: Json = False,
) -> None:
    """Send one message and wait until the server has stored it."""
    from securechat.cli.chat import send_one  # noqa: PLC0415

    send_one(room, text, cmid, timeout_s=timeout, as_json=json)


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
    add_groups(() if "_SECURECHAT_COMPLETE" in os.environ else sys.argv[1:])
    try:
        app()
    except Shutdown as stop:
        sys.stderr.write(f"error: {stop.line}\n")
        sys.exit(stop.code)
    except ChatError as refusal:
        sys.stderr.write(f"error: {refusal.detail}  [{refusal.code}]\n")
        sys.exit(3 if refusal.status == Unauthorized.status else 2)
