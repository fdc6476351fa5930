"""A build's log: lines however they come, bounded, without credentials, with the place of the error."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.build.buildlog import LINE_MAX, TAIL, BuildLog, advice, find_place, last_words

WORK = "/build/work"


def logged(*pieces: bytes, most: int = 1 << 20) -> tuple[list[str], BuildLog]:
    lines: list[str] = []
    log = BuildLog(lines.append, lambda text: text.replace("secret", "***"), most)
    for piece in pieces:
        log.feed(piece)
    log.close()
    return lines, log


@given(
    st.lists(st.text(alphabet="ab ü", max_size=20), max_size=10), st.lists(st.integers(0, 400), max_size=10)
)
def test_pieces_make_no_difference(texts: list[str], cuts: list[int]) -> None:
    data = "".join(text + "\n" for text in texts).encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert logged(*pieces)[0] == texts


def test_lines() -> None:
    assert logged(b"a\r\n50%\r100%\nno end")[0] == ["a", "100%", "no end"]
    assert logged(b"\x1b[31mred\x1b[0m \x07\xff\n")[0] == ["red �"]
    assert logged(b"my secret\n")[0] == ["my ***"]


def test_credentials_in_long_lines() -> None:
    """A line is cut where there is a blank, never within a word."""
    for shift in range(40):
        lines, log = logged(b"x" * (LINE_MAX - 20 - shift) + b" secret " + b"y" * LINE_MAX)
        assert "secret" not in "".join(lines) + log.tail


def test_bounds() -> None:
    lines, log = logged(b"".join(b"line %d\n" % n for n in range(5000)), most=100)
    assert len(lines) < 20
    assert "more bytes of the log are not kept" in lines[-1]
    assert log.tail.endswith("line 4999\n")
    assert len(log.tail) <= TAIL
    assert log.tail.startswith("line ")


@pytest.mark.parametrize("text", [b"cp: x: No space left on device\n", b"npm ERR! code ENOSPC\n"])
def test_disk_full(text: bytes) -> None:
    assert logged(text)[1].disk_full
    assert not logged(b"all well\n")[1].disk_full


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('  File "/build/work/a.py", line 3, in x\n  File "/build/work/pkg/b.py", line 5\nSyntaxError: x', ("pkg/b.py", 5)),
        ('  File "/build/work/a.py", line 3\n  File "/usr/lib/python3.11/x.py", line 9\n', ("a.py", 3)),
        ('  File "/build/out/.hearth/site-packages/x.py", line 9\n', None),
        ("old.py:1: warning: SyntaxError: x\nhandler.py:7: error: SyntaxError: '(' was never closed\n", ("handler.py", 7)),
        ("file:///build/work/handler.mjs:12\n  const = 1\nSyntaxError: x", ("handler.mjs", 12)),
        ("at f (/build/work/src/x.ts:4:5)\n", ("src/x.ts", 4)),
        ("# hello\n./handler.go:9:2: undefined: x\n./other.go:1:1: y\n", ("handler.go", 9)),
        ("vet: ./handler.go:3:8: x\n", ("handler.go", 3)),
        ("/root/go/pkg/mod/x.go:3:8: x\n", None),
        ('  File "<string>", line 1\n', None),
        ("../up.go:3:8: x\n", None),
        ("nothing\n", None),
    ],
)  # fmt: skip
def test_places(text: str, place: tuple[str, int] | None) -> None:
    assert find_place(text, WORK) == place


def test_last_words() -> None:
    assert last_words("a\nTypeError: bad\nnpm notice\n\n") == "TypeError: bad"
    assert last_words("a\n b \n\n") == "b"
    assert last_words("") == ""
    assert len(last_words("x" * 1000)) == 300


def test_last_words_of_package_managers_name_the_package() -> None:
    npm = (
        "npm error code E404\nnpm error 404 Not Found - GET https://registry.example/nope\nnpm error 404\n"
        "npm error 404  The requested resource 'nope@1' could not be found\n"
        "npm error Log files were not written due to the config logs-max=0\n"
    )
    assert last_words(npm) == "npm error 404 Not Found - GET https://registry.example/nope"
    uv = "error: No solution found when resolving dependencies\n  cause: Because nope was not found in the package registry\n"
    assert last_words(uv) == (
        "error: No solution found when resolving dependencies: Because nope was not found in the package registry"
    )
    assert advice(npm) == advice(uv) == "look at the package's name and version"


def test_advice() -> None:
    go = "h.go:10:2: cannot find module providing package example.com/a: import lookup disabled by -mod=readonly"
    assert advice(go) == "run `go mod tidy` in the project, and deploy again"
    assert advice("SyntaxError: invalid syntax") == "mend it and deploy again"
