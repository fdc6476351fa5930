"""Findings: what `hearth up` makes of them."""

from __future__ import annotations

from hearth.core.errors import SandboxFailed
from hearth.core.finding import State, found_by, not_held, note, ok, refused, warnings_of


def test_what_keeps_a_promise() -> None:
    held = {
        found.state: found.holds
        for found in (ok("a", ""), note("a", ""), not_held("a", ""), refused("a", ""))
    }
    assert held == {State.OK: True, State.NOTE: True, State.NOT_HELD: False, State.REFUSED: False}


def test_a_refusal_is_an_error_with_the_command_in_its_hint() -> None:
    error = refused("bubblewrap", "it is not there", "apt-get install it").error("no: ", "or do without")
    assert error.message == "no: it is not there"
    assert error.hint == "run: apt-get install it; or do without"
    assert refused("a", "b").error().hint is None


def test_an_error_becomes_the_finding_that_it_was_made_of() -> None:
    finding = refused("a", "it is not there", "apt-get install it")
    assert found_by(finding.error(), "a", State.REFUSED) == finding
    told = found_by(SandboxFailed("it broke", hint="look at it"), "a", State.NOT_HELD)
    assert (told.says, told.mend) == ("it broke; look at it", "")


def test_one_warning_for_each_reason_and_each_name_once() -> None:
    why = ("no group", "make-one")
    found = [
        not_held("memory", *why),
        not_held("cpu", *why),
        not_held("memory", *why),
        note("uids", "shared"),
    ]
    assert warnings_of(found) == ["not held: memory, cpu: no group; run: make-one", "uids: shared"]
