"""What a look at this machine found: `hearth doctor` prints all of it, `hearth up` refuses and warns by the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from hearth.core.errors import HearthError, StartupFailed

RUN = "run: "  # what stands before a command in an error's hint


class State(StrEnum):
    """How what was looked at stands."""

    OK = "ok"  # as it should be
    NOTE = "note"  # worth knowing: no promise hangs on it
    NOT_HELD = "not_held"  # `hearth up` starts and warns: this is not held
    REFUSED = "refused"  # `hearth up` does not start


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: what, in few words.
        state: how it stands.
        says: what was found, in one line.
        mend: the command that mends it, to be pasted into a shell; empty where all is well, or no command would help.
    """

    name: str
    state: State
    says: str
    mend: str = ""

    @property
    def holds(self) -> bool:
        """Whether `hearth up` holds what it promises, as far as this goes."""
        return self.state in (State.OK, State.NOTE)

    @property
    def line(self) -> str:
        """What was found and the command, for a warning."""
        return f"{self.says}; {RUN}{self.mend}" if self.mend else self.says

    def error(self, what: str = "", hint: str = "") -> StartupFailed:
        """The error by which `hearth up` refuses.

        Args:
            what: stands before what was found.
            hint: stands after the command that mends it.
        """
        hints = [f"{RUN}{self.mend}" if self.mend else "", hint]
        return StartupFailed(f"{what}{self.says}", hint="; ".join(filter(None, hints)) or None)


def ok(name: str, says: str) -> Finding:
    return Finding(name, State.OK, says)


def note(name: str, says: str, mend: str = "") -> Finding:
    return Finding(name, State.NOTE, says, mend)


def not_held(name: str, says: str, mend: str = "") -> Finding:
    return Finding(name, State.NOT_HELD, says, mend)


def refused(name: str, says: str, mend: str = "") -> Finding:
    return Finding(name, State.REFUSED, says, mend)


def found_by(error: HearthError, name: str, state: State) -> Finding:
    """The finding of who met an error: its hint is the command where it begins with ``run: ``, else a part of what is said."""
    hint = error.hint or ""
    if hint.startswith(RUN):
        return Finding(name, state, error.message, hint.removeprefix(RUN))
    return Finding(name, state, "; ".join(filter(None, (error.message, hint))))


def warnings_of(findings: Iterable[Finding]) -> list[str]:
    """What `hearth up` warns of: one line for each reason, with the names of all that it concerns."""
    reasons: dict[tuple[str, str], dict[str, None]] = {}  # each name once, whoever told of it
    for finding in findings:
        kind = "" if finding.state is State.NOTE else "not held: "
        reasons.setdefault((kind, finding.line), {})[finding.name] = None
    return [f"{kind}{', '.join(names)}: {why}" for (kind, why), names in reasons.items()]
