"""Passwords: what is refused as new, what verifies, and that no answer is bought with less work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from hearth.core.errors import Draining, InvalidInput, Overloaded
from hearth.security import passwords as module
from hearth.security.passwords import THREADS, WAITING, Argon2Passwords, Cost

GOOD = "five old brown boots"


@pytest.fixture
async def passwords() -> AsyncIterator[Argon2Passwords]:
    made = Argon2Passwords(Cost(passes=1, memory=64))
    yield made
    made.close()


async def test_a_password_verifies_and_no_other(passwords: Argon2Passwords) -> None:
    first, second = await passwords.hash(GOOD), await passwords.hash(GOOD)
    assert first != second and first.startswith("$argon2id$")
    assert await passwords.verify(first, GOOD)
    assert not await passwords.verify(first, GOOD + " ")
    assert not await passwords.verify("not a hash", GOOD)


async def test_what_looks_the_same_is_the_same(passwords: Argon2Passwords) -> None:
    assert await passwords.verify(await passwords.hash("cafe\u0301 au lait"), "caf\u00e9 au lait")


@pytest.mark.parametrize("odd", ["", "nobody", "\ud800", "x" * 5000])
async def test_nobody_has_no_password(passwords: Argon2Passwords, odd: str) -> None:
    assert not await passwords.verify(None, odd)
    assert not await passwords.verify(await passwords.hash(GOOD), odd)


async def test_an_unknown_user_costs_the_same_work(
    passwords: Argon2Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: one verification each, on a hash of the same cost."""
    known = await passwords.hash(GOOD)
    await passwords.verify(None, "warm up")
    seen: list[str] = []
    real = passwords._hasher.verify
    monkeypatch.setattr(
        passwords, "_hasher", type("Spy", (), {"verify": lambda _, h, p: seen.append(h) or real(h, p)})()
    )
    await passwords.verify(known, "wrong")
    await passwords.verify(None, "wrong")
    await passwords.verify(None, "\ud800")
    assert len(seen) == 3
    assert {text.rsplit("$", 2)[0] for text in seen} == {known.rsplit("$", 2)[0]}


@pytest.mark.parametrize(
    ("password", "email", "said"),
    [
        ("short", "a@b.c", "10 to"),
        ("x" * 1025, "a@b.c", "10 to"),
        ("password123", "a@b.c", "common"),
        ("PassWord123", "a@b.c", "common"),
        ("p@ssw0rdp@ssw0rd", "a@b.c", "common"),
        ("qwertyuiop2029!", "a@b.c", "common"),
        ("abababababab", "a@b.c", "common"),
        ("someone@example.com", "someone@example.com", "e-mail"),
        ("someone.else2029", "someone.else@example.com", "e-mail"),
        ("\ud800 and nine more", "a@b.c", "text"),
    ],
)
async def test_new_passwords_that_are_refused(
    passwords: Argon2Passwords, password: str, email: str, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        passwords.check(password, email)
    assert refused.value.hint and password not in str(refused.value)


async def test_good_ones_pass(passwords: Argon2Passwords) -> None:
    for password in (GOOD, "k7#pQ9!mZ2", "пять старых ботинок", "x7" * 3 + "yQ4 zw"):
        passwords.check(password, "jo@example.com")


async def test_the_crowd_is_turned_away_and_places_come_back(passwords: Argon2Passwords) -> None:
    release = threading.Event()
    waiting = [
        asyncio.create_task(passwords._in_pool(lambda: release.wait(10))) for _ in range(THREADS + WAITING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await passwords.hash(GOOD)
    assert refused.value.retry_after == 1.0
    for task in waiting[THREADS:]:
        task.cancel()  # who leaves before his turn gives his place back too
    release.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    results = await asyncio.gather(*(passwords.hash(GOOD) for _ in range(THREADS + WAITING)))
    assert len(results) == THREADS + WAITING


async def test_a_closed_pool_says_so() -> None:
    passwords = Argon2Passwords(Cost(passes=1, memory=64))
    passwords.close()
    with pytest.raises(Draining):
        await passwords.hash(GOOD)


def test_the_default_cost_is_what_the_specification_says() -> None:
    assert Cost() == Cost(passes=3, memory=65536, lanes=1)


def test_the_list_is_not_empty() -> None:
    common = module._read_common()
    assert len(common) > 300 and all(word == word.casefold() for word in common)
