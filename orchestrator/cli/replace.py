"""`etcd replace-member`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import (
    PATIENCE_S,
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
)


def register(etcd: typer.Typer) -> None:
    """Add the command."""
    etcd.command("replace-member", epilog="Example:  orchestrator etcd replace-member cp-2 --dry-run")(replace_member)


def replace_member(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="The control plane whose member is lost.")] = "",
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", metavar="WHAT", help="healthy-member, no-spare: what would be refused."),
    ] = None,
    confirm: Annotated[
        str, typer.Option("--confirm", metavar="RUN", help="Delete the old data of a replacement that ended well.")
    ] = "",
    ssh: Ssh = False,
    owner: Owner = "",
    dry_run: DryRunOption = DryRunChoice.NONE,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Give a control plane whose member of etcd is lost or damaged a fresh one, while the others serve.

    A snapshot of a sound member is kept first. Then etcd is stopped there and its data set aside, the old member is
    taken out, a learner added, started, and given its vote once it is in sync. Until the old one is taken out,
    `release RUN` starts it again; afterwards `resume RUN` goes on. --confirm RUN deletes the old data.
    """
    from orchestrator import replacements  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import say  # noqa: PLC0415
    from orchestrator.errors import BadUsage  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes, ssh=ssh,
        dry_run=perform.dry_run(dry_run), patience_s=PATIENCE_S,
    )  # fmt: skip
    if bool(node) == bool(confirm):
        raise BadUsage("name a control plane, or a run with --confirm", remedy="kubectl get nodes; orchestrator runs")
    if confirm:
        perform.carry_out(app, replacements.confirmed(app, confirm), output, "confirmed")
        return
    found = replacements.prepare(app, node.removeprefix("node/").removeprefix("nodes/"), tuple(accept or ()), say)
    for warning in found.warnings:
        say(warning)
    perform.carry_out(app, found.plan, output, "cared for")
