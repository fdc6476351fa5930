"""Completion as a person has it: a real shell, its script, and the Tab key."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hearth.core.function import FunctionConfig

from .cli_functions import Function
from .cli_platform import Platform, Program, running

BIN = Path(sys.executable).parent
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(hearth completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(hearth completion zsh)"'),
}


@pytest.fixture(scope="module")
def hearth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with running(tmp_path_factory.mktemp("platform")) as platform:
        hearth = Program(platform.url, tmp_path_factory.mktemp("home"))
        hearth.register()
        serve(platform)
        yield hearth


def serve(platform: Platform) -> None:
    for name in ("thumbnails", "thermometer", "invoices"):
        platform.functions.known["ann", name] = Function("ann", FunctionConfig(name, "python"))


class Terminal:
    """An interactive shell on a terminal of its own."""

    def __init__(self, shell: str, hearth: Program) -> None:
        if shutil.which(shell) is None:
            pytest.skip(f"there is no {shell}")
        argv, setup = SHELLS[shell]
        env = hearth.env | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "TERM": "dumb",
            "PS1": "$ ",
            "COLUMNS": "200",
        }
        self.pid, self.fd = pty.fork()
        if self.pid == 0:  # the child does nothing but exec
            os.chdir(hearth.folder)
            os.execvpe(argv[0], argv, env)
        self.seen = b""
        self.type(f"{setup}; echo SET''UP\n")
        self.until("SETUP\r\n")

    def type(self, text: str) -> None:
        self.seen = b""
        os.write(self.fd, text.encode())

    def until(self, *texts: str) -> None:
        """Wait until the terminal shows all these."""
        while not all(text.encode() in self.seen for text in texts):
            ready, _, _ = select.select([self.fd], [], [], 60)
            assert ready, f"never shown: {texts}; shown: {self.seen!r}"
            self.seen += os.read(self.fd, 65536)

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@contextmanager
def terminal(shell: str, hearth: Program) -> Iterator[Terminal]:
    opened = Terminal(shell, hearth)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_tab(shell: str, hearth: Program) -> None:
    with terminal(shell, hearth) as person:
        for typed, shown in (
            ("hearth des\t", "describe "),  # a command
            ("hearth use an\t", "ann "),  # a namespace
            ("hearth invoke inv\t", "invoices "),  # a function
            ("serverless-cli invoke ann/inv\t", "ann/invoices "),
            ("hearth invoke --namespace=an\t", "--namespace=ann"),
            ("hearth logs --fol\t", "--follow "),  # an option
            ("hearth keys create --allow dep\t", "deploy "),  # a choice
        ):
            person.type(typed)
            person.until(shown)
            person.type("\x15")  # Ctrl-U: away with the line
        person.type("hearth invoke th\t\t")
        person.until("thumbnails", "thermometer")


def complete(hearth: Program, line: str, **env: str) -> tuple[list[str], str, int]:
    """What a script of bash's asks, and is told."""
    words = line.split(" ")
    asked = {
        "_HEARTH_COMPLETE": "bash_complete",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [BIN / "hearth"],
        env=hearth.env | asked | env,
        cwd=hearth.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return [row.partition(",")[2] for row in done.stdout.splitlines()], done.stderr, done.returncode


def test_what_is_given_on_the_line_decides(hearth: Program) -> None:
    assert complete(hearth, "hearth invoke i")[0] == ["invoices"]
    assert complete(hearth, "hearth invoke --namespace nowhere i")[0] == []
    assert complete(hearth, "hearth --namespace nowhere invoke i")[0] == []
    assert complete(hearth, "hearth invoke i", HEARTH_NAMESPACE="nowhere")[0] == []
    assert complete(hearth, "hearth invoke -f i")[0] == ["i"]  # the shell's own files
    assert {"deploy-function", "list"} <= set(complete(hearth, "hearth ")[0])
    assert "deploy" in complete(hearth, "hearth dep")[0]
    assert complete(hearth, "hearth nonsense i")[1:] == ("", 0)
    assert set(complete(hearth, "hearth keys ")[0]) == {"create", "list", "revoke"}


def test_failures_are_silent(hearth: Program, tmp_path: Path) -> None:
    stranger = Program(hearth.env["HEARTH_SERVER"], tmp_path)
    assert complete(stranger, "hearth invoke i") == ([], "", 0)  # not logged in
    assert complete(hearth, "hearth invoke i", HEARTH_SERVER="http://127.0.0.1:9") == ([], "", 0)
    assert complete(hearth, "hearth invoke i", HEARTH_SERVER="nonsense") == ([], "", 0)
    assert complete(hearth, "hearth invoke i", HEARTH_TOKEN="hk_wrong") == ([], "", 0)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and says nothing
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        assert complete(hearth, "hearth invoke i", HEARTH_SERVER=url, HEARTH_TOKEN="hk_x") == ([], "", 0)
    stranger.config.mkdir(parents=True)
    (stranger.config / "credentials.json").write_text("nonsense")
    assert complete(stranger, "hearth invoke i") == ([], "", 0)


def test_the_scripts(hearth: Program) -> None:
    for shell in ("bash", "zsh", "fish"):
        text = hearth("completion", shell).stdout
        assert "_HEARTH_COMPLETE" in text and "serverless-cli" in text
    assert hearth("completion", "zsh").stdout.lstrip().startswith("#compdef hearth serverless-cli\n")
    assert "compdef _hearth_completion hearth serverless-cli\n" in hearth("completion", "zsh").stdout
    assert "is not one of" in hearth("completion", "csh", code=2).stderr
    done = subprocess.run(["bash", "-n"], input=hearth("completion", "bash").stdout, text=True, check=False)
    assert done.returncode == 0
