"""`securechat token-keys` and `securechat user clear-factors`."""

from __future__ import annotations

from typing import Annotated

import typer

from securechat.cli.main import Data, Json
from securechat.cli.operator import Operator, data_root
from securechat.cli.output import say, say_json, table, when
from securechat.domain import commands as c

token_keys = typer.Typer(
    help="The keys that sign access tokens. They rotate by themselves (token_key_max_age_s), and nobody is signed out by it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@token_keys.command("list")
def list_keys(*, data: Data = None, json: Json = False) -> None:
    """List the key that signs, and the earlier ones whose tokens still hold."""
    _show(Operator(data_root(data)).perform(c.TokenKeyList()), as_json=json)


@token_keys.command("rotate")
def rotate(
    *,
    drop: Annotated[
        bool, typer.Option("--drop", help="End the earlier keys at once, as after a theft; clients renew their tokens.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Sign with a new key from now on. Tokens that were given out hold to their end."""
    _show(Operator(data_root(data)).perform(c.TokenKeyRotate(drop=drop)), as_json=json)


def _show(found: c.TokenKeys, *, as_json: bool) -> None:
    if as_json:
        say_json(found)
        return
    rows = [
        (key.id, when(key.created_at), "signs" if key.signs else f"verifies until {when(key.verifies_until)}") for key in found.keys
    ]
    table(("key", "made", ""), rows)


def clear_factors(
    username: Annotated[str, typer.Argument(help="Username.")],
    *,
    data: Data = None,
) -> None:
    """Remove all second factors of somebody who lost them; all their sessions end."""
    operator = Operator(data_root(data))
    user = operator.user(username)
    operator.perform(c.FactorClear(user=user.id))
    say(f"@{user.username} has no second factor any more, and is signed out everywhere.")
