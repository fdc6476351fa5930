"""The reference pages of errors and headers say what the gateway does."""

from __future__ import annotations

import re
from pathlib import Path

from hearth.core import limits
from hearth.gateway.errors import STATUSES as HTTP_STATUSES
from hearth.gateway.heads import _DROPPED, SANDBOX
from hearth.gateway.request import SPECIAL
from hearth.web.errors import STATUSES, source_of

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_every_error_has_its_status_and_source_in_the_page() -> None:
    page = (REFERENCE / "errors.md").read_text()
    for cls, status in STATUSES.items():
        assert f"| `{cls.code}` | {status} | {source_of(cls('x'))} |" in page
    for cls, status in HTTP_STATUSES.items():
        if cls.code != "not_yet_supported":
            assert f"| {status} | `{cls.code}` |" in page
    rows = len(re.findall(r"^\| (?:`[a-z_]+`|\d{3}) \|", page, re.M))
    assert rows == len(STATUSES) + len(HTTP_STATUSES) - 1


def test_the_numbers_of_the_errors_page() -> None:
    page = (REFERENCE / "errors.md").read_text()
    assert f"above {limits.URL_MAX // 1024} KiB" in page
    assert f"above {limits.HEADER_BYTES_MAX // 1024} KiB or more than {limits.HEADER_FIELDS_MAX}" in page


def test_every_header_that_means_something_is_in_the_page() -> None:
    page = (REFERENCE / "headers.md").read_text().lower()
    assert SANDBOX.decode().partition(": ")[2].strip() in page
    framing = {b"content-length", b"http2-settings", b"forwarded"}
    for name in (SPECIAL | _DROPPED) - framing:
        text = name.decode()
        assert f"`{text}`" in page or text.startswith("proxy-"), text
