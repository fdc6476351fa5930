"""The units in deploy/systemd: against the code that they start, the page that explains them, and systemd itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hearth.cli.commands.up import up
from hearth.config import server_settings
from hearth.core.limits import DRAIN_GRACE, parse_duration
from hearth.core.settings import SETTINGS
from hearth.supervisor.supervisor import _STOP_SLACK
from tests.units import ROOT, SYSTEM, USER, unit

PAGE = (ROOT / "docs" / "howto" / "run-as-a-service.md").read_text()
BOTH = pytest.mark.parametrize("path", [SYSTEM, USER], ids=["system", "user"])


@BOTH
def test_it_starts_the_program_with_flags_that_there_are(path: Path) -> None:
    program, command, *flags = unit(path)["ExecStart"][0].split()
    assert command == "up"
    assert program == ("/opt/hearth/bin/hearth" if path == SYSTEM else "%h/.local/bin/hearth")
    context = up.make_context("up", flags)  # fails on an option that there isn't
    server_settings({name: context.params[name] for name in context.params if name != "as_json"}, {})


@BOTH
def test_signals_and_times_are_the_supervisors(path: Path) -> None:
    lines = unit(path)
    assert lines["Type"] == ["notify"]
    assert lines["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert lines["KillMode"] == ["mixed"]
    assert "KillSignal" not in lines  # SIGTERM
    assert float(lines["TimeoutStopSec"][0]) >= DRAIN_GRACE + _STOP_SLACK
    assert lines["Delegate"] == ["yes"]
    assert lines["OOMPolicy"] == ["continue"]


@BOTH
def test_nothing_takes_away_what_sandboxes_are_made_with(path: Path) -> None:
    never = re.findall(r"`(\w+)=?`", PAGE[PAGE.index("Don't add") :])
    assert len(never) > 7
    assert not set(never) & set(unit(path))
    assert unit(path).get("ProtectSystem") != ["strict"]


def test_the_page_explains_what_is_there() -> None:
    table = PAGE[PAGE.index("| line |") : PAGE.index("Don't add")]
    assert set(re.findall(r"`([A-Z]\w+)(?:=\w+)?`", table)) <= set(unit(SYSTEM))
    for name, value in re.findall(r"`([A-Z]\w+)=(\w+)`", table):
        assert unit(SYSTEM)[name] == [value] == unit(USER)[name]
    seconds = parse_duration(next(s.default for s in SETTINGS if s.field == "drain_grace"))
    assert f"`--drain-grace`, {seconds:.0f} s" in table


def test_variables_are_settings() -> None:
    known = {setting.env for setting in SETTINGS}
    for text in (PAGE, SYSTEM.read_text(), USER.read_text()):
        named = set(re.findall(r"HEARTH_[A-Z_]+", text))
        assert named
        assert named <= known
    block = re.search(r"```ini\n(.*?)```", PAGE, re.S)
    assert block is not None
    server_settings({}, dict(line.split("=", 1) for line in block[1].splitlines()))


def test_the_page_puts_the_program_where_the_unit_starts_it() -> None:
    assert "python3 -m venv /opt/hearth" in PAGE
    for path in (SYSTEM, USER):
        assert f"cp {path.relative_to(ROOT)} " in PAGE
    assert unit(SYSTEM)["EnvironmentFile"] == ["-/etc/hearth/env"]


@BOTH
def test_systemd_understands_it(path: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("needs systemd-analyze")
        pytest.skip("needs systemd-analyze")
    copy = tmp_path / "hearth.service"
    copy.write_text(
        path.read_text().replace(unit(path)["ExecStart"][0], "/bin/true")
    )  # it is not installed here

    def verify() -> str:
        done = subprocess.run(
            [program, "verify", *(["--user"] if path == USER else []), str(copy)],
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        # Its exit code is 0 whatever it has ignored; of other units of this machine it also speaks.
        return "\n".join(line for line in done.stderr.splitlines() if "hearth.service" in line) or (
            done.stderr if done.returncode else ""
        )

    assert verify() == ""
    copy.write_text(copy.read_text().replace("KillMode=mixed", "KillModus=mixed"))
    assert "KillModus" in verify()
