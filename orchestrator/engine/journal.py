"""The write-ahead record of one run: JSON lines, each on disk before the effect that it announces."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchestrator.engine.plan import Plan
from orchestrator.errors import BadUsage, FactUnreadable, Locked, OrchestratorError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from orchestrator.engine.plan import Facts, Past

FILE = "journal.jsonl"

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal says.

    Attributes:
        run: The run's id.
        meta: Who asked for what, of which cluster.
        past: Facts of each started step as they were found first.
        done: Steps that finished.
        last: The kind of the last record that tells the run's state: plan, stopped, failed, resumed, ended, released.
        started: When, in seconds since the epoch.
    """

    run: str
    plan: Plan
    meta: Mapping[str, Any]
    past: Past
    done: frozenset[str]
    last: str
    started: float

    @property
    def ended(self) -> bool:
        """Nothing is left to continue."""
        return self.last in ("ended", "released")


def read(directory: Path) -> Contents:
    """What the journal in `directory` says, whoever is writing it. A torn last line does not count.

    Raises:
        BadUsage: There is no journal.
        FactUnreadable: It is damaged.
    """
    try:
        lines = (directory / FILE).read_bytes().split(b"\n")[:-1]
    except OSError as err:
        raise BadUsage(f"run {directory.name} has no journal: {err}", remedy="`orchestrator runs` lists them") from err
    try:
        records = [json.loads(line) for line in lines]
        head = records[0]
        past: dict[str, Facts] = {}
        for record in records:
            if record["kind"] == "started":
                past.setdefault(record["step"], record["before"])
        return Contents(
            run=head["run"],
            plan=Plan.from_json(head["plan"]),
            meta=head["meta"],
            past=past,
            done=frozenset(r["step"] for r in records if r["kind"] == "finished"),
            last=[r["kind"] for r in records if r["kind"] not in ("started", "finished")][-1],
            started=head["at"],
        )
    except (ValueError, KeyError, IndexError, TypeError) as err:
        raise FactUnreadable(
            f"the journal of run {directory.name} is damaged: {err}",
            remedy="look at the cluster with `orchestrator status`, and start a new run",
        ) from err


class Journal:
    """An open journal. A context manager; holds a lock on its file, so that one process works on a run.

    Args:
        directory: The run's; exists.
        wall: Seconds since the epoch.

    Raises:
        Locked: Another process works on the run.
    """

    def __init__(self, directory: Path, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._mutex = threading.Lock()
        self._fd = os.open(directory / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise Locked(
                f"another process works on run {directory.name}", remedy="wait for it; `orchestrator runs` shows it"
            ) from None
        self._cut_torn_tail()
        self._past: dict[str, Facts] = {}
        self._done: set[str] = set()

    @classmethod
    def create(
        cls, directory: Path, run: str, plan: Plan, *, meta: Mapping[str, Any], wall: Callable[[], float]
    ) -> Journal:
        """A new run's journal, with the plan on disk."""
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
        journal = cls(directory, wall)
        journal.run, journal.plan, journal.meta = run, plan, dict(meta)
        journal.append({"kind": "plan", "run": run, "plan": plan.to_json(), "meta": dict(meta)})
        for place in (directory, directory.parent):
            _sync(place)
        return journal

    @classmethod
    def open(cls, directory: Path, wall: Callable[[], float]) -> Journal:
        """The journal of a run that is to be continued.

        Raises:
            BadUsage: There is none.
            FactUnreadable: It is damaged.
            Locked: Another process works on the run.
        """
        read(directory)
        journal = cls(directory, wall)
        contents = read(directory)
        journal.run, journal.plan, journal.meta = contents.run, contents.plan, contents.meta
        journal._past, journal._done = dict(contents.past), set(contents.done)
        return journal

    run: str
    plan: Plan
    meta: Mapping[str, Any]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._fd)

    @property
    def past(self) -> Past:
        """Facts of each started step as they were found first."""
        with self._mutex:
            return dict(self._past)

    @property
    def done(self) -> frozenset[str]:
        """Steps that finished."""
        with self._mutex:
            return frozenset(self._done)

    def started(self, step: str, before: Facts) -> None:
        """`step` is about to change something; only what was found the first time is kept."""
        with self._mutex:
            if step in self._past:
                return
        self.append({"kind": "started", "step": step, "before": dict(before)})
        with self._mutex:
            self._past[step] = before

    def finished(self, step: str, outcome: str) -> None:
        """`step` reached its goal: `changed` or `skipped`."""
        self.append({"kind": "finished", "step": step, "outcome": outcome})
        with self._mutex:
            self._done.add(step)

    def failed(self, err: OrchestratorError) -> None:
        """The run failed."""
        self.append({"kind": "failed", "error": type(err).__name__, "message": str(err), "remedy": err.remedy})

    def mark(self, kind: str) -> None:
        """The run is `stopped`, `resumed`, `ended` or `released`."""
        self.append({"kind": kind})

    def append(self, record: Record) -> None:
        """One record, on disk when this returns."""
        line = json.dumps({**record, "at": self._wall()}, sort_keys=True).encode() + b"\n"
        with self._mutex:
            self.write(line)

    def write(self, line: bytes) -> None:
        """The one place where a journal is written."""
        view = memoryview(line)
        while view:
            view = view[os.write(self._fd, view) :]
        os.fsync(self._fd)

    def _cut_torn_tail(self) -> None:
        """A crash in mid-write leaves a line without an end; the next record would join it."""
        data = Path(f"/proc/self/fd/{self._fd}").read_bytes()
        if data and not data.endswith(b"\n"):
            os.ftruncate(self._fd, data.rfind(b"\n") + 1)
            os.fsync(self._fd)


def locked(directory: Path) -> bool:
    """Whether a process works on the run."""
    try:
        fd = os.open(directory / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
