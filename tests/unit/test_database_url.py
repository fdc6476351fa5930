"""Where the database's URL goes, which has a password in it: to those who need it, and into nothing that is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hearth.bootstrap import up
from hearth.config import server_settings, settings_from_json, settings_to_json
from hearth.core.errors import InvalidInput
from hearth.core.settings import Settings
from hearth.security.rootkey import RootKey

URL = "postgresql://hearth:s3cret@db.example.com/hearth"


def test_the_flag_wins_over_the_variable_and_a_newline_is_dropped() -> None:
    environ = {"HEARTH_DATABASE_URL": f"{URL}\n"}
    assert server_settings({}, environ).database_url == URL
    assert server_settings({"database_url": "postgres://h/d"}, environ).database_url == "postgres://h/d"
    assert server_settings({}, {"HEARTH_DATABASE_URL": ""}).database_url == ""


@pytest.mark.parametrize("text", ["mysql://u:s3cret@h/d", "sqlite:////s3cret.db", "host=h password=s3cret"])
def test_one_that_is_none_is_not_repeated(text: str) -> None:
    for flags, environ in (({"database_url": text}, {}), ({}, {"HEARTH_DATABASE_URL": text})):
        with pytest.raises(InvalidInput) as refused:
            server_settings(flags, environ)
        assert "s3cret" not in str(refused.value) + str(refused.value.hint)


def test_it_is_handed_on_and_not_shown() -> None:
    settings = Settings(Path("/data"), database_url=URL)
    assert settings_from_json(settings_to_json(settings)) == settings
    assert "s3cret" not in repr(settings)


def test_only_those_that_open_the_database_are_told() -> None:
    settings = Settings(Path("/data"), database_url=URL)
    specs = up._specs(
        settings, "0" * 8, Path("/run/x"), os.getuid(), os.getgid(), RootKey(b"k" * 32), 3, {}, None
    )
    told = {spec.name for spec in specs if "s3cret" in str(spec.config)}
    assert told == {"control", "shard-0"}
    assert not any("s3cret" in word for spec in specs for word in spec.argv)
    for spec in specs:
        for fd in spec.fds.values():
            if fd != 3:
                os.close(fd)
