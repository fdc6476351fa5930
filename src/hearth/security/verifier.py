"""Who presents a credential: answered from memory, looked up once, forgotten when an event says so.

A key or a session is looked up in the database the first time and its principal kept, for as long as the
credential itself lives and no longer than an access token does. Revoking, disabling, leaving a namespace write an event;
a hint on the bus has it read at once, a timer every few seconds should the hint be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from hearth.core.errors import HearthError, Unauthenticated
from hearth.core.limits import ACCESS_TOKEN_TTL
from hearth.core.permissions import Principal
from hearth.core.records import ApiKey, Event, User
from hearth.ports.accounts import Identity
from hearth.ports.bus import Bus
from hearth.ports.clock import Clock
from hearth.ports.credentials import Unknown
from hearth.ports.store import AccountStore, RouteStore
from hearth.security.tokens import AccessTokens, Claims, hash_token, looks_like_key

_log = logging.getLogger(__name__)
TOPIC = "credentials"
PAGE = 500  # events read at once
BAD_TTL_MS = (
    10_000  # how long a credential is known to be bad; it can't become good, but memory is for the good ones
)
TOUCH_EVERY = 30.0  # seconds between notes of when keys were last used


class CredentialRows(AccountStore, RouteStore, Protocol):
    """What is looked up here: accounts, and the outbox."""


@dataclass(frozen=True, slots=True)
class _Entry:
    identity: Identity | None  # None: known to be bad
    expires_ms: int
    ids: frozenset[str]  # of the user, the key, the session: whose events end this entry


class CredentialVerifier:
    """`ports.credentials.Verifier` and `ports.accounts.Identifier`.

    Args:
        size: credentials kept at most; the one that was not used for longest goes first.
        tick: seconds between looks at the outbox without a hint.
    """

    def __init__(
        self,
        rows: CredentialRows,
        access: AccessTokens,
        clock: Clock,
        bus: Bus,
        *,
        size: int = 10_000,
        tick: float = 3.0,
    ) -> None:
        self._rows = rows
        self._access = access
        self._clock = clock
        self._size = size
        self._tick = tick
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lookups: dict[bytes, asyncio.Task[_Entry]] = {}
        self._used: dict[str, int] = {}
        self._seen = 0
        self._generation = (
            0  # grows with every event that ends entries: a look-up that began before is not kept
        )
        self._hinted = self._read = 0  # hints that came, and up to which one the outbox has been read
        self._turn = asyncio.Event()  # ends when it has been read once more
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        bus.subscribe(TOPIC, self._on_hint)

    async def start(self) -> None:
        """Begin to follow the outbox. Raises StoreUnavailable."""
        self._seen = await self._rows.last_event()
        self._task = asyncio.create_task(self._follow(), name="credentials")

    async def close(self) -> None:
        tasks = [task for task in (self._task, *self._lookups.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None
        with contextlib.suppress(HearthError):  # when keys were last used is a courtesy
            await self._note_use()

    def cached(self, token: bytes) -> Principal | Unknown | None:
        """See the port. One look into a dict; a known key's use is noted in memory."""
        entry = self._entries.get(token)
        now = self._clock.now_ms()
        if entry is None or entry.expires_ms <= now or self._read < self._hinted:
            return Unknown.UNKNOWN
        self._entries.move_to_end(token)
        if entry.identity is None:
            return None
        principal = entry.identity.principal
        if principal.key is not None:
            self._used[principal.id] = now
        return principal

    async def resolve(self, token: bytes) -> Principal:
        """See the port."""
        return (await self._identify(token)).principal

    async def identify(self, token: str) -> Identity:
        """Who asks, with his session. Raises Unauthenticated, StoreUnavailable."""
        return await self._identify(token.encode("utf-8", "surrogateescape"))

    def _on_hint(self) -> None:
        self._hinted += 1
        self._wake.set()

    async def _identify(self, token: bytes) -> Identity:
        hinted = self._hinted
        while (
            self._read < hinted and self._task is not None
        ):  # something was revoked, and what is not read yet
            try:
                async with asyncio.timeout(self._tick):
                    await self._turn.wait()
            except TimeoutError:
                break
        known = self.cached(token)
        if known is Unknown.UNKNOWN:  # also when hints never end: then each call is looked up
            lookup = self._lookups.get(token)
            if lookup is None:  # a hundred calls with one new key look it up once
                lookup = asyncio.create_task(self._look_up(token))
                self._lookups[token] = lookup
                lookup.add_done_callback(lambda task: self._looked_up(token, task))
            identity = (await asyncio.shield(lookup)).identity
        else:
            identity = self._entries[token].identity
        if identity is None:
            raise Unauthenticated(
                "the credential is expired, revoked or unknown",
                hint="log in again: hearth login; or use another key",
            )
        return identity

    def _looked_up(self, token: bytes, task: asyncio.Task[_Entry]) -> None:
        del self._lookups[token]
        if not task.cancelled():
            task.exception()  # seen here too, for when everybody who waited for it has left

    async def _look_up(self, token: bytes) -> _Entry:
        generation, now = self._generation, self._clock.now_ms()
        text = token.decode("ascii", "replace")
        claims = None
        if looks_like_key(text):
            entry = await self._key(text, now)
        elif (claims := self._access.read(text, now)) is not None:
            entry = await self._session(claims)
        else:
            return _Entry(
                None, 0, frozenset()
            )  # said without a look-up, so nothing to remember: it may be huge
        if entry is None:
            entry = _Entry(None, now + BAD_TTL_MS, frozenset())
        elif claims is None and entry.identity is not None:
            self._used[entry.identity.principal.id] = now
        if generation == self._generation:
            self._entries[token] = entry
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return entry

    async def _key(self, token: str, now: int) -> _Entry | None:
        found = await self._rows.find_key(hash_token(token))
        if found is None:
            return None
        key, user = found
        longest = now + int(ACCESS_TOKEN_TTL * 1000)
        expires = longest if key.expires_ms is None else min(longest, key.expires_ms)
        return _Entry(Identity(await self._principal(user, key)), expires, frozenset((key.id, user.id)))

    async def _session(self, claims: Claims) -> _Entry | None:
        user = await self._rows.session_live(claims.session_id)
        if user is None or user.id != claims.user_id:
            return None
        identity = Identity(await self._principal(user, None), claims.session_id)
        return _Entry(identity, claims.expires_ms, frozenset((user.id, claims.session_id)))

    async def _principal(self, user: User, key: ApiKey | None) -> Principal:
        memberships = await self._rows.memberships(user.id)
        return Principal(
            id=user.id if key is None else key.id,
            label=f"user:{user.id}" if key is None else f"key:{key.id}",
            roles=tuple((member.namespace_id, member.role) for member in memberships),
            administrator=user.administrator,
            key=None if key is None else key.scope,
            user_id=user.id,
        )

    def apply(self, event: Event) -> None:
        """Forget what an event of the outbox ends. Others who read the outbox anyway may hand theirs over."""
        if event.kind not in ("credential", "member"):
            return
        self._generation += 1
        ended = [
            token
            for token, entry in self._entries.items()
            if entry.identity is None or event.subject in entry.ids  # who was disabled may be enabled now
        ]
        for token in ended:
            del self._entries[token]

    async def _follow(self) -> None:
        touched = self._clock.monotonic()
        while True:
            # Not wait_for: it swallows a cancel that comes with the hint (Python 3.11).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tick):
                    await self._wake.wait()
            self._wake.clear()
            hinted = self._hinted
            try:
                await self._read_events()
                if self._clock.monotonic() - touched >= TOUCH_EVERY:
                    touched = self._clock.monotonic()
                    await self._note_use()
            except (
                HearthError
            ) as error:  # the store is away: nothing can be revoked there either; the next tick repairs
                _log.warning("the outbox can't be read: %s", error)
            self._read, turn, self._turn = hinted, self._turn, asyncio.Event()
            turn.set()

    async def _read_events(self) -> None:
        while True:
            events = await self._rows.events_after(self._seen, PAGE)
            for event in events:
                self.apply(event)
                self._seen = event.seq
            if len(events) < PAGE:
                return

    async def _note_use(self) -> None:
        used, self._used = self._used, {}
        await self._rows.touch_keys(used)
