"""Who asks, and may he? The rules at the door (PRODUCT, "Between a caller and a function", "Headers and statuses").

``X-Hearth-Key`` is understood on every function; ``Authorization: Bearer`` is Hearth's unless the function is public.
A credential that is presented and bad is refused whether or not the function exists, so that a client knows to refresh.
"""

from __future__ import annotations

from hearth.core.errors import Forbidden, HearthError, NotFound, Unauthenticated
from hearth.core.permissions import Action, Decision, Principal, Resource, decide
from hearth.core.records import FunctionSummary
from hearth.core.routing import Deployed

KEY = b"x-hearth-key"


def credential(special: dict[bytes, bytes], public: bool) -> bytes | None:
    """The credential of Hearth's in these headers, or None; a ``Bearer`` to a public function is none of ours."""
    key = special.get(KEY)
    if key is not None or public:
        return key
    return bearer(special)


def bearer(special: dict[bytes, bytes]) -> bytes | None:
    """The token of ``Authorization: Bearer``, or None."""
    scheme, _, token = special.get(b"authorization", b"").partition(b" ")
    return token.strip(b" \t") if scheme.lower() == b"bearer" else None


def bad_credential() -> Unauthenticated:
    return Unauthenticated("the credential is expired or not valid", hint="log in again, or use another key")


def unknown_function() -> NotFound:
    return NotFound(
        "there is no such function, or you may not know of it",
        hint="check namespace and name, and that a version is live: hearth list. Where a function is not public, send a key in"
        " X-Hearth-Key: hearth keys create",
    )


def not_live(principal: Principal, found: FunctionSummary | None) -> NotFound:
    """What to tell of a function that has no live version: to who may call it that it is there, to who may read it why."""
    if found is None:
        return unknown_function()
    function, latest = found.function, found.latest
    resource = Resource(function.namespace_id, function.id)
    if decide(principal, Action.INVOKE, resource) is not Decision.ALLOW:
        return unknown_function()
    message, hint = f"{function.namespace}/{function.name} has no live version yet", "ask who deploys it"
    if decide(principal, Action.READ, resource) is Decision.ALLOW:
        hint = f"see what became of its deploys: hearth versions {function.name}"
        if latest is None:
            hint = "deploy it: hearth deploy"
        elif latest.failure is not None:
            message += f": version {latest.number} failed, {latest.failure.message}"
        else:
            message += f": version {latest.number} is {latest.state.value}"
    return NotFound(message, hint=hint)


def refusal(principal: Principal | None, version: Deployed) -> HearthError | None:
    """Why this principal may not invoke this version, or None if he may."""
    decision = decide(principal, Action.INVOKE, version.resource)
    if decision is Decision.ALLOW:
        return None
    if decision is Decision.CHALLENGE:
        return Unauthenticated(
            "this function wants a key", hint="send one in X-Hearth-Key; `hearth keys create` makes them"
        )
    if decision is Decision.DENY:
        return Forbidden("your role or your key does not allow to invoke this function")
    return unknown_function()


def may_read(principal: Principal | None, version: Deployed) -> bool:
    """Whether he may see a function's own errors: tracebacks and what it printed last, which a key that only invokes may not."""
    return principal is not None and decide(principal, Action.READ, version.resource) is Decision.ALLOW


def is_member(principal: Principal | None, namespace_id: str) -> bool:
    """Whether he has a role in the namespace: who may choose a function's version and have a call traced."""
    if principal is None or (principal.key is not None and principal.key.namespace_id != namespace_id):
        return False
    return any(namespace == namespace_id for namespace, _ in principal.roles)
