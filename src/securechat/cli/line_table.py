"""The table of the line mode: what each command is called, how it is written, what `/help` says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from securechat.domain.limits import LIMITS

if TYPE_CHECKING:
    from securechat.cli.line_mode import LineMode

HISTORY: Final = 20
"""Entries that are shown when one asks for no number of them."""
GROUPS: Final = {
    "messages": "Messages",
    "rooms": "Rooms",
    "people": "People",
    "account": "Your account",
    "server": "For administrators",
}


class Misused(Exception):
    """The line cannot be carried out as it stands; the text says why, and is empty where the usage says it."""


class Quit(Exception):
    """The person leaves."""


@dataclass(frozen=True, slots=True)
class Line:
    """A command of the line mode.

    Attributes:
        group: Where `/help` lists it.
        usage: How it is written: words in capitals are needed, those in brackets are not.
        help: What it does.
        run: Does it; gets what stands after the command's own words.
    """

    group: str
    usage: str
    help: str
    run: Callable[[LineMode, str], Awaitable[None]]

    @property
    def name(self) -> str:
        """The words that call it: `/edit`, `/invite create`."""
        first, *more = self.usage.split()
        return " ".join([first, *more[:1]]) if more and more[0].isalpha() and more[0].islower() else first

    @property
    def least(self) -> int:
        """How many words have to follow."""
        return sum(word.isupper() for word in self.usage.removeprefix(self.name).split() if not set("[]") & set(word))


LINES: Final[dict[str, Line]] = {}


def line(group: str, usage: str, text: str) -> Callable[[Callable[[LineMode, str], Awaitable[None]]], Any]:
    """Make a function a command of the line mode."""

    def register(run: Callable[[LineMode, str], Awaitable[None]]) -> Any:
        found = Line(group, usage, text, run)
        LINES[found.name] = found
        return run

    return register


def to_seq(text: str) -> int:
    """Read the number of a message.

    Raises:
        Misused: It is none.
    """
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**53:
        raise Misused("that is no number of a message")
    return int(text)


def to_limit(text: str) -> int:
    """Read how many entries are wanted: as many as a page holds at most, `HISTORY` when nothing is said."""
    return min(LIMITS.page_entries, max(1, to_seq(text))) if text else HISTORY


def help_text(word: str = "") -> str:
    """Return the list of commands; of one group, or of those that have the word in them."""
    word = word.removeprefix("/").casefold()
    groups = [word] if word in GROUPS else [*GROUPS]
    found = [each for each in LINES.values() if each.group in groups and (word in GROUPS or word in each.name)]
    if not found:
        return f"There is no /{word} here. /help lists what there is."
    width = max(len(each.usage) for each in found)
    text: list[str] = []
    for group in groups:
        lines = [f"  {each.usage.ljust(width)}  {each.help}" for each in found if each.group == group]
        if group == "messages" and (not word or word in GROUPS):
            lines = [
                f"  {'any other line'.ljust(width)}  is a message to the room",
                f"  {'/roll 2'.ljust(width)}  is for the bot here that answers to it (/commands)",
                f"  {'//text'.ljust(width)}  is a message that begins with one /, whatever it says",
                *lines,
            ]
        if lines:
            text += ["", GROUPS[group], *lines]
    if not word:
        text += ["", "One part of this list: /help " + ", ".join(GROUPS)]
    return "\n".join(text[1:])
