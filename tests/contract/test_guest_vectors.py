"""The codec and the heads against the vectors that every shim passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hearth.protocol.frames import Decoder, frame, split_head
from hearth.protocol.heads import ResponseHead, parse_response_head, request_head

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("guest_vectors.json").read_text())


def cases(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[kind]]


@pytest.mark.parametrize("vector", cases("codec"))
def test_decoder_gives_the_frames(vector: dict[str, Any]) -> None:
    decoder = Decoder()
    found = [got for read in vector["reads"] for got in decoder.feed(bytes.fromhex(read))]
    told = [(f["type"], f["flags"], f["stream"], bytes.fromhex(f["payload"])) for f in vector["frames"]]
    assert found == told
    assert (decoder.violation is not None) == vector["violation"]
    assert vector["violation"] or decoder.buffered == vector["left"]


@pytest.mark.parametrize("vector", [v for v in cases("codec") if len(v.values[0]["reads"]) == 1])  # type: ignore[index]
def test_encoder_writes_the_same_bytes(vector: dict[str, Any]) -> None:
    written = b"".join(
        frame(f["type"], f["stream"], bytes.fromhex(f["payload"]), f["flags"]) for f in vector["frames"]
    )
    known = {"unfinished", "an unknown type is skipped", "type 0 is unknown"}
    if not vector["violation"] and vector["name"] not in known:
        assert written.hex() == vector["reads"][0]


@pytest.mark.parametrize("vector", cases("request_heads"))
def test_request_head_is_written_as_told(vector: dict[str, Any]) -> None:
    written = request_head(
        vector["invocation"],
        int(vector["deadline_ms"]),
        vector["method"],
        vector["target"],
        vector["prefix"],
        vector["caller"],
        vector["client"],
        vector["scheme"],
        [(name.encode("latin-1"), value.encode("latin-1")) for name, value in vector["headers"]],
    )
    assert written.hex() == vector["head"]


@pytest.mark.parametrize("vector", cases("response_heads"))
def test_response_head(vector: dict[str, Any]) -> None:
    got = parse_response_head(bytes.fromhex(vector["head"]))
    if vector.get("nonsense"):
        assert isinstance(got, str)
        return
    assert isinstance(got, ResponseHead)
    fields = [line.split(":", 1) for line in got.fields.decode("latin-1").split("\n") if line]
    assert (got.status, fields, got.length) == (vector["status"], vector["headers"], vector["length"])


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\0\0\0\4abc", b"\xff\xff\xff\xff"])
def test_a_malformed_head_is_not_split(payload: bytes) -> None:
    assert split_head(payload) is None
