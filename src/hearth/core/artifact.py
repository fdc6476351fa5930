"""What decides whether two builds give the same."""

from __future__ import annotations

import hashlib
import json

from hearth.core.function import FunctionConfig


def build_key(
    *, namespace_id: str, source: str, config: FunctionConfig, toolchain: str, plan_identity: str
) -> str:
    """The key of a build: equal keys may share an artifact.

    The namespace is part of it: a build reads a cache that earlier builds of its namespace wrote, so what comes out
    is to be trusted as far as these are, and no further.

    Args:
        source: digest.
        toolchain: exact name, such as ``python-3.11.2``.
        plan_identity: `BuildPlan.identity`.
    """
    parts = {
        "namespace": namespace_id,
        "source": source,
        "name": config.name,  # Go finds its handler by it
        "runtime": config.runtime,
        "handler": config.handler,
        "command": config.build_command,
        "toolchain": toolchain,
        "plan": plan_identity,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
