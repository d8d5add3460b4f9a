"""`securechat app`, `securechat token` and `securechat grant`: apps that people let in, and tokens of one's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from securechat.cli.main import Data, Json
from securechat.cli.operator import Operator, data_root
from securechat.cli.output import note, say, say_json, table, when
from securechat.cli.signin import ask_secret, confirm_by_password, reached, run
from securechat.domain import commands as c
from securechat.errors import ConfirmationRequired
from securechat.sdk.client import ChatClient

T = TypeVar("T")
_HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(help="Apps that people can let in.", no_args_is_help=True, context_settings=_HELP)
token = typer.Typer(help="Tokens for programs of your own.", no_args_is_help=True, context_settings=_HELP)
grant = typer.Typer(help="Apps that you have let in.", no_args_is_help=True, context_settings=_HELP)
Scopes = Annotated[
    list[str], typer.Option("--scope", help="profile, rooms:read, rooms:write, messages:read or messages:write; may be repeated.")
]


@app.command("create")
def create_app(
    name: Annotated[str, typer.Argument(help="What people are shown.")],
    *,
    scope: Scopes,
    redirect: Annotated[
        list[str] | None, typer.Option("--redirect", help="Where browsers are sent back to; may be repeated.", show_default=False)
    ] = None,
    confidential: Annotated[bool, typer.Option("--confidential", help="It can keep a secret; one is printed, once.")] = False,
    device: Annotated[bool, typer.Option("--device", help="It may ask without a browser (device flow).")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Register an app."""
    command = c.AppCreate(name=name, scopes=scope, redirect_uris=redirect or [], confidential=confidential, device_flow=device)
    created: c.AppCreated = Operator(data_root(data)).perform(command)
    if json:
        say_json(created)
        return
    say(f"client id      {created.app.id}")
    if created.secret:
        say(f"client secret  {created.secret}")
        note("The secret is shown this once.")


@app.command("list")
def list_apps(*, data: Data = None, json: Json = False) -> None:
    """List registered apps."""
    found: c.Apps = Operator(data_root(data)).perform(c.AppList())
    if json:
        say_json(found)
        return
    rows = [
        (each.id, each.name, "confidential" if each.confidential else "public", " ".join(each.scopes), " ".join(each.redirect_uris))
        for each in found.apps
    ]
    table(("client id", "name", "", "scopes", "redirects"), rows)


@app.command("delete")
def delete_app(app_id: Annotated[str, typer.Argument(help="Client id.")], *, data: Data = None) -> None:
    """Remove an app; its sessions end with everybody."""
    Operator(data_root(data)).perform(c.AppDelete(app=app_id))
    say(f"{app_id} is removed; its connections are closed.")


@token.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    *,
    scope: Scopes,
    days: Annotated[int, typer.Option(min=1, max=365, help="Days until it ends.")] = 90,
    json: Json = False,
) -> None:
    """Make a token; it is printed once. The password is asked for when you signed in longer ago."""

    async def work(client: ChatClient) -> c.TokenCreated:
        try:
            return await client.create_token(name, scope, expires_days=days)
        except ConfirmationRequired:
            await confirm_by_password(client, ask_secret("Password: "))
            return await client.create_token(name, scope, expires_days=days)

    created = _with_client(work)
    if json:
        say_json(created)
        return
    note(f"Holds until {when(created.token.expires_at)}. It is shown this once.")
    say(created.secret)


@token.command("list")
def list_tokens(*, json: Json = False) -> None:
    """List your tokens."""
    found = _with_client(ChatClient.list_tokens)
    if json:
        say_json(found)
        return
    table(
        ("token", "name", "scopes", "ends"), [(each.id, each.name, " ".join(each.scopes), when(each.expires_at)) for each in found]
    )


@token.command("revoke")
def revoke_token(token_id: Annotated[str, typer.Argument(help="Its id, as `token list` shows it.")]) -> None:
    """End a token; its connections are closed at once."""
    _with_client(lambda client: client.revoke_token(token_id))
    say(f"{token_id} has ended.")


@grant.command("list")
def list_grants(*, json: Json = False) -> None:
    """List the apps that you have let in."""
    found = _with_client(ChatClient.list_grants)
    if json:
        say_json(found)
        return
    table(
        ("app", "name", "scopes", "last seen"),
        [(each.app, each.name, " ".join(each.scopes), when(each.last_seen_at)) for each in found],
    )


@grant.command("revoke")
def revoke_grant(app_id: Annotated[str, typer.Argument(help="Client id, as `grant list` shows it.")]) -> None:
    """Let an app out; its connections are closed at once."""
    _with_client(lambda client: client.revoke_grant(app_id))
    say(f"{app_id} is out.")


def _with_client(work: Callable[[ChatClient], Awaitable[T]]) -> T:
    async def connected() -> T:
        async with reached() as client:
            return await work(client)

    return run(connected())
