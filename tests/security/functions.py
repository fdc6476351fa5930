"""Real functions in real slots: what a runtime starts, spoken to by the platform's own end of the guest protocol.

The way of an instance, step by step, so that a test can look between two steps: start, connect, hello, attach, load, requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hearth.bootstrap.child import SystemClock
from hearth.core.function import FunctionConfig
from hearth.core.launch import Attachment, Handle, Limits, Network, SandboxSpec, Toolchain
from hearth.guest.factory import StreamGuests
from hearth.ports.guest import Guest
from hearth.ports.runtime import Runtime
from tests.contract.driver_cases import Rig, fresh, read_some, soon
from tests.integration.guest_peer import Listener
from tests.patience import patient

# Each runs what it is sent: the hostile function of every test. Python's `result` and Node's return value are answered.
PYTHON = """
import json
def handler(event, context):
    names = {}
    exec(event["body"], names)
    return {"statusCode": 200, "body": json.dumps(names.get("result"))}
"""
NODE = """
import { createRequire } from 'node:module';
const Program = (async () => {}).constructor;
export const handler = async (event) => {
  const result = await new Program('require', event.body)(createRequire(import.meta.url));
  return { statusCode: 200, body: JSON.stringify(result ?? null) };
};
"""
# Go has no eval: a request's body is a JSON object of paths to read, list and write, and an environment to show.
GO = """
package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
)

func word(err error) string {
	if err == nil {
		return "ok"
	}
	text := err.Error()
	return text[strings.LastIndex(text, ": ")+2:]
}

func Handler(w http.ResponseWriter, r *http.Request) {
	var asked struct{ Read, List, Links, Write, Run []string }
	json.NewDecoder(r.Body).Decode(&asked)
	told := map[string]any{"env": os.Environ(), "pid": os.Getpid(), "uid": os.Getuid()}
	for _, path := range asked.Read {
		text, err := os.ReadFile(path)
		told[path] = string(text)
		if err != nil {
			told[path] = word(err)
		}
	}
	for _, path := range asked.List {
		names := []string{}
		entries, _ := os.ReadDir(path)
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		told[path] = names
	}
	for _, path := range asked.Links {
		links := []string{}
		entries, _ := os.ReadDir(path)
		for _, entry := range entries {
			if link, err := os.Readlink(path + "/" + entry.Name()); err == nil {
				links = append(links, link)
			}
		}
		told[path] = links
	}
	for _, path := range asked.Write {
		told[path] = word(os.WriteFile(path, []byte("x"), 0o666))
	}
	for _, path := range asked.Run {
		out, err := exec.Command(path).CombinedOutput()
		told[path] = string(out) + word(err)
	}
	json.NewEncoder(w).Encode(told)
}
"""


@dataclass(frozen=True)
class Language:
    """One kind of slot.

    Args:
        runtime: what starts and loads it.
        toolchain: of the slot.
        code: a folder with what a build of the hostile function would give.
        fetched: the folder in which the toolchain's mount is, where it is no system's.
    """

    runtime: Runtime
    toolchain: Toolchain
    code: Path
    fetched: Path | None = None

    @property
    def folders(self) -> dict[str, Path]:
        """For `bubblewrap_rig`: where the slot's mounts are."""
        shims = Path(__file__).parents[2] / "src" / "hearth" / "runtimes" / "shims"
        return {"shim": shims} | ({"toolchain": self.fetched} if self.fetched is not None else {})


@dataclass
class Running:
    """A slot whose runtime has said hello, and what becomes of it."""

    rig: Rig
    language: Language
    handle: Handle
    guest: Guest
    printed: bytearray = field(default_factory=bytearray)

    @property
    def uid(self) -> int:
        uid = self.rig.inner._table.find(self.handle)._uid
        assert isinstance(uid, int)
        return uid

    async def attach(
        self,
        limits: Limits,
        network: Network | None = None,
        given: tuple[tuple[str, bytes], ...] = (),
        artifact: str | None = None,
    ) -> str:
        """Give it the hostile function; returns the artifact's name."""
        artifact = artifact or put(self.rig, self.language.code)
        await self.rig.driver.attach(self.handle, Attachment(artifact, limits, network or Network(), given))
        return artifact

    async def load(self, **settings: Any) -> dict[str, Any]:
        """As the launcher does."""
        config = FunctionConfig(name="evil", runtime=self.language.runtime.name, **settings)
        identity = {"function": "evil", "namespace": "ann", "version": "1"}
        return await self.guest.load(self.language.runtime.load(config, identity), soon())

    async def become(self, limits: Limits | None = None, network: Network | None = None) -> None:
        """Attach and load."""
        await self.attach(limits or Limits(), network)
        await self.load()

    async def run(self, body: str | dict[str, Any]) -> Any:
        """One request whose body is run; returns what it answers."""
        data = (json.dumps(body) if isinstance(body, dict) else body).encode()
        head = f"inv_1\n30000\nPOST\n/\n/fn/ann/evil\n\n127.0.0.1\nhttp\ncontent-type:text/plain\ncontent-length:{len(data)}"
        heard = Listener()
        self.guest.request(head.encode(), data, True, heard)
        async with asyncio.timeout(patient(30)):
            await heard.over.wait()
        assert heard.error is None, (heard.error, heard.detail, bytes(self.printed))
        assert heard.status == 200, heard.body
        return json.loads(heard.body)


async def become_hostile(slot: Running, **more: Any) -> Path:
    """Attach and load code that everybody may write as far as its modes go; returns the artifact's folder."""
    name = put(slot.rig, slot.language.code)
    folder = slot.rig.folders["artifact"] / name
    folder.chmod(0o777)
    for path in folder.iterdir():
        path.chmod(0o777)
    await slot.attach(Limits(), artifact=name, **more)
    await slot.load()
    return folder


def put(rig: Rig, code: Path) -> str:
    """Lay a built function where the platform keeps artifacts; returns its name."""
    name = "sha256-" + secrets.token_hex(16)
    shutil.copytree(code, rig.folders["artifact"] / name)
    (rig.folders["artifact"] / name).chmod(0o755)
    return name


@asynccontextmanager
async def opened(
    rig: Rig, language: Language, *, networked: bool = False, limits: Limits | None = None
) -> AsyncIterator[Running]:
    """A waiting slot, made as `app.slot.open_slot` makes it; stopped at the end."""
    plan = language.runtime.slot(language.toolchain)
    spec = SandboxSpec(
        id=fresh("sandbox"),
        owner=rig.owner,
        argv=plan.argv,
        env=plan.env,
        mounts=plan.mounts,
        limits=limits or Limits(),
        networked=networked,
    )
    handle = await rig.driver.start(spec, soon())
    printed = bytearray()
    readers = [asyncio.create_task(_drain(fd, printed)) for fd in rig.driver.output(handle)]
    guest: Guest | None = None
    closed = asyncio.Event()
    try:
        try:
            fd = await rig.driver.connect(handle, soon())
            guest = await StreamGuests(SystemClock()).open(fd, soon(), _printer(printed), closed.set)
        except BaseException as error:
            error.add_note(printed.decode("utf-8", "replace"))
            raise
        yield Running(rig, language, handle, guest, printed)
    finally:
        if guest is not None:
            guest.close()
            await closed.wait()
        await rig.driver.stop(handle, 0)
        await asyncio.gather(*readers)


def _printer(printed: bytearray) -> Callable[[str | None, str, int, str, str], None]:
    return lambda invocation, stream, at, level, text: printed.extend(text.encode() + b"\n")


async def _drain(fd: int, printed: bytearray) -> None:
    try:
        while data := await read_some(fd):
            printed.extend(data)
    finally:
        os.close(fd)
