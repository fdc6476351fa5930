"""Deploys over the API: what is taken in, what is refused, who may see what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hearth.core import limits
from hearth.core.finding import not_held
from hearth.core.launch import Probe
from hearth.wire.models import DeployEvent
from tests.integration.build_platform import Platform, archive, platform

BASE = "/api/v1/functions/jo-fn/hello"


@pytest.fixture
async def plat(tmp_path: Path) -> AsyncIterator[Platform]:
    async with platform(tmp_path) as made:
        yield made


@pytest.fixture
async def jo(plat: Platform) -> dict[str, str]:
    return await plat.api.register("jo@example.com", namespace="jo-fn")


async def events(plat: Platform, headers: dict[str, str], number: int) -> list[dict[str, Any]]:
    async with plat.api.client.stream("GET", f"{BASE}/versions/{number}/progress", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [line async for line in answer.aiter_lines() if line]
    for line in lines:
        DeployEvent.model_validate_json(line)  # as the client reads it
    return [json.loads(line) for line in lines]


async def test_from_upload_to_ready(plat: Platform, jo: dict[str, str]) -> None:
    with plat.workers() as task:
        answer = await plat.deploy(jo, archive())
        assert answer.status_code == 202
        assert answer.json() | {"version_id": ""} == {
            "namespace": "jo-fn", "name": "hello", "version": 1, "version_id": "", "state": "pending", "warnings": [],
        }  # fmt: skip
        watching = asyncio.create_task(events(plat, jo, 1))
        await plat.prove()
        told = await watching
    await task
    assert [event["text"] for event in told if event["kind"] == "log"] == [
        "building with node 20.20.2",
        "built",
    ]
    states = [event["state"] for event in told if event["kind"] == "state"]
    assert states[-1] == "ready"
    assert told[-1]["kind"] == "done"
    assert told[-1]["url"] == "http://127.0.0.1:8080/fn/jo-fn/hello"
    version = told[-1]["version"]
    assert (version["number"], version["toolchain"], version["handler"]) == (1, "node-20.20.2", "build.sh")
    detail = (await plat.api.client.get(BASE, headers=jo)).json()
    assert (detail["status"], detail["version"], detail["live"]["number"]) == ("ready", 1, 1)
    listed = (await plat.api.client.get("/api/v1/functions?namespace=jo-fn", headers=jo)).json()
    assert [item["name"] for item in listed["items"]] == ["hello"]
    assert await events(plat, jo, 1) == [*[e for e in told if e["kind"] == "log"], *told[-2:]]


async def test_lines_come_while_it_builds(plat: Platform, jo: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    import os

    os.mkfifo(gate)
    with plat.workers() as task:
        await plat.deploy(jo, archive(build=f"echo first; cat {gate}; exit 3"))
        async with plat.api.client.stream("GET", f"{BASE}/versions/1/progress", headers=jo) as answer:
            lines = answer.aiter_lines()
            while json.loads(await anext(lines)).get("text") != "first":
                pass
            gate.write_text("")
            rest = [json.loads(line) async for line in lines if line]
    await task
    assert rest[-1]["kind"] == "failed"
    assert rest[-1]["version"]["failure"]["code"] == "build_failed"
    assert "exit code 3" in rest[-1]["version"]["failure"]["message"]
    assert rest[-1]["version"]["failure"]["tail"] == "first\n"


async def test_progress_of_another_life(plat: Platform, jo: dict[str, str]) -> None:
    """After control has started again, the lines come from the log."""
    with plat.workers() as task:
        await plat.deploy(jo, archive(build="echo once; exit 1"))
        told = await events(plat, jo, 1)
    await task
    plat.logs.flush()
    plat.feed._lines.clear()
    assert [e.get("text") for e in await events(plat, jo, 1)] == [
        e.get("text") for e in told if e["kind"] == "log"
    ] + [None] * 2


async def test_a_failed_deploy_leaves_traffic_alone(plat: Platform, jo: dict[str, str]) -> None:
    with plat.workers() as task:
        await plat.deploy(jo, archive())
        await plat.prove()
        await plat.deploy(jo, archive(build="exit 1"))
        assert (await events(plat, jo, 2))[-1]["kind"] == "failed"
    await task
    detail = (await plat.api.client.get(BASE, headers=jo)).json()
    assert (detail["status"], detail["version"], detail["latest"]["state"]) == ("ready", 1, "failed")
    versions = (await plat.api.client.get(f"{BASE}/versions?limit=1", headers=jo)).json()
    assert ([item["number"] for item in versions["items"]], versions["next"]) == ([2], "2")
    versions = (await plat.api.client.get(f"{BASE}/versions?limit=1&after=2", headers=jo)).json()
    assert ([item["number"] for item in versions["items"]], versions["next"]) == ([1], None)


async def test_strangers_see_nothing(plat: Platform, jo: dict[str, str]) -> None:
    await plat.deploy(jo, archive())
    ann = await plat.api.register("ann@example.com", namespace="ann")
    client = plat.api.client
    for method, path in (
        ("GET", BASE),
        ("DELETE", BASE),
        ("GET", f"{BASE}/versions"),
        ("GET", f"{BASE}/versions/1"),
        ("GET", f"{BASE}/versions/1/progress"),
        ("GET", f"{BASE}/logs"),
        ("GET", "/api/v1/functions?namespace=jo-fn"),
        ("POST", f"{BASE}/versions"),
    ):
        headers = ann | {"content-type": "application/gzip"}
        there = await client.request(method, path, headers=headers)
        nowhere = await client.request(method, path.replace("jo-fn", "nobody"), headers=headers)
        assert there.status_code == nowhere.status_code == 404, (method, path, there.text)
        assert (
            there.json()["error"]["message"].replace("jo-fn", "nobody") == nowhere.json()["error"]["message"]
        )
        assert (await client.request(method, path)).status_code == 401
    assert (await client.get("/api/v1/functions", headers=ann)).json()["items"] == []


async def test_keys_reach_as_far_as_their_scope(plat: Platform, jo: dict[str, str]) -> None:
    await plat.deploy(jo, archive())
    await plat.deploy(jo, archive("other"), "other")

    async def key(**body: object) -> dict[str, str]:
        answer = await plat.api.client.post(
            "/api/v1/keys", headers=jo, json={"name": "k", "namespace": "jo-fn"} | body
        )
        assert answer.status_code == 201, answer.text
        return {"Authorization": f"Bearer {answer.json()['secret']}"}

    one = await key(function="hello", actions=["deploy"])
    assert (await plat.deploy(one, archive())).status_code == 202
    assert (await plat.deploy(one, archive("other"), "other")).status_code == 404
    listed = (await plat.api.client.get("/api/v1/functions", headers=one)).json()
    assert [item["name"] for item in listed["items"]] == ["hello"]
    caller = await key(actions=["invoke"])
    assert (await plat.deploy(caller, archive())).status_code == 403
    assert (await plat.api.client.delete(BASE, headers=caller)).status_code == 403


@pytest.mark.parametrize(
    ("data", "kind", "status", "code"),
    [
        (b"", "application/gzip", 400, "invalid_source"),
        (b"garbage", "application/gzip", 400, "invalid_source"),
        (archive(), "application/zip", 400, "invalid_source"),
        (archive(), "text/plain", 400, "invalid_input"),
        (archive(name="other"), "application/gzip", 400, "invalid_manifest"),
        (archive(function__yaml="name: hello\nruntime: node\nmemroy: 1\n"), "application/gzip", 400, "invalid_manifest"),
        (archive(function__yaml="name: hello\nruntime: node\ntriggers: [A]\n"), "application/gzip", 400, "not_yet_supported"),
        (archive(function__yaml="name: hello\nruntime: node\nsecrets: [A]\n"), "application/gzip", 400, "invalid_manifest"),
        (b"\x1f\x8b" + b"x" * limits.SOURCE_PACKED_MAX, "application/gzip", 413, "too_large"),
    ],
    ids=["empty", "garbage", "form", "kind", "name", "key", "later", "secret", "large"],
)  # fmt: skip
async def test_what_is_refused_leaves_nothing(
    plat: Platform, jo: dict[str, str], data: bytes, kind: str, status: int, code: str
) -> None:
    answer = await plat.deploy(jo, data, kind=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    data_dir = plat.blobs.path("source", "0" * 64).parent.parent
    left = [path.name for path in (data_dir / "tmp").iterdir() if not path.name.startswith("mark-")]
    assert [*left, *(data_dir / "sources").iterdir()] == []
    assert (await plat.api.client.get(BASE, headers=jo)).status_code == 404


async def test_manifest_errors_name_the_line(plat: Platform, jo: dict[str, str]) -> None:
    answer = await plat.deploy(jo, archive(function__yaml="name: hello\nruntime: node\nmemroy: 1\n"))
    error = answer.json()["error"]
    assert (error["details"]["line"], error["hint"]) == (3, "did you mean memory?")


async def test_too_large_without_a_length(plat: Platform, jo: dict[str, str]) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"\x1f\x8b"
        for _ in range(limits.SOURCE_PACKED_MAX // (1 << 20) + 1):
            yield bytes(1 << 20)

    answer = await plat.api.client.post(
        f"{BASE}/versions", content=body(), headers=jo | {"content-type": "application/gzip"}
    )
    assert answer.status_code == 413


async def test_bad_names(plat: Platform, jo: dict[str, str]) -> None:
    for name in ("Hello", "a--b", "xn"):
        answer = await plat.deploy(jo, archive(), name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_name")


async def test_limits_that_can_not_be_held(tmp_path: Path) -> None:
    probe = Probe("subprocess", True, frozenset({"tmp", "network"}), (not_held("memory", "no cgroup"),))
    yaml = "name: hello\nruntime: node\nmemory: 1GiB\ncpu: 2\n"
    async with platform(tmp_path / "a", probe) as plat:
        jo = await plat.api.register("jo@example.com", namespace="jo-fn")
        refused = await plat.deploy(jo, archive(function__yaml=yaml))
        assert refused.json()["error"]["code"] == "limit_unenforceable"
        assert "no cgroup" in refused.json()["error"]["message"]
        taken = await plat.deploy(jo, archive())
        assert [text.split(":")[0] for text in taken.json()["warnings"]] == ["memory", "cpu"]
        assert len((await plat.api.client.get(BASE, headers=jo)).json()["warnings"]) == 2
    async with platform(tmp_path / "b", probe, allow_unenforced=frozenset({"memory", "cpu"})) as plat:
        jo = await plat.api.register("jo@example.com", namespace="jo-fn")
        assert (await plat.deploy(jo, archive(function__yaml=yaml))).status_code == 202


async def test_full_disk(plat: Platform, jo: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plat.blobs, "free", lambda: limits.DISK_FREE_MIN - 1)
    answer = await plat.deploy(jo, archive())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_capacity")
    assert answer.headers["retry-after"] == "60"


async def test_delete(plat: Platform, jo: dict[str, str]) -> None:
    await plat.deploy(jo, archive())
    assert (await plat.api.client.delete(BASE, headers=jo)).status_code == 204
    assert (await plat.api.client.delete(BASE, headers=jo)).status_code == 404


async def test_deleted_while_watched(plat: Platform, jo: dict[str, str]) -> None:
    await plat.deploy(jo, archive())
    async with plat.api.client.stream("GET", f"{BASE}/versions/1/progress", headers=jo) as answer:
        lines = answer.aiter_lines()
        assert json.loads(await anext(lines))["state"] == "pending"
        await plat.api.client.delete(BASE, headers=jo)
        assert json.loads(await anext(lines))["kind"] == "failed"
