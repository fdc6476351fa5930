"""``/api/v1/auth``: one's own account."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from hearth.api.deps import ClientAddress, ClientOrigin, CurrentIdentity, Deps, credential_of
from hearth.api.keys import item_of as key_item
from hearth.app.auth import Issued, Profile
from hearth.core.errors import Unauthenticated
from hearth.wire.models import ChangePassword, Login, Logout, Member, Refresh, Register, Session, Tokens, Who

router = APIRouter(prefix="/api/v1/auth", tags=["account"])


def tokens_of(issued: Issued) -> Tokens:
    return Tokens(access_token=issued.access, refresh_token=issued.refresh, expires_in=issued.expires_in)


def who_of(profile: Profile) -> Who:
    """A profile on the wire."""
    user = profile.user
    return Who(
        user_id=user.id,
        email=user.email,
        namespace=user.namespace,
        administrator=user.administrator,
        memberships=[Member(namespace=m.namespace, role=m.role.value) for m in profile.memberships],
        key=None if profile.key is None else key_item(profile.key),
    )


@router.post("/register", status_code=201)
async def register(body: Register, deps: Deps, origin: ClientOrigin) -> Session:
    """Make an account, and log it in. The first one administers the platform."""
    profile, issued = await deps.auth.register(
        body.email, body.password, body.namespace, body.setup_token, origin
    )
    return Session(user=who_of(profile), tokens=tokens_of(issued))


@router.post("/login")
async def login(body: Login, deps: Deps, origin: ClientOrigin) -> Session:
    """Open a session."""
    profile, issued = await deps.auth.login(body.email, body.password, origin)
    return Session(user=who_of(profile), tokens=tokens_of(issued))


@router.post("/refresh")
async def refresh(body: Refresh, deps: Deps) -> Tokens:
    """Trade a refresh token for a new pair. The old one works for half a minute more."""
    return tokens_of(await deps.auth.refresh(body.refresh_token))


@router.post("/logout", status_code=204)
async def logout(body: Logout, request: Request, deps: Deps) -> Response:
    """End a session: that of the refresh token, else that of the access token. An ended one is no error."""
    session_id = None
    if body.refresh_token is None:
        token = credential_of(request)
        if token is None:
            raise Unauthenticated("no session is named", hint="send its refresh_token, or its access token")
        session_id = (await deps.identifier.identify(token)).session_id
    await deps.auth.logout(body.refresh_token, session_id)
    return Response(status_code=204)


@router.get("/whoami")
async def whoami(identity: CurrentIdentity, deps: Deps) -> Who:
    """Who the credential belongs to."""
    return who_of(await deps.auth.whoami(identity))


@router.post("/password", status_code=204)
async def change_password(
    body: ChangePassword, identity: CurrentIdentity, deps: Deps, address: ClientAddress
) -> Response:
    """Set a new password. Every other session ends."""
    await deps.auth.change_password(identity, body.old, body.new, address)
    return Response(status_code=204)
