"""What fails again and again is said when it begins, when its reason changes, and when it is over: not once a second."""

from __future__ import annotations

import logging


class Trouble:
    """One piece of work that is tried until it succeeds.

    Args:
        log: where it is said.
        what: what can't be done, such as ``no build can be claimed``.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._reason: str | None = None

    def met(self, reason: str) -> None:
        """It failed."""
        if reason != self._reason:
            self._reason = reason
            self._log.warning("%s: %s", self._what, reason)

    def over(self) -> None:
        """It succeeded."""
        if self._reason is not None:
            self._reason = None
            self._log.info("no longer: %s", self._what)
