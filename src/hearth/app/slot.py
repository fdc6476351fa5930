"""One slot: a sandbox whose language runtime is up and connected, and how it is made."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from hearth.app.sandboxes import SandboxRows
from hearth.app.story import Ending, Story
from hearth.core.errors import HearthError, SandboxFailed
from hearth.core.ids import is_id
from hearth.core.launch import Attachment, Handle, Limits, Mount, SandboxSpec, SlotKind, Toolchain
from hearth.core.limits import LOG_RATE, format_size
from hearth.core.records import SandboxRow
from hearth.core.routing import Deployed
from hearth.ports.clock import Clock, Ids
from hearth.ports.driver import CanListen, Driver
from hearth.ports.guest import Guest, GuestFactory
from hearth.ports.logs import RUN, LogLine, LogSink
from hearth.ports.output import OutputReader
from hearth.ports.runtime import Runtime

START_TIMEOUT = 20.0  # seconds for a sandbox to be made and its program to say hello
TAIL_LINES = 40  # lines kept for the report of a crash
LEVELS = frozenset({"trace", "debug", "info", "warning", "error", "critical", "fatal"})


class Slot:
    """A sandbox with its guest's connection. Made by `Slots`, loaded by the launcher, owned by the pool after that."""

    __slots__ = (
        "_close",
        "_current",
        "_logs",
        "_shut",
        "ending",
        "guest",
        "handle",
        "handler",
        "id",
        "kind",
        "on_closed",
        "phases",
        "tail",
        "up",
        "url",
        "version",
    )

    def __init__(self, sandbox: str, kind: SlotKind, handle: Handle, logs: LogSink) -> None:
        self.id = sandbox
        self.kind = kind
        self.handle = handle
        self.guest: Guest
        self.version: Deployed | None = None
        self.handler = ""  # as the shim found it
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.phases: dict[str, float] = {}  # seconds of each part of its start
        self.on_closed: Callable[[], None] | None = None
        self.url = ""  # by which what runs in it calls functions; empty where it can't
        self.up = False  # it has loaded a version and became an instance
        self.ending: Ending | None = None  # why it is ended; None: it ended by itself
        self._logs = logs
        self._current: Callable[[], str | None] = lambda: None
        self._close: Callable[[], None] = lambda: None
        self._shut: Callable[[], None] = lambda: None

    def belongs_to(self, version: Deployed, current: Callable[[], str | None]) -> None:
        """From now on its lines are this version's; `current` names the invocation in work where there is only one."""
        self.version = version
        self._current = current

    def line(self, invocation: str | None, stream: str, at_ms: int, level: str, text: str) -> None:
        """A line that it printed or logged. What it says of itself is believed only where it has the right form."""
        self.tail.append(text[:2000])
        version = self.version
        if version is not None:
            if invocation is None or not is_id("invocation", invocation):
                invocation = self._current()
            self._logs.write(
                version.function_id,
                LogLine(
                    at_ms,
                    RUN,
                    stream,
                    level if level in LEVELS else "info",
                    text,
                    version.number,
                    self.id,
                    invocation,
                ),
            )

    def dropped(self, stream: str, count: int, story: Story) -> None:
        """It printed `count` bytes more than are taken."""
        if self.version is not None:
            size = "1 byte" if count == 1 else f"{count:,} bytes"
            text = f"{size} of {stream} dropped: more than {format_size(LOG_RATE)} a second was printed"
            story.dropped(self.version, self.id, text)

    def closed(self) -> None:
        """The connection is gone: the sandbox is dead or as good as dead."""
        if self.on_closed is not None:
            self.on_closed()

    def watch(self, close: Callable[[], None]) -> None:
        """`close` ends the reading of what it prints."""
        self._close = close

    def stop_reading(self) -> None:
        """Take what it still has printed, and close."""
        self._close()

    def calls_by(self, url: str, shut: Callable[[], None]) -> None:
        """What runs in it calls functions at `url`, until `shut` is called."""
        self.url, self._shut = url, shut

    def close(self) -> None:
        """Close the connections and stop reading."""
        self.guest.close()
        self._shut()
        self._close()


class Doors(Protocol):
    """By which functions call functions."""

    async def open(self, slot: Slot, fd: int) -> None:
        """Answer what comes on a listening socket, which is taken over, as this slot's; tells the slot its URL."""
        ...


@dataclass(frozen=True, slots=True)
class Workshop:
    """What it takes to make a slot.

    Args:
        owner: ``own_…`` of this process.
        runtimes: by name.
        doors: None: functions call none.
    """

    driver: Driver
    guests: GuestFactory
    outputs: OutputReader
    runtimes: Mapping[str, Runtime]
    rows: SandboxRows
    logs: LogSink
    clock: Clock
    ids: Ids
    owner: str
    doors: Doors | None = None

    @property
    def story(self) -> Story:
        """What the platform says in functions' logs."""
        return Story(self.logs, self.clock)


async def open_slot(
    shop: Workshop, kind: SlotKind, toolchain: Toolchain, attachment: Attachment | None, row_first: bool
) -> Slot:
    """Make a sandbox and wait until its guest has said hello. Raises as `Slots.start`; leaves nothing behind then."""
    began = shop.clock.monotonic()
    deadline = began + START_TIMEOUT
    plan = shop.runtimes[kind.runtime].slot(toolchain)
    code = () if attachment is None else (Mount("artifact", attachment.artifact, "/hearth/code"),)
    spec = SandboxSpec(
        id=shop.ids.new("sandbox"),
        owner=shop.owner,
        argv=plan.argv,
        env=plan.env,
        mounts=(*plan.mounts, *code),
        limits=Limits() if attachment is None else attachment.limits,
        networked=kind.networked,
        language=kind.runtime,
        isolation_runtime=kind.isolation_runtime,
    )
    row = SandboxRow(spec.id, spec.owner, kind.driver, "slot", "starting", None, None, shop.clock.now_ms())
    if row_first:
        await shop.rows.insert(row)
    else:
        shop.rows.note(row)
    try:
        handle = await shop.driver.start(spec, deadline)
    except BaseException:
        shop.rows.change(spec.id, "gone")
        raise
    shop.rows.change(spec.id, "waiting", handle=handle)
    slot, story = Slot(spec.id, kind, handle, shop.logs), shop.story
    try:
        slot.watch(
            shop.outputs.watch(
                *shop.driver.output(handle),
                lambda stream, text: slot.line(None, stream, shop.clock.now_ms(), "info", text),
                lambda stream, count: slot.dropped(stream, count, story),
            )
        )
        fd = await shop.driver.connect(handle, deadline)
        slot.guest = await shop.guests.open(fd, deadline, slot.line, slot.closed)
        if shop.doors is not None and isinstance(shop.driver, CanListen):
            listener = await shop.driver.listen(handle)
            if listener is not None:
                await shop.doors.open(slot, listener)
    except BaseException as error:
        slot.stop_reading()
        with contextlib.suppress(HearthError):  # the keeper removes it with its owner at the latest
            await shop.driver.stop(handle, 0.0)
        shop.rows.change(spec.id, "gone")
        if isinstance(error, HearthError) and slot.tail:
            raise SandboxFailed(
                f"an empty {kind.runtime} sandbox did not come up", details={"tail": "\n".join(slot.tail)}
            ) from error
        raise
    slot.phases["slot"] = shop.clock.monotonic() - began
    return slot
