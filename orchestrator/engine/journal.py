"""The write-ahead record of one run: JSON lines, each on disk before the effect that it announces."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from orchestrator.engine.plan import Plan
from orchestrator.errors import BadUsage, FactUnreadable, Locked, OrchestratorError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from orchestrator.engine.plan import Facts, Past

FILE = "journal.jsonl"
#: Holds the id of the process that works on the run, and its lock.
LOCK = "lock"
#: Version of the records. A journal with another one is refused, not guessed at.
FORMAT = 1
#: `orchestrator runs` holds the lock for an instant to see whether somebody else does: pauses before it counts.
LOOK_AGAIN_S = (0.01, 0.05, 0.1)

#: Records that say how the run stands, and what they say.
STATES = {
    "plan": "stopped",
    "resumed": "stopped",
    "stopped": "stopped",
    "failed": "failed",
    "ended": "finished",
    "released": "released",
}

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal says.

    Attributes:
        run: The run's id.
        meta: Who asked for what, of which cluster; the machine is that on which it was begun or resumed last.
        past: Facts of each started step as they were found first.
        done: Steps that finished.
        last: The kind of the last record that tells how the run stands, a key of STATES.
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

    @property
    def state(self) -> str:
        """stopped, failed, finished or released; whether a process works on it, only `locked` can tell."""
        return STATES[self.last]


def read(directory: Path) -> Contents:
    """What the journal in `directory` says, whoever is writing it. A torn last line does not count.

    Raises:
        BadUsage: There is no journal.
        FactUnreadable: It is damaged.
    """
    try:
        data = (directory / FILE).read_bytes()
    except OSError as err:
        raise BadUsage(
            f"run {directory.name} has no journal: {err.strerror}", remedy="`orchestrator runs` lists them"
        ) from err
    if b"\n" not in data:
        raise BadUsage(
            f"run {directory.name} ended before its plan was written: nothing of it was started",
            remedy="start a new run",
        )
    try:
        return _contents([json.loads(line) for line in data.split(b"\n")[:-1]])
    except (ValueError, KeyError, IndexError, TypeError) as err:
        raise FactUnreadable(
            f"the journal of run {directory.name} is damaged: {type(err).__name__}: {err}",
            remedy="look at the cluster with `orchestrator status`, and start a new run",
        ) from err


def durations(directory: Path) -> Mapping[str, float]:
    """Step -> seconds from its start to its end, of those that changed something and were not cut short.

    Raises:
        BadUsage, FactUnreadable: As `read`.
    """
    read(directory)
    began: dict[str, float] = {}
    took: dict[str, float] = {}
    for line in (directory / FILE).read_bytes().split(b"\n")[:-1]:
        record = json.loads(line)
        if record["kind"] == "started":
            began[record["step"]] = record["at"]
        elif record["kind"] == "resumed":
            began.clear()
        elif record["kind"] == "finished" and record["outcome"] == "changed" and record["step"] in began:
            took[record["step"]] = record["at"] - began[record["step"]]
    return took


def empty(directory: Path) -> bool:
    """Whether the process died before the run's plan was on disk: nothing of it was started."""
    try:
        return b"\n" not in (directory / FILE).read_bytes()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _contents(records: list[Record]) -> Contents:
    head = records[0]
    if head["format"] != FORMAT:
        raise ValueError(f"its format is {head['format']}, this version reads {FORMAT}")
    past: dict[str, Facts] = {}
    done: set[str] = set()
    last, meta = "", dict(head["meta"])
    for record in records:
        if record["kind"] == "resumed" and "machine" in record:
            meta["machine"] = record["machine"]
        match record["kind"]:
            case "started":
                past.setdefault(record["step"], record["before"])
            case "finished":
                done.add(record["step"])
            case "command":
                continue  # for people: what ran on a host, and where its output is
            case kind if kind in STATES:
                last = kind
            case kind:
                raise ValueError(f"a record of an unknown kind, {kind!r}")
    return Contents(head["run"], Plan.from_json(head["plan"]), meta, past, frozenset(done), last, float(head["at"]))


def synced(fd: int, line: bytes) -> None:
    """Write all of `line`, and return when it is on disk."""
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.fsync(fd)


class Journal:
    """An open journal. A context manager; one process at a time has a run's journal open. Thread-safe.

    Attributes:
        run: The run's id.
        plan: What it does.
        meta: Who asked for what, of which cluster.
    """

    def __init__(self, directory: Path, *, wall: Callable[[], float], write: Callable[[int, bytes], None]) -> None:
        self._name = directory.name
        self._wall = wall
        self._write = write
        self._mutex = threading.Lock()
        self._past: dict[str, Facts] = {}
        self._done: set[str] = set()
        self._lock = _taken(directory)
        try:
            self._fd = os.open(directory / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            os.close(self._lock)
            raise

    run: str
    plan: Plan
    meta: Mapping[str, Any]

    @classmethod
    def create(
        cls,
        directory: Path,
        run: str,
        plan: Plan,
        *,
        meta: Mapping[str, Any],
        wall: Callable[[], float] = time.time,
        write: Callable[[int, bytes], None] = synced,
    ) -> Journal:
        """A new run's journal, with the plan on disk.

        Args:
            directory: The run's own; made here, readable by this user only.
            run: Its id.
            plan: What it does.
            meta: JSON values.
            wall: Seconds since the epoch.
            write: Puts bytes on disk.

        Raises:
            Refused: It cannot be written. Nothing was started.
        """
        with _writable(run):
            directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
            journal = cls(directory, wall=wall, write=write)
        try:
            journal.run, journal.plan, journal.meta = run, plan, dict(meta)
            head = {"kind": "plan", "format": FORMAT, "run": run, "plan": plan.to_json(), "meta": dict(meta)}
            journal._append(head)
            with _writable(run):
                _sync(directory)
                _sync(directory.parent)
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def open(
        cls,
        directory: Path,
        wall: Callable[[], float] = time.time,
        write: Callable[[int, bytes], None] = synced,
    ) -> Journal:
        """The journal of a run that is to be continued. A torn last line is cut off.

        Raises:
            BadUsage: There is none.
            FactUnreadable: It is damaged.
            Locked: Another process works on the run.
        """
        read(directory)
        with _writable(directory.name):
            journal = cls(directory, wall=wall, write=write)
        try:
            with _writable(directory.name):
                journal._cut_torn_tail()
            contents = read(directory)
            journal.run, journal.plan, journal.meta = contents.run, contents.plan, contents.meta
            journal._past, journal._done = dict(contents.past), set(contents.done)
        except BaseException:
            journal.close()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the run back. What is written later fails, and goes into no other file that has the number by then."""
        with self._mutex:
            fd, self._fd = self._fd, -1
        os.close(fd)
        os.close(self._lock)

    @property
    def past(self) -> Past:
        """Facts of each started step as they were found first, as JSON gives them back."""
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
        kept = self._append({"kind": "started", "step": step, "before": dict(before)})
        with self._mutex:
            self._past[step] = kept["before"]

    def finished(self, step: str, outcome: str) -> None:
        """`step` reached its goal: `changed` or `skipped`."""
        self._append({"kind": "finished", "step": step, "outcome": outcome})
        with self._mutex:
            self._done.add(step)

    def failed(self, err: BaseException, step: str | None = None) -> None:
        """The run failed, in `step` if it was in one."""
        remedy, code = (err.remedy, err.exit_code) if isinstance(err, OrchestratorError) else ("", 1)
        what = {"error": type(err).__name__, "message": str(err), "remedy": remedy, "exit_code": code}
        self._append({"kind": "failed", "step": step, **what})

    def command(self, **fields: Any) -> None:
        """Something ran on a host, or a file was copied to or from it."""
        self._append({"kind": "command", **fields})

    def mark(self, kind: str, **fields: Any) -> None:
        """The run is `stopped`, `resumed`, `ended` or `released`."""
        self._append({"kind": kind, **fields})

    def _append(self, record: Record) -> Record:
        """One record, on disk when this returns; as JSON gives it back.

        A record that could not be written whole is taken back: the next one would join it.
        """
        line = json.dumps({**record, "at": self._wall()}, sort_keys=True).encode() + b"\n"
        with self._mutex, _writable(self._name):
            size = os.fstat(self._fd).st_size
            try:
                self._write(self._fd, line)
            except OSError:
                os.ftruncate(self._fd, size)
                raise
        back: Record = json.loads(line)
        return back

    def _cut_torn_tail(self) -> None:
        """A crash in mid-write leaves a line without an end; the next record would join it."""
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        if data and not data.endswith(b"\n"):
            os.ftruncate(self._fd, data.rfind(b"\n") + 1)
            os.fsync(self._fd)


def locked(directory: Path) -> bool:
    """Whether a process works on the run."""
    return bool(_held(directory))


def free(directory: Path) -> bool:
    """Whether it is certain that no process works on the run."""
    try:
        return _held(directory) is False
    except OSError:
        return False


def _held(directory: Path) -> bool | None:
    """Whether a process holds the run; None where its lock cannot be opened."""
    try:
        fd = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _taken(directory: Path) -> int:
    """The descriptor that holds the run, which the kernel lets go of when the process ends, however it ends.

    Raises:
        Locked: Another process holds it.
    """
    fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for pause_s in (*LOOK_AGAIN_S, None):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause_s is not None:
                time.sleep(pause_s)
        else:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            return fd
    pid = os.pread(fd, 32, 0).decode().strip() or "unknown"
    os.close(fd)
    raise Locked(
        f"process {pid} works on run {directory.name}",
        remedy=f"wait for it, or stop it: `kill -INT {pid}`; `orchestrator runs` shows when it has ended",
    )


@contextmanager
def _writable(run: str) -> Iterator[None]:
    """What the disk refuses, as an error of ours: no effect may come before its record."""
    try:
        yield
    except OSError as err:
        raise Refused(
            f"the journal of run {run} cannot be written ({err.strerror}): nothing more was started",
            remedy=f"make room or permission for {err.filename or 'the runs directory'}, then go on: "
            f"`orchestrator resume {run}`",
        ) from err


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
