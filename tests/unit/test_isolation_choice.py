"""Which isolation `auto` takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearth.bootstrap import isolation
from hearth.core.errors import StartupFailed
from hearth.core.finding import Finding, ok, refused
from hearth.core.settings import Settings

AUTO = Settings(data_dir=Path("/nonexistent"))


@pytest.mark.parametrize(
    ("bubblewrap", "docker", "taken"),
    [(True, True, "bubblewrap"), (True, False, "bubblewrap"), (False, True, "docker"), (False, False, None)],
)
def test_bubblewrap_before_docker_before_nothing(
    monkeypatch: pytest.MonkeyPatch, bubblewrap: bool, docker: bool, taken: str | None
) -> None:
    def found(root: bool) -> list[Finding]:
        return [ok("bubblewrap", "there") if bubblewrap else refused("bubblewrap", "not there", "install it")]

    monkeypatch.setattr(isolation.needs, "findings", found)
    monkeypatch.setattr(isolation.docker_needs, "answers", lambda path: docker)
    monkeypatch.setattr(isolation, "docker_findings", lambda settings: [ok("docker", "there")])
    if taken is None:
        with pytest.raises(StartupFailed, match="not there"):
            isolation.chosen(AUTO)
    else:
        assert isolation.chosen(AUTO).isolation == taken


def test_docker_that_is_asked_for_and_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(StartupFailed, match="docker does not answer"):
        isolation.chosen(
            Settings(data_dir=tmp_path, isolation="docker", docker_socket=tmp_path / "docker.sock")
        )
