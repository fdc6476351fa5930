"""A changed secret and the instances that have the old one: replaced one by one, without a request that fails."""

from __future__ import annotations

import asyncio
import dataclasses

from hearth.app import renewal
from hearth.app.instances import Instance
from hearth.core.errors import FunctionLoadFailed, HearthError
from hearth.core.function import Scale
from hearth.core.instance import InstanceState
from hearth.core.records import SealedSecret
from hearth.core.routing import Deployed
from hearth.security.vault import Vault
from hearth.testing.guest import FakeGuest
from tests.unit.pool_kit import Kit, make_kit, version

VAULT = Vault([b"k" * 32])


def having(value: bytes | None, name: str = "hello", **config: object) -> Deployed:
    """A version that names A, which has this value (None: is not set)."""
    secrets: tuple[SealedSecret, ...] = ()
    if value is not None:
        secrets = (VAULT.seal("ns_ann", None, "A", value),)
    return dataclasses.replace(version(name, secrets=("A",), **config), secrets=secrets)


def given(kit: Kit, instance: Instance) -> bytes:
    attachment = kit.driver.sandboxes[instance.slot.handle].attachment
    assert attachment is not None
    return dict(attachment.secrets)["A"]


def values(kit: Kit) -> list[bytes]:
    return sorted(given(kit, one) for one in kit.pool.instances if one.state is InstanceState.READY)


async def test_an_idle_instance_is_replaced_before_it_ends() -> None:
    kit = make_kit(opener=VAULT)
    old, new = having(b"old"), having(b"new")
    first = await kit.up(old)
    kit.pool.serve_only([new])
    assert kit.pool.take(old) is first  # until the new one is up the old one serves: nobody waits
    kit.pool.give_back(first, kit.clock.monotonic())
    await kit.settle()
    assert values(kit) == [b"new"] and first.state is InstanceState.GONE
    await kit.close()


async def test_requests_in_work_are_finished_by_the_old_one() -> None:
    kit = make_kit(opener=VAULT)
    old, new = having(b"old"), having(b"new")
    first = await kit.up(old)
    assert kit.pool.take(old) is first
    kit.pool.serve_only([new])
    await kit.settle()
    assert first.state is InstanceState.RETIRING and not first.guest.closed
    assert (taken := kit.pool.take(new)) is not None and given(kit, taken) == b"new"
    kit.pool.give_back(first, kit.clock.monotonic())
    await kit.settle()
    assert first.state is InstanceState.GONE
    await kit.close()


async def test_busy_ones_go_one_by_one() -> None:
    kit = make_kit(opener=VAULT)
    old, new = having(b"old"), having(b"new")
    waiters = [kit.queue(old) for _ in range(3)]
    await kit.settle()
    busy = [waiter.instance for waiter in waiters]
    assert None not in busy and len(set(busy)) == 3
    least = 3
    kit.pool.serve_only([new])
    for _ in range(400):
        await asyncio.sleep(0)
        ready = [one for one in kit.pool.instances if one.state is InstanceState.READY]
        least = min(least, len(ready))
        kit.pool.tick(kit.clock.monotonic())
        if values(kit) == [b"new"] * 3:
            break
    assert values(kit) == [b"new"] * 3 and least == 3  # there was never less room than before
    await kit.close()


async def test_while_new_ones_do_not_load_the_old_ones_serve() -> None:
    bad = False

    def guest(_: int) -> FakeGuest | HearthError:
        return FakeGuest(ready=FunctionLoadFailed("wrong key") if bad else None)

    kit = make_kit(guest=guest, opener=VAULT)
    old, new = having(b"old"), having(b"new")
    first = await kit.up(old)
    bad = True
    kit.pool.serve_only([new])
    await kit.settle()
    assert values(kit) == [b"old"] and kit.pool.take(new) is first
    kit.pool.give_back(first, kit.clock.monotonic())
    opened = len(kit.guests.opened)
    kit.pool.tick(kit.clock.monotonic())
    await kit.settle()
    assert len(kit.guests.opened) == opened  # not again at once
    bad = False
    kit.clock.advance(30)
    kit.pool.tick(kit.clock.monotonic())
    await kit.settle()
    assert values(kit) == [b"new"]
    await kit.close()


async def test_one_that_is_changed_again_while_it_starts_is_replaced_too() -> None:
    kit = make_kit(opener=VAULT)
    await kit.up(having(b"one"))
    kit.driver.gate = asyncio.Event()
    kit.pool.serve_only([having(b"two")])
    await kit.settle()
    kit.pool.serve_only([having(b"three")])
    kit.driver.gate.set()
    for _ in range(200):
        await asyncio.sleep(0)
        assert values(kit)  # there is always one that serves
    assert values(kit) == [b"three"]
    await kit.close()


async def test_a_secret_that_is_gone_ends_what_has_it() -> None:
    kit = make_kit(opener=VAULT)
    first = await kit.up(having(b"old"))
    assert kit.pool.take(having(b"old")) is first
    kit.pool.serve_only([having(None)])
    await kit.settle()
    assert first.state is InstanceState.RETIRING
    waiter = kit.queue(having(None))
    kit.pool.give_back(first, kit.clock.monotonic())
    await kit.settle()
    assert isinstance(waiter.error, FunctionLoadFailed) and "A is not set" in waiter.error.message
    kit.pool.serve_only([having(b"back")])  # and is tried again at once when it is set
    waiter = kit.queue(having(b"back"))
    await kit.settle()
    assert waiter.error is None and values(kit) == [b"back"]
    await kit.close()


async def test_on_a_full_node_an_old_one_makes_room() -> None:
    kit = make_kit(room=1, opener=VAULT)
    await kit.up(having(b"old"))
    kit.pool.serve_only([having(b"new")])
    await kit.settle()
    assert values(kit) == []
    waiter = kit.queue(having(b"new"))
    kit.clock.advance(1)
    kit.pool.tick(kit.clock.monotonic())
    await kit.settle()
    assert waiter.error is None and values(kit) == [b"new"]
    await kit.close()


async def test_on_a_full_node_nobody_is_refused_meanwhile() -> None:
    kit = make_kit(room=1, opener=VAULT)
    old, new = having(b"old", scale=Scale(max=1)), having(b"new", scale=Scale(max=1))
    first = await kit.up(old)
    assert kit.pool.take(old) is first
    waiter = kit.queue(old)
    kit.pool.serve_only([new])
    for _ in range(5):
        kit.clock.advance(0.5)
        kit.pool.tick(kit.clock.monotonic())
        await kit.settle()
    assert waiter.heard == 0 and first.state is InstanceState.RETIRING
    kit.pool.give_back(first, kit.clock.monotonic())
    for _ in range(5):
        await kit.settle()
        kit.clock.advance(0.5)
        kit.pool.tick(kit.clock.monotonic())
    assert waiter.error is None and values(kit) == [b"new"]
    await kit.close()


async def test_a_namespaces_secret_does_not_start_all_its_functions_at_once() -> None:
    kit = make_kit(opener=VAULT)
    names = [f"f{number}" for number in range(3 * renewal.AT_ONCE)]
    for name in names:
        await kit.up(having(b"old", name))
    most = 0
    launches = kit.launcher.launch
    running = 0

    async def counted(wanted: Deployed):  # type: ignore[no-untyped-def]
        nonlocal most, running
        running += 1
        most = max(most, running)
        try:
            return await launches(wanted)
        finally:
            running -= 1

    kit.launcher.launch = counted  # type: ignore[method-assign]
    kit.pool.serve_only([having(b"new", name) for name in names])
    for _ in range(10):
        await kit.settle()
    assert values(kit) == [b"new"] * len(names) and most == renewal.AT_ONCE
    await kit.close()


async def test_nothing_happens_where_nothing_changed() -> None:
    kit = make_kit(opener=VAULT)
    same = having(b"old")
    first = await kit.up(same)
    again = dataclasses.replace(same)
    kit.pool.serve_only([again])
    kit.pool.tick(kit.clock.monotonic())
    await kit.settle()
    assert kit.pool.instances == [first] and len(kit.guests.opened) == 1
    await kit.close()
