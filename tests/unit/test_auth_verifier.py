"""The verifier: one look-up, then memory, until an event says otherwise. On a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from hearth.core.errors import StoreUnavailable, Unauthenticated
from hearth.core.permissions import Action, KeyScope, Principal, Role
from hearth.core.records import ApiKey, User
from hearth.ports.credentials import Unknown
from hearth.security.rootkey import RootKey
from hearth.security.tokens import AccessTokens, TokenMint
from hearth.security.verifier import BAD_TTL_MS, CredentialVerifier
from hearth.store.rows import emit
from tests.contract.store_setup import Setting, setting

ROOT = RootKey(b"r" * 32)
MINT = TokenMint(ROOT)


class DeafBus:
    """A bus whose every hint is lost."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def publish(self, topic: str) -> None:
        pass

    def subscribe(self, topic: str, callback: Callable[[], None]) -> None:
        assert topic == "credentials"
        self.callbacks.append(callback)

    def hint(self) -> None:
        for callback in self.callbacks:
            callback()


@dataclass
class Door:
    at: Setting
    bus: DeafBus
    verifier: CredentialVerifier
    user: User

    async def session(self) -> bytes:
        session = self.at.ids.new("session")
        expires = self.at.clock.now_ms() + 86_400_000
        await self.at.store.add_session(session, self.user.id, session.encode(), expires, label="cli")
        return MINT.access(self.user.id, session, self.at.clock.now_ms())[0].encode()

    async def key(self, expires_ms: int | None = None) -> tuple[ApiKey, bytes]:
        secret, secret_hash = MINT.key()
        key = self.at.key(self.user, expires_ms=expires_ms)
        await self.at.store.add_key(key, secret_hash)
        await self.verifier._read_events()  # of its making
        return key, secret.encode()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with setting() as at:
        bus = DeafBus()
        access = AccessTokens([ROOT.token_public_key()])
        verifier = CredentialVerifier(at.store, access, at.clock, bus, size=4, tick=3600)
        user = await at.user()
        await verifier.start()
        yield Door(at, bus, verifier, user)
        await verifier.close()


async def test_a_session_is_looked_up_once(door: Door) -> None:
    token = await door.session()
    assert door.verifier.cached(token) is Unknown.UNKNOWN
    principal = await door.verifier.resolve(token)
    assert principal == Principal(
        door.user.id,
        f"user:{door.user.id}",
        ((door.user.namespace_id, Role.OWNER),),
        True,
        None,
        door.user.id,
    )
    assert door.verifier.cached(token) is principal
    identity = await door.verifier.identify(token.decode())
    assert identity.principal is principal and identity.session_id is not None
    door.at.clock.advance(901)
    assert door.verifier.cached(token) is Unknown.UNKNOWN
    with pytest.raises(Unauthenticated):
        await door.verifier.resolve(token)


async def test_a_key_has_its_scope_and_its_makers_roles(door: Door) -> None:
    key, token = await door.key(expires_ms=door.at.clock.now_ms() + 1000)
    principal = await door.verifier.resolve(token)
    assert (principal.id, principal.label, principal.user_id) == (key.id, f"key:{key.id}", door.user.id)
    assert principal.key == KeyScope(door.user.namespace_id, None, frozenset({Action.INVOKE}))
    assert principal.roles == ((door.user.namespace_id, Role.OWNER),)
    door.at.clock.advance(0.999)
    assert door.verifier.cached(token) is principal
    door.at.clock.advance(0.001)
    assert door.verifier.cached(token) is Unknown.UNKNOWN
    with pytest.raises(Unauthenticated):
        await door.verifier.resolve(token)
    assert door.verifier.cached(token) is None  # known to be bad
    door.at.clock.advance(BAD_TTL_MS / 1000)
    assert door.verifier.cached(token) is Unknown.UNKNOWN


@pytest.mark.parametrize("what", ["revoked", "disabled", "password", "member"])
async def test_what_ends_a_credential_ends_it_in_memory(door: Door, what: str) -> None:
    key, token = await door.key()
    other_key, other = await door.key()
    await door.verifier.resolve(token)
    await door.verifier.resolve(other)
    store = door.at.store
    if what == "revoked":
        await store.revoke_key(door.user.id, key.id)
    elif what == "disabled":
        await store.set_disabled(door.user.id, True, actor="host")
    elif what == "password":
        await store.set_password(door.user.id, "new", actor="host")
    else:
        await store._db.write(lambda tx: emit(tx, "member", door.user.id))
    assert isinstance(door.verifier.cached(token), Principal)  # the hint is under way
    door.bus.hint()
    assert door.verifier.cached(token) is Unknown.UNKNOWN  # from here on nothing old is believed
    if what in ("revoked", "disabled"):
        with pytest.raises(Unauthenticated):
            await door.verifier.resolve(token)
    else:
        await door.verifier.resolve(token)
    kept = door.verifier.cached(other)
    assert isinstance(kept, Principal) == (what == "revoked"), other_key


async def test_a_lost_hint_is_repaired_by_the_timer() -> None:
    async with setting() as at:
        bus = DeafBus()
        user = await at.user()
        verifier = CredentialVerifier(
            at.store, AccessTokens([ROOT.token_public_key()]), at.clock, bus, tick=0.01
        )
        await verifier.start()
        door = Door(at, bus, verifier, user)
        token = await door.session()
        await verifier.resolve(token)
        await at.store.set_disabled(user.id, True, actor=user.id)
        async with asyncio.timeout(10):
            while verifier.cached(token) is not Unknown.UNKNOWN:
                await asyncio.sleep(0.005)
        await verifier.close()


async def test_who_was_disabled_can_be_enabled_again(door: Door) -> None:
    _, token = await door.key()
    await door.at.store.set_disabled(door.user.id, True, actor="host")
    with pytest.raises(Unauthenticated):
        await door.verifier.resolve(token)
    await door.at.store.set_disabled(door.user.id, False, actor="host")
    door.bus.hint()
    assert await door.verifier.resolve(token)


async def test_a_crowd_with_one_new_key_looks_it_up_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = await door.key()
    calls = 0
    real = door.at.store.find_key

    async def counted(secret_hash: bytes) -> tuple[ApiKey, User] | None:
        nonlocal calls
        calls += 1
        return await real(secret_hash)

    monkeypatch.setattr(door.at.store, "find_key", counted)
    leaving = asyncio.create_task(door.verifier.resolve(token))
    await asyncio.sleep(0)
    crowd = asyncio.gather(*(door.verifier.resolve(token) for _ in range(50)))
    await asyncio.sleep(0)
    leaving.cancel()  # who came first may leave
    assert len({id(principal) for principal in await crowd}) == 1 and calls == 1


async def test_a_look_up_that_a_revocation_overtook_is_not_kept(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, token = await door.key()
    real, read, go_on = door.at.store.memberships, asyncio.Event(), asyncio.Event()

    async def slow(user_id: str) -> object:
        read.set()
        await go_on.wait()
        return await real(user_id)

    monkeypatch.setattr(door.at.store, "memberships", slow)
    asked = asyncio.create_task(door.verifier.resolve(token))
    await read.wait()
    await door.at.store.revoke_key(door.user.id, key.id)
    await door.verifier._read_events()
    go_on.set()
    await asked  # it came before
    assert door.verifier.cached(token) is Unknown.UNKNOWN
    with pytest.raises(Unauthenticated):
        await door.verifier.resolve(token)


async def test_memory_is_bounded_and_keeps_what_is_used(door: Door) -> None:
    tokens = [(await door.key())[1] for _ in range(5)]
    for token in tokens[:4]:
        await door.verifier.resolve(token)
    door.verifier.cached(tokens[0])
    await door.verifier.resolve(tokens[4])
    kept = [door.verifier.cached(token) is not Unknown.UNKNOWN for token in tokens]
    assert kept == [True, False, True, True, True]


@pytest.mark.parametrize("token", [b"", b"x", b"\xff" * 50, b"hk_" + b"A" * 43, b"a.b.c", b"x" * 100_000])
async def test_nonsense_is_refused_and_not_hoarded(door: Door, token: bytes) -> None:
    with pytest.raises(Unauthenticated):
        await door.verifier.resolve(token)
    assert sum(len(kept) for kept in door.verifier._entries) <= 46


async def test_with_the_store_away_what_is_known_still_works(door: Door) -> None:
    _, known = await door.key()
    _, new = await door.key()
    principal = await door.verifier.resolve(known)
    await door.at.store.close()
    door.bus.hint()
    assert await door.verifier.resolve(known) is principal
    assert door.verifier.cached(known) is principal
    with pytest.raises(StoreUnavailable):
        await door.verifier.resolve(new)


async def test_closing_right_after_a_hint_ends_it(door: Door) -> None:
    """Python 3.11's wait_for loses a cancellation that comes in the same turn as what it waited for."""
    door.bus.hint()
    async with asyncio.timeout(10):
        await door.verifier.close()


async def test_when_keys_were_used_is_noted(door: Door) -> None:
    key, token = await door.key()
    await door.verifier.resolve(token)
    door.at.clock.advance(5)
    door.verifier.cached(token)
    await door.verifier._note_use()
    [listed] = await door.at.store.list_keys(door.user.id)
    assert listed.id == key.id and listed.last_used_ms == door.at.clock.now_ms()
