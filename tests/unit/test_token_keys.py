"""Keys of access tokens: overlap, age, the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from securechat.auth.jwt_handler import LEEWAY_S, LIFETIME_S, JWTHandler
from securechat.auth.token_key_service import TokenKeyService
from securechat.auth.token_keys import KEYS_MAX
from securechat.domain.audit import AuditEvent
from securechat.domain.secret import Secret
from securechat.errors import Conflict, Shutdown, Unauthorized
from securechat.files import write_private
from support.fakes import ManualClock

DAY = 86_400


def test_a_token_of_a_retired_key_holds_to_its_end_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    handler = JWTHandler(path, now=1_000)
    token = handler.issue(user_id="usr_1", device_id="dev_1", now=1_000)
    for _ in range(3):
        handler.keys.rotate(1_000)

    for each in (handler, JWTHandler(path, now=1_000)):
        assert each.verify(Secret(token), now=1_000 + LIFETIME_S - 1)[0] == "usr_1"
        with pytest.raises(Unauthorized):
            each.verify(Secret(token), now=1_000 + LIFETIME_S)


def test_a_retired_key_signs_nothing_for_later(tmp_path: Path) -> None:
    handler = JWTHandler(tmp_path / "keys.json", now=1_000)
    thief = JWTHandler(tmp_path / "keys.json", now=1_000)
    handler.keys.rotate(1_000)
    later = 1_000 + LIFETIME_S + LEEWAY_S
    token = thief.issue(user_id="usr_1", device_id="dev_1", now=later)

    with pytest.raises(Unauthorized):
        handler.verify(Secret(token), now=later)


async def test_a_key_rotates_by_its_age_and_those_that_ended_are_forgotten(tmp_path: Path) -> None:
    clock = ManualClock()
    handler = JWTHandler(tmp_path / "keys.json", now=clock.now_ms() / 1_000)
    remembered: list[AuditEvent] = []

    async def remember(event: AuditEvent) -> None:
        remembered.append(event)

    service = TokenKeyService(handler.keys, clock, remember)
    first = handler.keys.signing.id

    assert not await service.rotate_if_older(30 * DAY)
    clock.forward(30 * DAY + 1)
    assert await service.rotate_if_older(30 * DAY)
    assert [key.id for key in handler.keys.keys][1] == first
    clock.forward(30 * DAY + 1)
    assert await service.rotate_if_older(30 * DAY)
    assert first not in {key.id for key in handler.keys.keys}
    assert first not in (tmp_path / "keys.json").read_text()
    assert [(each.action, each.address) for each in remembered] == [("token.rotate", "server")] * 2
    assert remembered[1].details == {"key": handler.keys.signing.id}


def test_rotating_without_end_is_refused_and_drops_no_key_that_holds(tmp_path: Path) -> None:
    handler = JWTHandler(tmp_path / "keys.json", now=1_000)
    token = handler.issue(user_id="usr_1", device_id="dev_1", now=1_000)
    for _ in range(KEYS_MAX - 1):
        handler.keys.rotate(1_000)
    with pytest.raises(Conflict):
        handler.keys.rotate(1_000)

    assert handler.verify(Secret(token), now=1_001)
    handler.keys.rotate(1_000 + LIFETIME_S + LEEWAY_S)
    assert len(handler.keys.keys) == 2


@pytest.mark.parametrize("text", ["", "{}", '{"keys": []}', '{"keys": [{"id": "x", "created_at": 1, "private": "no"}]}'])
def test_a_damaged_file_stops_the_start_with_a_sentence(tmp_path: Path, text: str) -> None:
    write_private(tmp_path / "keys.json", text.encode())
    with pytest.raises(Shutdown, match="Restore it from a backup"):
        JWTHandler(tmp_path / "keys.json", now=1_000)
