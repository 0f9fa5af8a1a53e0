"""`runs`, `resume` and `release`."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from orchestrator.cli.options import (
    Context,
    DryRunChoice,
    DryRunOption,
    Kubeconfig,
    LogFormat,
    LogFormatOption,
    Output,
    OutputOption,
    Owner,
    RunId,
    Yes,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example:  orchestrator runs")(runs)
    app.command(epilog="Example:  orchestrator resume last")(resume)
    app.command(epilog="Example:  orchestrator release drain-20261124-0159-7f3a")(release)


def runs(output: OutputOption = Output.TABLE) -> None:
    """List the runs that were started from here, newest first."""
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.engine import runs as engine_runs  # noqa: PLC0415

    found = engine_runs.listing()
    rows = [("RUN", "STATE", "STARTED", "WHAT"), *((r.id, r.state, _when(r.started), r.title) for r in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows)
    body = {"runs": [{"id": r.id, "state": r.state, "started": _iso(r.started), "title": r.title} for r in found]}
    show(output, "RunList", body, table if found else "no runs yet")


def resume(
    run: RunId,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Continue a run where it stopped. A restore that fails early is taken back, as by its own command."""
    from orchestrator import monitoring  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.cli.restore import aftermath, swing_back  # noqa: PLC0415
    from orchestrator.errors import OrchestratorError  # noqa: PLC0415

    app = application(kubeconfig=kubeconfig, context=context, log_format=log_format)
    try:
        outcome = monitoring.resume(app, run)
    except OrchestratorError as err:
        swing_back(app, err)
        raise
    body = {"run": outcome.run, "command": outcome.plan.kind, "outcome": "finished"}
    more, said = aftermath(app, outcome.run, outcome.plan)
    show(output, "RunResult", {**body, **more}, f"run {outcome.run}: {outcome.plan.title}: finished{said}")


def release(
    run: RunId,
    dry_run: DryRunOption = DryRunChoice.NONE,
    yes: Yes = False,
    owner: Owner = "",
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Put back what a stopped run changed: uncordon the nodes that it cordoned, and only those."""
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes,
        dry_run=perform.dry_run(dry_run),
    )  # fmt: skip
    perform.released(app, run, output)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
