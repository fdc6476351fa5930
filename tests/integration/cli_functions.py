"""Functions that are scripted: what needs builds and sandboxes, played in the shapes of `hearth.wire`."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from hearth.api.deps import CurrentPrincipal, current_principal
from hearth.core.errors import FunctionFailed, HearthError, NotFound
from hearth.core.function import FunctionConfig, config_to_json
from hearth.manifest.function import read
from hearth.web.errors import error_body, status_of
from hearth.wire import models
from hearth.wire.versions import AliasWeight, VersionLine

TRACEBACK = (
    'Traceback (most recent call last):\n  File "handler.py", line 3, in handler\nKeyError: \x1b[31mname'
)


@dataclass
class Function:
    namespace: str
    config: FunctionConfig
    versions: list[VersionLine] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class Functions:
    """Scripted functions. What a deploy does is set by the function's name: see `_events`."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Function] = {}
        self.url = ""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.streams = 0
        self.logs: list[models.LogItem] = []
        self.followed = 0  # how often somebody began to
        self.router = APIRouter()
        route = self.router.add_api_route
        base = "/api/v1/functions"
        route(base, self.list, methods=["GET"])
        route(base + "/{ns}/{name}", self.detail, methods=["GET"])
        route(base + "/{ns}/{name}", self.delete, methods=["DELETE"], status_code=204)
        route(base + "/{ns}/{name}/versions", self.deploy, methods=["POST"], status_code=202)
        route(base + "/{ns}/{name}/versions", self.versions, methods=["GET"])
        route(base + "/{ns}/{name}/versions/{n}/progress", self.progress, methods=["GET"])
        route(base + "/{ns}/{name}/logs", self.read_logs, methods=["GET"])
        route("/fn/{ns}/{name}{rest:path}", self.call, methods=["GET", "POST", "PUT"], response_model=None)

    def _get(self, ns: str, name: str) -> Function:
        if (ns, name) not in self.known:
            raise NotFound(f"there is no function {ns}/{name}", hint="see: hearth list")
        return self.known[ns, name]

    def _item(self, function: Function) -> dict[str, Any]:
        live = next((v for v in reversed(function.versions) if v.state == "ready"), None)
        return {
            "name": function.config.name,
            "namespace": function.namespace,
            "runtime": function.config.runtime,
            "version": live.number if live else None,
            "status": "ready" if live else "failed",
            "url": f"{self.url}/fn/{function.namespace}/{function.config.name}",
            "deployed_at": live.ready_at if live else None,
            "auth": function.config.auth,
        }

    async def list(
        self, who: CurrentPrincipal, namespace: str, after: str = "", limit: int = 100
    ) -> models.Page[models.FunctionItem]:
        found = sorted(n for ns, n in self.known if ns == namespace and n > after)
        page = found[: min(limit, 2)]  # small pages: the client has to follow them
        items = [models.FunctionItem(**self._item(self.known[namespace, n])) for n in page]
        return models.Page(items=items, next=page[-1] if len(found) > len(page) else None)

    async def detail(self, who: CurrentPrincipal, ns: str, name: str) -> models.FunctionDetail:
        function = self._get(ns, name)
        live = next((v for v in reversed(function.versions) if v.state == "ready"), None)
        return models.FunctionDetail(
            **self._item(function),
            id="fn_1",
            live=live,
            latest=function.versions[-1],
            warnings=["cpu is not held"],
        )

    async def delete(self, who: CurrentPrincipal, ns: str, name: str) -> None:
        self._get(ns, name)
        del self.known[ns, name]

    async def versions(self, who: CurrentPrincipal, ns: str, name: str) -> models.Page[VersionLine]:
        return models.Page(items=self._get(ns, name).versions)

    async def deploy(self, who: CurrentPrincipal, ns: str, name: str, request: Request) -> models.Deployed:
        body = await request.body()
        with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz") as tar:
            manifest = tar.extractfile("function.yaml")
            assert manifest is not None
            config = read(manifest.read().decode())
            files = tar.getnames()
        function = self.known.setdefault((ns, name), Function(ns, config))
        function.config, function.files = config, files
        failed = name.startswith("broken")
        failure = models.FailureItem(
            code="function_load_failed",
            message="SyntaxError: invalid syntax",
            tail="line one\n\x1b[1mSyntaxError",
            file="handler.py",
            line=7,
        )
        function.versions.append(
            VersionLine(
                id=f"ver_{len(function.versions) + 1}",
                number=len(function.versions) + 1,
                state="failed" if failed else "ready",
                runtime=config.runtime,
                toolchain=None if failed else "python-3.11.2",
                handler="handler.handler",
                auth=config.auth,
                config=config_to_json(config),
                source="sha256:0",
                created_at=1_795_483_104_123,
                ready_at=None if failed else 1_795_483_105_000,
                failure=failure if failed else None,
                live=not failed,
                created_by="ann@example.com",
                size=None if failed else 1_400_000,
                aliases=[] if failed else [AliasWeight(alias="live", weight=100)],
            )
        )
        return models.Deployed(
            namespace=ns,
            name=name,
            version=len(function.versions),
            version_id=function.versions[-1].id,
            state="pending",
            warnings=["memory is not held on this machine"] if name == "warned" else [],
        )

    async def progress(self, who: CurrentPrincipal, ns: str, name: str, n: int) -> StreamingResponse:
        function = self._get(ns, name)
        self.streams += 1
        return StreamingResponse(self._events(function, n), media_type="application/x-ndjson")

    async def _events(self, function: Function, n: int) -> AsyncIterator[str]:
        version = function.versions[n - 1]

        def line(**values: Any) -> str:
            return (
                models.DeployEvent(**values).model_dump_json(exclude_none=True) + "\n"
            )  # as api.functions does

        yield line(kind="state", state="building")
        yield line(kind="log", text="line one")
        if function.config.name == "drops" and self.streams == 1:
            return  # control was restarted
        yield line(kind="log", text="line\u2028two \x1b[2J")
        while function.config.name == "slow":
            await asyncio.sleep(0.05)
        yield line(kind="state", state="proving")
        kind = "failed" if version.state == "failed" else "done"
        yield line(kind=kind, version=version, url=self._item(function)["url"])

    async def read_logs(
        self,
        who: CurrentPrincipal,
        ns: str,
        name: str,
        since_ms: int = 0,
        invocation: str | None = None,
        version: int | None = None,
        source: str | None = None,
        limit: int = 1000,
        follow: bool = False,
        after: int = 0,
    ) -> StreamingResponse:
        self._get(ns, name)
        self.followed += follow

        async def lines() -> AsyncIterator[str]:
            for item in self.logs[after:][-limit:]:
                kept = item.at >= since_ms and (version is None or item.version == version)
                if kept and source in (None, item.source) and invocation in (None, item.invocation):
                    yield item.model_dump_json() + "\n"
            if follow and self.followed == 2:
                raise RuntimeError("this control is killed with its lines said and no cursor")
            if follow:
                yield models.LogMark(cursor=str(len(self.logs))).model_dump_json() + "\n"
            if self.followed == 1:
                return  # it stops in good order
            while follow:
                await asyncio.sleep(0.05)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def call(self, ns: str, name: str, rest: str, request: Request) -> Response:
        try:
            function = self._get(ns, name)
            if {"authorization", "x-hearth-key"} & set(request.headers):
                await current_principal(request)
            elif function.config.auth != "public":
                raise NotFound("there is no such function")
            if name == "boom":
                raise FunctionFailed("the function raised KeyError", details={"traceback": TRACEBACK})
        except HearthError as error:
            headers = {"X-Hearth-Error": error.code, "X-Hearth-Invocation": "inv_7"}
            return Response(error_body(error, "req_1"), status_of(error), headers, "application/json")
        if name == "teapot":
            return Response("short and stout", 418, {"X-Hearth-Invocation": "inv_8"})
        if name == "bytes":
            return Response(b"\x00\xff\x1b[2J")
        shown = f"{request.method} {rest}?{request.url.query} {(await request.body()).decode()}"
        return Response(shown, headers={"X-Seen-Type": request.headers.get("content-type", "")})
