"""The `etcd` commands."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import backup, contents, drill, extract, replace, restore
from orchestrator.cli.commands import Commands
from orchestrator.cli.options import (
    PATIENCE_S,
    UNREACHED,
    Context,
    DryRunChoice,
    DryRunOption,
    From,
    Kubeconfig,
    LogFormat,
    LogFormatOption,
    Output,
    OutputOption,
    Owner,
    Ssh,
    Yes,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    etcd = Commands(help="etcd: its members, and backups that are proven.")
    backup.register(etcd)
    drill.register(etcd)
    contents.register(etcd)
    extract.register(etcd)
    restore.register(etcd)
    replace.register(etcd)
    etcd.command("status", epilog="Example:  orchestrator etcd status -o json | jq .members")(status)
    etcd.command("defrag", epilog="Example:  orchestrator etcd defrag --dry-run")(defrag)
    etcd.command("disarm", epilog="Example:  orchestrator etcd disarm --dry-run")(disarm)
    app.add_typer(etcd, name="etcd", rich_help_panel=None)


def status(
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NAME", help="A control plane to ask, without the API; repeatable."),
    ] = None,
    source: From = None,
    ssh: Ssh = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show each member of etcd: version, addresses, certificates, data, health, sizes, latencies.

    Members are asked directly, and their hosts looked at; no etcdctl is needed on a host. Where the API does not
    answer, control planes are those of the newest snapshot of this cluster, or of a run from here.

    Exits with 11 when no host could be asked, else with 0.
    """
    from orchestrator import away  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import say, show  # noqa: PLC0415
    from orchestrator.library import Library, home  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415
    from orchestrator.report import etcd as report  # noqa: PLC0415

    app = application(kubeconfig=kubeconfig, context=context, log_format=log_format, patience_s=PATIENCE_S, ssh=ssh)
    names = tuple(dict.fromkeys(name.removeprefix("node/") for name in node or ()))
    found = away.survey(app, Library(app, [*(source or ()), str(home())]), names, say)
    show(output, "EtcdStatus", bodies.body(report.document(found)), report.table(found))
    if not found.hosts:
        raise typer.Exit(UNREACHED)


def defrag(
    above: Annotated[
        float, typer.Option("--above", min=0.0, max=1.0, help="Only members of which a larger share is unused.")
    ] = 0.5,
    least: Annotated[
        int, typer.Option("--at-least", metavar="MB", min=0, help="Only where more than so much is unused.")
    ] = 64,
    ssh: Ssh = False,
    owner: Owner = "",
    dry_run: DryRunOption = DryRunChoice.NONE,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Give unused space of etcd's databases back, one member after another, the leader last.

    A member answers nothing while its database is rewritten; it is touched only while all others are well.
    """
    from orchestrator import etcds  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes, ssh=ssh,
        dry_run=perform.dry_run(dry_run),
    )  # fmt: skip
    plan = etcds.defragment(app, share=above, least_bytes=least * 1_000_000)
    perform.carry_out(app, plan, output, "defragmented")


def disarm(
    ssh: Ssh = False,
    owner: Owner = "",
    dry_run: DryRunOption = DryRunChoice.NONE,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Bring etcd out of the alarm NOSPACE: old revisions dropped, members defragmented, the alarm cleared.

    While the alarm is raised the API takes no writes, so the run's lock is on a control plane's disk.
    """
    from orchestrator import etcds  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import say  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes, ssh=ssh,
        dry_run=perform.dry_run(dry_run),
    )  # fmt: skip
    plan = etcds.disarm(app, say)
    perform.carry_out(app, plan, output, "cared for")
