"""What functions print can't command a terminal, and errors are one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.cli import errors
from hearth.cli.since import since
from hearth.cli.text import day, moment, safe, safe_lines
from hearth.core.errors import HearthError, InvalidInput, error_classes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("tab\tstays, ümläut 漢 🎉 stays", "tab\tstays, ümläut 漢 🎉 stays"),
        ("\x1b[2J\x1b]0;pwned\x07", "\\x1b[2J\\x1b]0;pwned\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\x08\x7f\x00", "a\\x0db\\x08\\x7f\\x00"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("one\u2028two\x85", "one\\u2028two\\x85"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.text())
def test_nothing_safe_holds_a_control_character(text: str) -> None:
    shown = safe(text)
    assert not any((ord(c) < 0x20 and c != "\t") or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert safe(shown) == shown
    shown.encode()


def test_lines() -> None:
    assert safe_lines("a\r\nb\x1b\n") == ["a", "b\\x1b", ""]


def test_times() -> None:
    assert moment(1795483104123) == "2026-11-24T01:18:24.123Z"
    assert moment(0) == "1970-01-01T00:00:00.000Z"
    assert day(None) == "-"


@pytest.mark.parametrize("cls", error_classes().values(), ids=lambda cls: cls.__name__)
def test_every_error_has_an_exit_code_of_its_own(cls: type[HearthError]) -> None:
    assert errors.EXIT_CODES[cls] in (1, 2, 3, 4)
    assert errors.exit_code(cls("x")) == errors.EXIT_CODES[cls]


def test_a_class_that_is_not_in_the_table_is_as_its_ancestor() -> None:
    class Younger(error_classes()["not_found"]):  # type: ignore[misc]
        pass

    assert errors.exit_code(Younger("x")) == errors.NOT_FOUND


def test_an_error_is_one_line() -> None:
    assert errors.error_line("it\nbroke\x1b[1m.", "mend\n it.") == "error: it broke\\x1b[1m. hint: mend it"
    assert errors.error_line("it broke", None) == "error: it broke"


NOW = 1_795_483_200.0  # 2026-11-24T01:20:00Z


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("10m", NOW - 600),
        (" 1h30m ", NOW - 5400),
        ("0s", NOW),
        ("9999999d", 0),
        ("2026-11-24T01:18:24Z", NOW - 96),
        ("2026-11-24T02:18:24.5+01:00", NOW - 95.5),
        ("2026-11-24T01:18Z", NOW - 120),
    ],
)
def test_since(text: str, at: float) -> None:
    assert since(text, NOW) == int(at * 1000)


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-5m", "1y", "2026-13-01", "2026-11-24T25:00", "2026-11-25T00:00Z", "0000-01-01"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        since(text, NOW)
    assert "--since" in caught.value.message and "10m" in str(caught.value.hint)
