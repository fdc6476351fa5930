"""Node as a function under both seccomp filters, the system's and the one that wheels bring: what programs use must work."""

from __future__ import annotations

import asyncio

import pytest

from hearth.core.launch import Limits
from tests.security.conftest import Languages, RigOf
from tests.security.functions import opened
from tests.security.outside import children_of, look, pids_of

pytestmark = pytest.mark.root
KINDS = ["node", pytest.param("node-wheel", marks=pytest.mark.network)]
ROOMY = Limits(memory=512 << 20, cpu=2.0)

PARTS = {
    "worker_threads": """
        const { Worker } = require('node:worker_threads');
        const work = (n) => new Promise((resolve, reject) => {
          const worker = new Worker(`const { parentPort, workerData } = require('node:worker_threads');
            const shared = new Int32Array(workerData.shared);
            Atomics.add(shared, 0, workerData.n); Atomics.notify(shared, 0); parentPort.postMessage('done');`,
            { eval: true, workerData: { n, shared } });
          worker.once('message', resolve); worker.once('error', reject);
        });
        const shared = new SharedArrayBuffer(4);
        await Promise.all([1, 2, 3, 4].map(work));
        return new Int32Array(shared)[0];
    """,
    "child_process": """
        const { execFileSync, spawn, fork } = require('node:child_process');
        const { once } = require('node:events');
        const said = execFileSync('/bin/sh', ['-c', 'echo sh; exit 0'], { encoding: 'utf8' }).trim();
        const cat = spawn('cat', { stdio: ['pipe', 'pipe', 'inherit'] });
        cat.stdin.end('piped');
        let piped = '';
        for await (const chunk of cat.stdout) piped += chunk;
        require('node:fs').writeFileSync('/tmp/child.js', "process.send({ pid: process.pid }); process.disconnect();");
        const child = fork('/tmp/child.js');
        const [message] = await once(child, 'message');
        const [code] = await once(child, 'exit');
        return [said, piped, message.pid === child.pid, code];
    """,
    "http": """
        const http = require('node:http');
        const { once } = require('node:events');
        const server = http.createServer((request, response) => { response.end('over http'); });
        server.listen(0, '127.0.0.1'); await once(server, 'listening');
        const answer = await fetch(`http://localhost:${server.address().port}/`);
        const text = await answer.text();
        server.closeAllConnections(); server.close();
        const pipe = require('node:net').createServer((socket) => socket.end('over a socket file'));
        pipe.listen('/tmp/s.sock'); await once(pipe, 'listening');
        let over = '';
        for await (const chunk of require('node:net').connect('/tmp/s.sock')) over += chunk;
        pipe.close();
        return [text, over];
    """,
    "crypto": """
        const crypto = require('node:crypto');
        const { promisify } = require('node:util');
        const key = await promisify(crypto.scrypt)('secret', 'salt', 32);
        const pair = await promisify(crypto.generateKeyPair)('ed25519');
        const signature = crypto.sign(null, Buffer.from('x'), pair.privateKey);
        const subtle = await crypto.subtle.digest('SHA-256', Buffer.from('x'));
        return [key.length, crypto.verify(null, Buffer.from('x'), pair.publicKey, signature),
                crypto.randomBytes(16).length, subtle.byteLength, crypto.randomUUID().length];
    """,
    "wasm": """
        const bytes = new Uint8Array([0,97,115,109,1,0,0,0,1,7,1,96,2,127,127,1,127,3,2,1,0,7,7,1,3,97,100,100,0,0,10,9,1,7,0,32,0,32,1,106,11]);
        const { instance } = await WebAssembly.instantiate(bytes);
        const memory = new WebAssembly.Memory({ initial: 1, maximum: 64, shared: true });
        memory.grow(16);
        return [instance.exports.add(40, 2), memory.buffer.byteLength / 65536];
    """,
    "files": """
        const fs = require('node:fs/promises');
        await fs.mkdir('/tmp/a/b', { recursive: true });
        const watcher = require('node:fs').watch('/tmp/a/b');
        const changed = new Promise((resolve) => watcher.once('change', (kind, name) => resolve(name)));
        await fs.writeFile('/tmp/a/b/f', 'text'); const name = await changed; watcher.close();
        await fs.copyFile('/tmp/a/b/f', '/tmp/a/g'); await fs.rename('/tmp/a/g', '/tmp/a/h');
        const packed = await require('node:util').promisify(require('node:zlib').gzip)('x'.repeat(1e6));
        return [name, await fs.readFile('/tmp/a/h', 'utf8'), packed.length < 10000];
    """,
    "memory": """
        let kept = []; for (let i = 0; i < 50; i++) kept.push(new Array(100000).fill(i));
        kept = kept.map((part) => part.length).reduce((a, b) => a + b);
        let sum = 0; for (let i = 0; i < 3e6; i++) sum = (sum + i * 7) % 1000003;
        return [kept, sum > 0];
    """,
}
ANSWERS = {
    "worker_threads": 10,
    "child_process": ["sh", "piped", True, 0],
    "http": ["over http", "over a socket file"],
    "crypto": [32, True, 16, 32, 36],
    "wasm": [42, 17],
    "files": ["f", "text", True],
    "memory": [5_000_000, True],
}


@pytest.mark.parametrize("kind", KINDS)
async def test_everything_that_programs_use(languages: Languages, rig_of: RigOf, kind: str) -> None:
    language = await asyncio.to_thread(languages, kind)
    rig = await rig_of(language)
    async with opened(rig, language) as slot:
        await slot.become(ROOMY)
        assert {name: await slot.run(code) for name, code in PARTS.items()} == ANSWERS
        assert await look(rig, slot.handle) == set()


@pytest.mark.parametrize("kind", KINDS)
async def test_children_and_threads_are_as_confined_as_the_function(
    languages: Languages, rig_of: RigOf, kind: str
) -> None:
    language = await asyncio.to_thread(languages, kind)
    rig = await rig_of(language)
    async with opened(rig, language) as slot:
        await slot.become(ROOMY)
        child = await slot.run("return require('node:child_process').spawn('/bin/sleep', ['100']).pid")
        assert isinstance(child, int)
        await slot.run(
            "new (require('node:worker_threads').Worker)('setInterval(() => {}, 1000)', { eval: true }); return 1"
        )
        assert len(children_of(pids_of(rig, slot.handle)[1])) == 1
        assert await look(rig, slot.handle) == set()


# What the filters refuse must be refused to Node's own ways of asking as well.
REFUSED = """
    const { execFileSync } = require('node:child_process');
    const tried = (program, ...args) => {
      try { execFileSync(program, args, { stdio: 'pipe' }); return 'ok' } catch (error) { return error.status }
    };
    const setuid = () => { require('node:fs').writeFileSync('/tmp/x', ''); require('node:fs').chmodSync('/tmp/x', 0o4755) };
    const code = (f) => { try { f(); return 'ok' } catch (error) { return error.code } };
    return [tried('/usr/bin/unshare', '-Ur', 'true'), tried('/bin/mount', '-t', 'tmpfs', 'x', '/tmp'),
            code(setuid), code(() => process.setuid(0)), code(() => process.kill(1000000, 0))];
"""


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_refused(languages: Languages, rig_of: RigOf, kind: str) -> None:
    language = await asyncio.to_thread(languages, kind)
    rig = await rig_of(language)
    async with opened(rig, language) as slot:
        await slot.become(ROOMY)
        unshare, mount, *rest = await slot.run(REFUSED)
        assert unshare not in (0, "ok") and mount not in (0, "ok")
        assert rest == ["EPERM", "EINVAL", "ESRCH"]


@pytest.mark.parametrize("kind", KINDS)
async def test_setuid_bits_pass_without_the_second_filter(
    languages: Languages, rig_of: RigOf, kind: str
) -> None:
    """Negative control: it is the filter that refused."""
    language = await asyncio.to_thread(languages, kind)
    rig = await rig_of(language)
    object.__setattr__(rig.inner._machine.filters, "programs", rig.inner._machine.filters.programs[:1])
    async with opened(rig, language) as slot:
        await slot.become(ROOMY)
        assert (await slot.run(REFUSED))[2] == "ok"
