"""`etcd backup`, `list`, `verify`, `prune` and `pin`."""

from __future__ import annotations

import contextlib
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import (
    PATIENCE_S,
    Context,
    DryRunChoice,
    DryRunOption,
    From,
    Identity,
    Kubeconfig,
    LogFormat,
    LogFormatOption,
    MetricsFile,
    Output,
    OutputOption,
    Owner,
    Quiet,
    Ssh,
    Trailer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.app import App
    from orchestrator.backups import Wish
    from orchestrator.library import Library

To = Annotated[
    list[str] | None,
    typer.Option(
        "--to", metavar="DEST", envvar="ORCHESTRATOR_BACKUP_TO",
        help="A directory, FILE.db, sftp://HOST/DIR, NODE:/DIR, s3://BUCKET/PREFIX, gs://…, az://…; repeatable.",
        show_default="this user's directory",
    ),
]  # fmt: skip
Recipient = Annotated[
    list[str] | None,
    typer.Option(
        "--recipient", metavar="KEY", envvar="ORCHESTRATOR_BACKUP_RECIPIENTS",
        help="Encrypt for this key of age or SSH, or those of @FILE; repeatable.",
    ),
]  # fmt: skip
Keep = Annotated[
    str,
    typer.Option(
        "--keep", metavar="POLICY", envvar="ORCHESTRATOR_BACKUP_KEEP",
        help="What stays afterwards, such as last=7,daily=7,weekly=4,max-age=400d; nothing is removed without it.",
    ),
]  # fmt: skip
RecoverySet = Annotated[
    bool,
    typer.Option(
        "--recovery-set/--no-recovery-set", envvar="ORCHESTRATOR_BACKUP_RECOVERY_SET",
        help="Certificates, keys and settings too; encrypted.",
    ),
]  # fmt: skip
Compress = Annotated[
    bool, typer.Option("--compress/--no-compress", envvar="ORCHESTRATOR_BACKUP_COMPRESS", help="With zstd.")
]
Name = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Its name or the beginning of it, `last`, or a file.")]


def register(etcd: typer.Typer) -> None:
    """Add the commands."""
    example = "Example:  orchestrator etcd backup --to s3://backups/prod --recipient age1… --keep daily=7,weekly=4"
    etcd.command("backup", epilog=example)(backup)
    etcd.command("list", epilog="Example:  orchestrator etcd list --from s3://backups/prod --max-age 26h")(listing)
    etcd.command("verify", epilog="Example:  orchestrator etcd verify last")(verify)
    etcd.command("prune", epilog="Example:  orchestrator etcd prune --keep daily=7,weekly=4 --dry-run")(prune)
    etcd.command("pin", epilog="Example:  orchestrator etcd pin last --reason 'before the migration'")(pin)


def backup(
    to: To = None,
    recipient: Recipient = None,
    keep: Keep = "",
    node: Annotated[str, typer.Option("--node", help="Whose member.", show_default="a healthy follower")] = "",
    recovery_set: RecoverySet = True,
    compress: Compress = True,
    pin: Annotated[str, typer.Option("--pin", metavar="REASON", help="Keep it for ever, and say why.")] = "",
    scheduled: Annotated[bool, typer.Option("--scheduled", help="It is recorded as taken by a schedule.")] = False,
    metrics_file: MetricsFile = None,
    quiet: Quiet = False,
    ssh: Ssh = False,
    owner: Owner = "",
    dry_run: DryRunOption = DryRunChoice.NONE,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Take a snapshot of etcd, prove it by reading all of it, and store it at each destination, read back there.

    A destination that ends in .db gets one plain file, as etcdutl restores it; the others get NAME.db with its record
    beside it, compressed, and encrypted with --recipient.
    """
    from orchestrator import backups  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, ssh=ssh,
        dry_run=perform.dry_run(dry_run), quiet=quiet,
    )  # fmt: skip
    wish = backups.Wish(
        destinations=tuple(to or ()),
        recipients=tuple(recipient or ()),
        node=node.removeprefix("node/"),
        reason="scheduled" if scheduled else "manual",
        compress=compress,
        recovery=recovery_set,
        keep=keep,
        pin=pin,
    )
    _taken(app, wish, output, metrics_file, quiet=quiet)


def _taken(app: App, wish: Wish, output: Output, metrics_file: Path | None, *, quiet: bool) -> None:
    from orchestrator import backups, monitoring  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.output import say, show, unsaid  # noqa: PLC0415
    from orchestrator.engine import runs  # noqa: PLC0415
    from orchestrator.errors import OrchestratorError  # noqa: PLC0415
    from orchestrator.report import backups as report  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415

    where = backups.destinations(wish)
    attempt = monitoring.Attempt(metrics_file.absolute(), where, app.clock.wall()) if metrics_file else None
    noted = {runs.METRICS: str(attempt.path)} if attempt else {}
    try:
        with _terminated():
            plan = backups.prepare(app, wish, unsaid if quiet else say)
            attempt = attempt and replace(attempt, node=plan.nodes()[0])
            outcome = perform.performed(app, plan, noted=noted)
    except (OrchestratorError, KeyboardInterrupt) as err:
        if attempt:
            monitoring.tell_failure(app, attempt, err)
        raise
    if outcome.exit_code or not outcome.run:
        perform.finish(app, outcome, output, "backed up")
        return
    found = backups.of_run(app, where, outcome.run, plan.nodes()[0])
    if attempt:
        monitoring.tell(app, attempt, outcome.run)
    if output is not Output.TABLE:
        show(output, "SnapshotList", bodies.body(report.list_document(found.catalogues, (), app.clock.wall())), "")
    elif not quiet:
        show(output, "SnapshotList", {}, report.taken(found.record, found.urls))


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM as Ctrl-C, before and after the run, which heeds both itself: so that it can be told as a failure."""

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def listing(
    source: From = None,
    max_age: Annotated[
        str, typer.Option("--max-age", metavar="DURATION", help="Exit with 40 unless one is whole and younger.")
    ] = "",
    cluster: Annotated[str, typer.Option("--cluster", help="Only those of the cluster of this name.")] = "",
    ssh: Ssh = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List the snapshots at all destinations, newest first, and what is wrong with any of them."""
    from orchestrator import monitoring  # noqa: PLC0415
    from orchestrator.cli.context import duration  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.errors import BackupError  # noqa: PLC0415
    from orchestrator.report import backups as report  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415

    age_s = duration(max_age, "--max-age") if max_age else None
    library = _library(source, kubeconfig, context, log_format, ssh=ssh)
    found, failed = library.catalogues(cluster)
    now = library.now()
    told = tuple((url, str(err)) for url, err in failed)
    body = bodies.body(report.list_document(found, told, now))
    show(output, "SnapshotList", body, report.listing(found, told, now))
    if age_s is not None and (why := monitoring.too_old(found, age_s, now)):
        raise BackupError(why, remedy="orchestrator etcd backup; see why the last ones failed: orchestrator runs")
    if failed:
        raise failed[0][1]


def verify(
    snapshot: Name,
    source: From = None,
    identity: Identity = None,
    trailer: Trailer = True,
    deep: Annotated[bool, typer.Option("--deep", help="And show what is in it, by kind.")] = False,
    ssh: Ssh = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Prove a snapshot by reading all of it: sums, every page, every key. Any file will do, whoever made it.

    One that is recorded is read at every destination, with its recovery set. Exits with 40 when a copy is not whole.
    """
    from orchestrator.cli import contents  # noqa: PLC0415
    from orchestrator.cli.output import say, show  # noqa: PLC0415
    from orchestrator.library import verify as verified  # noqa: PLC0415
    from orchestrator.report import backups as report  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415

    library = _library(source, kubeconfig, context, log_format, ssh=ssh)
    if deep:
        contents.deep(library, snapshot, tuple(identity or ()), output, trailer=trailer)
        return
    found = verified(library, snapshot, tuple(identity or ()), trailer=trailer)
    for copy in (c for c in found.copies if c.unrecorded):
        say(f"{copy.url}: that it is whole could not be recorded: {copy.unrecorded}")
    where, whole = found.proven.where, found.proven.snapshot
    body = bodies.body(report.verified_document(where, whole, found.copies))
    show(output, "SnapshotVerified", body, report.verified(where, whole, found.copies))
    if found.failures:
        raise found.failures[0]


def prune(
    keep: Annotated[
        str,
        typer.Option(
            "--keep", metavar="POLICY", envvar="ORCHESTRATOR_BACKUP_KEEP",
            help="What stays: last, hourly, daily, weekly, monthly, yearly, min, max-age, max-size.",
        ),
    ],
    source: From = None,
    dry_run: Annotated[
        DryRunChoice, typer.Option("--dry-run", help="client or server: only show which rule keeps what.")
    ] = DryRunChoice.NONE,
    ssh: Ssh = False,
    output: OutputOption = Output.TABLE,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:  # fmt: skip
    """Remove the snapshots that a policy does not keep, never the last good one, and show which rule keeps what."""
    from orchestrator import backups  # noqa: PLC0415
    from orchestrator.backup import retention  # noqa: PLC0415
    from orchestrator.cli.output import show  # noqa: PLC0415
    from orchestrator.report import backups as report  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415

    policy = retention.parse(keep)
    library = _library(source, kubeconfig, context, log_format, ssh=ssh)
    now, dry = library.now(), dry_run is not DryRunChoice.NONE
    found = backups.prune(library, policy, now, dry_run=dry)
    text = "\n\n".join(report.pruned(each.url, each.judged, now, dry_run=dry) for each in found)
    body = bodies.body(report.pruned_document([(each.url, each.judged) for each in found], dry_run=dry))
    show(output, "SnapshotsPruned", body, text)


def pin(
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Its name or the beginning of it, or `last`.")],
    reason: Annotated[str, typer.Option("--reason", help='Why it is kept for ever; "" no longer.', show_default=False)],
    source: From = None,
    ssh: Ssh = False,
    log_format: LogFormatOption = LogFormat.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Keep a snapshot whatever the policy says, at every destination that has it."""
    from orchestrator import backups  # noqa: PLC0415

    library = _library(source, kubeconfig, context, log_format, ssh=ssh)
    for url in backups.pin(library, snapshot, reason):
        sys.stdout.write(f"{'pinned' if reason else 'no longer pinned'} at {url}\n")


def _library(
    source: list[str] | None, kubeconfig: Path | None, context: str | None, log_format: LogFormat, *, ssh: bool
) -> Library:
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.library import Library  # noqa: PLC0415

    app = application(kubeconfig=kubeconfig, context=context, log_format=log_format, patience_s=PATIENCE_S, ssh=ssh)
    return Library(app, tuple(source or ()))
