"""A function's settings, as function.yaml gives them once checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from hearth.core import limits

Auth = Literal["public", "key", "members"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How many instances: at least, at most; seconds of idleness before one stops; requests that may queue."""

    min: int = 0
    max: int = limits.SCALE_MAX_DEFAULT
    idle: float = limits.IDLE_DEFAULT
    queue: int = limits.QUEUE_DEFAULT


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """What one version runs with; immutable once the version exists.

    `runtime` is ``python``, ``node``, ``go`` (or ``container``), `runtime_version` a pinned version such
    as ``3.12`` or empty. `handler` is empty when it is to be detected. Sizes are bytes, times seconds.
    """

    name: str
    runtime: str
    runtime_version: str = ""
    handler: str = ""
    memory: int = limits.MEMORY_DEFAULT
    cpu: float = limits.CPU_DEFAULT
    timeout: float = limits.TIMEOUT_DEFAULT
    init_timeout: float = limits.INIT_TIMEOUT_DEFAULT
    concurrency: int = 1
    scale: Scale = field(default_factory=Scale)
    env: tuple[tuple[str, str], ...] = ()
    network: Literal["none", "internet"] = "internet"
    allow: tuple[str, ...] = ()  # targets beside that, as `core.targets` writes them
    auth: Auth = "members"
    tmp: int = limits.TMP_DEFAULT
    build_command: str = ""
    secrets: tuple[str, ...] = ()  # names; the values are looked up when an instance starts
    isolation_runtime: str = ""  # of the driver's; empty: the platform's
    written: tuple[str, ...] = ()  # limits that the person wrote down: memory, cpu, tmp, network

    @property
    def networked(self) -> bool:
        """Whether it may reach anybody at all."""
        return self.network != "none" or bool(self.allow)


def config_to_json(config: FunctionConfig) -> dict[str, Any]:
    """A JSON object that `config_from_json` reads back; stored with the version."""
    return dataclasses.asdict(config)


def config_from_json(data: dict[str, Any]) -> FunctionConfig:
    """The inverse of `config_to_json`."""
    values = dict(data)
    values["scale"] = Scale(**values["scale"])
    values["env"] = tuple((key, value) for key, value in values["env"])
    values["written"] = tuple(values["written"])
    values["allow"] = tuple(values.get("allow", ()))  # versions from before there were any have none
    values["secrets"] = tuple(values.get("secrets", ()))  # versions from before there were any have none
    return FunctionConfig(**values)
