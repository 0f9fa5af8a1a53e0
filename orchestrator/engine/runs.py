"""The runs that were started from here: their directory, their names, their states."""

from __future__ import annotations

import difflib
import os
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.engine import journal
from orchestrator.errors import BadUsage, OrchestratorError

#: Ended runs that are kept.
KEPT = 200


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run.

    Attributes:
        state: running, stopped, failed, finished, released or damaged.
        started: Seconds since the epoch; 0 when it cannot be told.
        title: What it does.
    """

    id: str
    state: str
    started: float
    title: str


def root() -> Path:
    """Where runs are kept. Source: XDG Base Directory Specification, `$XDG_STATE_HOME`."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "orchestrator" / "runs"


def directory(run: str) -> Path:
    """The directory of a run."""
    return root() / run


def new_id(kind: str, wall: float) -> str:
    """An id for a new run, such as `drain-20261124-0159-7f3a`: its kind, UTC time, and chance."""
    return f"{kind}-{datetime.fromtimestamp(wall, UTC):%Y%m%d-%H%M}-{secrets.token_hex(2)}"


def listing() -> tuple[RunSummary, ...]:
    """All runs, newest first."""
    if not root().is_dir():
        return ()
    found = [_summary(d) for d in root().iterdir() if d.is_dir()]
    return tuple(sorted(found, key=lambda r: (r.started, r.id), reverse=True))


def resolve(name: str) -> str:
    """The id of the run that is meant: its id, its beginning, or `last`.

    Raises:
        BadUsage: There is none, or several begin so.
    """
    known = [r.id for r in listing()]
    if name == "last" and known:
        return known[0]
    if name in known:
        return name
    close = [r for r in known if r.startswith(name)] if name else []
    if len(close) == 1:
        return close[0]
    if close:
        raise BadUsage(f"several runs begin with {name!r}", remedy=f"one of: {', '.join(close[:5])}")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise BadUsage(f"there is no run {name!r}", remedy=f"{hint}`orchestrator runs` lists them")


def retain() -> None:
    """Remove the oldest ended runs beyond KEPT. Runs that can be continued stay for ever."""
    ended = [r for r in listing() if r.state in ("finished", "released")]
    for run in ended[KEPT:]:
        shutil.rmtree(directory(run.id), ignore_errors=True)


def _summary(place: Path) -> RunSummary:
    try:
        contents = journal.read(place)
    except OrchestratorError:
        return RunSummary(place.name, "damaged", 0.0, "")
    state = {"ended": "finished", "released": "released", "failed": "failed"}.get(contents.last, "stopped")
    if journal.locked(place):
        state = "running"
    return RunSummary(place.name, state, contents.started, contents.plan.title)
