"""`hearth images`: the runtime images of containers, built and listed through the daemon of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hearth.core.errors import NotFound
from hearth.core.settings import Settings
from hearth.drivers.docker import images
from hearth.drivers.docker.engine import Engine
from hearth.drivers.docker.images import Image


def listed(settings: Settings) -> list[Image]:
    """Of each language: its name, and what the daemon has under it. Raises HearthError."""
    return asyncio.run(_listed(settings))


def built(
    settings: Settings, languages: tuple[str, ...], network: str, say: Callable[[str], None]
) -> list[Image]:
    """Build the images of some languages (empty: of all), and tell what happens.

    Raises:
        NotFound: there is no such language.
        HearthError: the daemon does not answer, or a step failed.
    """
    return asyncio.run(_built(settings, languages, network, say))


def _names(settings: Settings) -> dict[str, str]:
    return {**images.IMAGES, **dict(settings.images)}


async def _listed(settings: Settings) -> list[Image]:
    engine = Engine(settings.docker_socket)
    try:
        await engine.open()
        return [await images.found(engine, language, name) for language, name in _names(settings).items()]
    finally:
        await engine.close()


async def _built(
    settings: Settings, languages: tuple[str, ...], network: str, say: Callable[[str], None]
) -> list[Image]:
    names = _names(settings)
    unknown = [language for language in languages if language not in names]
    if unknown:
        raise NotFound(f"there is no image of {unknown[0]}", hint=f"languages are {', '.join(names)}")
    engine = Engine(settings.docker_socket)
    made: list[Image] = []
    try:
        await engine.open()
        for language in languages or tuple(names):
            say(f"» {names[language]}")
            async for line in images.build(engine, language, names[language], network):
                say(line)
            made.append(await images.found(engine, language, names[language]))
    finally:
        await engine.close()
    return made
