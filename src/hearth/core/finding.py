"""What a look at this machine found: for `hearth doctor`, and for `hearth up` where it can't go on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: what, in few words.
        holds: it is as it should be.
        says: what was found.
        mend: the command that mends it; empty where all is well, or no command would help.
        needed: without it `hearth up` refuses to start; else something is not held, or is missing, and it goes on.
    """

    name: str
    holds: bool
    says: str
    mend: str = ""
    needed: bool = False
