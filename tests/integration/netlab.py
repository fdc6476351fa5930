"""A small world in network namespaces, for tests of networks: this thread's "host", and an "internet" behind it.

The test's thread moves into a namespace of its own, so the machine's real network is never touched. Threads that are
made meanwhile live in it as well. The internet's namespace has every address that the tests dial: public ones, private
ones, a metadata service; each answers on each port of `PORTS` by TCP with its own address.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

PUBLIC = "93.184.216.34"
OTHER_PUBLIC = "93.184.216.35"
METADATA = "169.254.169.254"
PRIVATE = ("10.0.0.5", "172.16.0.9", "192.168.1.9", "100.64.0.9")
WAN = "203.0.113.2"  # the host's own address
PORTS = (8080, 443)
_CLONE_NEWNET = 0x40000000

_SERVE = """
import socket, threading, sys
def answer(peer):
    with peer:
        peer.sendall((peer.getsockname()[0] + "|" + peer.getpeername()[0] + "\\n").encode())
        while (data := peer.recv(4096)): peer.sendall(data)
def listen(port):
    sock = socket.socket(); sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", port)); sock.listen(1024)
    while True:
        peer, _ = sock.accept(); threading.Thread(target=answer, args=(peer,), daemon=True).start()
for port in map(int, sys.argv[1:]): threading.Thread(target=listen, args=(port,), daemon=True).start()
print("up", flush=True); sys.stdin.read()
"""

_AGENT = """
import socket, sys, json, struct, threading
kept = []
def dial(address, port, timeout=3.0):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM); sock.settimeout(timeout)
    try:
        sock.connect((address, port)); said = sock.recv(100).decode().strip()
    except OSError as error:
        sock.close(); return type(error).__name__, None
    return said, sock
def udp(address, port, data="x", timeout=3.0):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect((address, port)); sock.send(data.encode()); return sock.recv(512).decode()
        except OSError as error:
            return type(error).__name__
def dns(server, question):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(bytes.fromhex(question), (server, 53)); return sock.recv(2000).hex()
def keep(address, port):
    said, sock = dial(address, port)
    kept.append(sock); return said
def echo(index=0):
    try:
        kept[index].sendall(b"again"); return kept[index].recv(5).decode()
    except OSError as error:
        return type(error).__name__
def many(address, port, count):
    socks = []
    for _ in range(count):
        said, sock = dial(address, port)
        if sock: socks.append(sock)
    reached = len(socks)
    for sock in socks: sock.close()
    return reached
def forge(source, address, port):
    # root in the namespace: what no sandbox may do, to see that the host drops it
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        udp = struct.pack("!HHHH", 5555, port, 8 + 4, 0) + b"evil"
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(address))
        sock.sendto(head + udp, (address, 0)); return "sent"
def listen(port):
    server = socket.create_server(("0.0.0.0", port), backlog=8)
    def greet():
        while True:
            peer, _ = server.accept(); peer.sendall((peer.getsockname()[0] + "|").encode()); peer.close()
    threading.Thread(target=greet, daemon=True).start(); return "up"
verbs = {"tcp": lambda *a: dial(*a)[0], "udp": udp, "keep": keep, "echo": echo, "many": many, "forge": forge,
         "ipv6": lambda: open("/proc/sys/net/ipv6/conf/all/disable_ipv6").read().strip(),
         "listen": listen, "dns": dns}
print("ready", flush=True)
for line in sys.stdin:
    verb, *args = json.loads(line); print(json.dumps(verbs[verb](*args)), flush=True)
"""


class Guest:
    """A process alone in a network namespace, which does what it is told; stands for a sandbox.

    Args:
        own: in a user namespace too, as an ordinary user's are.
    """

    def __init__(self, own: bool = False) -> None:
        self._process = subprocess.Popen(
            [
                "unshare",
                *(["--user", "--map-root-user"] if own else []),
                "--net",
                sys.executable,
                "-I",
                "-S",
                "-c",
                _AGENT,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, *order: object) -> object:
        """Have it do something and return what it says; errors come as the name of their class."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()


@dataclass(frozen=True)
class World:
    """The internet's process id, for commands that run in its namespace."""

    internet: int

    def run_there(self, command: str) -> str:
        return run(f"nsenter -t {self.internet} -n {command}")


def run(command: str) -> str:
    """Run a command in this thread's namespace; returns what it prints. Raises when it fails."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def own_namespace() -> Iterator[None]:
    """Move this thread into a fresh network namespace, and back."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(_CLONE_NEWNET) == 0
    try:
        run("ip link set lo up")
        yield
    finally:
        assert libc.setns(home, _CLONE_NEWNET) == 0
        os.close(home)


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Make the world; this thread is its host until the end."""
    with own_namespace():
        internet = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-I", "-S", "-c", _SERVE, *map(str, PORTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        host = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SERVE, *map(str, PORTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            for process in (internet, host):
                assert process.stdout is not None and process.stdout.readline() == "up\n"
            there = f"nsenter -t {internet.pid} -n "
            run(f"ip link add wan0 type veth peer name far0 netns {internet.pid}")
            run(f"ip addr add {WAN}/24 dev wan0")
            run("ip link set wan0 up")
            run(there + "ip link set lo up")
            run(there + "ip link set far0 up")
            for address in (
                "203.0.113.1/24",
                *(f"{a}/32" for a in (PUBLIC, OTHER_PUBLIC, METADATA, *PRIVATE)),
            ):
                run(there + f"ip addr add {address} dev far0")
            run("ip route add default via 203.0.113.1")
            yield World(internet.pid)
        finally:
            for process in (internet, host):
                process.kill()
                assert process.stdin is not None and process.stdout is not None
                process.stdin.close()
                process.stdout.close()
                process.wait()
