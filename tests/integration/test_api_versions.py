"""Versions, rollback and aliases through the API, with real builds; the test proves what is built."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.build_platform import Platform, archive, platform

BASE = "/api/v1/functions/jo-fn/hello"


@pytest.fixture
async def plat(tmp_path: Path) -> AsyncIterator[Platform]:
    async with platform(tmp_path) as made:
        yield made


@pytest.fixture
async def jo(plat: Platform) -> dict[str, str]:
    return await plat.api.register("jo@example.com", namespace="jo-fn")


async def deploys(plat: Platform, jo: dict[str, str], count: int) -> None:
    """That many versions, each live in turn."""
    with plat.workers() as task:
        for _ in range(count):
            other = archive(build=f"echo {plat.api.clock.now_ms()} > made")
            plat.api.clock.advance(0.001)
            number = (await plat.deploy(jo, other)).json()["version"]
            function = await plat.api.store.find_function("jo-fn", "hello")
            assert function is not None
            await plat.settled(function.id, number, "built")
            proof = await plat.api.store.claim_proof("prover", 30)
            assert proof is not None
            await plat.api.store.publish(proof.version.id, proof.lease.token, "handler.handler")
    await task


async def rollback(plat: Platform, jo: dict[str, str], to: int | None = None) -> tuple[int, Any]:
    answer = await plat.api.client.post(f"{BASE}/rollback", json={"to": to}, headers=jo)
    return answer.status_code, answer.json()


async def live(plat: Platform, jo: dict[str, str]) -> dict[int, int]:
    items = (await plat.api.client.get(f"{BASE}/aliases", headers=jo)).json()["items"]
    [found] = [item for item in items if item["name"] == "live"]
    return {target["version"]: target["weight"] for target in found["targets"]}


async def point(plat: Platform, jo: dict[str, str], alias: str, *targets: tuple[int, int]) -> Any:
    body = {"targets": [{"version": version, "weight": weight} for version, weight in targets]}
    return await plat.api.client.put(f"{BASE}/aliases/{alias}", json=body, headers=jo)


async def test_versions_say_whose_they_are_and_what_they_get(plat: Platform, jo: dict[str, str]) -> None:
    await deploys(plat, jo, 2)
    assert (await point(plat, jo, "beta", (1, 7))).status_code == 200
    second, first = (await plat.api.client.get(f"{BASE}/versions", headers=jo)).json()["items"]
    assert (second["number"], second["live"], second["aliases"]) == (
        2,
        True,
        [{"alias": "live", "weight": 100}],
    )
    assert (first["number"], first["live"], first["aliases"]) == (1, False, [{"alias": "beta", "weight": 7}])
    assert second["replaced"] == 1 and first["replaced"] is None
    assert first["created_by"] == "jo@example.com" and first["size"] > 0
    assert (await plat.api.client.get(f"{BASE}/versions/1", headers=jo)).json() == first
    gone = await plat.api.client.get(f"{BASE}/versions/9", headers=jo)
    assert gone.status_code == 404 and "no version 9" in gone.json()["error"]["message"]


async def test_rollback_goes_back_and_back(plat: Platform, jo: dict[str, str]) -> None:
    await deploys(plat, jo, 3)
    status, done = await rollback(plat, jo)
    assert (status, done["version"], done["changed"], done["before"]) == (
        200,
        2,
        True,
        [{"version": 3, "weight": 100}],
    )
    assert await live(plat, jo) == {2: 100}
    assert (await rollback(plat, jo))[1]["version"] == 1
    status, refused = await rollback(plat, jo)
    assert (status, refused["error"]["code"]) == (409, "conflict") and refused["error"]["hint"]
    assert (await rollback(plat, jo, 3))[1]["version"] == 3  # undone
    status, again = await rollback(plat, jo, 3)
    assert (status, again["changed"]) == (200, False)
    await point(plat, jo, "live", (2, 90), (3, 10))
    assert (await rollback(plat, jo))[1]["version"] == 2  # from a part of the traffic as well
    assert await live(plat, jo) == {2: 100}
    await deploys(plat, jo, 1)
    assert await live(plat, jo) == {4: 100}
    assert (await rollback(plat, jo))[1]["version"] == 2  # and not to 3, which somebody has left


async def test_what_can_not_serve_gets_no_traffic(plat: Platform, jo: dict[str, str]) -> None:
    await deploys(plat, jo, 2)
    await plat.deploy(jo, archive(build="exit 1"))
    for number, status in ((3, 409), (9, 404)):
        assert (await rollback(plat, jo, number))[0] == status
        assert (await point(plat, jo, "live", (1, 1), (number, 1))).status_code == status
    function = await plat.api.store.find_function("jo-fn", "hello")
    assert function is not None
    with plat.workers() as task:
        await plat.settled(function.id, 3, "failed")
    await task
    status, refused = await rollback(plat, jo, 3)
    assert status == 409 and "version 3 has failed" in refused["error"]["message"]
    first = await plat.api.store.find_version(function.id, 1)
    assert first is not None and first.artifact is not None
    shutil.rmtree(plat.blobs.path("artifact", first.artifact))
    status, refused = await rollback(plat, jo)
    assert status == 409 and "it is built again" in refused["error"]["message"]
    with plat.workers() as task:
        await plat.settled(function.id, 1, "built")
    await task
    proof = await plat.api.store.claim_proof("prover", 30)
    assert proof is not None
    await plat.api.store.publish(proof.version.id, proof.lease.token, "handler.handler")
    assert await live(plat, jo) == {2: 100}
    assert (await rollback(plat, jo))[0] == 200
    second = await plat.api.store.find_version(function.id, 2)
    assert second is not None and second.artifact is not None
    shutil.rmtree(plat.blobs.path("artifact", second.artifact))
    shutil.rmtree(plat.blobs.path("source", second.source))
    status, refused = await rollback(plat, jo, 2)
    assert status == 409 and "so is its source" in refused["error"]["message"]
    assert await live(plat, jo) == {1: 100}


@pytest.mark.parametrize(
    ("alias", "targets", "status"),
    [
        ("beta", [], 400),
        ("beta", [(1, 0)], 400),
        ("beta", [(1, 1), (1, 2)], 400),
        ("beta", [(1, 1001)], 400),
        ("Beta", [(1, 1)], 400),
        ("beta", [(7, 1)], 404),
        ("beta", [(2**70, 1)], 400),
        ("beta", [(1, 2**70)], 400),
    ],
)
async def test_what_is_no_alias(
    plat: Platform, jo: dict[str, str], alias: str, targets: list[tuple[int, int]], status: int
) -> None:
    await deploys(plat, jo, 1)
    answer = await point(plat, jo, alias, *targets)
    assert answer.status_code == status, answer.text
    assert len((await plat.api.client.get(f"{BASE}/aliases", headers=jo)).json()["items"]) == 1


async def test_an_alias_is_deleted_but_not_live(plat: Platform, jo: dict[str, str]) -> None:
    await deploys(plat, jo, 1)
    await point(plat, jo, "beta", (1, 1))
    statuses = [
        (await plat.api.client.delete(f"{BASE}/aliases/{name}", headers=jo)).status_code
        for name in ("beta", "beta", "live")
    ]
    assert statuses == [204, 404, 409]


async def test_who_may(plat: Platform, jo: dict[str, str]) -> None:
    """A stranger hears that there is nothing, a key that only calls what it may not."""
    await deploys(plat, jo, 1)
    made = await plat.api.client.post(
        "/api/v1/keys", json={"name": "k", "namespace": "jo-fn", "function": "hello"}, headers=jo
    )
    key = {"X-Hearth-Key": made.json()["secret"]}
    stranger = await plat.api.register("ann@example.com")
    for method, path, verb in (
        ("POST", "/rollback", "roll back"),
        ("PUT", "/aliases/beta", "set aliases of"),
        ("DELETE", "/aliases/beta", "delete aliases of"),
        ("DELETE", "", "delete"),
        ("GET", "/aliases", "read"),
        ("GET", "/versions", "read"),
    ):
        body: Any = {"targets": [{"version": 1, "weight": 1}]} if method == "PUT" else {}
        for headers, status in ((stranger, 404), (key, 403), ({}, 401)):
            answer = await plat.api.client.request(method, BASE + path, json=body, headers=headers)
            assert answer.status_code == status, (method, path)
            if status == 403:
                message = answer.json()["error"]["message"]
                assert message == f"you may not {verb} function jo-fn/hello"
