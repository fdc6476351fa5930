"""A real PostgreSQL server for tests: made in a folder of its own, for nobody but them, and gone with them.

Without its programs a test is skipped, which is a failure in CI: `scripts/test` installs them.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from tests.patience import patient

SUPER, ROLE, PASSWORD = "postgres", "hearth", "s3cret-of-the-database"
_SHM = Path("/dev/shm")
_OPTIONS = {
    "fsync": "off",  # no test cuts the power
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "jit": "off",
    "listen_addresses": "127.0.0.1",
    "deadlock_timeout": "200ms",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %d ",
}


@dataclass
class Postgres:
    """A server.

    Args:
        folder: has its data, its socket and its log.
        programs: where its programs are.
        ids: uid and gid that it runs as; None: this process's. It refuses root.
    """

    folder: Path
    programs: Path
    ids: tuple[int, int] | None
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    options: dict[str, str] = field(default_factory=dict)
    _made: int = 0

    def url(self, database: str, *, role: str = ROLE, password: str = PASSWORD) -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/{database}"

    def initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        self.own(self.folder, secret)
        # Names are sorted as people sort them, which is not how SQLite does it.
        words = ["--auth=scram-sha-256", f"--pwfile={secret}", f"--username={SUPER}", "--no-sync"]
        words += ["--encoding=UTF8", "--locale=C.UTF-8", *self._icu()]
        subprocess.run(
            self._as_user("initdb", f"--pgdata={self.folder}/data", *words), check=True, capture_output=True
        )

    def start(self) -> None:
        """Start it, on the port that it had before; wait until it answers."""
        self.port = self.port or _free_port()
        places = {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        options = {**_OPTIONS, **places, **self.options}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._as_user("postgres", "-D", f"{self.folder}/data", *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + patient(60)
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                self.run("SELECT 1")
                return
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    @contextlib.contextmanager
    def standby(self) -> Iterator[Postgres]:
        """A second server that follows this one, and has all that this one has acknowledged."""
        folder = _folder()
        made = Postgres(folder, self.programs, self.ids)
        try:
            made.own(folder)
            words = ["--pgdata", f"{folder}/data", "--checkpoint=fast", "--no-sync", "--write-recovery-conf"]
            source = f"{self.url('postgres', role=SUPER)}?application_name=standby"
            copy = self._as_user("pg_basebackup", "--dbname", source, *words)
            subprocess.run(copy, check=True, capture_output=True)
            made.start()
            self.run("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            self.run("SELECT pg_reload_conf()")
            yield made
        finally:
            made.stop(signal.SIGQUIT)
            shutil.rmtree(folder, ignore_errors=True)

    def own(self, *paths: Path) -> None:
        """Make files the server's user's."""
        for path in paths if self.ids is not None else ():
            os.chown(path, *self.ids)  # type: ignore[misc]

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: a fast shutdown, which ends all connections; SIGQUIT: an immediate one, as after a crash."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.freeze(signal.SIGCONT)
        self.process.send_signal(number)
        self.process.wait(patient(60))
        self.process = None

    def freeze(self, number: int = signal.SIGSTOP) -> None:
        """Stop every process of it where it stands, or with SIGCONT let them go on."""
        assert self.process is not None
        for pid in [self.process.pid, *self._children()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _children(self) -> list[int]:
        assert self.process is not None
        told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in told.split()]

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """As its administrator, on its own."""
        url = self.url(database, role=SUPER)
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description is not None else []

    def create(self, template: str = "template0") -> str:
        """A database of the role's; returns its name."""
        self._made += 1
        name = f"hearth_{self._made}"
        self.run(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER {ROLE}')
        return name

    def drop(self, name: str) -> None:
        self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _icu(self) -> list[str]:
        said = subprocess.run(
            [self.programs / "postgres", "--version"], capture_output=True, text=True, check=True
        )
        version = int(said.stdout.split()[2].split(".")[0])
        return ["--locale-provider=icu", "--icu-locale=en-US"] if version >= 15 else []

    def _as_user(self, program: str, *words: str) -> list[str]:
        command = [str(self.programs / program), *words]
        if self.ids is None:
            return command
        uid, gid = self.ids
        # It goes when we do, however that is.
        dropped = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--pdeathsig", "KILL", "--"]
        return ["setpriv", *dropped, *command]


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """One that runs. Skips where there are no programs of it."""
    folder = _folder()
    made = Postgres(folder, programs(), _user())
    try:
        made.initialise()
        made.start()
        made.run(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
        yield made
    finally:
        made.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="hearth-pg-", dir=_SHM if _SHM.is_dir() else None))


def programs() -> Path:
    """Where the newest server's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("postgres")
    if not found and on_path is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    return found[-1].parent if found else Path(on_path or "").resolve().parent


def _user() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    return 65534, 65534


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
