"""The plan of a backup of etcd: a snapshot, proven and fetched; what new machines need; destinations; retention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.engine.plan import Lane, Plan, Step, Wave

if TYPE_CHECKING:
    from collections.abc import Mapping

KIND = "backup"
#: Seconds. A large database over a slow line.
SNAPSHOT_S = 1800.0
RECOVERY_S = 300.0
STORE_S = 3600.0
FILE_S = 120.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        name: Of the plan.
        node: Where the snapshot is taken.
        destinations: In the order in which they are written.
        reason: One of `backup.records.REASONS`.
        recipients: age's; none for no encryption.
        level: Of zstd; None for no compression.
        recovery: What new machines need is stored, too.
        keep: The policy of retention, as `--keep` takes it; "" removes nothing.
        pin: Why it is kept for ever; "" when it is not.
        unfinished: Runs that have not ended well: their snapshots stay.
        superseded: Plans of runs that failed, of which nothing is needed any more.
        lock: Whose disk has the lock of the run, for the API takes no writes, as under an alarm, or is away: the same
            for all runs meanwhile. "" where the API has it.
    """

    name: str
    node: str
    destinations: tuple[str, ...]
    reason: str = "manual"
    recipients: tuple[str, ...] = ()
    level: int | None = 3
    recovery: bool = True
    keep: str = ""
    pin: str = ""
    unfinished: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    lock: str = ""


def backup(request: Request) -> Plan:
    """One lane, on the host of the member that the snapshot is of."""
    staged = f"staging/{request.name}.db"
    common: Mapping[str, Any] = {"plan": request.name, "file": staged}
    steps = []
    if request.superseded:
        steps.append(_step(request, "etcd.supersede", {"plans": list(request.superseded)}, FILE_S))
    away: Mapping[str, Any] = {"without_api": True, "lock": request.lock} if request.lock else {}
    params: dict[str, Any] = {**common, "reason": request.reason, **away}
    steps.append(_step(request, "etcd.snapshot", params, SNAPSHOT_S))
    recovery = f"staging/{request.name}.recovery.tar" if request.recovery else ""
    if recovery:
        params = {
            "plan": request.name,
            "file": recovery,
            "recipients": list(request.recipients),
            "snapshot": staged,
            **away,
        }
        steps.append(_step(request, "etcd.recovery", params, RECOVERY_S))
    params = {
        **common,
        "recovery": recovery,
        "destinations": list(request.destinations),
        "recipients": list(request.recipients),
        "level": request.level,
        "pin": request.pin,
    }
    steps.append(_step(request, "etcd.store", params, STORE_S))
    if request.keep:
        params = {
            "file": staged,
            "destinations": list(request.destinations),
            "keep": request.keep,
            "unfinished": list(request.unfinished),
            "recovery": recovery,
        }
        steps.append(_step(request, "etcd.retain", params, FILE_S))
    steps.append(_step(request, "etcd.unstage", {"plan": request.name}, FILE_S))
    steps.append(_step(request, "host.tidy", {"plan": request.name}, FILE_S))
    if recovery:
        steps.append(_step(request, "etcd.complete", {"plan": request.name, "file": recovery}, FILE_S))
    return Plan(KIND, f"back up etcd of {request.node}", (Wave((Lane(request.node, tuple(steps)),)),))


def _step(request: Request, action: str, params: Mapping[str, Any], timeout_s: float) -> Step:
    return Step(f"0/{request.node}/{action}", action, request.node, dict(params), timeout_s)
