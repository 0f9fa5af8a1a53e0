"""`upgrade plan`, `upgrade apply` and `upgrade rollback`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.commands import Commands
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
    Ssh,
    Yes,
    complete_nodes,
)

if TYPE_CHECKING:
    from orchestrator.app import App
    from orchestrator.planners.upgrade import Hook
    from orchestrator.upgrades import Prepared

To = Annotated[
    str,
    typer.Option(
        "--to", metavar="VERSION", help="A minor (its newest patch that all nodes are offered) or a patch.",
        show_default="the next minor",
    ),
]  # fmt: skip
Some = Annotated[str, typer.Option("--nodes", metavar="NODE,…", help="Only these nodes.", show_default="all")]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        "--accept", metavar="CHECK", help="A finding of the preflight that may be, by its name; repeatable, or CHECK,…"
    ),
]
Strategy = Annotated[
    str, typer.Option("--strategy", help="rolling; all-at-once: all workers at the same time; auto: chosen, and said.")
]
WorkersWhen = Annotated[
    str, typer.Option("--workers", help="Over several minors: each-hop, or last (only where the skew allows no more).")
]
MaxUnavailable = Annotated[int, typer.Option("--max-unavailable", min=1, help="Workers out of service at once.")]
PauseAfter = Annotated[
    str, typer.Option("--pause-after", help="Stop there, to look: first-control-plane, control-planes, first-worker.")
]
Force = Annotated[bool, typer.Option("--force", help="Drains evict pods that no controller would bring back, too.")]
EmptyDir = Annotated[bool, typer.Option("--delete-emptydir-data", help="Drains evict pods with emptyDir data, too.")]
Grace = Annotated[int, typer.Option("--grace-period", help="For drains, as in `orchestrator drain`.")]
DrainTimeout = Annotated[
    str, typer.Option("--drain-timeout", metavar="DURATION", help="For each node's drain; 0 waits for ever.")
]
Renewal = Annotated[
    bool, typer.Option("--certificate-renewal/--no-certificate-renewal", help="As kubeadm's: certificates too.")
]
KubeadmTimeout = Annotated[
    str,
    typer.Option("--kubeadm-timeout", metavar="DURATION", help="On each node; then it is ended, and the run stops."),
]
Patches = Annotated[str, typer.Option("--patches", metavar="DIR", help="As kubeadm's, a directory on the nodes.")]
Before = Annotated[str, typer.Option("--before-node", metavar="COMMAND", help="Run here before each node.")]
After = Annotated[str, typer.Option("--after-node", metavar="COMMAND", help="Run here after each node.")]
OnNode = Annotated[bool, typer.Option("--hooks-on-node", help="Run both on the node itself, as root.")]
HookTimeout = Annotated[str, typer.Option("--hook-timeout", metavar="DURATION", help="For each of these commands.")]

#: A control plane takes a minute at least; what is shorter was mistyped.
SHORTEST_KUBEADM_S = 60.0
#: `upgrade plan` found something that has to be put right, or accepted, first.
REFUSED = 20


def register(app: typer.Typer) -> None:
    """Add the commands."""
    upgrade = Commands(help="Kubernetes itself, on kubeadm clusters: control planes first, then workers.")
    upgrade.command("plan", epilog="Example:  orchestrator upgrade plan --to 1.37 -o json")(plan)
    upgrade.command("apply", epilog="Example:  orchestrator upgrade apply --to 1.37 --max-unavailable 2")(apply)
    upgrade.command("rollback", epilog="Example:  orchestrator upgrade rollback node-1 --dry-run")(rollback)
    app.add_typer(upgrade, name="upgrade", rich_help_panel=None)


def plan(
    to: To = "",
    nodes: Some = "",
    accept: Accept = None,
    strategy: Strategy = "rolling",
    workers: WorkersWhen = "each-hop",
    max_unavailable: MaxUnavailable = 1,
    pause_after: PauseAfter = "",
    before_node: Before = "",
    after_node: After = "",
    hooks_on_node: OnNode = False,
    hook_timeout: HookTimeout = "10m",
    force: Force = False,
    delete_emptydir_data: EmptyDir = False,
    grace_period: Grace = -1,
    drain_timeout: DrainTimeout = "30m",
    certificate_renewal: Renewal = True,
    patches: Patches = "",
    kubeadm_timeout: KubeadmTimeout = "30m",
    ssh: Ssh = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what an upgrade would do, in order, and all that speaks against it. Nothing is changed.

    Exits with 20 when something has to be put right or accepted first, else with 0.
    """
    from orchestrator.app import DryRun  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.engine import runs  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415
    from orchestrator.report import upgrades as report  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, dry_run=DryRun.CLIENT, ssh=ssh,
    )  # fmt: skip
    found = _prepared(app, dict(locals()))
    parts = (
        found.current, found.hops, found.findings, found.accepted, (found.strategy, found.why), found.plan,
        report.durations(runs.durations("upgrade")), found.behind,
    )  # fmt: skip
    show(output, "UpgradePlan", bodies.body(report.document(*parts)), report.table(*parts))
    if found.unaccepted:
        raise typer.Exit(REFUSED)


def apply(
    to: To = "",
    nodes: Some = "",
    accept: Accept = None,
    strategy: Strategy = "rolling",
    workers: WorkersWhen = "each-hop",
    max_unavailable: MaxUnavailable = 1,
    pause_after: PauseAfter = "",
    before_node: Before = "",
    after_node: After = "",
    hooks_on_node: OnNode = False,
    hook_timeout: HookTimeout = "10m",
    force: Force = False,
    delete_emptydir_data: EmptyDir = False,
    grace_period: Grace = -1,
    drain_timeout: DrainTimeout = "30m",
    certificate_renewal: Renewal = True,
    patches: Patches = "",
    kubeadm_timeout: KubeadmTimeout = "30m",
    ssh: Ssh = False,
    owner: Owner = "",
    dry_run: DryRunOption = DryRunChoice.NONE,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Upgrade Kubernetes: a snapshot of etcd, then each node from its package repository to its return.

    What the preflight of `upgrade plan` finds stops it before anything is changed, unless it is accepted by name.
    A node that fails stops the run; the last lines say what state it is in, how to go on and how to go back.
    """
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import say  # noqa: PLC0415
    from orchestrator.engine import runs  # noqa: PLC0415
    from orchestrator.errors import Refused  # noqa: PLC0415
    from orchestrator.report import upgrades as report  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes, ssh=ssh,
        dry_run=perform.dry_run(dry_run),
    )  # fmt: skip
    found = _prepared(app, dict(locals()))
    if found.unaccepted:
        why, remedy = report.refusal(found.unaccepted)
        raise Refused(why, remedy=remedy)
    if text := report.findings_text(found.findings, found.accepted):
        say(text)
    if not found.hops:
        say(report.idle(found.current, found.behind, ()))
    lines = report.waves(found.plan, report.durations(runs.durations("upgrade")))
    short = "\n".join(["plan:", *lines]) + "\n" if lines else ""
    perform.carry_out(app, found.plan, output, "upgraded", short=short)


def rollback(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A control plane.", autocompletion=complete_nodes)],
    force: Force = False,
    delete_emptydir_data: EmptyDir = False,
    grace_period: Grace = -1,
    drain_timeout: DrainTimeout = "30m",
    ssh: Ssh = False,
    owner: Owner = "",
    dry_run: DryRunOption = DryRunChoice.NONE,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Take a control plane back to the version that it had before its last upgrade.

    Its kubelet, its static pods from what kubeadm kept, and kubeadm. What is replaced is kept beside it. On a cluster
    with one etcd member its data go back, too, when the older etcd could not read them: that is said, and asked.
    An only API server that is away is not needed, where the upgrade was started on this machine.
    """
    from orchestrator import rollbacks  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application, duration  # noqa: PLC0415
    from orchestrator.cli.output import say  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes, ssh=ssh,
        dry_run=perform.dry_run(dry_run),
    )  # fmt: skip
    flags = _flags(force=force, delete_emptydir_data=delete_emptydir_data, grace_period=grace_period)
    timeout_s = duration(drain_timeout, "--drain-timeout") or None
    back = rollbacks.prepare(app, node, flags=flags, drain_timeout_s=timeout_s, say=say)
    for loss in back.losses:
        say(f"this will be lost: {loss}")
    perform.carry_out(app, back.plan, output, "rolled back")


def _flags(*, force: bool, delete_emptydir_data: bool, grace_period: int) -> dict[str, Any]:
    """The params of a drain."""
    return {
        "force": force,
        "ignore_daemonsets": True,
        "delete_emptydir_data": delete_emptydir_data,
        "grace_period_s": grace_period if grace_period >= 0 else None,
        "pod_selector": "",
        "disable_eviction": False,
        "skip_wait_for_delete_timeout_s": 0,
        "parallel": 16,
    }


def _prepared(app: App, arguments: dict[str, Any]) -> Prepared:
    from orchestrator import upgrades  # noqa: PLC0415
    from orchestrator.cli.context import duration  # noqa: PLC0415
    from orchestrator.cli.output import say  # noqa: PLC0415
    from orchestrator.errors import BadUsage  # noqa: PLC0415
    from orchestrator.planners import upgrade as planner  # noqa: PLC0415

    named = (name.strip() for text in arguments["accept"] or () for name in text.split(","))
    accept = tuple(dict.fromkeys(name for name in named if name))
    if "all" in (name.lower() for name in accept):
        raise BadUsage("--accept=all is no check: findings are accepted one by one", remedy="name each of them")
    planner.check(arguments["strategy"], arguments["pause_after"])
    options = [] if arguments["certificate_renewal"] else ["--certificate-renewal=false"]
    options += [f"--patches={arguments['patches']}"] if arguments["patches"] else []
    kubeadm_timeout_s = duration(arguments["kubeadm_timeout"], "--kubeadm-timeout")
    if kubeadm_timeout_s < SHORTEST_KUBEADM_S:
        text = f"--kubeadm-timeout={arguments['kubeadm_timeout']}: kubeadm needs minutes, and would be ended half-way"
        raise BadUsage(text, remedy="leave it out, for 30m, or give 5m or more")
    names = [n.strip().removeprefix("node/") for n in arguments["nodes"].split(",")]
    wish = upgrades.Wish(
        to=arguments["to"],
        nodes=tuple(dict.fromkeys(n for n in names if n)),
        accept=accept,
        strategy=arguments["strategy"],
        workers=planner.workers_mode(arguments["workers"]),
        max_unavailable=arguments["max_unavailable"],
        flags=_flags(
            force=arguments["force"],
            delete_emptydir_data=arguments["delete_emptydir_data"],
            grace_period=arguments["grace_period"],
        ),
        drain_timeout_s=duration(arguments["drain_timeout"], "--drain-timeout") or None,
        pause_after=arguments["pause_after"],
        options=tuple(options),
        kubeadm_timeout_s=kubeadm_timeout_s,
        renews=arguments["certificate_renewal"],
        before=_hook(arguments, "before_node"),
        after=_hook(arguments, "after_node"),
    )
    return upgrades.prepare(app, wish, say)


def _hook(arguments: dict[str, Any], name: str) -> Hook | None:
    from orchestrator.cli.context import duration  # noqa: PLC0415
    from orchestrator.errors import BadUsage  # noqa: PLC0415
    from orchestrator.planners.upgrade import Hook  # noqa: PLC0415

    text = arguments[name]
    if not text:
        return None
    try:
        argv = tuple(shlex.split(text))
    except ValueError as err:
        raise BadUsage(f"--{name.replace('_', '-')}={text}: {err}", remedy="quote it as for a shell") from err
    timeout_s = duration(arguments["hook_timeout"], "--hook-timeout") or 600.0
    return Hook(argv, timeout_s, on_node=arguments["hooks_on_node"])
