"""Writes guest_vectors.json. Independent of the codec under test: only `struct` and the page's words.

python tests/contract/make_guest_vectors.py
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

END = 1
ABOUT = [
    "Test vectors of the guest protocol, docs/reference/guest-protocol.md. Bytes are hex.",
    "codec: feed `reads` one after the other to a fresh decoder; it must give exactly `frames`, then stand in",
    "`violation` (or not); `left` is the number of bytes of an unfinished frame that it still holds.",
    "request_heads: what a shim must read from a request head.",
    "response_heads: what the host makes of a response head; `nonsense`: refused. Hop-by-hop headers are gone.",
    "guest_sessions: run against a real shim that has said hello (window 262144), was greeted by a host hello with",
    "window 262144 and log_window 1048576, and has loaded, at concurrency 4, a handler `echo` that answers 200,",
    "content-type application/octet-stream, with the bytes of the request's body. Steps, in order:",
    "  send: parts to write, each hex or {repeat: hex of a byte, times: n}",
    "  answer: read until stream's END; status and whole body (hex or {repeat, times}) must be these; window frames",
    "          and logs in between are passed over",
    "  credit: read until window frames on the stream add up to at least `bytes`",
    "  held: read until exactly `bytes` of the stream's body have come; then nothing more of it for 50 ms",
    "  pong: a pong with this payload comes next (logs passed over)",
    "  closed: the shim closes the connection and its process ends",
    "host_sessions: run against the host side. The test plays the guest: it has said hello and ready, and the host",
    "has sent one request (`method`, no body, END) on stream 1. `send` is what the guest then writes; the exchange",
    "must hear `response` (status, body) or `failed` (code of core.errors); `closed`: whether the host hangs up.",
]


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">IBBI", len(payload), kind, flags, stream) + payload


def headed(kind: int, stream: int, head: bytes, body: bytes = b"", flags: int = END) -> bytes:
    return frame(kind, stream, struct.pack(">I", len(head)) + head + body, flags)


def request(stream: int, body: bytes = b"", flags: int = END, method: str = "POST", more: str = "") -> bytes:
    return headed(5, stream, head(method=method, more=more), body, flags)


def head(
    method: str = "POST",
    target: str = "/orders?id=7",
    prefix: str = "/fn/ann/hello",
    caller: str = "user:usr_01jd",
    client: str = "203.0.113.9",
    scheme: str = "https",
    more: str = "\ncontent-type:application/octet-stream",
) -> bytes:
    return f"inv_01jd\n29985\n{method}\n{target}\n{prefix}\n{caller}\n{client}\n{scheme}{more}".encode(
        "latin-1"
    )


def shown(data: bytes) -> list[dict[str, Any]]:
    """Frames of well-formed bytes."""
    found = []
    at = 0
    while at < len(data):
        length, kind, flags, stream = struct.unpack_from(">IBBI", data, at)
        payload = data[at + 10 : at + 10 + length]
        found.append({"type": kind, "flags": flags, "stream": stream, "payload": payload.hex()})
        at += 10 + length
    return found


def codec() -> list[dict[str, Any]]:
    hello = frame(1, 0, b'{"version":1,"features":[],"window":262144}')
    answer = headed(6, 1, b"200\ncontent-type:text/plain", b"hello")
    many = hello + answer + frame(14, 0, b"are you there") + frame(11, 1, struct.pack(">I", 65536))
    unknown = frame(99, 7, b"from the future")
    vectors: list[dict[str, Any]] = []

    def case(name: str, reads: list[bytes], good: bytes, violation: bool = False, left: int = 0) -> None:
        vectors.append(
            {
                "name": name,
                "reads": [read.hex() for read in reads],
                "frames": shown(good),
                "violation": violation,
                "left": left,
            }
        )

    case("one frame in one read", [hello], hello)
    case("an empty payload", [frame(13, 0)], frame(13, 0))
    case("four frames in one read", [many], many)
    case("byte by byte", [many[i : i + 1] for i in range(len(many))], many)
    case("cut inside the header", [hello[:4], hello[4:9], hello[9:]], hello)
    case("cut between header and payload", [hello[:10], hello[10:]], hello)
    case("cut inside the second frame", [many[: len(hello) + 13], many[len(hello) + 13 :]], many)
    case("unfinished", [hello + answer[:20]], hello, left=20)
    case("an unknown type is skipped", [hello + unknown + answer], hello + answer)
    case("type 0 is unknown", [frame(0, 0, b"x") + hello], hello)
    case("an unknown type cut in two", [unknown[:12], unknown[12:] + answer], answer)
    case("other flags are kept as read", [frame(7, 1, b"x", 0xFF)], frame(7, 1, b"x", 0xFF))
    case("the largest stream number", [frame(7, 0xFFFFFFFF, b"x")], frame(7, 0xFFFFFFFF, b"x"))
    case("too long by one", [struct.pack(">IBBI", (1 << 20) + 1, 7, 0, 1)], b"", violation=True)
    case("absurdly long", [struct.pack(">IBBI", 0xFFFFFFFF, 7, 0, 1) + b"xx"], b"", violation=True)
    case(
        "an unknown type may not be too long",
        [struct.pack(">IBBI", (1 << 20) + 1, 99, 0, 1)],
        b"",
        violation=True,
    )
    case("a frame before the violation counts", [hello + b"\xff" * 10 + answer], hello, violation=True)
    return vectors


def request_heads() -> list[dict[str, Any]]:
    def case(name: str, data: bytes, headers: list[list[str]], **fields: str) -> dict[str, Any]:
        parts = data.decode("latin-1").split("\n")[:8]
        names = ("invocation", "deadline_ms", "method", "target", "prefix", "caller", "client", "scheme")
        told = dict(zip(names, parts, strict=True)) | fields
        return {"name": name, "head": data.hex(), **told, "headers": headers}

    return [
        case("with a header", head(), [["content-type", "application/octet-stream"]]),
        case("without headers", head(more=""), []),
        case("an empty prefix and caller", head(prefix="", caller="", more=""), []),
        case(
            "colons, repeats, an empty value and ISO-8859-1",
            head(more="\nx-a:1:2\nx-b:\nx-a:caf\xe9\ncookie:a=1; b=2"),
            [["x-a", "1:2"], ["x-b", ""], ["x-a", "caf\xe9"], ["cookie", "a=1; b=2"]],
        ),
        case(
            "a target as received",
            head(target="/a%2Fb/%C3%A9//?q=%20&q=+&r"),
            [["content-type", "application/octet-stream"]],
        ),
    ]


def response_heads() -> list[dict[str, Any]]:
    def good(
        name: str, data: bytes, status: int, headers: list[list[str]], length: int = -1
    ) -> dict[str, Any]:
        return {"name": name, "head": data.hex(), "status": status, "headers": headers, "length": length}

    def bad(name: str, data: bytes) -> dict[str, Any]:
        return {"name": name, "head": data.hex(), "nonsense": True}

    return [
        good("only a status", b"204", 204, []),
        good("a header", b"200\ncontent-type:text/plain", 200, [["content-type", "text/plain"]]),
        good("an empty value", b"200\nx-a:", 200, [["x-a", ""]]),
        good("bytes above ASCII", b"200\nx-a:caf\xe9", 200, [["x-a", "caf\xe9"]]),
        good("a content-length", b"200\ncontent-length:5", 200, [["content-length", "5"]], 5),
        good(
            "repeated cookies",
            b"200\nset-cookie:a=1\nset-cookie:b=2",
            200,
            [["set-cookie", "a=1"], ["set-cookie", "b=2"]],
        ),
        good(
            "hop-by-hop headers",
            b"200\nconnection:close, x-mine\nx-mine:1\nkeep-alive:5\ntransfer-encoding:chunked\nupgrade:h2c\nte:x\nx-b:2",
            200,
            [["x-b", "2"]],
        ),
        good("the largest status", b"599\nx-a:1", 599, [["x-a", "1"]]),
        bad("nothing", b""),
        bad("no number", b"abc\nx-a:1"),
        bad("two digits", b"99"),
        bad("four digits", b"2000\nx-a:1"),
        bad("informational", b"101"),
        bad("too large", b"600"),
        bad("a sign", b"+20"),
        bad("a reason phrase", b"200 OK\nx-a:1"),
        bad("an upper-case name", b"200\nX-A:1"),
        bad("no colon", b"200\nx-a"),
        bad("an empty name", b"200\n:1"),
        bad("a space in a name", b"200\nx a:1"),
        bad("a space before the colon", b"200\nx-a :1"),
        bad("an empty line", b"200\n\nx-a:1"),
        bad("a line break at the end", b"200\nx-a:1\n"),
        bad("a carriage return", b"200\nx-a:1\rset-cookie:b=2"),
        bad("a NUL", b"200\nx-a:1\0"),
        bad("two content-lengths", b"200\ncontent-length:1\ncontent-length:1"),
        bad("a list in content-length", b"200\ncontent-length:1, 1"),
        bad("a negative content-length", b"200\ncontent-length:-1"),
        bad("a name above ASCII", b"200\nx-\xe9:1"),
    ]


def guest_sessions() -> list[dict[str, Any]]:
    def repeat(byte: str, times: int) -> dict[str, Any]:
        return {"repeat": byte, "times": times}

    def send(*parts: Any) -> dict[str, Any]:
        return {"send": [part.hex() if isinstance(part, bytes) else part for part in parts]}

    def answer(stream: int, body: Any = "", status: int = 200) -> dict[str, Any]:
        return {"answer": {"stream": stream, "status": status, "body": body}}

    def start(stream: int, size: int, flags: int = 0) -> bytes:
        """A request frame whose `size` body bytes are yet to be written."""
        told = head()
        return struct.pack(">IBBII", 4 + len(told) + size, 5, flags, stream, len(told)) + told

    def window(stream: int, credit: int) -> bytes:
        return frame(11, stream, struct.pack(">I", credit))

    ok = [send(request(7, b"still here")), answer(7, b"still here".hex())]
    whole = request(1, b"slowly")
    return [
        {"name": "an empty body", "steps": [send(request(1, method="GET")), answer(1)]},
        {
            "name": "a body in the request frame",
            "steps": [send(request(1, b"\x00\xff body")), answer(1, b"\x00\xff body".hex())],
        },
        {
            "name": "a body in several frames, END alone",
            "steps": [
                send(request(1, b"one ", 0), frame(7, 1, b"two "), frame(7, 1, b"three")),
                send(frame(7, 1, b"", END)),
                answer(1, b"one two three".hex()),
            ],
        },
        {
            "name": "byte by byte",
            "steps": [*(send(whole[i : i + 1]) for i in range(len(whole))), answer(1, b"slowly".hex())],
        },
        {
            "name": "two streams interleaved",
            "steps": [
                send(request(1, b"a", 0), request(2, b"x", 0), frame(7, 1, b"b", END)),
                answer(1, b"ab".hex()),
                send(frame(7, 2, b"y", END)),
                answer(2, b"xy".hex()),
            ],
        },
        {
            "name": "stream numbers may leave gaps",
            "steps": [send(request(3, b"three")), answer(3, b"three".hex()), *ok],
        },
        {
            "name": "ping",
            "steps": [
                send(frame(14, 0, b"")),
                {"pong": ""},
                send(frame(14, 0, b"p" * 64)),
                {"pong": (b"p" * 64).hex()},
            ],
        },
        {
            "name": "unknown types are skipped",
            "steps": [send(frame(99, 0, b"x" * 100), frame(200, 1, b"y")), *ok],
        },
        {
            "name": "frames for an ended stream are ignored",
            "steps": [
                send(request(1, b"a")),
                answer(1, b"a".hex()),
                send(frame(7, 1, b"late", END), window(1, 10), frame(10, 1, b'{"reason":"client_gone"}')),
                *ok,
            ],
        },
        {
            "name": "a cancelled request gets no answer",
            "steps": [send(request(1, b"a", 0), frame(10, 1, b'{"reason":"client_gone"}')), *ok],
        },
        {
            "name": "a window holds a large answer",
            "steps": [
                send(start(1, 262144), repeat("61", 262144)),
                {"credit": {"stream": 1, "bytes": 65536}},
                send(frame(7, 1, b"b" * 1000, END)),
                {"held": {"stream": 1, "bytes": 262144}},
                send(request(2, b"another stream goes on")),
                answer(2, b"another stream goes on".hex()),
                send(window(1, 600)),
                {"held": {"stream": 1, "bytes": 262744}},
                send(window(1, 1000)),
                answer(1, [repeat("61", 262144), repeat("62", 1000)]),
            ],
        },
        {
            "name": "more than the window allows",
            "steps": [send(start(1, 262145), repeat("61", 262145)), {"closed": True}],
        },
        {
            "name": "a window that overflows",
            "steps": [send(request(1, b"", 0), window(1, 0xFFFFFFFF)), {"closed": True}],
        },
        {
            "name": "a malformed window",
            "steps": [send(request(1, b"", 0), frame(11, 1, b"\x00")), {"closed": True}],
        },
        {
            "name": "too long a frame",
            "steps": [send(struct.pack(">IBBI", (1 << 20) + 1, 7, 0, 1)), {"closed": True}],
        },
        {
            "name": "a body for a stream that never existed",
            "steps": [send(frame(7, 9, b"x")), {"closed": True}],
        },
        {
            "name": "a stream number used twice",
            "steps": [send(request(1)), answer(1), send(request(1)), {"closed": True}],
        },
        {
            "name": "a head longer than its frame",
            "steps": [send(frame(5, 1, b"\x00\x00\x10\x00abc", END)), {"closed": True}],
        },
        {"name": "a request without a head", "steps": [send(frame(5, 1, b"\x00", END)), {"closed": True}]},
        {
            "name": "a head without its eight lines",
            "steps": [send(headed(5, 1, b"inv\n100\nGET")), {"closed": True}],
        },
        {"name": "a second load", "steps": [send(frame(2, 0, b"{}")), {"closed": True}]},
        {"name": "drain when idle", "steps": [send(frame(13, 0)), {"closed": True}]},
        {
            "name": "drain finishes what is in work",
            "steps": [
                send(request(1, b"a", 0), frame(13, 0)),
                send(frame(7, 1, b"b", END)),
                answer(1, b"ab".hex()),
                {"closed": True},
            ],
        },
    ]


def host_sessions() -> list[dict[str, Any]]:
    def case(
        name: str, sent: bytes, *, closed: bool = False, method: str = "GET", **outcome: Any
    ) -> dict[str, Any]:
        return {"name": name, "method": method, "send": sent.hex(), **outcome, "closed": closed}

    def response(status: int, body: bytes = b"") -> dict[str, Any]:
        return {"response": {"status": status, "body": body.hex()}}

    text = b"200\ncontent-type:text/plain"
    nonsense = {"failed": "function_bad_response"}
    failed = {"failed": "function_failed"}
    return [
        case("one frame", headed(6, 1, text, b"hello"), **response(200, b"hello")),
        case(
            "a body in two frames",
            headed(6, 1, text, b"he", 0) + frame(7, 1, b"llo", END),
            **response(200, b"hello"),
        ),
        case("END alone", headed(6, 1, text, b"hello", 0) + frame(7, 1, b"", END), **response(200, b"hello")),
        case(
            "trailers end it",
            headed(6, 1, text, b"x", 0) + frame(8, 1, b"x-sum:1", END),
            **response(200, b"x"),
        ),
        case("unknown frames between", frame(77, 1, b"?") + headed(6, 1, text, b"x"), **response(200, b"x")),
        case(
            "content-length that fits", headed(6, 1, b"200\ncontent-length:2", b"ab"), **response(200, b"ab")
        ),
        case(
            "content-length and HEAD", headed(6, 1, b"200\ncontent-length:2"), method="HEAD", **response(200)
        ),
        case("content-length and 304", headed(6, 1, b"304\ncontent-length:2"), **response(304)),
        case("less than content-length", headed(6, 1, b"200\ncontent-length:3", b"ab"), **nonsense),
        case("more than content-length", headed(6, 1, b"200\ncontent-length:1", b"ab"), **nonsense),
        case(
            "the handler raised",
            frame(9, 1, b'{"type":"ValueError","message":"no","traceback":""}'),
            **failed,
        ),
        case("an error that says nothing", frame(9, 1, b"{}"), **failed),
        case("a malformed head", headed(6, 1, b"200\nBad Name:1"), **nonsense),
        case("a body before the head", frame(7, 1, b"x"), **nonsense),
        case("the guest gives up", frame(10, 1, b'{"reason":"cannot"}'), **nonsense),
        case("an upgrade that nobody asked for", headed(12, 1, b"101"), **nonsense),
        case("a malformed error", frame(9, 1, b"not json"), closed=True, **nonsense),
        case(
            "a head longer than its frame", frame(6, 1, b"\x00\x00\x10\x00abc", END), closed=True, **nonsense
        ),
        case("no head at all", frame(6, 1, b"\x00", END), closed=True, **nonsense),
        case("a stream that never existed", headed(6, 5, text, b"x"), closed=True, **nonsense),
        case("too long a frame", struct.pack(">IBBI", (1 << 20) + 1, 7, 0, 1), closed=True, **nonsense),
        case("more than the window allows", headed(6, 1, text, b"x" * 262145, 0), closed=True, **nonsense),
        case("a window that overflows", frame(11, 1, b"\xff\xff\xff\xff"), closed=True, **nonsense),
        case("a second hello", frame(1, 0, b'{"version":1}'), closed=True, **nonsense),
        case("a second ready", frame(3, 0, b"{}"), closed=True, **nonsense),
        case("a request from a guest", request(1), closed=True, **nonsense),
        case("a malformed log", frame(16, 0, b"{"), closed=True, **nonsense),
    ]


def main() -> None:
    vectors = {
        "version": 1,
        "about": ABOUT,
        "codec": codec(),
        "request_heads": request_heads(),
        "response_heads": response_heads(),
        "guest_sessions": guest_sessions(),
        "host_sessions": host_sessions(),
    }
    # The one vector of 262,145 bytes is written short.
    for session in vectors["host_sessions"]:
        if session["name"] == "more than the window allows":
            prefix = session["send"][: -2 * 262145]
            session["send"] = [prefix, {"repeat": "78", "times": 262145}]
        else:
            session["send"] = [session["send"]]
    path = Path(__file__).with_name("guest_vectors.json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
