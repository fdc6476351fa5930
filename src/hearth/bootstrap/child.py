"""What every process of the platform does first: read what it is to be, tie its life to the supervisor's, say it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hearth.app.trouble import Trouble
from hearth.config import settings_from_json
from hearth.core.errors import HearthError, StartupFailed, error_to_data
from hearth.core.ids import new_id
from hearth.core.metrics import Sample
from hearth.core.settings import Settings
from hearth.linux.libc import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, prctl
from hearth.ports.store import ProcessStore
from hearth.supervisor.child import CLOSING, HURRY
from hearth.telemetry.figures import FigureServer, Tell, process_samples
from hearth.telemetry.log import configure

T = TypeVar("T")


class SystemClock:
    """The machine's clocks (ports.clock.Clock)."""

    # The loop's own time stands still within a turn, and uvloop tells it in whole milliseconds. The function itself: every
    # request asks several times.
    monotonic = staticmethod(time.monotonic)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class RandomIds:
    """Ids from the clock and the kernel's randomness (ports.clock.Ids)."""

    def new(self, kind: str) -> str:
        return new_id(kind, time.time_ns() // 1_000_000, secrets.token_bytes(10))


@dataclass(frozen=True, slots=True)
class Context:
    """What a process was started with.

    Args:
        name: ``keeper``, ``control``, ``shard-0``, ``resolver``.
        settings: the platform's.
        instance: the data directory's id; names of cgroups, tables and links carry it.
        run_dir: folder of sockets, in the platform's mount namespace.
        owner: this process's boot id; a new one at each start.
        uid, gid: whom control and shards run as.
        fds: inherited descriptors by name.
        extra: what only this kind needs.
        dead: owners that had this name before and ended without a word.
        said: what the last process of this name said when it was ready.
        successor: it takes over from one that still works.
        closing: set, with or after `stopping`, when the whole platform stops: nobody comes after this process.
        hurry: set when what is still in work is to be cut.
    """

    name: str
    settings: Settings
    instance: str
    run_dir: Path
    owner: str
    uid: int
    gid: int
    fds: dict[str, int]
    extra: dict[str, Any]
    dead: tuple[str, ...] = ()
    said: dict[str, Any] = field(default_factory=dict)
    successor: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def keeper_socket(self) -> Path:
        """For control and shards."""
        return self.run_dir / "keeper.sock"

    @property
    def resolver_socket(self) -> Path:
        """The keeper's other one, for the resolver."""
        return self.run_dir / "resolver.sock"

    @property
    def bus_socket(self) -> Path:
        return self.run_dir / "control" / "bus.sock"

    @property
    def figures_dir(self) -> Path:
        """Where the processes of this user put the sockets on which they tell their figures."""
        return self.run_dir / "control"

    @property
    def api_socket(self) -> Path:
        return self.run_dir / "control" / "api.sock"


Body = Callable[[Context, Callable[[dict[str, Any]], None], asyncio.Event], Awaitable[None]]
"""(context, tell that it is ready, set when asked to stop) → returns when it has drained."""


def main(body: Body, *, courtesy: bool = True, fast_loop: bool = True) -> None:
    """Run a process of the platform; the descriptor of its configuration is the last argument.

    Args:
        body: what it does.
        courtesy: be killed when the supervisor dies. The keeper isn't: it has to tidy up first, which it
            begins when the lifeline closes.
        fast_loop: use uvloop.
    """
    # Control and shards share a uid: without this a shard that was taken over by a hostile request could read the
    # root key from control's memory, or take its descriptors (ptrace(2), "ptrace access mode checking").
    prctl(PR_SET_DUMPABLE, 0)
    fd = int(sys.argv[-1])
    with open(fd, "rb") as file:
        config = json.load(file)
    if courtesy:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != config["parent"]:
            sys.exit(1)
    fds = {name: int(number) for name, number in config["fds"].items()}
    for number in fds.values():
        os.set_inheritable(number, False)
    context = Context(
        name=config["name"],
        settings=settings_from_json(config["settings"]),
        instance=config["instance"],
        run_dir=Path(config["run_dir"]),
        owner=RandomIds().new("owner"),
        uid=config["uid"],
        gid=config["gid"],
        fds=fds,
        extra=config["extra"],
        dead=tuple(config.get("dead", ())),
        said=config.get("said", {}),
        successor=bool(config.get("successor")),
    )
    configure(context.name, context.settings.log_level)
    with _runner(fast_loop) as runner:
        sys.exit(runner.run(_run(body, context, courtesy)))


def _runner(fast_loop: bool) -> asyncio.Runner:
    if not fast_loop:
        return asyncio.Runner()
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _run(body: Body, context: Context, courtesy: bool) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def asked(*events: asyncio.Event) -> None:
        if not stopping.is_set():
            _say(context, {"draining": True})  # where it may, a successor starts meanwhile
        for event in (stopping, *events):
            event.set()

    loop.add_signal_handler(signal.SIGTERM, asked)
    loop.add_signal_handler(signal.SIGINT, asked)
    loop.add_signal_handler(CLOSING, asked, context.closing)
    loop.add_signal_handler(HURRY, asked, context.closing, context.hurry)

    def orphaned() -> None:
        loop.remove_reader(context.fds["lifeline"])
        if courtesy:
            os._exit(1)
        logging.getLogger(__name__).warning("the supervisor has gone; tidying up")
        stopping.set()

    loop.add_reader(context.fds["lifeline"], orphaned)
    _say(context, {"owner": context.owner})
    try:
        await body(context, lambda facts: _say(context, {"ready": True, **facts}), stopping)
    except HearthError as error:
        _say(context, {"error": error_to_data(error)})
        logging.getLogger(__name__).error("%s", error.message)
        return 1
    except OSError as error:
        _say(context, {"error": error_to_data(StartupFailed(f"the {context.name} failed: {error}"))})
        raise
    return 0


def _say(context: Context, message: dict[str, Any]) -> None:
    """One line to the supervisor: ready, an error, or that it drains."""
    with contextlib.suppress(BrokenPipeError):  # it is being killed: we are next
        os.write(context.fds["ready"], json.dumps(message).encode() + b"\n")


async def unless_hurried(context: Context, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None when it was cancelled because somebody is in a hurry."""
    task = asyncio.create_task(work)
    hurry = asyncio.create_task(context.hurry.wait())
    await asyncio.wait((task, hurry), return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None


def with_process(tell: Tell) -> Tell:
    """What `tell` tells, and, where everything is asked for, what this process costs."""
    started = time.time()

    def both(functions: AbstractSet[str] | None) -> Iterator[Sample | None]:
        if functions is None:
            yield from process_samples(started)
        yield from tell(functions)

    return both


async def tell_figures(context: Context, stack: contextlib.AsyncExitStack, tell: Tell) -> None:
    """Tell this process's figures to who asks, until the stack unwinds. Raises OSError."""
    server = FigureServer(context.figures_dir, context.name, context.owner, with_process(tell))
    await server.start()
    stack.push_async_callback(server.close)


async def begin(store: ProcessStore, context: Context, kind: str) -> None:
    """Write down that this process lives, and that those before it don't. Raises StoreUnavailable."""
    await store.start_owner(context.owner, context.instance, kind)
    for owner in context.dead:
        await store.end_owner(owner)


async def end(store: ProcessStore, owner: str) -> None:
    """Write down that this process ends. Where the store is down it ends all the same: the next start finds out."""
    try:
        async with asyncio.timeout(END):
            await store.end_owner(owner)
    except (HearthError, TimeoutError) as error:
        why = str(error) or "it does not answer"
        logging.getLogger(__name__).warning("the end of this process is not in the database: %s", why)


END = 5.0  # seconds
HEARTBEAT = 5.0  # seconds


async def heartbeat(store: ProcessStore, owner: str) -> None:
    """Say again and again that this process lives, until cancelled; a store that is down is no reason to end."""
    trouble = Trouble(logging.getLogger(__name__), "no heartbeat can be written")
    while True:
        try:
            await store.heartbeat(owner)
        except HearthError as error:
            trouble.met(error.message)
        else:
            trouble.over()
        await asyncio.sleep(HEARTBEAT)
