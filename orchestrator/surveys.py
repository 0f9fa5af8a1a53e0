"""The use cases that only look: one reading of the cluster each, judged by pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster.overview import Status, overview
from orchestrator.cluster.unmanaged import UnmanagedPods, unmanaged

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
    )


def unmanaged_pods(app: App, nodes: Sequence[str]) -> UnmanagedPods:
    """Pods on `nodes`, or on all when there are none, that no controller would bring back.

    Raises:
        ApiError: A list could not be read.
    """
    view = app.view
    pods = tuple(p for n in nodes for p in view.pods_on(n).pods) if nodes else view.pods()
    budgets, workloads = view.budgets(), view.workloads()
    return UnmanagedPods(tuple(nodes), len(pods), unmanaged(pods, workloads, budgets, now=app.clock.wall()))
