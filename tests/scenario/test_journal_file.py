"""The journal on a real disk: what is in it after a crash, who may open it, and what happens when it is full."""

import errno
import json
import os
import stat
import subprocess
import sys

import pytest

from orchestrator.engine import journal
from orchestrator.engine.journal import FILE, LOCK, Journal, locked, read, synced
from orchestrator.errors import ApiForbidden, BadUsage, FactUnreadable, Locked, Refused
from tests.fakes.deeds import plan

PLAN = plan(["a: sweep dust"])


def created(place, **how):
    return Journal.create(place, place.name, PLAN, meta={"owner": "ann@laptop"}, wall=lambda: 1000.5, **how)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "runs" / "run-1"


def lines(place):
    return (place / FILE).read_bytes().split(b"\n")


# ---- what is in it ----------------------------------------------------------------------------------------------


def test_a_new_journal_has_the_plan_on_disk_before_anything_else(place):
    with created(place):
        contents = read(place)

    assert (contents.run, contents.plan, contents.meta) == ("run-1", PLAN, {"owner": "ann@laptop"})
    assert (contents.past, contents.done, contents.state, contents.started) == ({}, frozenset(), "stopped", 1000.5)


def test_an_opened_journal_knows_what_was_found_and_what_is_finished(place):
    with created(place) as record:
        record.started("a/sweep", {"pods": ("x", "y")})
        record.finished("a/sweep", "changed")
        record.started("a/dust", {"pods": ()})

    with Journal.open(place) as record:
        assert record.past == {"a/sweep": {"pods": ["x", "y"]}, "a/dust": {"pods": []}}
        assert record.done == {"a/sweep"}
        assert record.plan == PLAN


def test_facts_are_the_same_before_and_after_a_restart(place):
    with created(place) as record:
        record.started("a/sweep", {"pods": ("x", "y")})
        before = record.past

    with Journal.open(place) as record:
        assert record.past == before


def test_only_what_was_found_the_first_time_is_kept(place):
    with created(place) as record:
        record.started("a/sweep", {"done": False})
        record.started("a/sweep", {"done": True})

    assert read(place).past == {"a/sweep": {"done": False}}


@pytest.mark.parametrize(
    ("marks", "state", "ended"),
    [
        ([], "stopped", False),
        (["stopped"], "stopped", False),
        (["stopped", "resumed"], "stopped", False),
        (["ended"], "finished", True),
        (["ended", "released"], "released", True),
    ],
)
def test_the_last_mark_says_how_a_run_stands(place, marks, state, ended):
    with created(place) as record:
        for mark in marks:
            record.mark(mark)

    assert (read(place).state, read(place).ended) == (state, ended)


def test_a_failure_is_kept_with_its_class_remedy_and_exit_code(place):
    with created(place) as record:
        record.failed(ApiForbidden("no", remedy="ask"), "a/sweep")

    assert read(place).state == "failed"
    assert json.loads(lines(place)[1]) == {
        "kind": "failed",
        "step": "a/sweep",
        "error": "ApiForbidden",
        "message": "no",
        "remedy": "ask",
        "exit_code": 12,
        "at": 1000.5,
    }


def test_a_record_is_one_line_whatever_is_in_it(place):
    with created(place) as record:
        record.failed(ApiForbidden("two\nlines and \u2028 and ü", remedy="ask"))
        record.mark("stopped")

    assert len(lines(place)) == 4
    assert read(place).state == "stopped"


# ---- after a crash ----------------------------------------------------------------------------------------------


def torn(place, tail=b'{"kind": "fini'):
    with created(place) as record:
        record.started("a/sweep", {})
    with (place / FILE).open("ab") as file:
        file.write(tail)


def test_a_torn_last_line_does_not_count(place):
    torn(place)

    assert read(place).done == frozenset()


def test_a_torn_last_line_does_not_count_even_if_only_its_end_is_missing(place):
    torn(place, b'{"kind": "finished", "step": "a/sweep", "outcome": "changed", "at": 1}')

    assert read(place).done == frozenset()


def test_a_torn_last_line_is_cut_off_before_the_next_record(place):
    torn(place)

    with Journal.open(place) as record:
        record.finished("a/sweep", "changed")

    assert read(place).done == {"a/sweep"}
    assert b"fini{" not in (place / FILE).read_bytes()


def test_a_reader_leaves_a_torn_line_to_whoever_writes_it(place):
    torn(place)
    before = (place / FILE).read_bytes()

    read(place)

    assert (place / FILE).read_bytes() == before


# ---- what cannot be read ----------------------------------------------------------------------------------------


def test_a_run_without_a_journal_is_not_guessed_at(tmp_path):
    with pytest.raises(BadUsage, match="run run-7 has no journal"):
        read(tmp_path / "run-7")
    with pytest.raises(BadUsage, match="run run-7 has no journal"):
        Journal.open(tmp_path / "run-7")


def test_opening_a_run_that_does_not_exist_makes_none(tmp_path):
    with pytest.raises(BadUsage):
        Journal.open(tmp_path / "run-7")

    assert list(tmp_path.iterdir()) == []


def edited(place, number, line):
    with created(place) as record:
        record.started("a/sweep", {})
        record.finished("a/sweep", "changed")
    kept = lines(place)
    kept[number] = line(kept[number])
    (place / FILE).write_bytes(b"\n".join(kept))


@pytest.mark.parametrize(
    ("number", "line", "why"),
    [
        (0, lambda line: line.replace(b'"format": 1', b'"format": 2'), "its format is 2, this version reads 1"),
        (0, lambda line: line.replace(b'\\"format\\":1', b'\\"format\\":2'), "the plan has format 2"),
        (0, lambda _: b'{"kind": "stopped"}', "format"),
        (0, lambda _: b"[]", "list indices"),
        (1, lambda _: b"\0\0\0\0", "JSONDecodeError"),
        (1, lambda line: line[:20], "JSONDecodeError"),
        (1, lambda _: b'{"kind": "dreamt"}', "a record of an unknown kind, 'dreamt'"),
        (1, lambda _: b'{"kind": "started"}', "KeyError: 'step'"),
    ],
)
def test_a_journal_that_is_damaged_or_of_another_format_is_refused(place, number, line, why):
    edited(place, number, line)

    with pytest.raises(FactUnreadable, match=why) as raised:
        Journal.open(place)

    assert raised.value.exit_code == 10
    assert not locked(place)


@pytest.mark.parametrize("written", [b"", b'{"kind": "pl'])
def test_a_run_that_died_before_its_plan_was_written_never_started(place, written):
    with created(place):
        pass
    (place / FILE).write_bytes(written)

    with pytest.raises(BadUsage, match="run run-1 ended before its plan was written: nothing of it was started"):
        Journal.open(place)
    assert journal.empty(place)


# ---- one process at a time --------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from orchestrator.engine.journal import Journal
with Journal.open(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_process(place):
    """Another process that has the run open."""
    created(place).close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "open\n"
        yield process


def test_a_run_that_another_process_works_on_is_locked_and_its_process_named(place, other_process):
    with pytest.raises(Locked, match=f"process {other_process.pid} works on run run-1") as raised:
        Journal.open(place)

    assert raised.value.exit_code == 21
    assert f"kill -INT {other_process.pid}" in raised.value.remedy
    assert locked(place)


def test_a_run_can_be_read_while_another_process_works_on_it(place, other_process):
    assert read(place).run == "run-1"


def test_a_run_is_free_once_its_process_was_killed(place, other_process):
    other_process.kill()
    other_process.wait()

    assert not locked(place)
    with Journal.open(place) as record:
        assert record.run == "run-1"
        assert (place / LOCK).read_text() == f"{os.getpid()}\n"


def test_a_run_is_free_once_it_was_closed(place):
    with created(place):
        assert locked(place)

    assert not locked(place)


def test_what_is_written_after_it_was_closed_goes_into_no_other_file(place, tmp_path):
    with created(place) as record:
        pass
    others = [(tmp_path / str(number)).open("wb") for number in range(8)]  # they have its number by now

    with pytest.raises(Refused, match="cannot be written"):
        record.command(argv=["true"])

    for other in others:
        other.close()
    assert [(tmp_path / str(number)).stat().st_size for number in range(8)] == [0] * 8


def test_a_run_without_a_lock_file_is_not_locked(tmp_path):
    assert not locked(tmp_path)


def test_a_second_journal_of_this_process_is_refused_too(place):
    with created(place), pytest.raises(Locked, match=f"process {os.getpid()}"):
        Journal.open(place)


# ---- the disk ---------------------------------------------------------------------------------------------------


def test_nobody_else_can_read_a_run(place):
    with created(place):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place.parent, place, *place.iterdir())}

    assert modes == {"runs": 0o700, "run-1": 0o700, FILE: 0o600, LOCK: 0o600}


def test_a_journal_that_cannot_be_opened_leaves_the_run_free(place):
    place.mkdir(parents=True)
    (place / FILE).mkdir()

    with pytest.raises(BadUsage, match="Is a directory"):
        Journal.open(place)

    assert not locked(place)


class Disk:
    """A disk that takes part of the next record and then has no room, while `full`."""

    full = False

    def write(self, fd, line):
        if self.full:
            os.write(fd, line[:15])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.write(fd, line)


def test_a_record_that_does_not_fit_is_taken_back_and_nothing_goes_on(place):
    disk = Disk()
    with created(place, write=disk.write) as record:
        before = (place / FILE).read_bytes()
        disk.full = True
        with pytest.raises(Refused, match=r"run-1 cannot be written \(No space left on device\)") as raised:
            record.started("a/sweep", {})

        assert (place / FILE).read_bytes() == before
        assert record.past == {}
        assert "orchestrator resume run-1" in raised.value.remedy

        disk.full = False
        record.started("a/sweep", {})
    assert set(read(place).past) == {"a/sweep"}


def test_a_step_whose_end_could_not_be_written_is_not_finished(place):
    disk = Disk()
    with created(place, write=disk.write) as record:
        record.started("a/sweep", {})
        disk.full = True
        with pytest.raises(Refused):
            record.finished("a/sweep", "changed")

        assert record.done == frozenset()


def test_a_run_whose_plan_cannot_be_written_is_refused_and_free(place):
    disk = Disk()
    disk.full = True

    with pytest.raises(Refused, match="nothing more was started"):
        created(place, write=disk.write)

    assert not locked(place)


def test_a_directory_that_is_in_the_way_is_an_error_with_a_remedy(place):
    created(place).close()

    with pytest.raises(Refused, match="File exists") as raised:
        created(place)

    assert str(place) in raised.value.remedy


def test_a_runs_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(Refused, match="Not a directory"):
        created(tmp_path / "file" / "runs" / "run-1")


def test_a_disk_that_is_full_says_so(tmp_path):
    fd = os.open("/dev/full", os.O_WRONLY)

    with pytest.raises(OSError, match="No space left on device"):
        synced(fd, b"x")

    os.close(fd)


def test_every_record_says_when(place):
    with created(place) as record:
        record.started("a/sweep", {})
        record.finished("a/sweep", "changed")
        record.mark("ended", outcome="finished")

    records = [json.loads(line) for line in lines(place)[:-1]]
    assert [r["at"] for r in records] == [1000.5] * 4
    assert {r["kind"] for r in records} <= {"started", "finished", *journal.STATES}
