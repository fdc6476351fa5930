"""The Engine API of a Docker daemon, as far as the driver needs it: a dozen requests, an event stream, attached streams.

https://docs.docker.com/engine/api/v1.41/. httpx speaks the requests; what is attached is taken as a plain socket, so that its bytes
go on into pipes without passing through this process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from hearth.core.errors import SandboxFailed
from hearth.linux.sockets import short_name

NEWEST, OLDEST = (
    (1, 41),
    (1, 40),
)  # what this was written against; below that, settings that are relied on are not known
_HEAD_MAX = 16 << 10  # bytes of an answer's head
_CONNECTIONS = 64


class EngineRefused(SandboxFailed):
    """The daemon answered that it can't.

    Args:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"docker refused: {message}")
        self.status = status


class EngineGone(SandboxFailed):
    """The daemon can't be reached, or left without an answer: what was asked for may have been done."""


class Engine:
    """One daemon. `open` first, `close` at the end.

    Args:
        path: of its Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._client: httpx.AsyncClient | None = None
        self._version = "1.41"

    async def open(self) -> None:
        """Find out which version of the API is spoken. Raises EngineGone, EngineRefused."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=str(self.path),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=_CONNECTIONS),
            ),
            base_url="http://docker",
            timeout=httpx.Timeout(60.0),
            trust_env=False,
        )
        said = await self.request("GET", "/version", plain=True)
        spoken = [_parsed(said.get(name, "")) for name in ("MinAPIVersion", "ApiVersion")]
        if spoken[1] < OLDEST:
            await self.close()
            raise EngineRefused(
                400, f"its API is {said.get('ApiVersion')}; {OLDEST[0]}.{OLDEST[1]} or newer is needed"
            )
        chosen = max(spoken[0], min(NEWEST, spoken[1]))
        self._version = f"{chosen[0]}.{chosen[1]}"

    async def close(self) -> None:
        """Idempotent."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        plain: bool = False,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """One request; its JSON answer, or None where there is none.

        Args:
            path: below the version.
            timeout: seconds; None: a minute.
            plain: without a version in the path.

        Raises EngineRefused, EngineGone.
        """
        client = self._client
        if client is None:
            raise EngineGone("the connection to docker is closed")
        where = path if plain else f"/v{self._version}{path}"
        try:
            answer = await client.request(
                method,
                where,
                params=dict(query or {}),
                json=body,
                timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
            )
        except httpx.HTTPError as error:
            raise gone(self.path, error) from error
        if answer.status_code >= 400:
            raise EngineRefused(answer.status_code, _message(answer.content))
        return answer.json() if answer.content.strip() else None

    async def events(self, **filters: list[str]) -> AsyncIterator[dict[str, Any]]:
        """What happens from now on, as long as the daemon lives; the first is an empty one, which says that it is heard.

        Raises EngineRefused, EngineGone.
        """
        client = self._client
        if client is None:
            raise EngineGone("the connection to docker is closed")
        query = {"filters": json.dumps(filters)}
        try:
            async with client.stream(
                "GET", f"/v{self._version}/events", params=query, timeout=httpx.Timeout(60.0, read=None)
            ) as answer:
                if answer.status_code >= 400:
                    raise EngineRefused(answer.status_code, _message(await answer.aread()))
                yield {}
                async for line in answer.aiter_lines():
                    if line:
                        yield json.loads(line)
        except httpx.HTTPError as error:
            raise gone(self.path, error) from error

    async def build(self, context: bytes, tag: str, network: str = "") -> AsyncIterator[dict[str, Any]]:
        """Build an image from a tar with a Dockerfile in it; what it says as it goes. Raises EngineRefused, EngineGone."""
        client = self._client
        if client is None:
            raise EngineGone("the connection to docker is closed")
        query = {"t": tag, "rm": "1", "forcerm": "1", **({"networkmode": network} if network else {})}
        try:
            async with client.stream(
                "POST",
                f"/v{self._version}/build",
                params=query,
                content=context,
                headers={"Content-Type": "application/x-tar"},
                timeout=httpx.Timeout(60.0, read=None),
            ) as answer:
                if answer.status_code >= 400:
                    raise EngineRefused(answer.status_code, _message(await answer.aread()))
                async for line in answer.aiter_lines():
                    if line.strip():
                        yield json.loads(line)
        except httpx.HTTPError as error:
            raise gone(self.path, error) from error

    async def attach(self, container: str) -> socket.socket:
        """A container's standard streams on one socket (non-blocking, the caller's): what is written to it is its input;
        what is read are frames of its output.

        Raises EngineRefused, EngineGone.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            with short_name(self.path) as name:
                await loop.sock_connect(sock, name)
            head = (
                f"POST /v{self._version}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\n"
                "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
            )
            await loop.sock_sendall(sock, head.encode())
            status, said = await _read_head(sock)
            if status not in (101, 200):
                raise EngineRefused(status, said)
            return sock
        except OSError as error:
            sock.close()
            raise gone(self.path, error) from error
        except BaseException:
            sock.close()
            raise


def gone(path: Path, error: Exception) -> EngineGone:
    return EngineGone(
        f"docker does not answer at {path}: {str(error) or type(error).__name__}",
        hint="is the docker service running?",
    )


async def _read_head(sock: socket.socket) -> tuple[int, str]:
    """(status, last line) of an answer, whose body is left where it is."""
    while True:
        await _readable(sock)
        try:
            seen = sock.recv(_HEAD_MAX, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        end = seen.find(b"\r\n\r\n")
        if end >= 0:
            sock.recv(end + 4)
            status = int(seen.split(b" ", 2)[1])
            return status, seen[end + 4 :].decode("utf-8", "replace").strip()[-400:] or f"status {status}"
        if not seen or len(seen) >= _HEAD_MAX:
            raise ConnectionError("it closed the connection")
        await asyncio.sleep(0.001)  # the rest of it is on its way


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), _done, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


def _done(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])[:1000]
    except (ValueError, KeyError, TypeError):
        return content.decode("utf-8", "replace").strip()[:400] or "no reason was given"


def _parsed(version: str) -> tuple[int, int]:
    major, _, minor = str(version).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
