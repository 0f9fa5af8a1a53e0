"""The directory of runs: names, states, and which ones are kept."""

import os
import re
from pathlib import Path

import pytest

from orchestrator.engine import runs
from orchestrator.engine.journal import FILE, LOCK, Journal
from orchestrator.errors import BadUsage
from tests.fakes.deeds import plan

PLAN = plan(["a: sweep"])


@pytest.fixture(autouse=True)
def state_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def a_run(name, *marks, at=1000.0, started=True):
    with Journal.create(runs.directory(name), name, PLAN, meta={}, wall=lambda: at) as journal:
        if started:
            journal.started("a/sweep", {})
        for mark in marks:
            journal.mark(mark)


def names():
    return [r.id for r in runs.listing()]


# ---- where ------------------------------------------------------------------------------------------------------


def test_runs_are_kept_in_the_state_directory_of_the_user(state_home):
    assert runs.root() == state_home / "orchestrator" / "runs"


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_a_state_directory_that_is_not_absolute_is_ignored(monkeypatch, value):
    monkeypatch.setenv("XDG_STATE_HOME", value)

    assert runs.root() == Path.home() / ".local" / "state" / "orchestrator" / "runs"


def test_a_new_id_has_the_kind_and_the_time_and_is_free():
    run = runs.new_id("drain", 1_795_485_595.0)

    assert re.fullmatch(r"drain-20261124-0159-[0-9a-f]{4}", run)
    assert not runs.directory(run).exists()


# ---- which ------------------------------------------------------------------------------------------------------


def test_without_any_run_the_list_is_empty():
    assert runs.listing() == ()


def test_the_newest_run_comes_first():
    a_run("drain-a", at=10.0)
    a_run("drain-b", at=30.0)
    a_run("drain-c", at=20.0)

    assert names() == ["drain-b", "drain-c", "drain-a"]


def test_each_run_is_listed_with_how_it_stands():
    a_run("drain-a", "stopped", at=50.0)
    a_run("drain-b", "ended", at=40.0)
    a_run("drain-c", "ended", "released", at=30.0)
    a_run("drain-d", started=False, at=20.0)

    assert [(r.id, r.state, r.over) for r in runs.listing()] == [
        ("drain-a", "stopped", False),
        ("drain-b", "finished", True),
        ("drain-c", "released", True),
        ("drain-d", "stopped", True),
    ]


def test_a_run_that_a_process_works_on_is_running_and_not_over():
    with Journal.create(runs.directory("drain-a"), "drain-a", PLAN, meta={}) as journal:
        journal.mark("ended")
        (found,) = runs.listing()

    assert (found.state, found.over) == ("running", False)


def left(name="drain-a", **meta):
    """A run of this machine whose process is gone."""
    Journal.create(runs.directory(name), name, PLAN, meta={runs.MACHINE: runs.machine(), **meta}).close()
    return runs.directory(name)


def test_a_run_is_unattended_once_its_process_is_gone():
    left()
    assert runs.unattended("drain-a")

    with Journal.open(runs.directory("drain-a")):
        assert not runs.unattended("drain-a")


@pytest.mark.parametrize("name", ["", ".", "..", "drain-b", "../runs/drain-a", "drain-a/"])
def test_of_a_run_that_was_not_started_from_here_nobody_knows_whether_it_is_attended(name):
    left()

    assert not runs.unattended(name)


def test_a_run_of_another_machine_with_the_same_home_may_be_attended():
    left(**{runs.MACHINE: "another"})

    assert not runs.unattended("drain-a")


def test_a_run_of_before_machines_were_noted_may_be_attended():
    a_run("drain-a")

    assert not runs.unattended("drain-a")


def test_a_run_whose_lock_cannot_be_looked_at_may_be_attended():
    place = left()
    (place / LOCK).unlink()

    assert not runs.unattended("drain-a")


def test_a_run_on_a_cluster_is_at_work_while_a_process_works_on_it():
    left("drain-a", server="https://a")
    left("drain-b", server="https://b")

    with Journal.open(runs.directory("drain-a")):
        assert (runs.at_work("https://a"), runs.at_work("https://b")) == ("drain-a", "")
    assert runs.at_work("https://a") == ""


def test_a_damaged_run_is_listed_by_its_name_and_hides_no_other():
    a_run("drain-a", at=10.0)
    a_run("drain-b", at=20.0)
    (runs.directory("drain-b") / FILE).write_text("nonsense\n")
    os.utime(runs.directory("drain-b"), (5.0, 5.0))

    assert [(r.id, r.state, r.started, r.over) for r in runs.listing()] == [
        ("drain-a", "stopped", 10.0, False),
        ("drain-b", "damaged", 5.0, False),
    ]


def test_files_beside_the_runs_are_no_runs():
    a_run("drain-a")
    (runs.root() / "notes.txt").write_text("")

    assert names() == ["drain-a"]


# ---- meant ------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_id_its_beginning_or_as_the_last():
    a_run("drain-20261124-0159-7f3a", at=10.0)
    a_run("cordon-20261124-0200-11aa", at=20.0)

    assert runs.resolve("drain-20261124-0159-7f3a") == "drain-20261124-0159-7f3a"
    assert runs.resolve("drain") == "drain-20261124-0159-7f3a"
    assert runs.resolve("last") == "cordon-20261124-0200-11aa"


def test_an_id_that_is_the_beginning_of_another_is_itself():
    a_run("drain-1")
    a_run("drain-12")

    assert runs.resolve("drain-1") == "drain-1"


def test_a_beginning_of_several_is_asked_back():
    for i in range(7):
        a_run(f"drain-{i}", at=float(i))

    with pytest.raises(BadUsage, match="7 runs begin with 'drain'") as raised:
        runs.resolve("drain")

    assert raised.value.remedy == "one of: drain-6, drain-5, drain-4, drain-3, drain-2 and 2 more"


def test_a_name_that_is_nearly_right_is_suggested():
    a_run("drain-20261124-0159-7f3a")

    with pytest.raises(BadUsage, match="no run 'drain-20261124-0159-7f3b'") as raised:
        runs.resolve("drain-20261124-0159-7f3b")

    assert "did you mean drain-20261124-0159-7f3a?" in raised.value.remedy


@pytest.mark.parametrize("name", ["last", "drain", ""])
def test_without_any_run_none_can_be_meant(name):
    with pytest.raises(BadUsage, match="none was started from here"):
        runs.resolve(name)


def test_no_name_is_the_beginning_of_no_run():
    a_run("drain-1")

    with pytest.raises(BadUsage, match="there is no run ''"):
        runs.resolve("")


# ---- kept -------------------------------------------------------------------------------------------------------


def test_the_oldest_runs_that_are_over_go_and_what_can_be_continued_stays():
    a_run("drain-1", "stopped", at=1.0)
    a_run("drain-2", "ended", at=2.0)
    a_run("drain-3", started=False, at=3.0)
    a_run("drain-4", "ended", "released", at=4.0)
    a_run("drain-5", "ended", at=5.0)

    runs.retain(kept=2)

    assert names() == ["drain-5", "drain-4", "drain-1"]


def test_a_run_that_is_worked_on_is_never_removed():
    with Journal.create(runs.directory("drain-1"), "drain-1", PLAN, meta={}) as journal:
        journal.mark("ended")
        runs.retain(kept=0)

        assert names() == ["drain-1"]


def test_a_damaged_run_is_kept_for_a_person_to_look_at():
    a_run("drain-1", "ended")
    (runs.directory("drain-1") / FILE).write_text("nonsense\n")

    runs.retain(kept=0)

    assert names() == ["drain-1"]
