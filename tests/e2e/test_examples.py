"""What stands in examples/, deployed as it stands there and called as its README says: with good requests and bad ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable

import pytest

from tests.e2e.examples import EXAMPLES, Deployed, post
from tests.e2e.platform import Platform, until

pytestmark = [pytest.mark.root, pytest.mark.network]
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/function.yaml"))


# --- all of them -------------------------------------------------------------------------------------------------


def test_the_folder_has_what_its_list_says() -> None:
    listed = set(re.findall(r"\]\((\w+)/\)", (EXAMPLES / "README.md").read_text()))
    assert listed == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_readme_says_how_to_deploy_and_to_call(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text()
    assert f"hearth deploy-function -n {name}\n" in text
    assert f"http://127.0.0.1:8080/fn/ann/{name}" in text
    for file in re.findall(rf"\b{name}/([\w.]+\.\w+)", text):
        assert (EXAMPLES / name / file).is_file(), file


@pytest.mark.parametrize("name", NAMES)
def test_every_dependency_is_pinned(name: str) -> None:
    folder = EXAMPLES / name
    if (folder / "requirements.txt").exists():
        lines = [line for line in (folder / "requirements.txt").read_text().splitlines() if line]
        assert [
            line for line in lines if not line.startswith("#") and not re.fullmatch(r"[\w-]+==[\d.]+", line)
        ] == []
    if (folder / "package.json").exists():
        package = json.loads((folder / "package.json").read_text())
        versions = [*package["dependencies"].values(), *package.get("devDependencies", {}).values()]
        assert all(re.fullmatch(r"[\d.]+", version) for version in versions)
        assert (folder / "package-lock.json").exists()
    if (folder / "go.mod").exists():
        assert (folder / "go.sum").exists()


# --- webhook -----------------------------------------------------------------------------------------------------

OLD, NEW = os.urandom(32), os.urandom(24)


@pytest.fixture(scope="module")
def webhook(platform: Platform, deployed: Deployed) -> str:
    keys = f"whsec_{base64.b64encode(OLD).decode()} {base64.b64encode(NEW).decode()}"
    platform.cli("secrets", "set", "WEBHOOK_KEY", "--function", "webhook", stdin=keys)
    return deployed("webhook")


def signed(body: bytes, key: bytes = OLD, age: float = 0, **changed: str) -> dict[str, str]:
    stamp = str(int(time.time() - age))
    digest = hmac.digest(key, f"msg_1.{stamp}.".encode() + body, hashlib.sha256)
    headers = {
        "webhook_id": "msg_1",
        "webhook_timestamp": stamp,
        "webhook_signature": "v1,AAAA v1," + base64.b64encode(digest).decode(),
    }
    return headers | changed


PAID = b'{"type": "invoice.paid", "data": {"id": "in_\xc3\xa9"}}'


@pytest.mark.parametrize("key", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream"])
def test_webhook_takes_what_is_signed(
    platform: Platform, webhook: str, key: bytes, content_type: str
) -> None:
    answer = post(platform, webhook, PAID, content_type, **signed(PAID, key))
    assert (answer.status, answer.json()) == (200, {"received": "msg_1"})
    invocation = answer.headers["X-Hearth-Invocation"]
    until(lambda: "invoice in_é is paid" in platform.cli("logs", "webhook", "--invocation", invocation))


# Made when they are sent: a signature that has grown old would be refused for that.
REFUSED: dict[str, Callable[[], dict[str, str]]] = {
    "unsigned": dict,
    "wrong key": lambda: signed(PAID, os.urandom(32)),
    "empty key": lambda: signed(PAID, b""),
    "another body": lambda: signed(PAID + b" "),
    "another id": lambda: signed(PAID, webhook_id="msg_2"),
    "another time": lambda: signed(PAID, webhook_timestamp=str(int(time.time()) + 2)),
    "too old": lambda: signed(PAID, age=400),
    "from the future": lambda: signed(PAID, age=-400),
    "no time": lambda: signed(PAID, webhook_timestamp="soon"),
    "endless time": lambda: signed(PAID, webhook_timestamp="1" * 5000),
    "no version": lambda: signed(
        PAID, webhook_signature=signed(PAID)["webhook_signature"].replace("v1,", "")
    ),
    "no ASCII": lambda: signed(PAID, webhook_signature="v1,\xe9"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_webhook_refuses_what_is_not(platform: Platform, webhook: str, case: str) -> None:
    answer = post(platform, webhook, PAID, "application/json", **REFUSED[case]())
    assert answer.status == 401
    assert answer.json() == {"error": "the signature is missing, wrong or too old"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"type": "a"}', b"\xff", b"[" * 100_000], ids=lambda body: repr(body[:20])
)
def test_webhook_refuses_what_is_signed_but_makes_no_sense(
    platform: Platform, webhook: str, body: bytes
) -> None:
    assert post(platform, webhook, body, "application/json", **signed(body)).status == 400


def test_webhook_of_another_method(platform: Platform, webhook: str) -> None:
    answer = platform.call(webhook)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_webhooks_sender_signs_as_the_receiver_checks(platform: Platform, webhook: str) -> None:
    said = subprocess.run(
        [str(EXAMPLES / "webhook" / "send.sh"), platform.url + webhook],
        env={"PATH": os.environ["PATH"], "WEBHOOK_KEY": "whsec_" + base64.b64encode(OLD).decode()},
        capture_output=True,
        check=True,
    ).stdout
    assert json.loads(said)["received"].startswith("msg_")


def test_webhook_without_a_usable_key_is_not_deployed(platform: Platform, webhook: str) -> None:
    platform.cli("secrets", "set", "WEBHOOK_KEY", "--function", "careless", stdin="c2hvcnQ=")
    shutil.copytree(EXAMPLES / "webhook", platform.home / "careless")
    settings = platform.home / "careless" / "function.yaml"
    settings.write_text(settings.read_text().replace("name: webhook", "name: careless"))
    assert "shorter than 16 bytes" in platform.cli("deploy", "careless", code=1)


# --- thumbnails --------------------------------------------------------------------------------------------------

PHOTO = (EXAMPLES / "thumbnails" / "photo.jpg").read_bytes()


def png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def png(width: int, height: int) -> bytes:
    """A black picture, whose file is small whatever its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SIZES = {
    "": (192, 256),  # the photo lies, 640 wide and 480 high, with a note to turn it
    "width=100": (75, 100),
    "width=100&height=50": (37, 50),
    "width=100&height=50&fit=cover": (100, 50),
    "width=1024": (480, 640),  # never larger than it was
}


@pytest.mark.parametrize("query", SIZES)
def test_thumbnails_are_of_the_size_that_was_asked_for(
    platform: Platform, deployed: Deployed, query: str
) -> None:
    answer = post(platform, f"{deployed('thumbnails')}/?format=png&{query}".rstrip("&"), PHOTO, "image/jpeg")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    assert png_size(answer.body) == SIZES[query]


MAGIC = {"webp": b"RIFF", "jpeg": b"\xff\xd8\xff", "png": b"\x89PNG"}


@pytest.mark.parametrize("kind", MAGIC)
def test_thumbnails_kinds(platform: Platform, deployed: Deployed, kind: str) -> None:
    answer = post(platform, f"{deployed('thumbnails')}/?format={kind}", PHOTO, "image/jpeg")
    assert (answer.status, answer.headers["Content-Type"]) == (200, f"image/{kind}")
    assert answer.body.startswith(MAGIC[kind])
    assert b"Exif" not in answer.body


@pytest.mark.parametrize(
    "query",
    [
        "width=0",
        "width=1025",
        "width=000000000000010000",
        f"width={'1' * 5000}",
        "width=a",
        "height=-1",
        "fit=best",
        "format=gif",
        "size=3",
        "width=1&width=2",
    ],
)
def test_thumbnails_parameters_out_of_bounds(platform: Platform, deployed: Deployed, query: str) -> None:
    answer = post(platform, f"{deployed('thumbnails')}?{query}", PHOTO, "image/jpeg")
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/json")


def test_thumbnails_of_what_is_no_picture(platform: Platform, deployed: Deployed) -> None:
    path = deployed("thumbnails")
    for body, content_type in (
        (b"hello", "image/png"),
        (b"", "image/png"),
        (b"<svg/>", "image/svg+xml"),
        (b"x", "text/plain"),
    ):
        answer = post(platform, path, body, content_type)
        assert answer.status == 415
        assert "image/png" in answer.headers["Accept"]
    assert post(platform, path, PHOTO[:5000], "image/jpeg").status == 422
    assert platform.call(path).status == 405


def test_thumbnails_of_bombs(platform: Platform, deployed: Deployed) -> None:
    path = deployed("thumbnails")
    assert post(platform, path, png(6000, 6000), "image/png").status == 200
    for side in (6400, 12000):  # a little, and much more than is taken
        answer = post(platform, path, png(side, side), "image/png")
        assert answer.status == 413
        assert "40 million pixels" in answer.json()["error"]
    assert (
        post(platform, path, b"\xff\xd8" + bytes(7 << 20), "image/jpeg").status == 413
    )  # Hearth's own limit


# --- markdown (TypeScript) ---------------------------------------------------------------------------------------


def test_markdown(platform: Platform, deployed: Deployed) -> None:
    path = deployed("markdown")
    answer = post(platform, path, (EXAMPLES / "markdown" / "event.md").read_bytes(), "text/markdown")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = answer.body.decode()
    assert "<h1>Shopping</h1>" in page and "<strong>bread</strong>" in page
    assert 'type="checkbox" disabled checked' in page
    assert "script" not in page and "alert" not in page


EVIL = """
[a](javascript:alert(1)) <a href=" java\tscript:alert(1)">b</a> ![c](data:text/html,alert) <img src=x onerror=alert(1)>
<svg onload=alert(1)><style>alert</style><iframe src="//alert"></iframe><input type=password name=alert>
<p style="background:url(//alert)">kept</p> <a href="https://example.com" onclick="alert(1)" target=alert>d</a>

```js
<script>
```
"""


def test_markdown_lets_nothing_run(platform: Platform, deployed: Deployed) -> None:
    page = post(platform, deployed("markdown"), EVIL.encode(), "text/markdown; charset=utf-8").body.decode()
    assert "kept" in page and '<a href="https://example.com" rel="nofollow noopener">d</a>' in page
    assert '<code class="language-js">&lt;script&gt;' in page
    for evil in ("alert", "javascript", "<script", "onerror", "<svg", "<iframe", "<style", "password"):
        assert evil not in page


def test_markdown_refuses(platform: Platform, deployed: Deployed) -> None:
    path = deployed("markdown")
    assert post(platform, path, b"x", "application/json").status == 415
    assert post(platform, path, b"\xff\xfe", "text/plain").status == 400
    assert post(platform, path, b"x" * 300_000, "text/markdown").status == 413
    answer = platform.call(path)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    # Deep nesting is what renderers fail at: it must be answered, and the next request, too.
    assert post(platform, path, b"[" * 20_000, "text/markdown").status in (200, 502, 504)
    assert post(platform, path, b"*x*", "text/markdown").body == b"<p><em>x</em></p>\n"


# --- ids and qr --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)  # the first Go function of a platform waits for Go's own library to be compiled
def test_ids(platform: Platform, deployed: Deployed) -> None:
    path = deployed("ids")
    made = platform.call(f"{path}?count=3").json()
    assert len(made) == 3 and made == sorted(made)
    assert [platform.call(f"{path}?count={count}").status for count in ("0", "101", "x")] == [400] * 3


def test_qr(platform: Platform, deployed: Deployed) -> None:
    path = deployed("qr")
    answer = platform.call(path)
    assert (answer.headers["Content-Type"], b"<svg" in answer.body) == ("image/svg+xml", True)
    assert platform.call(f"{path}?text={'x' * 4000}").status == 400
