"""Lines to paste into a shell."""

from __future__ import annotations

import shlex


def calling(url: str, auth: str, reference: str, *, has_key: bool) -> list[str]:
    """How to call a function with curl: one line each, to be run in order.

    Args:
        auth: ``public``, ``key`` or ``members``.
        reference: ``NS/NAME``.
        has_key: HEARTH_TOKEN holds a key.
    """
    target = shlex.quote(url)
    if auth == "public":
        return [f"curl {target}"]
    if has_key:
        return [f'curl -H "X-Hearth-Key: $HEARTH_TOKEN" {target}']
    make = f"hearth keys create --name curl --function {reference} --secret-only"
    return [f'KEY="$({make})"', f'curl -H "X-Hearth-Key: $KEY" {target}']
