"""One Hearth server, spoken to as somebody: credentials, their renewal, refusals as our own errors."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self

import httpx

from hearth.client.credentials import CredentialsFile, Login
from hearth.client.errors import error_from_body
from hearth.client.http import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Body, Http, parse, read_some
from hearth.core.errors import InvalidInput, Unauthenticated
from hearth.wire import models

_REFRESH_BEFORE = 30.0  # seconds of life below which an access token is renewed before it is used
_ERROR_BODY_MAX = 1 << 20
NOT_LOGGED_IN = (
    "run: hearth login --email YOU@EXAMPLE.COM (hearth register, where you have no account yet); "
    "or set HEARTH_TOKEN to an API key"
)


class Connection:
    """One server, as one person (the token file's login), as an API key, or as nobody.

    Args:
        server: normalised URL.
        credentials: the token file.
        api_key: used instead of the token file when given.
        connect_timeout: seconds to try to reach it.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        server: str,
        credentials: CredentialsFile,
        *,
        api_key: str | None = None,
        connect_timeout: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise InvalidInput(
                "HEARTH_TOKEN is not an API key", hint="make one with: hearth keys create --name NAME"
            )
        self.server = server
        self.api_key = api_key
        self.credentials = credentials
        self._now = now
        self._email: str | None = None  # whose login this command began with
        self.http = Http(server, connect_timeout or CONNECT_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def login(self) -> Login | None:
        """The token file's entry for this server."""
        return self.credentials.read().logins.get(self.server)

    def store_login(self, session: models.Session) -> Login:
        """Keep what a registration or a login gave, and talk to this server by default from now on."""
        with self.credentials.locked():
            saved = self.credentials.read()
            before = saved.logins.get(self.server)
            same = before is not None and before.email == session.user.email
            login = Login(
                email=session.user.email,
                namespace=session.user.namespace,
                access_token=session.tokens.access_token,
                refresh_token=session.tokens.refresh_token,
                expires_at=self._now() + session.tokens.expires_in,
                use=before.use if before is not None and same else None,
            )
            self.credentials.write(saved.with_login(self.server, login).with_server(self.server))
        return login

    def remember(self, *, namespace: str | None = None) -> None:
        """Talk to this server by default from now on, and where somebody is logged in, in that namespace."""
        with self.credentials.locked():
            saved = self.credentials.read().with_server(self.server)
            login = saved.logins.get(self.server)
            if login is not None and namespace is not None:
                saved = saved.with_login(self.server, dataclasses.replace(login, use=namespace))
            self.credentials.write(saved)

    @contextlib.contextmanager
    def ending_login(self) -> Iterator[Login | None]:
        """This server's entry, as it stands now; dropped from the token file afterwards, whatever happens meanwhile.

        Nobody renews or replaces it until then, so what is ended on the server is what is forgotten here.
        """
        with self.credentials.locked():
            saved = self.credentials.read()
            try:
                yield saved.logins.get(self.server)
            finally:
                self.credentials.write(saved.without_login(self.server))

    def bearer(self) -> str | None:
        """A credential that should be good for the next seconds, or None when there is none.

        Raises:
            Unauthenticated: the session has ended.
        """
        if self.api_key is not None:
            return self.api_key
        login = self.login()
        if login is None:
            return None
        self._email = login.email
        if login.expires_at - self._now() < _REFRESH_BEFORE:
            return self.renew(login.access_token)
        return login.access_token

    def renew(self, stale: str) -> str:
        """Trade the refresh token for a new access token, which is returned.

        Args:
            stale: the access token that is no good. Whoever waited for the lock finds another one, and uses that.

        Raises:
            Unauthenticated: the session has ended; it is forgotten here.
        """
        with self.credentials.locked():
            saved = self.credentials.read()
            login = saved.logins.get(self.server)
            if login is None:
                raise Unauthenticated("you are not logged in", hint=NOT_LOGGED_IN)
            if self._email is not None and login.email != self._email:
                raise Unauthenticated(
                    f"{login.email} has logged in here meanwhile",
                    hint="run the command again, as whom you mean",
                )
            if login.access_token != stale:
                return login.access_token
            body = models.Refresh(refresh_token=login.refresh_token).model_dump_json().encode()
            try:
                answer = self.request("POST", "/api/v1/auth/refresh", body=body, anonymous=True)
            except Unauthenticated as error:
                self.credentials.write(saved.without_login(self.server))
                raise Unauthenticated("your session has ended", hint="run: hearth login") from error
            tokens = parse(models.Tokens, answer)
            fresh = dataclasses.replace(
                login,
                access_token=tokens.access_token,
                refresh_token=tokens.refresh_token,
                expires_at=self._now() + tokens.expires_in,
            )
            self.credentials.write(saved.with_login(self.server, fresh))
            return fresh.access_token

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Body = None,
        content_type: str = "application/json",
        length: int | None = None,
        anonymous: bool = False,
        timeout: float = ANSWER_TIMEOUT,
    ) -> bytes:
        """One call of the management API; returns the answer's body. Errors as of `stream`."""
        with self.stream(
            method,
            path,
            params=params,
            body=body,
            content_type=content_type,
            length=length,
            anonymous=anonymous,
            timeout=timeout,
        ) as response:
            return response.read()

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Body = None,
        content_type: str = "application/json",
        length: int | None = None,
        anonymous: bool = False,
        timeout: float | None = ANSWER_TIMEOUT,
    ) -> Iterator[httpx.Response]:
        """One call of the management API whose answer is read as it comes.

        Args:
            length: bytes of a body that is made on the way; told to the server, who may refuse it at once.
            timeout: seconds without a byte after which the answer is given up; None never.

        Raises:
            HearthError: what the server says, as its own class.
            Unauthenticated: nobody is logged in, or the session has ended.
            ControlUnavailable: the server can't be reached, or the connection broke.
        """
        token = None if anonymous else self.bearer()
        if token is None and not anonymous:
            raise Unauthenticated(f"you are not logged in to {self.server}", hint=NOT_LOGGED_IN)
        headers = {"Content-Type": content_type} if body is not None else {}
        if length is not None:
            headers["Content-Length"] = str(length)
        renewed = False
        while True:
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            with self.http.exchange(
                method, path, params=params, body=body, headers=headers, timeout=timeout
            ) as response:
                if response.is_success:
                    yield response
                    return
                error = error_from_body(
                    read_some(response, _ERROR_BODY_MAX),
                    status=response.status_code,
                    server=self.server,
                    retry_after=response.headers.get("Retry-After"),
                )
            if (
                isinstance(error, Unauthenticated)
                and token is not None
                and self.api_key is None
                and not renewed
            ):
                token, renewed = self.renew(token), True
                continue
            raise error
