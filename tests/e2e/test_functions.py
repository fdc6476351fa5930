"""What a person does every day, in all three languages, and functions that misbehave."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.platform import Platform, until

pytestmark = pytest.mark.root

HELLO = "def handler(event, context):\n    print('hello log')\n    return {'hello': event['rawPath']}\n"


def test_python_from_nothing(platform: Platform) -> None:
    platform.cli("create-function", "-n", "fresh", "-r", "python")
    said = platform.cli("deploy-function", "-n", "fresh")
    assert f"{platform.url}/fn/ann/fresh" in said
    listed = json.loads(platform.cli("list", "--json"))
    row = next(item for item in listed if item["name"] == "fresh")
    assert (row["namespace"], row["runtime"], row["version"], row["status"]) == ("ann", "python", 1, "ready")
    assert platform.call("/fn/ann/fresh").status == 404  # members only, and nobody is told
    assert platform.cli("invoke", "fresh")


@pytest.mark.network
@pytest.mark.parametrize("runtime", ["go", "node"])
def test_other_languages_from_nothing(platform: Platform, runtime: str) -> None:
    name = f"fresh-{runtime}"
    platform.cli("create-function", "-n", name, "-r", runtime)
    platform.cli("deploy-function", "-n", name)
    assert platform.cli("invoke", name)


def test_answer_has_what_the_contract_says(platform: Platform) -> None:
    platform.deploy("headers", "python", {"handler.py": HELLO})
    answer = platform.call("/fn/ann/headers/a%2Fb?x=1")
    assert (answer.status, answer.json()) == (200, {"hello": "/a%2Fb"})
    assert answer.headers["X-Hearth-Version"] == "1"
    assert answer.headers["X-Hearth-Invocation"].startswith("inv_")
    assert answer.headers["X-Request-Id"]
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    invocation = answer.headers["X-Hearth-Invocation"]
    until(lambda: "hello log" in platform.cli("logs", "headers", "--invocation", invocation))


def test_a_hundred_at_once_to_a_cold_function(platform: Platform) -> None:
    platform.deploy("burst", "python", {"handler.py": HELLO}, scale={"max": 10, "idle": "1s"})
    with ThreadPoolExecutor(100) as pool:
        statuses = list(pool.map(lambda _: platform.call("/fn/ann/burst").status, range(100)))
    assert statuses == [200] * 100


def test_redeploy_moves_traffic_and_a_failed_one_does_not(platform: Platform) -> None:
    platform.deploy("moving", "python", {"handler.py": "def handler(e, c): return 'one'\n"})
    platform.deploy("moving", "python", {"handler.py": "def handler(e, c): return 'two'\n"})
    until(lambda: b"two" in platform.call("/fn/ann/moving").body)
    folder = platform.function(
        "moving", "python", {"handler.py": "def handler(e, c)\n    return 3\n"}, auth="public"
    )
    said = platform.cli("deploy", str(folder), code=1)
    assert "handler.py" in said and "1" in said
    folder = platform.function("moving", "python", {"handler.py": "import nothing_like_it\n"}, auth="public")
    said = platform.cli("deploy", str(folder), code=1)
    assert "nothing_like_it" in said and "name it in requirements.txt" in said
    assert b"two" in platform.call("/fn/ann/moving").body


BAD = {
    "raises": ("def handler(e, c): raise ValueError('on purpose')\n", 502),
    "exits": ("import os\ndef handler(e, c): os._exit(3)\n", 502),
    "sysexit": ("import sys\ndef handler(e, c): sys.exit(3)\n", 502),
    "hangs": ("import time\ndef handler(e, c): time.sleep(3600)\n", 504),
    "eats": ("def handler(e, c):\n    x = []\n    while True: x.append(b'x' * 10**7)\n", 502),
    "nonsense": ("def handler(e, c): return object()\n", 502),
    "header": (
        "def handler(e, c): return {'statusCode': 200, 'headers': {'x': 'a\\r\\nset-cookie: b'}, 'body': ''}\n",
        502,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_does_not_hurt_the_next(platform: Platform, name: str) -> None:
    code, status = BAD[name]
    code += (
        "\nworse = handler\ndef handler(e, c): return 'fine' if e['rawPath'] == '/fine' else worse(e, c)\n"
    )
    platform.deploy(f"bad-{name}", "python", {"handler.py": code}, timeout="1s", memory="64MiB")
    for _ in range(2):
        answer = platform.call(f"/fn/ann/bad-{name}/")
        assert answer.status == status, answer.body
        assert answer.json()["error"]["source"] == "function"
        assert answer.headers["X-Hearth-Error"] == answer.json()["error"]["code"]
        assert platform.call(f"/fn/ann/bad-{name}/fine").body == b"fine"


def test_fork_without_end_is_held(platform: Platform) -> None:
    code = (
        "import os, time\n"
        "def handler(e, c):\n"
        "    if e['rawPath'] == '/fine': return 'fine'\n"
        "    while True:\n"
        "        try: os.fork()\n"
        "        except OSError: time.sleep(0.01)\n"
    )
    platform.deploy("forks", "python", {"handler.py": code}, timeout="2s")
    assert platform.call("/fn/ann/forks/").status in (502, 504)
    assert platform.call("/fn/ann/forks/fine").body == b"fine"


def test_prints_without_end_do_not_starve_answers(platform: Platform) -> None:
    code = "def handler(e, c):\n    for _ in range(100): print('x' * 1000_000)\n    return 'done'\n"
    platform.deploy("prints", "python", {"handler.py": code}, timeout="60s")
    assert platform.call("/fn/ann/prints").body == b"done"


def test_a_traceback_is_for_members(platform: Platform) -> None:
    platform.deploy(
        "secretive", "python", {"handler.py": "def handler(e, c): raise ValueError('on purpose')\n"}
    )
    assert b"on purpose" not in platform.call("/fn/ann/secretive").body
    assert "on purpose" in platform.cli("invoke", "secretive", code=1)
    until(lambda: "on purpose" in platform.cli("logs", "secretive"))


def test_streams(platform: Platform) -> None:
    code = "def handler(e, c):\n    for n in range(64): yield b'x' * 1_000_000\n"
    platform.deploy("streams", "python", {"handler.py": code})
    assert len(platform.call("/fn/ann/streams").body) == 64_000_000


def test_a_body_too_large_is_refused(platform: Platform) -> None:
    platform.deploy("bodies", "python", {"handler.py": "def handler(e, c): return len(e['body'])\n"})
    assert platform.call("/fn/ann/bodies", data=b"x" * 6_000_000).status == 200
    assert platform.call("/fn/ann/bodies", data=b"x" * 7_000_000).status == 413


def test_key_function_and_delete(platform: Platform) -> None:
    platform.deploy("keyed", "python", {"handler.py": HELLO}, auth="key")
    assert platform.call("/fn/ann/keyed").status == 401
    created = json.loads(platform.cli("keys", "create", "--name", "ci", "--function", "keyed", "--json"))
    secret = created["secret"]
    assert platform.call("/fn/ann/keyed", X_Hearth_Key=secret).status == 200
    platform.cli("keys", "revoke", created["id"])
    until(lambda: platform.call("/fn/ann/keyed", X_Hearth_Key=secret).status == 401)
    platform.cli("delete", "keyed", "--yes")
    until(lambda: platform.call("/fn/ann/keyed").status == 404)
