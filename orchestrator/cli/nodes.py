"""`cordon`, `uncordon` and `drain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import (
    AllowEmpty,
    Context,
    DryRunChoice,
    DryRunOption,
    Kubeconfig,
    LogFormat,
    LogFormatOption,
    Nodes,
    Output,
    OutputOption,
    Owner,
    Selector,
    Yes,
)

if TYPE_CHECKING:
    from orchestrator.app import App

Force = Annotated[bool, typer.Option("--force", help="Evict pods that no controller would bring back, too.")]
IgnoreDaemonSets = Annotated[bool, typer.Option("--ignore-daemonsets", help="Leave pods of DaemonSets in place.")]
DeleteEmptyDir = Annotated[
    bool, typer.Option("--delete-emptydir-data", help="Evict pods whose emptyDir contents are lost by it, too.")
]
GracePeriod = Annotated[
    int, typer.Option("--grace-period", help="Seconds for each pod to end, instead of its own; negative: its own.")
]
Timeout = Annotated[
    str, typer.Option("--timeout", help="For each node's evictions, such as 5m; 0 waits for ever.", metavar="DURATION")
]
PodSelector = Annotated[str, typer.Option("--pod-selector", help="Only pods with these labels.")]
DisableEviction = Annotated[
    bool, typer.Option("--disable-eviction", help="Delete pods without asking their disruption budgets.")
]
SkipWait = Annotated[
    int,
    typer.Option(
        "--skip-wait-for-delete-timeout",
        min=0,
        help="Do not wait for pods that should have been gone this many seconds ago; 0 waits for all.",
    ),
]
ChunkSize = Annotated[
    int, typer.Option("--chunk-size", min=0, help="Objects a page when listing; 0 asks for all at once.")
]
Parallel = Annotated[
    int,
    typer.Option(
        "--parallel",
        min=1,
        max=128,
        help="Evictions asked for at once. More than 16 gains little and crowds other clients (docs/performance.md).",
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, recorded on the node for others to see.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example:  orchestrator cordon node-1 --reason 'disk is failing'")(cordon)
    app.command(epilog="Example:  orchestrator uncordon node-1")(uncordon)
    app.command(epilog="Example:  orchestrator drain node-1 --ignore-daemonsets --timeout 10m --dry-run")(drain)


def cordon(
    nodes: Nodes = None,
    selector: Selector = "",
    reason: Reason = "",
    owner: Owner = "",
    allow_empty: AllowEmpty = False,
    dry_run: DryRunOption = DryRunChoice.NONE,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Keep new pods off nodes, and record whose cordon it is and why."""
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.planners import nodes as planners  # noqa: PLC0415

    perform.arguments(nodes, selector)
    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes,
        dry_run=perform.dry_run(dry_run),
    )  # fmt: skip
    names = perform.targets(app, nodes, selector, allow_empty=allow_empty)
    perform.carry_out(app, planners.cordon(names, owner=app.owner, reason=reason), output, "cordoned")


def uncordon(
    nodes: Nodes = None,
    selector: Selector = "",
    force_owner: Annotated[
        bool, typer.Option("--force-owner", help="Undo a cordon that somebody else recorded as theirs.")
    ] = False,
    owner: Owner = "",
    allow_empty: AllowEmpty = False,
    dry_run: DryRunOption = DryRunChoice.NONE,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Let nodes take new pods again, unless the cordon is somebody else's."""
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.planners import nodes as planners  # noqa: PLC0415

    perform.arguments(nodes, selector)
    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes,
        dry_run=perform.dry_run(dry_run),
    )  # fmt: skip
    names = perform.targets(app, nodes, selector, allow_empty=allow_empty)
    perform.carry_out(app, planners.uncordon(names, owner=app.owner, force_owner=force_owner), output, "uncordoned")


def drain(
    nodes: Nodes = None,
    selector: Selector = "",
    force: Force = False,
    ignore_daemonsets: IgnoreDaemonSets = False,
    delete_emptydir_data: DeleteEmptyDir = False,
    grace_period: GracePeriod = -1,
    timeout: Timeout = "0",
    pod_selector: PodSelector = "",
    disable_eviction: DisableEviction = False,
    skip_wait_for_delete_timeout: SkipWait = 0,
    chunk_size: ChunkSize = 500,
    parallel: Parallel = 16,
    reason: Reason = "",
    owner: Owner = "",
    allow_empty: AllowEmpty = False,
    dry_run: DryRunOption = DryRunChoice.NONE,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Cordon nodes and move their pods away, one node after another.

    Every pod that forbids it is named before anything changes. A node that fails stops the run: it stays cordoned,
    and the last lines say how to go on and how to go back.
    """
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application, duration  # noqa: PLC0415
    from orchestrator.planners import nodes as planners  # noqa: PLC0415

    perform.arguments(nodes, selector)
    perform.check_selector("--pod-selector", pod_selector)
    timeout_s = duration(timeout, "--timeout")
    app: App = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes, chunk_size=chunk_size,
        dry_run=perform.dry_run(dry_run), patience_s=min(60.0, timeout_s or 60.0),
    )  # fmt: skip
    flags: dict[str, Any] = {
        "force": force,
        "ignore_daemonsets": ignore_daemonsets,
        "delete_emptydir_data": delete_emptydir_data,
        "grace_period_s": grace_period if grace_period >= 0 else None,
        "pod_selector": pod_selector,
        "disable_eviction": disable_eviction,
        "skip_wait_for_delete_timeout_s": skip_wait_for_delete_timeout,
        "parallel": parallel,
    }
    names = perform.targets(app, nodes, selector, allow_empty=allow_empty)
    plan = planners.drain(names, owner=app.owner, reason=reason, flags=flags, timeout_s=timeout_s or None)
    perform.carry_out(app, plan, output, "drained")
