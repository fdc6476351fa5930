"""The platform's own log: one line per event on stderr, the process's name in front."""

from __future__ import annotations

import logging
import sys


def configure(process: str, level: str) -> None:
    """Send the root logger to stderr.

    Args:
        process: ``supervisor``, ``keeper``, ``control``, ``shard-0``…
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {process:<10} %(levelname)-7s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
