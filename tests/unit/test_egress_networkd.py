"""The file that keeps systemd-networkd off the links of sandboxes. What networkd makes of it is seen by scripts/test --vm,
whose Debian has networkd configure every Ethernet link."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hearth.egress import networkd

Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine under systemd with commands that write down how they are called."""

    def make(active: int = 0, reload: int = 0) -> Path:
        commands = tmp_path / "bin"
        commands.mkdir()
        for name, code in (("systemctl", active), ("networkctl", reload)):
            script = f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/called\n[ {code} = 0 ] || echo "no bus" >&2\nexit {code}\n'
            (commands / name).write_text(script)
            (commands / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
        monkeypatch.setattr(networkd, "has_systemd", lambda: True)
        return tmp_path

    return make


def called(place: Path) -> list[str]:
    return (place / "called").read_text().splitlines()


def test_networkd_is_told_of_a_file_that_it_can_read(machine: Machine) -> None:
    place = machine()
    folder = place / "run" / "network"
    before = os.umask(0o077)
    try:
        networkd.keep_out("hbabcd", folder)
    finally:
        os.umask(before)
    file = folder / "00-hbabcd.network"
    assert "[Match]\nName=hbabcd*\n\n[Link]\nUnmanaged=yes\n" in file.read_text()
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o755, 0o644)
    assert called(place) == ["systemctl is-active --quiet systemd-networkd", "networkctl reload"]
    networkd.withdraw("hbabcd", folder)
    networkd.withdraw("hbabcd", folder)
    assert not list(folder.iterdir())


def test_a_networkd_that_sleeps_is_not_woken(machine: Machine) -> None:
    place = machine(active=3)
    networkd.keep_out("hbabcd", place)
    assert networkd.file_for("hbabcd", place).exists()  # it may be started later
    assert called(place) == ["systemctl is-active --quiet systemd-networkd"]


def test_what_fails_is_a_warning(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    place = machine(reload=1)
    with caplog.at_level(logging.WARNING):
        networkd.keep_out("hbabcd", place)
        networkd.keep_out("hbabcd", place / "called")  # not a folder
    assert [("no bus" in text, "Not a directory" in text) for text in caplog.messages] == [
        (True, False),
        (False, True),
    ]


def test_nothing_is_written_without_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networkd, "has_systemd", lambda: False)
    networkd.keep_out("hbabcd", tmp_path)
    assert not list(tmp_path.iterdir())
