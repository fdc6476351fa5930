"""The proxies of docs/howto/behind-a-reverse-proxy.md, with the blocks that stand there, before a real platform."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.platform import PASSWORD, Platform, leftovers, until

pytestmark = pytest.mark.root
PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "behind-a-reverse-proxy.md").read_text()

ECHO = """
import json

def handler(event, context):
    return {
        "path": event["rawPath"],
        "query": event["rawQueryString"],
        "ip": event["requestContext"]["http"]["sourceIp"],
        "headers": {k: v for k, v in event["headers"].items() if k.startswith("x-forwarded") or k == "host"},
        "size": len(event.get("body") or ""),
    }
"""
STREAM = """
import time

def handler(event, context):
    yield {"statusCode": 200, "headers": {"Content-Type": "text/plain"}}
    try:
        for number in range(600):
            yield f"{number}\\n"
            time.sleep(0.1)
    finally:
        print("the listener has left at", number, flush=True)
"""


@dataclass
class Proxy:
    """A proxy that runs.

    Args:
        port: where it speaks TLS, on 127.0.0.1; its name is localhost.
        plain: where it speaks HTTP.
        outside: an address of this machine that is not loopback.
        authority: file of its certificate.
    """

    kind: str
    platform: Platform
    port: int
    plain: int
    outside: str
    authority: Path
    log: Path

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def connection(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.authority))
        return http.client.HTTPSConnection(
            "localhost", self.port, timeout=60, context=context, source_address=(self.outside, 0)
        )

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self.connection()
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


def program(name: str) -> str:
    """Its path. Without it the test is skipped, under CI it fails."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"needs {name}")
        pytest.skip(f"needs {name}")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "hearth.pem", folder / "hearth.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
    assert found is not None
    return found[1]


def nginx(folder: Path, ports: dict[str, int], pem: Path, key: Path) -> list[str]:
    text = block("nginx")
    for old, new in {
        "127.0.0.1:8080": f"127.0.0.1:{ports['hearth']}",
        "listen 80;": f"listen 127.0.0.1:{ports['plain']};",
        "listen 443 ssl;": f"listen 127.0.0.1:{ports['tls']} ssl;",
        "hearth.example.com": "localhost",
        "/etc/ssl/hearth.pem": str(pem),
        "/etc/ssl/hearth.key": str(key),
    }.items():
        assert old in text
        text = text.replace(old, new)
    temps = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off; {temps}\n{text}\n}}\n"
    )
    return [program("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, ports: dict[str, int], pem: Path, key: Path) -> list[str]:
    text = block("caddy")
    assert text.startswith("hearth.example.com {\n")
    text = text.replace("hearth.example.com {\n", f"https://localhost:{ports['tls']} {{\ntls {pem} {key}\n")
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{ports['hearth']}")
    (folder / "Caddyfile").write_text("{\nadmin off\nauto_https off\nskip_install_trust\n}\n" + text)
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    """An address that a caller from elsewhere could have: one for documentation (RFC 5737), on this machine for the tests' time."""
    address = f"198.51.100.{random.randrange(1, 255)}"
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    yield address
    subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with the flags of the page."""
    said = re.search(r"^hearth up (.*)$", PAGE, re.M)
    assert said is not None
    platform = Platform(tmp_path_factory.mktemp("proxied"), tuple(shlex.split(said[1])))
    try:
        platform.start()
        assert platform.url == "https://hearth.example.com"
        platform.url = f"http://127.0.0.1:{listening(platform)}"
        platform.register()
        platform.deploy("echo", "python", {"handler.py": ECHO})
        platform.deploy("stream", "python", {"handler.py": STREAM})
        yield platform
        assert platform.stop() == 0
        assert leftovers(platform.instance, platform.data) == []
    finally:
        platform.put_down()


def listening(platform: Platform) -> int:
    """The port of a platform that says another URL."""
    assert platform.process is not None
    inodes = set()
    for entry in Path(f"/proc/{platform.process.pid}/fd").iterdir():
        inodes.update(re.findall(r"socket:\[(\d+)\]", str(entry.readlink())))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            return int(fields[1].partition(":")[2], 16)
    raise AssertionError("it does not listen")


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest,
    served: Platform,
    outside: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    kind: str = request.param
    folder = tmp_path_factory.mktemp(kind)
    pem, key = certificate(folder)
    ports = {"hearth": int(served.url.rpartition(":")[2]), "tls": free_port(), "plain": free_port()}
    command = {"nginx": nginx, "caddy": caddy}[kind](folder, ports, pem, key)
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        )
    try:
        made = Proxy(kind, served, ports["tls"], ports["plain"], outside, pem, log)
        until(lambda: process.poll() is not None or answers(made.port), what=log.read_text())
        assert process.poll() is None, log.read_text()
        yield made
    finally:
        process.terminate()
        process.wait(30)


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_who_calls_and_what_for(proxy: Proxy) -> None:
    status, headers, body = proxy.ask(
        "POST",
        "/fn/ann/echo/a%2Fb/%7e?x=%20y&x=2",
        b"z" * 3_000_000,
        Content_Type="text/plain",
        X_Forwarded_For="192.0.2.9",
        X_Forwarded_Proto="gopher",
        X_Forwarded_Host="evil.example",
    )
    assert status == 200, body
    assert headers["X-Hearth-Invocation"]
    seen = json.loads(body)
    assert (seen["path"], seen["query"]) == ("/a%2Fb/%7e", "x=%20y&x=2")
    assert seen["ip"] == proxy.outside
    assert seen["headers"]["x-forwarded-proto"] == "https"
    assert seen["headers"]["x-forwarded-host"].partition(":")[0] == "localhost"
    assert seen["size"] == 3_000_000


def test_nothing_is_collected_and_leaving_is_told(proxy: Proxy) -> None:
    """A stream of a minute: its first line comes before its last was thought of, and it ends when nobody listens."""
    before = proxy.platform.cli("logs", "stream").count("has left")
    connection = proxy.connection()
    connection.request("GET", "/fn/ann/stream")
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.read1(2) == b"0\n"
    answer.close()
    connection.close()
    until(lambda: proxy.platform.cli("logs", "stream").count("has left") > before)
    assert "left at 599" not in proxy.platform.cli("logs", "stream")


def test_metrics_are_not_shown_outside(proxy: Proxy) -> None:
    assert proxy.ask("GET", "/metrics")[0] == 401
    assert proxy.platform.call("/metrics").status == 200


def test_the_command_line_through_it(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log in, deploy 30 MiB, follow the build, call, with the authority in SSL_CERT_FILE."""
    platform = Platform(tmp_path)
    email = "ann@example.com"
    said = platform.cli(
        "login", "--server", proxy.url, "--email", email, "--password-stdin", stdin=PASSWORD, code=1
    )
    assert "certificate" in said.lower()
    assert "SSL_CERT_FILE" in said
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.authority))
    platform.cli("login", "--server", proxy.url, "--email", email, "--password-stdin", stdin=PASSWORD)
    folder = platform.function(f"big-{proxy.kind}", "python", {"handler.py": ECHO}, auth="members")
    (folder / "data").write_bytes(random.randbytes(30 << 20))
    done = platform.cli("deploy", str(folder))
    assert "https://hearth.example.com/fn/ann/big-" in done
    assert '"size": 5' in platform.cli("invoke", f"big-{proxy.kind}", "-d", "12345")
    told = platform.cli(
        "register",
        "--server",
        proxy.url,
        "--email",
        "eve@example.com",
        "--password-stdin",
        stdin=PASSWORD,
        code=1,
    )
    assert "closed" in told


def test_a_replacement_of_the_platform_is_not_noticed(proxy: Proxy) -> None:
    """POSTs, which no proxy tries a second time, while each process that serves gets a successor."""
    platform = proxy.platform
    assert platform.process is not None
    replaced, statuses = platform.log().count("INFO    replaced"), []
    ended = threading.Event()

    def load() -> None:
        connection = proxy.connection()
        while not ended.is_set():
            connection.request("POST", "/fn/ann/echo", b"x")
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        platform.process.send_signal(signal.SIGHUP)
        until(lambda: platform.log().count("INFO    replaced") > replaced, seconds=60)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert len(statuses) > 20
    assert set(statuses) == {200}


@pytest.mark.parametrize("proxy", ["nginx"], indirect=True)
def test_plain_http_leads_to_tls(proxy: Proxy) -> None:
    """Caddy does so by itself, along with its certificates, which the tests have to switch off."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.plain, timeout=30)
    connection.request("GET", "/fn/ann/echo?a=b")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, "https://127.0.0.1/fn/ann/echo?a=b")
    connection.close()
