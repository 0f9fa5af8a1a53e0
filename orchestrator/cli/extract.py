"""`etcd extract`."""

from __future__ import annotations

from enum import StrEnum
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
    OnNode,
    Programs,
    Quiet,
    Ssh,
    Trailer,
)


class Form(StrEnum):
    """The form of an object."""

    YAML = "yaml"
    JSON = "json"


def register(etcd: typer.Typer) -> None:
    """Add the command."""
    epilog = "Example:  orchestrator etcd extract last secret shop/db -i key.txt | kubectl apply -f -"
    etcd.command("extract", epilog=epilog)(extract)


def extract(
    snapshot: Annotated[
        str, typer.Argument(metavar="SNAPSHOT", help="Its name or the beginning of it, `last`, or a file.")
    ],
    kind: Annotated[str, typer.Argument(metavar="KIND", help="As kubectl takes it: deploy, deployments.apps, Secret.")],
    name: Annotated[str, typer.Argument(metavar="[NAMESPACE/]NAME", help="The object.")],
    clean: Annotated[
        bool, typer.Option("--clean/--whole", help="To be applied, or with all that the server wrote into it.")
    ] = True,
    source: From = None,
    identity: Identity = None,
    node: OnNode = "",
    here: Here = False,
    programs: Programs = None,
    encryption: Encryption = None,
    trailer: Trailer = True,
    quiet: Quiet = False,
    ssh: Ssh = False,
    output: Annotated[Form, typer.Option("--output", "-o", help="The form of the object.")] = Form.YAML,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Give one object of a snapshot back, as YAML that can be applied.

    An etcd and an API server are started on the snapshot, beside everything, for as long as that takes. They reach
    nothing else but a KMS's plugin, nobody else reaches them, and they are cleared away. Nothing is changed in the
    cluster.
    """
    from orchestrator import extracts  # noqa: PLC0415
    from orchestrator.backup.extracted import sought  # noqa: PLC0415
    from orchestrator.cli.context import application, seat  # noqa: PLC0415
    from orchestrator.cli.output import put, say, unsaid  # noqa: PLC0415
    from orchestrator.library import Library  # noqa: PLC0415
    from orchestrator.report import manifests  # noqa: PLC0415

    wish = extracts.Wish(
        name=snapshot,
        sought=sought(kind, name),
        whole=not clean,
        seat=seat(node, programs, encryption, here=here),
        identities=tuple(identity or ()),
        trailer=trailer,
    )
    app = application(kubeconfig=kubeconfig, context=context, log_format=log_format, quiet=quiet, ssh=ssh)
    library = Library(app, tuple(source or ()))
    tell = unsaid if quiet else say
    found = extracts.extract(app, library, wish, tell)
    for note in found.notes:
        tell(f"note: {note}")
    put(manifests.as_json(found.manifest) if output is Form.JSON else manifests.as_yaml(found.manifest))
