"""Progress for people at a terminal: a table of nodes and what runs now, below the lines on what has happened."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.engine.clock import SystemClock
from orchestrator.report.console import Lines, line_of, progress_line, verb, waiting_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    import rich.console
    import rich.live

    from orchestrator.engine.clock import Clock
    from orchestrator.engine.events import Event

REFRESHES_PER_S = 4
#: Of more nodes than fit on a screen only those at work have a row; the others are counted.
ROWS = 20
#: Shown in the table, so not as lines as well.
_TABLED = frozenset({"step.started", "step.waiting", "drain.progress", "kubeadm.said", "gate.waiting", "etcd.waiting"})
_LANE_ENDS = frozenset({"step.finished", "step.skipped", "step.failed"})
_RUN_ENDS = frozenset({"run.finished", "run.stopped"})


@dataclass(frozen=True, slots=True)
class _Lane:
    """The running step of one node.

    Attributes:
        since: When it began.
        why: What it does or waits for, where there are no numbers.
        progress: The fields of its last report, and when that came.
    """

    node: str
    action: str
    since: float
    why: str = ""
    progress: Mapping[str, Any] | None = None
    progress_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Plan:
    """How far the run is.

    Attributes:
        left: Node -> its steps that are left, in the order of the plan.
        began: Nodes of which a step has begun in this run, or before it.
    """

    left: Mapping[str, int]
    began: frozenset[str]
    waves: int
    since: float
    wave: int = 0

    def state(self, node: str) -> str:
        """What a node that nothing runs on is at."""
        if not self.left[node]:
            return "done"
        return f"{self.left[node]} steps left" if node in self.began else "to come"


class Live:
    """A sink for terminals. Where the terminal cannot move its cursor, it gives plain lines.

    The table goes away with the end of the run, and at the latest with the process, so that the cursor is back
    whatever happens. Nothing of rich is imported before there is a step to show.

    Args:
        stream: The terminal.
        clock: For how long things take.
    """

    def __init__(self, stream: TextIO, clock: Clock | None = None) -> None:
        self._stream = stream
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._plain = Lines(stream)
        self._dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")
        self._live: rich.live.Live | None = None
        self._last = ""
        # Replaced as a whole, never changed: the thread that draws reads it without a lock.
        self._lanes: Mapping[str, _Lane] = {}
        self._plan: _Plan | None = None

    def emit(self, event: Event) -> None:
        """Show `event`. A terminal that is gone must not stop the run."""
        if self._dumb:
            self._plain.emit(event)
            return
        try:
            with self._lock:
                self._show(event)
        except (OSError, ValueError):
            self._dumb = True

    def close(self) -> None:
        """Take the table away and give the cursor back. What comes after is plain lines."""
        atexit.unregister(self.close)
        live, self._live = self._live, None
        self._lanes = {}
        if live:
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone, and its cursor with it
                live.stop()

    def _show(self, event: Event) -> None:
        self._note(event)
        line = "" if event.name in _TABLED else line_of(event)
        if line and line != self._last:
            self._last = line
            if self._live:
                self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                self._plain.write(line)
        if event.name in _RUN_ENDS:
            self.close()
        elif event.name in _TABLED or event.name in _LANE_ENDS:
            self._draw()

    def _note(self, event: Event) -> None:
        self._plan = self._going(event)
        fields, now = event.fields, self._clock.now()
        node = str(fields.get("node", ""))
        lane = self._lanes.get(node)
        if event.name == "step.started":
            lane = _Lane(node, str(fields["action"]), now, str(fields.get("why", "")))
        elif event.name in _LANE_ENDS:
            lane = None
        elif lane and event.name in ("step.waiting", "gate.waiting", "etcd.waiting"):
            lane = replace(lane, why=str(fields.get("why", "")))
        elif lane and event.name == "kubeadm.said":
            lane = replace(lane, why=str(fields.get("line", "")))
        elif lane and event.name == "drain.progress":
            lane = replace(lane, progress=fields, progress_at=now)
        else:
            return
        others = {n: known for n, known in self._lanes.items() if n != node}
        self._lanes = {**self._lanes, node: lane} if lane else others

    def _going(self, event: Event) -> _Plan | None:
        fields, plan = event.fields, self._plan
        if event.name == "run.started":
            steps = fields.get("steps", {})
            left = {node: count["left"] for node, count in steps.items()}
            began = frozenset(node for node, count in steps.items() if count["left"] < count["all"])
            return _Plan(left, began, fields.get("waves", 0), self._clock.now())
        node = str(fields.get("node", ""))
        if plan and event.name == "wave.started":
            return replace(plan, wave=fields["wave"])
        if plan and node in plan.left:
            ended = event.name in ("step.finished", "step.skipped")
            left = {**plan.left, node: max(0, plan.left[node] - ended)}
            return replace(plan, left=left, began=plan.began | {node})
        return plan

    def _draw(self) -> None:
        if self._live is None and self._lanes:
            self._open()
        if self._live:
            self._live.refresh()

    def _open(self) -> None:
        from rich.console import Console  # noqa: PLC0415  slow to import, and wanted only when there is progress
        from rich.live import Live as RichLive  # noqa: PLC0415

        atexit.register(self.close)
        self._live = RichLive(
            console=Console(file=self._stream),
            get_renderable=self._table,
            refresh_per_second=REFRESHES_PER_S,
            transient=True,
            # What else is written to stderr meanwhile ("finishing the running step") goes above the table.
            redirect_stdout=False,
            redirect_stderr=True,
        )
        self._live.start()

    def _table(self) -> rich.console.RenderableType:
        """A row a node: its step, how long it runs, and how it stands; above them how far the run is."""
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        now, lanes, plan = self._clock.now(), self._lanes, self._plan
        several = plan is not None and len(plan.left) > 1
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("NODE", "STEP", "FOR"):
            table.add_column(name, no_wrap=True)
        table.add_column("PROGRESS", overflow="fold")
        idle = plan.left if plan and several and len(plan.left) <= ROWS else {}
        for node in {**idle, **lanes}:
            lane = lanes.get(node)
            if lane:
                said = "\n".join(standing(lane.progress, now - lane.progress_at)) if lane.progress else lane.why
                table.add_row(Text(node), Text(verb(lane.action)), Text(f"{now - lane.since:.0f} s"), Text(said))
            elif plan:
                table.add_row(Text(node), Text(plan.state(node)), "", "", style="dim")
        return Group(Text(_headline(plan, lanes, now)), table) if plan and several else table


def _headline(plan: _Plan, lanes: Mapping[str, _Lane], now: float) -> str:
    done = sum(1 for node, left in plan.left.items() if not left and node not in lanes)
    to_come = sum(1 for node in plan.left if node not in plan.began)
    counts = f"{done} of {len(plan.left)} nodes done, {len(lanes)} at work, {to_come} to come"
    return f"wave {plan.wave} of {plan.waves}, {now - plan.since:.0f} s: {counts}"


def standing(progress: Mapping[str, Any], age_s: float) -> list[str]:
    """How an evacuation stands, `age_s` after it reported: a line of numbers, then one for each thing waited for."""
    grace = progress["grace_left_s"]
    aged = {
        **progress,
        "grace_left_s": None if grace is None else max(0, round(grace - age_s)),
        "waiting": [],
    }
    waiting = ({**w, "for_s": round(w["for_s"] + age_s)} for w in progress["waiting"])
    return [progress_line(aged), *map(waiting_line, waiting)]
