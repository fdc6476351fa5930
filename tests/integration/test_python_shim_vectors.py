"""The Python shim against the vectors that every shim passes, in each of its engines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.shim_host import READY, run_session, shim, write_files

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "src/hearth/runtimes/shims/python/main.py"
SESSIONS = json.loads((ROOT / "tests/contract/guest_vectors.json").read_text())["guest_sessions"]
ARGV = [sys.executable, "-I", "-S", "-X", "utf8", str(MAIN)]

ECHOES = {
    "sync": """
import base64
def handler(event, context):
    body = event.get("body", "")
    return base64.b64decode(body) if event["isBase64Encoded"] else body.encode()
""",
    "async": """
import base64
async def handler(event, context):
    body = event.get("body", "")
    return base64.b64decode(body) if event["isBase64Encoded"] else body.encode()
""",
    "asgi": """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"Content-Type", b"application/octet-stream")]})
    await send({"type": "http.response.body", "body": body})
""",
    "wsgi": """
def app(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [body]
""",
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("session", [pytest.param(s, id=s["name"]) for s in SESSIONS])
def test_session(session: dict[str, Any], echo: str, tmp_path: Path) -> None:
    code = write_files(tmp_path, {"handler.py": ECHOES[echo]})
    with shim(ARGV) as host:
        kind, said = host.load(code)
        assert kind == READY, said
        run_session(host, session["steps"])
