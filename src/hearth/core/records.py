"""What the store hands out and takes in: rows as immutable plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hearth.core.function import FunctionConfig
from hearth.core.permissions import KeyScope, Role
from hearth.core.version import VersionState


@dataclass(frozen=True, slots=True)
class User:
    id: str
    email: str
    administrator: bool
    disabled: bool
    namespace: str  # name of the user's own namespace
    namespace_id: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Membership:
    namespace_id: str
    namespace: str
    role: Role


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: str
    user_id: str
    name: str
    scope: KeyScope
    namespace: str | None  # None: of the platform
    function: str | None
    prefix: str  # its first characters, to recognise it by
    created_ms: int
    expires_ms: int | None
    last_used_ms: int | None


@dataclass(frozen=True, slots=True)
class Session:
    """A login that has not ended."""

    id: str
    label: str  # what logged in, and from where
    created_ms: int
    last_used_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class FunctionRow:
    id: str
    namespace_id: str
    namespace: str
    name: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class SecretRow:
    """What may be known of a secret: everything but its value. `function_id` None: the namespace's."""

    id: str
    name: str
    namespace_id: str
    namespace: str
    function_id: str | None
    function: str | None
    size: int  # bytes
    text: bool  # may stand in an environment: UTF-8 without NUL
    updated_by: str | None  # id of a user
    created_ms: int
    updated_ms: int


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A secret as shards keep it: its value can be read with the vault's key only, and only as what it was sealed as."""

    name: str
    namespace_id: str
    function_id: str | None
    key_id: str
    sealed: bytes = field(repr=False)
    size: int = 0
    text: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version failed: an error's code and message, the file and line if known, the log's tail."""

    code: str
    message: str
    hint: str | None = None
    tail: str = ""
    file: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class VersionRow:
    id: str
    function_id: str
    number: int
    state: VersionState
    config: FunctionConfig
    source: str  # digest
    artifact: str | None  # digest
    toolchain: str | None  # exact, such as python-3.11.2
    handler: str | None  # as detected by the build or the proof
    failure: Failure | None
    created_by: str
    created_ms: int
    ready_ms: int | None


@dataclass(frozen=True, slots=True)
class FunctionSummary:
    """One line of `hearth list`."""

    function: FunctionRow
    live: VersionRow | None  # where traffic goes
    latest: VersionRow | None


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim of one piece of work. Every settle names the token; a stale one is refused."""

    token: int
    owner: str
    attempt: int  # 1, 2, …


@dataclass(frozen=True, slots=True)
class VersionJob:
    """A version claimed for building or proving; with the secrets that it names and that are set."""

    version: VersionRow
    function: FunctionRow
    lease: Lease
    secrets: tuple[SealedSecret, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """One version that an alias sends traffic to, with its weight."""

    version: VersionRow
    weight: int


@dataclass(frozen=True, slots=True)
class RouteRow:
    """All that a shard needs to route to one function: its aliases with weighted, READY versions, and the secrets that these name."""

    function: FunctionRow
    aliases: tuple[tuple[str, tuple[Target, ...]], ...]
    secrets: tuple[SealedSecret, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the outbox. `kind`: ``route`` (function), ``version`` (function), ``credential`` (user or key), ``member``,
    ``secret`` (function or namespace)."""

    seq: int
    kind: str
    subject: str  # id of what changed
    at_ms: int
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InvocationRow:
    """One kept invocation; times in milliseconds since the epoch, durations in milliseconds."""

    id: str
    namespace_id: str
    function_id: str
    version_id: str
    mode: str  # sync | async
    status: str  # succeeded | failed | cancelled …
    http_status: int
    error: str | None
    cold: bool
    started_ms: int
    queue_ms: float
    cold_ms: float
    function_ms: float
    request_id: str


@dataclass(frozen=True, slots=True)
class SandboxRow:
    """A sandbox that a process asked for; function and version join it at attach."""

    id: str
    owner: str
    driver: str
    kind: str  # slot | build
    state: str  # starting | waiting | attached | gone
    handle: str | None
    version_id: str | None
    created_ms: int
