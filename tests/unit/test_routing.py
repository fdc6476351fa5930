"""Routes as pure data: weights, what can serve, what stays the same object."""

from __future__ import annotations

from collections import Counter

import pytest

from hearth.core.errors import NotFound
from hearth.core.records import RouteRow, Target
from hearth.core.routing import deployed, make_route
from hearth.core.version import VersionState
from tests.unit.pool_kit import function_row, version_row


def row(*weights: int, alias: str = "live") -> RouteRow:
    targets = tuple(Target(version_row(number=n), weight) for n, weight in enumerate(weights, 1))
    return RouteRow(function_row("hello"), ((alias, targets),))


def test_weights_are_shares() -> None:
    route = make_route(row(90, 10), {})
    assert route is not None and route.live.only is None
    picked = Counter(route.live.pick(n / 1000).number for n in range(1000))
    assert picked == {1: 900, 2: 100}
    assert route.live.pick(0.0).number == 1
    assert route.live.pick(0.9999999).number == 2


def test_one_version_is_picked_without_looking() -> None:
    route = make_route(row(100), {})
    assert route is not None and route.live.only is route.live.pick(0.5)


def test_no_weight_no_traffic() -> None:
    route = make_route(row(0, 100), {})
    assert route is not None and route.live.only is not None and route.live.only.number == 2
    assert make_route(row(0), {}) is None
    assert make_route(row(100, alias="beta"), {}) is None


def test_known_versions_are_used_again() -> None:
    first = make_route(row(50, 50), {})
    assert first is not None
    again = make_route(row(90, 10), {version.id: version for version in first.versions})
    assert again is not None and again.versions[0] is first.versions[0]


def test_what_the_path_needs_is_ready_made() -> None:
    made = deployed(function_row("hello"), version_row(number=7, timeout=1.5, auth="public"))
    assert made.prefix == b"/fn/ann/hello"
    assert made.version_header == b"x-hearth-version: 7\r\n"
    assert (made.timeout_ms, made.public) == (b"1500", True)


@pytest.mark.parametrize(
    "state", [VersionState.PENDING, VersionState.BUILDING, VersionState.BUILT, VersionState.FAILED]
)
def test_a_version_asked_for_must_have_been_proven(state: VersionState) -> None:
    with pytest.raises(NotFound):
        deployed(function_row("hello"), version_row(state=state))


def test_a_live_version_that_is_built_again_is_still_routed_to() -> None:
    rebuilt = version_row(state=VersionState.PENDING)
    route = make_route(RouteRow(function_row("hello"), (("live", (Target(rebuilt, 1),)),)), {})
    assert route is not None
