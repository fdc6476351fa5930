"""docs/reference/api.md lists what control answers, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from hearth.api.app import create_app
from hearth.api.functions import functions_router
from hearth.api.logs import logs_router
from hearth.api.metrics import metrics_router
from hearth.api.secrets import secrets_router
from hearth.api.versions import versions_router

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()
OF_FASTAPI = {"/api/openapi.json", "/api/docs"}  # told in the page's first lines


def plain(path: str) -> str:
    """A path without the names of its parameters: the page's are made for people."""
    return re.sub(r"\{[^}]*\}", "{}", path.partition("?")[0])


def answered() -> set[tuple[str, str]]:
    nothing: Any = MagicMock()
    nothing.version = "0"
    routers = (functions_router, versions_router, logs_router, secrets_router, metrics_router)
    app = create_app(nothing, [make(nothing) for make in routers])
    return {
        (method.upper(), plain(path))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if path not in OF_FASTAPI
    }


def listed() -> set[tuple[str, str]]:
    found = {(method, plain(path)) for method, path in re.findall(r"^\| `([A-Z]+) (/\S+)` \|", PAGE, re.M)}
    for other in re.findall(r"^\| the same below `(\S+)` \|", PAGE, re.M):  # as the rows above it
        first = "/api/v1/namespaces/{}/secrets"
        found |= {(m, p.replace(first, plain(other))) for m, p in found if p.startswith(first)}
    return found


def test_the_page_has_every_endpoint() -> None:
    assert answered() - listed() == set()


def test_the_page_invents_nothing() -> None:
    assert len(listed()) > 30
    assert listed() - answered() == set()


def test_bootstrap_serves_what_is_listed_here() -> None:
    control = (Path(__file__).parents[2] / "src" / "hearth" / "bootstrap" / "control.py").read_text()
    for name in re.findall(r"(\w+_router)\(", control):
        assert name in globals(), f"{name} is to be in `answered`"
