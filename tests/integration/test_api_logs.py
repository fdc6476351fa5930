"""Logs over the API: who may read what, what is not there, following with a cursor."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hearth.api import logs as logs_api
from hearth.app.logs import LogSweeper
from hearth.ports.logs import LogLine
from hearth.telemetry.keeping import LogKeeping
from hearth.telemetry.logs import LogFiles
from hearth.telemetry.segments import Bounds
from tests.integration.build_platform import Platform, archive, platform

BASE = "/api/v1/functions/jo-fn/hello"


@pytest.fixture
async def plat(tmp_path: Path) -> AsyncIterator[Platform]:
    async with platform(tmp_path) as made:
        yield made


@pytest.fixture
async def jo(plat: Platform) -> dict[str, str]:
    return await plat.api.register("jo@example.com", namespace="jo-fn")


async def function_id(plat: Platform) -> str:
    function = await plat.api.store.find_function("jo-fn", "hello")
    assert function is not None
    return function.id


def line(at_ms: int, text: str, version: int = 1) -> LogLine:
    return LogLine(at_ms, "run", "stdout", "info", text, version, "sb_1", None)


async def test_logs(plat: Platform, jo: dict[str, str]) -> None:
    with plat.workers() as task:
        await plat.deploy(jo, archive())
        await plat.prove()
    await task
    plat.logs.flush()
    answer = await plat.api.client.get(f"{BASE}/logs?version=1", headers=jo)
    assert [(line["source"], line["text"]) for line in map(json.loads, answer.text.splitlines())] == [
        ("platform", "building with node 20.20.2"),
        ("build", "built"),
    ]
    only = await plat.api.client.get(f"{BASE}/logs?source=build", headers=jo)
    assert [json.loads(line)["text"] for line in only.text.splitlines()] == ["built"]
    for wrong in ("source=x", "limit=0", "version=0", "since_ms=-1", "invocation=inv_1"):
        assert (await plat.api.client.get(f"{BASE}/logs?{wrong}", headers=jo)).status_code == 400
    assert (await plat.api.client.get(f"{BASE}/logs?version=2", headers=jo)).status_code == 404
    nothing = f"{BASE}/logs?invocation=inv_{'0' * 26}"
    assert (await plat.api.client.get(nothing, headers=jo)).text == ""


async def test_lines_of_a_version_that_was_cleared_away(plat: Platform, jo: dict[str, str]) -> None:
    await plat.deploy(jo, archive())
    function = await function_id(plat)
    plat.logs.write(function, line(1, "old", 9))
    plat.logs.flush()
    answer = await plat.api.client.get(f"{BASE}/logs?version=9", headers=jo)
    assert [json.loads(line)["text"] for line in answer.text.splitlines()] == ["old"]


async def test_followed_logs_go_on_where_they_were(
    plat: Platform, jo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await plat.deploy(jo, archive())
    function = await function_id(plat)
    monkeypatch.setattr(logs_api, "FOLLOW_MAX", 0.0)  # each answer ends with its first batch
    got, cursor = [], ""
    for at in range(1, 4):
        plat.logs.write(function, line(at, f"at {at}"))
        plat.logs.flush()
        asked = f"{BASE}/logs?follow=true&limit=1" + (f"&after={cursor}" if cursor else "")
        *lines, mark = (await plat.api.client.get(asked, headers=jo)).text.splitlines()
        got += [json.loads(line)["text"] for line in lines]
        cursor = json.loads(mark)["cursor"]
    assert got == ["at 1", "at 2", "at 3"]
    wrong = await plat.api.client.get(f"{BASE}/logs?follow=true&after=x", headers=jo)
    assert wrong.status_code == 400 and "cursor" in wrong.text


async def test_followed_logs_are_pushed(plat: Platform, jo: dict[str, str]) -> None:
    await plat.deploy(jo, archive())
    function = await function_id(plat)
    async with plat.api.client.stream("GET", f"{BASE}/logs?follow=true", headers=jo) as following:
        lines = following.aiter_lines()
        assert "cursor" in json.loads(await anext(lines))
        plat.logs.write(function, line(1, "pushed", 1))
        assert json.loads(await anext(lines))["text"] == "pushed"


async def test_logs_that_can_not_be_read_are_an_error(
    plat: Platform, jo: dict[str, str], tmp_path: Path
) -> None:
    await plat.deploy(jo, archive())
    function = await function_id(plat)
    root = tmp_path / "data" / "logs"
    root.mkdir(exist_ok=True)
    (root / function).write_text("no folder")
    assert (await plat.api.client.get(f"{BASE}/logs", headers=jo)).status_code == 500


async def test_logs_of_deleted_functions_are_cleared_away(
    plat: Platform, jo: dict[str, str], tmp_path: Path
) -> None:
    await plat.deploy(jo, archive())
    function = await function_id(plat)
    files = LogFiles(tmp_path, "own_a")
    for name in (function, "fn_gone"):
        files.write(name, line(1, "x", 1))
    files.close()
    keeping = LogKeeping(tmp_path, Bounds())
    sweeper = LogSweeper(plat.api.store, keeping, plat.api.clock)
    assert [await sweeper.round() for _ in range(3)] == [0, 1, 0]
    assert keeping.functions() == {function}
