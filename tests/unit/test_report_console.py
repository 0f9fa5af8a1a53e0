"""Lines of progress for people, and of events for programs."""

import io
import json

import pytest

from orchestrator.engine.events import Event
from orchestrator.report.console import LINES, Lines, line_of, progress_line, verb, waiting_line
from orchestrator.report.logs import JsonLines

WAITING = {"why": "budget shop/web allows 0", "budget": "shop/web", "pods": ["a", "b", "c"], "count": 4, "for_s": 24}
PROGRESS = {"node": "n1", "total": 50, "left": 13, "leaving": 8, "grace_left_s": 22, "waiting": []}


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("name", "fields", "line"),
    [
        ("step.started", {"node": "n1", "action": "node.drain"}, "n1: drain"),
        ("step.finished", {"node": "n1", "action": "node.cordon", "took_s": 1.25}, "n1: cordon: done in 1.2 s"),
        (
            "step.skipped",
            {"node": "n1", "action": "node.uncordon", "why": "takes new pods already"},
            "n1: uncordon: nothing to do, takes new pods already",
        ),
        ("retry.scheduled", {"why": "no answer", "in_s": 0.4}, "no answer; trying again in 0.4 s"),
        (
            "lease.taken_over",
            {"holder": "sam", "from_run": "r1"},
            "took the cluster's run lock over from sam (run r1), which no longer renews it",
        ),
        (
            "lease.unseen",
            {"why": "no answer"},
            "the cluster's run lock cannot be had (no answer): see that nobody else begins a run meanwhile",
        ),
        ("lease.lost", {"why": "somebody deleted it"}, "lost the cluster's run lock: somebody deleted it"),
        (
            "drain.degraded",
            {"node": "n1", "what": "watch.budgets", "why": "forbidden"},
            "n1: goes on without watching the budgets: forbidden",
        ),
        ("drain.progress", PROGRESS, "n1: 37 of 50 pods gone, 8 terminating (22 s of grace left)"),
        ("host.command", {"argv": []}, ""),
    ],
)
def test_each_event_is_a_line_that_says_what_happened_to_whom(name, fields, line):
    assert line_of(Event(name, fields)) == line


def test_a_lock_in_doubt_or_kept_says_what_that_means():
    doubt = line_of(Event("lease.in_doubt", {"for_s": 9}))
    kept = line_of(Event("lease.kept", {"why": "no answer", "until_s": 15}))

    assert "nothing is changed until the API server answers again" in doubt
    assert "no answer; others can take it over in 15 s" in kept


def test_every_event_that_is_shown_has_a_line_of_its_own_name():
    assert all(
        name.partition(".")[0] in ("step", "retry", "lease", "drain", "kubeadm", "gate", "etcd", "rebuild")
        for name in LINES
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"leaving": 0}, "37 of 50 pods gone"),
        ({"grace_left_s": None}, "37 of 50 pods gone, 8 terminating"),
        (
            {"leaving": 0, "waiting": [WAITING]},
            "37 of 50 pods gone; 4 wait for 24 s: budget shop/web allows 0 (a, b and 2 more)",
        ),
    ],
)
def test_progress_says_only_what_there_is_to_say(change, line):
    assert progress_line({**PROGRESS, **change}) == line


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"count": 1, "pods": ["a"], "for_s": 1}, "1 waits: budget shop/web allows 0 (a)"),
        ({"count": 2, "pods": ["a", "b"]}, "2 wait for 24 s: budget shop/web allows 0 (a, b)"),
        ({"budget": "", "why": "the API server is busy"}, "4 wait for 24 s: the API server is busy"),
    ],
)
def test_waiting_names_a_few_pods_and_counts_the_rest(change, line):
    assert waiting_line({**WAITING, **change}) == line


def test_an_action_without_a_word_of_its_own_is_shown_by_its_name():
    assert verb("node.restore_scheduling") == "put back as found"
    assert verb("moon.walk") == "moon.walk"


def test_what_repeats_itself_is_shown_once_until_something_else_happens():
    stream = io.StringIO()
    lines = Lines(stream)
    first, second = ({"why": why, "in_s": 1} for why in ("no answer", "busy"))

    for fields in (first, first, second, first):
        lines.emit(Event("retry.scheduled", fields))
    lines.emit(Event("pod.gone", {"pod": "a"}))

    assert [line.partition(";")[0] for line in stream.getvalue().splitlines()] == ["no answer", "busy", "no answer"]


@pytest.mark.parametrize("sink", [Lines, JsonLines])
def test_a_stream_that_is_gone_does_not_stop_the_run(sink):
    closed = io.StringIO()
    closed.close()

    for stream in (Broken(), closed):
        sink(stream).emit(Event("lease.lost", {"why": "x"}, "warning"))


def test_events_for_programs_carry_their_name_level_time_and_fields():
    stream = io.StringIO()

    JsonLines(stream).emit(Event("step.finished", {"node": "n1", "took_s": 1.5, "pods": ["ä"]}, "warning"))

    event = json.loads(stream.getvalue())
    assert event.pop("at").endswith("Z")
    assert event == {"event": "step.finished", "level": "warning", "node": "n1", "took_s": 1.5, "pods": ["ä"]}
