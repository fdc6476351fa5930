"""Who may do what: every decision of the platform is this one function."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """A member's role in a namespace, from all to least."""

    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"


class Action(StrEnum):
    READ = "read"  # see functions, versions, logs
    INVOKE = "invoke"
    DEPLOY = "deploy"  # create, deploy, roll back, delete a function; set and delete secrets
    MANAGE = "manage"  # members, keys of others
    ADMINISTER = "administer"  # users of the platform
    METRICS = "metrics"  # read the platform's /metrics
    ACCOUNT = "account"  # one's own: password, sessions, keys


class Decision(StrEnum):
    """HIDE is answered as if the thing did not exist; CHALLENGE asks for a credential."""

    ALLOW = "allow"
    DENY = "deny"
    HIDE = "hide"
    CHALLENGE = "challenge"


@dataclass(frozen=True, slots=True)
class KeyScope:
    """What an API key is limited to: a namespace, or one function in it; deploy or invoke (deploy may also invoke).

    A key for ``metrics`` is the platform's: it has no namespace, and does nothing else.
    """

    namespace_id: str | None
    function_id: str | None
    actions: frozenset[Action]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. A user (roles by namespace id) or a key (its scope, and the roles of the user who made it).

    `id` is the user's or the key's, `user_id` always that of the person behind it.
    """

    id: str
    label: str  # what X-Hearth-Caller says: ``user:ID`` or ``key:ID``
    roles: tuple[tuple[str, Role], ...] = ()
    administrator: bool = False
    key: KeyScope | None = None
    user_id: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """What is asked for: a function (with its `auth`), a namespace, or the platform (both ids None)."""

    namespace_id: str | None = None
    function_id: str | None = None
    auth: str = "members"


_BY_ROLE: dict[Role, frozenset[Action]] = {
    Role.OWNER: frozenset({Action.READ, Action.INVOKE, Action.DEPLOY, Action.MANAGE}),
    Role.ADMIN: frozenset({Action.READ, Action.INVOKE, Action.DEPLOY, Action.MANAGE}),
    Role.DEVELOPER: frozenset({Action.READ, Action.INVOKE, Action.DEPLOY}),
    Role.VIEWER: frozenset({Action.READ, Action.INVOKE}),
}
_KEY_IMPLIES = {
    Action.DEPLOY: frozenset({Action.DEPLOY, Action.READ, Action.INVOKE}),
    Action.INVOKE: frozenset({Action.INVOKE}),
}


def decide(principal: Principal | None, action: Action, resource: Resource) -> Decision:
    """Decide one request.

    A stranger to a namespace is never told that something is in it: HIDE. A member whose role does not
    reach is told: DENY. Only a function whose `auth` is ``key`` challenges, and ``public`` lets all invoke.
    """
    if action is Action.INVOKE and resource.auth == "public":
        return Decision.ALLOW
    stranger = Decision.CHALLENGE if action is Action.INVOKE and resource.auth == "key" else Decision.HIDE
    if principal is None:
        return stranger if resource.namespace_id is not None else Decision.CHALLENGE
    if action is Action.ACCOUNT:  # a key that leaked must not be able to make itself others
        return Decision.ALLOW if principal.key is None else Decision.DENY
    if action is Action.METRICS:  # a key for it works for as long as its maker administers the platform
        held = principal.key is None or action in principal.key.actions
        return Decision.ALLOW if principal.administrator and held else Decision.DENY
    if action is Action.ADMINISTER or resource.namespace_id is None:
        return Decision.ALLOW if principal.administrator and principal.key is None else Decision.DENY
    role = dict(principal.roles).get(resource.namespace_id)
    if role is None:
        return stranger
    if principal.key is not None:
        scope = principal.key
        if scope.namespace_id != resource.namespace_id:
            return stranger
        if scope.function_id is not None and scope.function_id != resource.function_id:
            return stranger
        reach = frozenset[Action]().union(*(_KEY_IMPLIES.get(a, frozenset()) for a in scope.actions))
        if action not in reach:
            return Decision.DENY
    return Decision.ALLOW if action in _BY_ROLE[role] else Decision.DENY
