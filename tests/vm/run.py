"""Runs the demo and the tests of limits on a fresh Debian with systemd and cgroup v2, in a virtual machine.

    ./scripts/test --vm [--only STEP,…] [--continue] [--list] [--accel kvm] [--patience N] [--folder DIR]

What is needed is QEMU; software emulation (the default) works everywhere and is slow, fifteen to thirty times, so the whole takes hours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.vm.image import image
from tests.vm.machine import Machine
from tests.vm.steps import order, steps


@dataclass
class Outcome:
    code: int
    seconds: float
    when: str


class Outcomes:
    """The last outcome of each step on a disk, kept beside it: a run may be done in parts, by ``--continue``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        read = json.loads(path.read_text()) if path.exists() else {}
        self.of = {name: Outcome(**kept) for name, kept in read.items()}

    def keep(self, name: str, code: int, seconds: float) -> None:
        self.of[name] = Outcome(code, round(seconds), time.strftime("%Y-%m-%d %H:%M"))
        self._path.write_text(json.dumps({name: asdict(one) for name, one in self.of.items()}, indent=1))

    def line(self, name: str) -> str:
        one = self.of.get(name)
        return "not run" if one is None else f"{one.when} {one.seconds / 60:5.1f} min  {_meant(one.code)}"


_MEANT = {0: "passed", 124: "cut off at its limit", 125: "the machine ended by itself"}


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that QEMU goes too
    asked = parser().parse_args(arguments)
    patience = asked.patience if asked.patience is not None else (25.0 if asked.accel == "tcg" else 1.0)
    known = steps(patience)
    chosen = [step for step in known if not asked.only or step.name in asked.only.split(",")]
    unknown = set(filter(None, (asked.only or "").split(","))) - {step.name for step in known}
    if unknown:
        raise SystemExit(f"error: no step is named {', '.join(sorted(unknown))}; --list names them")
    if asked.list:
        for step in known:
            print(f"{step.name:16} {step.what} (at most {order(step, patience).limit / 60:.0f} min)")
        return 0
    if platform.machine() != "x86_64":
        raise SystemExit("error: the virtual machine is an x86_64; this machine is not")
    machine = Machine(image(asked.folder / "image"), asked.folder / "run", asked.accel)
    if not (asked.resume and machine.overlay.exists()):
        machine.renew()
        (machine.folder / "outcomes.json").unlink(missing_ok=True)
    outcomes = Outcomes(machine.folder / "outcomes.json")
    for step in chosen:
        print(f"\n» {step.name}: {step.what}", flush=True)
        begun = time.monotonic()
        code = machine.run(order(step, patience))
        outcomes.keep(step.name, code, time.monotonic() - begun)
        print(f"» {step.name}: {_meant(code)}", flush=True)
    print(
        f"\nOutput of each step: {machine.folder}/STEP.log. Waits of tests were {patience:g} times as long."
    )
    for step in known:
        print(f"  {step.name:16} {step.what:45} {outcomes.line(step.name)}")
    return int(any(outcomes.of[step.name].code for step in chosen))


def _meant(code: int) -> str:
    return _MEANT.get(code, f"failed ({code})")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="scripts/test --vm", description=(__doc__ or "").split("\n")[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearth-vm"
    made.add_argument("--only", metavar="STEP,…", help="only these steps")
    made.add_argument(
        "--continue",
        dest="resume",
        action="store_true",
        help="on the disk of the last run, not on a fresh one",
    )
    made.add_argument("--list", action="store_true", help="name the steps")
    made.add_argument("--accel", default="tcg", help="QEMU's accelerator: tcg (default) or kvm")
    made.add_argument(
        "--patience", type=float, help="factor for every wait and limit (default 25 with tcg, else 1)"
    )
    made.add_argument(
        "--folder", type=Path, default=cache, help=f"for the image and the disk (default {cache})"
    )
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
