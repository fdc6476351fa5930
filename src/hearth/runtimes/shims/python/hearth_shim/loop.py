"""The loop for asynchronous handlers and ASGI applications: one asyncio loop, a task per request."""

import asyncio
from functools import partial

_SHUTDOWN = 10  # seconds that an application's own shutdown may take


class Loop:
    """Reads the socket when it is readable, writes once per turn."""

    def __init__(self, connection, handle):
        self.connection = connection
        self.handle = handle
        self.loop = asyncio.get_running_loop()
        self.tasks = set()
        self.done = self.loop.create_future()
        self._due = False
        self._writing = False
        connection.sock.setblocking(False)
        connection.on_unsent = self._unsent
        connection.on_cancel = self._cancel
        self.loop.add_reader(connection.sock.fileno(), self._readable)

    def flush_soon(self):
        """Write what is queued, at the end of this turn of the loop at the latest."""
        if self._due:
            self.connection.flush_early()
        else:
            self._due = True
            self.loop.call_soon(self._flush)

    async def wait(self, stream, enough):
        """Wait until `enough()`, which a frame for `stream` can make true."""
        self.flush_soon()
        while not enough():
            future = self.loop.create_future()
            stream.waiter = lambda future=future: future.done() or future.set_result(None)
            await future

    async def send_all(self, stream, data, end):
        """Send bytes as credit comes. Raises Disconnected."""
        view = stream.push(memoryview(data), end)
        while view:
            await self.wait(stream, stream.writable)
            view = stream.push(view, end)
        self.flush_soon()

    def take_in(self):
        """Start what is ready; look whether all is done."""
        connection = self.connection
        queue = connection.ready
        while queue:
            stream = queue.popleft()
            if stream.cancelled:
                stream.put_down()
            else:
                task = stream.task = self.loop.create_task(self.handle(stream))
                self.tasks.add(task)
                task.add_done_callback(partial(self._ended, stream))
        if connection.draining:
            self._look()

    def _readable(self):
        self.connection.read()
        self.take_in()
        self.flush_soon()  # windows and pongs

    def _ended(self, stream, task):
        self.tasks.discard(task)
        if stream.cancelled:  # perhaps before its task had run at all
            stream.put_down()
            self.flush_soon()
        if self.connection.draining:
            self._look()

    def _look(self):
        if not self.tasks and not self.connection.streams and not self.done.done():
            self.done.set_result(None)

    def _cancel(self, stream):
        if stream.task is not None:
            stream.task.cancel()

    def _flush(self):
        self._due = False
        self.connection.flush()

    def _unsent(self):
        """The socket is full. Called by whoever flushed, on any thread."""
        self.loop.call_soon_threadsafe(self._watch)

    def _watch(self):
        if not self._writing and self.connection.unsent:
            self._writing = True
            self.loop.add_writer(self.connection.sock.fileno(), self._writable)

    def _writable(self):
        self.connection.flush()
        if not self.connection.unsent:
            self._writing = False
            self.loop.remove_writer(self.connection.sock.fileno())


def serve(main):
    """Run `main()`, a coroutine function, on a loop of its own until it is done."""
    with asyncio.Runner() as runner:
        runner.run(main())


async def until_drained(loop, stop=None):
    """Answer requests until the host drains; then let the application shut down."""
    loop.take_in()
    loop.flush_soon()
    await loop.done
    if stop is not None:
        try:
            await asyncio.wait_for(stop(), _SHUTDOWN)
        except TimeoutError:
            pass  # it had its time
