"""`etcd drill`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import (
    Context,
    Encryption,
    From,
    Here,
    Identity,
    Kubeconfig,
    LogFormat,
    LogFormatOption,
    MetricsFile,
    OnNode,
    Output,
    OutputOption,
    Programs,
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
    api_server: Annotated[
        bool, typer.Option("--api-server", help="Start an API server on it too, and have it read every object.")
    ] = False,
    node: OnNode = "",
    here: Here = False,
    programs: Programs = None,
    encryption: Encryption = None,
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
    what it has is not what the snapshot has. The outcome is put into the snapshot's record. With --api-server, each
    object is decrypted, decoded and counted.
    """
    from orchestrator import drills  # noqa: PLC0415
    from orchestrator.cli.context import application, seat  # noqa: PLC0415
    from orchestrator.cli.output import say, show, unsaid  # noqa: PLC0415
    from orchestrator.errors import BadUsage  # noqa: PLC0415
    from orchestrator.library import Library  # noqa: PLC0415
    from orchestrator.report import backups as report  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415

    if encryption and not api_server:
        raise BadUsage("--encryption-config is for --api-server", remedy="add --api-server, or leave it out")
    wish = drills.Wish(
        name=snapshot,
        seat=seat(node, programs, encryption, here=here),
        api_server=api_server,
        identities=tuple(identity or ()),
        trailer=trailer,
    )
    app = application(kubeconfig=kubeconfig, context=context, log_format=log_format, quiet=quiet, ssh=ssh)
    library = Library(app, tuple(source or ()))
    found = drills.drill(app, library, wish, unsaid if quiet else say)
    if metrics_file:
        drills.tell(metrics_file, found, library.now())
    if not quiet or output is not Output.TABLE:
        show(output, "DrillResult", bodies.body(report.drill_document(found)), report.drill(found))
    drills.demand(found)
