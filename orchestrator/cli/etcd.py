"""The `etcd` commands."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import backup, drill
from orchestrator.cli.options import Context, Kubeconfig, LogFormat, LogFormatOption, Output, OutputOption

Ssh = Annotated[bool, typer.Option("--ssh", help="Reach every node by SSH, those of kind and minikube too.")]

#: Who only looks is told soon that nobody answers.
PATIENCE_S = 10.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    etcd = typer.Typer(help="etcd: its members, and backups that are proven.")
    backup.register(etcd)
    drill.register(etcd)
    etcd.command("status", epilog="Example:  orchestrator etcd status -o json | jq .members")(status)
    app.add_typer(etcd, name="etcd", rich_help_panel=None)


def status(
    ssh: Ssh = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show each member of etcd: version, addresses, certificates, data, health, sizes, latencies.

    Members are asked directly, and their hosts looked at; no etcdctl is needed on a host.
    """
    from orchestrator import etcds  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415
    from orchestrator.report import etcd as report  # noqa: PLC0415

    app = application(kubeconfig=kubeconfig, context=context, log_format=log_format, patience_s=PATIENCE_S, ssh=ssh)
    found = etcds.survey(app)
    show(output, "EtcdStatus", bodies.body(report.document(found)), report.table(found))
