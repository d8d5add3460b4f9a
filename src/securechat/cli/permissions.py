"""Roles and permissions, in verbs: each is one command through the operator's door."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec

from securechat.cli.operator import Operator, data_root
from securechat.cli.output import say, say_json
from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.choices import in_words
from securechat.errors import Shutdown


def _command(kind: type[c.Command], **fields: Any) -> Any:
    """Make a command of words from the command line.

    Raises:
        Shutdown: One of them is not among those that there are.
    """
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        words, where = in_words(str(error), kind)
        raise Shutdown(f"{where}: {words}" if where else words, 64) from error


def explain(data: str | None, username: str, action: str, room: str, *, as_json: bool) -> None:
    """Say which rule decides."""
    if action not in policy.RULES:
        near = difflib.get_close_matches(action, policy.RULES, 3) or sorted(policy.RULES)
        raise Shutdown(f"There is no action {action}. Do you mean one of these?  {'  '.join(near)}", 64)
    operator = Operator(data_root(data))
    room_id = operator.room_id(room) if room else ""
    user = operator.user(username)
    found: c.Explanation = operator.perform(c.PolicyExplain(user=user.id, action=action, room=room_id))
    if as_json:
        say_json(found)
    else:
        where = f" in {room}" if room else ""
        answer = "yes" if found.allowed else f"no, and is told {found.code}"
        say(f"May @{user.username} {action}{where}? {answer}.\n  {found.rule}")


def user_role(data: str | None, username: str, role: str) -> None:
    """Change a role on the server."""
    operator = Operator(data_root(data))
    user = operator.user(username)
    operator.perform(_command(c.UserRole, user=user.id, role=role))
    say(f"@{user.username} is {role} now.")


def room_role(data: str | None, room: str, username: str, role: str) -> None:
    """Change a role in a room."""
    operator = Operator(data_root(data))
    room_id, user = operator.room_id(room), operator.user(username)
    operator.perform(_command(c.MemberRole, room=room_id, user=user.id, role=role))
    say(f"@{user.username} is {role} of {room} now.")


def room_permit(data: str | None, room: str, action: str, role: str, *, as_json: bool) -> None:
    """Change what a room decides for itself."""
    operator = Operator(data_root(data))
    wanted = None if role == "default" else role
    found: c.RoomSummary = operator.perform(_command(c.RoomPermit, room=operator.room_id(room), action=action, role=wanted))
    if as_json:
        say_json(found)
    elif found.permissions:
        say("\n".join(f"{each}: {least} or above" for each, least in sorted(found.permissions.items())))
    else:
        say("The defaults hold.")
