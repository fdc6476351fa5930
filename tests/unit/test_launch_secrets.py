"""What an instance is given of its secrets: files, an environment, or a reason why it can't start."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hearth.core import limits
from hearth.core.errors import FunctionLoadFailed, PlatformError
from hearth.core.launch import Attachment, Limits, Network
from hearth.core.records import RouteRow, Target
from hearth.core.routing import Deployed, deployed, make_route
from hearth.protocol import keeper as protocol
from hearth.runtimes.python import PythonRuntime
from hearth.security.vault import Vault
from tests.unit.pool_kit import Kit, function_row, make_kit, version, version_row

VAULT = Vault([b"k" * 32])


def naming(*names: str, **values: bytes) -> Deployed:
    secrets = tuple(VAULT.seal("ns_ann", None, name, value) for name, value in sorted(values.items()))
    return dataclasses.replace(version(secrets=names, env=(("PLAIN", "p"),)), secrets=secrets)


def a_kit() -> Kit:
    kit = make_kit(opener=VAULT)
    kit.launcher._shop.runtimes["python"] = PythonRuntime()  # type: ignore[index]
    return kit


async def test_secrets_are_files_and_environment() -> None:
    kit = a_kit()
    slot = await kit.launcher.launch(naming("A", "KEY", A="Grüße".encode(), KEY=b"\x00\xff"))
    attachment = kit.driver.sandboxes[slot.handle].attachment
    assert attachment is not None
    assert attachment.secrets == (("A", "Grüße".encode()), ("KEY", b"\x00\xff"))
    loaded: dict[str, Any] = kit.guests.opened[0].loaded or {}
    assert loaded["env"]["A"] == "Grüße" and loaded["env"]["PLAIN"] == "p"
    assert "KEY" not in loaded["env"]  # no text: a file only
    assert "Gr" not in repr(attachment) + repr(slot.version) + repr(kit.driver.sandboxes[slot.handle].spec)
    await kit.launcher.discard(slot, 0.0)
    await kit.close()


async def test_one_that_is_not_set_is_named() -> None:
    kit = a_kit()
    with pytest.raises(FunctionLoadFailed, match="the secret B is not set") as refused:
        await kit.launcher.launch(naming("A", "B", A=b"a"))
    assert refused.value.hint == "set it: hearth secrets set B"
    assert kit.driver.sandboxes == {}  # nothing was started for it
    await kit.close()


async def test_what_can_not_be_opened_starts_nothing() -> None:
    kit = a_kit()
    wanted = naming("A", A=b"a")
    swapped = dataclasses.replace(wanted.secrets[0], namespace_id="ns_other")
    with pytest.raises(PlatformError, match="another secret's"):
        await kit.launcher.launch(dataclasses.replace(wanted, secrets=(swapped,)))
    without = make_kit()
    with pytest.raises(PlatformError, match="can't open secrets"):
        await without.launcher.launch(wanted)
    assert kit.driver.sandboxes == without.driver.sandboxes == {}
    await kit.close()
    await without.close()


async def test_too_much_together() -> None:
    kit = a_kit()
    with pytest.raises(FunctionLoadFailed, match="80KiB together"):
        await kit.launcher.launch(naming("A", "B", A=b"a" * limits.SECRET_MAX, B=b"b" * limits.SECRET_MAX))
    await kit.close()


def test_the_most_that_is_allowed_fits_one_message_to_the_keeper() -> None:
    count = limits.SECRETS_NAMED_MAX
    sizes = [limits.SECRETS_BYTES_MAX // count] * count
    secrets = tuple((f"N{number:063}", b"\xff" * size) for number, size in enumerate(sizes))
    attachment = Attachment("sha256-" + "a" * 64, Limits(), Network(), secrets)
    message = {
        "n": 2**53,
        "op": "attach",
        "handle": "h" * 200,
        "attachment": protocol.attachment_to_data(attachment),
    }
    sent = protocol.unpack(protocol.pack(message))
    assert protocol.attachment_from_data(sent["attachment"]).secrets == secrets


def test_a_route_is_made_anew_only_when_its_secrets_changed() -> None:
    def route(*values: bytes, known: dict[str, Deployed]) -> Deployed:
        secrets = tuple(VAULT.seal("ns_ann", None, "A", value) for value in values)
        if values == (b"same",):
            secrets = same
        row = RouteRow(function_row("hello"), (("live", (Target(version_row(secrets=("A",)), 1),)),), secrets)
        made = make_route(row, known)
        assert made is not None
        return made.live.versions[0]

    same = (VAULT.seal("ns_ann", None, "A", b"same"),)
    first = route(b"same", known={})
    assert first.secrets == same
    assert route(b"same", known={first.id: first}) is first
    changed = route(b"new", known={first.id: first})
    assert changed is not first and changed.id == first.id and changed.secrets != same
    assert route(known={first.id: first}).secrets == ()


def test_a_version_gets_those_that_it_names() -> None:
    secrets = [VAULT.seal("ns_ann", None, name, b"x") for name in ("C", "A", "B")]
    made = deployed(function_row("hello"), version_row(secrets=("A", "C")), secrets)
    assert [secret.name for secret in made.secrets] == ["A", "C"]
    assert deployed(function_row("hello"), version_row(), secrets).secrets == ()
