"""The use cases that only look: one reading of the cluster each, judged by pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster.overview import Backup, Status, overview
from orchestrator.cluster.unmanaged import UnmanagedPods, unmanaged
from orchestrator.engine import runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.app import App
    from orchestrator.kube.about import KubeAbout


def about(app: App) -> KubeAbout:
    """What the cluster tells of itself."""
    from orchestrator.kube.about import KubeAbout  # noqa: PLC0415  the client library is slow to import

    return KubeAbout(app.session, app.clock, patience_s=app.settings.patience_s)


def status(app: App) -> Status:
    """The cluster at a glance.

    Raises:
        ApiError: A list could not be read. Half a picture is not shown as a whole one.
    """
    view, told = app.view, about(app)
    nodes, pods, budgets = view.nodes(), view.pods(), view.budgets()
    workloads = view.workloads()  # after the pods, or a new controller would look like a missing one
    seen = overview(
        nodes, pods, budgets, workloads, server_version=told.version(), etcd_answers=told.etcd_answers()
    )  # fmt: skip
    return Status(
        server=app.session.server,
        context=app.session.choice.context,
        at=app.clock.wall(),
        seen=seen,
        serving_end=told.serving_certificate_end(),
        credentials=told.credentials(),
        backup=last_backup(app),
    )


def last_backup(app: App) -> Backup:
    """The newest snapshot of the cluster in this user's own directory; destinations elsewhere are not asked."""
    if not runs.snapshots().is_dir():
        return Backup()
    from orchestrator.away import ours  # noqa: PLC0415  not for those who make no backups here
    from orchestrator.library import Library  # noqa: PLC0415

    found, failed = Library(app, [str(runs.snapshots())]).catalogues()
    now = app.clock.wall()  # one that is dated in the future was so by a wrong clock
    whole = [h.record for each in found for h in each.held if not h.wrong and h.record.at <= now]
    newest = max(ours(app, whole), key=lambda record: record.at, default=None)
    return Backup(newest.name, newest.at) if newest else Backup(unread="; ".join(str(err) for _, err in failed))


def unmanaged_pods(app: App, nodes: Sequence[str]) -> UnmanagedPods:
    """Pods on `nodes`, or on all when there are none, that no controller would bring back.

    Raises:
        ApiError: A list could not be read.
    """
    view = app.view
    pods = tuple(p for n in nodes for p in view.pods_on(n).pods) if nodes else view.pods()
    budgets, workloads = view.budgets(), view.workloads()
    return UnmanagedPods(tuple(nodes), len(pods), unmanaged(pods, workloads, budgets, now=app.clock.wall()))
