"""Passwords: argon2id in a small pool of threads, and the rules for a new one."""

from __future__ import annotations

import asyncio
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from hearth.core.errors import Draining, InvalidInput, Overloaded
from hearth.core.limits import PASSWORD_MAX, PASSWORD_MIN

T = TypeVar("T")
THREADS, WAITING = 2, 16  # hashes at once, and how many more may wait: 64 MiB each while it runs
_DISTINCT = 5  # characters that a password must have of different kinds: aaaaaaaaaa is none
_LEET = str.maketrans("01345780@$!", "oieastbo" + "asi")


@dataclass(frozen=True, slots=True)
class Cost:
    """argon2id's work: passes, KiB of memory, lanes. The default is RFC 9106's second choice with one lane."""

    passes: int = 3
    memory: int = 65536
    lanes: int = 1


class Argon2Passwords:
    """`ports.accounts.Passwords`. Close it."""

    def __init__(self, cost: Cost | None = None) -> None:
        cost = cost or Cost()
        self._hasher = PasswordHasher(cost.passes, cost.memory, cost.lanes)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="hearth-argon2")
        self._places = threading.BoundedSemaphore(THREADS + WAITING)
        self._common = _read_common()
        self._nobody: str | None = None

    def check(self, password: str, email: str) -> None:
        """Judge a new password. Raises InvalidInput: too short, too long, a common one, the e-mail itself."""
        if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
            raise InvalidInput(
                f"a password has {PASSWORD_MIN} to {PASSWORD_MAX} characters",
                hint="a few words in a row are a good one",
            )
        if not _is_text(password):
            raise InvalidInput(
                "the password has characters that are no text", hint="type it in plain Unicode"
            )
        plain = password.casefold()
        readings = {plain, plain.translate(_LEET), plain.rstrip("0123456789!?.#*")}
        if len(set(plain)) < _DISTINCT or readings & self._common:
            raise InvalidInput("this password is a common one", hint="a few words in a row are a good one")
        if readings & {email, email.partition("@")[0]}:
            raise InvalidInput(
                "the password is the e-mail address", hint="a few words in a row are a good one"
            )

    async def hash(self, password: str) -> str:
        """The encoded hash, with its salt and cost. Raises Overloaded."""
        return await self._in_pool(lambda: self._hasher.hash(_bytes(password)))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password. With None the same work is done on nobody's hash. Raises Overloaded."""
        return await self._in_pool(lambda: self._verify(password_hash, password))

    def _verify(self, password_hash: str | None, password: str) -> bool:
        if (
            self._nobody is None
        ):  # made before the first answer, whoever it is for: no answer is slower than another
            self._nobody = self._hasher.hash(b"nobody")
        if len(password) > PASSWORD_MAX or not _is_text(password):
            password, password_hash = "", None
        try:
            self._hasher.verify(password_hash or self._nobody, _bytes(password))
        except (VerificationError, InvalidHashError):
            return False
        return password_hash is not None

    async def _in_pool(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise Overloaded("too many log-ins at once", hint="try again in a moment", retry_after=1.0)
        try:
            future = self._pool.submit(work)
        except RuntimeError as error:  # the pool has been closed
            self._places.release()
            raise Draining(
                "the platform is stopping", hint="try again in a moment", retry_after=1.0
            ) from error
        future.add_done_callback(
            lambda _: self._places.release()
        )  # also when its caller left before it began
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the threads once what they do is done."""
        self._pool.shutdown()


def _is_text(password: str) -> bool:
    try:
        password.encode()
    except UnicodeEncodeError:  # half a surrogate pair, from JSON's \\ud800
        return False
    return True


def _bytes(password: str) -> bytes:
    """One form for what looks the same on every keyboard (NIST SP 800-63B, section 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password).encode()


def _read_common() -> frozenset[str]:
    text = files("hearth.security").joinpath("common_passwords.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))
