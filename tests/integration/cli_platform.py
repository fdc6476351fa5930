"""A platform for the command line's tests: the real management API with real accounts, and functions that are scripted.

The API app, its accounts, keys, users, SQLite file and tokens are the real ones. Only what needs builds and sandboxes
(`/api/v1/functions`, `/fn`) is played by `Functions`, in the shapes of `hearth.wire`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import uvicorn

from hearth.api.app import create_app
from hearth.api.deps import ApiDeps
from hearth.api.secrets import secrets_router
from hearth.app.auth import Auth, RegistrationRule
from hearth.app.keys import Keys
from hearth.app.secrets import Secrets
from hearth.app.sessions import Sessions
from hearth.app.users import Users
from hearth.bootstrap.child import RandomIds, SystemClock
from hearth.bus.local import BusServer
from hearth.cli.main import main
from hearth.core.settings import Settings
from hearth.security.passwords import Argon2Passwords, Cost
from hearth.security.rootkey import RootKey
from hearth.security.tokens import AccessTokens, TokenMint
from hearth.security.vault import LABEL, Vault
from hearth.security.verifier import CredentialVerifier
from hearth.store.store import Store

from .cli_functions import Functions


@dataclass
class Platform:
    """A platform that answers at `url`. `run` is the command line, in a home and a folder of its own."""

    url: str
    functions: Functions
    folder: Path

    def paths(self) -> list[str]:
        """What was asked since the last look, and forget it."""
        seen = [f"{method} {path}" for method, path, _ in self.functions.requests]
        self.functions.requests.clear()
        return seen


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str


class Program:
    """`hearth` as a person has it: a home folder, a working folder, an environment.

    A call runs it in this process, which takes a twentieth of the time; `start` makes a real process of it, for
    signals, pipes and several at once.
    """

    def __init__(self, server: str | None, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.config = folder / "config" / "hearth"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
        }
        if server is not None:
            self.env["HEARTH_SERVER"] = server

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [Path(sys.executable).parent / "hearth", *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, *arguments: str, stdin: str = "", code: int = 0, program: str = "hearth", **env: str
    ) -> Done:
        """Run a command and demand its exit code."""
        status, done = self._run(arguments, stdin, program, env)
        assert status == code, f"{arguments}: {status}\n{done.stdout}\n{done.stderr}"
        return done

    def ended(self, *arguments: str, stdin: str = "", **env: str) -> tuple[int, Done]:
        """Run a command; returns its exit code and what it said."""
        return self._run(arguments, stdin, "hearth", env)

    def until(self, code: int, *arguments: str, **env: str) -> None:
        """Run a command until it has that exit code: for what a hint has to reach first."""
        for _ in range(200):
            if self._run(arguments, "", "hearth", env)[0] == code:
                return
        raise AssertionError(f"{arguments} has never had the exit code {code}")

    def _run(
        self, arguments: tuple[str, ...], stdin: str, program: str, env: dict[str, str]
    ) -> tuple[int, Done]:
        streams = [io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8") for text in (stdin, "", "")]
        with (
            mock.patch.dict(os.environ, self.env | env, clear=True),
            mock.patch.multiple(sys, stdin=streams[0], stdout=streams[1], stderr=streams[2]),
            mock.patch.object(sys, "argv", [f"/usr/bin/{program}"]),
            contextlib.chdir(self.folder),
        ):
            time.tzset()
            status = main(list(arguments))
            for stream in streams[1:]:
                stream.flush()
        time.tzset()
        out, err = (stream.detach().getvalue().decode() for stream in streams[1:])  # type: ignore[attr-defined]
        return status, Done(out, err)

    def register(self, email: str = "ann@example.com") -> None:
        self("register", "--email", email, "--password-stdin", stdin="correct horse battery\n")


async def _serve(
    platform: Platform, sock: socket.socket, started: queue.SimpleQueue[uvicorn.Server | None]
) -> None:
    clock, ids, key = SystemClock(), RandomIds(), RootKey(bytes(range(32)))
    bus = BusServer(platform.folder / "bus.sock")
    await bus.start()
    store = await Store.open(
        platform.folder / "hearth.db", durable=False, clock=clock, ids=ids, publish=bus.publish
    )
    passwords = Argon2Passwords(Cost(passes=1, memory=64))
    mint = TokenMint(key)
    verifier = CredentialVerifier(store, AccessTokens([key.token_public_key()]), clock, bus, tick=0.05)
    await verifier.start()
    deps = ApiDeps(
        settings=Settings(data_dir=platform.folder, public_url=platform.url),
        version="0",
        auth=Auth(store, passwords, mint, clock, ids, RegistrationRule(open=True)),
        keys=Keys(store, store, mint, clock, ids),
        sessions=Sessions(store),
        users=Users(store, passwords, ids),
        identifier=verifier,
        functions=store,
        clock=clock,
    )
    secrets = Secrets(store, Vault([key.derive(LABEL)]), ids)
    app = create_app(deps, [secrets_router(secrets), platform.functions.router])

    async def recording(scope: Any, receive: Any, send: Any) -> None:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        platform.functions.requests.append((scope["method"], scope["path"], headers))
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(recording, log_level="critical", lifespan="off"))
    started.put(server)
    try:
        await server.serve(sockets=[sock])
    finally:
        await verifier.close()
        await store.close()
        passwords.close()
        await bus.close()


@contextmanager
def running(folder: Path) -> Iterator[Platform]:
    """A platform on a free port, in a thread of its own; its socket listens before this yields."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        platform = Platform(f"http://127.0.0.1:{sock.getsockname()[1]}", Functions(), folder)
        platform.functions.url = platform.url
        started: queue.SimpleQueue[uvicorn.Server | None] = queue.SimpleQueue()

        def serve() -> None:
            try:
                asyncio.run(_serve(platform, sock, started))
            finally:
                started.put(None)  # nobody waits for a server that could not start

        thread = threading.Thread(target=serve)
        thread.start()
        server = started.get()
        try:
            assert server is not None
            yield platform
        finally:
            if server is not None:
                server.should_exit = server.force_exit = True
            thread.join()
