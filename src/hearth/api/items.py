"""Rows of functions, versions and logs as they go over the wire."""

from __future__ import annotations

from hearth.app.deploy import check_limits
from hearth.app.reach import check_targets
from hearth.core.errors import InvalidManifest, LimitUnenforceable
from hearth.core.function import config_to_json
from hearth.core.launch import Probe
from hearth.core.records import FunctionRow, FunctionSummary, VersionRow
from hearth.core.settings import Settings
from hearth.core.version import VersionState
from hearth.ports.logs import LogLine
from hearth.wire import models as wire

_WORKING = frozenset({VersionState.PENDING, VersionState.BUILDING, VersionState.BUILT, VersionState.PROVING})


def url_of(settings: Settings, function: FunctionRow) -> str:
    return f"{settings.public_url}/fn/{function.namespace}/{function.name}"


def log_of(line: LogLine) -> wire.LogItem:
    return wire.LogItem(
        at=line.at_ms,
        source=line.source,
        stream=line.stream,
        level=line.level,
        text=line.text,
        version=line.version,
        instance=line.instance,
        invocation=line.invocation,
    )


def version_of(row: VersionRow) -> wire.VersionItem:
    failure = row.failure
    return wire.VersionItem(
        id=row.id,
        number=row.number,
        state=row.state.value,
        runtime=row.config.runtime + row.config.runtime_version,
        toolchain=row.toolchain,
        handler=row.handler,
        auth=row.config.auth,
        config=config_to_json(row.config),
        source=row.source,
        created_at=row.created_ms,
        ready_at=row.ready_ms,
        failure=None
        if failure is None
        else wire.FailureItem(
            code=failure.code,
            message=failure.message,
            hint=failure.hint,
            tail=failure.tail,
            file=failure.file,
            line=failure.line,
        ),
    )


def item_of(summary: FunctionSummary, settings: Settings) -> wire.FunctionItem:
    live, latest = summary.live, summary.latest
    shown = live or latest
    if latest is not None and latest.state in _WORKING:
        status = "building"
    elif live is not None:
        status = "ready"
    else:
        status = "new" if latest is None else "failed"
    return wire.FunctionItem(
        name=summary.function.name,
        namespace=summary.function.namespace,
        runtime="" if shown is None else shown.config.runtime + shown.config.runtime_version,
        version=None if live is None else live.number,
        status=status,
        url=url_of(settings, summary.function),
        deployed_at=None if latest is None else latest.created_ms,
        auth="members" if shown is None else shown.config.auth,
    )


def detail_of(summary: FunctionSummary, settings: Settings, probe: Probe) -> wire.FunctionDetail:
    live, latest = summary.live, summary.latest
    shown = live or latest
    warnings: list[str] = []
    if shown is not None:
        try:
            allowed = settings.allow_unenforced
            warnings = list(check_limits(shown.config, probe, allowed))
            check_targets(shown.config, settings.private_networks)
        except (LimitUnenforceable, InvalidManifest) as error:
            # Deployed when this machine, or the operator, still allowed it.
            warnings.append(error.message)
    return wire.FunctionDetail(
        **item_of(summary, settings).model_dump(),
        id=summary.function.id,
        live=None if live is None else version_of(live),
        latest=None if latest is None else version_of(latest),
        warnings=warnings,
    )
