"""Where a function's traffic goes: versions with their aliases, pointer moves, rollback.

A version is sent traffic only when it is READY and whole on this server: whoever moves a pointer is told at once, and no
caller finds out instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from hearth.app.functions import FunctionViews
from hearth.core.errors import Conflict, NotFound
from hearth.core.names import check_alias
from hearth.core.permissions import Action, Principal
from hearth.core.records import FunctionRow, VersionRow
from hearth.core.routing import LIVE
from hearth.core.traffic import WHOLE, AliasRow, Share, VersionUse, check_shares
from hearth.core.version import VersionState
from hearth.ports.clock import Ids
from hearth.ports.retention import TrafficStore
from hearth.ports.store import SecretStore

_PAGE = 50


class TrafficRows(TrafficStore, SecretStore, Protocol):
    """What is needed of the store."""


class Traffic:
    """Reads and moves; every method decides first who may.

    Args:
        views: finds functions.
        whole: whether a version's artifact and toolchain are on this server; blocking.
        has_source: whether it could be built again; blocking.
    """

    def __init__(
        self,
        store: TrafficRows,
        views: FunctionViews,
        ids: Ids,
        *,
        whole: Callable[[VersionRow], bool],
        has_source: Callable[[VersionRow], bool],
    ) -> None:
        self._store = store
        self._views = views
        self._ids = ids
        self._whole = whole
        self._has_source = has_source

    async def versions(
        self, principal: Principal, namespace: str, name: str, after: int | None, limit: int
    ) -> tuple[list[VersionUse], int | None]:
        """Newest first, and the number after which the next page begins."""
        function = await self._views.find(principal, Action.READ, namespace, name)
        rows = await self._store.version_uses(function.id, after, limit + 1)
        return rows[:limit], rows[limit - 1].version.number if len(rows) > limit else None

    async def version(self, principal: Principal, namespace: str, name: str, number: int) -> VersionUse:
        """Raises NotFound."""
        function = await self._views.find(principal, Action.READ, namespace, name)
        return await self._use(function, number)

    async def aliases(self, principal: Principal, namespace: str, name: str) -> list[AliasRow]:
        """By name; at most `limits.ALIASES_MAX` of them."""
        function = await self._views.find(principal, Action.READ, namespace, name)
        return await self._store.aliases(function.id)

    async def point(
        self, principal: Principal, namespace: str, name: str, alias: str, shares: Sequence[Share]
    ) -> AliasRow:
        """Send an alias's traffic to these versions; it is made when it is new.

        Raises InvalidInput, NotFound (function, version), Forbidden; Conflict: a version can't serve.
        """
        function = await self._views.find(principal, Action.DEPLOY, namespace, name, verb="set aliases of")
        check_alias(alias)
        wanted = check_shares(shares)
        for share in wanted:
            await self._must_serve(function, await self._use(function, share.version))
        return await self._move(function, alias, wanted, principal)

    async def remove(self, principal: Principal, namespace: str, name: str, alias: str) -> None:
        """Forget an alias. Raises NotFound, Forbidden; Conflict: ``live`` stays."""
        function = await self._views.find(principal, Action.DEPLOY, namespace, name, verb="delete aliases of")
        if alias == LIVE:
            raise Conflict(
                "the alias live can't be deleted: it is where traffic goes",
                hint=f"point it elsewhere: hearth alias set {name} live N; or: hearth delete {name}",
            )
        await self._store.remove_alias(function.id, alias, principal.user_id)

    async def rollback(
        self, principal: Principal, namespace: str, name: str, to: int | None
    ) -> tuple[AliasRow, tuple[Share, ...]]:
        """Send all traffic back, at once: what is live now, and what was before.

        Args:
            to: a version's number; None is the one that the newest live version replaced.

        Raises NotFound, Forbidden; Conflict: nothing to go back to, or it can't serve.
        """
        function = await self._views.find(principal, Action.DEPLOY, namespace, name, verb="roll back")
        live = next((row for row in await self._store.aliases(function.id) if row.name == LIVE), None)
        if live is None:
            raise Conflict(
                f"{namespace}/{name} has no live version yet", hint=f"see why: hearth versions {name}"
            )
        number = to if to is not None else await self._before(function, live)
        target = await self._use(function, number)
        if live.shares == (Share(number, live.shares[0].weight),):
            return live, live.shares
        await self._must_serve(function, target)
        return await self._move(function, LIVE, (Share(number, WHOLE),), principal), live.shares

    async def _before(self, function: FunctionRow, live: AliasRow) -> int:
        newest = live.shares[-1].version
        use = await self._use(function, newest)
        if use.replaced is not None:
            if await self._store.version_use(function.id, use.replaced) is None:
                raise Conflict(
                    f"version {use.replaced}, which version {newest} has replaced, is not kept any more",
                    hint=f"choose one: hearth versions {function.name}; hearth rollback {function.name} --to N",
                )
            return use.replaced
        # It replaced nothing, or nobody noted what: the next older one that ever was ready.
        after: int | None = newest
        while after is not None:
            page = await self._store.version_uses(function.id, after, _PAGE)
            for older in page:
                if older.version.ready_ms is not None:
                    return older.version.number
            after = page[-1].version.number if len(page) == _PAGE else None
        raise Conflict(
            f"{function.namespace}/{function.name} has no version before {newest} to go back to",
            hint=f"deploy one that works, or choose another: hearth versions {function.name}",
        )

    async def _use(self, function: FunctionRow, number: int) -> VersionUse:
        use = await self._store.version_use(function.id, number)
        if use is None:
            raise NotFound(
                f"{function.namespace}/{function.name} has no version {number}, or it is not kept any more",
                hint=f"list them: hearth versions {function.name}",
            )
        return use

    async def _must_serve(self, function: FunctionRow, use: VersionUse) -> None:
        version = use.version
        number, listing = version.number, f"hearth versions {function.name}"
        if version.state is VersionState.FAILED:
            why = f": {version.failure.message}" if version.failure is not None else ""
            raise Conflict(f"version {number} has failed{why}", hint=f"choose one that is ready: {listing}")
        if version.state is not VersionState.READY:
            raise Conflict(
                f"version {number} is not ready: it is {version.state.value}",
                hint=f"wait until it is, or choose another: {listing}",
            )
        names = version.config.secrets
        found = await self._store.sealed_secrets(function.namespace_id, function.id, names)
        if missing := sorted(set(names) - {secret.name for secret in found}):
            raise Conflict(
                f"version {number} can't start: the secret {missing[0]} is not set",
                hint=f"set it: hearth secrets set {missing[0]}; or choose another: {listing}",
                details={"missing": missing},
            )
        if await asyncio.to_thread(self._whole, version):
            return
        if not await asyncio.to_thread(self._has_source, version):
            raise Conflict(
                f"version {number} can't run any more: what was built is gone from this server, and so is its source",
                hint=f"choose another: {listing}; or deploy its source again",
            )
        await self._store.rebuild(version.id)
        raise Conflict(
            f"version {number} can't take traffic yet: what was built is gone from this server, so it is built again",
            hint=f"repeat this once it is ready: {listing}",
        )

    async def _move(
        self, function: FunctionRow, alias: str, shares: Sequence[Share], principal: Principal
    ) -> AliasRow:
        alias_id = self._ids.new("alias")
        return await self._store.point_alias(function.id, alias_id, alias, shares, principal.user_id)
