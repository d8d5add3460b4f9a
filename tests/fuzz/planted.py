"""A parser with a bug on purpose: whether fuzzing finds anything at all."""

from __future__ import annotations

from securechat.crypto.wire import Reader
from securechat.errors import SessionRefused


def weak(data: bytes) -> None:
    """Fail behind five bytes in a row, which nobody guesses at once, but one after the other."""
    reader = Reader(data)
    try:
        for each in b"SCSL1":
            reader.expect(each)
        reader.end()
    except SessionRefused:
        return
    raise AssertionError("the planted bug")
