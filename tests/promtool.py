"""`promtool`, Prometheus's own judge of a metrics page and of alert rules. `scripts/test` puts it beside the interpreter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def promtool(*arguments: str, stdin: bytes = b"") -> None:
    """Run it; fails the test with what it says. Without it the test is skipped."""
    beside = Path(sys.executable).parent / "promtool"
    program = str(beside) if beside.exists() else shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool")
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said.decode()
    if arguments[:2] == ("check", "metrics"):
        assert said == b"", said.decode()  # its advice too is heeded
