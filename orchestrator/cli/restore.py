"""`etcd restore`."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Output,
    OutputOption,
    Owner,
    Ssh,
    Trailer,
)

if TYPE_CHECKING:
    from orchestrator.app import App
    from orchestrator.engine.plan import Plan
    from orchestrator.errors import OrchestratorError
    from orchestrator.library import Library
    from orchestrator.rebuilds import Wish
    from orchestrator.restores import Prepared


#: The end of a remedy that has a run go on.
_GOING_ON = re.compile(r"[,;]?\s*(?:then\s+|or\s+|go on:\s+)*`?(?:orchestrator )?resume\b.*", re.DOTALL)


class DataDirMode(StrEnum):
    """Where the restored data go."""

    SWAP = "swap"
    NEW_PATH = "new-path"


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the cluster's name.")]


def register(etcd: typer.Typer) -> None:
    """Add the command."""
    etcd.command("restore", epilog="Example:  orchestrator etcd restore last --dry-run")(restore)


def restore(
    snapshot: Annotated[
        str, typer.Argument(metavar="[SNAPSHOT]", help="Its name or the beginning of it, `last`, or a file.")
    ] = "",
    source: From = None,
    identity: Identity = None,
    dead: Annotated[
        list[str] | None, typer.Option("--dead", metavar="NODE", help="A control plane that is gone for good.")
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", metavar="WHAT", help="other-cluster, one-member-lost: what would be refused."),
    ] = None,
    onto: Annotated[
        list[str] | None,
        typer.Option(
            "--onto", metavar="NODE", help="All is gone: make this fresh machine a control plane; repeatable."
        ),
    ] = None,
    recovery_set: Annotated[
        Path | None,
        typer.Option("--recovery-set", metavar="FILE", help="With --onto: another than the one beside the snapshot."),
    ] = None,
    trailer: Trailer = True,
    mode: Annotated[
        DataDirMode,
        typer.Option("--data-dir-mode", help="Old data aside, or the restored ones at a path of their own."),
    ] = DataDirMode.SWAP,
    data_dir: Annotated[str, typer.Option("--data-dir", metavar="PATH", help="That path.", show_default=False)] = "",
    confirm: Annotated[
        str, typer.Option("--confirm", metavar="RUN", help="Delete the old data of a restore that ended well.")
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
    """Take etcd back to a snapshot, on all control planes at once, and keep the way back.

    The snapshot is proven and rehearsed first, and restored beside the live data while they serve. Then API servers
    are stopped everywhere, etcd everywhere, the data swapped, and all started again, each of it a barrier. What fails
    before etcd is started swings everything back; `release RUN` does so later, until --confirm RUN deletes the old
    data.

    When all control planes are gone, --onto makes them anew on machines of the same names and addresses, out of the
    recovery set that is stored beside the snapshot.
    """
    from orchestrator import aftermaths, rebuilds, restores  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import say  # noqa: PLC0415
    from orchestrator.errors import BadUsage  # noqa: PLC0415
    from orchestrator.library import Library  # noqa: PLC0415

    app = application(
        kubeconfig=kubeconfig, context=context, log_format=log_format, owner=owner, yes=yes, ssh=ssh,
        dry_run=perform.dry_run(dry_run), patience_s=PATIENCE_S,
    )  # fmt: skip
    if bool(snapshot) == bool(confirm):
        raise BadUsage("name a snapshot, or a run with --confirm", remedy="orchestrator etcd list; orchestrator runs")
    if confirm:
        plan = restores.confirmed(app, confirm)
        outcome = perform.performed(app, plan)
        if dry_run is DryRunChoice.NONE:
            aftermaths.forget(app, plan)
        perform.finish(app, outcome, output, "confirmed")
        return
    if data_dir and mode is DataDirMode.SWAP:
        raise BadUsage("--data-dir is where the restored data go with --data-dir-mode new-path", remedy="give both")
    library = Library(app, tuple(source or ()))
    if onto or recovery_set:
        if not onto or dead or accept:
            raise BadUsage(
                "--recovery-set needs --onto, and neither goes with --dead or --accept",
                remedy="name the machines: --onto NODE; those that are gone for good are left out",
            )
        asked = rebuilds.Wish(snapshot, tuple(onto), recovery_set, tuple(identity or ()), trailer)
        _rebuild(app, library, asked, output)
        return
    wish = restores.Wish(
        name=snapshot,
        identities=tuple(identity or ()),
        dead=tuple(dead or ()),
        accept=tuple(accept or ()),
        trailer=trailer,
        target=(data_dir or restores.NEW_PATH) if mode is DataDirMode.NEW_PATH else "",
    )
    found = restores.prepare(app, library, wish, say, rehearse=dry_run is DryRunChoice.NONE)
    for warning in found.warnings:
        say(warning)
    _carry_out(app, found, output)


def _rebuild(app: App, library: Library, wish: Wish, output: Output) -> None:
    """Control planes that are gone, on new machines."""
    from orchestrator import rebuilds  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415
    from orchestrator.cli.output import say  # noqa: PLC0415

    found = rebuilds.prepare(app, library, wish, say)
    for warning in found.warnings:
        say(warning)

    def failed(err: OrchestratorError) -> None:
        for line in rebuilds.standing(app, found.plan):
            err.add_note(line)

    outcome = perform.performed_or(app, found.plan, clear=partial(rebuilds.clear, found.name), failed=failed)
    perform.finish(app, outcome, output, "rebuilt")


def _carry_out(app: App, found: Prepared, output: Output) -> None:
    from orchestrator import restores  # noqa: PLC0415
    from orchestrator.cli import perform  # noqa: PLC0415

    outcome = perform.performed_or(
        app, found.plan, clear=partial(restores.clear, found.name), failed=partial(swing_back, app)
    )
    more, said = aftermath(app, outcome.run, outcome.plan)
    perform.finish(app, outcome, output, "restored", more=more, said=said)


def aftermath(app: App, run: str, plan: Plan) -> tuple[dict[str, Any], str]:
    """What a restore that ended adds to its result, as a document and for people; nothing of another run."""
    from orchestrator import aftermaths  # noqa: PLC0415
    from orchestrator.cli.output import say  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415
    from orchestrator.report import restores as report  # noqa: PLC0415

    if not run or not aftermaths.wanted(plan):
        return {}, ""
    found = aftermaths.looked(app, run, plan, say)
    return {"restore": bodies.body(report.document(found))}, f"\n{report.text(found)}"


def swing_back(app: App, err: OrchestratorError) -> None:
    """Take the restore back that an error ended early, whether begun or resumed, and have the error say so.

    Neither one that a person stopped, nor one that somebody else is at work on. What cannot be taken back is left to
    the operator, with the ways on and back.
    """
    from orchestrator import restores  # noqa: PLC0415
    from orchestrator.cli.output import say  # noqa: PLC0415
    from orchestrator.errors import Interrupted, Locked, OrchestratorError  # noqa: PLC0415

    if not err.run or isinstance(err, Interrupted | Locked):
        return
    try:
        if restores.swing_back(app, err.run, say):
            err.run = ""
            err.add_note("everything was swung back: the cluster has its old data")
            if (found := _GOING_ON.search(err.remedy)) is not None:
                err.remedy = f"{err.remedy[: found.start()] or 'see to it'}, then restore again"
    except OrchestratorError as other:
        err.add_note(f"it could not be swung back: {other}")
