"""What a keeper that follows another one takes over of what that found by trying, and when it tries again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hearth.core.finding import not_held
from hearth.core.launch import Probe
from hearth.drivers.bubblewrap.machine import Machine
from hearth.drivers.bubblewrap.probe import found_before

KNOWN = Probe(
    "bubblewrap",
    True,
    frozenset({"memory", "network"}),
    (not_held("cpu", "no controller"),),
    (("uids", "1-2"),),
)


UP = SimpleNamespace(missing=lambda: ())


def machine(lacks: tuple[str, ...] = ("cpu",), networks: Any = UP) -> Machine:
    return cast(
        Machine,
        SimpleNamespace(
            uids=SimpleNamespace(range=range(7, 10), shared=False),
            groups=SimpleNamespace(version="v1", missing={name: not_held(name, "why") for name in lacks}),
            disks=SimpleNamespace(backing="loop"),
            tools={"bwrap": "/usr/bin/bwrap"},
            networks=networks,
        ),
    )


def test_what_was_found_counts_with_the_facts_of_now() -> None:
    found = found_before(KNOWN, machine())
    assert found is not None
    assert (found.enforces, found.missing) == (KNOWN.enforces, KNOWN.missing)
    assert dict(found.facts)["uids"] == "7-9"


@pytest.mark.parametrize(
    "now",
    [
        machine(lacks=("cpu", "memory")),
        machine(networks=None),
        machine(networks=SimpleNamespace(missing=lambda: (not_held("network", "no nft"),))),
    ],
    ids=["a controller is gone", "no networks", "networks fail"],
)
def test_a_machine_that_differs_is_tried_again(now: Machine) -> None:
    assert found_before(KNOWN, now) is None


def test_what_was_not_usable_is_tried_again() -> None:
    assert found_before(Probe("bubblewrap", False, frozenset(), (), ()), machine()) is None
