"""What commands are made of: the base of all, and the types of their fields."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from securechat.domain.limits import LIMITS
from securechat.domain.secret import Secret

Text = Annotated[str, Meta(max_length=4_096)]
"""Any short text from outside, before its own rule is applied."""
Id = Annotated[str, Meta(max_length=24)]
Cmid = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+(?![\s\S])")]
Seq = Annotated[int, Meta(ge=1, lt=2**53)]
Place = Annotated[int, Meta(ge=0, lt=2**53)]
"""A `seq`, or 0 for before the first."""
Body = Annotated[str, Meta(min_length=1, max_length=LIMITS.body_bytes)]
Emoji = Annotated[str, Meta(min_length=1, max_length=32)]
Ticket = Annotated[str, Meta(max_length=2_048)]
"""What the server gave out at the beginning of something that takes two steps; sealed, and good for some minutes."""
Credential = Annotated[dict[str, Any], Meta(max_length=16)]
"""What the browser's WebAuthn answered, in its JSON form."""


def no_secret() -> Secret:
    """Return an empty secret: the default of a field."""
    return Secret("")


class Command(msgspec.Struct, tag_field="op", forbid_unknown_fields=True, kw_only=True):
    """Base of all commands.

    Attributes:
        id: The door's word for matching the answer; at most 64 characters.
    """

    id: Annotated[str, Meta(max_length=64)] = ""
