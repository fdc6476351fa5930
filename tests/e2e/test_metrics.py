"""/metrics and `hearth stats` of a real platform: the same figures, across a shard that dies, for who may see them."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.platform import Answer, Platform, until
from tests.promtool import promtool

pytestmark = pytest.mark.root

CODE = (
    "def handler(event, context):\n"
    "    if event['rawPath'] == '/boom': raise ValueError('on purpose')\n"
    "    return 'fine'\n"
)


def series(page: Answer) -> dict[str, float]:
    """Every series of a page by its name with labels."""
    assert page.status == 200, page.body
    found = {}
    for line in page.body.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def calls(platform: Platform, function: str) -> float:
    """Calls of a function by all processes, as `sum(hearth_requests_total{function=…})` has them."""
    found = series(platform.call("/metrics"))
    named = [name for name in found if name.startswith("hearth_requests_total") and f'"{function}"' in name]
    return sum(found[name] for name in named)


def test_the_page_has_what_happened(platform: Platform) -> None:
    platform.deploy("counted", "python", {"handler.py": CODE})
    for _ in range(7):
        assert platform.call("/fn/ann/counted").status == 200
    for _ in range(2):
        assert platform.call("/fn/ann/counted/boom").status == 502
    assert platform.call("/fn/ann/no-such-function").status == 404
    page = platform.call("/metrics")
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    promtool("check", "metrics", stdin=page.body)
    found, own = series(page), 'function="counted",namespace="ann"'
    assert found[f'hearth_requests_total{{{own},outcome="succeeded",process="shard-0"}}'] == 7
    assert found[f'hearth_errors_total{{{own},process="shard-0",source="function"}}'] == 2
    assert found[f'hearth_request_duration_seconds_count{{{own},process="shard-0"}}'] == 9
    assert found[f'hearth_instances{{{own},process="shard-0",state="ready"}}'] >= 1
    assert found['hearth_builds_total{process="control",result="succeeded",runtime="python"}'] >= 1
    assert found['hearth_refused_requests_total{code="not_found",process="shard-0"}'] >= 1
    assert found['hearth_process_up{process="shard-0"}'] == 1

    stats = json.loads(platform.cli("stats", "counted", "--json"))
    assert (stats["calls"], stats["succeeded"], stats["failed"]) == (9, 7, 2)
    assert stats["errors"] == {"function": 2, "request": 0, "platform": 0}
    assert 0 < stats["p50_ms"] <= stats["p95_ms"] <= stats["p99_ms"]
    assert stats["queue"] == 0 and stats["instances"]["ready"] >= 1
    assert "9 (7 succeeded, 2 failed, 0 cancelled)" in platform.cli("stats", "ann/counted")
    listed = {item["name"]: item for item in json.loads(platform.cli("stats", "--json"))}
    assert listed["counted"]["calls"] == 9
    assert re.search(r"(?m)^counted +9 +2 +2 +0 +0 ", platform.cli("stats"))


def test_a_function_that_nobody_called_or_that_is_none(platform: Platform) -> None:
    platform.deploy("silent", "python", {"handler.py": CODE})
    stats = json.loads(platform.cli("stats", "silent", "--json"))
    assert (stats["calls"], stats["p50_ms"]) == (0, None)
    assert "there is no function" in platform.cli("stats", "nobody", code=4)
    assert "there is no function" in platform.cli("stats", "elsewhere/nobody", code=4)


def test_figures_of_a_deleted_function_go(platform: Platform) -> None:
    platform.deploy("passing", "python", {"handler.py": CODE})
    assert platform.call("/fn/ann/passing").status == 200
    assert calls(platform, "passing") == 1
    platform.cli("delete", "passing", "--yes")
    until(lambda: b'"passing"' not in platform.call("/metrics").body)


def test_elsewhere_needs_a_key_for_it(platform: Platform) -> None:
    for headers in (
        {"X_Forwarded_For": "203.0.113.5"},
        {"X_Forwarded_For": "127.0.0.1"},
        {"X_Real_IP": "127.0.0.1"},
        {"Host": "metrics.example.com"},
        {"Host": "metrics.example.com", "X_Hearth_Local": "1"},
    ):
        answer = platform.call("/metrics", **headers)
        assert (answer.status, answer.headers["X-Hearth-Error"]) == (401, "unauthenticated")
    away = {"X_Forwarded_For": "203.0.113.5"}
    assert platform.call("/metrics", **away, Authorization="Bearer hk_" + "x" * 43).status == 401
    assert platform.call("/metrics", Authorization="Bearer hk_" + "x" * 43).status == 401  # also from here
    platform.deploy("keyless", "python", {"handler.py": CODE})
    other = json.loads(platform.cli("keys", "create", "--name", "other", "--json"))
    assert platform.call("/metrics", **away, Authorization=f"Bearer {other['secret']}").status == 403
    made = json.loads(platform.cli("keys", "create", "--name", "prom", "--allow", "metrics", "--json"))
    bearer = f"Bearer {made['secret']}"
    assert series(platform.call("/metrics", **away, Authorization=bearer))
    assert (
        platform.call("/fn/ann/keyless", Authorization=bearer).status == 200
    )  # public: the function's own affair
    assert platform.call("/api/v1/stats", Authorization=bearer).status in (200, 403)
    assert b"keyless" not in platform.call("/api/v1/stats", Authorization=bearer).body
    platform.cli("keys", "revoke", made["id"])
    until(lambda: platform.call("/metrics", **away, Authorization=bearer).status == 401)


def test_only_reading(platform: Platform) -> None:
    assert platform.call("/metrics", data=b"x").status == 405
    assert platform.call("/metrics/").status == 404


def test_strangers_see_no_figures(platform: Platform) -> None:
    assert platform.call("/api/v1/stats").status == 401
    assert platform.call("/api/v1/functions/ann/counted/stats").status == 401


def test_a_trusted_proxy_and_a_shard_that_dies(own_platform: Platform) -> None:
    platform = own_platform
    platform.flags = ("--trusted-proxies", "127.0.0.1/32")
    platform.start()
    for chain in ("203.0.113.5", "127.0.0.1, 203.0.113.5", "203.0.113.5:443", "unknown"):
        assert platform.call("/metrics", X_Forwarded_For=chain).status == 401  # the real client counts
    assert platform.call("/metrics", X_Forwarded_For="127.0.0.1").status == 200

    platform.register()
    platform.deploy("hello", "python", {"handler.py": CODE})
    for _ in range(20):
        assert platform.call("/fn/ann/hello").status == 200
    before = series(platform.call("/metrics"))
    (old,) = platform.pids("shard")
    platform.kill("shard")
    until(lambda: platform.pids("shard") not in ([], [old]))
    until(lambda: platform.call("/fn/ann/hello").status == 200)
    after = series(platform.call("/metrics"))
    started = 'hearth_process_start_time_seconds{process="%s"}'
    assert after[started % "shard-0"] > before[started % "shard-0"]
    assert after[started % "control"] == before[started % "control"]
    fallen = {
        name
        for name, value in after.items()
        if value < before.get(name, 0) and re.match(r"\w+_(total|count|bucket|sum)\{", name)
    }
    assert fallen and all(
        'process="shard-0"' in name for name in fallen
    )  # each series that fell is a reset of its own
    since = calls(platform, "hello")
    assert 0 < since < 20
    assert json.loads(platform.cli("stats", "hello", "--json"))["calls"] == since
    platform.kill("control")  # the figures are the shard's: control only asks for them
    until(lambda: platform.call("/metrics").status == 200)
    assert calls(platform, "hello") == since
