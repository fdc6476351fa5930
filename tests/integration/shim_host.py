"""The host's end of the guest protocol, byte by byte, for tests that drive a real shim in a real process."""

from __future__ import annotations

import json
import select
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HELLO, LOAD, READY, INIT_ERROR, REQUEST, RESPONSE, BODY, TRAILERS, ERROR = range(1, 10)
CANCEL, WINDOW, UPGRADE, DRAIN, PING, PONG, LOG, LOG_WINDOW = range(10, 18)
END = 1
PATIENCE = 20.0  # seconds until a test gives up; nothing waits that long when all is well


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">IBBI", len(payload), kind, flags, stream) + payload


def window(stream: int, credit: int) -> bytes:
    return frame(WINDOW, stream, struct.pack(">I", credit))


def cancel(stream: int, reason: str) -> bytes:
    return frame(CANCEL, stream, json.dumps({"reason": reason}).encode())


def request(
    stream: int,
    body: bytes = b"",
    *,
    end: bool = True,
    method: str = "POST",
    target: str = "/",
    headers: tuple[str, ...] = ("host:fn.test",),
    inv: str | None = None,
    deadline_ms: int = 10_000,
    prefix: str = "/fn/ann/hello",
    caller: str = "",
) -> bytes:
    lines = [inv or f"inv_{stream}", str(deadline_ms), method, target, prefix, caller, "203.0.113.9", "https"]
    head = "\n".join([*lines, *headers]).encode("latin-1")
    return frame(REQUEST, stream, struct.pack(">I", len(head)) + head + body, END if end else 0)


@dataclass
class Answer:
    """What came for one stream."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    trailers: str = ""
    error: dict[str, Any] | None = None
    cancelled: bool = False
    ended: bool = False
    granted: int = 0

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Host:
    """One shim process and its connection. Logs and answers are kept as they come."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket, printed: Path) -> None:
        self.process = process
        self.connection = connection
        self.printed = printed
        self.hello: dict[str, Any] = {}
        self.ready: dict[str, Any] = {}
        self.answers: dict[int, Answer] = {}
        self.logs: list[dict[str, Any]] = []
        self.pongs: list[bytes] = []
        self.closed = False
        self._buffer = b""

    def send(self, *frames: bytes) -> None:
        """Send, taking in meanwhile what the shim has to say: it may be blocked on us as we are on it."""
        data = memoryview(b"".join(frames))
        hears = True
        while data:
            readable, writable, _ = select.select(
                [self.connection] if hears else [], [self.connection], [], PATIENCE
            )
            if not readable and not writable:
                raise TimeoutError("the shim does not read")
            if readable:
                try:
                    read = self.connection.recv(1 << 20, socket.MSG_DONTWAIT)
                except ConnectionResetError:
                    read = b""
                hears = bool(read)
                self._buffer += read
            if writable:
                try:
                    data = data[self.connection.send(data, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    continue

    def frames(self, timeout: float = PATIENCE) -> Iterator[tuple[int, int, int, bytes]]:
        """Frames as they come, until the connection closes. TimeoutError after `timeout` seconds of silence."""
        while True:
            while len(self._buffer) >= 10:
                length, kind, flags, stream = struct.unpack_from(">IBBI", self._buffer)
                if len(self._buffer) < 10 + length:
                    break
                payload = self._buffer[10 : 10 + length]
                self._buffer = self._buffer[10 + length :]
                self._note(kind, flags, stream, payload)
                yield kind, flags, stream, payload
            self.connection.settimeout(timeout)
            try:
                read = self.connection.recv(1 << 20)
            except ConnectionResetError:
                read = b""
            if not read:
                self.closed = True
                return
            self._buffer += read

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        answer = self.answers.setdefault(stream, Answer())
        if kind == RESPONSE:
            size = struct.unpack_from(">I", payload)[0]
            status, *lines = payload[4 : 4 + size].decode("latin-1").split("\n")
            answer.status = int(status)
            answer.headers = [(line.partition(":")[0], line.partition(":")[2]) for line in lines]
            answer.body += payload[4 + size :]
        elif kind == BODY:
            answer.body += payload
        elif kind == TRAILERS:
            answer.trailers = payload.decode("latin-1")
        elif kind == ERROR:
            answer.error = json.loads(payload)
        elif kind == CANCEL:
            answer.cancelled = True
        elif kind == WINDOW:
            answer.granted += struct.unpack(">I", payload)[0]
        elif kind == LOG:
            self.logs.append(json.loads(payload))
        elif kind == PONG:
            self.pongs.append(payload)
        if kind in (ERROR, CANCEL) or (flags & END and kind in (RESPONSE, BODY, TRAILERS)):
            answer.ended = True

    def until(self, met: Any) -> None:
        """Read until `met()` holds. AssertionError when the connection closes first."""
        if met():
            return
        for _ in self.frames():
            if met():
                return
        raise AssertionError(f"the shim closed the connection; it printed: {self.output()}")

    def answer(self, stream: int) -> Answer:
        answer = self.answers.setdefault(stream, Answer())
        self.until(lambda: answer.ended)
        return answer

    def call(self, stream: int, body: bytes = b"", **more: Any) -> Answer:
        self.send(request(stream, body, **more))
        return self.answer(stream)

    def log_lines(self, count: int) -> list[dict[str, Any]]:
        self.until(lambda: len(self.logs) >= count)
        return self.logs

    def load(self, code: Path, handler: str = "", **more: Any) -> tuple[int, dict[str, Any]]:
        """Greets, loads, and returns (READY or INIT_ERROR, what it says)."""
        greeting = {"version": 1, "features": [], "window": more.pop("window", 262144)}
        greeting["log_window"] = more.pop("log_window", 1048576)
        payload = {
            "function": "hello",
            "namespace": "ann",
            "version": "3",
            "code": str(code),
            "handler": handler,
            "concurrency": 4,
            "memory_mb": 256,
            "timeout_ms": 10_000,
            "init_timeout_ms": 10_000,
            "env": {"GREETING": "hei"},
        } | more
        self.send(
            frame(HELLO, 0, json.dumps(greeting).encode()), frame(LOAD, 0, json.dumps(payload).encode())
        )
        for kind, _, _, said in self.frames():
            if kind in (READY, INIT_ERROR):
                return kind, json.loads(said)
        raise AssertionError(f"the shim closed the connection before ready; it printed: {self.output()}")

    def gone(self) -> int:
        """Read to the end of the connection; the process's exit status."""
        for _ in self.frames():
            pass
        return self.process.wait(PATIENCE)

    def output(self) -> str:
        """What the process wrote to its own descriptors 1 and 2."""
        return self.printed.read_text(errors="replace")


@contextmanager
def shim(argv: list[str], env: dict[str, str] | None = None) -> Iterator[Host]:
    """A shim's process that has connected and said hello."""
    with (
        tempfile.TemporaryDirectory(prefix="hearth-shim-") as folder,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        path = Path(folder, "guest.sock")
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(PATIENCE)
        printed = Path(folder, "printed")
        with printed.open("wb") as out:
            process = subprocess.Popen(
                argv,
                env={"PATH": "/usr/bin:/bin", "HOME": folder, "HEARTH_SLOT_DIR": folder} | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=folder,
            )
        try:
            connection, _ = listener.accept()
            with connection:
                host = Host(process, connection, printed)
                kind, _, _, payload = next(host.frames())
                assert kind == HELLO
                host.hello = json.loads(payload)
                yield host
        finally:
            process.kill()
            process.wait()


def run_session(host: Host, steps: list[dict[str, Any]]) -> None:
    """One of guest_sessions of tests/contract/guest_vectors.json, whose `about` says what each step means."""
    for step in steps:
        if "send" in step:
            try:
                host.send(*(_bytes(part) for part in step["send"]))
            except (BrokenPipeError, ConnectionResetError):
                assert steps[-1] == {"closed": True}
        elif "answer" in step:
            answer = host.answer(step["answer"]["stream"])
            assert (answer.status, answer.error) == (step["answer"]["status"], None)
            assert answer.body == _bytes(step["answer"]["body"])
        elif "credit" in step:
            answer = host.answers.setdefault(step["credit"]["stream"], Answer())
            host.until(lambda answer=answer, step=step: answer.granted >= step["credit"]["bytes"])
        elif "held" in step:
            answer = host.answers.setdefault(step["held"]["stream"], Answer())
            host.until(lambda answer=answer, step=step: len(answer.body) >= step["held"]["bytes"])
            _quiet(host, 0.05)
            assert len(answer.body) == step["held"]["bytes"]
        elif "pong" in step:
            host.until(lambda: host.pongs)
            assert host.pongs.pop(0) == bytes.fromhex(step["pong"])
        else:
            assert step == {"closed": True}
            host.gone()


def _quiet(host: Host, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            next(host.frames(left), None)
        except TimeoutError:
            return


def _bytes(told: Any) -> bytes:
    if isinstance(told, list):
        return b"".join(_bytes(part) for part in told)
    if isinstance(told, dict):
        return bytes.fromhex(told["repeat"]) * int(told["times"])
    return bytes.fromhex(told)


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
