"""Runs a synchronous Lambda-shaped handler for one request, on the thread that calls."""

import inspect

from . import answer, logs, report
from .answer import BadResponse, of, stream_head
from .stream import Disconnected

_PLAIN = frozenset((str, dict, bytes, list, type(None)))  # values that nobody awaits


def send_all(stream, data, end):
    """Send bytes as credit comes; waits. Raises Disconnected."""
    connection = stream.connection
    view = stream.push(memoryview(data), end)
    while view:
        connection.wait(stream, stream.writable)
        view = stream.push(view, end)


def runner(connection, found, make):
    """The function that answers one stream."""
    call = found.call
    set_current, unfinished, finish = logs.current.set, logs.unfinished, logs.finish
    context_of, event_of = make.context, make.event

    def run(stream):
        if stream.cancelled:
            return stream.put_down()
        context = context_of(stream)
        invocation = context.aws_request_id
        set_current(invocation)
        try:
            value = call(event_of(stream, invocation), context)
            if type(value) not in _PLAIN and inspect.isawaitable(
                value
            ):  # of a plain function that returns a coroutine
                value = _awaited(value)
            head, body = of(value)
            if type(body) is bytes:
                if unfinished:
                    finish(invocation)
                if stream.cancelled:
                    pass
                elif stream.fits(len(body)):
                    stream.answer(head, body)
                else:
                    stream.start(head)
                    send_all(stream, body, True)
            else:
                _stream(connection, stream, head, body)
        except Disconnected:
            pass
        except BaseException as error:  # SystemExit too: this request failed, the instance goes on
            fail(connection, stream, invocation, error)
        finally:
            if unfinished:
                finish(invocation)
            set_current(None)
            if connection.closed:
                connection.end_if_forked()
            if stream.cancelled:
                stream.put_down()

    return run


def _awaited(value):
    import asyncio

    async def wait():
        return await value

    return asyncio.run(wait())


def _stream(connection, stream, head, items):
    if hasattr(items, "__anext__"):
        raise BadResponse("an asynchronous generator needs an asynchronous handler")
    try:
        for item in items:
            if head is None:
                head, data = stream_head(item)
            else:
                data = answer.item(item)
            if not stream.started:
                stream.start(head)
            send_all(stream, data, False)
            connection.flush()
            connection.glance()
            if stream.cancelled:
                return
        if not stream.started:
            stream.start(answer.TEXT_HEAD if head is None else head)
        send_all(stream, b"", True)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def fail(connection, stream, invocation, error):
    """Report what a handler raised: its traceback to the logs, an `error` frame to who waits."""
    if isinstance(error, BadResponse):
        logs.error(invocation, f"BadResponse: {error}")
        shown = ""
    else:
        shown = report.text(error, connection.loaded["code"])
        logs.error(invocation, shown)
    stream.fail(report.failure(error, shown))
