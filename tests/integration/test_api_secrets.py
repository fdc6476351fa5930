"""Secrets over the API: who may set and list them, and that no answer, error or event has a value."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from hearth.api.secrets import secrets_router
from hearth.app.functions import FunctionViews
from hearth.app.secrets import Secrets
from hearth.app.traffic import Traffic
from hearth.core import limits
from hearth.core.errors import Conflict
from hearth.core.function import FunctionConfig
from hearth.core.permissions import Principal, Role
from hearth.security.vault import Vault

from .api_server import Running, bearer, running

VALUE = "sk_live_4eC39HqLyjWDarjtT1zdp7dc"
OF_NS = "/api/v1/namespaces/jo-fn/secrets"
OF_FN = "/api/v1/functions/jo-fn/pay/secrets"
VAULT = Vault([b"k" * 32])


@pytest.fixture
async def api() -> AsyncIterator[Running]:
    async with running() as made:
        made.app.include_router(secrets_router(Secrets(made.store, VAULT, made.ids)))
        yield made


@pytest.fixture
async def jo(api: Running) -> dict[str, str]:
    return await api.register("jo@example.com", namespace="jo-fn")


async def put(api: Running, who: dict[str, str], path: str, value: str = VALUE) -> httpx.Response:
    api.clock.advance(0.001)  # ids sort by time
    return await api.client.put(path, headers=who, json={"value": value})


async def key(api: Running, jo: dict[str, str], **scope: object) -> dict[str, str]:
    made = await api.client.post("/api/v1/keys", headers=jo, json={"name": "k", "namespace": "jo-fn"} | scope)
    assert made.status_code == 201, made.text
    return bearer(made.json()["secret"])


async def stored(api: Running, function: str | None, name: str) -> bytes:
    namespace_id = await api.store.find_namespace("jo-fn")
    row = None if function is None else await api.store.find_function("jo-fn", function)
    assert namespace_id is not None
    [sealed] = await api.store.sealed_secrets(namespace_id, None if row is None else row.id, [name])
    return VAULT.open(sealed)


async def test_set_list_delete(api: Running, jo: dict[str, str]) -> None:
    made = await put(api, jo, f"{OF_NS}/TOKEN")
    assert made.status_code == 200
    assert made.json() | {"created_at": 0, "updated_at": 0} == {
        "name": "TOKEN", "namespace": "jo-fn", "function": None, "environment": True, "function_made": False,
        "created_at": 0, "updated_at": 0,
    }  # fmt: skip
    own = await put(api, jo, f"{OF_FN}/TOKEN", "own")
    assert own.json()["function"] == "pay" and own.json()["function_made"] is True
    assert (await put(api, jo, f"{OF_FN}/TOKEN", "own 2")).json()["function_made"] is False
    assert (await stored(api, None, "TOKEN"), await stored(api, "pay", "TOKEN")) == (VALUE.encode(), b"own 2")
    api.clock.advance(0.001)
    raw = {"value_base64": base64.b64encode(b"\x00\xff").decode()}
    binary = await api.client.put(f"{OF_NS}/RAW", headers=jo, json=raw)
    assert binary.json()["environment"] is False and await stored(api, None, "RAW") == b"\x00\xff"

    listed = (await api.client.get(OF_NS, headers=jo)).json()
    assert [(item["name"], item["function"]) for item in listed["items"]] == [
        ("TOKEN", None), ("TOKEN", "pay"), ("RAW", None),
    ]  # fmt: skip
    first = (await api.client.get(f"{OF_NS}?limit=2", headers=jo)).json()
    rest = (await api.client.get(f"{OF_NS}?limit=2&after={first['next']}", headers=jo)).json()
    assert [item["name"] for item in first["items"] + rest["items"]] == ["TOKEN", "TOKEN", "RAW"]
    reached = (await api.client.get(OF_FN, headers=jo)).json()["items"]
    assert [(item["name"], item["function"]) for item in reached] == [("TOKEN", "pay"), ("RAW", None)]

    gone = await api.client.delete(f"{OF_FN}/TOKEN", headers=jo)
    assert (gone.status_code, gone.json()) == (200, {"lacking": []})
    missing = await api.client.delete(f"{OF_FN}/TOKEN", headers=jo)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (await api.client.get("/api/v1/functions/jo-fn/nobody/secrets", headers=jo)).status_code == 404


async def test_nothing_gives_a_value_back(
    api: Running, jo: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    answers = [
        await put(api, jo, f"{OF_NS}/TOKEN"),
        await put(api, jo, f"{OF_NS}/TOKEN", VALUE),
        await put(api, jo, f"{OF_NS}/bad-name"),
        await put(api, jo, f"{OF_NS}/PATH"),
        await put(api, jo, "/api/v1/namespaces/nobody/secrets/TOKEN"),
        await put(api, jo, f"{OF_NS}/BIG", VALUE * 3000),
        await api.client.put(f"{OF_NS}/TOKEN", headers=jo, json={"value": [VALUE]}),
        await api.client.put(f"{OF_NS}/TOKEN", headers=jo, json={"value": VALUE, "value_base64": VALUE}),
        await api.client.put(f"{OF_NS}/TOKEN", headers=jo, json={"valu": VALUE}),
        await api.client.put(f"{OF_NS}/TOKEN", headers=jo, json={"value_base64": VALUE}),
        await api.client.put(f"{OF_NS}/TOKEN", headers=jo, content=f'{{"value": "{VALUE}'),
        await api.client.post(f"{OF_NS}/TOKEN", headers=jo, json={"value": VALUE}),
        await api.client.get(f"{OF_NS}/TOKEN", headers=jo),
        await api.client.get(OF_NS, headers=jo),
        await api.client.delete(f"{OF_NS}/TOKEN", headers=jo),
    ]
    assert [answer.status_code for answer in answers] == [
        200, 200, 400, 400, 404, 413, 400, 400, 400, 400, 400, 405, 405, 200, 200,
    ]  # fmt: skip
    for answer in answers:
        assert (
            VALUE not in answer.text + str(answer.headers) and answer.headers["cache-control"] == "no-store"
        )
    assert VALUE not in caplog.text
    told = await api.store.events_after(0, 500)
    assert [event.details["did"] for event in told if event.kind == "secret"] == ["set", "set", "deleted"]
    assert VALUE not in repr(told)


async def test_no_value_is_in_the_database(api: Running, jo: dict[str, str]) -> None:
    await put(api, jo, f"{OF_NS}/TOKEN")
    await put(api, jo, f"{OF_FN}/TOKEN", VALUE)
    folder: Path = api.app.state.deps.settings.data_dir
    with closing(sqlite3.connect(folder / "hearth.db")) as connection:
        assert connection.execute("SELECT count(*) FROM secrets").fetchone() == (2,)
    forms = [VALUE.encode(), base64.b64encode(VALUE.encode()), VALUE.encode().hex().encode()]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "hearth.db-wal" for path in files)
    for path in files:
        assert not any(form in path.read_bytes() for form in forms), path


async def test_the_schema_says_that_values_go_in_only(api: Running, jo: dict[str, str]) -> None:
    schema = (await api.client.get("/api/openapi.json")).json()
    asked = schema["components"]["schemas"]["SetSecret"]["properties"]
    assert all(asked[name]["writeOnly"] is True for name in ("value", "value_base64"))
    assert not any("example" in json.dumps(asked[name]) for name in asked)
    for name in ("SecretItem", "SecretSet", "SecretDeleted"):
        assert not any("value" in field for field in schema["components"]["schemas"][name]["properties"])


async def test_who_may(api: Running, jo: dict[str, str]) -> None:
    await put(api, jo, f"{OF_NS}/TOKEN")
    await put(api, jo, f"{OF_FN}/TOKEN")
    await put(api, jo, "/api/v1/functions/jo-fn/other/secrets/TOKEN")
    ann = await api.register("ann@example.com", namespace="ann")
    paths = (OF_NS, OF_FN, "/api/v1/functions/jo-fn/nobody/secrets")
    for path in paths:  # to a stranger there is nothing
        there = [await api.client.get(path, headers=ann), await put(api, ann, f"{path}/TOKEN")]
        there.append(await api.client.delete(f"{path}/TOKEN", headers=ann))
        assert [answer.status_code for answer in there] == [404] * 3
        assert (await api.client.get(path)).status_code == 401

    async def may(who: dict[str, str], path: str) -> tuple[int, int, int]:
        answers = [await api.client.get(path, headers=who), await put(api, who, f"{path}/TOKEN")]
        answers.append(await api.client.delete(f"{path}/TOKEN?force=true", headers=who))
        if answers[-1].status_code == 200:
            await put(api, jo, f"{path}/TOKEN")
        codes = [answer.status_code for answer in answers]
        return codes[0], codes[1], codes[2]

    caller = await key(api, jo, actions=["invoke"])
    for asked, verb in (
        (await api.client.get(OF_NS, headers=caller), "list"),
        (await put(api, caller, f"{OF_NS}/A"), "set"),
    ):
        assert f"you may not {verb} secrets of namespace jo-fn" in asked.text
    assert await may(caller, OF_NS) == await may(caller, OF_FN) == (403, 403, 403)
    deployer = await key(api, jo, actions=["deploy"])
    assert await may(deployer, OF_NS) == await may(deployer, OF_FN) == (200, 200, 200)
    one = await key(api, jo, actions=["deploy"], function="pay")
    assert await may(one, OF_FN) == (200, 200, 200)
    assert await may(one, OF_NS) == await may(one, "/api/v1/functions/jo-fn/other/secrets") == (404, 404, 404)
    assert (await put(api, one, "/api/v1/functions/jo-fn/new/secrets/TOKEN")).status_code == 404

    for role, expected in (
        ("viewer", (200, 403, 403)),
        ("developer", (200, 200, 200)),
        ("admin", (200, 200, 200)),
    ):
        who = await api.register(f"{role}@example.com", namespace=role)
        path = api.app.state.deps.settings.data_dir / "hearth.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(
                "INSERT INTO members SELECT n.id, u.id, ?, 0 FROM namespaces n, users u "
                "WHERE n.name = 'jo-fn' AND u.email = ?",
                (role, f"{role}@example.com"),
            )
        assert await may(who, OF_NS) == await may(who, OF_FN) == expected, role


async def test_what_is_no_secret(api: Running, jo: dict[str, str]) -> None:
    for name in ("lower", "1A", "A-B", "HEARTH_X", "LD_PRELOAD", "A" * 65):
        assert (await put(api, jo, f"{OF_NS}/{name}")).status_code == 400, name
    assert (await put(api, jo, f"{OF_NS}/A", "")).status_code == 400
    assert (await put(api, jo, f"{OF_NS}/A", "x" * limits.SECRET_MAX)).status_code == 200
    assert (await put(api, jo, f"{OF_NS}/A", "x" * (limits.SECRET_MAX + 1))).status_code == 413
    assert (await put(api, jo, "/api/v1/functions/jo-fn/Bad--Name/secrets/A")).status_code == 400
    for body in (
        {},
        {"value": "a", "value_base64": "YQ=="},
        {"value_base64": "no base64"},
        {"value": "\ud800"},
    ):
        answer = await api.client.put(f"{OF_NS}/A", headers=jo, content=json.dumps(body))
        assert (answer.status_code, answer.json()["error"]["source"]) == (400, "request"), body


async def test_one_that_is_needed_is_kept(api: Running, jo: dict[str, str]) -> None:
    await put(api, jo, f"{OF_NS}/TOKEN")
    namespace_id = await api.store.find_namespace("jo-fn")
    assert namespace_id is not None
    await api.store.add_version(
        namespace_id=namespace_id, function_id=api.ids.new("function"), version_id=api.ids.new("version"),
        name="pay", config=FunctionConfig("pay", "python", secrets=("TOKEN",)), source="s" * 64, user_id="usr_1",
    )  # fmt: skip
    refused = await api.client.delete(f"{OF_NS}/TOKEN", headers=jo)
    error = refused.json()["error"]
    assert (refused.status_code, error["details"]) == (409, {"functions": ["pay"]})
    assert "pay can't run without TOKEN" in error["message"] and "--force" in error["hint"]
    forced = await api.client.delete(f"{OF_NS}/TOKEN?force=true", headers=jo)
    assert (forced.status_code, forced.json()) == (200, {"lacking": ["pay"]})


async def test_traffic_does_not_go_back_to_a_version_whose_secret_is_gone(
    api: Running, jo: dict[str, str]
) -> None:
    namespace_id = await api.store.find_namespace("jo-fn")
    assert namespace_id is not None
    await put(api, jo, f"{OF_NS}/TOKEN")
    for number, names in ((1, ("TOKEN",)), (2, ())):
        _, version = await api.store.add_version(
            namespace_id=namespace_id, function_id=api.ids.new("function"), version_id=api.ids.new("version"),
            name="pay", config=FunctionConfig("pay", "python", secrets=names), source="s" * 64, user_id="usr_1",
        )  # fmt: skip
        build = await api.store.claim_build("own_1", 30)
        assert build is not None
        await api.store.built(version.id, build.lease.token, "a" * 64, "python-3.11.2")
        proof = await api.store.claim_proof("own_1", 30)
        assert proof is not None
        await api.store.publish(version.id, proof.lease.token, "handler.handler")
        assert version.number == number
    whole = dict.fromkeys(("whole", "has_source"), lambda version: True)
    traffic = Traffic(api.store, FunctionViews(api.store), api.ids, **whole)
    someone = Principal("usr_1", "user:usr_1", ((namespace_id, Role.OWNER),), user_id="usr_1")
    assert (
        await api.client.delete(f"{OF_NS}/TOKEN", headers=jo)
    ).status_code == 200  # what is live needs it not
    with pytest.raises(Conflict, match="version 1 can't start: the secret TOKEN is not set"):
        await traffic.rollback(someone, "jo-fn", "pay", None)
    await put(api, jo, f"{OF_NS}/TOKEN")
    await traffic.rollback(someone, "jo-fn", "pay", None)
