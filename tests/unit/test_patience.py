"""`--patience`: a slow machine's tests may take longer, in every place where a test gives up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import patience

SLOW = """
import time
import pytest
from tests.e2e.platform import until

def test_plain():
    time.sleep(0.6)

@pytest.mark.timeout(0.3)
def test_its_own():
    time.sleep(0.6)

def test_until():
    begun = time.monotonic()
    until(lambda: time.monotonic() > begun + 0.6, 0.3)
"""


@pytest.mark.parametrize(("factor", "passed"), [("1", 0), ("100", 3)])
def test_whatever_gives_up_waits_longer(tmp_path: Path, factor: str, passed: int) -> None:
    path = tmp_path / "test_slow.py"
    path.write_text(SLOW)
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.conftest",
        "--timeout",
        "0.3",
        "--patience",
        factor,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == int(passed == 0), done.stdout
    assert (f"{passed} passed" in done.stdout) is (passed > 0), done.stdout
    assert ("3 failed" in done.stdout) is (passed == 0), done.stdout


def test_plain_machines_wait_as_written() -> None:
    assert patience.patient(20.0) == 20.0 * patience._factor
