"""``/metrics`` for Prometheus, and the same figures by function for members."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from hearth.api.deps import After, CurrentPrincipal, Limit, credential_of, deps_of
from hearth.api.functions import Name
from hearth.app.stats import FunctionStats, StatsViews
from hearth.core.errors import Forbidden, Unauthenticated
from hearth.core.permissions import Action, Decision, Resource, decide
from hearth.ports.metrics import MetricsPage
from hearth.wire import models as wire

# Set by the shard that a request came through, after it has removed what a client sent under this name: the request comes
# from this machine itself, through no proxy (gateway/local.py).
LOCAL = "x-hearth-local"
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class MetricsServices:
    """What these endpoints are handed."""

    page: MetricsPage
    stats: StatsViews


def metrics_router(services: MetricsServices) -> APIRouter:
    """The endpoints, for `api.app.create_app`."""
    router = APIRouter(tags=["figures"])

    @router.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """All figures in Prometheus's text format. From elsewhere than this machine it needs a key for ``metrics``."""
        await _may_read(request)
        return Response(await services.page.render(), media_type=services.page.content_type)

    @router.get("/api/v1/stats")
    async def list_stats(
        principal: CurrentPrincipal, namespace: str | None = None, after: After = None, limit: Limit = 100
    ) -> wire.StatsPage:
        """Figures of the functions that one may see, in a namespace or in all of one's own."""
        stats, onward = await services.stats.page(principal, namespace, after, limit)
        items = [_item_of(one) for one in stats.functions]
        return wire.StatsPage(items=items, next=onward, missing=list(stats.missing))

    @router.get("/api/v1/functions/{namespace}/{name}/stats")
    async def stats(namespace: Name, name: Name, principal: CurrentPrincipal) -> wire.FunctionStats:
        """One function's figures."""
        found = await services.stats.one(principal, namespace, name)
        item = _item_of(found.functions[0])
        return wire.FunctionStats(**item.model_dump(), missing=list(found.missing))

    return router


async def _may_read(request: Request) -> None:
    token = credential_of(request)
    if token is None:
        if request.headers.get(LOCAL) == "1":
            return
        raise Unauthenticated(
            "from elsewhere than the platform's own machine, metrics need a key",
            hint="an administrator makes one: hearth keys create --name prometheus --allow metrics",
        )
    identity = await deps_of(request).identifier.identify(token)
    if decide(identity.principal, Action.METRICS, Resource()) is not Decision.ALLOW:
        raise Forbidden(
            "this credential may not read metrics",
            hint="an administrator makes a key for it: hearth keys create --name prometheus --allow metrics",
        )


def _item_of(stats: FunctionStats) -> wire.StatsItem:
    p50, p95, p99 = (_milliseconds(stats.latency.quantile(share)) for share in QUANTILES)
    return wire.StatsItem(
        namespace=stats.function.namespace,
        name=stats.function.name,
        calls=sum(stats.outcomes.values()),
        succeeded=stats.outcomes["succeeded"],
        failed=stats.outcomes["failed"],
        cancelled=stats.outcomes["cancelled"],
        errors={source: stats.errors[source] for source in ("function", "request", "platform")},
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        cold_starts=stats.cold,
        instances={state: count for state, count in sorted(stats.instances.items()) if count},
        in_flight=stats.in_flight,
        queue=stats.queue,
    )


def _milliseconds(seconds: float | None) -> float | None:
    """Three digits: a quantile of a histogram is no better known."""
    return None if seconds is None else float(f"{seconds * 1000:.3g}")
