"""The connection's own frames: hello, load and its answer, ping and pong. Each may come only when it is awaited."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from hearth.core.errors import (
    FunctionCrashed,
    FunctionLoadFailed,
    FunctionTimeout,
    HearthError,
    ProtocolViolation,
)
from hearth.guest.logs import plain
from hearth.protocol import frames

TEXT_MAX = 64 << 10  # characters of a message or traceback that are kept
_HELLO = {
    "version": frames.VERSION,
    "features": [],
    "window": frames.WINDOW,
    "log_window": frames.LOG_WINDOW,
}


class Lifecycle:
    """Who waits for what of one guest.

    Args:
        push: sends a frame.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, push: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._push = push
        self._greeting: asyncio.Future[None] = loop.create_future()
        self._loading: asyncio.Future[dict[str, Any]] | None = None
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self.window = 0  # what the guest's hello gives each new stream

    @property
    def greeted(self) -> bool:
        return self._greeting.done() and self._greeting.exception() is None

    async def hello(self, seconds: float) -> None:
        """Wait for the guest's hello. Raises ProtocolViolation."""
        try:
            async with asyncio.timeout(seconds):
                await self._greeting
        except TimeoutError:
            raise ProtocolViolation("the sandbox's program did not say hello in time") from None

    async def load(self, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send `load`, wait for `ready`. Raises FunctionLoadFailed, FunctionCrashed, FunctionTimeout."""
        try:
            frame = frames.json_frame(frames.LOAD, 0, payload)
        except ValueError:
            raise FunctionLoadFailed(
                "the function's environment is too large", hint="keep env well below 1 MiB in all"
            ) from None
        self._loading = self._loop.create_future()
        self._push(frame)
        try:
            async with asyncio.timeout(seconds):
                return await self._loading
        except TimeoutError:
            raise FunctionTimeout(
                "the function did not finish loading in time",
                hint="do less at import, or raise init_timeout in function.yaml",
            ) from None

    async def ping(self, token: bytes, seconds: float) -> None:
        """Wait for the pong to `token`. Raises FunctionCrashed, FunctionTimeout."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._pings[token] = future
        self._push(frames.frame(frames.PING, 0, token))
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            raise FunctionTimeout("the function's instance does not answer") from None
        finally:
            self._pings.pop(token, None)

    def pong(self, payload: bytes) -> None:
        waiting = self._pings.pop(payload, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def take(self, kind: int, payload: bytes) -> str | None:
        """A hello, ready or init-error frame; returns what is wrong with it when it breaks the protocol."""
        told = json_object(payload)
        if told is None:
            return "a malformed hello, ready or init-error frame"
        if kind == frames.HELLO:
            return self._hello(told)
        loading = self._loading
        if loading is None or loading.done():
            return "ready or init-error without load"
        if kind == frames.READY:
            loading.set_result(told)
        else:
            loading.set_exception(_load_failed(told))
        return None

    def end(self, error: HearthError) -> None:
        """The connection is gone: nobody waits on."""
        if not self._greeting.done():
            self._greeting.set_exception(ProtocolViolation(error.message))
            self._greeting.exception()  # read once, so that an abandoned future does not warn
        for future in (self._loading, *self._pings.values()):
            if future is not None and not future.done():
                future.set_exception(FunctionCrashed(error.message))
                future.exception()

    def _hello(self, told: dict[str, Any]) -> str | None:
        window = told.get("window", frames.WINDOW)
        if self._greeting.done() or told.get("version") != frames.VERSION:
            return "it speaks another version of the guest protocol"
        if type(window) is not int or not 0 <= window <= frames.MAX_WINDOW:
            return "a malformed window in its hello"
        self.window = window
        self._push(frames.json_frame(frames.HELLO, 0, _HELLO))
        self._greeting.set_result(None)
        return None


def json_object(payload: bytes) -> dict[str, Any] | None:
    """A guest's JSON object; None for anything else."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _load_failed(told: dict[str, Any]) -> FunctionLoadFailed:
    details: dict[str, Any] = {
        key: plain(told.get(key), TEXT_MAX) for key in ("type", "message", "traceback", "file")
    }
    line = told.get("line")
    details["line"] = line if type(line) is int and line > 0 else None
    where = ""
    if details["file"]:
        where = f" ({details['file']}" + (f", line {details['line']})" if details["line"] else ")")
    text = ": ".join(part for part in (details["type"], details["message"]) if part) or "it did not load"
    hint = "mend the code and deploy again; the traceback is in the function's logs, too"
    if details["type"] == "ModuleNotFoundError":  # Python's
        hint = "if it is a package, name it in requirements.txt, and deploy again"
    elif details["message"].startswith(("Cannot find package ", "Cannot find module ")):  # Node's
        hint = "if it is a package, add it to package.json with npm install, and deploy again"
    return FunctionLoadFailed(text + where, hint=hint, details=details)
