"""What a host does, whatever carries its commands. Imported whole by the test modules that have a `host` to hold to it.

`host` is a Host; `there` is a directory on it that is the test's own; nothing else of the machine is touched.
"""

import hashlib

import pytest

from orchestrator.engine.host import demand
from orchestrator.errors import CommandFailed, CommandTimedOut, HostError, HostFileMissing

#: Long enough for a busy machine.
LONG_S = 60.0
BINARY = bytes(range(256)) * 300
HOSTILE = ["two  words", "it's", '"', "$HOME", "`id`", "a\nb", "*", "", "-n", "ä", "\\", "; exit 7", "!x"]


def run(host, *argv, **how):
    return host.run(argv, timeout_s=LONG_S, **how)


# ---- commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 7, 124, 255])
def test_a_commands_status_comes_back(host, code):
    assert run(host, "sh", "-c", f"exit {code}").rc == code


def test_a_command_that_a_signal_ended_has_128_and_its_number(host):
    assert run(host, "sh", "-c", "kill -9 $$").rc == 128 + 9


def test_a_program_that_is_not_there_ends_with_127(host):
    done = run(host, "no-such-program")

    assert done.rc == 127
    assert b"no-such-program" in done.stderr


def test_output_and_errors_are_kept_apart(host):
    done = run(host, "sh", "-c", "echo out; echo err >&2")

    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_bytes_go_in_and_come_out_as_they_are(host):
    assert run(host, "cat", stdin=BINARY).stdout == BINARY


def test_a_file_is_streamed_in_as_it_is(host, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(BINARY * 20)

    assert run(host, "sha256sum", stdin=source).text.split()[0] == hashlib.sha256(BINARY * 20).hexdigest()


def test_a_command_without_input_sees_its_end(host):
    assert run(host, "cat").stdout == b""


def test_input_that_nobody_reads_is_no_failure(host):
    assert run(host, "true", stdin=b"x" * 5_000_000).rc == 0


@pytest.mark.parametrize("word", HOSTILE)
def test_words_arrive_as_they_were_given(host, word):
    assert run(host, "printf", "<%s>", word).stdout == f"<{word}>".encode()


def test_the_locale_is_the_same_everywhere(host):
    done = run(host, "sh", "-c", "echo $LC_ALL; ls /no-such-file")

    assert done.text == "C.UTF-8"
    assert b"No such file" in done.stderr


def test_lines_are_told_as_they_come(host):
    told = []

    done = run(host, "sh", "-c", "printf 'a\\nb\\n'; printf 'last'; printf '\\377\\n' >&2", on_line=told.append)

    assert sorted(told) == ["\\xff", "a", "b", "last"]
    assert done.stdout == b"a\nb\nlast"


def test_output_of_any_size_goes_to_a_file_that_only_its_owner_reads(host, tmp_path):
    out = tmp_path / "out"

    done = run(host, "head", "-c", "50000000", "/dev/zero", stdout_to=out)

    assert (done.rc, done.stdout) == (0, b"")
    assert (out.stat().st_size, out.stat().st_mode & 0o777) == (50_000_000, 0o600)


def test_a_command_that_takes_too_long_is_ended_there_with_all_that_it_started(host, there):
    mark = f"{there}/still-running"

    with pytest.raises(CommandTimedOut, match=r"did not end within 0.3 s") as caught:
        host.run(["sh", "-c", f"sleep 0.9; touch {mark}"], timeout_s=0.3)

    assert "sleep 0.9" in str(caught.value)
    assert run(host, "sh", "-c", f"sleep 0.9; ls {mark}").rc != 0


def test_a_command_that_leaves_something_running_does_not_hold_its_caller_up(host):
    done = run(host, "sh", "-c", "sleep 20 & echo started")

    assert done.text == "started"
    assert done.took_s < 10


def test_a_failure_that_is_demanded_away_says_what_the_command_said(host):
    done = run(host, "sh", "-c", "echo the disk is on fire >&2; exit 5")

    with pytest.raises(CommandFailed, match=r"ended with 5: the disk is on fire") as caught:
        demand(host, done)
    assert caught.value.rc == 5


# ---- files ------------------------------------------------------------------------------------------------------


def write(host, path, data, *, mode=0o600, owner=""):
    host.write(path, data, mode=mode, owner=owner, timeout_s=LONG_S)


def test_what_was_written_is_read(host, there):
    write(host, f"{there}/file", BINARY)

    assert host.read(f"{there}/file", timeout_s=LONG_S) == BINARY


@pytest.mark.parametrize("mode", [0o400, 0o755])
def test_a_file_has_its_mode_whatever_it_had_before(host, there, mode):
    write(host, f"{there}/file", b"old", mode=0o640)

    write(host, f"{there}/file", b"new", mode=mode)

    assert run(host, "stat", "-c", "%a", f"{there}/file").text == f"{mode:o}"
    assert host.read(f"{there}/file", timeout_s=LONG_S) == b"new"


def test_a_file_is_replaced_and_not_written_into(host, there):
    write(host, f"{there}/file", b"old")
    run(host, "ln", f"{there}/file", f"{there}/reader")

    write(host, f"{there}/file", b"new")

    assert host.read(f"{there}/reader", timeout_s=LONG_S) == b"old"
    assert run(host, "ls", "-A", there).text.split() == ["file", "reader"]


@pytest.mark.parametrize("name", ["it's two  words", "-n", "$(id)*"])
def test_a_file_may_have_any_name(host, there, name):
    write(host, f"{there}/{name}", b"x")

    assert host.read(f"{there}/{name}", timeout_s=LONG_S) == b"x"
    assert run(host, "ls", "-A", there).text == name.strip()


def test_a_file_that_is_not_there_is_missing_and_not_empty(host, there):
    with pytest.raises(HostFileMissing, match="no-such-file"):
        host.read(f"{there}/no-such-file", timeout_s=LONG_S)


def test_a_file_cannot_be_put_where_there_is_no_directory_or_where_one_is(host, there):
    with pytest.raises(HostError, match="no-such-directory"):
        write(host, f"{there}/no-such-directory/file", b"x")
    with pytest.raises(HostError, match="is a directory"):
        write(host, there, b"x")

    assert run(host, "ls", "-A", there).text == ""


def test_large_files_go_both_ways_and_are_counted_on_both_sides(host, there, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    source, back = here / "source", here / "back"
    source.write_bytes(BINARY * 100)
    digest = hashlib.sha256(BINARY * 100).hexdigest()

    assert host.send(source, f"{there}/file", mode=0o600, owner="", timeout_s=LONG_S) == digest
    assert host.fetch(f"{there}/file", back, timeout_s=LONG_S) == digest

    assert back.read_bytes() == source.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in here.iterdir()) == ["back", "source"]


def test_a_file_with_a_sum_of_its_own_is_fetched_without_one(host, there, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    host.write(f"{there}/file", BINARY, mode=0o600, owner="", timeout_s=LONG_S)

    assert host.fetch(f"{there}/file", here / "back", timeout_s=LONG_S, compared=False) == ""

    assert (here / "back").read_bytes() == BINARY
    assert (here / "back").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in here.iterdir()] == ["back"]


@pytest.mark.parametrize("compared", [False, True])
def test_a_fetch_of_nothing_leaves_nothing(host, there, tmp_path, compared):
    with pytest.raises(HostFileMissing):
        host.fetch(f"{there}/no-such-file", tmp_path / "copy", timeout_s=LONG_S, compared=compared)

    assert not [p for p in tmp_path.iterdir() if "copy" in p.name]


def test_a_host_that_was_let_go_of_is_reached_again(host):
    run(host, "true")
    host.close()

    assert run(host, "echo", "again").text == "again"
