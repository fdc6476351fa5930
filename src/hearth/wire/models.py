"""What travels between `api` and `client`, as pydantic models. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Model(BaseModel):
    """Requests refuse unknown fields; the client ignores them in answers."""

    model_config = ConfigDict(extra="ignore")


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorBody(Model):
    code: str
    message: str
    hint: str | None = None
    source: str = "platform"  # function | platform | request
    request_id: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class ErrorAnswer(Model):
    error: ErrorBody


class Register(Request):
    email: str
    password: str
    namespace: str | None = None
    setup_token: str | None = None


class Login(Request):
    email: str
    password: str


class Refresh(Request):
    refresh_token: str


class Logout(Request):
    refresh_token: str | None = None


class Tokens(Model):
    access_token: str
    refresh_token: str
    expires_in: int  # seconds
    token_type: str = "Bearer"


class Member(Model):
    namespace: str
    role: str


class KeyItem(Model):
    id: str
    name: str
    namespace: str | None  # None: of the platform
    function: str | None
    actions: list[str]
    prefix: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None


class Who(Model):
    user_id: str
    email: str
    namespace: str
    administrator: bool
    memberships: list[Member]
    key: KeyItem | None = None  # the key that asks, when one does


class Session(Model):
    user: Who
    tokens: Tokens


class ChangePassword(Request):
    old: str
    new: str


class SessionItem(Model):
    """A login that has not ended."""

    id: str
    label: str  # what logged in, and from where
    created_at: int
    last_used_at: int
    expires_at: int
    current: bool  # the one that asks


class EndedSessions(Model):
    ended: int


class ServerInfo(Model):
    """What anybody may know of a server before he has an account."""

    version: str
    registration: str  # open | closed
    first_user: bool  # nobody has registered yet: who does becomes the administrator
    setup_token: bool  # that first registration needs the token that `hearth up` printed
    public_url: str


class NewUser(Request):
    email: str
    password: str
    namespace: str | None = None


class UserItem(Model):
    id: str
    email: str
    namespace: str
    administrator: bool
    disabled: bool
    created_at: int


class NewKey(Request):
    name: str
    namespace: str | None = None  # needed for all but metrics
    function: str | None = None
    actions: list[str] = Field(default_factory=lambda: ["invoke"])  # invoke | deploy; or metrics alone
    expires_in: int | None = None  # seconds


class CreatedKey(KeyItem):
    secret: str  # hk_…, shown once


class SetSecret(Request):
    """A value, as text or (any bytes) in base64. It is in no answer."""

    value: str | None = Field(
        default=None, repr=False, json_schema_extra={"writeOnly": True, "format": "password"}
    )
    value_base64: str | None = Field(default=None, repr=False, json_schema_extra={"writeOnly": True})


class SecretItem(Model):
    name: str
    namespace: str
    function: str | None  # whose it is; none: the namespace's
    environment: bool  # False: it is no text, and given as a file only
    created_at: int
    updated_at: int


class SecretSet(SecretItem):
    function_made: bool  # the function is new by this; nothing is deployed there yet


class SecretDeleted(Model):
    lacking: list[str]  # functions that named it and can't start any more


class FailureItem(Model):
    code: str
    message: str
    hint: str | None = None
    tail: str = ""
    file: str | None = None
    line: int | None = None


class VersionItem(Model):
    id: str
    number: int
    state: str
    runtime: str
    toolchain: str | None = None
    handler: str | None = None
    auth: str
    config: dict[str, Any]
    source: str
    created_at: int
    ready_at: int | None = None
    failure: FailureItem | None = None


class FunctionItem(Model):
    name: str
    namespace: str
    runtime: str
    version: int | None
    status: str  # ready | building | failed | new
    url: str
    deployed_at: int | None
    auth: str


class FunctionDetail(FunctionItem):
    id: str
    live: VersionItem | None
    latest: VersionItem | None
    warnings: list[str] = Field(default_factory=list)


class Deployed(Model):
    """202 of an upload."""

    namespace: str
    name: str
    version: int
    version_id: str
    state: str
    warnings: list[str] = Field(default_factory=list)


class LogItem(Model):
    """One line of a log stream (application/x-ndjson)."""

    at: int
    source: str
    stream: str
    level: str
    text: str
    version: int
    instance: str
    invocation: str | None


class StatsItem(Model):
    """A function's figures since the processes that count them started; durations of whole calls, None before the first."""

    namespace: str
    name: str
    calls: int
    succeeded: int
    failed: int
    cancelled: int
    errors: dict[str, int]  # failed calls by whose fault: function, request, platform
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    cold_starts: int  # calls that waited for an instance to start
    instances: dict[str, int]  # by state; what is not there is none
    in_flight: int
    queue: int  # calls that wait for an instance now


class FunctionStats(StatsItem):
    missing: list[str] = Field(default_factory=list)  # processes that did not tell their figures


class StatsPage(Model):
    items: list[StatsItem]
    next: str | None = None
    missing: list[str] = Field(default_factory=list)  # processes that did not tell their figures


class LogMark(Model):
    """A line of a log stream that is followed: whoever has read so far may come back with it."""

    cursor: str


class DeployEvent(Model):
    """One line of a deploy's progress (application/x-ndjson): `log` while it builds, then one `done` or `failed`."""

    kind: str  # state | log | done | failed
    state: str | None = None
    text: str | None = None
    version: VersionItem | None = None
    url: str | None = None


class Page(Model, Generic[T]):
    items: list[T]
    next: str | None = None
