"""From an empty slot to a loaded function: hello, load, ready (or init-error), then the loop that fits its shape."""

import os
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket

from .connection import HELLO, INIT_ERROR, OUR_WINDOW, READY, Connection, frame

# Imported while the slot waits, so that no request pays for it. In the order of need.
_AHEAD = (
    "json",
    "traceback",
    "inspect",
    "logging",
    f"{__package__}.load",
    f"{__package__}.report",
    f"{__package__}.sync_lambda",
    f"{__package__}.event",
    f"{__package__}.serial",
    "base64",
    "urllib.parse",
    "threading",
    f"{__package__}.threads",
    "site",
    "asyncio",
    f"{__package__}.async_lambda",
    f"{__package__}.asgi",
    f"{__package__}.wsgi",
)

SLOT = "/hearth"  # where a sandbox has its slot


def main():
    slot = os.environ.pop("HEARTH_SLOT_DIR", SLOT)
    connection = Connection(_connect(slot))
    os.register_at_fork(after_in_child=connection.forked)
    version = ".".join(map(str, sys.version_info[:3]))
    connection.send(
        frame(
            HELLO,
            0,
            b'{"version":1,"runtime":"python","runtime_version":"%s","features":[],"window":%d,"pid":%d}'
            % (version.encode(), OUR_WINDOW, os.getpid()),
        )
    )
    connection.flush()

    from . import logs

    logs.install(connection)
    for name in _AHEAD:
        connection.poll()
        if connection.loaded is not None or connection.draining:
            break
        __import__(name)
    from . import load, report
    from .ending import finish

    while connection.loaded is None and not connection.draining:
        connection.flush()
        connection.read()
    if connection.draining:
        finish(connection)
    settings = connection.loaded
    if settings["code"].startswith(SLOT + "/"):  # outside a sandbox the slot is elsewhere
        settings["code"] = slot + settings["code"].removeprefix(SLOT)
    try:
        found = load.load(settings)
        serve, about = _engine(connection, found, settings)
    except BaseException as error:  # whatever an import does, SystemExit as well, is told to who deployed it
        _give_up(connection, report.init_error(error, settings["code"]))

    def ready():
        connection.send(frame(READY, 0, about))

    def failed(error):
        _give_up(connection, report.init_error(error, settings["code"]))

    serve(ready, failed)
    finish(connection)


def _connect(folder):
    sock = socket(AF_UNIX, SOCK_STREAM)
    path = folder + "/guest.sock"
    if len(os.fsencode(path)) <= 107:
        sock.connect(path)
    else:  # a socket's address has room for 107 bytes
        holder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.connect(f"/proc/self/fd/{holder}/guest.sock")
        os.close(holder)
    return sock


def _engine(connection, found, settings):
    """The loop for what was found, and the payload of `ready`."""
    from json import dumps

    about = dumps({"handler": found.name, "shape": found.shape}).encode()
    concurrency = max(1, int(settings.get("concurrency", 1)))
    if found.shape == "asgi":
        from .asgi import serve

        return (lambda ready, failed: serve(connection, found.target, ready, failed)), about
    if found.shape == "wsgi":
        from .wsgi import runner

        connection.whole_bodies = False
        run = runner(connection, found.target, concurrency > 1)
    else:
        from .event import EventMaker

        make = EventMaker(settings)
        if found.is_async:
            from .async_lambda import serve as serve_async

            return (lambda ready, failed: serve_async(connection, found, make, ready)), about
        from .sync_lambda import runner

        run = runner(connection, found, make)
    if concurrency == 1:
        from .serial import serve as serve_one

        return (lambda ready, failed: serve_one(connection, run, ready)), about
    from .threads import serve as serve_many

    return (lambda ready, failed: serve_many(connection, run, concurrency, ready)), about


def _give_up(connection, payload):
    connection.send(frame(INIT_ERROR, 0, payload))
    connection.finish_sending()
    connection.closed = True
    os._exit(1)
