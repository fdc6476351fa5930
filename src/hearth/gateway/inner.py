"""HEARTH_URL: the door in each sandbox by which a function calls functions, as itself.

It listens on the sandbox's own loopback, so only what runs in that sandbox can dial it, and who dials is known without a credential. Only
``/fn`` is behind it. A call ends with the call that made it, at the latest, belongs to its trace, and is one deeper.
"""

from __future__ import annotations

import asyncio
import socket

from hearth.app.instances import Instance
from hearth.app.slot import Slot
from hearth.core import limits
from hearth.core.errors import NoCapacity, NotFound
from hearth.core.permissions import Action, KeyScope, Principal, Role
from hearth.core.routing import Deployed, Route
from hearth.gateway.call import FunctionCall
from hearth.gateway.connection import Connection
from hearth.gateway.door import Door, split_target
from hearth.gateway.entry import admit
from hearth.gateway.errors import CallsTooDeep
from hearth.gateway.request import Request
from hearth.ports.guest import Exchange

ADDRESS = b"127.0.0.1"
BACKLOG = 128


class InnerDoors:
    """`app.slot.Doors` behind a shard's own door, which is set before the first is opened."""

    door: Door

    async def open(self, slot: Slot, fd: int) -> None:
        """See the port."""
        sock = socket.socket(fileno=fd)
        inner = InnerDoor(self.door, slot)
        try:
            port = sock.getsockname()[1]
            server = await asyncio.get_running_loop().create_server(
                lambda: Connection(inner), sock=sock, backlog=BACKLOG
            )
        except BaseException:
            sock.close()
            raise
        slot.calls_by(f"http://127.0.0.1:{port}", server.close)


class InnerDoor:
    """One sandbox's (`connection.Front`).

    Args:
        door: the shard's, whose deadlines and end hold here too.
        slot: the sandbox; what runs in it is this slot's version.
    """

    def __init__(self, door: Door, slot: Slot) -> None:
        self._door = door
        self._slot = slot
        self._open: set[Connection] = set()
        self.loop = asyncio.get_running_loop()
        self.now = door.now
        self.refuse = door.refuse

    @property
    def draining(self) -> bool:
        """As the shard's."""
        return self._door.draining

    def opened(self, connection: Connection) -> None:
        """The function has connected. What it may hold of the shard's descriptors is bounded."""
        connection.client = ADDRESS
        connection.expires = self.now() + limits.HEADER_TIMEOUT
        self._open.add(connection)
        self._door.connections.add(connection)
        if len(self._open) > limits.INNER_CONNECTIONS_MAX:
            connection.turn_away(
                NoCapacity(
                    f"one instance may have {limits.INNER_CONNECTIONS_MAX} connections to functions",
                    hint="keep them and use them again",
                    retry_after=1,
                )
            )

    def closed(self, connection: Connection) -> None:
        """The function's connection is gone."""
        self._open.discard(connection)
        self._door.closed(connection)

    def handle(self, connection: Connection, request: Request) -> None:
        """Call a function; nothing else is here."""
        door, shared, version = self._door, self._door.shared, self._slot.version
        now = self.now()
        invocation, trace = shared.ids.next(now)
        if not request.path:
            request.key, request.path = split_target(request.target)
        if not request.path or version is None:
            error = NotFound("only functions are here", hint="ask for $HEARTH_URL/fn/NAMESPACE/FUNCTION")
            return shared.answer_error(connection, request, error, invocation)
        if door.refusing:
            return door.answer_other(connection, request, True)
        call = NestedCall(shared, connection, request, now, invocation, trace)
        connection.handler = call
        call.comes_from(version, self._slot.guest.in_work())
        return call.begin(door.shared.routes.entries.get(request.key))


class NestedCall(FunctionCall):
    """A call that a function makes."""

    _caller: Principal
    _end = float("inf")  # of the call that made it, in monotonic seconds

    def comes_from(self, version: Deployed, in_work: list[Exchange]) -> None:
        """Who calls, and on behalf of which call: the one whose trace context it sends along, else any that is in work there.

        Code at import and what runs on after an answer make calls on behalf of none.
        """
        self._caller = identity(version)
        calls = [exchange for exchange in in_work if isinstance(exchange, FunctionCall)]
        told = self._request.special.get(b"traceparent", b"")[3:35]
        calls = [call for call in calls if call.trace[3:35] == told] or calls
        if calls:
            self.depth = 1 + max(call.depth for call in calls)
            self._end = max(call.until for call in calls)
        if len(calls) == 1:
            self._trace = calls[0].trace[:35] + self._trace[35:]

    def begin(self, route: Route | None) -> None:
        """As for others, with the function's own identity where it presents no credential."""
        request, shared = self._request, self._shared
        if request.special:
            self.request_id = shared.request_id(request, self.invocation)
        if self.depth > limits.CALL_DEPTH_MAX:
            return self.fail(
                CallsTooDeep(
                    f"functions called functions {limits.CALL_DEPTH_MAX} deep",
                    hint="does one of them call itself, by way of others?",
                )
            )
        return self._judged(admit(shared, route, request.special, request.key, self._caller))

    def _wait(self, version: Deployed) -> None:
        super()._wait(version)
        self._deadline = self._connection.expires = min(self._deadline, self._end)

    def _send(self, instance: Instance, milliseconds: bytes) -> None:
        if self._end < self._deadline:
            self._deadline = self._end
            milliseconds = b"%d" % max(1, round((self._end - self._sent) * 1000))
        super()._send(instance, milliseconds)


def identity(version: Deployed) -> Principal:
    """Who a function is to other functions: a member of its namespace who may invoke, and nothing else."""
    scope = KeyScope(version.namespace_id, None, frozenset({Action.INVOKE}))
    return Principal(
        id=version.function_id,
        label=f"function:{version.function_id}",
        roles=((version.namespace_id, Role.VIEWER),),
        key=scope,
    )
