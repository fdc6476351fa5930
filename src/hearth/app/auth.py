"""Accounts: register, log in, stay logged in, log out, change a password."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace

from hearth.app.logins import Origin, account_subject, address_subject, slow_down
from hearth.core.errors import Conflict, Forbidden, NotFound, RegistrationClosed, Unauthenticated
from hearth.core.limits import REFRESH_OVERLAP, REFRESH_TOKEN_TTL
from hearth.core.names import check_email, check_namespace
from hearth.core.permissions import Action, Decision, Principal, Resource, decide
from hearth.core.records import ApiKey, Membership, User
from hearth.ports.accounts import Identity, Passwords, Tokens
from hearth.ports.clock import Clock, Ids
from hearth.ports.store import AccountStore


@dataclass(frozen=True, slots=True)
class Issued:
    """A fresh pair of tokens; `expires_in` is the access token's life in seconds."""

    access: str
    refresh: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A user as he sees himself; with the key that asks, where one does."""

    user: User
    memberships: tuple[Membership, ...]
    key: ApiKey | None = None


@dataclass(frozen=True, slots=True)
class RegistrationRule:
    """Who may register. `setup_token` is what the very first one must show; None on loopback, where none is needed."""

    open: bool
    setup_token: str | None = None


_FURTHER = "ask an owner of it, or use a credential that reaches further"
_HINTS = {
    Action.ADMINISTER: "only the platform's administrator may",
    Action.METRICS: "the platform's administrator may, and a key that he makes: hearth keys create --allow metrics",
}


def require(
    principal: Principal | None, action: Action, resource: Resource, what: str, verb: str | None = None
) -> None:
    """Put a decision of `core.permissions` into the error it stands for.

    Args:
        what: what is asked for, as a person calls it (``namespace 'jo'``).
        verb: what is to be done with it; the action's own word where it is None.

    Raises:
        NotFound: as if it did not exist. Unauthenticated: a credential is wanted. Forbidden: known, and not allowed.
    """
    decision = decide(principal, action, resource)
    if decision is Decision.ALLOW:
        return
    if decision is Decision.HIDE:
        raise NotFound(f"there is no {what}", hint="look at its spelling, and at who you are: hearth whoami")
    if decision is Decision.CHALLENGE:
        raise Unauthenticated("a credential is needed", hint="log in: hearth login")
    if verb is None:
        verb = "read" if action is Action.METRICS else action.value
    raise Forbidden(f"you may not {verb} {what}", hint=_HINTS.get(action, _FURTHER))


def require_person(principal: Principal, what: str) -> None:
    """Let through a user who came himself and no key of his. Raises Forbidden.

    Args:
        what: what a key may not do (``make keys``).
    """
    if decide(principal, Action.ACCOUNT, Resource()) is not Decision.ALLOW:
        raise Forbidden(f"an API key may not {what}", hint="log in and do it yourself: hearth login")


class Auth:
    """The use cases of a person's own account.

    Args:
        registration: who may register.
    """

    def __init__(
        self,
        store: AccountStore,
        passwords: Passwords,
        tokens: Tokens,
        clock: Clock,
        ids: Ids,
        registration: RegistrationRule,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._tokens = tokens
        self._clock = clock
        self._ids = ids
        self.registration = registration

    async def has_users(self) -> bool:
        return await self._store.count_users() > 0

    async def register(
        self, email: str, password: str, namespace: str | None, setup_token: str | None, origin: Origin
    ) -> tuple[Profile, Issued]:
        """Make an account and log it in. The first one becomes the administrator.

        Args:
            namespace: the name of his own namespace; None makes it from the e-mail.
            setup_token: what `hearth up` printed, where the first registration needs it.
            origin: where the request came from.

        Raises:
            RegistrationClosed, InvalidInput, InvalidName, Conflict (e-mail or namespace taken), RateLimited.
        """
        email = check_email(email)
        if namespace is not None:
            check_namespace(namespace)
        first = not await self.has_users()
        self._may_register(first, setup_token)
        self._passwords.check(password, email)
        subjects = [address_subject(origin.address)]
        if wait := await self._store.login_delay(subjects):
            raise slow_down(wait)
        password_hash = await self._passwords.hash(password)
        try:
            user = await self._store.add_user(
                self._ids.new("user"),
                self._ids.new("namespace"),
                email,
                password_hash,
                namespace,
                first_only=not self.registration.open,
            )
        except Conflict:
            await self._store.note_login(subjects, False)  # else this is a free way to ask who has an account
            raise
        return await self._profile(user), await self._open_session(user, origin)

    def _may_register(self, first: bool, setup_token: str | None) -> None:
        expected = self.registration.setup_token
        if first and expected is not None:
            if setup_token is None or not hmac.compare_digest(
                setup_token.encode("utf-8", "surrogatepass"), expected.encode()
            ):
                raise RegistrationClosed(
                    "the first registration needs the setup token of this server",
                    hint="`hearth up` printed it; give it with --setup-token",
                )
        elif not first and not self.registration.open:
            raise RegistrationClosed(
                "registration is closed on this server",
                hint="ask its administrator for an account: hearth users add",
            )

    async def login(self, email: str, password: str, origin: Origin) -> tuple[Profile, Issued]:
        """Open a session.

        Raises:
            Unauthenticated: the same for an unknown e-mail, a wrong password and a disabled account, after the same work.
            RateLimited: too many failures for this account or from this address. InvalidInput: no e-mail at all.
        """
        email = check_email(email)
        subjects = [account_subject(email), address_subject(origin.address)]
        if wait := await self._store.begin_login(subjects):
            raise slow_down(wait)
        found = await self._store.find_user(email=email)
        user, password_hash = found if found is not None else (None, None)
        right = await self._passwords.verify(password_hash, password)
        if user is None or not right or user.disabled:
            await self._store.note_refused_login(None if user is None else user.id, origin.label)
            raise Unauthenticated(
                "wrong e-mail or password", hint="a lost password is reset on the server's host"
            )
        await self._store.note_login(subjects, True)
        return await self._profile(user), await self._open_session(user, origin)

    async def refresh(self, refresh_token: str) -> Issued:
        """Trade a refresh token for a new pair. Raises Unauthenticated."""
        token, token_hash = self._tokens.refresh()
        now = self._clock.now_ms()
        rotated = await self._store.rotate_session(
            self._tokens.hash(refresh_token),
            token_hash,
            now + int(REFRESH_TOKEN_TTL * 1000),
            int(REFRESH_OVERLAP * 1000),
        )
        if rotated is None:
            raise Unauthenticated("the session has ended", hint="log in again: hearth login")
        session_id, user = rotated
        access, seconds = self._tokens.access(user.id, session_id, now)
        return Issued(access, token, seconds)

    async def logout(self, refresh_token: str | None, session_id: str | None) -> None:
        """End a session, named by its refresh token or by the access token that asked. Ending it twice is no error."""
        ended = session_id
        if refresh_token is not None:
            ended = await self._store.session_of(self._tokens.hash(refresh_token))
        if ended is not None:
            await self._store.revoke_session(ended)

    async def whoami(self, identity: Identity) -> Profile:
        """Who the credential belongs to. Raises Unauthenticated when he is gone."""
        found = await self._store.find_user(user_id=identity.principal.user_id)
        if found is None:
            raise Unauthenticated("the account is gone", hint="log in again: hearth login")
        principal = identity.principal
        if principal.key is None:
            return await self._profile(found[0])
        keys = await self._store.list_keys(principal.user_id)
        key = next((key for key in keys if key.id == principal.id), None)
        if key is None:  # revoked a moment ago
            raise Unauthenticated("the key is revoked", hint="use another key")
        whole = await self._profile(found[0], key)
        # Who finds a key learns what it reaches, not what else its maker does.
        reached = tuple(m for m in whole.memberships if m.namespace_id == key.scope.namespace_id)
        return replace(whole, user=replace(whole.user, administrator=False), memberships=reached)

    async def change_password(self, identity: Identity, old: str, new: str, address: str) -> None:
        """Set a new password; every other session ends. Raises Forbidden (old one wrong, a key asks), InvalidInput, RateLimited."""
        principal = identity.principal
        require_person(principal, "change a password")
        found = await self._store.find_user(user_id=principal.user_id)
        if found is None:
            raise Unauthenticated("the account is gone", hint="log in again: hearth login")
        user, password_hash = found
        self._passwords.check(new, user.email)
        subjects = [account_subject(user.email), address_subject(address)]
        if wait := await self._store.begin_login(subjects):
            raise slow_down(wait)
        if not await self._passwords.verify(password_hash, old):
            raise Forbidden("the old password is wrong", hint="a lost password is reset on the server's host")
        await self._store.note_login(subjects, True)
        hashed = await self._passwords.hash(new)
        await self._store.set_password(user.id, hashed, actor=user.id, keep=identity.session_id)

    async def _open_session(self, user: User, origin: Origin) -> Issued:
        token, token_hash = self._tokens.refresh()
        session_id, now = self._ids.new("session"), self._clock.now_ms()
        expires = now + int(REFRESH_TOKEN_TTL * 1000)
        await self._store.add_session(session_id, user.id, token_hash, expires, label=origin.label)
        access, seconds = self._tokens.access(user.id, session_id, now)
        return Issued(access, token, seconds)

    async def _profile(self, user: User, key: ApiKey | None = None) -> Profile:
        return Profile(user, tuple(await self._store.memberships(user.id)), key)


async def reset_password(store: AccountStore, passwords: Passwords, email: str, new: str) -> User:
    """On the host, for who lost it: set a password without the old one. All sessions end.

    Raises:
        NotFound: nobody has that e-mail. InvalidInput: the new password is refused.
    """
    email = check_email(email)
    found = await store.find_user(email=email)
    if found is None:
        raise NotFound(f"nobody is registered as {email}", hint="list accounts with: hearth users list")
    passwords.check(new, email)
    await store.set_password(found[0].id, await passwords.hash(new), actor="host")
    return found[0]
