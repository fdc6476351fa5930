"""Languages: how each is built, how its empty slot is started, what its `load` frame says.

`shims/` is the code that runs inside sandboxes; it imports nothing of hearth.
"""

from __future__ import annotations

from typing import Any

from hearth.core.function import FunctionConfig
from hearth.core.limits import MIB

CODE = "/hearth/code"  # where a function's artifact stands in its sandbox
PORT = "8080"  # what $PORT says; nothing listens there but the function itself


def load_payload(config: FunctionConfig, identity: dict[str, str]) -> dict[str, Any]:
    """The JSON object of a `load` frame (docs/reference/guest-protocol.md), the same for every language.

    Args:
        config: the version's.
        identity: ``function``, ``namespace``, ``version`` (number as text).
    """
    env = {
        **dict(config.env),
        "PORT": PORT,
        "HEARTH_FUNCTION": identity["function"],
        "HEARTH_NAMESPACE": identity["namespace"],
        "HEARTH_VERSION": identity["version"],
    }
    return {
        **identity,
        "runtime": config.runtime,
        "code": CODE,
        "handler": config.handler,
        "concurrency": config.concurrency,
        "memory_mb": -(-config.memory // MIB),
        "timeout_ms": round(config.timeout * 1000),
        "init_timeout_ms": round(config.init_timeout * 1000),
        "env": env,
    }
