"""Options that several commands share. Nothing heavier than typer is imported before a command runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

#: Who only looks is told soon that nobody answers; commands that change something outlast a control plane's restart.
PATIENCE_S = 10.0
#: The exit code of a result in which hosts could not be worked on, as of `HostError`.
UNREACHED = 11


class Output(StrEnum):
    """The form of the result."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class LogFormat(StrEnum):
    """The form of the progress."""

    TEXT = "text"
    JSON = "json"


class DryRunChoice(StrEnum):
    """kubectl's values; the bare flag means client."""

    NONE = "none"
    CLIENT = "client"
    SERVER = "server"


def complete_nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of nodes, for the shell."""
    from orchestrator.cli import completion  # noqa: PLC0415

    return completion.nodes(ctx.params.get("kubeconfig"), ctx.params.get("context"), incomplete)


def complete_contexts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of contexts, for the shell."""
    from orchestrator.cli import completion  # noqa: PLC0415

    return completion.contexts(ctx.params.get("kubeconfig"), incomplete)


def complete_runs(incomplete: str) -> list[str]:
    """Ids of runs, for the shell."""
    from orchestrator.cli import completion  # noqa: PLC0415

    return completion.run_ids(incomplete)


Kubeconfig = Annotated[
    Path | None, typer.Option("--kubeconfig", help="Kubeconfig file, instead of $KUBECONFIG or ~/.kube/config.")
]
Ssh = Annotated[
    bool,
    typer.Option("--ssh", envvar="ORCHESTRATOR_SSH", help="Reach every node by SSH, those of kind and minikube too."),
]
Context = Annotated[
    str | None,
    typer.Option("--context", help="Context of the kubeconfig.", autocompletion=complete_contexts),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Form of the result on stdout.")]
LogFormatOption = Annotated[LogFormat, typer.Option("--log-format", help="Form of the progress on stderr.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a plan of several nodes.")]
Owner = Annotated[
    str,
    typer.Option(
        "--owner", envvar="ORCHESTRATOR_OWNER", help="Whose cordon it is; user@host by default.", show_default=False
    ),
]
DryRunOption = Annotated[
    DryRunChoice,
    typer.Option("--dry-run", help="client: only show what would be done; server: have the API server check it too."),
]
Selector = Annotated[str, typer.Option("--selector", "-l", help="Nodes by label, such as role=web,zone!=a.")]
Nodes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NODE]...", help="Nodes by name, or as node/NAME.", autocompletion=complete_nodes),
]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="A selector that matches no node is not an error.")]
RunId = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Id of a run, its beginning, or `last`.", autocompletion=complete_runs),
]
From = Annotated[
    list[str] | None,
    typer.Option(
        "--from", metavar="DEST", envvar="ORCHESTRATOR_BACKUP_TO", help="Where snapshots are; repeatable.",
        show_default="this user's directory",
    ),
]  # fmt: skip
Identity = Annotated[
    list[Path] | None,
    typer.Option("--identity", "-i", metavar="FILE", help="What decrypts: an identity of age, or an SSH key."),
]
Trailer = Annotated[
    bool, typer.Option("--trailer/--no-trailer", help="A copy of member/snap/db has no sum at its end.")
]
OnNode = Annotated[
    str, typer.Option("--node", help="On the host of this control plane.", show_default="where it was taken")
]
Here = Annotated[bool, typer.Option("--here", help="On this machine, with programs of --programs or PATH.")]
Programs = Annotated[
    list[Path] | None,
    typer.Option(
        "--programs", metavar="DIR", help="For --here: where etcd, kube-apiserver and their clients are; repeatable."
    ),
]
Encryption = Annotated[
    Path | None,
    typer.Option(
        "--encryption-config", metavar="FILE", help="Keys of encryption at rest.", show_default="that host's own"
    ),
]
MetricsFile = Annotated[
    Path | None,
    typer.Option(
        "--metrics-file", metavar="FILE", envvar="ORCHESTRATOR_METRICS_FILE",
        help="For node_exporter's textfile collector: *.prom.",
    ),
]  # fmt: skip
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Silent when all is well: for cron.")]
