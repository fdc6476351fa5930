"""What the resolver asks the keeper about the sandboxes that ask it, and tells it of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

from dnslib import DNSRecord

from hearth.core.errors import HearthError
from hearth.core.refusals import DNS, Refusal, Rights
from hearth.egress import nflog
from hearth.egress.dns import A_KIND, Answer, Query, addresses_of, judge, name_of
from hearth.egress.learned import TTL_MOST
from hearth.ports.egress import Judge

RIGHTS_KEPT = 2.0
"""Seconds for which an answer of the keeper's is used again: a sandbox's rights don't change, and its address is long unused
when the next one gets it."""
TELL_AGAIN = 30.0
"""Seconds until the same refusal of the same sandbox is told again."""
_TOLD_MOST, _TELLING_MOST = 4096, 256


class Judged:
    """The keeper's judgement, asked no more often than needed.

    Args:
        judge: the keeper.
        ipv6: whether sandboxes have IPv6.
    """

    def __init__(self, judge: Judge, ipv6: bool) -> None:
        self._judge = judge
        self._ipv6 = ipv6
        self._rights: dict[str, tuple[Rights | None, float]] = {}
        self._told: dict[tuple[str, str, str, int], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def rights(self, source: str) -> Rights | None:
        """What a sandbox may look up. Raises HearthError when the keeper doesn't answer."""
        now = time.monotonic()
        have = self._rights.get(source)
        if have is not None and now < have[1]:
            return have[0]
        rights = await self._judge.rights(source)
        if len(self._rights) >= _TOLD_MOST:
            self._rights.clear()
        if rights is not None:
            self._rights[source] = rights, now + RIGHTS_KEPT
        return rights

    async def answer(self, source: str, rights: Rights, query: Query, record: DNSRecord) -> Answer:
        """What this sandbox may hear of an upstream's answer; of an allowed name, once its addresses are open.

        Raises HearthError when the keeper doesn't answer.
        """
        name = name_of(query)
        found, ttl = addresses_of(record)
        if name not in rights.names or query.kind != A_KIND:
            answer = judge(record, self._ipv6, None if rights.internet else ())
            if found and not answer.records:
                self.refused(Refusal(source, DNS, name, 0, found[0]))
            return answer
        told = await self._judge.learned(source, name, found, min(ttl, TTL_MOST)) if found else ()
        for address in found:
            if address not in told:
                self.refused(Refusal(source, DNS, name, 0, address))
                break
        return judge(record, self._ipv6, told, TTL_MOST)

    def refused(self, refusal: Refusal) -> None:
        """Tell the keeper, once in a while for one target of one sandbox; never waits."""
        now, key = (
            time.monotonic(),
            (refusal.sandbox, refusal.protocol, refusal.target, refusal.port),
        )
        if now < self._told.get(key, 0.0) or len(self._tasks) >= _TELLING_MOST:
            return
        if len(self._told) >= _TOLD_MOST:
            self._told = {key: until for key, until in self._told.items() if until > now}
            if len(self._told) >= _TOLD_MOST:
                return
        self._told[key] = now + TELL_AGAIN
        self._spawn(self._tell(refusal))

    async def packets(self, sock: socket.socket, who: Callable[[str], str | None]) -> None:
        """Tell of refused packets, until cancelled.

        Args:
            sock: from `nflog.listen`; stays the caller's.
            who: the sandbox that has a source address.
        """
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(sock.fileno(), readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                for one in nflog.read(sock):
                    source = who(one.source)
                    if source is not None:
                        self.refused(Refusal(source, one.protocol, one.target, one.port))
        finally:
            loop.remove_reader(sock.fileno())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tell(self, refusal: Refusal) -> None:
        with contextlib.suppress(HearthError):  # nobody is cut off for a line in a log
            await self._judge.refused(refusal)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
