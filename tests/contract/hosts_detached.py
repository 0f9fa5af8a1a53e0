"""What a detached command does on a host, whatever carries it. Imported whole, as `hosts.py` beside it.

`host` is a Host; `unit` makes units whose files are the test's own; `cut` breaks the connection to the host now.
"""

import threading
from contextlib import suppress

import pytest

from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import parse_at_work
from orchestrator.engine.clock import SystemClock
from orchestrator.engine.host import STATE
from orchestrator.errors import CommandTimedOut, CommandVanished, HostError, Refused
from orchestrator.hosts.detached import clean, run_detached, stop

LONG_S = 60.0


def detached(host, unit, *argv, **how):
    return run_detached(host, argv, unit=unit, clock=SystemClock(), **{"timeout_s": LONG_S, **how})


def count(host, unit, name):
    """How many lines the command wrote into a file beside its directory."""
    return host.run(["cat", f"{unit.root}/{name}"], timeout_s=LONG_S).stdout.count(b"\n")


def noting(unit, then):
    """A command that notes each of its runs."""
    return "sh", "-c", f"echo run >> {unit.root}/runs; {then}"


def test_a_detached_command_ends_as_any_other(host, unit):
    done = detached(host, unit("a/b"), "sh", "-c", "echo out; echo err >&2; exit 3")

    assert (done.rc, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert done.argv[0] == "sh"


def test_its_files_are_root_s_own(host, unit):
    one = unit("files")
    detached(host, one, "echo", "it's done")

    listed = host.run(["stat", "-c", "%a %n", one.directory, f"{one.directory}/rc"], timeout_s=LONG_S).text.split()
    assert listed[::2] == ["700", "600"]
    assert host.read(f"{one.directory}/argv", timeout_s=LONG_S) == b"""echo 'it'"'"'s done'"""
    assert host.read(f"{one.directory}/rc", timeout_s=LONG_S) == b"0\n"


def test_the_same_unit_again_gives_the_same_result_without_another_run(host, unit):
    one = unit("twice")
    first = detached(host, one, *noting(one, "echo $$; exit 4"))

    second = detached(host, one, *noting(one, "echo $$; exit 4"))

    assert (first.rc, first.stdout) == (second.rc, second.stdout)
    assert count(host, one, "runs") == 1


def test_two_who_start_it_at_once_see_one_run(host, unit):
    one = unit("race")
    seen = []

    def go():
        seen.append(detached(host, one, *noting(one, "sleep 0.5; echo $$")).stdout)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)

    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert count(host, one, "runs") == 1


def test_a_unit_of_another_command_is_refused(host, unit):
    one = unit("other")
    detached(host, one, "echo", "one")

    with pytest.raises(Refused, match="another command"):
        detached(host, one, "echo", "two")


def test_lines_come_while_it_runs_and_each_byte_once(host, unit):
    told = []
    done = detached(
        host,
        unit("lines"),
        "sh",
        "-c",
        "for i in 1 2 3; do echo $i; sleep 0.3; done; echo bad >&2",
        on_line=told.append,
    )

    assert sorted(told) == ["1", "2", "3", "bad"]
    assert done.stdout == b"1\n2\n3\n"


def test_output_of_several_looks_is_whole(host, unit, tmp_path):
    done = detached(host, unit("large"), "head", "-c", "5000000", "/dev/zero", stdout_to=tmp_path / "out")

    assert done.rc == 0
    assert (tmp_path / "out").read_bytes() == bytes(5_000_000)


def test_it_is_ended_there_when_its_time_is_up_and_that_stays_known(host, unit):
    one = unit("slow")
    for _ in range(2):
        with pytest.raises(CommandTimedOut, match="in its time"):
            detached(host, one, "sleep", "30", timeout_s=1.0)


def test_a_command_that_ends_with_124_by_itself_was_not_too_slow(host, unit):
    assert detached(host, unit("124"), "sh", "-c", "exit 124").rc == 124


def test_a_stopped_command_is_gone_with_what_it_started_and_is_not_taken_for_a_result(host, unit):
    one = unit("stopped")
    begun = threading.Event()
    seen = []

    def go():
        try:
            detached(
                host, one, "sh", "-c", "echo begun; sleep 31.25 & sleep 31.25; wait", on_line=lambda _: begun.set()
            )
        except HostError as err:
            seen.append(err)

    thread = threading.Thread(target=go)
    thread.start()
    assert begun.wait(LONG_S)
    with pytest.raises(Refused, match="runs"):
        clean(host, one)

    stop(host, one)

    thread.join(LONG_S)
    assert [type(err) for err in seen] == [CommandVanished]
    left = "cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' ' ' | grep -c 'sleep 31[.]25'"
    assert host.run(["sh", "-c", left], timeout_s=LONG_S).text == "0"


def test_what_was_cleaned_can_be_started_anew(host, unit):
    one = unit("cleaned")
    detached(host, one, *noting(one, "true"))

    clean(host, one)

    assert host.run(["ls", one.directory], timeout_s=LONG_S).rc != 0
    detached(host, one, *noting(one, "true"))
    assert count(host, one, "runs") == 2


def test_a_command_that_a_reboot_ended_is_not_repeated(host, unit):
    one = unit("reboot")
    with suppress(CommandTimedOut):
        detached(host, one, *noting(one, "true"))
    host.run(["sh", "-c", f"cd {one.directory}; rm rc; sed -i 's/[^ ]*$/another-boot/' started"], timeout_s=LONG_S)

    with pytest.raises(CommandVanished, match="went down"):
        detached(host, one, *noting(one, "true"))

    assert count(host, one, "runs") == 1


def test_a_result_outlives_a_reboot(host, unit):
    one = unit("after")
    detached(host, one, "sh", "-c", "echo kept; exit 5")
    host.run(["sh", "-c", f"cd {one.directory}; sed -i 's/[^ ]*$/another-boot/' started"], timeout_s=LONG_S)

    again = detached(host, one, "sh", "-c", "echo kept; exit 5")

    assert (again.rc, again.stdout) == (5, b"kept\n")


def test_a_start_that_was_cut_short_is_taken_up(host, unit):
    one = unit("half")
    host.run(["sh", "-c", f"mkdir -p {one.directory}; printf 'echo hello' > {one.directory}/argv"], timeout_s=LONG_S)

    assert detached(host, one, "echo", "hello").text == "hello"


def test_who_looks_at_a_host_sees_what_is_at_work_there(host, unit):
    one, seen = unit("a/b"), []
    script = queries.KEPT.script.replace(STATE, one.root)

    def at_work():
        # A kubeadm of the lab, in a container of this very machine, is seen as well.
        found = parse_at_work(host.run(["sh", "-c", script, "sh"], timeout_s=LONG_S).text)
        return [each for each in found if not each.startswith("kubeadm ")]

    def begun(_):
        seen.extend(at_work())
        host.run(["touch", f"{one.root}/go"], timeout_s=LONG_S)

    detached(host, one, "sh", "-c", f"echo begun; while [ ! -e {one.root}/go ]; do sleep 0.1; done", on_line=begun)

    assert [each.partition(" (process ")[0] for each in seen] == [one.directory.removeprefix(f"{one.root}/")]
    assert at_work() == []


def test_a_connection_that_is_cut_in_the_middle_neither_ends_nor_repeats_it(host, unit, cut):
    one = unit("cut")
    told, waited = [], []

    def heard(line):
        told.append(line)
        if line in ("1", "3"):
            cut()

    done = detached(
        host,
        one,
        *noting(one, "for i in 1 2 3 4 5; do echo $i; sleep 0.5; done; exit 6"),
        on_line=heard,
        waiting=lambda err, _: waited.append(err),
    )

    assert (done.rc, done.stdout) == (6, b"1\n2\n3\n4\n5\n")
    assert told == ["1", "2", "3", "4", "5"]
    assert count(host, one, "runs") == 1
