"""A method for each endpoint of the management API.

Every method raises what `connection.Connection.stream` raises, and ProtocolViolation for an answer that makes no
sense. Times in the models are milliseconds since the epoch.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import httpx

from hearth.client.connection import Connection
from hearth.client.http import parse
from hearth.core.errors import HearthError
from hearth.wire import models
from hearth.wire import versions as wire

T = TypeVar("T", bound=models.Model)
_CHUNK = 64 * 1024
_STORE_TIMEOUT = 300.0  # seconds in which the server has to check and store an archive that has arrived
_PAGE = 200


@dataclass(frozen=True, slots=True)
class LogsAsked:
    """Which lines of a log; None: all (of `limit`: as many as the server likes)."""

    since_ms: int | None = None
    invocation: str | None = None
    version: int | None = None
    source: str | None = None
    limit: int | None = None

    def params(self) -> dict[str, str | int]:
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


class Client:
    """The management API of one server, over a `Connection`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    # accounts

    def register(
        self, email: str, password: str, *, namespace: str | None = None, setup_token: str | None = None
    ) -> models.Session:
        """Make an account and log in: the tokens are stored."""
        asked = models.Register(email=email, password=password, namespace=namespace, setup_token=setup_token)
        return self._start_session("/api/v1/auth/register", asked)

    def login(self, email: str, password: str) -> models.Session:
        """Log in: the tokens are stored."""
        return self._start_session("/api/v1/auth/login", models.Login(email=email, password=password))

    def _start_session(self, path: str, asked: models.Request) -> models.Session:
        answer = self.connection.request("POST", path, body=asked.model_dump_json().encode(), anonymous=True)
        session = parse(models.Session, answer)
        self.connection.store_login(session)
        return session

    def logout(self) -> HearthError | None:
        """End the session and forget its tokens. Forgets them also when the server can't be told: returns why."""
        if self.connection.login() is None:
            return None
        refused: HearthError | None = None
        with self.connection.ending_login() as login:
            if login is not None:
                body = models.Logout(refresh_token=login.refresh_token).model_dump_json().encode()
                try:
                    self.connection.request("POST", "/api/v1/auth/logout", body=body, anonymous=True)
                except HearthError as error:
                    refused = error
        return refused

    def whoami(self) -> models.Who:
        return self._get(models.Who, "/api/v1/auth/whoami")

    def change_password(self, old: str, new: str) -> None:
        """Set one's own password. The server then ends every other session."""
        body = models.ChangePassword(old=old, new=new).model_dump_json().encode()
        self.connection.request("POST", "/api/v1/auth/password", body=body)

    def sessions(self) -> Iterator[models.SessionItem]:
        return self._pages(models.SessionItem, "/api/v1/sessions")

    def end_session(self, session_id: str) -> None:
        self.connection.request("DELETE", f"/api/v1/sessions/{quote(session_id, safe='')}")

    def end_other_sessions(self) -> int:
        """End every login but this one; returns how many."""
        answer = self.connection.request("POST", "/api/v1/sessions/end-others", body=b"")
        return parse(models.EndedSessions, answer).ended

    def server(self) -> models.ServerInfo:
        """What the server says of itself to anybody."""
        return parse(models.ServerInfo, self.connection.request("GET", "/api/v1/server", anonymous=True))

    def keys(self) -> Iterator[models.KeyItem]:
        return self._pages(models.KeyItem, "/api/v1/keys")

    def create_key(self, key: models.NewKey) -> models.CreatedKey:
        return self._post(models.CreatedKey, "/api/v1/keys", key)

    def revoke_key(self, key_id: str) -> None:
        self.connection.request("DELETE", f"/api/v1/keys/{quote(key_id, safe='')}")

    def users(self) -> Iterator[models.UserItem]:
        return self._pages(models.UserItem, "/api/v1/users")

    def add_user(self, user: models.NewUser) -> models.UserItem:
        return self._post(models.UserItem, "/api/v1/users", user)

    def set_user_disabled(self, user: str, disabled: bool) -> None:
        """`user` is an id or an e-mail."""
        verb = "disable" if disabled else "enable"
        self.connection.request("POST", f"/api/v1/users/{quote(user, safe='@')}/{verb}")

    # functions

    def functions(self, namespace: str) -> Iterator[models.FunctionItem]:
        return self._pages(models.FunctionItem, "/api/v1/functions", {"namespace": namespace})

    def function(self, namespace: str, name: str) -> models.FunctionDetail:
        return self._get(models.FunctionDetail, _path(namespace, name))

    def delete_function(self, namespace: str, name: str) -> None:
        self.connection.request("DELETE", _path(namespace, name))

    def versions(self, namespace: str, name: str) -> Iterator[wire.VersionLine]:
        """Newest first."""
        return self._pages(wire.VersionLine, _path(namespace, name, "/versions"))

    def version(self, namespace: str, name: str, number: int) -> wire.VersionLine:
        return self._get(wire.VersionLine, _path(namespace, name, f"/versions/{number}"))

    def rollback(self, namespace: str, name: str, to: int | None = None) -> wire.RolledBack:
        """Send all traffic to a version; by default the one that was live before."""
        return self._post(wire.RolledBack, _path(namespace, name, "/rollback"), wire.Rollback(to=to))

    def aliases(self, namespace: str, name: str) -> list[wire.AliasItem]:
        """By name."""
        return self._get(wire.Aliases, _path(namespace, name, "/aliases")).items

    def set_alias(
        self, namespace: str, name: str, alias: str, targets: Sequence[wire.SetShare]
    ) -> wire.AliasItem:
        path = _path(namespace, name, f"/aliases/{quote(alias, safe='')}")
        body = wire.SetAlias(targets=list(targets)).model_dump_json().encode()
        return parse(wire.AliasItem, self.connection.request("PUT", path, body=body))

    def delete_alias(self, namespace: str, name: str, alias: str) -> None:
        self.connection.request("DELETE", _path(namespace, name, f"/aliases/{quote(alias, safe='')}"))

    def deploy(
        self,
        namespace: str,
        name: str,
        archive: Path,
        *,
        content_type: str = "application/gzip",
        progress: Callable[[int], None] = lambda sent: None,
    ) -> models.Deployed:
        """Upload an archive as a new version. `progress` is told the number of bytes sent so far."""

        def chunks() -> Iterator[bytes]:
            sent = 0
            with archive.open("rb") as file:
                progress(0)
                while chunk := file.read(_CHUNK):
                    yield chunk
                    sent += len(chunk)
                    progress(sent)

        answer = self.connection.request(
            "POST",
            _path(namespace, name, "/versions"),
            body=chunks,
            content_type=content_type,
            length=archive.stat().st_size,
            timeout=_STORE_TIMEOUT,
        )
        return parse(models.Deployed, answer)

    def progress(self, namespace: str, name: str, number: int) -> Iterator[models.DeployEvent]:
        """The events of a deploy from its beginning, until one is ``done`` or ``failed``."""
        path = _path(namespace, name, f"/versions/{number}/progress")
        return self._lines(models.DeployEvent, path, {})

    def logs(self, namespace: str, name: str, asked: LogsAsked) -> Iterator[models.LogItem]:
        """Log lines, oldest first."""
        return self._lines(models.LogItem, _path(namespace, name, "/logs"), asked.params())

    def follow_logs(
        self, namespace: str, name: str, asked: LogsAsked, after: str | None = None
    ) -> Iterator[tuple[list[models.LogItem], str]]:
        """Log lines as they come, each time with the cursor after them, until the server ends the answer.

        Whoever goes on `after` the last cursor he got misses no line and gets none twice.
        """
        params: dict[str, str | int] = {**asked.params(), "follow": "true"}
        if after is not None:
            params["after"] = after
        lines: list[models.LogItem] = []
        with self.connection.stream("GET", _path(namespace, name, "/logs"), params=params) as response:
            for line in split_lines(response):
                if line.startswith(b'{"cursor"'):
                    yield lines, parse(models.LogMark, line).cursor
                    lines = []
                else:
                    lines.append(parse(models.LogItem, line))

    # secrets

    def secrets(self, namespace: str, function: str | None) -> Iterator[models.SecretItem]:
        """All in a namespace; with a function those that it may name."""
        return self._pages(models.SecretItem, _secrets(namespace, function))

    def set_secret(self, namespace: str, function: str | None, name: str, value: bytes) -> models.SecretSet:
        """Set it for a namespace, or with a function for that one alone."""
        path = f"{_secrets(namespace, function)}/{quote(name, safe='')}"
        asked = models.SetSecret(value_base64=base64.b64encode(value).decode())
        body = asked.model_dump_json(exclude_none=True).encode()
        return parse(models.SecretSet, self.connection.request("PUT", path, body=body))

    def delete_secret(
        self, namespace: str, function: str | None, name: str, *, force: bool
    ) -> models.SecretDeleted:
        path = f"{_secrets(namespace, function)}/{quote(name, safe='')}"
        asked = {"force": "true"} if force else {}
        return parse(models.SecretDeleted, self.connection.request("DELETE", path, params=asked))

    def stats(self, namespace: str, name: str) -> models.FunctionStats:
        return self._get(models.FunctionStats, _path(namespace, name, "/stats"))

    def all_stats(self, namespace: str) -> tuple[list[models.StatsItem], set[str]]:
        """Figures of all functions of a namespace, and the names of processes that did not tell theirs."""
        found: list[models.StatsItem] = []
        missing: set[str] = set()
        after: str | None = None
        while True:
            asked = {"namespace": namespace, "limit": str(_PAGE), **({"after": after} if after else {})}
            page = parse(models.StatsPage, self.connection.request("GET", "/api/v1/stats", params=asked))
            found += page.items
            missing.update(page.missing)
            after = page.next
            if after is None:
                return found, missing

    # shapes

    def _get(self, model: type[T], path: str) -> T:
        return parse(model, self.connection.request("GET", path))

    def _post(self, model: type[T], path: str, asked: models.Request) -> T:
        return parse(model, self.connection.request("POST", path, body=asked.model_dump_json().encode()))

    def _pages(self, item: type[T], path: str, params: Mapping[str, str] | None = None) -> Iterator[T]:
        after: str | None = None
        while True:
            asked = {**(params or {}), "limit": str(_PAGE), **({"after": after} if after is not None else {})}
            # mypy can't follow a generic model that is made from a value
            page_model: type[models.Page[T]] = models.Page[item]  # type: ignore[valid-type]
            page = parse(page_model, self.connection.request("GET", path, params=asked))
            yield from page.items
            if page.next is None:
                return
            after = page.next

    def _lines(self, item: type[T], path: str, params: Mapping[str, str | int]) -> Iterator[T]:
        # the server breaks every silence well before the timeout: an empty line, or the state once more
        with self.connection.stream("GET", path, params=params) as response:
            for line in split_lines(response):
                yield parse(item, line)


def split_lines(response: httpx.Response) -> Iterator[bytes]:
    """The lines of an ndjson answer. (httpx's own splits at U+2028 too, which may stand inside a JSON string.)"""
    rest = b""
    for piece in response.iter_raw():
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest


def _secrets(namespace: str, function: str | None) -> str:
    if function is not None:
        return _path(namespace, function, "/secrets")
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets"


def _path(namespace: str, name: str, rest: str = "") -> str:
    return f"/api/v1/functions/{quote(namespace, safe='')}/{quote(name, safe='')}{rest}"
