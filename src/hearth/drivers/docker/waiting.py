"""Waiting for a daemon that has gone."""

from __future__ import annotations

import asyncio

from hearth.drivers.docker.engine import Engine, EngineGone

_PAUSE, _PAUSE_MAX, _PATIENCE = 0.05, 1.0, 15.0  # seconds


class Back:
    """Called, it returns when the daemon answers; raises EngineGone when it does not within `limit` seconds."""

    def __init__(self, engine: Engine, limit: float = _PATIENCE) -> None:
        self._engine = engine
        self._limit = limit

    async def __call__(self) -> None:
        pause = _PAUSE
        try:
            async with asyncio.timeout(self._limit):
                while True:
                    try:
                        await self._engine.request("GET", "/version", plain=True)
                        return
                    except EngineGone:
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, _PAUSE_MAX)
        except TimeoutError as error:
            raise EngineGone("docker does not answer", hint="is the docker service running?") from error
