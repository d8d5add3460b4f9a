"""People, bots, their devices, and who is asking."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from typing import Final

import msgspec

from securechat.domain.limits import LIMITS
from securechat.domain.passwords import is_common
from securechat.domain.secret import Secret
from securechat.errors import InvalidInput

PASSWORD_MIN: Final = 8
PASSWORD_MAX: Final = 1_024


class Role(StrEnum):
    """What a user may do on the whole server, strongest first."""

    OPERATOR = "operator"
    """The command line beside the data folder; no account."""
    OWNER = "owner"
    ADMIN = "admin"
    MODERATOR = "moderator"
    """Moderates every room that they are in."""
    MEMBER = "member"
    GUEST = "guest"
    """Is in the rooms that somebody brought them into, and knows of nothing else."""
    BOT = "bot"


class User(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An account, as others see it."""

    id: str
    username: str
    display_name: str
    role: Role = Role.MEMBER
    disabled: bool = False


class Principal(msgspec.Struct, frozen=True):
    """Who asks: decided once, when a connection or a request authenticates.

    Attributes:
        user_id: The account.
        device_id: The device; the scope of `cmid`.
        role: The server role at that moment.
        username: For logs of the operator's own actions; never used to decide.
        expires_at: Seconds since 1970 at which the token ends, or None for a token without an end.
        address: Where the command came from, for the audit log; never used to decide.
        enrolling: The role wants a second factor and the account has none: may set one up, and nothing else.
        scopes: What the person lets this app or token do; None for a session of their own, which may do all that they may.
    """

    user_id: str
    device_id: str
    role: Role
    username: str
    expires_at: float | None = None
    address: str = ""
    enrolling: bool = False
    scopes: frozenset[str] | None = None

    def at(self, address: str) -> Principal:
        """Return the same principal, who asks from this address."""
        return self if address == self.address else msgspec.structs.replace(self, address=address)


OPERATOR: Final = Principal("usr_operator", "dev_operator", Role.OPERATOR, "operator")
"""Whoever can open the admin socket or the data folder."""

STRANGER: Final = Principal("", "", Role.MEMBER, "")
"""Nobody yet: may set up, register, log in, refresh and reset a password, and nothing else."""


class Device(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A signed-in client of a user."""

    id: str
    name: str
    created_at: int
    last_seen_at: int
    address: str = ""
    current: bool = False


QUERY_WORDS: Final = 8
"""Words of a search that count; the rest is not looked at."""


def words_of(text: str) -> list[str]:
    """Return the words of a name or of a search, in the form in which they are compared: apart at spaces and `.` `_` `-`."""
    return re.split(r"[\s._-]+", text.casefold().strip(" ._-"))[:QUERY_WORDS] if text.strip(" ._-") else []


def fits(user: User, query: str) -> bool:
    """Return whether each word of a search begins a word of the username or of the display name."""
    words = words_of(user.username) + words_of(user.display_name)
    return all(any(word.startswith(wanted) for word in words) for wanted in words_of(query))


def clean_name(text: str, field: str, *, most: int = LIMITS.name_chars) -> str:
    """Return a name in the one form in which it is stored: NFKC, trimmed, inner space single.

    Raises:
        InvalidInput: Empty, too long, or with control, format, private or unassigned characters.
    """
    name = " ".join(unicodedata.normalize("NFKC", text).split())
    if not name:
        raise InvalidInput(f"{field} is empty.", field=field)
    if len(name) > most:
        raise InvalidInput(f"{field} has {len(name)} characters, the limit is {most}.", field=field)
    if any(unicodedata.category(char).startswith("C") for char in name):
        raise InvalidInput(f"{field} has characters that cannot be seen.", field=field)
    return name


def clean_username(text: str) -> str:
    """Return a username: 2 to 32 of a–z, 0–9, `.`, `_`, `-`, beginning with a letter or digit, lower case.

    One small alphabet leaves no look-alikes to check.

    Raises:
        InvalidInput: Anything else.
    """
    name = unicodedata.normalize("NFKC", text).strip().lower().removeprefix("@")
    good = 2 <= len(name) <= 32 and name.isascii() and name[0].isalnum() and all(char.isalnum() or char in "._-" for char in name)
    if not good:
        raise InvalidInput("A username has 2 to 32 letters a–z, digits, dots, dashes or underscores.", field="username")
    return name


def clean_password(text: Secret) -> Secret:
    """Return the password in NFC, so that the same keys give the same bytes on every system (RFC 8265).

    Raises:
        InvalidInput: Shorter than 8 or longer than 1,024 characters, or one of the commonest.
    """
    password = normal_password(text)
    if not PASSWORD_MIN <= len(password.reveal()) <= PASSWORD_MAX:
        raise InvalidInput(f"A password has {PASSWORD_MIN} to {PASSWORD_MAX} characters.", field="password")
    if is_common(password):
        raise InvalidInput("This is one of the first passwords that people try. Three or four words are better.", field="password")
    return password


def normal_password(text: Secret) -> Secret:
    """Return the password in NFC, whatever its length: what is compared with the stored one."""
    return Secret(unicodedata.normalize("NFC", text.reveal()))
