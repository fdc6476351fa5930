"""What an unprivileged process sees of a home that is closed to it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

PROGRAM = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from hearth.supervisor import view
    home, run = Path(sys.argv[1]), Path(sys.argv[2])
    view.enter(run, [home / "clone" / "venv", home / "tool" / "bin", home / "clone" / "file", home / "clone" / "package"])
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    assert (home / "clone" / "venv" / "inside").read_text() == "venv"
    assert (home / "tool" / "bin" / "inside").read_text() == "tool"
    assert (home / "clone" / "file").read_text() == "file"
    for hidden in ("secret", "clone/other"):
        try:
            (home / hidden).read_text()
        except (PermissionError, FileNotFoundError):
            continue
        raise SystemExit(f"{hidden} is visible")
    assert sorted(os.listdir(home)) == ["clone", "tool"]
    sys.path.insert(0, str(home / "clone"))  # as an editable install does
    import package
    assert package.__file__ == str(home / "clone" / "package" / "__init__.py")
    print("ok")
""")


def test_only_what_is_needed_is_visible_at_its_own_path(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name, text in {
        "clone/venv/inside": "venv",
        "tool/bin/inside": "tool",
        "clone/file": "file",
        "clone/package/__init__.py": "",
        "secret": "s",
        "clone/other": "o",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    for parent in (tmp_path, *tmp_path.parents):
        if parent != Path("/") and parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(0o755)
    home.chmod(0o700)
    run = tmp_path / "run"
    before = Path("/proc/self/mountinfo").read_text()
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(home), str(run)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr
    assert Path("/proc/self/mountinfo").read_text() == before, "a mount has left the namespace"
    assert sorted(os.listdir(home)) == ["clone", "secret", "tool"]
