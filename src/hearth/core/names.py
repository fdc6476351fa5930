"""Names of namespaces and functions: one DNS label together, ``{function}--{namespace}``."""

from __future__ import annotations

import re

from hearth.core.errors import InvalidInput, InvalidName

_NAME = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?\Z")
NAMESPACE_MIN, NAMESPACE_MAX = 3, 30
FUNCTION_MIN, FUNCTION_MAX = 1, 31
SECRET_NAME_MAX = 64
EMAIL_MAX = 254
_SECRET = re.compile(r"[A-Z_][A-Z0-9_]*\Z")
_RESERVED = re.compile(r"(PORT|PATH|HOME|HEARTH_.*|LD_.*)\Z")
ISOLATION_RUNTIME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]+\Z")


def _check(kind: str, name: str, shortest: int, longest: int) -> str:
    if _NAME.match(name) is None or "--" in name or not shortest <= len(name) <= longest:
        raise InvalidName(
            f"{name[:64]!r} is not a name for {'an' if kind == 'alias' else 'a'} {kind}",
            hint=f"use {shortest} to {longest} of a-z, 0-9 and single dashes, beginning with a letter",
        )
    return name


def check_namespace(name: str) -> str:
    """Return `name`; raise InvalidName when it can't name a namespace."""
    return _check("namespace", name, NAMESPACE_MIN, NAMESPACE_MAX)


def check_function(name: str) -> str:
    """Return `name`; raise InvalidName when it can't name a function."""
    if name == "xn":
        raise InvalidName(
            "'xn' is not a name for a function", hint="host names beginning with xn-- are reserved"
        )
    return _check("function", name, FUNCTION_MIN, FUNCTION_MAX)


def check_alias(name: str) -> str:
    """Return `name`; raise InvalidName when it can't name an alias."""
    return _check("alias", name, FUNCTION_MIN, FUNCTION_MAX)


def check_secret(name: str) -> str:
    """Return `name`; raise InvalidName when it can't name a secret: it is an environment variable and a file."""
    if _SECRET.match(name) is None or len(name) > SECRET_NAME_MAX:
        raise InvalidName(
            f"{name[:SECRET_NAME_MAX]!a} is not a name for a secret",
            hint=f"use 1 to {SECRET_NAME_MAX} of A-Z, 0-9 and _, not beginning with a digit, such as STRIPE_KEY",
        )
    if _RESERVED.match(name):
        raise InvalidName(
            f"{name} can't name a secret: the variable has a meaning of its own",
            hint="PORT, PATH, HOME, HEARTH_… and LD_… are taken; choose another name",
        )
    return name


def check_email(text: str) -> str:
    """Return an e-mail address in the one form that is stored and compared: trimmed, lower case.

    Only the shape is judged (RFC 5321, section 4.5.3.1.3: 254 characters at most). Raises InvalidInput.
    """
    email = text.strip().lower()
    if len(email) > EMAIL_MAX or not email.isprintable() or _EMAIL.match(email) is None:
        raise InvalidInput(f"{text[:64]!a} is not an e-mail address", hint="write it like jo@example.com")
    return email


def split_reference(text: str, default_namespace: str | None) -> tuple[str, str]:
    """Read ``NAME`` or ``NS/NAME``; returns (namespace, function).

    Raises:
        InvalidName: a part is no name, or no namespace is given and there is no default.
    """
    namespace, slash, name = text.rpartition("/")
    if not slash:
        if default_namespace is None:
            raise InvalidName(
                "no namespace is given", hint="write NAMESPACE/NAME, or run: hearth use NAMESPACE"
            )
        namespace = default_namespace
    return check_namespace(namespace), check_function(name)


def namespace_from_email(email: str) -> str:
    """Make a namespace name from an e-mail's local part, padded when short: ``Jo.B@x`` gives ``jo-b``."""
    local = email.partition("@")[0].lower()
    name = re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9]+", "-", local)).strip("-")
    if not name or not name[0].isalpha():
        name = f"u-{name}".strip("-")
    name = name[: NAMESPACE_MAX - 4].rstrip("-")
    return name if len(name) >= NAMESPACE_MIN else f"{name}-fn"
