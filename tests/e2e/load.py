"""Clients that call on and on over connections they keep, as real ones do, and remember every call that failed."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TIMEOUT = 30.0  # seconds: a call that takes longer hangs
SLOW = 0.3  # seconds: a call that takes longer waited for something to come back
STEADY = 20  # good calls in a row after which trouble is over


@dataclass
class Load:
    """A context manager: calls go on while its block runs.

    Args:
        url: of the platform.
        paths: what is called; each has clients of its own.
        clients: per path; each is one connection with one request in work at a time.
        pause: seconds between two calls of a client: the machine is not to be busy with clients alone.
    """

    url: str
    paths: tuple[str, ...]
    clients: int = 3
    pause: float = 0.01
    good: int = 0
    connections: int = 0
    failures: list[str] = field(default_factory=list)
    bodies: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    _trouble: dict[str, float] = field(default_factory=dict)  # when a call last failed or was slow
    _since: Counter[str] = field(default_factory=Counter)  # good and quick calls since

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(path,))
            for path in self.paths
            for _ in range(self.clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def of(self, path: str) -> Counter[bytes]:
        """How often each body came from a path."""
        with self._lock:
            return Counter({body: count for (of, body), count in self.bodies.items() if of == path})

    def mark(self) -> float:
        """Begin to look for trouble anew; returns now."""
        with self._lock:
            self._trouble.clear()
            self._since.clear()
            return time.monotonic()

    def trouble(self, path: str) -> float | None:
        """When, since `mark`, a call of a path last failed or was slow (0 for never); None while it may go on."""
        with self._lock:
            return self._trouble.get(path, 0.0) if self._since[path] >= STEADY else None

    def _note(self, path: str, began: float) -> None:
        now = time.monotonic()
        if now - began > SLOW:
            self._trouble[path] = now
            self._since[path] = 0
        else:
            self._since[path] += 1

    def _run(self, path: str) -> None:
        connection = self._connect()
        used = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._failed(
                    f"{path}: {error!r} after {time.monotonic() - began:.2f} s, call {used} of its connection"
                )
                connection.close()
                connection, used = self._connect(), 0
                self._stop.wait(0.01)
                continue
            used += 1
            if answer.status != 200:
                self._failed(f"{path}: {answer.status} {body[:200]!r} after {time.monotonic() - began:.2f} s")
                self._stop.wait(0.01)
            else:
                with self._lock:
                    self.good += 1
                    self.bodies[path, body] += 1
                    self._note(path, began)
            if answer.will_close:
                connection.close()
                connection, used = self._connect(), 0
            if self.pause:
                self._stop.wait(self.pause)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        with self._lock:
            self.connections += 1
        address = urlsplit(self.url)
        return http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT)

    def _failed(self, what: str) -> None:
        with self._lock:
            self.failures.append(f"{time.strftime('%H:%M:%S')} {what}")
            self._trouble[what.partition(": ")[0]] = time.monotonic()
            self._since[what.partition(": ")[0]] = 0
