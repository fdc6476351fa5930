"""Every error of the tree has a status of its own, a code of its own and a line in the reference."""

from __future__ import annotations

import json

import pytest

from hearth.core import errors
from hearth.web.errors import STATUSES, error_body, retry_after, source_of, status_of


def tree(root: type[errors.HearthError] = errors.HearthError) -> list[type[errors.HearthError]]:
    found = [root]
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            found += tree(child)
    return found


@pytest.mark.parametrize("cls", tree(), ids=lambda cls: cls.__name__)
def test_every_error_of_the_tree_is_mapped(cls: type[errors.HearthError]) -> None:
    assert cls in STATUSES
    assert 400 <= status_of(cls("x")) <= 599


def test_every_code_is_used_once() -> None:
    codes = [cls.code for cls in tree()]
    assert len(codes) == len(set(codes))


def test_a_new_class_has_its_ancestors_status() -> None:
    class Newer(errors.QueueFull):
        code = "newer"

    assert status_of(Newer("x")) == 429


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.QueueFull("full"), 1),
        (errors.QueueFull("full", retry_after=2.1), 3),
        (errors.Draining("bye", retry_after=0.0), 1),
        (errors.NotFound("no"), None),
        (errors.Unauthenticated("slow down", retry_after=5), 5),
    ],
)
def test_retry_after_is_whole_seconds_where_trying_again_makes_sense(
    error: errors.HearthError, seconds: int | None
) -> None:
    assert retry_after(error) == seconds


def test_the_body_says_what_why_and_whose_fault() -> None:
    error = errors.InvalidManifest("no such key", hint="did you mean memory?", details={"line": 3})
    body = json.loads(error_body(error, "req-1"))
    assert body == {
        "error": {
            "code": "invalid_manifest",
            "message": "no such key",
            "hint": "did you mean memory?",
            "source": "request",
            "request_id": "req-1",
            "details": {"line": 3},
        }
    }
    assert source_of(errors.FunctionCrashed("x")) == "function"
    assert source_of(errors.NoCapacity("x")) == "platform"
