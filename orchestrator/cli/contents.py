"""`etcd diff`, and what `etcd verify --deep` tells of the contents of a snapshot."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import (
    PATIENCE_S,
    Context,
    From,
    Identity,
    Kubeconfig,
    LogFormat,
    LogFormatOption,
    Output,
    OutputOption,
    Ssh,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.app import App
    from orchestrator.backup.contents import Change, Live
    from orchestrator.cluster.etcdhosts import Etcd
    from orchestrator.library import Library, Proven
    from orchestrator.report.contents import Side

Before = Annotated[
    str, typer.Argument(metavar="BEFORE", help="A snapshot: its name or the beginning of it, `last`, or a file.")
]
After = Annotated[str, typer.Argument(metavar="[AFTER]", help="Another one; none with --live.", show_default=False)]


def register(etcd: typer.Typer) -> None:
    """Add the command."""
    etcd.command("diff", epilog="Example:  orchestrator etcd diff last --live --kind Deployment")(diff)


def diff(
    before: Before,
    after: After = "",
    live: Annotated[bool, typer.Option("--live", help="Compare with what etcd has now.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every row, and what changes by itself too: leases, events.")
    ] = False,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Only objects of this namespace.")] = "",
    kind: Annotated[str, typer.Option("--kind", help="Only of this kind: Pod, pods, widgets.example.com.")] = "",
    source: From = None,
    identity: Identity = None,
    ssh: Ssh = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show which objects were created, deleted and changed between two snapshots, or since one.

    Both are proven first. Contents are compared, not shown. With --live, an object that was written since counts as
    changed, for a running etcd is asked for keys and revisions only.
    """
    from orchestrator.backup import contents  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.errors import BadUsage  # noqa: PLC0415
    from orchestrator.library import Library, proven  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415
    from orchestrator.report import contents as report  # noqa: PLC0415

    if live == bool(after):
        raise BadUsage(
            "it takes two to compare: name AFTER, or give --live, and not both",
            remedy=f"orchestrator etcd diff {before} --live",
        )
    app = application(kubeconfig=kubeconfig, context=context, log_format=log_format, patience_s=PATIENCE_S, ssh=ssh)
    library = Library(app, tuple(source or ()))
    wanted = report.Wanted(
        namespace, kind, everything, None if everything or output is not Output.TABLE else report.MOST
    )
    notes: tuple[str, ...] = ()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(proven(library, before, tuple(identity or ()), trailer=True))
        changes: Iterator[Change]
        if live:
            known, second, notes = _asked(app, first)
            changes = contents.diff_keys(first.path, known.keys)
        else:
            other = stack.enter_context(proven(library, after, tuple(identity or ()), trailer=True))
            second = report.Side(other.where, other.snapshot.revision)
            changes = contents.diff(first.path, other.path)
            notes = _strangers(first, other)
        found = report.counted(changes, wanted)
    side = report.Side(first.where, first.snapshot.revision)
    body = bodies.body(report.differences_document(side, second, found, notes))
    show(output, "SnapshotDiff", body, report.differences(side, second, found, notes))


def deep(library: Library, snapshot: str, identities: Sequence[Path], output: Output, *, trailer: bool = True) -> None:
    """Prove a snapshot as `etcd verify` does, and show what is in it.

    Raises:
        BackupError: It is not whole, or not as recorded.
        BadUsage: There is none, or it is encrypted and there is no identity.
    """
    from orchestrator.backup import contents  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.library import proven  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415
    from orchestrator.report import contents as report  # noqa: PLC0415

    with proven(library, snapshot, identities, trailer=trailer) as found:
        census = contents.census(found.path, trailer=found.trailer)
    body = bodies.body(report.contents_document(found.where, found.snapshot, census))
    show(output, "SnapshotContents", body, report.contents(found.where, found.snapshot, census))


def _strangers(first: Proven, other: Proven) -> tuple[str, ...]:
    """That two snapshots are of different clusters, where their records tell."""
    one, two = first.record, other.record
    if one is None or two is None or one.authority == two.authority:
        return ()
    return (
        f"{one.name} is of cluster {one.cluster}, {two.name} of cluster {two.cluster}: they have no common history",
    )


def _asked(app: App, first: Proven) -> tuple[Live, Side, tuple[str, ...]]:
    """What a healthy member has now, where that is, and what makes the comparison doubtful."""
    from orchestrator import etcds  # noqa: PLC0415
    from orchestrator.backup.contents import parse_live  # noqa: PLC0415
    from orchestrator.cluster import queries  # noqa: PLC0415
    from orchestrator.cluster.frame import sections  # noqa: PLC0415
    from orchestrator.report.contents import Side  # noqa: PLC0415

    found = etcds.survey(app)
    node = healthy(found)
    answer = app.reader.ask(node, queries.ETCD_KEYS)
    known = parse_live(section.text for section in sections(answer).get("keys", ()))
    notes = []
    authority = found.hosts[node].authority
    if first.record and authority and first.record.authority != authority:
        notes.append(f"{first.record.name} is of cluster {first.record.cluster}, not of this one")
    if known.revision < first.snapshot.revision:
        notes.append(
            f"etcd is at revision {known.revision}, the snapshot at {first.snapshot.revision}: it was restored from an "
            "older one, or is another; what is called unchanged may differ"
        )
    return known, Side(f"{node}, now, cluster {found.cluster}", known.revision, live=True), tuple(notes)


def healthy(found: Etcd) -> str:
    """The node of a healthy member that can be read from, a follower where there is one. A learner cannot.

    Raises:
        Refused: There is none.
    """
    from orchestrator.errors import Refused  # noqa: PLC0415

    able: list[tuple[bool, str]] = []
    for member in found.facts.members:
        status, node = found.status_of(member), found.node_of(member)
        if status and node and not member.learner and not found.health_of(member):
            able.append((status.leader == status.id, node))
    if not able:
        away = f"etcd is on other machines ({found.external})" if found.external else "no member of etcd is well"
        raise Refused(
            f"{away}: its keys cannot be asked for",
            remedy="orchestrator etcd status; two snapshots can be compared: orchestrator etcd diff BEFORE AFTER",
        )
    return min(able)[1]
