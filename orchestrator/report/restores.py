"""What a restore lost and brought back, and what is left to look at, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import words
from orchestrator.report import shapes
from orchestrator.report.text import bullets, columns, wrapped

if TYPE_CHECKING:
    from orchestrator.backup.losses import Losses
    from orchestrator.cluster.aftermath import Finding

#: Heads of the three parts, by what became of the objects in them.
HEADS = {
    "lost": "LOST: the state before had them, the restored one has not",
    "back": "BACK: the restored state has them, the one before had not",
    "different": "DIFFERENT: both have them, and not the same",
}
#: Lines of a part before it says how many more there are, and names in a line.
MOST, NAMES = 20, 3


@dataclass(frozen=True, slots=True)
class Old:
    """The old data on a control plane; `path` is "" where there are none, `why` says that it could not be asked."""

    node: str
    path: str
    size_bytes: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Aftermath:
    """A cluster after a restore.

    Attributes:
        run: Its id.
        snapshot: The name of the restored snapshot, or a file's.
        losses: The old state against the restored one.
        diff: The command that shows every difference; "" where there is none to give.
        findings: What is not right, or has to be known.
        old: By node.
    """

    run: str
    snapshot: str
    losses: Losses
    diff: str
    findings: tuple[Finding, ...]
    old: tuple[Old, ...]

    @property
    def confirm(self) -> str:
        """The command that deletes the old data."""
        return f"orchestrator etcd restore --confirm {self.run}"

    @property
    def release(self) -> str:
        """The command that takes the cluster back to them."""
        return f"orchestrator release {self.run}"


def text(found: Aftermath) -> str:
    """All of it, the losses first."""
    lines = _losses(found.losses, found.diff)
    if found.findings:
        lines += ["", "ATTENTION"]
        for each in found.findings:
            lines += [*bullets([each.text]), *wrapped(f"    {each.remedy}", 4)]
    else:
        lines += ["", "Nodes, pods and their controllers are back."]
    rows = [(each.node, each.path or each.why or "none", _mb(each.size_bytes)) for each in found.old]
    lines += ["", "OLD DATA", *(f"  {line}" for line in columns(("NODE", "WHERE", "SIZE"), rows))]
    if any(each.path for each in found.old):
        lines += [f"  it was good, delete them:  {found.confirm}", f"  back to them:              {found.release}"]
    return "\n".join(lines)


def _losses(found: Losses, diff: str) -> list[str]:
    if found.unknown:
        known = f" (snapshot {found.before})" if found.before else ""
        return wrapped(f"The state before is not known{known}: {found.unknown}. What was lost cannot be told.", 2)
    lines = [f"The state before is kept: {found.before}, revision {found.before_revision}."]
    for fate, head in HEADS.items():
        mine = [each for each in found.groups if each.fate == fate]
        if not mine:
            continue
        rows = [
            (each.kind, each.namespace or "-", str(each.objects), words.names(each.names, NAMES, each.objects))
            for each in mine[:MOST]
        ]
        lines += ["", head, *(f"  {line}" for line in columns(("KIND", "NAMESPACE", "OBJECTS", "NAMES"), rows))]
        lines += [f"  ... and {len(mine) - MOST} more kinds and namespaces"] if len(mine) > MOST else []
    if not found.groups:
        lines += ["Nothing of it was lost, and nothing came back: what differs is routine."]
    routine = f"not shown: {found.routine} of routine (leases, events, what kubelets tell)" if found.routine else ""
    shows = f"all of it: {diff} --all" if diff else ""
    return [*lines, "", *(line for line in (routine, shows) if line)] if routine or shows else lines


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes else "-"


def document(found: Aftermath) -> shapes.RestoreReportShape:
    """The same as a part of the run's result."""
    known = found.losses
    return shapes.RestoreReportShape(
        snapshot=found.snapshot,
        before=known.before or None,
        before_revision=known.before_revision or None,
        unknown=known.unknown,
        lost=known.total("lost"),
        back=known.total("back"),
        different=known.total("different"),
        routine=known.routine,
        groups=[
            shapes.RestoreGroupShape(each.fate, each.kind, each.namespace or None, each.objects, list(each.names))
            for each in known.groups
        ],
        diff=found.diff,
        findings=[shapes.RestoreFindingShape(each.check, each.text, each.remedy) for each in found.findings],
        old_data=[
            shapes.OldDataShape(each.node, each.path or None, each.size_bytes if each.path else None, each.why)
            for each in found.old
        ],
        confirm=found.confirm,
        release=found.release,
    )
