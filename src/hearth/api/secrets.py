"""Secrets of namespaces and functions: set, list, delete. No answer has a value."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Path, Query

from hearth.api.deps import After, CurrentPrincipal, Limit
from hearth.app.secrets import Secrets
from hearth.core.errors import InvalidInput
from hearth.core.records import SecretRow
from hearth.wire.models import Page, SecretDeleted, SecretItem, SecretSet, SetSecret

Name = Annotated[str, Path(max_length=64)]
Force = Annotated[bool, Query(description="delete it though functions can't start without it")]


def item_of(row: SecretRow) -> SecretItem:
    return SecretItem(
        name=row.name,
        namespace=row.namespace,
        function=row.function,
        environment=row.text,
        created_at=row.created_ms,
        updated_at=row.updated_ms,
    )


def secrets_router(secrets: Secrets) -> APIRouter:
    """The endpoints, for `api.app.create_app`."""
    router = APIRouter(prefix="/api/v1", tags=["secrets"])

    @router.get("/namespaces/{namespace}/secrets")
    async def list_of_namespace(
        namespace: Name, principal: CurrentPrincipal, after: After = None, limit: Limit = 100
    ) -> Page[SecretItem]:
        """All secrets in a namespace, those of its functions too, without their values."""
        rows, onward = await secrets.page(principal, namespace, None, after, limit)
        return Page[SecretItem](items=[item_of(row) for row in rows], next=onward)

    @router.put("/namespaces/{namespace}/secrets/{secret}")
    async def set_of_namespace(
        namespace: Name, secret: Name, body: SetSecret, principal: CurrentPrincipal
    ) -> SecretSet:
        """Set a secret that every function of the namespace may name."""
        row, _ = await secrets.set(principal, namespace, None, secret, _value(body))
        return SecretSet(**item_of(row).model_dump(), function_made=False)

    @router.delete("/namespaces/{namespace}/secrets/{secret}")
    async def delete_of_namespace(
        namespace: Name, secret: Name, principal: CurrentPrincipal, force: Force = False
    ) -> SecretDeleted:
        """Delete it. 409 when a function can't start without it, unless forced."""
        return SecretDeleted(lacking=await secrets.delete(principal, namespace, None, secret, force=force))

    @router.get("/functions/{namespace}/{name}/secrets")
    async def list_of_function(
        namespace: Name, name: Name, principal: CurrentPrincipal, after: After = None, limit: Limit = 100
    ) -> Page[SecretItem]:
        """The secrets that a function may name: its own, and those of its namespace that it has no own of."""
        rows, onward = await secrets.page(principal, namespace, name, after, limit)
        return Page[SecretItem](items=[item_of(row) for row in rows], next=onward)

    @router.put("/functions/{namespace}/{name}/secrets/{secret}")
    async def set_of_function(
        namespace: Name, name: Name, secret: Name, body: SetSecret, principal: CurrentPrincipal
    ) -> SecretSet:
        """Set a function's own secret; makes the function when it is new, so that its first deploy can name it."""
        row, made = await secrets.set(principal, namespace, name, secret, _value(body))
        return SecretSet(**item_of(row).model_dump(), function_made=made)

    @router.delete("/functions/{namespace}/{name}/secrets/{secret}")
    async def delete_of_function(
        namespace: Name, name: Name, secret: Name, principal: CurrentPrincipal, force: Force = False
    ) -> SecretDeleted:
        """Delete it; the namespace's of that name takes its place. 409 when there is none and the function needs it."""
        return SecretDeleted(lacking=await secrets.delete(principal, namespace, name, secret, force=force))

    return router


def _value(body: SetSecret) -> bytes:
    """Raises InvalidInput, which never has the value in it."""
    if (body.value is None) == (body.value_base64 is None):
        raise InvalidInput("either value or value_base64 must be there", hint="send one of them")
    try:
        if body.value is not None:
            return body.value.encode()
        return base64.b64decode(body.value_base64 or "", validate=True)
    except UnicodeEncodeError:
        raise InvalidInput("value: is no text", hint="send bytes as value_base64") from None
    except (binascii.Error, ValueError):
        raise InvalidInput("value_base64: is no base64", hint="send standard base64 with padding") from None
