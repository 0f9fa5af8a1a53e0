"""What is kept of a command's output, and what that takes."""

import tracemalloc

import pytest

from orchestrator.engine.clock import SystemClock
from orchestrator.hosts.detached import KEEP_BYTES, Unit, run_detached
from orchestrator.hosts.output import Output
from tests.fakes.hosts import local

#: 100 MB, in lines of 1000.
LINES, LINE = 100_000, 1000
MANY = f"head -c {LINES * (LINE - 1)} /dev/zero | tr '\\0' x | fold -w {LINE - 1}; echo; echo the end"


@pytest.mark.matrix
def test_memory_does_not_grow_with_what_a_detached_command_says(tmp_path):
    told = 0

    def heard(line):
        nonlocal told
        told += len(line) + 1

    tracemalloc.start()
    try:
        done = run_detached(
            local(),
            ["sh", "-c", MANY],
            unit=Unit("run-1", "1", str(tmp_path), systemd=False),
            timeout_s=240.0,
            clock=SystemClock(),
            on_line=heard,
        )
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (done.rc, told) == (0, LINES * LINE + len("the end\n"))
    assert (done.stdout[:10], done.stdout[-10:]) == (b"xxxxxxxxxx", b"x\nthe end\n")
    assert len(done.stdout) <= 2 * KEEP_BYTES
    assert most_bytes < 30_000_000


def test_output_that_has_room_is_kept_as_it_is():
    with Output(keep_bytes=10) as output:
        for chunk in (b"abc", b"defg", b"hijk"):
            output.out(chunk)

    assert output.stdout == b"abcdefghijk"


def test_of_output_that_has_none_the_beginning_and_the_end_are_kept():
    with Output(keep_bytes=10) as output:
        for number in range(10):
            output.out(f"<{number}234567>".encode())

    assert output.stdout.decode() == "<0234\n… 80 bytes …\n4567>"


def test_all_is_kept_where_nobody_says_how_much():
    with Output() as output:
        output.out(b"x" * 5_000_000)

    assert len(output.stdout) == 5_000_000
