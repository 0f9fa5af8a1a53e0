"""Arguments before anything is sent."""

import io
import json
import sys

import pytest

from orchestrator.cli import perform
from orchestrator.cli.context import confirm, duration, event_notice, sink
from orchestrator.cli.main import explained
from orchestrator.cli.options import LogFormat
from orchestrator.engine.plan import Lane, Plan, Wave
from orchestrator.errors import ApiUnreachable, BadUsage, Paused, Refused
from orchestrator.report.console import Lines
from orchestrator.report.logs import JsonLines

PLAN = Plan("drain", "drain 2 nodes", (Wave((Lane("n1", ()), Lane("n2", ()))),))


@pytest.fixture
def terminal():
    """In place of stdin."""
    before, sys.stdin = sys.stdin, io.StringIO()
    yield sys.stdin
    sys.stdin = before


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("90s", 90), ("5m", 300), ("1m30s", 90), ("1.5h", 5400), ("250ms", 0.25), ("1h1m1s", 3661)],
)
def test_durations_are_gos(text, seconds):
    assert duration(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["", "5", "-1s", "1d", "5 m", "5mm", "m", "1s ", "s1"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(BadUsage, match="is not a duration") as caught:
        duration(text, "--timeout")

    assert "--timeout=90s" in caught.value.remedy


@pytest.mark.parametrize(
    "selector",
    [
        "",
        "a=b",
        "a==b",
        "a!=b",
        "a=",
        "a",
        "!a",
        "a,b=c",
        "a in (b,c)",
        "a notin (b), c",
        "node-role.kubernetes.io/control-plane",
        "!node-role.kubernetes.io/control-plane, zone in (a, b),x=y",
    ],
)
def test_label_selectors_are_let_through(selector):
    perform.check_selector("--selector", selector)


@pytest.mark.parametrize("selector", ["=b", "a=b=c", "a b", "a in b", "a in (b", "a,", ",", "a>b", "é=x", "a=b;c"])
def test_what_is_no_label_selector_is_refused(selector):
    with pytest.raises(BadUsage, match="is not a label selector"):
        perform.check_selector("--selector", selector)


@pytest.mark.parametrize("names", [["n1"], ["n1", "n2"]])
def test_names_or_a_selector_are_enough_each(names):
    perform.arguments(names, "")
    perform.arguments(None, "a=b")


@pytest.mark.parametrize(
    ("answer", "goes_on"), [("y\n", True), (" YES \n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_only_a_yes_goes_on(answer, goes_on, terminal, capsys):
    terminal.write(answer)
    terminal.seek(0)

    assert confirm(PLAN) is goes_on
    assert capsys.readouterr().err == "drain 2 nodes (n1, n2): go on? [y/N] "


def test_progress_is_lines_or_json_where_there_is_no_terminal():
    assert isinstance(sink(LogFormat.TEXT), Lines)
    assert isinstance(sink(LogFormat.JSON), JsonLines)


def test_a_notice_for_programs_is_an_event(capfd):
    event_notice("stopping now")

    event = json.loads(capfd.readouterr().err)
    assert (event["event"], event["why"], event["level"]) == ("run.stopping", "stopping now", "warning")


def test_an_error_says_what_where_and_what_to_do():
    err = ApiUnreachable("no answer", remedy="look\nthen try")
    err.add_note("tried 3 times in 2 s")

    assert explained(err) == "error: no answer\n  tried 3 times in 2 s\nremedy: look\nremedy: then try\n"


def test_an_error_of_a_run_ends_with_how_to_go_on_and_back():
    err = Refused("no", remedy="see")
    err.run = "drain-1"

    assert explained(err).endswith("go on:   orchestrator resume drain-1\ngo back: orchestrator release drain-1\n")


def test_a_pause_that_was_asked_for_is_no_error():
    err = Paused("run u-1 pauses as asked", remedy="orchestrator resume u-1")

    assert explained(err) == "paused: run u-1 pauses as asked\nremedy: orchestrator resume u-1\n"


def test_an_error_of_several_lines_is_one_error():
    text = explained(Refused("n1 cannot be drained\n  a: x\n  b: y", remedy="see"))

    assert [line for line in text.splitlines() if line.startswith("error:")] == ["error: n1 cannot be drained"]
