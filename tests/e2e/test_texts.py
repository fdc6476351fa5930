"""The commands of the README's tour and of the tutorial, run as they stand, in order."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.platform import HEARTH, PASSWORD, Platform

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]

# What stands for a person's hands: the password that is asked for, the platform in another terminal, its URL and folder, an edit.
HANDS = f"""
set -eu
hearth() {{
  case $1 in
    up) ;;
    doctor) {HEARTH} doctor --data-dir "$DATA" --port "${{URL##*:}}" ;;
    register) shift; {HEARTH} register --server "$URL" --password-stdin "$@" <<<'{PASSWORD}' ;;
    *) {HEARTH} "$@" ;;
  esac
}}
uv() {{ [ "$*" = "tool install ." ]; }}
curl() {{ command curl -sSf "${{@//http:\\/\\/127.0.0.1:8080/$URL}}"; }}
"""


def blocks(path: Path, begin: str) -> list[str]:
    text = path.read_text()
    return re.findall(r"^```sh\n(.*?)^```", text[text.index(begin) :], re.M | re.S)


def run(platform: Platform, script: str) -> str:
    folder = platform.home / "work"
    folder.mkdir()
    result = subprocess.run(
        ["bash", "-c", HANDS + script],
        cwd=folder,
        env={**platform.environment, "URL": platform.url, "DATA": str(platform.data)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, (result.stdout, result.stderr)
    return result.stdout


def test_readme(own_platform: Platform) -> None:
    platform = own_platform.start()
    said = run(platform, "\n".join(blocks(ROOT / "README.md", "## Five minutes")))
    assert said.count("Hello, Ann!") == 1
    assert said.count("Hello, world!") == 1


def test_tutorial(own_platform: Platform) -> None:
    platform = own_platform.start()
    parts = blocks(ROOT / "docs" / "tutorial" / "first-function.md", "## An account")
    fails = next(i for i, part in enumerate(parts) if i and parts[i - 1].startswith("hearth logs"))
    parts[fails] = (
        "sed -i '1i import nonsense' handler.py\nif " + parts[fails].strip() + "; then exit 9; fi\n"
    )
    public = next(i for i, part in enumerate(parts) if "curl http" in part)
    parts[public] = "sed -i 1d handler.py\necho 'auth: public' >> function.yaml\n" + parts[public]
    said = run(platform, "\n".join(parts))
    assert said.count("Hello, Ann!") == 1
    assert said.count("Hello, world!") == 2
    assert "1 " in said


def test_scripts_of_the_readme_are_there() -> None:
    for script in re.findall(r"^\./(scripts/\w+)$", (ROOT / "README.md").read_text(), re.M):
        assert os.access(ROOT / script, os.X_OK)
