"""HTTP/1.1 to one server: one request at a time, and httpx's errors as our own."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from hearth import __version__
from hearth.core.errors import ControlUnavailable, InvalidInput, ProtocolViolation
from hearth.wire import models

CONNECT_TIMEOUT, ANSWER_TIMEOUT = 10.0, 60.0  # seconds

Body = (
    bytes | Callable[[], Iterator[bytes]] | None
)  # a function, so that a second try sends it from its beginning
T = TypeVar("T", bound=models.Model)


def normalise_server(url: str) -> str:
    """``HTTP://Host:8080/`` as ``http://host:8080``. Raises InvalidInput for what is no http or https URL."""
    hint = "write it like http://127.0.0.1:8080"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"{url!r} is not a server's URL", hint=hint) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidInput(f"{url!r} is not a server's URL", hint=hint)
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("a server's URL holds no name and password", hint=hint)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port is not None else ''}{parts.path.rstrip('/')}"


def is_loopback(server: str) -> bool:
    """Whether a normalised server URL names this machine."""
    host = urlsplit(server).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Http:
    """The connection pool for one server (a normalised URL). Close it by `close` or `with`."""

    def __init__(self, server: str, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        self.server = server
        self._connect_timeout = connect_timeout
        # Reading the CA bundle takes 20 ms; plain HTTP never uses it (redirects are not followed).
        here = is_loopback(server)
        verify: ssl.SSLContext | bool = True
        if server.startswith("http:"):
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        elif here:
            verify = (
                ssl.create_default_context()
            )  # knows SSL_CERT_FILE, which httpx reads with the proxies only
        self._client = httpx.Client(
            verify=verify,
            trust_env=not here,  # a configured proxy can't reach this machine's own loopback
            headers={"User-Agent": f"hearth/{__version__}", "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    @contextlib.contextmanager
    def exchange(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = ANSWER_TIMEOUT,
    ) -> Iterator[httpx.Response]:
        """Send one request as it is given, and yield the answer's head whatever its status.

        Raises:
            ControlUnavailable: the server can't be reached, or the connection broke.
            InvalidInput: the request can't be written as HTTP.
        """
        with self._translated():
            request = self._client.build_request(
                method,
                self.server + path,
                params=params,
                content=body() if callable(body) else body,
                headers=dict(headers or {}),
                timeout=httpx.Timeout(ANSWER_TIMEOUT, connect=self._connect_timeout, read=timeout),
            )
            response = self._client.send(request, stream=True)
            try:
                yield response
            finally:
                response.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """httpx's errors as ours: the one table for them."""
        hint = "start the platform with: hearth up; or name another with --server URL or HEARTH_SERVER"
        try:
            yield
        except httpx.ConnectError as error:
            if "CERTIFICATE" in str(error).upper():
                hint = "have SSL_CERT_FILE name the CA bundle that your server's certificate is of"
            raise ControlUnavailable(f"nothing answers at {self.server} ({error})", hint=hint) from error
        except httpx.TimeoutException as error:
            raise ControlUnavailable(f"{self.server} did not answer in time", hint="try again") from error
        except (httpx.InvalidURL, httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
            raise InvalidInput(f"the request can't be sent: {error}", hint="check headers and URL") from error
        except httpx.TransportError as error:
            raise ControlUnavailable(
                f"the connection to {self.server} broke ({error or type(error).__name__})", hint="try again"
            ) from error


def read_some(response: httpx.Response, most: int) -> bytes:
    """An answer's body, cut at `most` bytes."""
    found = b""
    for piece in response.iter_raw():
        found += piece
        if len(found) >= most:
            break
    return found[:most]


def parse(model: type[T], body: bytes) -> T:
    """Read an answer. Raises ProtocolViolation when it is not of that shape."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise ProtocolViolation(
            f"the server's answer is not a {model.__name__}",
            hint="the server may be of another version than this program: hearth --version",
        ) from error
