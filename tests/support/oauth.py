"""An app that asks SecureChat for tokens, honestly or not."""

from __future__ import annotations

import base64
import hashlib
import secrets
import sqlite3
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2 as httpx

from support.running import RunningServer

REDIRECT = "https://app.example/back?x=1"


def s256(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


class App:
    """A registered app, and a person who is asked."""

    def __init__(self, server: RunningServer, owner: str, person: str = "", **more: Any) -> None:
        self.server = server
        self.person = person or owner
        body = {"name": "Poll bot", "scopes": ["profile", "rooms:read", "messages:read", "messages:write"]}
        created = server.post("/admin/apps", body | {"redirect_uris": [REDIRECT]} | more, owner)
        self.id, self.secret = created["app"]["id"], created["secret"]
        self.verifier = secrets.token_urlsafe(40)

    def request(self, **more: Any) -> dict[str, Any]:
        fields = {
            "client_id": self.id, "redirect_uri": REDIRECT, "response_type": "code", "scope": "", "state": "st",
            "code_challenge": s256(self.verifier), "code_challenge_method": "S256",
        } | more  # fmt: skip
        return {key: value for key, value in fields.items() if value is not None}

    def consent(self, *, approve: bool = True, status: int = 0, **more: Any) -> dict[str, str]:
        """Answer the consent page; return what stands in the address that the browser goes to."""
        answer = self.server.post("/consents", self.request(**more) | {"approve": approve}, self.person, status)
        return dict(parse_qsl(urlsplit(answer.get("url", "")).query))

    def code(self, **more: Any) -> str:
        return self.consent(**more)["code"]

    def form(self, code: str, **more: Any) -> dict[str, Any]:
        fields = {
            "grant_type": "authorization_code", "client_id": self.id, "code": code, "redirect_uri": REDIRECT,
            "code_verifier": self.verifier, "client_secret": self.secret or None,
        } | more  # fmt: skip
        return {key: value for key, value in fields.items() if value is not None}

    def tokens(self, **more: Any) -> Any:
        status, found = self.ask(self.form(self.code(**more)))
        assert status == 200, found
        return found

    def ask(self, form: Any, path: str = "/oauth/token", **more: Any) -> tuple[int, Any]:
        with httpx.Client(trust_env=False, timeout=20) as http:
            more = {"data": form} | more if form is not None else more
            answer = http.post(self.server.url + path, **more)
        return answer.status_code, answer.json()


def change(server: RunningServer, sql: str, values: tuple[Any, ...] = ()) -> None:
    """Change the database of a running server: let time pass for something."""
    database = sqlite3.connect(server.data / "securechat.db", timeout=10)
    with database:
        database.execute(sql, values)
    database.close()
