"""`etcd drill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import (
    Context,
    From,
    Identity,
    Kubeconfig,
    LogFormat,
    LogFormatOption,
    MetricsFile,
    Output,
    OutputOption,
    Quiet,
    Ssh,
    Trailer,
)


def register(etcd: typer.Typer) -> None:
    """Add the command."""
    etcd.command("drill", epilog="Example:  orchestrator etcd drill last --from s3://backups/prod -i key.txt")(drill)


def drill(
    snapshot: Annotated[
        str, typer.Argument(metavar="[SNAPSHOT]", help="Its name or the beginning of it, `last`, or a file.")
    ] = "last",
    source: From = None,
    identity: Identity = None,
    node: Annotated[
        str, typer.Option("--node", help="On the host of this control plane.", show_default="where it was taken")
    ] = "",
    here: Annotated[bool, typer.Option("--here", help="On this machine, with an etcd of --programs or PATH.")] = False,
    programs: Annotated[
        Path | None, typer.Option("--programs", metavar="DIR", help="Where etcd, etcdctl and etcdutl are, for --here.")
    ] = None,
    trailer: Trailer = True,
    metrics_file: MetricsFile = None,
    quiet: Quiet = False,
    ssh: Ssh = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Rehearse a restore: a real etcd is started on the snapshot, beside everything, and looked at.

    It listens on sockets that only root may enter, has the lowest priority, and is cleared away. Exits with 40 when
    what it has is not what the snapshot has. The outcome is put into the snapshot's record.
    """
    from orchestrator import drills  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import say, show, unsaid  # noqa: PLC0415
    from orchestrator.errors import BadUsage  # noqa: PLC0415
    from orchestrator.library import Library  # noqa: PLC0415
    from orchestrator.report import backups as report  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415

    if here and node:
        raise BadUsage("--here and --node are two places", remedy="leave one of them out")
    if programs and not here:
        raise BadUsage("--programs is for --here", remedy="add --here, or leave it out")
    app = application(kubeconfig=kubeconfig, context=context, log_format=log_format, quiet=quiet, ssh=ssh)
    library = Library(app, tuple(source or ()))
    wish = drills.Wish(
        name=snapshot,
        node=node.removeprefix("node/"),
        here=here,
        programs=str(programs.absolute()) if programs else "",
        identities=tuple(identity or ()),
        trailer=trailer,
    )
    found = drills.drill(app, library, wish, unsaid if quiet else say)
    if metrics_file:
        drills.tell(metrics_file, found, library.now())
    if not quiet or output is not Output.TABLE:
        show(output, "DrillResult", bodies.body(report.drill_document(found)), report.drill(found))
    drills.demand(found)
