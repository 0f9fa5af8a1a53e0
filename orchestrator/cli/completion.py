"""Answers for the shell. Whatever goes wrong, a completion is silent: it must not disturb the line being typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from pathlib import Path

#: A completion that takes longer than this is worse than none.
PATIENCE_S = 2.0


def nodes(kubeconfig: Path | None, context: str | None, incomplete: str) -> list[str]:
    """Names of the cluster's nodes that begin so, also as `node/NAME`."""
    from orchestrator.app import App, Settings  # noqa: PLC0415
    from orchestrator.engine.events import Silent  # noqa: PLC0415

    settings = Settings(str(kubeconfig) if kubeconfig else None, context, patience_s=PATIENCE_S)
    prefix = "node/" if incomplete.startswith("node/") else ""
    try:
        names = [prefix + n.name for n in App(settings, Silent()).view.nodes()]
    except OrchestratorError:
        return []
    return [n for n in names if n.startswith(incomplete)]


def contexts(kubeconfig: Path | None, incomplete: str) -> list[str]:
    """Contexts that begin so."""
    from orchestrator.kube import kubeconfig as files  # noqa: PLC0415

    try:
        return [c for c in files.contexts(str(kubeconfig) if kubeconfig else None) if c.startswith(incomplete)]
    except OrchestratorError:
        return []


def run_ids(incomplete: str) -> list[str]:
    """Runs whose id begins so, newest first."""
    from orchestrator.engine import runs  # noqa: PLC0415

    return [r.id for r in runs.listing() if r.id.startswith(incomplete)]
