"""What every suite shares: which machine it may run on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import pytest

from hearth.drivers.bubblewrap.cgroup_tree import detect_own
from tests import dockerd as daemons
from tests.machine import elsewhere, judge
from tests.patience import patient, set_factor
from tests.postgres import Postgres, server
from tests.stack import NAMES

HALVES = ("end-to-end", "others")
_END_TO_END = Path(__file__).parent / "e2e"


def _reason(item: pytest.Item) -> str | None:
    if item.get_closest_marker("root") is not None:
        if os.geteuid() != 0 and not (item.get_closest_marker("own") and has_own_namespaces()):
            return "needs root"
        if shutil.which("bwrap") is None:
            return "needs bubblewrap"
    if item.get_closest_marker("docker") is not None:
        if os.geteuid() != 0:
            return "needs root"
        if lacking := daemons.missing():
            return f"needs {lacking}"
    for marker in item.iter_markers("program"):
        if shutil.which(marker.args[0]) is None:
            return f"needs {marker.args[0]}"
    if item.get_closest_marker("network") is not None and not _index_answers():
        return "needs a package index that answers"
    return None


@cache
def _delegated() -> bool:
    return {"memory", "cpu"} <= detect_own("tests").offered()


def _index_answers() -> bool:
    try:
        with socket.create_connection(("pypi.org", 443), timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="session")
def dockerd() -> Generator[daemons.Dockerd]:
    """A Docker daemon with the runtime images, of the tests' own; for tests that are marked `docker`."""
    with daemons.running() as daemon:
        yield daemon


# Run by tests/user/run.py, as an ordinary user, in two halves.
collect_ignore = [] if os.environ.get("HEARTH_USER_SUITE") else ["user"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--patience",
        type=float,
        default=1.0,
        help="factor for every test's timeout and every wait, for a slow machine (such as an emulated one)",
    )
    parser.addoption(
        "--stack",
        choices=NAMES,
        default=NAMES[0],
        help="what end-to-end tests' platforms stand on: SQLite and bubblewrap, or Docker and PostgreSQL",
    )
    parser.addoption(
        "--half",
        choices=HALVES,
        help="end-to-end: those tests, but for Docker's, since one daemon at a time has the images; others: all the others",
    )


def pytest_configure(config: pytest.Config) -> None:
    set_factor(config.getoption("--patience"))
    # Started in the background by a script, this process ignores it, and so would all programs that tests send it to.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    half = config.getoption("--half")
    if half is not None:
        left_out = [item for item in items if _half(item) != half]
        items[:] = [item for item in items if _half(item) == half]
        config.hook.pytest_deselected(items=left_out)
    if config.getoption("--patience") == 1.0:
        return
    plain = config.getoption("timeout", None) or float(config.getini("timeout"))
    for item in items:
        own = item.get_closest_marker("timeout")
        seconds = plain if own is None else own.args[0]
        item.add_marker(pytest.mark.timeout(patient(seconds)), append=False)


def _half(item: pytest.Item) -> str:
    ends = _END_TO_END in item.path.parents and item.get_closest_marker("docker") is None
    return HALVES[0] if ends else HALVES[1]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that all tests share; those that stop it make their own."""
    with server() as made:
        yield made


def has_own_namespaces() -> bool:
    """Whether this is an ordinary user's process in namespaces of its own, as his keeper is: see tests/user/inside.py."""
    return os.geteuid() != 0 and os.getpid() == 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test whose needs are missing is skipped."""
    if item.get_closest_marker("cgroups") is not None and has_own_namespaces() and not _delegated():
        elsewhere("no control group was delegated to this user")
    reason = _reason(item)
    if reason is not None:
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    judge(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    judge(report)
    return report
