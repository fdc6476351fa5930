"""``/api/v1/users``: for the platform's administrator."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hearth.api.deps import After, CurrentPrincipal, Deps, Limit
from hearth.core.records import User
from hearth.wire.models import NewUser, Page, UserItem

router = APIRouter(prefix="/api/v1/users", tags=["users"])


def item_of(user: User) -> UserItem:
    return UserItem(
        id=user.id,
        email=user.email,
        namespace=user.namespace,
        administrator=user.administrator,
        disabled=user.disabled,
        created_at=user.created_ms,
    )


@router.post("", status_code=201)
async def add(body: NewUser, principal: CurrentPrincipal, deps: Deps) -> UserItem:
    """Make an account for somebody else, whether registration is open or not."""
    return item_of(await deps.users.add(principal, body.email, body.password, body.namespace))


@router.get("")
async def list_users(
    principal: CurrentPrincipal, deps: Deps, after: After = None, limit: Limit = 100
) -> Page[UserItem]:
    """Everybody, oldest account first."""
    users = await deps.users.list(principal, after, limit + 1)
    shown = users[:limit]
    return Page[UserItem](
        items=[item_of(user) for user in shown], next=shown[-1].id if len(users) > limit else None
    )


@router.post("/{id_or_email:path}/disable", status_code=204)
async def disable(id_or_email: str, principal: CurrentPrincipal, deps: Deps) -> Response:
    """End somebody's sessions and refuse his keys."""
    await deps.users.disable(principal, id_or_email)
    return Response(status_code=204)


@router.post("/{id_or_email:path}/enable", status_code=204)
async def enable(id_or_email: str, principal: CurrentPrincipal, deps: Deps) -> Response:
    """Let somebody log in again."""
    await deps.users.enable(principal, id_or_email)
    return Response(status_code=204)
