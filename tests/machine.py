"""What a machine lacks. On a laptop a test that can't run is skipped, whoever says so; in CI that is a failure."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

_ELSEWHERE = "another kind of machine: "


def elsewhere(reason: str) -> NoReturn:
    """Skip a test that belongs to another kind of machine: no package mends it, so that it stands in CI too."""
    pytest.skip(_ELSEWHERE + reason)


def judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a skip a failure, in CI."""
    if not report.skipped or hasattr(report, "wasxfail") or os.environ.get("CI") != "true":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if _ELSEWHERE not in reason:
        report.outcome = "failed"
        report.longrepr = f"nothing is skipped in CI: {reason.removeprefix('Skipped: ')}"
