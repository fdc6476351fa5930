"""The reference pages of function.yaml and of the limits say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hearth.core import limits
from hearth.core.errors import InvalidInput
from hearth.manifest.function import KNOWN, LATER, read

DOCS = Path(__file__).parents[2] / "docs" / "reference"
NOT_LIMITS = {"KIB", "MIB", "GIB"}


def documented() -> dict[str, str]:
    rows = re.findall(r"^\|.*\| (.+?) \| `([A-Z_]+)` \|$", (DOCS / "limits.md").read_text(), re.MULTILINE)
    return {name: value for value, name in rows}


def meaning_of(text: str) -> object:
    pairs = re.fullmatch(r"(?:[a-z]+ \d+(?:, )?)+", text)
    if pairs:
        return {word: float(number) for word, number in re.findall(r"([a-z]+) (\d+)", text)}
    for parse in (limits.parse_size, limits.parse_duration):
        try:
            return float(parse(text))
        except InvalidInput:
            continue
    return float(text.replace(",", ""))


def test_every_limit_is_on_its_page() -> None:
    names = {name for name in vars(limits) if re.fullmatch(r"[A-Z][A-Z_]+", name)}
    assert set(documented()) == names - NOT_LIMITS


@pytest.mark.parametrize("name", sorted(documented()))
def test_the_page_has_the_right_number(name: str) -> None:
    assert meaning_of(documented()[name]) == getattr(limits, name)


def test_the_example_is_read_and_has_every_key() -> None:
    text = (DOCS / "function-yaml.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    read(example[1])
    assert set(re.findall(r"^(\w+):", example[1], re.MULTILINE)) == set(KNOWN)


def test_every_key_is_on_its_page() -> None:
    text = (DOCS / "function-yaml.md").read_text()
    rows = {match.partition(".")[0] for match in re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE)}
    assert rows == set(KNOWN)
    assert all(f"`{key}`" in text for key in LATER)
