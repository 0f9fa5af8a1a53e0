"""`status`, `unmanaged` and `doctor`: commands that only look."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import (
    PATIENCE_S,
    Context,
    Kubeconfig,
    LogFormat,
    LogFormatOption,
    Nodes,
    Output,
    OutputOption,
)

All = Annotated[bool, typer.Option("--all", "-A", help="Every row, however many; -o json always has them all.")]
For = Annotated[
    list[str] | None,
    typer.Option("--for", metavar="COMMAND", help="Check the permissions of this command only; may be repeated."),
]

#: `doctor` found something that has to be put right first.
FAILED = 20


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example:  orchestrator status -o json | jq .summary")(status)
    app.command(epilog="Example:  orchestrator unmanaged node-1 node-2")(unmanaged)
    app.command(epilog="Example:  orchestrator doctor --for drain")(doctor)


def status(
    everything: All = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show the cluster at a glance, and what needs attention.

    How many nodes, which are ready, cordoned (by whom, why, since when) or outside the version skew; how many
    applications and which nodes host them; which nodes can take workloads, why a node is empty, why pods are on the
    control plane; budgets that allow nothing; etcd; the ends of certificates; the last verified backup.
    """
    from orchestrator import surveys  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.report import bodies, tables  # noqa: PLC0415

    app = application(kubeconfig=kubeconfig, context=context, log_format=log_format, patience_s=PATIENCE_S)
    found = surveys.status(app)
    if output is Output.TABLE:
        show(output, "ClusterStatus", {}, tables.status(found, everything=everything))
    else:
        show(output, "ClusterStatus", bodies.body(bodies.cluster_status(found)), "")


def unmanaged(
    nodes: Nodes = None,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List pods that no controller would bring back.

    On the nodes that are named, or on all. For each: what a drain, a drain with --force, and the loss of its node
    would do to it. Both drains are meant with --ignore-daemonsets.
    """
    from orchestrator import surveys  # noqa: PLC0415
    from orchestrator.app import DryRun  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.report import bodies, tables  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, patience_s=PATIENCE_S, dry_run=DryRun.CLIENT
    )
    names = perform.targets(app, nodes, "", allow_empty=False) if nodes else ()
    found = surveys.unmanaged_pods(app, names)
    show(output, "UnmanagedPods", bodies.body(bodies.unmanaged_pods(found)), tables.unmanaged(found))


def doctor(
    commands: For = None,
    output: OutputOption = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check what is missing for the commands to work.

    On this machine, in this kubeconfig, and in this cluster: versions, permissions, clocks, certificates, locks. It
    changes nothing.

    Exits with 20 when something has to be put right first, else with 0.
    """
    from orchestrator import doctor as examination  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.cluster.checkup import Level  # noqa: PLC0415
    from orchestrator.report import bodies, tables  # noqa: PLC0415

    app = application(kubeconfig=kubeconfig, context=context, patience_s=examination.PATIENCE_S)
    findings = examination.examine(app, examination.chosen(commands))
    show(output, "DoctorReport", bodies.body(bodies.doctor_report(findings)), tables.doctor(findings))
    if bodies.worst(findings) is Level.FAILED:
        raise typer.Exit(FAILED)
