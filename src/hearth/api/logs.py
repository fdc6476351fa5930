"""``/api/v1/functions/{namespace}/{name}/logs``."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from hearth.api.deps import CurrentPrincipal
from hearth.api.functions import BEAT, NDJSON, Name
from hearth.api.items import log_of
from hearth.app.logs import LogViews
from hearth.core.errors import HearthError
from hearth.ports.logs import SOURCES, LogBatch, LogFilter

FOLLOW_MAX = 600.0  # seconds after which a reader comes again with his cursor, and is looked at anew
PIECE = 200  # lines that are sent at once
_log = logging.getLogger(__name__)


def logs_router(views: LogViews) -> APIRouter:
    """The endpoint, for `api.app.create_app`."""
    router = APIRouter(prefix="/api/v1/functions", tags=["functions"])

    @router.get("/{namespace}/{name}/logs", response_class=StreamingResponse)
    async def logs(
        namespace: Name,
        name: Name,
        principal: CurrentPrincipal,
        since_ms: Annotated[int, Query(ge=0, le=2**53)] = 0,
        invocation: Annotated[str | None, Query(max_length=64)] = None,
        version: Annotated[int | None, Query(ge=1, le=2**31)] = None,
        source: Literal["run", "build", "platform"] | None = None,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 1000,
        follow: bool = False,
        after: Annotated[str | None, Query(max_length=16_000, description="a cursor; with follow")] = None,
    ) -> StreamingResponse:
        """Log lines, oldest first, a `LogItem` a line. With `follow` it goes on, and a `LogMark` follows what was sent:
        who is cut off goes on `after` the last one he got, having thrown away what came behind it."""
        wanted = LogFilter(since_ms, invocation, version, frozenset(SOURCES if source is None else {source}))
        batches = await views.open(
            principal, namespace, name, wanted, limit=limit, follow=follow, after=after
        )
        first = await anext(batches, None)  # a disk that can't be read is an error with a status
        return StreamingResponse(_sent(batches, first, follow=follow), media_type=NDJSON)

    return router


async def _sent(
    batches: AsyncIterator[LogBatch], first: LogBatch | None, *, follow: bool
) -> AsyncIterator[bytes]:
    """Batches as bytes; with `follow` a mark after each, and an end after `FOLLOW_MAX`.

    An empty line now and then shows whether the caller is still there. A control that stops ends all that follow
    (`api.streams`).
    """
    loop = asyncio.get_running_loop()
    end, batch = loop.time() + FOLLOW_MAX, first
    coming: asyncio.Future[LogBatch | None] | None = None
    try:
        while batch is not None or coming is not None:
            if batch is None:
                yield b"\n"
            else:
                for at in range(0, len(batch.lines), PIECE):
                    items = (log_of(line) for line in batch.lines[at : at + PIECE])
                    yield b"".join(item.model_dump_json().encode() + b"\n" for item in items)
                if follow:
                    yield json.dumps({"cursor": batch.cursor}).encode() + b"\n"
            if follow and loop.time() >= end:
                return
            coming, batch = coming or asyncio.ensure_future(anext(batches, None)), None
            await asyncio.wait([coming], timeout=BEAT)
            if coming.done():
                batch, coming = coming.result(), None
    except HearthError as error:  # the head is out; the reader sees that it is cut off, and may come again
        _log.warning("logs were cut off: %s", error.message)
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        close = getattr(batches, "aclose", None)  # an async generator's: ends its watch
        if close is not None:
            await close()
