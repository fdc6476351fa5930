"""How figures get from every process to the one that is asked for them: a Unix socket of each, read when somebody asks.

Who asks writes one JSON line: null for everything, or a list of function ids. The answer is lines of JSON, a sample
each, and null as the last, by which a whole answer is known. A process of a shard's kind serves calls meanwhile, so it
encodes bit by bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from hearth.core.metrics import METRICS, Histogram, ProcessSamples, Sample, expand
from hearth.linux.sockets import short_name

SUFFIX = ".figures"  # of a process's socket, after its name and its boot id
DRAINING = "-draining"  # added to the name of a process whose successor is up
AT_ONCE = 40  # samples encoded before calls get their turn: well below a millisecond
PATIENCE = 3.0  # seconds that a process may take to tell everything
_ASKED_MAX = 1 << 20  # bytes of a question: some 25,000 ids
_LINE_MAX = 1 << 16
_log = logging.getLogger(__name__)

Tell = Callable[[AbstractSet[str] | None], Iterable[Sample | None]]
"""(function ids, or None for everything) → samples, to be consumed bit by bit; None: a good moment to let others work."""


class FigureServer:
    """A process's end.

    Args:
        folder: where its socket is put.
        name: of the process.
        owner: its boot id; ids of later ones sort after it.
        tell: makes the samples.
    """

    def __init__(self, folder: Path, name: str, owner: str, tell: Tell) -> None:
        self._path = folder / f"{name}.{owner}{SUFFIX}"
        self._tell = tell
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Only this user may connect. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with short_name(self._path) as name:
                listener.bind(name)
            self._path.chmod(0o600)
            listener.setblocking(False)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_ASKED_MAX)
        except BaseException:
            listener.close()
            raise

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            async with asyncio.timeout(PATIENCE):
                asked = json.loads(await reader.readuntil())
                functions = None if asked is None else {str(one) for one in asked}
                lines: list[bytes] = []
                for sample in self._tell(functions):
                    if sample is not None:
                        lines.append(encode(sample))
                    if sample is None or len(lines) >= AT_ONCE:
                        writer.write(b"".join(lines))
                        lines.clear()
                        await writer.drain()
                        await asyncio.sleep(0)
                writer.write(b"".join((*lines, b"null\n")))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # who asked has left, or was too slow
        except (
            Exception
        ):  # a fault in one figure must not take the process along; who asks sees that it is not whole
            _log.exception("the figures can't be told")
        finally:
            writer.close()


class FigureReader:
    """The asking end (`ports.metrics.FigureSource`).

    Args:
        folder: where the processes' sockets are.
        own: this process's name.
        tell: its own samples.
    """

    def __init__(self, folder: Path, own: str, tell: Tell) -> None:
        self._folder = folder
        self._own = own
        self._tell = tell

    async def collect(self, functions: Sequence[str] | None = None) -> list[ProcessSamples]:
        """See the port. Every process is asked at once; this takes `PATIENCE` at the longest.

        Two processes have one name while one drains and its successor is up: the older one then tells under a name of its
        own, so that neither's counters are taken for the other's.
        """
        told = self._tell(None if functions is None else set(functions))
        own = ProcessSamples(self._own, [sample for sample in told if sample is not None])
        paths: dict[str, list[Path]] = {}
        for path in sorted(self._folder.glob(f"*{SUFFIX}"), reverse=True):
            paths.setdefault(path.name.partition(".")[0], []).append(path)
        asked = (_ask(name, lives, functions) for name, lives in paths.items())
        return [own, *(one for found in await asyncio.gather(*asked) for one in found)]


async def _ask(name: str, paths: Sequence[Path], functions: Sequence[str] | None) -> list[ProcessSamples]:
    """What the processes of one name tell; `paths` of their sockets, the latest first."""
    found: list[ProcessSamples] = []
    for place, path in enumerate(paths):
        label = f"{name}{DRAINING}" if place else name
        try:
            async with asyncio.timeout(PATIENCE):
                told = ProcessSamples(label, await _read(path, functions))
        except (OSError, TimeoutError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
            if place:
                if isinstance(error, ConnectionRefusedError):
                    path.unlink(missing_ok=True)  # it was killed, and somebody else has its name now
                continue
            _log.warning("%s does not tell its figures: %s", name, error or type(error).__name__)
            told = ProcessSamples(label, (), up=False)
        found.append(told)
        if place:
            break  # of several that still drain the youngest: the same series can't be told twice
    return found


async def _read(path: Path, functions: Sequence[str] | None) -> list[Sample]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        with short_name(path) as name:
            sock.connect(name)  # to a Unix socket: done at once, or refused (EAGAIN: the backlog is full)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_LINE_MAX)
    except BaseException:
        sock.close()
        raise
    try:
        writer.write(json.dumps(None if functions is None else list(functions)).encode() + b"\n")
        found: list[Sample] = []
        while (line := await reader.readuntil()) != b"null\n":
            found.append(decode(line))
        return found
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def encode(sample: Sample) -> bytes:
    """A sample as a line of JSON; of a histogram only the buckets that are not empty."""
    value: Any = sample.value
    if isinstance(value, Histogram):
        counts = [[place, count] for place, count in enumerate(value.counts) if count]
        value = {"sum": value.sum, "counts": counts}
    return json.dumps((sample.name, sample.labels, value), separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Sample:
    """The inverse of `encode`. Raises ValueError: no metric of ours, or not with these labels."""
    try:
        name, labels, value = json.loads(line)
        metric = METRICS[name]
        if len(labels) != len(metric.labels) or (metric.kind == "histogram") is not isinstance(value, dict):
            raise ValueError(f"{name} comes with other labels or values")
        if isinstance(value, dict):
            value = expand(((place, count) for place, count in value["counts"]), float(value["sum"]))
        return Sample(name, tuple(map(str, labels)), value)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{error!r} in what another process tells") from error


def process_samples(started_s: float) -> list[Sample]:
    """What this process costs (proc(5), /proc/self/stat). `started_s`: when it began, Unix time."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    return [
        Sample("hearth_process_start_time_seconds", (), started_s),
        Sample("hearth_process_cpu_seconds_total", (), (int(fields[11]) + int(fields[12])) / ticks),
        Sample("hearth_process_resident_memory_bytes", (), int(fields[21]) * page),
    ]
