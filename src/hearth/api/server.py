"""``/api/v1/server``: what a client may know before it has an account; and the page of docs."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from hearth.api.deps import Deps
from hearth.wire.models import ServerInfo

router = APIRouter(tags=["server"])
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:13px/1.4 ui-monospace,monospace}summary{cursor:pointer;padding:.2rem 0}
b{display:inline-block;width:4.5rem}section{margin:0 0 1.5rem}td{padding:0 1rem 0 0;vertical-align:top}"""


@router.get("/api/v1/server")
async def server(deps: Deps) -> ServerInfo:
    """Version, URL, and whether one may register. Needs no credential."""
    has_users = await deps.auth.has_users()
    rule = deps.auth.registration
    return ServerInfo(
        version=deps.version,
        registration="open" if rule.open or not has_users else "closed",
        first_user=not has_users,
        setup_token=not has_users and rule.setup_token is not None,
        public_url=deps.settings.public_url,
    )


@router.get("/api/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The OpenAPI document as a page: nothing of it is loaded from elsewhere, so it works without the internet."""
    page = render(request.app.openapi())
    policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def render(schema: dict[str, Any]) -> str:
    """A page of an OpenAPI 3 document: every operation by tag, with its parameters, body and answers."""
    groups: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(_operation(method.upper(), path, operation, schema))
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(entries)}" for tag, entries in groups.items())
    title = escape(schema["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title} {escape(schema['info']['version'])}</h1>"
        "<p>For programs: <a href=openapi.json>openapi.json</a>. Send <code>Authorization: Bearer TOKEN</code>."
        f" Errors are <code>{{&quot;error&quot;: {{code, message, hint, …}}}}</code>.</p>{body}</html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any], schema: dict[str, Any]) -> str:
    rows = [
        ("parameter", f"{p['name']} ({p['in']})", p.get("description", ""))
        for p in operation.get("parameters", ())
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        rows += [("body", name, note) for name, note in _fields(content.get("schema", {}), schema)] or [
            ("body", kind, "")
        ]
    rows += [("answer", status, answer["description"]) for status, answer in operation["responses"].items()]
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}" for row in rows)
    text = escape(operation.get("description", ""))
    return (
        f"<details><summary><b>{method}</b><code>{escape(path)}</code></summary><p>{text}</p>"
        f"<table>{cells}</table></details>"
    )


def _fields(body: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, str]]:
    """Names of a body's fields, and whether they must be there."""
    name = body.get("$ref", "").rpartition("/")[2]
    model = schema.get("components", {}).get("schemas", {}).get(name, {})
    required = model.get("required", ())
    return [(field, "required" if field in required else "") for field in model.get("properties", {})]
