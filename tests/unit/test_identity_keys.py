"""The keys by which clients know the server, on a disk that changes while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from securechat.errors import Shutdown
from securechat.server.identity import IdentityKeys


def test_a_key_of_the_server_that_cannot_be_read_leaves_the_old_ones_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("securechat.server.identity.LOOK_S", -1.0)
    keys = IdentityKeys(tmp_path)
    keys.load()
    before = keys.choose(()).key_id
    (pem,) = tmp_path.glob("identity-*.pem")
    pem.chmod(0o640)
    index = tmp_path / "identity.json"
    index.write_bytes(index.read_bytes() + b"\n")

    assert [keys.choose(()).key_id for _ in range(3)] == [before] * 3
    assert "can be read by others" in keys.problem
    assert caplog.text.count("identity keys refused, the old ones stay") == 1
    index.unlink()
    assert keys.choose(()).key_id == before
    assert "cannot be used" in keys.problem
    index.write_text("[]")
    with pytest.raises(Shutdown):
        IdentityKeys(tmp_path).load()
    assert keys.choose(()).key_id == before
    pem.chmod(0o600)
    index.unlink()
    fresh = IdentityKeys(tmp_path)
    fresh.load()
    assert keys.choose(()).key_id == fresh.choose(()).key_id
    assert keys.problem == ""
