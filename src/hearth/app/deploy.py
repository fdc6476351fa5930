"""Deploys taken in: an upload is checked, kept by its digest, and becomes a version that waits for its build."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from hearth.app.auth import require
from hearth.app.reach import check_targets
from hearth.core import limits
from hearth.core.disk import nearly_full, refusal
from hearth.core.errors import (
    InvalidManifest,
    InvalidSource,
    LimitUnenforceable,
    NotFound,
    Overloaded,
    TooLarge,
)
from hearth.core.function import FunctionConfig
from hearth.core.launch import Probe, without_network
from hearth.core.names import check_function
from hearth.core.permissions import Action, Principal, Resource
from hearth.core.records import FunctionRow, VersionRow
from hearth.manifest.function import read_file
from hearth.ports.blobs import Blobs
from hearth.ports.builder import Form, Unpacker
from hearth.ports.clock import Ids
from hearth.ports.store import FunctionStore, SecretStore

_WRITE = 1 << 18
_UPLOAD_DISK = limits.SOURCE_PACKED_MAX + limits.SOURCE_UNPACKED_MAX
_UNPACKING = 2  # archives at once: each is a thread that is busy for a second or two


class DeployStore(FunctionStore, SecretStore, Protocol):
    """What a deploy needs of the store."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a deploy goes. `function_id` None: the function is new."""

    namespace_id: str
    function_id: str | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A deploy that was taken in."""

    function: FunctionRow
    version: VersionRow
    warnings: tuple[str, ...]


def check_limits(config: FunctionConfig, probe: Probe, allowed: Set[str]) -> tuple[str, ...]:
    """Hold what a function asks for against what this machine can enforce.

    Args:
        allowed: limits that the operator lets pass though they aren't held (``--allow-unenforced``).

    Returns:
        a warning for each default, and each allowed limit, that isn't held.

    Raises:
        LimitUnenforceable: one that is written down can't be held.
    """
    missing = {found.name: found.line for found in probe.missing}
    _check_runtime(config, probe)
    without = config.isolation_runtime in without_network(probe)
    asked = {name for name in config.written if not (name == "network" and not config.networked)}
    warnings = []
    for name in ("memory", "cpu", "tmp", "network"):
        if name == "network" and (not config.networked or (without and name not in asked)):
            if config.networked:
                warnings.append(f"network: with {config.isolation_runtime} the function gets no network")
            continue
        if name == "network" and without:
            raise LimitUnenforceable(
                f"with isolation_runtime {config.isolation_runtime} a function has no network",
                hint="write network: none",
                details={"limit": name},
            )
        if name in probe.enforces:
            continue
        why = f": {missing[name]}" if name in missing else ""
        if name in asked and name not in allowed:
            raise LimitUnenforceable(
                f"this machine can't hold the limit {name}{why}",
                hint=f"take {name} out of function.yaml, or start Hearth with --allow-unenforced {name}",
                details={"limit": name},
            )
        closed = name == "network" and probe.driver != "process"
        said = "the function gets no network" if closed else "the limit is not held"
        warnings.append(f"{name}: {said} on this machine{why}")
    return tuple(warnings)


def _check_runtime(config: FunctionConfig, probe: Probe) -> None:
    """Raise LimitUnenforceable where the isolation runtime that a function names isn't there."""
    wanted, facts = config.isolation_runtime, dict(probe.facts)
    here = facts.get("isolation runtimes", "").split()
    if wanted and wanted not in here:
        said = f"it has {', '.join(here)}" if here else f"it isolates by {probe.driver}"
        raise LimitUnenforceable(
            f"this machine has no isolation runtime {wanted!r} ({said})",
            hint="take isolation_runtime out of function.yaml, or ask the operator",
            details={"limit": "isolation_runtime"},
        )


class Deploys:
    """Takes uploads in.

    Args:
        unpack: the extractor.
        probe: what this machine can enforce.
        allow_unenforced: see `check_limits`.
        private_networks: see `check_targets`.
    """

    def __init__(
        self,
        *,
        store: DeployStore,
        blobs: Blobs,
        unpack: Unpacker,
        ids: Ids,
        probe: Probe,
        allow_unenforced: Set[str],
        private_networks: tuple[str, ...] = (),
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._unpack = unpack
        self._ids = ids
        self._probe = probe
        self._allow_unenforced = allow_unenforced
        self._private_networks = private_networks
        self._coming = 0
        self._unpacking = asyncio.Semaphore(_UNPACKING)

    async def accept(
        self,
        principal: Principal,
        namespace: str,
        name: str,
        form: Form,
        length: int | None,
        body: AsyncIterator[bytes],
    ) -> Accepted:
        """Take one upload in; returns once its version is stored, PENDING.

        Args:
            form: what the body is.
            length: its bytes, where they are known beforehand.
            body: the archive.

        Raises:
            NotFound, Forbidden: who asks may not deploy there.
            InvalidName, InvalidSource, InvalidManifest, NotYetSupported, TooLarge: what was sent is wrong.
            LimitUnenforceable: see `check_limits`.
            NoCapacity, Overloaded: not now.
        """
        target = await self._may_deploy(principal, namespace, name)
        check_function(name)
        if length is not None and length > limits.SOURCE_PACKED_MAX:
            raise _too_large()
        if self._coming >= limits.UPLOADS_MAX:
            raise Overloaded("too many uploads at once", hint="try again soon", retry_after=5.0)
        # What others are sending at this moment may come to all that a source may be.
        if self._blobs.free() < limits.DISK_FREE_MIN + self._coming * _UPLOAD_DISK:
            raise nearly_full()
        self._coming += 1
        staging: Path | None = None
        try:
            staging = await asyncio.to_thread(self._blobs.staging)
            config, source = await self._keep(staging, target, name, form, body)
            warnings = check_limits(config, self._probe, self._allow_unenforced)
            function, version = await self._store.add_version(
                namespace_id=target.namespace_id,
                function_id=self._ids.new("function"),
                version_id=self._ids.new("version"),
                name=name,
                config=config,
                source=source,
                user_id=principal.user_id,
            )
        except OSError as error:
            raise refusal(error, "the upload could not be kept") from error
        finally:
            self._coming -= 1
            if staging is not None:
                await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)
        return Accepted(function, version, warnings)

    async def _may_deploy(self, principal: Principal, namespace: str, name: str) -> Target:
        what = f"function {namespace}/{name}"
        namespace_id = await self._store.find_namespace(namespace)
        if namespace_id is None:
            raise NotFound(
                f"there is no {what}", hint="look at its spelling, and at who you are: hearth whoami"
            )
        function = await self._store.find_function(namespace, name)
        target = Target(namespace_id, None if function is None else function.id)
        require(principal, Action.DEPLOY, Resource(target.namespace_id, target.function_id), what)
        return target

    async def _keep(
        self, staging: Path, target: Target, name: str, form: Form, body: AsyncIterator[bytes]
    ) -> tuple[FunctionConfig, str]:
        packed, tree = staging / "packed", staging / "tree"
        with packed.open("xb") as file:
            await _receive(file, body)
        async with self._unpacking:
            config = await asyncio.to_thread(self._open, packed, form, tree)
        if config.name != name:
            raise InvalidManifest(
                f"function.yaml says name: {config.name}, but it was sent as {name}",
                hint="make both the same",
                details={"file": "function.yaml", "key": "name"},
            )
        check_limits(config, self._probe, self._allow_unenforced)
        check_targets(config, self._private_networks)
        await self._check_secrets(target, config)
        return config, await self._blobs.adopt("source", tree)

    async def _check_secrets(self, target: Target, config: FunctionConfig) -> None:
        """Each secret that is named must be set, and they must fit together. Raises InvalidManifest."""
        found = await self._store.sealed_secrets(target.namespace_id, target.function_id, config.secrets)
        missing = sorted(set(config.secrets) - {secret.name for secret in found})
        if missing:
            raise InvalidManifest(
                f"function.yaml names secrets that are not set: {', '.join(missing)}",
                hint=f"set it: hearth secrets set {missing[0]} (or for this function alone: --function {config.name})",
                details={"file": "function.yaml", "key": "secrets", "missing": missing},
            )
        if sum(secret.size for secret in found) > limits.SECRETS_BYTES_MAX:
            raise InvalidManifest(
                f"the secrets that function.yaml names are larger than {limits.format_size(limits.SECRETS_BYTES_MAX)}",
                hint="keep large things in the function's files or in a store that it asks",
                details={"file": "function.yaml", "key": "secrets"},
            )

    def _open(self, packed: Path, form: Form, tree: Path) -> FunctionConfig:
        tree.mkdir(0o700)
        self._unpack(packed, form, tree)
        return read_file(tree)


async def _receive(file: BinaryIO, body: AsyncIterator[bytes]) -> None:
    """Write an upload; a quarter of a megabyte at a time leaves the loop for a thread."""
    size, waiting = 0, bytearray()
    async for chunk in body:
        size += len(chunk)
        if size > limits.SOURCE_PACKED_MAX:
            raise _too_large()
        waiting += chunk
        if len(waiting) >= _WRITE:
            data, waiting = waiting, bytearray()
            await asyncio.to_thread(file.write, data)
    if not size:
        raise InvalidSource("the body is empty", hint="send a tar.gz or zip archive")
    await asyncio.to_thread(file.write, waiting)


def _too_large() -> TooLarge:
    return TooLarge(
        f"the archive is larger than {limits.format_size(limits.SOURCE_PACKED_MAX)}",
        hint="leave out what the function doesn't need (.hearthignore)",
        details={"limit": limits.SOURCE_PACKED_MAX},
    )
