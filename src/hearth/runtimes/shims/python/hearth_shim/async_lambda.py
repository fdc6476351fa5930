"""Runs asynchronous Lambda-shaped handlers, many at once on one loop."""

from asyncio import CancelledError

from . import answer, logs
from .answer import of, stream_head
from .loop import Loop, until_drained
from .loop import serve as serve_loop
from .stream import Disconnected
from .sync_lambda import fail


def serve(connection, found, make, ready):
    """Answer requests until the host drains or hangs up."""

    async def main():
        loop = Loop(connection, lambda stream: _handle(loop, connection, found.call, make, stream))
        ready()
        await until_drained(loop)

    serve_loop(main)


async def _handle(loop, connection, call, make, stream):
    context = make.context(stream)
    invocation = context.aws_request_id
    logs.current.set(invocation)
    try:
        value = call(make.event(stream, invocation), context)
        if hasattr(value, "__await__"):
            value = await value
        head, body = of(value)
        logs.finish(invocation)
        if type(body) is not bytes:
            await _stream(loop, stream, head, body)
        elif stream.fits(len(body)):
            stream.answer(head, body)
        else:
            stream.start(head)
            await loop.send_all(stream, body, True)
    except Disconnected:
        pass
    except CancelledError as error:
        if not stream.cancelled:
            fail(connection, stream, invocation, error)
    except BaseException as error:  # SystemExit too: this request failed, the instance goes on
        fail(connection, stream, invocation, error)
    finally:
        logs.finish(invocation)
        connection.end_if_forked()
        loop.flush_soon()


async def _each(items):
    """An iterator of either kind as an asynchronous one."""
    if hasattr(items, "__anext__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _stream(loop, stream, head, items):
    try:
        async for item in _each(items):
            if head is None:
                head, data = stream_head(item)
            else:
                data = answer.item(item)
            if not stream.started:
                stream.start(head)
            await loop.send_all(stream, data, False)
        if not stream.started:
            stream.start(answer.TEXT_HEAD if head is None else head)
        await loop.send_all(stream, b"", True)
    finally:
        if hasattr(items, "aclose"):
            await items.aclose()
        elif hasattr(items, "close"):
            items.close()
