"""Accounts, keys and users from the command line, against the real API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cli_platform import Platform, Program, running

PASSWORD = "correct horse battery\n"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running(tmp_path_factory.mktemp("platform")) as found:
        Program(found.url, tmp_path_factory.mktemp("root")).register("root@example.com")  # the administrator
        yield found


@pytest.fixture
def hearth(platform: Platform, tmp_path: Path) -> Program:
    return Program(platform.url, tmp_path)


def tokens(hearth: Program) -> dict[str, object]:
    saved = json.loads((hearth.config / "credentials.json").read_text())
    found: dict[str, object] = next(iter(saved["logins"].values()))
    return found


def change(hearth: Program, **values: object) -> None:
    path = hearth.config / "credentials.json"
    saved = json.loads(path.read_text())
    next(iter(saved["logins"].values())).update(values)
    path.write_text(json.dumps(saved))


def test_register_whoami_logout_login(hearth: Program, platform: Platform) -> None:
    hearth("whoami", code=3)
    out = hearth("register", "--email", "ann@example.com", "--password-stdin", stdin=PASSWORD).stdout
    assert out.startswith("Registered and logged in.\n") and "namespace  ann\n" in out
    who = json.loads(hearth("whoami", "--json").stdout)
    assert (who["email"], who["current_namespace"], who["administrator"]) == ("ann@example.com", "ann", False)
    assert who["server"] == platform.url
    assert (hearth.config / "credentials.json").stat().st_mode & 0o777 == 0o600
    stale = tokens(hearth)["refresh_token"]
    assert hearth("logout").stdout == "Logged out.\n"
    assert hearth("logout").stdout == "You were not logged in.\n"
    error = hearth("whoami", code=3).stderr
    assert error.startswith("error: you are not logged in to http://127.0.0.1:")
    assert "hint: run: hearth login" in error
    hearth("login", "--email", "ann@example.com", "--password-stdin", stdin=PASSWORD)
    change(hearth, refresh_token=stale, expires_at=0)
    assert "your session has ended" in hearth("whoami", code=3).stderr  # logout has revoked it
    assert "you are not logged in" in hearth("whoami", code=3).stderr


def test_wrong_password_and_taken_names(hearth: Program) -> None:
    hearth.register("bob@example.com")
    login = ("login", "--email", "bob@example.com", "--password")
    wrong = hearth(*login, "not the password", code=3).stderr
    unknown = hearth(
        "login", "--email", "nobody@example.com", "--password", "not the password", code=3
    ).stderr
    assert wrong == unknown and wrong.startswith("error: ")
    again = ("register", "--password", "correct horse battery", "--email")
    assert hearth(*again, "bob@example.com", code=1).stderr.startswith("error: ")
    hearth(*again, "bob2@example.com", "--namespace", "bob", code=1)
    assert "'b' is not a name for a namespace" in hearth(*again, "x@y.z", "--namespace", "b", code=2).stderr
    hearth("register", "--email", "short@example.com", "--password", "short", code=2)


def test_how_a_password_is_given(hearth: Program) -> None:
    base = ("login", "--email", "bob@example.com")
    assert "hint: add --password-stdin" in hearth(*base, code=2).stderr
    both = hearth(*base, "--password", "x", "--password-stdin", code=2).stderr
    assert "exclude each other" in both and "hint: see: hearth login --help" in both
    assert "standard input ended" in hearth(*base, "--password-stdin", code=2).stderr
    assert "hint: add --email" in hearth("login", code=2).stderr


def test_an_access_token_is_renewed_when_it_is_old_or_refused(hearth: Program, platform: Platform) -> None:
    hearth.register("cleo@example.com")
    before = tokens(hearth)
    change(hearth, expires_at=0)
    platform.paths()
    hearth("whoami")
    assert platform.paths() == ["POST /api/v1/auth/refresh", "GET /api/v1/auth/whoami"]
    assert tokens(hearth)["refresh_token"] != before["refresh_token"]
    change(hearth, access_token="nonsense")
    hearth("whoami")
    assert [path.rpartition("/")[2] for path in platform.paths()] == ["whoami", "refresh", "whoami"]
    hearth("whoami")
    assert platform.paths() == ["GET /api/v1/auth/whoami"]


def test_commands_that_renew_at_once_all_succeed_and_renew_once(hearth: Program, platform: Platform) -> None:
    hearth.register("dan@example.com")
    change(hearth, expires_at=0)
    platform.paths()
    started = [hearth.start("whoami") for _ in range(4)]
    for process in started:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert platform.paths().count("POST /api/v1/auth/refresh") == 1
    hearth("whoami")


def test_changing_ones_password(hearth: Program) -> None:
    hearth.register("eve@example.com")
    wrong = hearth("password", "--password-stdin", stdin="wrong wrong\nanother long one\n", code=1).stderr
    assert wrong.startswith("error: the old password is wrong")
    hearth("password", "--password-stdin", stdin=PASSWORD + "another long one\n")
    hearth("whoami")
    hearth("login", "--email", "eve@example.com", "--password", "correct horse battery", code=3)
    hearth("login", "--email", "eve@example.com", "--password", "another long one")
    assert "a key has no password" in hearth("password", code=2, HEARTH_TOKEN="hk_x").stderr


def test_keys(hearth: Program) -> None:
    hearth.register("fay@example.com")
    made = json.loads(
        hearth("keys", "create", "--name", "ci", "--allow", "deploy", "--expires", "2d", "--json").stdout
    )
    assert made["secret"].startswith("hk_") and made["namespace"] == "fay" and made["actions"] == ["deploy"]
    assert made["expires_at"] - made["created_at"] == 2 * 86400 * 1000
    other = hearth("keys", "create", "--name", "x", "--secret-only").stdout
    assert other.startswith("hk_") and other.count("\n") == 1
    shown = hearth("keys", "list").stdout
    assert made["id"] in shown and made["secret"] not in shown and "never" in shown
    who = json.loads(hearth("whoami", "--json", HEARTH_TOKEN=made["secret"]).stdout)
    assert who["key"]["id"] == made["id"] and who["current_namespace"] == "fay"
    shown = hearth("whoami", HEARTH_TOKEN=made["secret"]).stdout.splitlines()
    assert [line.split(maxsplit=1)[0] for line in shown] == [
        "made", "key", "may", "expires", "namespace", "server",
    ]  # fmt: skip
    assert f"ci ({made['id']})" in shown[1] and shown[2].endswith("deploy in fay") and "20" in shown[3]
    hearth("keys", "revoke", made["id"])
    hearth.until(3, "whoami", HEARTH_TOKEN=made["secret"])
    hearth("keys", "revoke", "key_nothing", code=4)
    hearth("keys", "create", "--name", "x", "--expires", "soon", code=2)
    hearth("keys", "create", "--name", "x", "--allow", "everything", code=2)
    hearth("keys", "create", "--name", "x", "--function", "nothing", code=4)
    assert "HEARTH_TOKEN is not an API key" in hearth("whoami", code=2, HEARTH_TOKEN="a b").stderr


def test_sessions(hearth: Program, platform: Platform) -> None:
    hearth.register("liz@example.com")
    elsewhere = Program(platform.url, hearth.folder)
    elsewhere("login", "--email", "liz@example.com", "--password-stdin", stdin=PASSWORD)
    first, second = json.loads(hearth("sessions", "list", "--json").stdout)
    assert (first["current"], second["current"]) != (second["current"], first["current"])
    other = first if second["current"] else second
    shown = hearth("sessions", "list").stdout
    assert other["id"] in shown and "this one" in shown and "hearth/" in shown
    hearth("sessions", "revoke", code=2)
    hearth("sessions", "revoke", other["id"], "--others", code=2)
    assert hearth("sessions", "revoke", other["id"]).stdout == f"Ended {other['id']}.\n"
    assert "list them with" in hearth("sessions", "revoke", other["id"], code=4).stderr
    elsewhere.until(3, "whoami")
    elsewhere("login", "--email", "liz@example.com", "--password-stdin", stdin=PASSWORD)
    assert hearth("sessions", "revoke", "--others").stdout == "Ended 1 other login.\n"
    elsewhere.until(3, "whoami")
    hearth("whoami")


def test_a_key_for_metrics(hearth: Program) -> None:
    hearth.register("max@example.com")
    make = ("keys", "create", "--name", "prometheus", "--allow", "metrics")
    assert "hint: the platform's administrator may" in hearth(*make, code=1).stderr
    hearth("login", "--email", "root@example.com", "--password-stdin", stdin=PASSWORD)
    secret = hearth(*make, "--secret-only").stdout.strip()
    assert "metrics in the platform" in hearth("whoami", HEARTH_TOKEN=secret).stdout
    assert "of no namespace" in hearth("list", HEARTH_TOKEN=secret, code=2).stderr
    assert "does nothing else" in hearth(*make, "--allow", "deploy", code=2).stderr
    hearth("use", HEARTH_TOKEN=secret)


def test_users_are_the_administrators_business(hearth: Program) -> None:
    hearth.register("gus@example.com")
    hearth("users", "list", code=1)
    hearth("login", "--email", "root@example.com", "--password-stdin", stdin=PASSWORD)
    added = hearth(
        "users", "add", "hal@example.com", "--namespace", "hal-9000", "--password-stdin", stdin=PASSWORD
    )
    assert added.stdout == "Added hal@example.com with the namespace hal-9000.\n"
    assert "administrator" in hearth("users", "list").stdout
    assert any(
        user["email"] == "hal@example.com" for user in json.loads(hearth("users", "list", "--json").stdout)
    )
    hearth("users", "disable", "hal@example.com")
    login = ("login", "--email", "hal@example.com", "--password-stdin")
    hearth(*login, stdin=PASSWORD, code=3)
    hearth("users", "enable", "hal@example.com")
    hearth(*login, stdin=PASSWORD)
    hearth("users", "disable", "nobody@example.com", code=1)


def test_server_and_namespace_are_remembered(hearth: Program, platform: Platform) -> None:
    del hearth.env["HEARTH_SERVER"]
    register = ("register", "--email", "ida@example.com", "--password-stdin")
    hearth(*register, "--server", platform.url.upper() + "/", stdin=PASSWORD)
    assert json.loads(hearth("whoami", "--json").stdout)["server"] == platform.url
    hearth("use", "ida")
    assert hearth("use").stdout == f"server     {platform.url}\nnamespace  ida\n"
    assert json.loads(hearth("use", "--namespace", "ida", "--json").stdout)["namespace"] == "ida"
    assert "use one of: ida" in hearth("use", "elsewhere", code=4).stderr
    hearth("list", HEARTH_NAMESPACE="other")
    assert platform.functions.requests[-1][1] == "/api/v1/functions"
    nowhere = "http://127.0.0.1:9"
    assert hearth("use", "--server", nowhere + "/").stdout == f"server     {nowhere}\n"
    assert "you are not logged in to http://127.0.0.1:9" in hearth("whoami", code=3).stderr
    refused = hearth("login", "--email", "ida@example.com", "--password-stdin", stdin=PASSWORD, code=1).stderr
    assert refused.startswith("error: nothing answers at http://127.0.0.1:9 (")
    assert "hint: start the platform with: hearth up" in refused
    assert (
        json.loads(hearth("whoami", "--json", HEARTH_SERVER=platform.url).stdout)["email"]
        == "ida@example.com"
    )
    for url in ("127.0.0.1:8080", "ftp://x", "http://", "http://u:p@x", "http://x:y"):
        assert "hint: write it like http://127.0.0.1:8080" in hearth("whoami", "--server", url, code=2).stderr


def test_a_password_is_reset_on_the_host(hearth: Program, platform: Platform, tmp_path: Path) -> None:
    hearth.register("jo@example.com")
    reset = ("password", "reset", "--password-stdin", "--data-dir")
    done = hearth(
        *reset, str(platform.folder), "jo@example.com", stdin="another long one\n", HEARTH_SERVER=""
    )
    assert done.stdout == "The password of jo@example.com is reset.\n"
    login = ("login", "--email", "jo@example.com", "--password-stdin")
    hearth(*login, stdin=PASSWORD, code=3)
    hearth(*login, stdin="another long one\n")
    hearth(*reset, str(platform.folder), "no@example.com", stdin=PASSWORD, code=4)
    hearth(*reset, str(tmp_path), "jo@example.com", stdin=PASSWORD, code=4)
    assert not (tmp_path / "hearth.db").exists()
