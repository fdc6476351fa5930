"""Functions that call functions, as themselves and without a network."""

from __future__ import annotations

import pytest

from tests.e2e.calls import chain, ids
from tests.e2e.platform import Platform

pytestmark = pytest.mark.root
LOOP = """
import os, urllib.error, urllib.request

def handler(event, context):
    try:
        with urllib.request.urlopen(os.environ["HEARTH_URL"] + "/fn/ann/loop") as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.headers['X-Hearth-Error']}"
"""
IMPORT = """
import os, urllib.request

with urllib.request.urlopen(os.environ["HEARTH_URL"] + "/fn/ann/greeting") as answer:
    GREETING = answer.read().decode()

def handler(event, context):
    return GREETING
"""


@pytest.mark.network
def test_a_chain_of_three_in_three_languages_without_a_network(platform: Platform) -> None:
    checkout, price, tax, outside = chain(platform, network="none")
    known = ids(platform)
    assert checkout["caller"] == ""
    assert price["caller"] == f"function:{known['checkout']}"
    assert tax["caller"] == f"function:{known['price']}"
    assert checkout["trace"] == price["trace"] == tax["trace"]
    assert price["left"] <= 20_000  # though its own timeout is 60 s
    assert outside["status"] == 404
    assert platform.call("/fn/ann/price").status == 404  # for who is nobody


def test_a_function_that_calls_itself_is_stopped(platform: Platform) -> None:
    platform.deploy("loop", "python", {"handler.py": LOOP}, concurrency=32, scale={"max": 1}, timeout="60s")
    assert platform.call("/fn/ann/loop").body == b"508 calls_too_deep"


def test_code_that_calls_at_import(platform: Platform) -> None:
    platform.deploy("greeting", "python", {"handler.py": "def handler(e, c): return 'hi'\n"}, auth="members")
    platform.deploy("importer", "python", {"handler.py": IMPORT}, network="none")
    assert platform.call("/fn/ann/importer").body == b"hi"
