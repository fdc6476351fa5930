"""What every suite shares: which machine it may run on."""

from __future__ import annotations

import os
import shutil
import socket

import pytest


def _reason(item: pytest.Item) -> str | None:
    if item.get_closest_marker("root") is not None:
        if os.geteuid() != 0:
            return "needs root"
        if shutil.which("bwrap") is None:
            return "needs bubblewrap"
    if item.get_closest_marker("network") is not None and not _index_answers():
        return "needs a package index that answers"
    return None


def _index_answers() -> bool:
    try:
        with socket.create_connection(("pypi.org", 443), timeout=5):
            return True
    except OSError:
        return False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """On a laptop a suite whose needs are missing is skipped; in CI that is a failure."""
    reason = _reason(item)
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
