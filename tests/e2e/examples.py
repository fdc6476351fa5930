"""Where the examples are, and how tests call them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.platform import Answer, Platform

EXAMPLES = Path(__file__).parents[2] / "examples"
FORM = "application/x-www-form-urlencoded"
Deployed = Callable[
    [str], str
]  # an example's name becomes the path it answers at; deployed when it is first asked for


def post(platform: Platform, path: str, body: bytes, content_type: str, **headers: str) -> Answer:
    return platform.call(path, data=body, Content_Type=content_type, **headers)


def post_json(platform: Platform, path: str, value: object) -> Answer:
    return post(platform, path, json.dumps(value).encode(), "application/json")


@contextmanager
def connected(platform: Platform) -> Iterator[http.client.HTTPConnection]:
    """For what urllib hides: redirects as they are, a stream that is left."""
    place = urlsplit(platform.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    try:
        yield connection
    finally:
        connection.close()
