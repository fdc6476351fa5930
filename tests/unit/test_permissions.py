"""The one decision function, as a table."""

from __future__ import annotations

import itertools

import pytest

from hearth.core.permissions import Action, Decision, KeyScope, Principal, Resource, Role, decide

A, D, H, C = Decision.ALLOW, Decision.DENY, Decision.HIDE, Decision.CHALLENGE
FN = Resource("ns_1", "fn_1")
IN_NAMESPACE = (Action.READ, Action.INVOKE, Action.DEPLOY, Action.MANAGE)


def member(role: Role, **more: object) -> Principal:
    return Principal("usr_1", "user:usr_1", roles=(("ns_1", role),), user_id="usr_1", **more)  # type: ignore[arg-type]


def key(
    *actions: Action, function: str | None = None, role: Role = Role.OWNER, namespace: str = "ns_1"
) -> Principal:
    return member(role, key=KeyScope(namespace, function, frozenset(actions)))


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (Role.OWNER, (A, A, A, A)),
        (Role.ADMIN, (A, A, A, A)),
        (Role.DEVELOPER, (A, A, A, D)),
        (Role.VIEWER, (A, A, D, D)),
    ],
)
def test_roles(role: Role, expected: tuple[Decision, ...]) -> None:
    assert tuple(decide(member(role), action, FN) for action in IN_NAMESPACE) == expected


@pytest.mark.parametrize(
    "who", [None, Principal("usr_2", "user:usr_2"), Principal("a", "user:a", administrator=True)]
)
def test_strangers_are_told_nothing_not_even_administrators(who: Principal | None) -> None:
    assert [decide(who, action, FN) for action in IN_NAMESPACE] == [H] * 4
    for auth, expected in (("public", A), ("key", C), ("members", H)):
        assert decide(who, Action.INVOKE, Resource("ns_1", "fn_1", auth)) is expected
        assert decide(who, Action.READ, Resource("ns_1", "fn_1", auth)) is H


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        (key(Action.DEPLOY), (A, A, A, D)),
        (key(Action.INVOKE), (D, A, D, D)),
        (key(Action.DEPLOY, role=Role.VIEWER), (A, A, D, D)),  # no further than its maker
        (key(Action.DEPLOY, function="fn_1"), (A, A, A, D)),
        (key(Action.DEPLOY, function="fn_2"), (H, H, H, H)),
        (key(Action.DEPLOY, namespace="ns_2"), (H, H, H, H)),
        (key(), (D, D, D, D)),
    ],
)
def test_keys(principal: Principal, expected: tuple[Decision, ...]) -> None:
    assert tuple(decide(principal, action, FN) for action in IN_NAMESPACE) == expected


def test_a_key_whose_maker_left_is_a_strangers() -> None:
    left = Principal("key_1", "key:key_1", key=KeyScope("ns_1", None, frozenset({Action.DEPLOY})))
    assert decide(left, Action.INVOKE, FN) is H


def test_a_key_of_a_function_does_not_reach_the_namespace() -> None:
    assert decide(key(Action.DEPLOY, function="fn_1"), Action.READ, Resource("ns_1")) is H
    assert decide(key(Action.DEPLOY), Action.READ, Resource("ns_1")) is A


def test_the_platform_is_the_administrators_and_never_a_keys() -> None:
    assert decide(member(Role.OWNER), Action.ADMINISTER, Resource()) is D
    assert decide(member(Role.OWNER, administrator=True), Action.ADMINISTER, Resource()) is A
    with_key = member(Role.OWNER, administrator=True, key=KeyScope("ns_1", None, frozenset(Action)))
    assert decide(with_key, Action.ADMINISTER, Resource()) is D
    assert decide(None, Action.ADMINISTER, Resource()) is C


def test_metrics_are_the_administrators_and_a_keys_that_he_made_for_them() -> None:
    for_metrics = KeyScope(None, None, frozenset({Action.METRICS}))
    assert decide(member(Role.OWNER, administrator=True), Action.METRICS, Resource()) is A
    assert decide(member(Role.OWNER, administrator=True, key=for_metrics), Action.METRICS, Resource()) is A
    assert decide(member(Role.OWNER), Action.METRICS, Resource()) is D
    assert decide(member(Role.OWNER, key=for_metrics), Action.METRICS, Resource()) is D  # no longer
    other = member(Role.OWNER, administrator=True, key=KeyScope("ns_1", None, frozenset({Action.DEPLOY})))
    assert decide(other, Action.METRICS, Resource()) is D
    assert decide(None, Action.METRICS, Resource()) is C
    scraper = member(Role.OWNER, administrator=True, key=for_metrics)
    assert [decide(scraper, action, FN) for action in IN_NAMESPACE] == [H] * 4  # and nothing else


def test_ones_account_is_ones_own_and_never_a_keys() -> None:
    assert decide(member(Role.VIEWER), Action.ACCOUNT, Resource()) is A
    assert decide(key(*Action), Action.ACCOUNT, Resource()) is D
    assert decide(None, Action.ACCOUNT, Resource()) is C


def test_nothing_but_public_invokes_is_open_to_all() -> None:
    for action, auth in itertools.product(Action, ("public", "key", "members")):
        allowed = decide(None, action, Resource("ns_1", "fn_1", auth)) is A
        assert allowed == (action is Action.INVOKE and auth == "public")
