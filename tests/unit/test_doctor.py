"""`hearth doctor` as it is printed: the table, what mends it, the verdict, the exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hearth.cli.commands import doctor
from hearth.cli.main import main
from hearth.core.finding import Finding, not_held, note, ok, refused
from hearth.core.settings import Settings

FINE = [ok("kernel", "6.1"), note("go", "fetched")]
LOST = [not_held("memory", "no group", "sudo hearth up"), not_held("cpu", "no group", "sudo hearth up")]
BROKEN = [refused("bubblewrap", "it is missing", "apt-get install bubblewrap")]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Settings with which it was examined."""
    monkeypatch.setattr(sys, "argv", ["/opt/hearth/bin/hearth"])
    for name in ("HEARTH_DATA_DIR", "HEARTH_PORT"):
        monkeypatch.delenv(name, raising=False)
    return []


def examined(monkeypatch: pytest.MonkeyPatch, asked: list[Settings], findings: list[Finding]) -> None:
    def examine(settings: Settings) -> list[Finding]:
        asked.append(settings)
        return findings

    monkeypatch.setattr("hearth.bootstrap.doctor.examine", examine)


@pytest.mark.parametrize(
    ("findings", "code", "verdict"),
    [
        (FINE, 0, "hearth up holds all that it promises."),
        (FINE + LOST, 1, "hearth up starts, with a warning. Not held: memory, cpu."),
        (FINE + LOST + BROKEN, 1, "hearth up refuses to start: bubblewrap."),
    ],
    ids=["fine", "not held", "refused"],
)
def test_the_exit_code_and_the_verdict(
    findings: list[Finding],
    code: int,
    verdict: str,
    asked: list[Settings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    examined(monkeypatch, asked, findings)
    assert main(["doctor"]) == code
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == verdict
    assert shown.err == ""
    assert main(["doctor", "--json"]) == code
    data = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["state"], one["says"]) for one in data] == [
        (one.name, one.state.value, one.says) for one in findings
    ]


def test_each_command_is_shown_once_whole_and_for_all_that_it_mends(
    asked: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "apt-get install " + " ".join(f"package-{number}" for number in range(40))
    examined(monkeypatch, asked, [*FINE, *LOST, refused("much", "is missing", long)])
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("  sudo /opt/hearth/bin/hearth up") == 1
    assert lines[lines.index("  sudo /opt/hearth/bin/hearth up") - 1] == "  # memory, cpu"
    assert f"  {long}" in lines


def test_the_settings_are_those_of_up(
    asked: list[Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examined(monkeypatch, asked, FINE)
    monkeypatch.setenv("HEARTH_PORT", "7070")
    monkeypatch.setenv("HEARTH_ISOLATION", "process")
    assert main(["doctor", "--data-dir", str(tmp_path), "--isolation", "bubblewrap", "--host", "::1"]) == 0
    (settings,) = asked
    assert (settings.data_dir, settings.host, settings.port, settings.isolation) == (
        tmp_path,
        "::1",
        7070,
        "bubblewrap",
    )
    monkeypatch.setenv("HEARTH_SLOTS", "many")  # of no use to the doctor, but `up` would not start with it
    assert main(["doctor"]) == 2
    assert "HEARTH_SLOTS can't be 'many'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mend", "flags", "command"),
    [
        ("hearth up", {}, "/opt/hearth/bin/hearth up"),
        (
            "hearth up --port 0",
            {"port": "80", "host": "::1"},
            "/opt/hearth/bin/hearth up --host ::1 --port 0",
        ),
        (
            "sudo hearth up",
            {"data_dir": "/a b"},
            "sudo /opt/hearth/bin/hearth up --data-dir '/a b' --port 7070",
        ),
        (
            "hearth up",
            {"database_url": "postgresql://u:secret@h/d"},
            '/opt/hearth/bin/hearth up --database-url "$HEARTH_DATABASE_URL"',
        ),
        ("apt-get install nftables", {"data_dir": "/a"}, "apt-get install nftables"),
    ],
)
def test_a_command_that_starts_hearth_starts_this_one_as_it_was_asked(
    mend: str, flags: dict[str, str], command: str, asked: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTH_PORT", "7070")  # this shell has it; what sudo starts does not
    assert doctor._pasted(mend, flags) == command


def test_a_program_on_the_path_needs_no_folder(
    asked: list[Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "hearth"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert doctor._pasted("hearth up", {}) == "hearth up"
    assert doctor._pasted("sudo hearth up", {}) == f"sudo {program} up"
