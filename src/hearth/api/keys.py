"""``/api/v1/keys``: API keys of one's own."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hearth.api.deps import CurrentPrincipal, Deps
from hearth.core.records import ApiKey
from hearth.wire.models import CreatedKey, KeyItem, NewKey, Page

router = APIRouter(prefix="/api/v1/keys", tags=["keys"])


def item_of(key: ApiKey) -> KeyItem:
    return KeyItem(
        id=key.id,
        name=key.name,
        namespace=key.namespace,
        function=key.function,
        actions=sorted(action.value for action in key.scope.actions),
        prefix=key.prefix,
        created_at=key.created_ms,
        expires_at=key.expires_ms,
        last_used_at=key.last_used_ms,
    )


@router.post("", status_code=201)
async def create(body: NewKey, principal: CurrentPrincipal, deps: Deps) -> CreatedKey:
    """Make a key. Its secret is in this answer and nowhere else."""
    key, secret = await deps.keys.create(
        principal,
        name=body.name,
        namespace=body.namespace,
        function=body.function,
        actions=body.actions,
        expires_in=body.expires_in,
    )
    return CreatedKey(**item_of(key).model_dump(), secret=secret)


@router.get("")
async def list_keys(principal: CurrentPrincipal, deps: Deps) -> Page[KeyItem]:
    """One's own keys, newest first, all on one page."""
    return Page[KeyItem](items=[item_of(key) for key in await deps.keys.list(principal)])


@router.delete("/{key_id}", status_code=204)
async def revoke(key_id: str, principal: CurrentPrincipal, deps: Deps) -> Response:
    """Revoke a key. It is refused from then on."""
    await deps.keys.revoke(principal, key_id)
    return Response(status_code=204)
