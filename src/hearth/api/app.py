"""The application: endpoints, what surrounds them, and how errors are answered."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI

from hearth.api import auth, errors, keys, server, sessions, users
from hearth.api.deps import ApiDeps
from hearth.api.middleware import BodyLimit, RequestIds
from hearth.wire.models import ErrorAnswer


def create_app(deps: ApiDeps, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """The management API.

    Args:
        deps: kept as ``app.state.deps``.
        routers: more endpoints, made elsewhere in this package.
    """
    app = FastAPI(
        title="Hearth",
        version=deps.version,
        openapi_url="/api/openapi.json",
        docs_url=None,  # FastAPI's pages load scripts from a CDN; api.server has one that loads nothing
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": {"model": ErrorAnswer, "description": "An error"}},
    )
    app.state.deps = deps
    errors.install(app)
    for router in (auth.router, keys.router, sessions.router, users.router, server.router, *routers):
        app.include_router(router)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestIds)
    return app
