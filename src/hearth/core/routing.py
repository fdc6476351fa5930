"""Where a request goes: the entry of one function, made whole from rows and never changed."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from hearth.core.errors import NotFound
from hearth.core.function import FunctionConfig
from hearth.core.permissions import Resource
from hearth.core.records import FunctionRow, RouteRow, SealedSecret, VersionRow
from hearth.core.version import VersionState

LIVE = "live"


@dataclass(frozen=True, slots=True, eq=False)
class Deployed:
    """A version that can serve, with what the data path needs ready made.

    Two objects of one version may exist for a moment (an entry was replaced): `id` says what is the same.
    """

    id: str
    number: int
    function_id: str
    namespace_id: str
    namespace: str
    name: str
    config: FunctionConfig
    artifact: str
    toolchain: str
    handler: str
    resource: Resource
    prefix: bytes  # /fn/NAMESPACE/NAME
    version_header: bytes  # a whole header line of answers
    timeout_ms: bytes
    public: bool
    secrets: tuple[SealedSecret, ...] = ()  # those it names that are set, by name


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """The versions behind an alias; `only` when there is one, else the running totals of their weights."""

    versions: tuple[Deployed, ...]
    totals: tuple[int, ...]
    only: Deployed | None

    def pick(self, chance: float) -> Deployed:
        """The version for a number in [0, 1)."""
        if self.only is not None:
            return self.only
        return self.versions[bisect_right(self.totals, int(chance * self.totals[-1]))]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One function as a shard sees it."""

    function: FunctionRow
    live: Weighted
    aliases: dict[str, Weighted]

    @property
    def versions(self) -> tuple[Deployed, ...]:
        """Every version that an alias sends traffic to, each once."""
        found = {version.id: version for alias in self.aliases.values() for version in alias.versions}
        return tuple(found.values())


def deployed(function: FunctionRow, row: VersionRow, secrets: Iterable[SealedSecret] = ()) -> Deployed:
    """Make a version ready to serve.

    Args:
        secrets: all that is known of the function's; the version gets those it names.

    Raises:
        NotFound: it has not been built and proven.
    """
    if row.state not in (VersionState.READY, VersionState.PROVING) or row.artifact is None:
        raise NotFound(
            f"version {row.number} is {row.state.value}",
            hint="use a version that is ready; `hearth versions` lists them",
        )
    return _deployed(function, row, _named(row, secrets))


def _named(row: VersionRow, secrets: Iterable[SealedSecret]) -> tuple[SealedSecret, ...]:
    if not row.config.secrets:
        return ()
    known = {secret.name: secret for secret in secrets}
    return tuple(known[name] for name in row.config.secrets if name in known)


def _deployed(function: FunctionRow, row: VersionRow, secrets: tuple[SealedSecret, ...]) -> Deployed:
    return Deployed(
        id=row.id,
        number=row.number,
        function_id=function.id,
        namespace_id=function.namespace_id,
        namespace=function.namespace,
        name=function.name,
        config=row.config,
        artifact=row.artifact or "",
        toolchain=row.toolchain or "",
        handler=row.handler or "",
        resource=Resource(function.namespace_id, function.id, row.config.auth),
        prefix=f"/fn/{function.namespace}/{function.name}".encode(),
        version_header=b"x-hearth-version: %d\r\n" % row.number,
        timeout_ms=b"%d" % round(row.config.timeout * 1000),
        public=row.config.auth == "public",
        secrets=secrets,
    )


def make_route(row: RouteRow, known: dict[str, Deployed]) -> Route | None:
    """An entry from its row; None when ``live`` points to nothing that can serve.

    Args:
        row: the function with its aliases.
        known: versions that are served already, by id; they are immutable and used again, unless their secrets have
            changed.
    """

    def served(version: VersionRow) -> Deployed:
        secrets, before = _named(version, row.secrets), known.get(version.id)
        same = before is not None and before.secrets == secrets
        return before if before is not None and same else _deployed(row.function, version, secrets)

    aliases: dict[str, Weighted] = {}
    for alias, targets in row.aliases:
        usable = [t for t in targets if t.weight > 0 and t.version.artifact is not None]
        if not usable:
            continue
        # One that is being built again is among them: its launch says so, and 404 would be a lie.
        versions = tuple(served(t.version) for t in usable)
        totals = tuple(itertools.accumulate(t.weight for t in usable))
        aliases[alias] = Weighted(versions, totals, versions[0] if len(versions) == 1 else None)
    live = aliases.get(LIVE)
    return None if live is None else Route(row.function, live, aliases)
