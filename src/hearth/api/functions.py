"""``/api/v1/functions``: deploy, list, describe, delete. Logs are in `api.logs`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse

from hearth.api.deps import After, CurrentPrincipal, Limit
from hearth.api.items import detail_of, item_of, url_of, version_of
from hearth.app.deploy import Deploys
from hearth.app.feed import BuildFeed
from hearth.app.functions import FunctionViews
from hearth.app.progress import Progress, follow
from hearth.core.errors import HearthError, InvalidInput
from hearth.core.launch import Probe
from hearth.core.records import FunctionRow
from hearth.core.settings import Settings
from hearth.ports.builder import Form
from hearth.ports.logs import LogSource
from hearth.ports.store import FunctionStore
from hearth.wire import models as wire

FORMS: dict[str, Form] = {
    "application/gzip": "tar.gz",
    "application/x-gzip": "tar.gz",
    "application/zip": "zip",
    "application/x-zip-compressed": "zip",
}
NDJSON = "application/x-ndjson"
BEAT = 15.0  # seconds of silence after which an empty line is sent
Name = Annotated[str, Path(max_length=64)]
Number = Annotated[int, Path(ge=1, le=2**31)]


@dataclass(frozen=True, slots=True)
class FunctionServices:
    """What these endpoints are handed. `settings.public_url` is filled in; `probe` is the machine's."""

    settings: Settings
    store: FunctionStore
    views: FunctionViews
    deploys: Deploys
    feed: BuildFeed
    logs: LogSource
    probe: Probe


def functions_router(services: FunctionServices) -> APIRouter:
    """The endpoints, for `api.app.create_app`."""
    router = APIRouter(prefix="/api/v1/functions", tags=["functions"])
    views, settings = services.views, services.settings

    @router.get("")
    async def list_functions(
        principal: CurrentPrincipal, namespace: str | None = None, after: After = None, limit: Limit = 100
    ) -> wire.Page[wire.FunctionItem]:
        """Functions that one may see, in a namespace or in all of one's own."""
        rows, onward = await views.page(principal, namespace, after, limit)
        return wire.Page[wire.FunctionItem](items=[item_of(row, settings) for row in rows], next=onward)

    @router.get("/{namespace}/{name}")
    async def describe(namespace: Name, name: Name, principal: CurrentPrincipal) -> wire.FunctionDetail:
        """One function: what is live, what is newest, what this machine can't hold."""
        return detail_of(await views.summary(principal, namespace, name), settings, services.probe)

    @router.delete("/{namespace}/{name}", status_code=204)
    async def delete(namespace: Name, name: Name, principal: CurrentPrincipal) -> Response:
        """Delete a function with all its versions. Requests in work are finished."""
        await views.delete(principal, namespace, name)
        return Response(status_code=204)

    @router.post(
        "/{namespace}/{name}/versions",
        status_code=202,
        openapi_extra={"requestBody": {"required": True, "content": {kind: {} for kind in FORMS}}},
    )
    async def deploy(
        namespace: Name, name: Name, principal: CurrentPrincipal, request: Request
    ) -> wire.Deployed:
        """Upload a source; makes the function when it is new. Its build goes on behind: see `progress`."""
        accepted = await services.deploys.accept(
            principal, namespace, name, _form(request), _length(request), request.stream()
        )
        return wire.Deployed(
            namespace=accepted.function.namespace,
            name=accepted.function.name,
            version=accepted.version.number,
            version_id=accepted.version.id,
            state=accepted.version.state.value,
            warnings=list(accepted.warnings),
        )

    @router.get("/{namespace}/{name}/versions/{number}/progress", response_class=StreamingResponse)
    async def progress(
        namespace: Name, name: Name, number: Number, principal: CurrentPrincipal
    ) -> StreamingResponse:
        """A deploy as it goes: a `DeployEvent` a line, until one is `done` or `failed`."""
        function, row = await views.version(principal, namespace, name, number)
        events = follow(services.store, services.feed, services.logs, row)
        return StreamingResponse(_told(events, function, settings), media_type=NDJSON)

    return router


def _form(request: Request) -> Form:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = FORMS.get(kind)
    if form is None:
        raise InvalidInput(
            f"a source can't be sent as {kind[:60]!a}",
            hint="send application/gzip (a tar.gz) or application/zip",
        )
    return form


def _length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


async def _told(
    events: AsyncIterator[Progress], function: FunctionRow, settings: Settings
) -> AsyncIterator[bytes]:
    try:
        async for event in events:
            state = event.row.state.value if event.row is not None else None
            final = event.kind in ("done", "failed")
            told = wire.DeployEvent(
                kind=event.kind,
                state=state,
                text=event.text if event.kind == "log" else None,
                version=version_of(event.row) if final and event.row is not None else None,
                url=url_of(settings, function) if event.kind == "done" else None,
            )
            yield told.model_dump_json().encode() + b"\n"
    except HearthError as error:  # the head is out: the reason can only come as a line
        failed = wire.DeployEvent(kind="failed", text=error.message)
        yield failed.model_dump_json().encode() + b"\n"
