"""What runs in a Go slot until it is given a version: says hello, waits for `load`, becomes the function's binary.

Speaks the guest protocol (docs/reference/guest-protocol.md) up to `load` and hands the connection over: the binary
finds its descriptor and what was agreed in HEARTH_GUEST, and answers `ready` itself. Run by the system's Python as
`python3 -I -S launcher.py`; standard library only, and little of it, since slots wait in memory.
"""

import json
import math
import os
import socket
import struct
import sys

HELLO, LOAD, INIT_ERROR, DRAIN, PING, PONG, LOG_WINDOW = 1, 2, 4, 13, 14, 15, 17
MAX_PAYLOAD = 1 << 20
WINDOW = 256 << 10  # as hearthshim has it
SLOT = "/hearth"  # where a sandbox has its slot
GO_SHARE = 0.9  # of the function's memory that Go's collector aims to stay within


class Ended(Exception):
    """The host is gone, has broken the protocol, or wants us to go."""


def main():
    slot = os.environ.pop("HEARTH_SLOT_DIR", SLOT)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.path.join(slot, "guest.sock"))
        hello = {"version": 1, "runtime": "go", "runtime_version": "", "features": [], "window": WINDOW}
        send(connection, HELLO, json.dumps(hello | {"pid": os.getpid()}).encode())
        agreed, told = wait_for_load(connection)
    except (Ended, OSError, ValueError) as error:
        sys.stderr.write(f"hearth: {error or type(error).__name__}\n")
        return 1
    code = told.get("code") or f"{SLOT}/code"
    if code.startswith(SLOT + "/"):  # outside a sandbox the slot is elsewhere
        code = slot + code.removeprefix(SLOT)
    try:
        become(connection, agreed, told, code)
    except OSError as error:
        send(connection, INIT_ERROR, json.dumps(init_error(error, code)).encode())
    return 1


def wait_for_load(connection):
    """({window, log_window} of the host, the load payload). Reads not one byte beyond: the rest is the binary's."""
    agreed = None
    while True:
        length, kind, _, _ = struct.unpack(">IBBI", read(connection, 10))
        if length > MAX_PAYLOAD:
            raise Ended(f"the host sent a frame of {length} bytes")
        payload = read(connection, length)
        if kind == HELLO and agreed is None:
            hello = json.loads(payload)
            if hello.get("version") != 1:
                raise Ended(f"the host speaks version {hello.get('version')} of the protocol")
            agreed = {"window": hello.get("window", 0), "log_window": hello.get("log_window", 0)}
        elif kind == LOAD and agreed is not None:
            return agreed, json.loads(payload)
        elif kind == LOG_WINDOW and agreed is not None and length == 4:
            agreed["log_window"] += struct.unpack(">I", payload)[0]
        elif kind == PING and length <= 64:
            send(connection, PONG, payload)
        elif kind == DRAIN:
            raise SystemExit(0)
        elif kind <= LOG_WINDOW and kind != PONG:
            raise Ended(f"the host broke the protocol: a frame of type {kind} before load")


def become(connection, agreed, told, code):
    """Replace this process by the function. Raises OSError when that can't be."""
    os.chdir(code)
    env = dict(os.environ)
    # Go sees the machine's cores and memory, not the sandbox's.
    if told.get("cpu"):
        env["GOMAXPROCS"] = str(max(1, math.ceil(told["cpu"])))
    if told.get("memory_mb"):
        env["GOMEMLIMIT"] = f"{int(told['memory_mb'] * GO_SHARE * 1024)}KiB"
    env.update({str(key): str(value) for key, value in told.get("env", {}).items()})
    env["HEARTH_GUEST"] = json.dumps(agreed | {"fd": connection.fileno()})
    connection.set_inheritable(True)
    binary = os.path.join(code, "function")
    os.execve(binary, [binary], env)


def init_error(error, code):
    message = f"the function's binary can't be started: {error.strerror}"
    return {
        "type": type(error).__name__,
        "message": message,
        "traceback": message,
        "file": None,
        "line": None,
    }


def send(connection, kind, payload):
    connection.sendall(struct.pack(">IBBI", len(payload), kind, 0, 0) + payload)


def read(connection, count):
    parts = []
    while count > 0:
        part = connection.recv(min(count, 65536))
        if not part:
            raise SystemExit(0)  # the host has gone: so do we
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    sys.exit(main())
