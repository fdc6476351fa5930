"""Serves a driver on the keeper's sockets. It never reads a guest's bytes, nor anything from the network.

What a client started dies with the client's connection; nobody can touch what another one started. What a client may ask
for follows from the socket by which it came, and the kernel says who it is; what it says of itself gives it nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hearth.core.errors import (
    Forbidden,
    HearthError,
    PlatformError,
    ProtocolViolation,
    SandboxFailed,
    error_to_data,
)
from hearth.core.launch import Handle
from hearth.core.refusals import Refusal, Rights
from hearth.drivers.remote.channel import Channel
from hearth.keeper.refusals import Refusals
from hearth.ports.driver import CanAttach, CanListen, Driver
from hearth.ports.egress import LookUps
from hearth.protocol import keeper as protocol

log = logging.getLogger(__name__)

Answer = tuple[dict[str, Any], list[int]]


class Role(Enum):
    """What a client may ask for."""

    PLATFORM = frozenset(
        {
            "probe", "prepare", "start", "connect", "listen", "attach", "wait", "stop", "abandon", "list_owned", "usage",
            "refusal",
        }
    )  # fmt: skip
    RESOLVER = frozenset({"resolver", "look_up", "rights", "learned", "refused"})


class ForResolver(Protocol):
    """What the resolver process is given and may ask: see `ports.egress.Networks` for what is not said here."""

    def resolver_sockets(self) -> tuple[tuple[socket.socket, ...], str] | None:
        """((UDP, TCP listener, where refused packets are told of if they are), address block of the sandboxes), or None where
        there is no such set for all."""
        ...

    def rights(self, source: str) -> Rights | None: ...

    async def learned(
        self, source: str, name: str, addresses: Sequence[str], ttl: float
    ) -> tuple[str, ...]: ...

    def sandbox_of(self, source: str) -> str | None: ...

    def look_ups(self) -> LookUps | None:
        """News of sandboxes that have a pair each, or None where there are none such."""
        ...


class KeeperServer:
    """Accepts clients and answers their requests.

    Args:
        driver: the real one, already wrapped by `drivers.safe`.
        resolver: where the resolver's sockets and answers come from, or None.
    """

    def __init__(self, driver: Driver, resolver: ForResolver | None) -> None:
        self.driver = driver
        self.resolver = resolver
        self._clients: set[_Client] = set()
        self._listeners: list[socket.socket] = []

    def listen(self, path: Path, uid: int, role: Role) -> None:
        """Bind a socket, which only `uid` and root may open; whoever comes by it has this role."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if os.geteuid() == 0:
            os.chown(path, uid, -1)
        listener.listen(64)
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener.fileno(), partial(self._accept, listener, uid, role))

    def _accept(self, listener: socket.socket, uid: int, role: Role) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        pid, peer, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if peer not in (uid, 0):
            log.warning("refused a client of uid %d", peer)
            sock.close()
            return
        self._clients.add(_Client(self, sock, role, pid, self._clients.discard))

    def is_another(self, owner: str, pid: int) -> bool:
        """Whether an owner's name is taken by another process, which still has something here."""
        return any(client.owner == owner and client.pid != pid for client in self._clients)

    def tell(self, refusal: Refusal) -> None:
        """Tell whoever owns a sandbox what it was refused."""
        for client in self._clients:
            if client.owns(refusal.sandbox):
                client.refusals.add(refusal)

    async def close(self) -> None:
        """Stop listening, drop every client and stop all that they owned; returns when it is gone."""
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        clients = list(self._clients)
        for client in clients:
            client.channel.close()
        await asyncio.gather(*(client.gone for client in clients))


class _Client:
    """One connection: its role, its owner's name, its sandboxes, its requests in work."""

    def __init__(
        self,
        server: KeeperServer,
        sock: socket.socket,
        role: Role,
        pid: int,
        forget: Callable[[_Client], None],
    ) -> None:
        self.pid = pid
        self.owner: str | None = None
        self._server = server
        self._driver = server.driver
        self._role = role
        self._forget = forget
        self._handles: dict[Handle, str] = {}  # handle → sandbox id
        self._abandoned: set[str] = set()
        self._news: LookUps | None = None
        self.refusals = Refusals()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clearing: asyncio.Task[None] | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ops: dict[str, Callable[[dict[str, Any]], Awaitable[Answer]]] = {
            "probe": self._probe,
            "prepare": self._prepare,
            "start": self._start,
            "connect": self._connect,
            "listen": self._listen,
            "attach": self._attach,
            "wait": self._wait,
            "stop": self._stop,
            "abandon": self._abandon,
            "list_owned": self._list_owned,
            "usage": self._usage,
            "resolver": self._resolver,
            "look_up": self._look_up,
            "rights": self._rights,
            "learned": self._learned,
            "refused": self._refused,
            "refusal": self._refusal,
        }
        self.channel = Channel(sock, self._message, self._closed)

    def _message(self, message: dict[str, Any], fds: list[int]) -> None:
        for fd in fds:  # clients have none to send
            os.close(fd)
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: dict[str, Any]) -> None:
        number = message.get("n")
        try:
            data, fds = await self._dispatch(message)
        except HearthError as error:
            self.channel.send({"n": number, "error": error_to_data(error)})
            return
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("a client sent nonsense: %r", error)
            self.channel.send(
                {"n": number, "error": error_to_data(ProtocolViolation("a request that makes no sense"))}
            )
            return
        except Exception as error:  # the keeper must outlive any one request: say it, log it, go on
            log.exception("request %r failed", message.get("op"))
            self.channel.send(
                {"n": number, "error": error_to_data(SandboxFailed(f"the keeper failed: {error!r}"))}
            )
            return
        self.channel.send({"n": number, "ok": data}, fds)

    async def _dispatch(self, message: dict[str, Any]) -> Answer:
        op = message["op"]
        if op == "hello":
            return self._hello(message)
        if self.owner is None:
            raise ProtocolViolation("the first request must be hello")
        if op not in self._ops:
            raise ProtocolViolation(f"unknown request {str(op)[:32]!r}")
        if op not in self._role.value:
            log.warning("refused %r to a client whose role is %s", op, self._role.name.lower())
            raise Forbidden("the keeper does not do this for you")
        return await self._ops[op](message)

    def _hello(self, message: dict[str, Any]) -> Answer:
        if message["version"] != protocol.VERSION:
            raise ProtocolViolation("a client of another version; restart the platform as a whole")
        if self.owner is not None:
            raise ProtocolViolation("hello was said before")
        owner = str(message["owner"])
        if self._server.is_another(owner, self.pid):
            log.warning("refused process %d as %s, who is another process", self.pid, owner[:40])
            raise Forbidden("this owner is another process")
        self.owner = owner
        return {"driver": self._driver.name}, []

    def owns(self, sandbox: str) -> bool:
        """Whether it started this sandbox."""
        return sandbox in self._handles.values()

    def _mine(self, message: dict[str, Any]) -> Handle:
        handle = Handle(message["handle"])
        if handle not in self._handles:
            raise SandboxFailed("there is no such sandbox (any more)")
        return handle

    async def _probe(self, message: dict[str, Any]) -> Answer:
        return protocol.probe_to_data(await self._driver.probe()), []

    async def _prepare(self, message: dict[str, Any]) -> Answer:
        await self._driver.prepare(message["artifact"])
        return {}, []

    async def _start(self, message: dict[str, Any]) -> Answer:
        spec = protocol.spec_from_data(message["spec"])
        if spec.owner != self.owner:
            raise Forbidden("a sandbox for another owner")
        handle = await self._driver.start(spec, time.monotonic() + float(message["left"]))
        if self.channel.closed or spec.id in self._abandoned:
            self._abandoned.discard(spec.id)
            await self._driver.stop(handle, 0.0)
            raise PlatformError("nobody waits for this sandbox any more")
        self._handles[handle] = spec.id
        return {"handle": handle}, list(self._driver.output(handle))

    async def _connect(self, message: dict[str, Any]) -> Answer:
        fd = await self._driver.connect(self._mine(message), time.monotonic() + float(message["left"]))
        return {}, [fd]

    async def _listen(self, message: dict[str, Any]) -> Answer:
        handle = self._mine(message)
        fd = await self._driver.listen(handle) if isinstance(self._driver, CanListen) else None
        return {}, [] if fd is None else [fd]

    async def _attach(self, message: dict[str, Any]) -> Answer:
        handle = self._mine(message)
        if not isinstance(self._driver, CanAttach):
            raise PlatformError(f"the {self._driver.name} driver can't attach")
        await self._driver.attach(handle, protocol.attachment_from_data(message["attachment"]))
        return {}, []

    async def _wait(self, message: dict[str, Any]) -> Answer:
        return dataclasses.asdict(await self._driver.wait(self._mine(message))), []

    async def _stop(self, message: dict[str, Any]) -> Answer:
        handle = Handle(message["handle"])
        if handle not in self._handles and handle not in await self._driver.list_owned(self.owner):
            return {"code": None, "reason": "gone"}, []
        result = await self._driver.stop(handle, min(60.0, max(0.0, float(message["grace"]))))
        self._handles.pop(handle, None)
        return dataclasses.asdict(result), []

    async def _abandon(self, message: dict[str, Any]) -> Answer:
        sandbox = str(message["id"])
        for handle, known in list(self._handles.items()):
            if known == sandbox:
                await self._driver.stop(handle, 0.0)
                self._handles.pop(handle, None)
                return {}, []
        self._abandoned.add(sandbox)  # its start is still in work
        return {}, []

    async def _list_owned(self, message: dict[str, Any]) -> Answer:
        return {"handles": await self._driver.list_owned(message["owner"])}, []

    async def _usage(self, message: dict[str, Any]) -> Answer:
        return dataclasses.asdict(await self._driver.usage(self._mine(message))), []

    async def _resolver(self, message: dict[str, Any]) -> Answer:
        found = self._server.resolver.resolver_sockets() if self._server.resolver is not None else None
        if found is None:
            return {}, []
        sockets, block = found
        return {"block": block}, [os.dup(sock.fileno()) for sock in sockets]

    async def _rights(self, message: dict[str, Any]) -> Answer:
        rights = (
            self._server.resolver.rights(str(message["source"]))
            if self._server.resolver is not None
            else None
        )
        return {} if rights is None else {"internet": rights.internet, "names": sorted(rights.names)}, []

    async def _learned(self, message: dict[str, Any]) -> Answer:
        source, name = str(message["source"]), str(message["name"])
        addresses, ttl = [str(text) for text in message["addresses"]], float(message["ttl"])
        if self._server.resolver is None:
            return {"told": []}, []
        return {"told": await self._server.resolver.learned(source, name, addresses, ttl)}, []

    async def _refused(self, message: dict[str, Any]) -> Answer:
        """The resolver tells what a sandbox was refused; only the sandbox's own log is the worse for a lie."""
        refusal = protocol.refusal_from_data(message["refusal"])
        resolver = self._server.resolver
        sandbox = None if resolver is None else resolver.sandbox_of(refusal.sandbox)
        if sandbox is not None:
            self._server.tell(dataclasses.replace(refusal, sandbox=sandbox))
        return {}, []

    async def _refusal(self, message: dict[str, Any]) -> Answer:
        return {"refusal": dataclasses.asdict(await self.refusals.next())}, []

    async def _look_up(self, message: dict[str, Any]) -> Answer:
        """The next one that comes or goes; its sockets with it when it comes."""
        if self._news is None and self._server.resolver is not None:
            self._news = self._server.resolver.look_ups()
        if self._news is None:
            await asyncio.Event().wait()  # until the client leaves: there will never be one
            raise AssertionError("nobody sets that event")
        one = await self._news.next()
        return {"sandbox": one.sandbox}, list(one.sockets or ())

    def _closed(self) -> None:
        self._clearing = asyncio.get_running_loop().create_task(self._clear())

    async def _clear(self) -> None:
        """The client has gone: end its requests (a start in work stops its own sandbox), then stop what it owned."""
        starting = [task for task in self._tasks if not task.done()]
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        if self._news is not None:
            self._news.close()
        stops = [self._driver.stop(handle, 0.0) for handle in self._handles]
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("a sandbox could not be stopped: %r", result)
        with contextlib.suppress(asyncio.InvalidStateError):
            self.gone.set_result(None)
        self._forget(self)
