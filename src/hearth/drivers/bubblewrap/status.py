"""What bubblewrap says of the sandbox on its --json-status-fd."""

from __future__ import annotations

import asyncio
import json
import os

_STATUS_MAX = 4096  # bytes of status lines that are believed


class Status:
    """bubblewrap's --json-status-fd: one JSON object a line, in pieces as the pipe gives them.

    `child` is set with the host's pid of the sandbox's pid 1, `code` with the exit code when it ended by itself; `closed` when
    nobody holds the writing end any more.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._data = b""
        self.child: int | None = None
        self.code: int | None = None
        self.held = False  # see `argv.own_command`
        self.changed = asyncio.Event()
        self.closed = False
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self.read)

    def read(self) -> None:
        """Take what is there now."""
        if self._fd < 0:
            return
        try:
            while (chunk := os.read(self._fd, 4096)) and len(self._data) < _STATUS_MAX:
                self._data += chunk
            self.closed = True
            self._loop.remove_reader(self._fd)
        except BlockingIOError:
            pass
        *lines, self._data = self._data.split(b"\n")
        for line in lines:
            self._line(line)
        self.changed.set()

    def _line(self, line: bytes) -> None:
        try:
            values = json.loads(line)
        except ValueError:
            return
        if isinstance(values, dict):
            self.held = self.held or values.get("held") is True
            child, code = values.get("child-pid"), values.get("exit-code")
            if isinstance(child, int) and self.child is None:
                self.child = child
            if isinstance(code, int) and self.code is None:
                self.code = code

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self.closed = True
