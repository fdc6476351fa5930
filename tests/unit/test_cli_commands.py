"""The command line itself: names, help, usage errors, what is imported, projects that are made."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hearth import __version__
from hearth.cli.commands.create import RUNTIMES, write_project
from hearth.cli.main import ALIASES, COMMANDS, cli, main
from hearth.core.errors import Conflict
from hearth.core.settings import SETTINGS
from hearth.manifest.function import read

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def walk(command: click.Command, path: str, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            yield f"{path} {name}", found
            yield from walk(found, f"{path} {name}", ctx)


ALL = list(walk(cli, "hearth", click.Context(cli)))


def test_there_is_what_the_contract_names() -> None:
    names = {name.removeprefix("hearth ") for name, _ in ALL}
    assert names >= {
        "up", "doctor", "register", "login", "logout", "whoami", "use", "keys create", "keys list", "keys revoke", "users add",
        "users list", "users disable", "password", "password reset", "create-function", "deploy-function", "list",
        "describe", "invoke", "logs", "delete", "versions",
    }  # fmt: skip


@pytest.mark.parametrize(("path", "command"), ALL, ids=[path for path, _ in ALL])
def test_every_command_has_help_with_an_example_and_speaks_json(path: str, command: click.Command) -> None:
    assert command.help is not None and re.search(r"\n\s+Example:\n\s+.*hearth ", command.help)
    options = {text for parameter in command.params for text in parameter.opts}
    assert all(getattr(p, "help", None) for p in command.params if isinstance(p, click.Option))
    if path not in ("hearth up", "hearth doctor", "hearth images build", "hearth images list") and not (
        isinstance(command, click.Group) and not command.invoke_without_command
    ):
        assert {"--json", "--namespace", "--server"} <= options


def test_the_help_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        assert "Example:" in capsys.readouterr().out
    assert main(["new", "--help"]) == 0
    assert "--runtime" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["delpoy"], "there is no command 'delpoy'", "did you mean deploy?"),
        (["lst"], "there is no command 'lst'", "did you mean list?"),
        (["qqqqqq"], "there is no command 'qqqqqq'", "see: hearth --help"),
        (["keys", "creat"], "there is no command 'creat'", "did you mean create?"),
        (["list", "--jsn"], "there is no option --jsn", "did you mean --json?"),
        (["invoke"], "missing argument 'NAME'", "see: hearth invoke --help"),
        (
            ["create-function", "-n", "a", "-r", "rust"],
            "invalid value for '-r'",
            "see: hearth create-function --help",
        ),
        (["create-function", "-n", "A"], "'A' is not a name for a function", "use 1 to 31"),
        (["create-function", "-n", "a", "-r", "container"], "containers are not yet supported", "use -r go"),
        (["up", "--port", "many"], "--port can't be 'many'", "use a whole number"),
        (["doctor", "--port", "many"], "--port can't be 'many'", "use a whole number"),
        (["doctor", "--slots", "2"], "there is no option --slots", "did you mean --port?"),
        (
            ["up", "--isolation", "podman"],
            "--isolation can't be 'podman'",
            "use one of: auto, bubblewrap, docker",
        ),
        (["images", "list", "--images", "cobol=x"], "--images can't be 'cobol=x'", "write LANGUAGE=NAME"),
        (
            ["up", "--isolation-runtime", "a b"],
            "--isolation-runtime can't be 'a b'",
            "use a name that docker knows",
        ),
        (
            ["up", "--database-url", "mysql://u:secret@h/d"],
            "--database-url can't be what it is",
            "write postgresql://",
        ),
        (["password", "reset", "a@b.org"], "--data-dir is missing", "give the one"),
        (["up", "--shards", "2"], "there is no option --shards", "see: hearth up --help"),
    ],
)
def test_usage_errors(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        shown.err.startswith(f"error: {message}")
        and f". hint: {hint}" in shown.err
        and shown.err.count("\n") == 1
    )
    assert main([*arguments, "--json"] if "--json" not in arguments else arguments) == 2
    assert json.loads(capsys.readouterr().err)["error"]["message"].startswith(message)


def test_version_and_help_import_little() -> None:
    """`--version` is to take under 0.2 s: so it may not load what takes that long."""
    code = "import sys; from hearth.cli.main import main; main(sys.argv[1:]); sys.stderr.write(' '.join(sys.modules))"
    for argument in ("--version", "--help"):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=True, timeout=60
        )
        heavy = {"pydantic", "httpx", "rich", "ruamel", "asyncio", "fastapi", "sqlalchemy", "pathspec", "ssl"}
        assert not heavy & set(done.stderr.split())
        if argument == "--version":
            assert done.stdout == f"hearth {__version__}\n"
            assert not any(name.startswith("hearth.cli.commands") for name in done.stderr.split())


def test_both_names_are_installed() -> None:
    for name in ("hearth", "serverless-cli"):
        program = Path(sys.executable).parent / name
        done = subprocess.run([program, "lst"], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "container"])
def test_projects(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = write_project(Path("hello-you"), "hello-you", runtime)
    handler = {"go": "handler.go", "python": "handler.py", "node": "handler.mjs"}[runtime]
    assert {"README.md", "event.json", "function.yaml", handler} <= set(files)
    assert sorted(path.name for path in Path("hello-you").iterdir()) == files
    assert [path.name for path in tmp_path.iterdir()] == ["hello-you"]
    config = read(Path("hello-you/function.yaml").read_text())
    assert (config.name, config.runtime) == ("hello-you", runtime)
    assert json.loads(Path("hello-you/event.json").read_text()) == {"name": "Ann"}
    for file in files:
        assert "{{" not in Path("hello-you", file).read_text()
    if runtime == "python":
        ast.parse(Path("hello-you/handler.py").read_text())


def test_every_commented_line_of_a_projects_settings_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for runtime in ("go", "python", "node"):
        write_project(Path(runtime), "hello", runtime)
        text = Path(runtime, "function.yaml").read_text()
        shown = re.sub(r"(?m)^# (?=[a-z_]+: )", "", text)
        assert shown.count("#") < text.count("#")
        config = read(shown)
        assert (config.memory, config.env) == (256 << 20, (("GREETING", "Hello"),))


def test_a_project_for_a_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "-n", "team/hello"]) == 0
    assert capsys.readouterr().out.endswith("Deploy it: hearth deploy-function -n team/hello\n")
    assert read(Path("hello/function.yaml").read_text()).name == "hello"
    for wrong in ("a/b/c", "/hello", "team/", "T/hello"):
        assert main(["new", "-n", wrong]) == 2


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hello").mkdir()
    Path("link").symlink_to("nowhere")
    for name in ("hello", "link"):
        with pytest.raises(Conflict, match="is there already"):
            write_project(Path(name), name, "go")
    assert list(Path("hello").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hello", "link"]


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "write_text", _fail)
    with pytest.raises(OSError, match="space"):
        write_project(Path("hello"), "hello", "go")
    assert list(tmp_path.iterdir()) == []


def _fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


# the reference page


def sections() -> dict[str, str]:
    """The page's text by the command that a heading names."""
    parts = re.split(r"(?m)^### `(.+)`$", PAGE.read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_has_each_command_and_no_other() -> None:
    wanted = {
        path
        for path, command in ALL
        if not isinstance(command, click.Group) or command.invoke_without_command
    }
    assert set(sections()) == wanted
    for alias, name in ALIASES.items():
        assert f"`{alias}`" in sections()[f"hearth {name}"]


@pytest.mark.parametrize(("path", "command"), ALL, ids=[path for path, _ in ALL])
def test_the_page_has_each_option_and_no_other(path: str, command: click.Command) -> None:
    if path not in sections():
        return
    wanted = {
        text
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name not in ("json", "server", "namespace")
        for text in parameter.opts
    }
    cells = re.findall(r"(?m)^\| `(-[^`]+)` \|", sections()[path])
    written = {word for cell in cells for word in re.findall(r"--?[a-z][a-z-]*", cell)}
    assert written == wanted


def test_the_page_has_the_settings_defaults() -> None:
    for setting in SETTINGS:
        row = next(
            line for line in sections()["hearth up"].splitlines() if line.startswith(f"| `{setting.flag} ")
        )
        assert setting.env in row and setting.default in row


def test_every_place_of_a_command_is_there() -> None:
    for place in COMMANDS.values():
        module, _, attribute = place.partition(":")
        assert module.isidentifier() and attribute.isidentifier()


def test_the_python_project_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(Path("hello"), "hello", "python")
    code = "import json, handler; print(json.dumps([handler.handler({'body': b}, None) for b in ('{\"name\": \"Ann\"}', None, '[]')]))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        cwd="hello", capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    ann, world, wrong = json.loads(done.stdout)
    assert json.loads(ann["body"]) == {"message": "Hello, Ann!"}
    assert json.loads(world["body"]) == {"message": "Hello, world!"}
    assert wrong["statusCode"] == 400
