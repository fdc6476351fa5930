"""The reference pages hold what the code has: nothing undocumented, nothing invented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hearth.config import REGISTRY_VARIABLES
from hearth.core.errors import error_classes
from hearth.core.settings import SETTINGS, Settings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.field)
def test_every_setting_is_in_its_page_as_the_code_has_it(setting: object) -> None:
    line = f"| `{setting.flag}` | `{setting.env}` | {setting.meaning} | {setting.default} |"  # type: ignore[attr-defined]
    assert line in page("settings.md")


def test_settings_page_invents_nothing() -> None:
    flags = set(re.findall(r"^\| `(--[a-z-]+)`", page("settings.md"), re.M))
    assert flags == {setting.flag for setting in SETTINGS}
    assert {setting.field for setting in SETTINGS} | {"registry_env"} == set(Settings.__dataclass_fields__)


def test_registry_variables_are_in_the_page() -> None:
    assert all(f"`{name}`" in page("settings.md") for name in REGISTRY_VARIABLES)


def test_every_error_code_is_in_its_page_and_no_other() -> None:
    listed = set(re.findall(r"^\| `([a-z_]+)`", page("errors.md"), re.M))
    assert listed == set(error_classes())


def links(path: Path) -> list[str]:
    return re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("README.md")],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        assert (path.parent / link).exists(), f"{path.name}: {link}"


KINDS = ("tutorial", "howto", "reference", "explanation", "contributing")


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link).resolve() for link in links(index)}
    pages = {path for kind in KINDS for path in (ROOT / "docs" / kind).glob("*.md")}
    assert pages - listed == set(), "list it in docs/README.md"


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_tests_and_sources_that_pages_name_are_there(path: Path) -> None:
    """`tests/…`, `src/hearth/…`, `docs/…`, `deploy/…` in code marks, wildcards included: what is said to hold a promise exists."""
    for named in re.findall(r"`((?:tests|src/hearth|docs|deploy|examples)/[\w./*-]+)`", path.read_text()):
        assert list(ROOT.glob(named.rstrip("/"))), f"{path.name}: {named}"
