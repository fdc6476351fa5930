"""``/api/v1/functions/…/versions``, ``…/aliases``, ``…/rollback``: what there is, and where traffic goes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from hearth.api.deps import CurrentPrincipal, Limit
from hearth.api.items import version_of
from hearth.app.traffic import Traffic
from hearth.core.routing import LIVE
from hearth.core.traffic import AliasRow, Share, VersionUse
from hearth.wire import models
from hearth.wire import versions as wire

Name = Annotated[str, Path(max_length=64)]
Number = Annotated[int, Path(ge=1, le=2**31)]


def versions_router(traffic: Traffic) -> APIRouter:
    """The endpoints, for `api.app.create_app`."""
    router = APIRouter(prefix="/api/v1/functions/{namespace}/{name}", tags=["versions"])

    @router.get("/versions")
    async def list_versions(
        namespace: Name,
        name: Name,
        principal: CurrentPrincipal,
        after: Annotated[int | None, Query(ge=1, description="the `next` of the page before")] = None,
        limit: Limit = 100,
    ) -> models.Page[wire.VersionLine]:
        """Versions that are kept, newest first."""
        rows, onward = await traffic.versions(principal, namespace, name, after, limit)
        return models.Page[wire.VersionLine](
            items=[line_of(row) for row in rows], next=None if onward is None else str(onward)
        )

    @router.get("/versions/{number}")
    async def version(
        namespace: Name, name: Name, number: Number, principal: CurrentPrincipal
    ) -> wire.VersionLine:
        """One version."""
        return line_of(await traffic.version(principal, namespace, name, number))

    @router.post("/rollback")
    async def rollback(
        namespace: Name, name: Name, principal: CurrentPrincipal, asked: wire.Rollback
    ) -> wire.RolledBack:
        """Send all traffic back to a version, at once. Requests in work are finished."""
        alias, before = await traffic.rollback(principal, namespace, name, asked.to)
        return wire.RolledBack(
            version=alias.shares[0].version,
            changed=alias.shares != before,
            before=[wire.ShareItem(version=share.version, weight=share.weight) for share in before],
            alias=alias_of(alias),
        )

    @router.get("/aliases")
    async def list_aliases(namespace: Name, name: Name, principal: CurrentPrincipal) -> wire.Aliases:
        """Aliases and their weighted versions, by name."""
        found = await traffic.aliases(principal, namespace, name)
        return wire.Aliases(items=[alias_of(row) for row in found])

    @router.put("/aliases/{alias}")
    async def set_alias(
        namespace: Name, name: Name, alias: Name, principal: CurrentPrincipal, asked: wire.SetAlias
    ) -> wire.AliasItem:
        """Send an alias's traffic to these versions, at once; it is made when it is new."""
        shares = [Share(target.version, target.weight) for target in asked.targets]
        return alias_of(await traffic.point(principal, namespace, name, alias, shares))

    @router.delete("/aliases/{alias}", status_code=204)
    async def delete_alias(namespace: Name, name: Name, alias: Name, principal: CurrentPrincipal) -> Response:
        """Forget an alias; not ``live``."""
        await traffic.remove(principal, namespace, name, alias)
        return Response(status_code=204)

    return router


def line_of(use: VersionUse) -> wire.VersionLine:
    """A version and its use as it goes over the wire."""
    return wire.VersionLine(
        **version_of(use.version).model_dump(),
        live=any(alias == LIVE for alias, _ in use.aliases),
        created_by=use.made_by,
        size=use.size,
        replaced=use.replaced,
        aliases=[wire.AliasWeight(alias=alias, weight=weight) for alias, weight in use.aliases],
    )


def alias_of(row: AliasRow) -> wire.AliasItem:
    return wire.AliasItem(
        name=row.name,
        targets=[wire.ShareItem(version=share.version, weight=share.weight) for share in row.shares],
        updated_at=row.updated_ms,
    )
