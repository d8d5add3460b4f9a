"""What commands print for people."""

from __future__ import annotations

import pytest

from securechat.cli.output import counted


@pytest.mark.parametrize(("count", "words"), [(0, "0 uses"), (1, "1 use"), (2, "2 uses")])
def test_one_is_not_many(count: int, words: str) -> None:
    assert counted(count, "use") == words


def test_what_has_another_plural_says_so() -> None:
    assert [counted(count, "message is", "messages are") for count in (1, 2)] == ["1 message is", "2 messages are"]
