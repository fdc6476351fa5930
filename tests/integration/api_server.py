"""The management API as it runs: uvicorn on a Unix socket, a store on a file, real hashing."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from hearth.api.app import create_app
from hearth.api.deps import ApiDeps
from hearth.app.auth import Auth, RegistrationRule
from hearth.app.keys import Keys
from hearth.app.sessions import Sessions
from hearth.app.users import Users
from hearth.bus.local import BusServer
from hearth.core.settings import Settings
from hearth.security.passwords import Argon2Passwords, Cost
from hearth.security.rootkey import load_root_key
from hearth.security.tokens import AccessTokens, TokenMint
from hearth.security.verifier import CredentialVerifier
from hearth.store.store import Store
from hearth.testing.clock import ClockIds, FakeClock

PASSWORD = "five old brown boots"
CHEAP = Cost(passes=1, memory=64)


@dataclass
class Running:
    client: httpx.AsyncClient
    clock: FakeClock
    store: Store
    verifier: CredentialVerifier
    app: FastAPI
    ids: ClockIds
    bus: BusServer

    async def register(self, email: str = "jo@example.com", **more: object) -> dict[str, str]:
        """Register; returns the headers that an authorised request has."""
        body = {"email": email, "password": PASSWORD} | more
        answer = await self.client.post("/api/v1/auth/register", json=body)
        assert answer.status_code == 201, answer.text
        return bearer(answer.json()["tokens"]["access_token"])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def running(
    rule: RegistrationRule | None = None, *, passwords: Argon2Passwords | None = None
) -> AsyncIterator[Running]:
    rule = rule or RegistrationRule(open=True)
    folder = Path(tempfile.mkdtemp(prefix="hearth-api-"))
    clock = FakeClock()
    ids = ClockIds(clock)
    bus = BusServer(folder / "bus.sock")
    await bus.start()
    root = load_root_key(folder / "key")
    store = await Store.open(folder / "hearth.db", durable=True, clock=clock, ids=ids, publish=bus.publish)
    passwords = passwords or Argon2Passwords(CHEAP)
    mint = TokenMint(root)
    verifier = CredentialVerifier(store, AccessTokens([root.token_public_key()]), clock, bus)
    await verifier.start()
    deps = ApiDeps(
        settings=Settings(data_dir=folder, public_url="http://127.0.0.1:8080"),
        version="0.1.0",
        auth=Auth(store, passwords, mint, clock, ids, rule),
        keys=Keys(store, store, mint, clock, ids),
        sessions=Sessions(store),
        users=Users(store, passwords, ids),
        identifier=verifier,
        functions=store,
        clock=clock,
    )
    app = create_app(deps)
    socket = folder / "api.sock"
    server = uvicorn.Server(uvicorn.Config(app, uds=str(socket), log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.005)
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://hearth", timeout=30) as client:
            yield Running(client, clock, store, verifier, app, ids, bus)
    finally:
        server.should_exit = True
        await serving
        await verifier.close()
        await store.close()
        passwords.close()
        await bus.close()
        shutil.rmtree(folder)
