"""Accounts on a running platform: tokens renewed at once, keys in CI, whose namespace is whose."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from hearth.cli.main import cli
from hearth.cli.names import FUNCTION
from tests.e2e.platform import HEARTH, PASSWORD, Platform
from tests.integration.cli_platform import Done, Program

pytestmark = pytest.mark.root
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "deploy-from-ci.md"
NOWHERE = "/proc/no-home"  # nobody can make a folder there, not even root
HANDLER = {"handler.py": "def handler(event, context):\n    return 'Hello!'\n"}


@dataclass
class Person:
    """Somebody on a machine of his own: a home with a token file."""

    platform: Platform
    config: Path

    @property
    def environment(self) -> dict[str, str]:
        here = {"XDG_CONFIG_HOME": str(self.config), "HEARTH_SERVER": self.platform.url}
        return self.platform.environment | here

    @property
    def here(self) -> Program:
        """His command line in this process, which is quicker than one of its own."""
        program = Program(self.platform.url, Path(tempfile.mkdtemp(dir=self.config.parent)))
        program.env["XDG_CONFIG_HOME"] = str(self.config)
        return program

    @property
    def file(self) -> Path:
        return self.config / "hearth" / "credentials.json"

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [HEARTH, *args], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [HEARTH, *args],
            env=self.environment,
            cwd=self.config.parent,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def login(self) -> None:
        self.here("login", "--email", "ann@example.com", "--password-stdin", stdin=PASSWORD + "\n")

    def saved(self) -> dict[str, object]:
        return json.loads(self.file.read_text())["logins"][self.platform.url]  # type: ignore[no-any-return]

    def age(self) -> None:
        """As if a quarter of an hour had passed: the access token is over, for us and for the server."""
        saved = json.loads(self.file.read_text())
        saved["logins"][self.platform.url].update(expires_at=0, access_token="over")
        self.file.write_text(json.dumps(saved))


@pytest.fixture
def ann(platform: Platform, tmp_path: Path) -> Person:
    person = Person(platform, tmp_path / "config")
    person.login()
    return person


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit codes and what stood on stderr."""
    found = []
    for process in processes:
        _, err = process.communicate(timeout=120)
        found.append((process.returncode, err))
    return found


def test_two_commands_that_renew_at_once_both_succeed(ann: Person) -> None:
    seen = {ann.saved()["refresh_token"]}
    for _ in range(4):
        ann.age()
        assert ends([ann.start("whoami"), ann.start("list")]) == [(0, ""), (0, "")]
        seen.add(ann.saved()["refresh_token"])
    assert len(seen) == 5  # each round has renewed


def test_two_machines_with_one_token_file_renew_at_once(ann: Person, tmp_path: Path) -> None:
    """Nothing but the server's own rule stands between these two: they share no lock."""
    shutil.copytree(ann.config, tmp_path / "copy")
    other = Person(ann.platform, tmp_path / "copy")
    for person in (ann, other):
        person.age()
    assert ends([ann.start("whoami"), other.start("whoami")]) == [(0, ""), (0, "")]
    assert ann.saved()["refresh_token"] != other.saved()["refresh_token"]


def test_renewals_across_a_logout_succeed_or_say_that_one_is_logged_out(ann: Person) -> None:
    for _ in range(2):
        ann.age()
        running = [ann.start("whoami"), ann.start("list")]
        logout = ann.start("logout")
        running.append(ann.start("whoami"))
        assert ends([logout]) == [(0, "")]
        for code, err in ends(running):
            assert (code, err) == (0, "") or (code == 3 and err.startswith("error: you are not logged in"))
        assert ann.platform.url not in json.loads(ann.file.read_text())["logins"]
        ann.login()
        assert ann.run("whoami").returncode == 0


def test_what_a_logout_ended_is_ended_for_a_copy_too(ann: Person, tmp_path: Path) -> None:
    shutil.copytree(ann.config, tmp_path / "copy")
    copy = Person(ann.platform, tmp_path / "copy")
    assert ann.run("logout").returncode == 0
    copy.age()
    done = copy.run("whoami")
    assert (done.returncode, done.stderr) == (3, "error: your session has ended. hint: run: hearth login\n")


# a key


@pytest.fixture(scope="module")
def deployed(platform: Platform) -> Iterator[Platform]:
    platform.deploy("in-ci", "python", HANDLER, auth="members")
    platform.deploy("not-in-ci", "python", HANDLER, auth="members")
    yield platform
    for name in ("in-ci", "not-in-ci"):
        platform.cli("delete", name, "--yes")


def make_key(platform: Platform, *more: str) -> str:
    return platform.cli("keys", "create", "--name", "test", "--secret-only", *more).strip()


def with_key(platform: Platform, key: str, *args: str) -> tuple[int, Done]:
    """As in a job: no login, no home, nothing but the key; which came with a newline, as they do."""
    job = Program(platform.url, Path(tempfile.mkdtemp(dir=platform.home)))
    job.folder = platform.home
    del job.env["XDG_CONFIG_HOME"]
    return job.ended(*args, HOME=NOWHERE, HEARTH_TOKEN=key + "\n")


def test_a_key_of_one_function_does_all_that_its_scope_allows_and_no_more(deployed: Platform) -> None:
    key = make_key(deployed, "--function", "in-ci", "--allow", "deploy", "--expires", "1d")
    who = json.loads(with_key(deployed, key, "whoami", "--json")[1].stdout)
    assert (who["key"]["actions"], who["key"]["namespace"], who["key"]["function"]) == (
        ["deploy"],
        "ann",
        "in-ci",
    )
    assert who["current_namespace"] == "ann" and who["key"]["expires_at"] is not None
    may = ["list", "describe in-ci", "versions in-ci", "logs in-ci", "deploy in-ci", "invoke in-ci"]
    may += ["describe ann/in-ci", "rollback in-ci", "whoami", "use"]
    for command in may:
        code, done = with_key(deployed, key, *command.split())
        assert code == 0, (command, done.stderr)
    may_not = {
        "describe not-in-ci": 4,
        "invoke not-in-ci": 4,
        "deploy not-in-ci": 4,
        "delete not-in-ci --yes": 4,
        "keys list": 1,
        "keys create --name more": 1,
        "sessions list": 1,
        "users list": 1,
        "list --namespace elsewhere": 4,
        "use ann": 2,
        "login --email ann@example.com --password wrong-password": 3,
    }
    for command, wanted in may_not.items():
        code, done = with_key(deployed, key, *command.split())
        assert code == wanted and ". hint: " in done.stderr, (command, done.stderr)
    listed = json.loads(with_key(deployed, key, "list", "--json")[1].stdout)
    assert [item["name"] for item in listed] == ["in-ci"]


def test_a_key_that_only_invokes(deployed: Platform) -> None:
    key = make_key(deployed, "--function", "in-ci")
    assert with_key(deployed, key, "invoke", "in-ci")[1].stdout == "Hello!"
    for command in ("describe in-ci", "logs in-ci", "deploy in-ci"):
        assert with_key(deployed, key, *command.split())[0] == 1, command


def test_a_user_without_any_home_needs_none(deployed: Platform) -> None:
    """As in a container that runs as a number: no HOME, and nobody of that number in the user database."""
    code = "import os, sys; os.setgid(64321); os.setuid(64321); from hearth.config import client_settings; print(client_settings({}).config_dir)"
    done = subprocess.run(
        [Path(HEARTH).parent / "python", "-c", f"from hearth import config, cli; {code}"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "/.config/hearth\n"


# the page about CI


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def steps() -> list[str]:
    """The commands of the page's workflow, which are all one-liners."""
    (workflow,) = blocks("yaml")
    return re.findall(r"^ +- run: (.+)$", workflow, re.M)


def in_shell(platform: Platform, script: str, code: int = 0, **env: str) -> str:
    """Run a script as a person or a job does; what stands for the world is the platform's URL and pipx."""
    work = platform.home / "ci"
    script = script.replace("https://hearth.example.com", platform.url)
    script = script.replace("${{ vars.HEARTH_PACKAGE }}", "hearth.whl")
    hands = f'set -eu\nhearth() {{ {HEARTH} "$@"; }}\npipx() {{ [ "$*" = "install hearth.whl" ]; }}\n'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", hands + script],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, (script, done.stdout, done.stderr)
    return done.stdout


def test_the_page_about_ci_holds(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    work = platform.home / "ci"
    work.mkdir()
    shell = blocks("sh")
    make, job, call, plain, rotate = shell
    platform.cli("create-function", "-n", "hello", "-r", "python", cwd=work)
    shown = in_shell(platform, make, **platform.environment)
    (key,) = re.findall(r"hk_[\w-]+", shown)
    env = {"PATH": os.environ["PATH"], "HOME": NOWHERE, "HEARTH_TOKEN": key}
    said = in_shell(platform, job + call, **env)
    assert said.count("deploy in ann/hello") == 1 and "Hello, Ann!" in said
    assert json.loads((work / "deployed.json").read_text())["version"] == 2
    env["HEARTH_SERVER"] = platform.url
    run = steps()
    assert len(run) == 3 and run[0].startswith("pipx")
    assert "Hello, Ann!" in in_shell(platform, "\n".join(run), **env)
    assert '"kind":"done"' in in_shell(platform, plain, **env)
    assert json.loads(platform.cli("versions", "hello", "--json"))[0]["number"] == 4
    assert "ci" in in_shell(platform, rotate, **platform.environment)
    handler = work / "hello" / "handler.py"
    handler.write_text("import nonsense\n")
    in_shell(platform, plain, code=1, **env)
    in_shell(platform, run[1], code=1, **env)
    platform.cli("keys", "revoke", json.loads(platform.cli("keys", "list", "--json"))[0]["id"])
    in_shell(platform, run[1], code=3, **env)


# whose namespace is whose


def naming_commands() -> list[list[str]]:
    """Every command that takes a function's NAME, with what else it needs."""
    others = {"targets": "1=100", "invocation_id": "inv_x"}  # else any word does
    found = []

    def walk(command: click.Command, path: list[str], ctx: click.Context) -> None:
        if isinstance(command, click.Group):
            for name in command.list_commands(ctx):
                inner = command.get_command(ctx, name)
                assert inner is not None
                walk(inner, [*path, name], ctx)
            return
        arguments = [param for param in command.params if isinstance(param, click.Argument)]
        if any(param.type is FUNCTION for param in arguments):
            yes = ["--yes"] if any("--yes" in param.opts for param in command.params) else []
            words = ["NAME" if p.type is FUNCTION else others.get(p.name or "", "word") for p in arguments]
            found.append([*path, *words, *yes])

    walk(cli, [], click.Context(cli))
    return found


def test_every_name_of_a_function_can_be_completed() -> None:
    """Also what finds the commands above: an argument that a function's NAME is given by says so by its type."""
    commands = {words[0] for words in naming_commands()}
    assert commands >= {"describe", "versions", "invoke", "logs", "delete", "rollback", "alias", "stats"}


@pytest.mark.parametrize("command", naming_commands(), ids=lambda command: "-".join(command))
def test_a_name_in_somebody_elses_namespace_is_not_found(ann: Person, command: list[str]) -> None:
    theirs = [word if word != "NAME" else "elsewhere/thing" for word in command]
    code, done = ann.here.ended(*theirs)
    assert code == 4, done.stderr
    assert done.stderr.startswith("error: ") and ". hint: " in done.stderr


def test_the_order_of_what_says_the_namespace(ann: Person) -> None:
    def asked(*args: str, **env: str) -> str:
        code, done = ann.here.ended("describe", *args, **env)
        assert code == 4
        return done.stderr.partition("function ")[2].partition("/")[0]

    assert asked("thing") == "ann"
    assert asked("thing", HEARTH_NAMESPACE="by-variable") == "by-variable"
    assert asked("thing", "--namespace", "by-flag", HEARTH_NAMESPACE="by-variable") == "by-flag"
    assert asked("by-name/thing", "--namespace", "by-flag", HEARTH_NAMESPACE="by-variable") == "by-name"
    ann.here("use", "ann")
    saved = json.loads(ann.file.read_text())
    saved["logins"][ann.platform.url]["use"] = "by-use"  # a namespace that he has left meanwhile
    ann.file.write_text(json.dumps(saved))
    assert asked("thing") == "by-use"
    assert asked("thing", HEARTH_NAMESPACE="by-variable") == "by-variable"
    assert "hint: use one of: ann" in ann.here("use", "elsewhere", code=4).stderr
    for args in (["list"], ["keys", "create", "--name", "x"]):
        assert ". hint: " in ann.here(*args, "--namespace", "elsewhere", code=4).stderr
