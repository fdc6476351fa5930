"""Which versions are kept, how aliases are written, what a disk's refusal is called."""

from __future__ import annotations

import errno
import logging

import pytest

from hearth.app.trouble import Trouble
from hearth.core.disk import refusal
from hearth.core.errors import InvalidInput, InvalidName, NoCapacity
from hearth.core.names import check_alias
from hearth.core.retention import Standing, expendable
from hearth.core.traffic import Share, format_shares, parse_shares
from hearth.core.version import VersionState

MANY = ",".join(f"{number}=1" for number in range(1, 12))
READY, FAILED = VersionState.READY, VersionState.FAILED


def test_the_newest_are_kept_whatever_became_of_them() -> None:
    versions = [Standing(n, FAILED if n > 5 else READY, live=n == 5, aliased=n == 5) for n in range(1, 16)]
    assert expendable(versions, 10) == [1, 2, 3, 4]  # 5 is live
    assert expendable(versions[::-1], 10) == [1, 2, 3, 4]
    assert expendable(versions[:10], 10) == []
    assert expendable([], 10) == []


@pytest.mark.parametrize("state", [state for state in VersionState if state not in (READY, FAILED)])
def test_what_is_in_work_is_kept(state: VersionState) -> None:
    assert expendable([Standing(1, state), Standing(2, READY), Standing(3, READY)], 1) == [2]


def test_what_is_used_is_kept_and_so_is_the_way_back() -> None:
    versions = [
        Standing(1, READY),
        Standing(2, READY, aliased=True),
        Standing(3, READY, running=True),
        Standing(4, READY, replaced=1),
        Standing(5, READY, aliased=True, live=True, replaced=2),
        Standing(6, READY, aliased=True, live=True, replaced=4),
        Standing(7, READY),
    ]
    assert expendable(versions, 1) == [1]


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("3", (Share(3, 100),)),
        ("4=10,3=90", (Share(3, 90), Share(4, 10))),
        (" 3 = 1 , 4=1000 ", (Share(3, 1), Share(4, 1000))),
    ],
)
def test_shares(text: str, shares: tuple[Share, ...]) -> None:
    assert parse_shares(text) == shares
    assert parse_shares(format_shares(shares)) == shares


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "3=",
        "=3",
        "3=1,",
        "3=0",
        "3=1001",
        "3=-1",
        "3=1,3=2",
        "3=1.5",
        "3=٣",
        "9999999999",
        "3;4",
        MANY,
    ],
)
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_shares(text)
    assert refused.value.hint


def test_names_of_aliases() -> None:
    assert check_alias("blue-green") == "blue-green"
    for name in ("", "Blue", "a--b", "a" * 32, "-a", "../x"):
        with pytest.raises(InvalidName, match="an alias"):
            check_alias(name)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_capacity(number: int) -> None:
    error = refusal(OSError(number, "No space left on device"), "the upload could not be kept")
    assert isinstance(error, NoCapacity) and error.retry_after
    assert error.message == "the upload could not be kept: the server's disk is full"
    other = refusal(OSError(errno.EIO, "Input/output error"), "the upload could not be kept")
    assert not isinstance(other, NoCapacity)


def test_trouble_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble(logging.getLogger("test"), "nothing is written")
    with caplog.at_level(logging.INFO, "test"):
        trouble.over()
        for reason in ("full", "full", "gone", "gone"):
            trouble.met(reason)
        trouble.over()
        trouble.over()
        trouble.met("full")
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is written: full",
        "nothing is written: gone",
        "no longer: nothing is written",
        "nothing is written: full",
    ]
