"""The resolver, wired: answers the sandboxes' DNS on sockets that the keeper bound, without privileges."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from hearth.bootstrap import child
from hearth.bootstrap.child import Context
from hearth.drivers.remote import RemoteDriver
from hearth.egress.resolver import serve, serve_each
from hearth.egress.upstreams import Followed

log = logging.getLogger(__name__)


async def _body(context: Context, ready: Callable[[dict[str, Any]], None], stopping: asyncio.Event) -> None:
    asked = asyncio.create_task(stopping.wait())
    while not stopping.is_set():
        keeper = RemoteDriver(context.resolver_socket, context.owner)
        await keeper.dial()
        work = asyncio.create_task(_serve(keeper))
        lost = asyncio.create_task(keeper.lost.wait())
        ready({})
        await asyncio.wait((asked, work, lost), return_when=asyncio.FIRST_COMPLETED)
        failed = work.done() and not work.cancelled() and work.exception()
        work.cancel()
        lost.cancel()
        await asyncio.gather(work, lost, return_exceptions=True)
        keeper.close()
        if failed:
            raise failed
        if not stopping.is_set():
            log.warning("the keeper has gone; dialling again")


async def _serve(keeper: RemoteDriver) -> None:
    found = await keeper.resolver_sockets()
    if found is None:  # each sandbox has its own, or there are no networks, and none will ever come
        await serve_each(keeper.look_up, Followed(Path("/etc/resolv.conf")), keeper)
        return
    sockets, block = [socket.socket(fileno=fd) for fd in found[0]], found[1]
    udp, tcp, *more = sockets
    try:
        await serve(
            udp,
            tcp,
            Followed(Path("/etc/resolv.conf")),
            IPv4Network(block),
            keeper,
            refusals=more[0] if more else None,
        )
    finally:
        for sock in sockets:
            sock.close()


def main() -> None:
    child.main(_body)


if __name__ == "__main__":
    main()
