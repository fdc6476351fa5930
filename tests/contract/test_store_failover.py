"""Two PostgreSQL servers of which one takes over, and one that is spoken to in TLS: nothing but what the URL says of it."""

from __future__ import annotations

import asyncio
import datetime
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hearth.core.errors import StartupFailed, StoreUnavailable
from hearth.store.store import Store
from tests.patience import patient
from tests.postgres import PASSWORD, ROLE, Postgres, server

from .store_setup import setting, sql


@pytest.fixture
def primary() -> Iterator[Postgres]:
    with server() as made:
        yield made


async def until_written(store: Store, key: str) -> int:
    """Write until it is taken; returns how often it was refused."""
    refused = 0
    async with asyncio.timeout(patient(60)):
        while True:
            try:
                await store.remember_artifact(key, "x")
            except StoreUnavailable:
                refused += 1
                await asyncio.sleep(0)  # a server that refuses connections is asked again at once
            else:
                return refused


async def test_a_standby_takes_over_and_nothing_acknowledged_is_lost(primary: Postgres) -> None:
    name = primary.create()
    with primary.standby() as other:
        hosts = f"127.0.0.1:{other.port},127.0.0.1:{primary.port}"  # the standby first: it is not taken while it is one
        url = f"postgresql://{ROLE}:{PASSWORD}@{hosts}/{name}?target_session_attrs=read-write"
        async with setting(url) as at:
            user = await at.user()
            numbers = [(await at.deploy(user))[1].number for _ in range(5)]
            seen = await at.store.last_event()
            primary.stop(signal.SIGQUIT)
            with pytest.raises(StoreUnavailable, match="can't be"):
                await at.store.remember_artifact("lost", "x")
            other.run("SELECT pg_promote()")
            await until_written(at.store, "after")
            assert await at.store.cached_artifact("after") == "x"
            _, version = await at.deploy(user)
            assert version.number == len(numbers) + 1
            assert {event.seq for event in await at.store.events_after(seen, 10)} and (
                await at.store.last_event() > seen
            )
            assert sql(at, "SELECT count(*) FROM versions") == [(version.number,)]


async def test_a_dump_goes_on_elsewhere(primary: Postgres) -> None:
    """With the commands of docs/howto/postgresql.md."""
    name, other = primary.create(), primary.create()
    async with setting(primary.url(name)) as at:
        user = await at.user()
        function, version = await at.deploy(user)
        await at.publish(version)
        seen = await at.store.last_event()
        dump = primary.folder / "hearth.dump"
        words = ["--format=custom", f"--file={dump}", primary.url(name)]
        subprocess.run([primary.programs / "pg_dump", *words], check=True)
    words = ["--no-owner", f"--dbname={primary.url(other)}", str(dump)]
    subprocess.run([primary.programs / "pg_restore", *words], check=True)
    async with setting(primary.url(other)) as at:
        route = await at.store.route(function.id)
        assert route is not None and await at.store.last_event() == seen
        await at.deploy(user)
        assert await at.store.last_event() == seen + 1


def certificate(folder: Path) -> None:
    """A key and a certificate of 127.0.0.1 that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.key").write_bytes(private)
    (folder / "server.key").chmod(0o600)


async def test_tls_is_what_the_url_asks_for(primary: Postgres, tmp_path: Path) -> None:
    certificate(primary.folder)
    primary.own(primary.folder / "server.crt", primary.folder / "server.key")
    primary.stop()
    primary.options = {"ssl": "on"} | {
        f"ssl_{kind}_file": f"{primary.folder}/server.{end}"
        for kind, end in (("cert", "crt"), ("key", "key"))
    }
    primary.start()
    authority = tmp_path / "ca.crt"
    authority.write_bytes((primary.folder / "server.crt").read_bytes())
    name = primary.create()
    plain = f"postgresql://{ROLE}:{PASSWORD}@localhost:{primary.port}/{name}?hostaddr=127.0.0.1"
    async with setting(f"{plain}&sslmode=verify-full&sslrootcert={authority}") as at:
        [(encrypted,)] = sql(at, "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = current_database()")  # fmt: skip
        assert encrypted
    certificate(tmp_path)
    wrong = f"{plain}&sslmode=verify-full&sslrootcert={tmp_path}/server.crt"
    with pytest.raises(StartupFailed, match="certificate verify failed"):
        async with setting(wrong):
            pass
