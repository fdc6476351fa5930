"""Functions as their members see them: found only by who may see them."""

from __future__ import annotations

from hearth.app.auth import require
from hearth.core.errors import NotFound
from hearth.core.permissions import Action, Decision, Principal, Resource, decide
from hearth.core.records import FunctionRow, FunctionSummary, VersionRow
from hearth.ports.store import FunctionStore


class FunctionViews:
    """Reads and deletes; every method decides first."""

    def __init__(self, store: FunctionStore) -> None:
        self._store = store

    async def find(
        self, principal: Principal, action: Action, namespace: str, name: str, *, verb: str | None = None
    ) -> FunctionRow:
        """A function that `principal` may do `action` with. Raises NotFound (also to strangers), Forbidden.

        `verb` is what he wants to do, where that is another word than the action's.
        """
        what = f"function {namespace}/{name}"
        missing = NotFound(
            f"there is no {what}", hint="look at its spelling, and at who you are: hearth whoami"
        )
        namespace_id = await self._store.find_namespace(namespace)
        if namespace_id is None:
            raise missing
        function = await self._store.find_function(namespace, name)
        require(
            principal, action, Resource(namespace_id, None if function is None else function.id), what, verb
        )
        if function is None:
            raise missing
        return function

    async def page(
        self, principal: Principal, namespace: str | None, after: str | None, limit: int
    ) -> tuple[list[FunctionSummary], str | None]:
        """Functions that `principal` may see, by id, and where the next page begins.

        Raises NotFound: a namespace in which he can see nothing.
        """
        ids = [
            found
            for found, _ in principal.roles
            if principal.key is None or principal.key.namespace_id == found
        ]
        if namespace is not None:
            wanted = await self._store.find_namespace(namespace)
            if wanted not in ids:
                raise NotFound(
                    f"there is no namespace {namespace}",
                    hint="look at its spelling, and at who you are: hearth whoami",
                )
            ids = [found for found in ids if found == wanted]
        rows = await self._store.list_functions(ids, after, limit + 1)
        onward = rows[limit - 1].function.id if len(rows) > limit else None
        return [row for row in rows[:limit] if _visible(principal, row.function)], onward

    async def summary(self, principal: Principal, namespace: str, name: str) -> FunctionSummary:
        function = await self.find(principal, Action.READ, namespace, name)
        summary = await self._store.summary(function.id)
        if summary is None:  # deleted a moment ago
            raise NotFound(f"there is no function {namespace}/{name}")
        return summary

    async def version(
        self, principal: Principal, namespace: str, name: str, number: int
    ) -> tuple[FunctionRow, VersionRow]:
        function = await self.find(principal, Action.READ, namespace, name)
        row = await self._store.find_version(function.id, number)
        if row is None:
            raise NotFound(
                f"{namespace}/{name} has no version {number}", hint=f"list them: hearth versions {name}"
            )
        return function, row

    async def delete(self, principal: Principal, namespace: str, name: str) -> None:
        function = await self.find(principal, Action.DEPLOY, namespace, name, verb="delete")
        await self._store.delete_function(function.id)


def _visible(principal: Principal, function: FunctionRow) -> bool:
    resource = Resource(function.namespace_id, function.id)
    return decide(principal, Action.READ, resource) is Decision.ALLOW
