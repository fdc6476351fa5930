"""What is done on the fresh Debian, in this order; each step is a boot of its own on the same disk."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.vm.image import USER
from tests.vm.machine import Order

# The clone is put where its owner alone can enter; what an earlier step made in it stays (.venv, the demo's toolchains), for it is
# the same machine.
_PRELUDE = """set -u
cd /run/step; chmod 0755 .; chmod 0644 registries.env
give() {  # OWNER HOME
  install -d -m 0700 -o "$1" -g "$1" "$2/hearth"
  find "$2/hearth" -mindepth 1 -maxdepth 1 ! -name .venv ! -name .demo -exec rm -rf {} +
  tar xf tree.tar -C "$2/hearth" && tar xf home.tar -C "$2" && chown -R --no-dereference "$1:$1" "$2"
}
"""
_PACKAGES = "source scripts/lib.sh; system_packages git procps curl"
# Go's standard library, half an hour of emulation, is compiled by the demos alone; the tests that need a Go are left out.
_TESTS = f"( {_PACKAGES}; make_venv; .venv/bin/python -m tests.toolchains node ) && exec .venv/bin/pytest -p no:cacheprovider -k 'not [go'"
_LIMITS = (
    "tests/security/test_jail_limits.py",
    "tests/security/test_jail_processes.py",
    "tests/contract/test_driver_contract.py",
    "tests/unit/test_cgroups.py",
)
_OUTSIDE = ("tests/security/test_outside.py", "tests/security/test_outside_slots.py")
_LOAD_MAX = 120.0  # seconds: the longest init_timeout that function.yaml takes
# Functions, too, may take as many times as long to load.
_DEMO = "for name in ids qr markdown; do echo 'init_timeout: {seconds:.0f}s' >> examples/$name/function.yaml; done; ./scripts/demo --once"


@dataclass(frozen=True)
class Step:
    """Args:
    name: for people and for ``--only``.
    what: one line for the table.
    user: who runs it, in a service unit of its own.
    delegate: whether systemd delegates that unit's control group to him.
    command: a line of shell, in his clone.
    limit: seconds on a machine without patience (of a factor of 1).
    """

    name: str
    what: str
    user: str
    delegate: bool
    command: str
    limit: float


def steps(patience: float) -> list[Step]:
    """Args:
    patience: how many times as long as on a plain machine tests may take.
    """
    extra = f"--patience {patience:g}"
    demo = _DEMO.format(seconds=min(_LOAD_MAX, 10 * patience))
    suite = (
        "( source scripts/lib.sh; make_venv; .venv/bin/python -m tests.toolchains node ) && exec .venv/bin/python -m tests.user.run "
        f"{extra} -k 'not [go] and not test_go_ and not wheel'"
    )
    found = [
        Step("root-demo", "root, delegated unit: the demo", "root", True, demo, 360),
        Step("root-limits", "root: limits, processes, driver contract", "root", True, _tests(_LIMITS, extra), 180),
        Step("root-outside", "root: what others on the machine see", "root", True, _tests(_OUTSIDE, extra), 180),
        Step("root-kills", "root: kills and leftovers", "root", True, _tests(["tests/e2e/test_kills.py"], extra), 180),
    ]  # fmt: skip
    for name, delegate in (("delegated", True), ("plain", False)):
        said = "with" if delegate else "without"
        found += [
            Step(f"{name}-demo", f"ordinary user {said} delegation: the demo", USER, delegate, demo, 360),
            Step(f"{name}-suite", f"ordinary user {said} delegation: his tests", USER, delegate, suite, 300),
        ]
    return found


def _tests(paths: list[str] | tuple[str, ...], extra: str) -> str:
    return f"{_TESTS} {extra} {' '.join(paths)}"


def order(step: Step, patience: float) -> Order:
    return Order(step.name, "\n".join(_script(step)) + "\n", step.limit * max(1.0, patience))


def _script(step: Step) -> Iterator[str]:
    home = "/root" if step.user == "root" else f"/home/{step.user}"
    yield _PRELUDE
    yield f"give {step.user} {home}"
    if step.user != "root":
        yield "give root /root"
        yield f"( cd /root/hearth && . /run/step/registries.env && {_PACKAGES} ) || exit 1"
    yield 'echo "» $(uname -r), $(systemctl --version | head -1), $(nproc) processors"'
    unit = f"hearth-{step.name}"
    words = [
        "systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}", f"--uid={step.user}",
        f"--property=Delegate={'yes' if step.delegate else 'no'}", f"--working-directory={home}/hearth",
        f"--setenv=HOME={home}", f"--setenv=USER={step.user}", "--setenv=CI=true",
    ]  # fmt: skip
    told = 'echo "» $(id -un), $(cat /proc/self/cgroup)"; '
    yield shlex.join([*words, "bash", "-c", f"{told}. /run/step/registries.env; {step.command}"])
    yield "code=$?"
    # What is true of every step: the unit ends, and nothing of Hearth's lives on.
    yield "left=$(pgrep -af '[h]earth.bootstrap|[b]wrap --args|[s]lirp4netns')"
    yield '[ -z "$left" ] || { echo "left running:"; echo "$left"; [ "$code" != 0 ] || code=1; }'
    yield "exit $code"
