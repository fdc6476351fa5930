"""The Driver port over the keeper's socket: what control and shards use.

A lost keeper fails every call that is open (KeeperUnavailable). The next call dials again, so nobody
has to notice a restart of the keeper; what the lost one held is gone with it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from hearth.core.errors import KeeperUnavailable, ProtocolViolation, SandboxFailed, error_from_data
from hearth.core.launch import Attachment, Exit, Handle, Probe, SandboxSpec, Usage
from hearth.core.refusals import Refusal, Rights
from hearth.drivers.remote.channel import Channel
from hearth.ports.egress import LookUp
from hearth.protocol import keeper as protocol

_SLACK = 5.0  # seconds that an answer may come after its own deadline, before the keeper counts as hung
_DIAL = 10.0  # seconds to go on dialling: a keeper that restarts is back well before


class RemoteDriver:
    """Speaks to one keeper.

    Args:
        path: the keeper's socket, which decides what may be asked for.
        owner: ``own_…`` of this process; all that it starts is stopped when its connection closes.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.name = "remote"
        self._path = path
        self._owner = owner
        self._channel: Channel | None = None
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._dialling = asyncio.Lock()
        self._outputs: dict[Handle, tuple[int, int]] = {}
        self.lost: asyncio.Event = asyncio.Event()

    async def dial(self) -> None:
        """Connect now rather than at the first call. Raises KeeperUnavailable after some seconds of trying."""
        async with self._dialling:
            if self._channel is not None:
                return
            deadline = time.monotonic() + _DIAL
            while True:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                try:
                    sock.connect(str(self._path))
                    break
                except OSError as error:
                    sock.close()
                    if time.monotonic() > deadline:
                        raise KeeperUnavailable(
                            "the keeper does not answer", hint="look at the platform's own log", retry_after=1
                        ) from error
                    await asyncio.sleep(0.02)  # no event tells of a socket that will be made
            self.lost.clear()
            self._channel = Channel(sock, self._message, self._closed)
            answer, _ = await self._ask("hello", 10.0, version=protocol.VERSION, owner=self._owner)
            self.name = str(answer["driver"])

    def close(self) -> None:
        """Give up the connection; the keeper then stops all that this process owns."""
        if self._channel is not None:
            self._channel.close()

    def _message(self, message: dict[str, Any], fds: list[int]) -> None:
        answer = self._answers.pop(message.get("n", 0), None)
        if answer is None or answer.done():
            for fd in fds:
                os.close(fd)
        elif "error" in message:
            answer.set_exception(error_from_data(message["error"]))
        else:
            answer.set_result((message.get("ok") or {}, fds))

    def _closed(self) -> None:
        self._channel = None
        self.lost.set()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(KeeperUnavailable("the keeper has gone", retry_after=1))
        for fds in self._outputs.values():
            os.close(fds[0])
            os.close(fds[1])
        self._outputs.clear()

    async def _ask(self, op: str, timeout: float | None, **fields: Any) -> tuple[dict[str, Any], list[int]]:
        if self._channel is None:
            raise KeeperUnavailable("the keeper has gone", retry_after=1)
        number = next(self._numbers)
        answer: asyncio.Future[tuple[dict[str, Any], list[int]]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._channel.send({"n": number, "op": op, **fields})
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError as error:
            raise KeeperUnavailable(f"the keeper took too long over {op!r}", retry_after=1) from error
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                for fd in answer.result()[1]:  # it came in the very turn in which the caller left
                    os.close(fd)
            raise
        finally:
            self._answers.pop(number, None)

    async def _call(self, op: str, timeout: float | None, **fields: Any) -> tuple[dict[str, Any], list[int]]:
        if self._channel is None:
            await self.dial()
        return await self._ask(op, timeout, **fields)

    async def probe(self) -> Probe:
        answer, _ = await self._call("probe", 60.0)
        return protocol.probe_from_data(answer)

    async def prepare(self, artifact: str) -> None:
        await self._call("prepare", 60.0, artifact=artifact)

    async def start(self, spec: SandboxSpec, deadline: float) -> Handle:
        left = _left(deadline)
        try:
            answer, fds = await self._call(
                "start", left + _SLACK, spec=protocol.spec_to_data(spec), left=left
            )
        except (asyncio.CancelledError, KeeperUnavailable):
            if self._channel is not None:  # the answer is lost, the sandbox may be there
                self._channel.send({"n": 0, "op": "abandon", "id": spec.id})
            raise
        handle = Handle(answer["handle"])
        self._outputs[handle] = _pair(fds)
        return handle

    async def connect(self, handle: Handle, deadline: float) -> int:
        left = _left(deadline)
        _, fds = await self._call("connect", left + _SLACK, handle=handle, left=left)
        if len(fds) != 1:
            raise ProtocolViolation("the keeper sent no connection")
        return fds[0]

    async def listen(self, handle: Handle) -> int | None:
        _, fds = await self._call("listen", 10.0, handle=handle)
        return fds[0] if fds else None

    def output(self, handle: Handle) -> tuple[int, int]:
        """See the port; it came with the answer of `start`."""
        found = self._outputs.pop(handle, None)
        if found is None:
            raise SandboxFailed("what it prints was taken before, or it is gone")
        return found

    async def attach(self, handle: Handle, attachment: Attachment) -> None:
        await self._call("attach", 10.0, handle=handle, attachment=protocol.attachment_to_data(attachment))

    async def wait(self, handle: Handle) -> Exit:
        answer, _ = await self._call("wait", None, handle=handle)
        return protocol.exit_from_data(answer)

    async def stop(self, handle: Handle, grace: float) -> Exit:
        output = self._outputs.pop(handle, None)
        if output is not None:
            os.close(output[0])
            os.close(output[1])
        try:
            answer, _ = await self._call("stop", grace + 30.0, handle=handle, grace=grace)
        except KeeperUnavailable:
            if self._channel is None:
                return Exit(None, reason="gone")  # a keeper takes its sandboxes with it
            raise
        return protocol.exit_from_data(answer)

    async def list_owned(self, owner: str | None) -> list[Handle]:
        answer, _ = await self._call("list_owned", 10.0, owner=owner)
        return [Handle(handle) for handle in answer["handles"]]

    async def usage(self, handle: Handle) -> Usage:
        answer, _ = await self._call("usage", 10.0, handle=handle)
        return protocol.usage_from_data(answer)

    async def resolver_sockets(self) -> tuple[tuple[int, ...], str] | None:
        """For the resolver: ((UDP socket, TCP listener, where refused packets are told of if they are), the sandboxes' address
        block); None where there is no such set for all."""
        answer, fds = await self._call("resolver", 10.0)
        return (_set(fds), str(answer["block"])) if fds else None

    async def look_up(self) -> LookUp:
        """For the resolver: wait for the next sandbox that has sockets of its own for look-ups, or has had them."""
        answer, fds = await self._call("look_up", None)
        return LookUp(str(answer["sandbox"]), _set(fds) if fds else None)

    async def rights(self, source: str) -> Rights | None:
        """For the resolver: see `ports.egress.Judge`."""
        answer, _ = await self._call("rights", 10.0, source=source)
        return Rights(bool(answer["internet"]), frozenset(answer["names"])) if answer else None

    async def learned(self, source: str, name: str, addresses: Sequence[str], ttl: float) -> tuple[str, ...]:
        """For the resolver: see `ports.egress.Judge`."""
        answer, _ = await self._call(
            "learned", 10.0, source=source, name=name, addresses=list(addresses), ttl=ttl
        )
        return tuple(map(str, answer["told"]))

    async def refused(self, refusal: Refusal) -> None:
        """For the resolver: see `ports.egress.Judge`."""
        await self._call("refused", 10.0, refusal=dataclasses.asdict(refusal))

    async def refusal(self) -> Refusal:
        """Wait for the next thing that a sandbox of this process was refused. Raises KeeperUnavailable."""
        answer, _ = await self._call("refusal", None)
        return protocol.refusal_from_data(answer["refusal"])


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _set(fds: list[int]) -> tuple[int, ...]:
    """A pair, and one more where there is one."""
    return (*_pair(fds[:2]), *fds[2:])


def _pair(fds: list[int]) -> tuple[int, int]:
    if len(fds) != 2:
        for fd in fds:
            os.close(fd)
        raise ProtocolViolation("the keeper sent no pair of descriptors")
    return fds[0], fds[1]
