"""What the attacks of test_jail_*.py share: helpers for the payload, and how its findings come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hearth.drivers.bubblewrap import argv
from tests.contract.driver_cases import Rig

MIB = 1 << 20

# For the payload: `call` and `attempt` give "ok" or the name of the errno.
HELPERS = """
import ctypes, json, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    r = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return "ok" if r >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(f, *a, **k):
    try: f(*a, **k)
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
    return "ok"
"""


async def told(rig: Rig, code: str, **more: Any) -> Any:
    """What the payload prints as JSON on its last line."""
    ended, out, err = await rig.run(HELPERS + code, **more)
    assert ended.code == 0, (ended, err)
    return json.loads(out.splitlines()[-1])


def drop_options(monkeypatch: pytest.MonkeyPatch, *dropped: str) -> None:
    """Leave options of bubblewrap out (each with the values that follow it): the negative control."""
    original = argv.options

    def fewer(layout: argv.Layout, fds: argv.Fds) -> list[str]:
        words, out, skipping = original(layout, fds), [], False
        for word in words:
            if word.startswith("--"):
                skipping = word in dropped
            if not skipping:
                out.append(word)
        return out

    monkeypatch.setattr(argv, "options", fewer)
