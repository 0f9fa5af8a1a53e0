"""The runs that were started from here: their directory, their names, their states."""

from __future__ import annotations

import difflib
import platform
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.engine import journal
from orchestrator.errors import BadUsage, FactUnreadable
from orchestrator.places import own
from orchestrator.words import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestrator.engine.journal import Contents
    from orchestrator.engine.plan import Plan

#: In a run's meta: the machine that it was started on; and node -> its address and provider id, of those it knew.
MACHINE, HOSTS = "machine", "hosts"
#: In a run's meta: the file that tells monitoring how it went; left out where there is none.
METRICS = "metrics_file"
#: Ended runs that are kept.
KEPT = 200


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run.

    Attributes:
        state: running, stopped, failed, finished, released or damaged.
        started: Seconds since the epoch; for a damaged one, when its directory last changed.
        title: What it does; "" for a damaged one.
        over: Nothing of it is left to continue or to undo: it ended, or it never started a step.
    """

    id: str
    state: str
    started: float
    title: str
    over: bool = False


def root() -> Path:
    """Where runs are kept."""
    return own("XDG_STATE_HOME", ".local", "state") / "runs"


def snapshots() -> Path:
    """Where this user's snapshots of etcd are kept, unless another place is named."""
    return root().parent / "snapshots"


def directory(run: str) -> Path:
    """The directory of a run."""
    return root() / run


def new_id(kind: str, wall: float) -> str:
    """An id for a new run, such as `drain-20261124-0159-7f3a`: its kind, UTC time, and chance."""
    while True:
        run = f"{kind}-{datetime.fromtimestamp(wall, UTC):%Y%m%d-%H%M}-{secrets.token_hex(2)}"
        if not directory(run).exists():
            return run


def listing() -> tuple[RunSummary, ...]:
    """All runs, newest first."""
    found = [summary for place in _places() if (summary := _summary(place))]
    return tuple(sorted(found, key=lambda r: (r.started, r.id), reverse=True))


def _places() -> tuple[Path, ...]:
    try:
        return tuple(place for place in root().iterdir() if place.is_dir())
    except FileNotFoundError:
        return ()


def resolve(name: str) -> str:
    """The id of the run that is meant: its id, its beginning, or `last` for the newest.

    Raises:
        BadUsage: There is none, or several begin so.
    """
    known = [r.id for r in listing()]
    if not known:
        raise BadUsage(f"there is no run {name!r}: none was started from here", remedy="see `orchestrator --help`")
    if name == "last":
        return known[0]
    if name in known:
        return name
    close = [r for r in known if name and r.startswith(name)]
    if len(close) == 1:
        return close[0]
    if close:
        raise BadUsage(f"{len(close)} runs begin with {name!r}", remedy=f"one of: {names(close, 5)}")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise BadUsage(f"there is no run {name!r}", remedy=f"{hint}`orchestrator runs` lists them")


def unfinished(plan: Plan) -> str:
    """The id of the newest run that carries out this very plan and stopped before its end, or ""."""
    same = plan.digest()
    begun = (run.id for run in listing() if run.state in ("stopped", "failed") and not run.over)
    return next((run for run in begun if journal.read(directory(run)).plan.digest() == same), "")


def unattended(run: str) -> bool:
    """Whether a run was started on this machine, by us, and no process works on it: what it held, it holds no more.

    Not where that cannot be told: a home that several machines share has the runs of all of them, and does not always
    know who on another one has a file locked.

    Args:
        run: As somebody else wrote it: any text.
    """
    place = next((p for p in _places() if p.name == run), None)
    try:
        return place is not None and journal.read(place).meta.get(MACHINE) == machine() and journal.free(place)
    except (BadUsage, FactUnreadable):
        return False


def at_work(server: str) -> str:
    """The id of a run on the cluster at that URL that a process works on; "" without one."""
    busy = (run.run for run in known() if run.meta.get("server") == server and journal.locked(directory(run.run)))
    return next(busy, "")


def machine() -> str:
    """This machine's name, for the runs that are started on it."""
    return platform.node()


def retain(kept: int = KEPT) -> None:
    """Remove the oldest runs that are over, beyond so many. What can be continued or undone stays for ever."""
    for run in [r for r in listing() if r.over][kept:]:
        shutil.rmtree(directory(run.id), ignore_errors=True)


def _summary(place: Path) -> RunSummary | None:
    """One run; None when it was removed meanwhile."""
    try:
        running = journal.locked(place)
        contents = journal.read(place)
    except (BadUsage, FactUnreadable):
        try:
            changed = place.stat().st_mtime
        except FileNotFoundError:
            return None
        if not running and journal.empty(place):
            return RunSummary(place.name, "stopped", changed, "ended before its plan was written", over=True)
        return RunSummary(place.name, "running" if running else "damaged", changed, "")
    state = "running" if running else contents.state
    over = not running and (contents.ended or not contents.past)
    return RunSummary(place.name, state, contents.started, contents.plan.title, over)


def plan_name(kind: str, wall: float) -> str:
    """A name for a plan, by which what it leaves on hosts is known: its kind, UTC time to the second, and chance."""
    return f"{kind}-{datetime.fromtimestamp(wall, UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def known() -> Iterator[Contents]:
    """What each run's journal says, the newest first; those that cannot be read are left out."""
    for run in listing():
        try:
            yield journal.read(directory(run.id))
        except (BadUsage, FactUnreadable):
            continue


def durations(kind: str) -> Iterator[tuple[Plan, Mapping[str, float]]]:
    """The plan of each run of a kind, and how many seconds its steps took, the oldest first."""
    for place in sorted(root().glob(f"{kind}-*"), key=lambda place: place.name):
        try:
            yield journal.read(place).plan, journal.durations(place)
        except (BadUsage, FactUnreadable):
            continue
