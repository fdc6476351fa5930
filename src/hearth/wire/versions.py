"""Versions and aliases over the wire. Times are milliseconds since the epoch."""

from __future__ import annotations

from pydantic import Field

from hearth.wire.models import Model, Request, VersionItem


class AliasWeight(Model):
    """One alias that sends traffic to a version; weights are relative to those of the alias's other versions."""

    alias: str
    weight: int


class VersionLine(VersionItem):
    """A version as lists have it."""

    live: bool  # it gets traffic by default
    created_by: str  # e-mail
    size: int | None = None  # bytes of what was built
    replaced: int | None = None  # the version that was live before it
    aliases: list[AliasWeight] = Field(default_factory=list)


class ShareItem(Model):
    version: int
    weight: int


class AliasItem(Model):
    name: str
    targets: list[ShareItem]
    updated_at: int


class Aliases(Model):
    items: list[AliasItem]


class SetShare(Request):
    version: int = Field(ge=1, le=2**31)
    weight: int = Field(ge=-(2**31), le=2**31)  # which ones make sense is said in `core.traffic`


class SetAlias(Request):
    targets: list[SetShare] = Field(max_length=100)


class Rollback(Request):
    # a version's number; none: the one that was live before
    to: int | None = Field(default=None, ge=1, le=2**31)


class RolledBack(Model):
    """Where traffic goes now, and where it went before."""

    version: int
    changed: bool  # false: it was live already
    before: list[ShareItem]
    alias: AliasItem
