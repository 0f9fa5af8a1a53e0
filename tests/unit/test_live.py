"""The live table, on a real pseudo-terminal."""

import os
import pty
import re
import select
import sys

import pytest

from orchestrator.engine.events import Event
from orchestrator.report.live import Live, standing

WAITING = {"why": "budget shop/web allows 0", "budget": "shop/web", "pods": ["shop/web-1"], "count": 2, "for_s": 7}
PROGRESS = {"total": 5, "left": 3, "leaving": 1, "leaving_pods": [], "grace_left_s": 20, "waiting": [WAITING]}
CURSOR_BACK = "\x1b[?25h"


class Still:
    def now(self):
        return 100.0


class Terminal:
    """A pseudo-terminal: what is written to `stream` comes out of `shown`."""

    def __init__(self):
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w")

    def raw(self):
        read = b""
        while select.select([self._master], [], [], 0)[0]:
            read += os.read(self._master, 65536)
        return read.decode()

    def close(self):
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    found = Terminal()
    yield found
    found.close()


def event(name, node="n1", **fields):
    return Event(name, {"run": "r", "node": node, "step": f"1/{node}/node.drain", "action": "node.drain", **fields})


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


def test_running_lanes_are_a_table_with_what_each_waits_for(terminal):
    live = Live(terminal.stream, Still())

    live.emit(event("step.started", why="5 pods to move"))
    live.emit(event("step.started", node="n2", action="node.cordon", why="takes new pods"))
    live.emit(event("drain.progress", **PROGRESS))
    shown = plain(terminal.raw())
    live.close()

    assert re.search(r"n1 +drain +0 s +2 of 5 pods gone, 1 terminating \(20 s of grace left\)", shown)
    assert "2 wait for 7 s: budget shop/web allows 0 (shop/web-1 and 1 more)" in shown
    assert re.search(r"n2 +cordon +0 s +takes new pods", shown)


def test_what_has_happened_stands_above_the_table_and_leaves_it(terminal):
    live = Live(terminal.stream, Still())

    live.emit(event("step.started", why="5 pods to move"))
    live.emit(event("step.finished", took_s=1.25, outcome="changed"))
    live.emit(event("step.started", node="n2", why="3 pods to move"))
    shown = plain(terminal.raw())
    last = shown.rpartition("NODE")[2]
    live.close()

    assert "n1: drain: done in 1.2 s" in shown
    assert "n2" in last
    assert "n1" not in last


def begun(**left):
    steps = {node: {"all": 3, "left": count} for node, count in left.items()}
    return Event("run.started", {"run": "r", "title": "upgrade", "nodes": [*left], "waves": 3, "steps": steps})


def last_table(terminal):
    return plain(terminal.raw()).rpartition("wave ")[2]


def test_every_node_has_a_row_and_the_headline_says_how_far_the_run_is(terminal):
    live = Live(terminal.stream, Still())

    live.emit(begun(n1=1, n2=3, n3=2, n4=3))
    live.emit(Event("wave.started", {"run": "r", "wave": 2}))
    live.emit(event("step.started", why="5 pods to move"))
    live.emit(event("step.skipped", took_s=0.0, outcome="skipped", why="drained"))
    live.emit(event("step.started", node="n2", why="3 pods to move"))
    shown = last_table(terminal)
    live.close()

    assert shown.startswith("2 of 3, 0 s: 1 of 4 nodes done, 1 at work, 1 to come")
    assert re.search(r"n1 +done", shown)
    assert re.search(r"n2 +drain +0 s +3 pods to move", shown)
    assert re.search(r"n3 +2 steps left", shown)
    assert re.search(r"n4 +to come", shown)


def test_of_many_nodes_those_at_work_have_a_row_and_the_others_are_counted(terminal):
    live = Live(terminal.stream, Still())

    live.emit(begun(**{f"n{number}": 3 for number in range(300)}))
    live.emit(event("step.started", node="n7", why="5 pods to move"))
    shown = last_table(terminal)
    live.close()

    assert "0 of 300 nodes done, 1 at work, 299 to come" in shown
    assert [line.split()[0] for line in shown.splitlines()[2:] if line.strip()] == ["n7"]


def test_one_node_needs_no_headline(terminal):
    live = Live(terminal.stream, Still())

    live.emit(begun(n1=3))
    live.emit(event("step.started", why="5 pods to move"))
    shown = plain(terminal.raw())
    live.close()

    assert "wave" not in shown


@pytest.mark.parametrize("name", ["run.finished", "run.stopped"])
def test_the_end_of_the_run_gives_the_cursor_back(terminal, name):
    live = Live(terminal.stream, Still())

    live.emit(event("step.started", why="5 pods to move"))
    live.emit(Event(name, {"run": "r", "why": "a person stopped it", "remedies": []}))
    live.emit(event("step.failed", why="too late"))

    assert terminal.raw().rindex(CURSOR_BACK) > 0
    assert live._live is None


def test_what_others_write_to_stderr_goes_above_the_table(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    live = Live(terminal.stream, Still())

    live.emit(event("step.started", why="5 pods to move"))
    sys.stderr.write("\nfinishing the running step\n")
    shown = plain(terminal.raw())
    live.close()

    assert "finishing the running step" in shown
    assert sys.stderr is terminal.stream


def test_a_dumb_terminal_gets_plain_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    live = Live(terminal.stream, Still())

    live.emit(event("step.started", why="5 pods to move"))
    live.emit(event("drain.progress", **PROGRESS))

    assert "\x1b" not in (shown := terminal.raw())
    assert "n1: 2 of 5 pods gone" in shown


def test_a_terminal_that_is_gone_does_not_stop_the_run(terminal):
    live = Live(terminal.stream, Still())
    terminal.stream.close()

    live.emit(event("step.failed", why="it broke"))
    live.emit(event("step.failed", why="it broke again"))


def test_repeated_and_unshown_events_write_nothing(terminal):
    live = Live(terminal.stream, Still())

    live.emit(event("step.waiting", why="nobody runs"))
    live.emit(event("pod.evicting", pod="a/b"))
    live.emit(event("retry.scheduled", why="no answer", in_s=1))
    live.emit(event("retry.scheduled", why="no answer", in_s=1))

    assert plain(terminal.raw()).count("no answer") == 1


def test_a_wait_between_rounds_is_told_in_the_table(terminal):
    live = Live(terminal.stream, Still())

    live.emit(event("step.started", why="takes new pods"))
    live.emit(event("step.waiting", why="not there yet"))
    shown = plain(terminal.raw())
    live.close()

    assert "not there yet" in shown


def test_grace_runs_down_and_waits_grow_between_reports():
    assert standing(PROGRESS, 5.0) == [
        "2 of 5 pods gone, 1 terminating (15 s of grace left)",
        "2 wait for 12 s: budget shop/web allows 0 (shop/web-1 and 1 more)",
    ]
    assert standing({**PROGRESS, "grace_left_s": None, "waiting": []}, 5.0) == ["2 of 5 pods gone, 1 terminating"]
    assert standing(PROGRESS, 60.0)[0].endswith("(0 s of grace left)")
