"""``/api/v1/sessions``: one's own logins."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hearth.api.deps import CurrentIdentity, CurrentPrincipal, Deps
from hearth.wire.models import EndedSessions, Page, SessionItem

router = APIRouter(prefix="/api/v1/sessions", tags=["account"])


@router.get("")
async def list_sessions(identity: CurrentIdentity, deps: Deps) -> Page[SessionItem]:
    """One's logins that have not ended, the one that was refreshed last first, all on one page."""
    found = await deps.sessions.list(identity.principal)
    items = [
        SessionItem(
            id=session.id,
            label=session.label,
            created_at=session.created_ms,
            last_used_at=session.last_used_ms,
            expires_at=session.expires_ms,
            current=session.id == identity.session_id,
        )
        for session in found
    ]
    return Page[SessionItem](items=items)


@router.delete("/{session_id}", status_code=204)
async def end(session_id: str, principal: CurrentPrincipal, deps: Deps) -> Response:
    """End a login: its tokens are refused from then on."""
    await deps.sessions.end(principal, session_id)
    return Response(status_code=204)


@router.post("/end-others")
async def end_others(identity: CurrentIdentity, deps: Deps) -> EndedSessions:
    """End every login but the one that asks."""
    return EndedSessions(ended=await deps.sessions.end_others(identity))
