"""Passwords that are guessed first."""

from __future__ import annotations

import re
from typing import Final

from securechat.domain.secret import Secret

_COMMON: Final = frozenset(
    {
        "password",
        "passwort",
        "passw0rd",
        "p@ssword",
        "p@ssw0rd",
        "qwertyuiop",
        "qwertzuiop",
        "qwerty123",
        "asdfghjkl",
        "1q2w3e4r",
        "1qaz2wsx",
        "q1w2e3r4",
        "zaq12wsx",
        "iloveyou",
        "princess",
        "sunshine",
        "football",
        "baseball",
        "basketball",
        "superman",
        "batman123",
        "trustno1",
        "whatever",
        "starwars",
        "computer",
        "internet",
        "welcome1",
        "welcome123",
        "changeme",
        "letmein1",
        "letmein123",
        "admin123",
        "administrator",
        "abcd1234",
        "abc12345",
        "a1b2c3d4",
        "michael1",
        "jennifer",
        "charlie1",
        "liverpool",
        "chocolate",
        "butterfly",
        "dragon123",
        "monkey123",
        "master123",
        "shadow123",
        "secret123",
        "secretsecret",
        "testtest",
        "test1234",
        "passpass",
        "qazwsxedc",
        "securechat",
    }
)
"""Of eight characters and more: shorter ones are refused anyway."""
_WORD: Final = re.compile(r"^(.*?[a-z@$])[0-9!?.]*$", re.DOTALL)


def is_common(password: Secret) -> bool:
    """Return whether a password is one of the commonest, digits behind it or not, or a short row of digits or of one letter."""
    text = password.reveal().casefold()
    word = _WORD.match(text)
    is_word = text in _COMMON or (word is not None and word[1] in _COMMON)
    is_row = len(text) <= _ROW_MAX and (text in _DIGITS or text[::-1] in _DIGITS or (text.isascii() and len(set(text)) == 1))
    return is_word or is_row


_DIGITS: Final = "0123456789" * 4
_ROW_MAX: Final = 16
