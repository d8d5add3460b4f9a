"""Secrets show themselves to nobody: the type, the answers that carry tokens, the log's second lock, the configuration."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from securechat.auth.jwt_handler import JWTHandler
from securechat.auth.tokens import BOT, LINK, new_refresh_token, new_token
from securechat.cli.output import say_json
from securechat.domain import commands as c
from securechat.domain.accounts import User
from securechat.domain.secret import Secret, decode_hook, encode_hook, mask_hook
from securechat.errors import Shutdown
from securechat.ops.logger import ConsoleFormatter, JsonFormatter, redact
from securechat.protocol.codec import encode_json, encode_msgpack
from securechat.protocol.frames import Auth
from securechat.protocol.handler import BadFrame, server_side
from securechat.sdk.profile import Profile
from securechat.server import config

CANARY = "canary-9f1c"
ANA = User(id="usr_1", username="ana", display_name="Ana")


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        format,
        lambda secret: f"{secret}",
        lambda secret: f"{secret:>30}",
        lambda secret: f"{secret!r}",
        lambda secret: "%s" % secret,  # noqa: UP031 - people write it
        lambda secret: str([secret]),
        lambda secret: str({"password": secret}),
        lambda secret: repr(c.SessionCreate(username="ana", password=secret)),
        lambda secret: repr(Auth(token=secret)),
    ],
)
def test_a_secret_is_shown_as_three_stars_however_one_asks(show: Callable[[Secret], str]) -> None:
    shown = show(Secret(CANARY))

    assert CANARY not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "use",
    [
        lambda secret: secret + "",
        lambda secret: str.join("-", [secret]),
        lambda secret: secret[0],
        len,
        list,
        json.dumps,
        msgspec.json.encode,
        msgspec.to_builtins,
        pickle.dumps,
        copy.deepcopy,
        hash,
        vars,
    ],
)
def test_a_secret_cannot_be_used_as_a_text_by_accident(use: Callable[[Secret], object]) -> None:
    with pytest.raises((TypeError, AttributeError)) as refusal:
        use(Secret(CANARY))
    assert CANARY not in str(refusal.value)


def test_secrets_are_equal_to_equal_secrets_and_to_nothing_else() -> None:
    assert Secret(CANARY) == Secret(CANARY)
    assert Secret(CANARY) != Secret("other")
    assert Secret(CANARY) != CANARY
    assert Secret("é\ud800") == Secret("é\ud800")
    assert Secret("x")
    assert not Secret("")
    assert Secret(CANARY).reveal() == CANARY


def test_a_client_sends_its_secrets_and_the_server_reads_them() -> None:
    command = c.SessionCreate(username="ana", password=Secret(CANARY))

    for payload, text in ((encode_json([command]), True), (encode_msgpack([command]), False)):
        (read,) = server_side().receive(payload, text=text)
        assert isinstance(read, c.SessionCreate)
        assert read.password == command.password


@pytest.mark.parametrize("value", [7, None, ["x"], "x" * 2_049, {"a": CANARY}])
def test_a_refused_secret_is_not_repeated_in_the_answer(value: object) -> None:
    frame = {"op": "session.create", "id": "1", "username": "ana", "password": value}
    (bad,) = server_side().receive(json.dumps([frame]).encode(), text=True)

    assert isinstance(bad, BadFrame)
    assert bad.error.field == "password"
    assert CANARY not in bad.error.detail
    assert "xxx" not in bad.error.detail


@pytest.mark.parametrize(
    "hook", [lambda kind: decode_hook(kind, "x"), lambda _: encode_hook(object()), lambda _: mask_hook(object())]
)
def test_the_hooks_know_no_other_type(hook: Callable[[type], object]) -> None:
    with pytest.raises(NotImplementedError):
        hook(dict)


@pytest.mark.parametrize(
    "answer",
    [
        c.Session(user=ANA, device="dev_1", access_token=CANARY, expires_in=1, refresh_token=CANARY),
        c.BotCreated(user=ANA, token=CANARY),
        Profile(url="http://x", username="ana", device="dev_1", refresh_token=CANARY),
        c.UserCreated(user=ANA, url=f"http://x/reset#t={CANARY}"),
        c.Link(url=f"http://x/setup#t={CANARY}", expires_at=1),
        c.Invite(code=CANARY, uses_left=1, expires_at=1, url=f"http://x/i/{CANARY}"),
        c.AccountRegister(code=Secret(CANARY), username="ana", password=Secret(CANARY)),
    ],
)
def test_answers_that_carry_tokens_do_not_show_them_in_their_repr(answer: object) -> None:
    assert CANARY not in repr(answer)
    assert repr(answer).startswith(type(answer).__name__ + "(")


def test_new_tokens_are_born_as_secrets() -> None:
    refresh, family = new_refresh_token()

    for token in (new_token(BOT), new_token(LINK), refresh, family):
        assert isinstance(token, Secret)


def test_the_log_has_a_second_lock_for_texts_of_the_form_of_a_token(tmp_path: Path) -> None:
    handler = JWTHandler(tmp_path / "keys.json", now=0)
    refresh, _ = new_refresh_token()
    canaries = [
        new_token(BOT).reveal(),
        new_token(LINK).reveal(),
        refresh.reveal(),
        handler.issue(user_id="usr_1", device_id="dev_1", now=1_000),
    ]
    for canary in canaries:
        for formatter in (JsonFormatter(), ConsoleFormatter(colour=False)):
            try:
                raise ValueError(f"a library says: {canary}")
            except ValueError as error:
                found = (type(error), error, error.__traceback__)
            line = formatter.format(
                logging.makeLogRecord({"levelno": 20, "msg": f"got {canary}", "value": canary, "exc_info": found})
            )
            for part in canary.split("\n"):
                assert part.startswith("-----") or not part or part not in line
    assert redact("usr_0000000000000ana sc_bot_ is a prefix") == "usr_0000000000000ana sc_bot_ is a prefix"


# ── configuration ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def with_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has a setting with a secret."""
    settings = msgspec.defstruct(
        "Settings", [("client_secret", Secret | None, None)], bases=(config.Settings,), frozen=True, kw_only=True
    )
    monkeypatch.setattr(config, "Settings", settings)
    monkeypatch.setattr(config, "FIELDS", {info.name: info for info in msgspec.structs.fields(settings)})
    monkeypatch.setattr(config, "HELP", config.HELP | {"client_secret": ("A secret.", False)})


@pytest.mark.parametrize("source", ["file", "environment", "file of its own"])
@pytest.mark.usefixtures("with_secret")
def test_a_setting_may_be_a_secret_and_is_never_shown(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, environ = tmp_path / "config.json", {}
    path.write_text(json.dumps({"client_secret": CANARY} if source == "file" else {}))
    (tmp_path / "secret").write_text(CANARY + "\n")
    if source == "environment":
        environ = {"SECURECHAT_CLIENT_SECRET": CANARY}
    if source == "file of its own":
        environ = {"SECURECHAT_CLIENT_SECRET_FILE": str(tmp_path / "secret")}

    settings = config.ConfigManager(path, {}, environ).settings

    assert settings.client_secret.reveal() == CANARY  # type: ignore[attr-defined]
    say_json(settings)
    assert CANARY not in repr(settings) + capsys.readouterr().out


@pytest.mark.usefixtures("with_secret")
def test_a_mistake_in_a_secret_setting_does_not_tell_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"client_secret": [CANARY], "port": "x"}))

    with pytest.raises(config.ConfigError) as refusal:
        config.ConfigManager(path, {}, {})
    assert "client_secret: must be text" in refusal.value.line
    assert CANARY not in refusal.value.line
    with pytest.raises(Shutdown, match=r"client_secret: .*cannot be read"):
        config.ConfigManager(None, {}, {"SECURECHAT_CLIENT_SECRET_FILE": str(tmp_path / "none")})


def test_what_is_no_secret_has_no_file_of_its_own() -> None:
    with pytest.raises(Shutdown, match="SECURECHAT_PORT_FILE: unknown key"):
        config.ConfigManager(None, {}, {"SECURECHAT_PORT_FILE": "/etc/hostname"})


def test_answers_for_people_mask_what_is_secret() -> None:
    stream = io.StringIO()
    stream.write(msgspec.json.encode({"x": Secret(CANARY)}, enc_hook=mask_hook).decode())

    assert stream.getvalue() == '{"x":"***"}'
