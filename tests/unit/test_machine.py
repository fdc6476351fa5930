"""What CI makes of tests that are skipped."""

from __future__ import annotations

import pytest

from tests.machine import elsewhere, judge


def skipped(reason: str) -> pytest.TestReport:
    return pytest.TestReport("t", ("t.py", 1, "t"), {}, "skipped", ("t.py", 1, f"Skipped: {reason}"), "setup")


def test_in_ci_a_skip_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    report = skipped("needs zsh")
    judge(report)
    assert (report.outcome, report.longrepr) == ("failed", "nothing is skipped in CI: needs zsh")


def test_but_not_of_what_belongs_to_another_kind_of_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception) as caught:
        elsewhere("x86-64 only")
    report = skipped(str(caught.value))
    judge(report)
    assert report.skipped


def test_nor_of_what_is_known_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    report = skipped("known")
    report.wasxfail = "known"  # type: ignore[attr-defined]
    judge(report)
    assert report.skipped


def test_on_a_laptop_a_skip_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    report = skipped("needs zsh")
    judge(report)
    assert report.skipped
