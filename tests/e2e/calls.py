"""Three functions in three languages, each of which calls the next one by HEARTH_URL and says what it was told."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.platform import Platform

PYTHON = """
import json, os, urllib.request

def handler(event, context):
    request = urllib.request.Request(os.environ["HEARTH_URL"] + "/fn/ann/price")
    with urllib.request.urlopen(request) as answer:
        told = json.load(answer)
    headers = event["headers"]
    mine = {"caller": headers.get("x-hearth-caller", ""), "trace": headers["traceparent"][3:35]}
    return [{**mine, "left": context.get_remaining_time_in_millis()}, *told]
"""
NODE = """
export const handler = async (event, context) => {
  const left = context.getRemainingTimeInMillis()
  const answer = await fetch(process.env.HEARTH_URL + '/fn/ann/tax', { headers: { traceparent: event.headers.traceparent } })
  const told = { caller: event.headers['x-hearth-caller'], trace: event.headers.traceparent.slice(3, 35), left }
  return [told, ...(await answer.json())]
}
"""
GO = """
package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
)

func Handler(w http.ResponseWriter, r *http.Request) {
	answer, err := http.Get(os.Getenv("HEARTH_URL") + "/api/v1/functions")
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(answer.Body)
	json.NewEncoder(w).Encode([]any{
		map[string]any{"caller": r.Header.Get("X-Hearth-Caller"), "trace": r.Header.Get("Traceparent")[3:35]},
		map[string]any{"status": answer.StatusCode, "said": string(said)},
	})
}
"""
PARTS = {
    "checkout": ("python", {"handler.py": PYTHON}),
    "price": ("node", {"handler.mjs": NODE}),
    "tax": ("go", {"go.mod": "module example\n\ngo 1.21\n", "handler.go": GO}),
}


def chain(platform: Platform, **settings: Any) -> list[dict[str, Any]]:
    """Deploy them, call the first; what each was told, and last what the management API said to the third."""
    for name, (runtime, files) in PARTS.items():
        auth = "public" if name == "checkout" else "members"
        platform.deploy(
            name, runtime, files, auth=auth, timeout="20s" if name == "checkout" else "60s", **settings
        )
    answer = platform.call("/fn/ann/checkout")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()
    return found


def ids(platform: Platform) -> dict[str, str]:
    """Of the functions, by name."""
    return {name: json.loads(platform.cli("describe", name, "--json"))["id"] for name in PARTS}
