"""Runs pytest as an ordinary user's keeper runs: in a user, mount and process namespace of its own.

    python -m tests.user.inside ARGUMENTS OF PYTEST

There, what the driver does without root can be tried without a platform around it.
"""

from __future__ import annotations

import os
import signal
import sys

import pytest

from hearth.linux.userns import enter
from hearth.supervisor.group import PlatformGroup

if __name__ == "__main__":
    group = PlatformGroup.own(f"t{os.getpid()}")
    if group is not None:  # as his supervisor does, which can name processes that his keeper can't
        group.enter()
    enter()
    for number in (signal.SIGTERM, signal.SIGINT):  # process 1 gets only what it asks for
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(pytest.main(sys.argv[1:]))
