"""How backups went, told to monitoring: by the file of metrics, and by the age of the newest."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orchestrator import backups
from orchestrator.actions.backups import told
from orchestrator.backup import metrics
from orchestrator.engine import journal, runs
from orchestrator.errors import ApiError, BackupError, HostError, OrchestratorError, StoreError
from orchestrator.planners.backup import KIND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.app import App, Outcome
    from orchestrator.backup.catalogue import Catalogue
    from orchestrator.backup.records import Record
    from orchestrator.engine.journal import Contents


@dataclass(frozen=True, slots=True)
class Attempt:
    """A backup that monitoring is told of.

    Attributes:
        path: The file of metrics.
        destinations: Where the snapshot was to go.
        began: Seconds since the epoch.
        node: Whose member; "" when it did not come to that.
    """

    path: Path
    destinations: tuple[str, ...]
    began: float
    node: str = ""


def resume(app: App, name: str) -> Outcome:
    """As `App.resume`; how a backup went is put into the file of metrics that its run was begun with.

    Raises:
        OrchestratorError: As there. When nothing of the run could be gone on with, nothing is told.
        StoreError: The file of metrics cannot be written.
    """
    known = journal.read(runs.directory(runs.resolve(name)))
    attempt = _attempt(known)
    try:
        outcome = app.resume(known.run)
    except OrchestratorError as err:
        if attempt and err.run:
            tell_failure(app, attempt, err)
        raise
    if attempt:
        lacks = any(told(step, known.past) for step in known.plan.steps() if step.action == "etcd.complete")
        tell(app, attempt, known.run, failed=lacks)  # going on with it made the set no better
    return outcome


def _attempt(known: Contents) -> Attempt | None:
    """What monitoring is told of when a run goes on; None for one that is over, or has no file of metrics."""
    path = known.meta.get(runs.METRICS)
    if known.plan.kind != KIND or known.ended or not path:
        return None
    to = next(step.params["destinations"] for step in known.plan.steps() if step.action == "etcd.store")
    return Attempt(Path(path), tuple(to), known.started, known.plan.nodes()[0])


def tell_failure(app: App, attempt: Attempt, err: BaseException) -> None:
    """As `tell`, of one that ended with an error; what hinders it is a note of that error, which it must not hide."""
    try:
        tell(app, attempt, err.run if isinstance(err, OrchestratorError) else "", failed=True)
    except StoreError as also:
        err.add_note(str(also))


def tell(app: App, attempt: Attempt, run: str, *, failed: bool = False) -> None:
    """Put how a backup went into the file of metrics, by what its destinations hold of it.

    Args:
        app: For the clock and hosts.
        attempt: The file, and what it is told of.
        run: The one that took it; "" when it did not come to that.
        failed: The run did not end well, whatever is stored.

    Raises:
        StoreError: The file cannot be written.
    """
    stored: dict[str, Record] = {}
    for url in attempt.destinations:
        with contextlib.suppress(BackupError, HostError, ApiError):
            taken = backups.of_run(app, [url], run, attempt.node) if run else None
            if taken:
                stored[url] = taken.record
    whole = len(stored) == len(attempt.destinations) > 0
    now = app.clock.wall()
    record = next(iter(stored.values()), None)
    copies = tuple(
        metrics.Copy(destination=url, ok=url in stored, success_at=stored[url].at if url in stored else None)
        for url in attempt.destinations
    )
    new = metrics.Metrics(
        cluster=record.cluster if record else _cluster_of(attempt.path, app),
        attempt_at=now,
        attempt_ok=whole and not failed,
        copies=copies,
    )
    if record and whole:
        new = msgspec.structs.replace(
            new,
            success_at=record.at,
            size_bytes=record.size_bytes,
            stored_size_bytes=record.data.size_bytes,
            duration_s=now - attempt.began,
            revision=record.revision,
            verified=True,
            keys=record.keys,
        )
    metrics.update(attempt.path, new)


def _cluster_of(path: Path, app: App) -> str:
    """The cluster that failed: the only one of the file that ever succeeded, or else the context's name."""
    try:
        known = metrics.parse(path.read_text(errors="replace"))
    except OSError:
        known = ()
    succeeded = [each.cluster for each in known if each.success_at is not None]
    return succeeded[0] if len(succeeded) == 1 else app.settings.context or "unknown"


def too_old(catalogues: Sequence[Catalogue], age_s: float, now: float) -> str:
    """Why there is no snapshot that is whole and younger than that; "" when there is one."""
    # One that is dated in the future was so by a wrong clock: how old it is nobody knows.
    newest = max((h.record.at for c in catalogues for h in c.held if not h.wrong and h.record.at <= now), default=None)
    if newest is None:
        return "there is no snapshot that is whole"
    if now - newest <= age_s:
        return ""
    return f"the newest snapshot is {(now - newest) / 3600:.1f} h old; it may be {age_s / 3600:.1f} h"
