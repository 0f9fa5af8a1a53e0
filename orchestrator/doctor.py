"""What this machine, this kubeconfig and this cluster lack for the commands. It changes nothing.

Each look that fails is a finding; the looks that need what failed are left out.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

from orchestrator.cluster import checkup
from orchestrator.cluster.checkup import Finding, Level
from orchestrator.engine import runs
from orchestrator.errors import BadUsage, OrchestratorError
from orchestrator.surveys import about
from orchestrator.words import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.app import App
    from orchestrator.kube.about import KubeAbout
    from orchestrator.kube.kubeconfig import Choice

#: Runs in these states wait for `resume` or `release`.
UNFINISHED = ("stopped", "failed", "damaged")
#: How many runs a finding names.
NAMES = 5
#: A doctor who waits a minute for a server that is down is no help.
PATIENCE_S = 5.0


def chosen(commands: Sequence[str] | None) -> tuple[str, ...]:
    """The commands whose permissions are meant; all of them when none is named.

    Raises:
        BadUsage: There is no such command, or it needs no permission.
    """
    from orchestrator.kube.permissions import COMMANDS  # noqa: PLC0415  the client library is slow to import

    for name in commands or ():
        if name not in COMMANDS:
            raise BadUsage(f"--for={name}: no permissions are known for it", remedy=f"one of: {', '.join(COMMANDS)}")
    return tuple(dict.fromkeys(commands or COMMANDS))


def examine(app: App, commands: Sequence[str]) -> tuple[Finding, ...]:
    """Everything there is to find, in the order in which the commands come to need it.

    Args:
        app: How the cluster is reached.
        commands: Whose permissions are asked about.
    """
    return tuple(_findings(app, commands))


def _findings(app: App, commands: Sequence[str]) -> Iterator[Finding]:
    yield checkup.python(sys.version_info[:3])
    yield from _state()
    try:
        from orchestrator.kube import kubeconfig  # noqa: PLC0415

        choice = kubeconfig.choose(app.settings.kubeconfig, app.settings.context)
    except OrchestratorError as err:
        yield _failure("kubeconfig", err)
        return
    yield from _kubeconfig(choice)
    try:
        told = about(app)
        answer = told.server()
    except OrchestratorError as err:
        yield _failure("connection", err)
        yield from _ends(app)
        return
    answer = told.server()  # the first had to set the connection up
    yield checkup.connection(app.session.server, answer)
    yield checkup.clock(answer.ahead_s)
    yield checkup.server_version(answer.version)
    yield from _ends(app)
    yield from _permissions(told, commands)
    yield _lock(app)


def _failure(check: str, err: OrchestratorError) -> Finding:
    notes = getattr(err, "__notes__", ())
    return Finding(check, Level.FAILED, "; ".join([str(err), *notes]), err.remedy)


def _state() -> Iterator[Finding]:
    """The directory of runs, and what is left undone in it."""
    root = runs.root()
    place = next(p for p in (root, *root.parents) if p.exists())
    if not place.is_dir():
        remedy = f"move {place} away, or set XDG_STATE_HOME to a directory"
        yield Finding("state directory", Level.FAILED, f"{place} is not a directory", remedy)
        return
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding("state directory", Level.FAILED, f"{place} cannot be written to", f"chown or chmod {place}")
        return
    if place != root:
        yield Finding("state directory", Level.OK, f"{root} will be made by the first run")
        return
    yield checkup.mode("state directory", str(root), stat.S_IMODE(root.stat().st_mode), directory=True)
    unfinished = [r for r in runs.listing() if r.state in UNFINISHED]
    if unfinished:
        named = names([f"{r.id} ({r.state})" for r in unfinished], NAMES)
        remedy = f"orchestrator resume {unfinished[0].id}, or release it"
        if unfinished[0].state == "damaged":
            remedy = f"look at {runs.directory(unfinished[0].id)}, and remove it when it is not wanted"
        yield Finding("unfinished runs", Level.WARNING, named, remedy)
    else:
        yield Finding("unfinished runs", Level.OK, "none")


def _kubeconfig(choice: Choice) -> Iterator[Finding]:
    for path in choice.files:
        if os.access(path, os.R_OK):
            yield checkup.mode("kubeconfig", str(path), stat.S_IMODE(path.stat().st_mode), directory=False)
        else:
            yield Finding("kubeconfig", Level.FAILED, f"{path} cannot be read", f"chown or chmod {path}")
    named = f"{choice.context}: cluster {choice.cluster}, user {choice.user}" if choice.context else "in-cluster"
    yield Finding("context", Level.OK, named)


def _ends(app: App) -> Iterator[Finding]:
    """When credentials and certificates end; also told when the server does not answer, for that may be why."""
    now = app.clock.wall()
    try:
        told = about(app)
    except OrchestratorError:
        return  # already a finding: without credentials there is no connection
    yield checkup.credentials(told.credentials(), now)
    remedy = "kubeadm: kubeadm certs renew apiserver on each control plane, then restart the API server"
    yield checkup.end("server certificate", "the API server's", told.serving_certificate_end(), now, remedy)


def _permissions(told: KubeAbout, commands: Sequence[str]) -> Iterator[Finding]:
    from orchestrator.kube import permissions  # noqa: PLC0415

    try:
        denied = {rule for rule in permissions.of(commands) if told.denied(rule)}
    except OrchestratorError as err:
        yield _failure("permissions", err)
        return
    lacking = {c: {str(r): r.flag for r in permissions.COMMANDS[c] if r in denied} for c in commands}
    yield from checkup.permissions(lacking)


def _lock(app: App) -> Finding:
    from orchestrator.kube.lease import KubeLeases  # noqa: PLC0415

    try:
        record = KubeLeases(app.session).read()
    except OrchestratorError as err:
        return _failure("run lock", err)
    if record is None:
        return Finding("run lock", Level.OK, "nobody holds it")
    now = app.clock.wall()
    held = f"held by {record.holder} for run {record.run or 'unknown'}"
    if now < record.renewed + record.duration_s:
        return Finding("run lock", Level.WARNING, f"{held}, since {now - record.acquired:.0f} s", "wait, or ask them")
    text = f"{held}, not renewed for {now - record.renewed:.0f} s: the next run takes it over"
    remedy = f"`orchestrator resume {record.run}` where that run was started" if record.run else ""
    return Finding("run lock", Level.WARNING, text, remedy)
