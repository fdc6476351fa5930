"""Calling a function, with the right credential for it and no other."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

import httpx

from hearth.client.api import Client
from hearth.client.errors import error_from_body
from hearth.client.http import read_some
from hearth.core.errors import HearthError, InvalidInput, Unauthenticated
from hearth.core.limits import STREAM_MAX, TIMEOUT_MAX

ERROR_HEADER = "X-Hearth-Error"  # says that an answer is Hearth's own, not the function's
INVOCATION_HEADER = "X-Hearth-Invocation"
KEY_HEADER = "X-Hearth-Key"
_ANSWER_MAX = TIMEOUT_MAX + STREAM_MAX  # seconds; the platform's own deadlines are far below
_ERROR_BODY_MAX = 1 << 20
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, section 5.6.2


@contextlib.contextmanager
def invoke(
    client: Client,
    namespace: str,
    name: str,
    *,
    method: str,
    path: str = "",
    headers: Mapping[str, str],
    body: bytes | None,
) -> Iterator[httpx.Response]:
    """Call a function; yields the function's own answer, whatever its status, with its body still to be read.

    The caller's credential goes in `X-Hearth-Key`, which is Hearth's on every function and never passed on.
    `Authorization` is not: a public function is given it as it came, since it may have users of its own.

    Args:
        path: what comes after the function's name, with its query, percent-encoded by the caller.
        headers: sent as they are, besides the credential.

    Raises:
        FunctionError: the function failed; its traceback, where we may see it, is in ``details``.
        HearthError: any other answer of the platform's own.
    """
    if not method.isalpha():
        raise InvalidInput(f"{method!r} is not an HTTP method", hint="write GET, POST, PUT, …")
    for key, value in headers.items():
        if _HEADER_NAME.match(key) is None or not value.isascii() or not value.isprintable():
            raise InvalidInput(f"{key!r} can't be sent as a header", hint="write NAME:VALUE in plain ASCII")
    target = f"/fn/{namespace}/{name}" + (path if path.startswith(("/", "?")) or not path else f"/{path}")
    connection = client.connection
    own = {"authorization", KEY_HEADER.lower()}.isdisjoint(key.lower() for key in headers)
    token = connection.bearer() if own else None
    renewed = False
    while True:
        sent = {**({KEY_HEADER: token} if token is not None else {}), **headers}
        with connection.http.exchange(
            method.upper(), target, body=body, headers=sent, timeout=_ANSWER_MAX
        ) as response:
            if ERROR_HEADER not in response.headers:
                yield response
                return
            error = _error(response, connection.server)
        if (
            not isinstance(error, Unauthenticated)
            or token is None
            or connection.api_key is not None
            or renewed
        ):
            raise error
        token, renewed = connection.renew(token), True  # refused at the door: the function has seen nothing


def _error(response: httpx.Response, server: str) -> HearthError:
    error = error_from_body(
        read_some(response, _ERROR_BODY_MAX),
        status=response.status_code,
        server=server,
        retry_after=response.headers.get("Retry-After"),
    )
    invocation = response.headers.get(INVOCATION_HEADER)
    if invocation is not None:
        error.details.setdefault("invocation", invocation)
    return error
