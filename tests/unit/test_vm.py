"""What stands around the virtual machine of `./scripts/test --vm`: what is brought in, and how a step's end is known."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vm import machine
from tests.vm.image import Image
from tests.vm.machine import Machine, Order
from tests.vm.run import Outcomes, main
from tests.vm.steps import order, steps

# In QEMU's place: it knows the disk, the port to speak by, and finds the step's own word for its end in the disk.
STAND_IN = """
import re, sys, tarfile, time
disk, said, what = sys.argv[1:]
token = re.search(rb"end ([0-9a-f]+)", tarfile.open(disk).extractfile("boot").read())[1].decode()
with open(said, "a") as out:
    exec(what)
"""


@dataclass(frozen=True)
class Played(Machine):
    what: str = ""

    def _command(self, disk: Path, said: Path, console: Path) -> list[str]:
        return [sys.executable, "-c", STAND_IN, str(disk), str(said), self.what]


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("print('a'); print('end', token, 0, file=out)", 0),
        ("print('end', token, 7, file=out)", 7),
        (
            "out.write('end ' + token); out.flush(); time.sleep(1.2); out.write(' 3\\n')",
            3,
        ),  # read in two halves
        ("print('end', '0' * 16, 0, file=out)", 125),  # said by the step, not by what ran it
        ("print('half')", 125),
        ("print('end', token, 0, file=out, flush=True); time.sleep(600)", 0),  # does not switch itself off
        ("time.sleep(600)", 124),
    ],
)
def test_how_a_step_ended(tmp_path: Path, what: str, code: int) -> None:
    played = Played(Image(tmp_path), tmp_path, what=what)
    assert played.run(Order("a", "true\n", 3.0)) == code
    assert not (tmp_path / "a.tar").exists()  # it has what registries want to know


def test_what_is_brought_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    for name, text in {"kept": "old", "removed": "", ".gitignore": "ignored\n"}.items():
        (repo / name).write_text(text)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=repo, check=True)
    (repo / "kept").write_text("changed")
    (repo / "removed").unlink()
    (repo / "new").write_text("")
    (repo / "ignored").write_text("")
    monkeypatch.setattr(machine, "ROOT", repo)
    with tarfile.open(fileobj=io.BytesIO(machine.tree())) as tar:
        assert sorted(tar.getnames()) == [".gitignore", "kept", "new"]
        assert tar.extractfile("kept").read() == b"changed"  # type: ignore[union-attr]


def test_settings_of_registries_go_along_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PIP_INDEX_URL": "https://index.example/'simple'",
        "https_proxy": "http://proxy.example:3128",
        "GOPROXY": "https://go.example",
        "PIP_FIND_LINKS": "/srv/wheels",  # a folder of this machine
        "PIPELINE_TOKEN": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }.items():
        monkeypatch.setenv(name, value)
    told = machine.registries()
    show = '. /dev/stdin; printf "%s\\n" "$PIP_INDEX_URL" "$https_proxy" "$GOPROXY"'
    shown = subprocess.run(["sh", "-c", show], input=told, capture_output=True, text=True, check=True, env={})
    assert shown.stdout.split("\n")[:3] == [
        "https://index.example/'simple'",
        "http://proxy.example:3128",
        "https://go.example",
    ]
    for name in ("PIP_FIND_LINKS", "PIPELINE_TOKEN", "AWS_SECRET"):
        assert name not in told


@pytest.mark.parametrize("step", steps(15), ids=lambda step: step.name)
def test_each_step_is_shell(step: machine.Order) -> None:
    made = order(step, 15)  # type: ignore[arg-type]
    subprocess.run(["bash", "-n"], input=made.script, text=True, check=True)
    assert made.limit == step.limit * 15


def test_the_last_outcome_of_each_step_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.json"
    Outcomes(path).keep("one", 1, 90.0)
    later = Outcomes(path)
    later.keep("two", 124, 60.0)
    later.keep("one", 0, 120.0)
    again = Outcomes(path)
    assert again.line("one").endswith("2.0 min  passed")
    assert again.line("two").endswith("1.0 min  cut off at its limit")
    assert again.line("three") == "not run"


def test_an_unknown_step_is_refused() -> None:
    with pytest.raises(SystemExit, match="no step is named nonsense"):
        main(["--only", "root-demo,nonsense"])
