"""Accounts, keys and users over HTTP, as the CLI and a gateway shard see them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest

from hearth.app.auth import RegistrationRule, reset_password
from hearth.core.errors import NotFound
from hearth.core.function import FunctionConfig
from hearth.core.permissions import Action, Decision, Resource, decide
from hearth.store.rows import emit
from hearth.store.tables import members
from hearth.store.writer import Tx
from hearth.wire.models import (
    CreatedKey,
    ErrorAnswer,
    KeyItem,
    Page,
    ServerInfo,
    Session,
    SessionItem,
    Tokens,
    UserItem,
    Who,
)

from .api_server import PASSWORD, Running, bearer, running


@pytest.fixture
async def api() -> AsyncIterator[Running]:
    async with running() as made:
        yield made


async def login(
    api: Running, password: str = PASSWORD, email: str = "jo@example.com", address: str = "10.0.0.1"
):
    return await api.client.post(
        "/api/v1/auth/login",
        json={"email": email, "password": password},
        headers={"X-Forwarded-For": address},
    )


async def post(api: Running, url: str, body: dict[str, object], headers: dict[str, str] | None = None):
    """Like `json=`, but half a surrogate pair goes out as well."""
    headers = {"Content-Type": "application/json"} | (headers or {})
    return await api.client.post(url, content=json.dumps(body), headers=headers)


def code(answer) -> tuple[int, str]:
    return answer.status_code, ErrorAnswer.model_validate_json(answer.content).error.code


async def test_register_whoami_logout(api: Running) -> None:
    before = ServerInfo.model_validate_json((await api.client.get("/api/v1/server")).content)
    assert (before.first_user, before.registration, before.setup_token) == (True, "open", False)
    answer = await api.client.post(
        "/api/v1/auth/register", json={"email": " Jo@Example.com", "password": PASSWORD}
    )
    assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
    session = Session.model_validate_json(answer.content)
    assert session.user.administrator and session.user.email == "jo@example.com"
    auth = bearer(session.tokens.access_token)
    who = Who.model_validate_json((await api.client.get("/api/v1/auth/whoami", headers=auth)).content)
    assert who == session.user and who.memberships[0].role == "owner"
    assert (await api.client.post("/api/v1/auth/logout", json={}, headers=auth)).status_code == 204
    assert code(await api.client.get("/api/v1/auth/whoami", headers=auth)) == (401, "unauthenticated")
    refresh = {"refresh_token": session.tokens.refresh_token}
    assert code(await api.client.post("/api/v1/auth/refresh", json=refresh)) == (401, "unauthenticated")
    assert (
        await api.client.post("/api/v1/auth/logout", json=refresh)
    ).status_code == 204  # twice is no error
    assert not ServerInfo.model_validate_json((await api.client.get("/api/v1/server")).content).first_user


async def test_who_may_register() -> None:
    async with running(RegistrationRule(open=False, setup_token="setup")) as api:
        body = {"email": "jo@example.com", "password": PASSWORD}
        assert (await api.client.get("/api/v1/server")).json()["setup_token"]
        for wrong in ({}, {"setup_token": "wrong"}, {"setup_token": "\ud800"}):
            answer = await post(api, "/api/v1/auth/register", body | wrong)
            assert code(answer) == (403, "registration_closed")
        await api.register(setup_token="setup")
        second = {"email": "b@example.com", "password": PASSWORD, "setup_token": "setup"}
        assert code(await api.client.post("/api/v1/auth/register", json=second)) == (
            403,
            "registration_closed",
        )
        info = (await api.client.get("/api/v1/server")).json()
        assert (info["registration"], info["setup_token"]) == ("closed", False)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"email": "jo"}, "e-mail"),
        ({"email": "a@b\u0000c"}, "e-mail"),
        ({"email": "\ud800@b.c"}, "e-mail"),
        ({"password": "short"}, "10 to"),
        ({"password": "x" * 1025}, "10 to"),
        ({"password": "Password123"}, "common"),
        ({"password": "aaaaaaaaaaaaa"}, "common"),
        ({"password": "jo@example.com"}, "e-mail"),
        ({"password": "\ud800 and nine more"}, "no text"),
        ({"namespace": "Not A Name"}, "namespace"),
        ({"surprise": 1}, "surprise"),
        ({"password": 7}, "password"),
    ],
)
async def test_bad_registrations_are_explained(api: Running, body: dict[str, object], said: str) -> None:
    whole = {"email": "jo@example.com", "password": PASSWORD} | body
    answer = await post(api, "/api/v1/auth/register", whole)
    error = ErrorAnswer.model_validate_json(answer.content).error
    assert answer.status_code == 400 and error.code in ("invalid_input", "invalid_name")
    assert said in error.message and error.hint and error.source == "request"
    assert PASSWORD not in answer.text and "Password123" not in answer.text


async def test_taken_names(api: Running) -> None:
    await api.register(namespace="alpha")
    for body in ({"email": "jo@example.com"}, {"email": "b@example.com", "namespace": "alpha"}):
        answer = await api.client.post("/api/v1/auth/register", json={"password": PASSWORD} | body)
        assert code(answer) == (409, "conflict")


async def test_unknown_user_and_wrong_password_are_one_answer(api: Running) -> None:
    await api.register()
    admin = await api.register("off@example.com")
    assert admin
    [user] = [u for u in await api.store.list_users(None, 9) if u.email == "off@example.com"]
    await api.store.set_disabled(user.id, True, actor=user.id)
    answers = [
        await login(api, "wrong password"),
        await login(api, email="nobody@example.com"),
        await login(api, email="off@example.com"),
    ]
    bodies = [{k: v for k, v in a.json()["error"].items() if k != "request_id"} for a in answers]
    assert bodies[0] == bodies[1] == bodies[2] and {a.status_code for a in answers} == {401}
    assert (await login(api)).status_code == 200


async def test_failures_slow_an_account_down_wherever_they_come_from(api: Running) -> None:
    await api.register()
    answers = await asyncio.gather(*(login(api, "wrong", address=f"10.0.0.{n}") for n in range(12)))
    statuses = sorted(a.status_code for a in answers)
    assert statuses == [401] * 5 + [429] * 7
    slow = await login(api, address="10.9.9.9")  # the right password has to wait as well
    assert code(slow) == (429, "rate_limited") and int(slow.headers["retry-after"]) >= 1
    assert (await login(api, email="other@example.com", address="10.9.9.9")).status_code == 401


async def test_an_address_that_tries_many_accounts_is_slowed_down(api: Running) -> None:
    for number in range(20):
        assert (
            await login(api, "wrong", email=f"u{number}@x.org", address="spoofed, 10.0.0.1")
        ).status_code == 401
    assert code(await login(api, email="u99@x.org", address="else, 10.0.0.1")) == (429, "rate_limited")
    assert (await login(api, email="u99@x.org", address="10.0.0.2")).status_code == 401


async def test_one_ipv6_network_is_one_address(api: Running) -> None:
    for number in range(20):
        assert (
            await login(api, "wrong", email=f"u{number}@x.org", address=f"2001:db8::{number}")
        ).status_code == 401
    assert (await login(api, email="u99@x.org", address="2001:db8::ffff:1")).status_code == 429
    assert (await login(api, email="u99@x.org", address="2001:db8:0:1::1")).status_code == 401


async def test_success_forgets_failures(api: Running) -> None:
    await api.register()
    for _ in range(3):
        for _ in range(4):
            assert (await login(api, "wrong")).status_code == 401
        assert (await login(api)).status_code == 200


async def test_refresh_rotates_and_two_at_once_succeed(api: Running) -> None:
    await api.register()
    old = (await login(api)).json()["tokens"]["refresh_token"]

    async def refresh(token: str):
        return await api.client.post("/api/v1/auth/refresh", json={"refresh_token": token})

    first, second = await asyncio.gather(refresh(old), refresh(old))
    new = Tokens.model_validate_json(first.content)
    assert second.status_code == 200 and new.refresh_token not in (old, second.json()["refresh_token"])
    assert (await api.client.get("/api/v1/auth/whoami", headers=bearer(new.access_token))).status_code == 200
    assert (await refresh(new.refresh_token)).status_code == 200
    api.clock.advance(60)
    assert code(await refresh(old)) == (401, "unauthenticated")  # a copy of it: the session ends
    assert code(await api.client.get("/api/v1/auth/whoami", headers=bearer(new.access_token)))[0] == 401


async def test_access_tokens_expire(api: Running) -> None:
    auth = await api.register()
    api.clock.advance(899)
    assert (await api.client.get("/api/v1/auth/whoami", headers=auth)).status_code == 200
    api.clock.advance(2)
    assert (await api.client.get("/api/v1/auth/whoami", headers=auth)).status_code == 401


async def test_password_change_ends_every_other_session(api: Running) -> None:
    auth = await api.register()
    other = bearer((await login(api)).json()["tokens"]["access_token"])
    url = "/api/v1/auth/password"
    assert (
        code(await api.client.post(url, json={"old": "wrong", "new": "seven new red hats"}, headers=auth))[0]
        == 403
    )
    assert code(await api.client.post(url, json={"old": PASSWORD, "new": "short"}, headers=auth))[0] == 400
    done = await api.client.post(url, json={"old": PASSWORD, "new": "seven new red hats"}, headers=auth)
    assert done.status_code == 204
    assert (await api.client.get("/api/v1/auth/whoami", headers=auth)).status_code == 200
    assert (await api.client.get("/api/v1/auth/whoami", headers=other)).status_code == 401
    assert (await login(api)).status_code == 401
    assert (await login(api, "seven new red hats")).status_code == 200


async def test_password_reset_on_the_host(api: Running) -> None:
    await api.register()
    passwords = api.app.state.deps.auth._passwords
    await reset_password(api.store, passwords, "JO@example.com", "seven new red hats")
    assert (await login(api, "seven new red hats")).status_code == 200
    with pytest.raises(NotFound):
        await reset_password(api.store, passwords, "nobody@example.com", "seven new red hats")


async def test_keys(api: Running) -> None:
    auth = await api.register()
    body = {"name": "ci", "namespace": "jo-fn", "actions": ["deploy"], "expires_in": 3600}
    made = await api.client.post("/api/v1/keys", json=body, headers=auth)
    assert made.status_code == 201
    key, secret = KeyItem.model_validate_json(made.content), made.json()["secret"]
    assert secret.startswith("hk_") and len(secret) == 46 and secret.startswith(key.prefix)
    listed = (await api.client.get("/api/v1/keys", headers=auth)).content
    assert Page[KeyItem].model_validate_json(listed).items == [key] and secret.encode() not in listed
    for headers in (bearer(secret), {"X-Hearth-Key": secret}):
        who = Who.model_validate_json((await api.client.get("/api/v1/auth/whoami", headers=headers)).content)
        assert who.key is not None and who.email == "jo@example.com"
        assert who.key.model_copy(update={"last_used_at": None}) == key
        assert [m.namespace for m in who.memberships] == ["jo-fn"] and not who.administrator
    # a key makes no keys, lists none, changes no password, ends no session, adds no users
    for method, url, asked in (
        ("POST", "/api/v1/keys", body),
        ("GET", "/api/v1/keys", None),
        ("DELETE", f"/api/v1/keys/{key.id}", None),
        ("POST", "/api/v1/auth/password", {"old": PASSWORD, "new": "seven new red hats"}),
        ("GET", "/api/v1/sessions", None),
        ("POST", "/api/v1/sessions/end-others", None),
        ("DELETE", "/api/v1/sessions/ses_x", None),
        ("GET", "/api/v1/users", None),
    ):
        assert code(await api.client.request(method, url, json=asked, headers=bearer(secret)))[0] == 403
    assert (await api.client.delete(f"/api/v1/keys/{key.id}", headers=auth)).status_code == 204
    assert code(await api.client.delete(f"/api/v1/keys/{key.id}", headers=auth)) == (404, "not_found")
    assert (await api.client.get("/api/v1/auth/whoami", headers=bearer(secret))).status_code == 401


async def test_keys_reach_no_further_than_their_maker(api: Running) -> None:
    jo, ada = (
        await api.register(namespace="jo-space"),
        await api.register("ada@example.com", namespace="ada-space"),
    )
    found = await api.store.find_user(email="ada@example.com")
    assert found is not None
    ada_user = found[0]
    await api.store.add_version(
        namespace_id=ada_user.namespace_id,
        function_id=api.ids.new("function"),
        version_id=api.ids.new("version"),
        name="hello",
        config=FunctionConfig("hello", "python"),
        source="s",
        user_id=ada_user.id,
    )

    async def make(headers: dict[str, str], **body: object):
        return await post(api, "/api/v1/keys", {"name": "k"} | body, headers)

    assert (await make(ada, namespace="ada-space", function="hello")).status_code == 201
    others, missing = await make(jo, namespace="ada-space"), await make(jo, namespace="no-space")
    assert code(others) == code(missing) == (404, "not_found")
    assert others.json()["error"]["message"].replace("ada", "no") == missing.json()["error"]["message"]
    assert code(await make(jo, namespace="ada-space", function="hello")) == (404, "not_found")
    assert code(await make(ada, namespace="ada-space", function="other")) == (404, "not_found")
    for wrong in (
        {"actions": ["manage"]},
        {"actions": []},
        {"name": " "},
        {"name": "\ud800"},
        {"expires_in": 1},
    ):
        assert code(await make(ada, namespace="ada-space", **wrong)) == (400, "invalid_input")


async def test_a_key_for_metrics_is_the_administrators_and_of_no_namespace(api: Running) -> None:
    admin, ada = await api.register(), await api.register("ada@example.com")
    body = {"name": "prometheus", "actions": ["metrics"]}
    assert code(await post(api, "/api/v1/keys", body, ada)) == (403, "forbidden")
    for more in ({"namespace": "jo-fn"}, {"actions": ["metrics", "deploy"]}, {"function": "x"}):
        assert code(await post(api, "/api/v1/keys", body | more, admin)) == (400, "invalid_input")
    assert code(await post(api, "/api/v1/keys", {"name": "x"}, admin)) == (400, "invalid_input")
    made = CreatedKey.model_validate_json((await post(api, "/api/v1/keys", body, admin)).content)
    assert (made.namespace, made.function, made.actions) == (None, None, ["metrics"])
    auth = bearer(made.secret)
    who = Who.model_validate_json((await api.client.get("/api/v1/auth/whoami", headers=auth)).content)
    assert who.key is not None and who.key.actions == ["metrics"] and who.memberships == []
    principal = await api.verifier.resolve(made.secret.encode())
    assert decide(principal, Action.METRICS, Resource()) is Decision.ALLOW


async def test_sessions_are_listed_and_ended(api: Running) -> None:
    auth = await api.register()
    other = (await login(api, address="192.0.2.7")).json()["tokens"]
    api.clock.advance(1)
    assert (
        await api.client.post("/api/v1/auth/refresh", json={"refresh_token": other["refresh_token"]})
    ).status_code == 200
    seen = Page[SessionItem].model_validate_json(
        (await api.client.get("/api/v1/sessions", headers=auth)).content
    )
    assert [item.current for item in seen.items] == [False, True]
    assert seen.items[0].label.startswith("python-httpx/") and seen.items[0].label.endswith("from 192.0.2.7")
    assert seen.items[0].last_used_at == seen.items[0].created_at + 1000
    stranger = await api.register("ada@example.com")
    url = f"/api/v1/sessions/{seen.items[0].id}"
    assert code(await api.client.delete(url, headers=stranger)) == (404, "not_found")
    assert (await api.client.delete(url, headers=auth)).status_code == 204
    assert code(await api.client.delete(url, headers=auth)) == (404, "not_found")
    taken = bearer(other["access_token"])
    assert (await api.client.get("/api/v1/auth/whoami", headers=taken)).status_code == 401
    await login(api)
    await login(api)
    ended = await api.client.post("/api/v1/sessions/end-others", headers=auth)
    assert ended.json() == {"ended": 2}
    assert (await api.client.get("/api/v1/auth/whoami", headers=auth)).status_code == 200


async def test_a_viewer_makes_no_key_that_deploys(api: Running) -> None:
    await api.register(namespace="jo-space")
    ada = await api.register("ada@example.com", namespace="ada-space")
    found, space = (
        await api.store.find_user(email="ada@example.com"),
        await api.store.find_namespace("jo-space"),
    )
    assert found is not None
    row = {"namespace_id": space, "user_id": found[0].id, "role": "viewer", "created_ms": 0}

    def join(tx: Tx) -> None:
        tx.connection.execute(members.insert().values(**row))
        emit(tx, "member", found[0].id)

    await api.store._db.write(join)
    body = {"name": "k", "namespace": "jo-space"}
    answer = await api.client.post("/api/v1/keys", json=body | {"actions": ["invoke", "deploy"]}, headers=ada)
    assert code(answer) == (403, "forbidden")
    assert (
        await api.client.post("/api/v1/keys", json=body | {"actions": ["invoke"]}, headers=ada)
    ).status_code == 201


async def test_users_are_the_administrators(api: Running) -> None:
    jo = await api.register()
    api.clock.advance(0.001)  # ids made later sort later
    added = await api.client.post(
        "/api/v1/users", json={"email": "ada@example.com", "password": PASSWORD}, headers=jo
    )
    ada = UserItem.model_validate_json(added.content)
    assert added.status_code == 201 and not ada.administrator
    auth = bearer((await login(api, email="ada@example.com")).json()["tokens"]["access_token"])
    assert (await api.client.get("/api/v1/auth/whoami", headers=auth)).status_code == 200
    for method, url in (("GET", "/api/v1/users"), ("POST", f"/api/v1/users/{ada.id}/enable")):
        assert code(await api.client.request(method, url, headers=auth)) == (403, "forbidden")
    page = Page[UserItem].model_validate_json(
        (await api.client.get("/api/v1/users?limit=1", headers=jo)).content
    )
    rest = await api.client.get(f"/api/v1/users?limit=1&after={page.next}", headers=jo)
    last = Page[UserItem].model_validate_json(rest.content)
    assert [page.items[0].email, last.items[0].email, last.next] == [
        "jo@example.com",
        "ada@example.com",
        None,
    ]
    assert (await api.client.post("/api/v1/users/ada%40example.com/disable", headers=jo)).status_code == 204
    assert (await api.client.get("/api/v1/auth/whoami", headers=auth)).status_code == 401
    assert (await login(api, email="ada@example.com")).status_code == 401
    assert (await api.client.post(f"/api/v1/users/{ada.id}/enable", headers=jo)).status_code == 204
    assert (await login(api, email="ada@example.com")).status_code == 200
    assert code(await api.client.post("/api/v1/users/jo@example.com/disable", headers=jo)) == (
        409,
        "conflict",
    )
    assert code(await api.client.post("/api/v1/users/x@example.com/disable", headers=jo)) == (
        404,
        "not_found",
    )


@pytest.mark.parametrize("value", ["Bearer", "Basic am86aG8=", "Bearer x.y.z", "Bearer hk_short", "Bearer ÿ"])
async def test_bad_credentials(api: Running, value: str) -> None:
    answer = await api.client.get("/api/v1/auth/whoami", headers={"Authorization": value.encode("latin-1")})
    assert code(answer) == (401, "unauthenticated") and answer.headers["www-authenticate"] == "Bearer"
    assert code(await api.client.get("/api/v1/auth/whoami"))[0] == 401


async def test_errors_have_one_form(api: Running) -> None:
    client = api.client
    missing = await client.get("/api/v1/nothing", headers={"X-Request-Id": "mine-1"})
    assert code(missing) == (404, "not_found") and missing.json()["error"]["request_id"] == "mine-1"
    assert missing.headers["x-request-id"] == "mine-1" and missing.headers["x-hearth-error"] == "not_found"
    wrong = await client.get("/api/v1/auth/login", headers={"X-Request-Id": "not a word"})
    assert code(wrong) == (405, "invalid_input") and wrong.headers["allow"] == "POST"
    assert wrong.headers["x-request-id"].startswith("req_")
    for content in (b"{", b"\xff", b"[" * 100_000, b'"text"', b""):
        answer = await client.post(
            "/api/v1/auth/login", content=content, headers={"Content-Type": "application/json"}
        )
        assert code(answer) == (400, "invalid_input")
    fields = (await client.post("/api/v1/auth/login", json={})).json()["error"]["details"]["fields"]
    assert {field["field"] for field in fields} == {"email", "password"}


async def test_large_bodies_are_refused(api: Running) -> None:
    body = b'{"email": "' + b"a" * (1 << 20) + b'", "password": ""}'
    headers = {"Content-Type": "application/json"}
    answer = await api.client.post("/api/v1/auth/login", content=body, headers=headers)
    assert code(answer) == (413, "too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    answer = await api.client.post("/api/v1/auth/login", content=chunks(), headers=headers)
    assert code(answer) == (413, "too_large")


async def test_a_fault_of_ours_shows_nothing_of_it(api: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise RuntimeError("secret detail")

    api.app.add_api_route("/api/v1/broken", broken)
    with caplog.at_level(logging.CRITICAL):
        answer = await api.client.get("/api/v1/broken")
    assert code(answer) == (500, "platform_error") and "secret" not in answer.text
    assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"]


async def test_the_store_being_away_is_said(api: Running) -> None:
    await api.store.close()
    answer = await api.client.get("/api/v1/server")
    assert code(answer) == (503, "store_unavailable") and int(answer.headers["retry-after"]) >= 1


async def test_openapi_and_docs_need_nothing_from_elsewhere(api: Running) -> None:
    schema = (await api.client.get("/api/openapi.json")).json()
    assert "/api/v1/auth/login" in schema["paths"]
    assert all(
        "default" in operation["responses"]
        for methods in schema["paths"].values()
        for operation in methods.values()
    )
    assert all(
        "422" not in operation["responses"]
        for methods in schema["paths"].values()
        for operation in methods.values()
    )
    page = await api.client.get("/api/docs")
    assert "/api/v1/auth/login" in page.text and "setup_token" in page.text
    assert "<script" not in page.text and "http://" not in page.text and "https://" not in page.text
