"""From nothing to an instance: a warm slot (or a fresh one), the code attached, the handler loaded."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from hearth.app.slot import Slot, Workshop
from hearth.app.slots import Slots
from hearth.app.story import how_it_ended
from hearth.core.errors import (
    FunctionCrashed,
    FunctionLoadFailed,
    FunctionTimeout,
    HearthError,
    NotFound,
    PlatformError,
    SandboxFailed,
)
from hearth.core.function import FunctionConfig
from hearth.core.launch import Attachment, Exit, Limits, Network, SlotKind, Toolchain
from hearth.core.limits import SECRETS_BYTES_MAX, format_size
from hearth.core.routing import Deployed
from hearth.core.targets import parse_targets
from hearth.ports.driver import CanAttach
from hearth.ports.secrets import Opener

EXIT_WAIT = 2.0  # seconds between a closed connection and the exit that explains it


@dataclass(frozen=True, slots=True)
class Given:
    """One secret in the clear, for the length of a start. `text`: it goes into the environment too."""

    name: str
    value: bytes = field(repr=False)
    text: bool


class PartsGone(SandboxFailed):
    """The version's artifact or its exact toolchain is not on this node any more; it has to be built again."""


class Launcher:
    """Makes instances. The pool decides when.

    Args:
        workshop: driver, guests, runtimes, logs, rows.
        slots: warm ones, and how others are made.
        toolchain_of: the exact toolchain that a version was built with, or None when this node has it no more.
        on_parts_gone: told of a version that must be built again.
        opener: opens secrets; needed where a version names some.
        networks: this machine can hold `internet`; where it can't, a function that has it by default gets none.
        without: isolation runtimes with which it can't; the empty one is the platform's own.
    """

    def __init__(
        self,
        workshop: Workshop,
        slots: Slots,
        toolchain_of: Callable[[Deployed], Toolchain | None],
        on_parts_gone: Callable[[Deployed], None] = lambda version: None,
        opener: Opener | None = None,
        networks: bool = True,
        without: Set[str] = frozenset(),
    ) -> None:
        self._shop = workshop
        self._slots = slots
        self._toolchain_of = toolchain_of
        self._on_parts_gone = on_parts_gone
        self._opener = opener
        self._networks = networks
        self._without = without

    def kind_of(self, version: Deployed) -> tuple[SlotKind, Toolchain] | None:
        """The kind of slot that a version needs, and its toolchain; None when that is gone."""
        toolchain = self._toolchain_of(version)
        if toolchain is None:
            return None
        config = version.config
        below = config.isolation_runtime
        networked = self._networks and below not in self._without and config.networked
        driver = self._shop.driver.name
        return SlotKind(driver, config.runtime, toolchain.version, networked, below), toolchain

    async def launch(self, version: Deployed) -> Slot:
        """A slot that has loaded this version.

        Raises:
            FunctionLoadFailed: a secret that it names is not set, its handler could not be imported or took longer than
                `init_timeout`.
            FunctionCrashed: it exited while loading; says how, with what it printed last.
            PartsGone: it has to be built again first.
            PlatformError: a secret can't be decrypted.
            NoCapacity, SandboxFailed, KeeperUnavailable, StoreUnavailable, LimitUnenforceable: it could not be tried.
        """
        began, story = self._shop.clock.monotonic(), self._shop.story
        try:
            slot = await self._launch(version)
        except HearthError as error:
            story.instance(version, "", f"an instance could not start: {error.message}", "error")
            raise
        slot.up = True
        took, loading = (self._shop.clock.monotonic() - began) * 1000, slot.phases["load"] * 1000
        story.instance(version, slot.id, f"instance started in {took:.0f} ms, {loading:.0f} of them loading")
        return slot

    async def _launch(self, version: Deployed) -> Slot:
        found = self.kind_of(version)
        if found is None:
            raise self._gone(version, "its toolchain")
        kind, toolchain = found
        given = open_secrets(version, self._opener)
        slot = self._slots.take(kind)
        if slot is not None:
            try:
                return await self._prepare(slot, version, given)
            except (SandboxFailed, FunctionCrashed) as error:
                # A slot may have died while it waited; only a fresh one can tell whether the function is at fault.
                if isinstance(error, PartsGone) or (
                    isinstance(error, FunctionCrashed) and "load" in slot.phases
                ):
                    raise
        attaches = isinstance(self._shop.driver, CanAttach)
        whole = None if attaches else attachment(version, kind.networked, given)
        slot = await self._slots.start(kind, toolchain, whole)
        return await self._prepare(slot, version, given)

    async def discard(self, slot: Slot, grace: float) -> None:
        """Remove a slot's sandbox."""
        await self._slots.discard(slot, grace)

    async def cause_of_death(self, slot: Slot) -> FunctionCrashed:
        """Why an instance whose connection closed has ended."""
        try:
            async with asyncio.timeout(EXIT_WAIT):
                end = await self._shop.driver.wait(slot.handle)
        except (TimeoutError, HearthError):
            end = Exit(None, reason="it closed its connection")
        return crash(end, slot)

    async def _prepare(self, slot: Slot, version: Deployed, given: tuple[Given, ...]) -> Slot:
        try:
            await self._attach(slot, version, given)
            await self._load(slot, version, given)
        except BaseException:
            await self._slots.discard(slot, 0.0)
            raise
        return slot

    async def _attach(self, slot: Slot, version: Deployed, given: tuple[Given, ...]) -> None:
        shop, began = self._shop, self._shop.clock.monotonic()
        slot.belongs_to(version, lambda: None)
        if isinstance(shop.driver, CanAttach):
            try:
                await shop.driver.attach(slot.handle, attachment(version, slot.kind.networked, given))
            except NotFound:
                raise self._gone(version, "its artifact") from None
        shop.rows.change(slot.id, "attached", version=version.id)
        slot.phases["attach"] = shop.clock.monotonic() - began

    async def _load(self, slot: Slot, version: Deployed, given: tuple[Given, ...]) -> None:
        shop, began, config = self._shop, self._shop.clock.monotonic(), version.config
        identity = {"function": version.name, "namespace": version.namespace, "version": str(version.number)}
        payload = shop.runtimes[config.runtime].load(
            _filled(config, version.handler, given, slot.url), identity
        )
        loading = asyncio.create_task(slot.guest.load(payload, began + config.init_timeout))
        exiting = asyncio.create_task(shop.driver.wait(slot.handle))
        try:
            await asyncio.wait((loading, exiting), return_when=asyncio.FIRST_COMPLETED)
            slot.phases["load"] = shop.clock.monotonic() - began
            if not loading.done():  # it exited: whatever its connection still says comes within a moment
                await asyncio.wait((loading,), timeout=0.2)
            said = loading.result() if loading.done() else {}
            if not loading.done():
                raise crash(exiting.result(), slot)
        except FunctionCrashed:
            raise await self.cause_of_death(slot) from None
        except FunctionTimeout:
            raise FunctionLoadFailed(
                f"it did not finish loading within {config.init_timeout:g} s",
                hint="do less at import, or raise init_timeout in function.yaml",
                details=_tail(slot),
            ) from None
        except FunctionLoadFailed as error:
            raise FunctionLoadFailed(
                error.message, hint=error.hint, details={**_tail(slot), **error.details}
            ) from None
        finally:
            for task in (loading, exiting):
                task.cancel()
            await asyncio.gather(loading, exiting, return_exceptions=True)
        slot.handler = str(said.get("handler", "")) or config.handler

    def _gone(self, version: Deployed, what: str) -> PartsGone:
        self._on_parts_gone(version)
        return PartsGone(
            f"{what} is not on this machine any more; it is built again from its source", retry_after=5
        )


def open_secrets(version: Deployed, opener: Opener | None) -> tuple[Given, ...]:
    """The values of the secrets that a version names, for one start.

    Raises:
        FunctionLoadFailed: one is not set, or they are too many bytes. PlatformError: one can't be decrypted.
    """
    set_ = {secret.name for secret in version.secrets}
    missing = [name for name in version.config.secrets if name not in set_]
    if missing:
        raise FunctionLoadFailed(
            f"the secret {missing[0]} is not set",
            hint=f"set it: hearth secrets set {missing[0]}",
            details={"secrets": missing},
        )
    if sum(secret.size for secret in version.secrets) > SECRETS_BYTES_MAX:
        raise FunctionLoadFailed(
            f"its secrets are larger than {format_size(SECRETS_BYTES_MAX)} together",
            hint="keep large things in the function's files or in a store that it asks",
        )
    if not version.secrets:
        return ()
    if opener is None:
        raise PlatformError("this process can't open secrets")
    return tuple(Given(secret.name, opener.open(secret), secret.text) for secret in version.secrets)


def attachment(version: Deployed, networked: bool, given: tuple[Given, ...] = ()) -> Attachment:
    """What makes a slot this version's."""
    config = version.config
    return Attachment(
        artifact=version.artifact,
        limits=Limits(memory=config.memory, cpu=config.cpu, tmp=config.tmp),
        network=network_of(config) if networked else Network(),
        secrets=tuple((secret.name, secret.value) for secret in given),
    )


def network_of(config: FunctionConfig) -> Network:
    """Whom a function may reach."""
    targets = tuple((target.host, target.port) for target in parse_targets(config.allow))
    return Network(config.network, targets=targets)


def crash(end: Exit, slot: Slot) -> FunctionCrashed:
    """An exit as the error that a person sees."""
    hint = "raise memory in function.yaml" if end.oom else "see the function's logs"
    text = how_it_ended(end, slot.version)
    return FunctionCrashed(f"the function crashed: {text}", hint=hint, details=_tail(slot))


def _tail(slot: Slot) -> dict[str, str]:
    return {"tail": "\n".join(slot.tail)} if slot.tail else {}


def _filled(config: FunctionConfig, handler: str, given: tuple[Given, ...], url: str) -> FunctionConfig:
    """The settings with what is known only now: the handler as detected, secrets and HEARTH_URL in the environment. For `load` alone."""
    secrets = tuple((secret.name, secret.value.decode()) for secret in given if secret.text)
    ours = (("HEARTH_URL", url),) if url else ()
    return dataclasses.replace(config, handler=config.handler or handler, env=(*config.env, *secrets, *ours))
