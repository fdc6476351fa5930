"""Ends what would go on for ever when control is to stop: followed logs, deploys that somebody watches."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FOLLOWED = (b"application/x-ndjson", b"text/event-stream")


class EndStreams:
    """Plain ASGI around the API. A stream of lines ends as if it had nothing more to say; whoever follows connects again,
    to our successor. Other answers, uploads among them, are left alone.

    Args:
        app: the API.
        stopping: set when streams are to end.
    """

    def __init__(self, app: ASGIApp, stopping: asyncio.Event) -> None:
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._watched(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        following = asyncio.Event()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"").partition(b";")[0]
                if kind in _FOLLOWED:
                    following.set()
            await send(message)

        answering = asyncio.ensure_future(self._app(scope, receive, watched))
        ending = asyncio.create_task(self._end(following))
        try:
            await asyncio.wait((answering, ending), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
                return
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            answering.cancel()
            ending.cancel()

    async def _end(self, following: asyncio.Event) -> None:
        await following.wait()
        await self._stopping.wait()
