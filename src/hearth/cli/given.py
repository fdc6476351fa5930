"""What was given on the command line for every command alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Options:
    """None where nothing was given. Filled in while click parses."""

    server: str | None = None
    namespace: str | None = None
    json: bool = False
