"""What the end-to-end tests' platforms stand on: nothing (SQLite and bubblewrap, the default), or a server's parts, by ``--stack server``: containers
of a real Docker daemon and a database each on a real PostgreSQL server."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.dockerd import Dockerd
from tests.postgres import Postgres

NAMES = ("embedded", "server")


@dataclass
class Stack:
    """What every platform of this run is started with, beside what its test says.

    Args:
        flags: of `hearth up`, for platforms that say nothing of their isolation.
        postgres: where each platform gets a database of its own that says nothing of it.
    """

    flags: tuple[str, ...] = ()
    postgres: Postgres | None = None
    _databases: dict[str, str] = field(default_factory=dict)

    def use(self, dockerd: Dockerd, postgres: Postgres) -> None:
        """From now on the server's parts."""
        self.flags = ("--isolation", "docker", "--docker-socket", str(dockerd.socket))
        self.postgres = postgres

    def more_flags(self, flags: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are to be added to a platform's own."""
        return () if "--isolation" in flags else self.flags

    def variables(self, home: str) -> dict[str, str]:
        """More of a platform's environment; the same for one that starts again in the same folder."""
        if self.postgres is None:
            return {}
        if home not in self._databases:
            self._databases[home] = self.postgres.url(self.postgres.create())
        return {"HEARTH_DATABASE_URL": self._databases[home]}


stack = Stack()
