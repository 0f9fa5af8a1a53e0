"""Commands and daemons of the lab."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.processes import Daemon, attempt, run, wait_for

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started(pid="self"):
    """Source: proc(5): the 22nd field of stat, counted behind the command's bracket."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def command(pid):
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


def over(pid):
    """Whether a process has ended, collected or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def daemon(tmp_path):
    made = Daemon("the sleeper", tmp_path / "run" / "sleeper.pid", tmp_path / "sleeper.log")
    yield made
    made.stop(timeout_s=5)


def recorded(daemon, text):
    daemon.record.parent.mkdir(exist_ok=True)
    daemon.record.write_text(text)
    found = daemon.pid()
    daemon.record.unlink()
    return found


def test_a_record_of_a_living_process_is_believed(daemon):
    assert recorded(daemon, f"{os.getpid()} {started()} {BOOT}\n") == os.getpid()


@pytest.mark.parametrize(
    "text",
    [
        f"{os.getpid()} 1 {BOOT}",
        f"{os.getpid()} {started()} another-boot",
        f"999999999 {started()} {BOOT}",
        f"{os.getpid()}",
        "",
    ],
    ids=["started at another time", "another boot", "no such process", "cut short", "empty"],
)
def test_a_stranger_with_a_reused_pid_is_never_taken_for_ours(daemon, text):
    assert recorded(daemon, text) is None


def test_a_process_that_ended_but_was_not_collected_does_not_run(daemon):
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)

    found = recorded(daemon, f"{ended.pid} {started(ended.pid)} {BOOT}")

    ended.wait()
    assert found is None


def test_a_daemon_without_a_record_does_not_run(daemon):
    assert daemon.pid() is None


def test_a_daemon_is_started_once_and_ended(daemon):
    daemon.start(["sleep", "60"])
    first = daemon.pid()
    daemon.start(["sleep", "60"])
    second = daemon.pid()
    wait_for("the command", lambda: command(first) == ["sleep", "60"], timeout_s=5, pause_s=0.01, remedy="")

    daemon.stop(timeout_s=5)

    assert first == second
    assert daemon.pid() is None
    assert not daemon.record.exists()


def test_a_daemon_that_does_not_listen_is_ended_all_the_same(daemon):
    daemon.start(["sh", "-c", "trap '' TERM; echo deaf; exec sleep 60"])
    wait_for("it to be deaf", lambda: daemon.last_words() == "deaf", timeout_s=5, pause_s=0.01, remedy="")

    daemon.stop(timeout_s=0)

    assert daemon.pid() is None


def test_a_daemons_last_words_are_the_end_of_its_log(daemon):
    nothing = daemon.last_words()
    daemon.log.write_text("".join(f"line {n}\n" for n in range(100)))

    words = daemon.last_words().splitlines()

    assert nothing == ""
    assert words[-1] == "line 99"
    assert "line 0" not in words


def test_a_commands_output_is_given_and_its_input_taken():
    assert run(["cat"], stdin="hello") == "hello"


def test_a_command_that_fails_is_named_with_what_it_said_last():
    with pytest.raises(LabError, match="ended with 3") as caught:
        run(["sh", "-c", "echo out; echo err >&2; exit 3"])

    assert {"out", "err"} <= set(str(caught.value).splitlines())


def test_a_failure_is_an_outcome_like_another_where_that_is_asked():
    assert attempt(["sh", "-c", "exit 3"]).returncode == 3


def test_a_command_that_takes_too_long_is_ended():
    with pytest.raises(LabError, match=r"did not end within 0\.05 s"):
        attempt(["sleep", "60"], timeout_s=0.05)


def test_what_does_not_come_is_waited_for_no_longer_than_said():
    with pytest.raises(LabError, match="waited 0 s for rain") as caught:
        wait_for("rain", lambda: False, timeout_s=0, pause_s=0, remedy="dance")

    assert caught.value.remedy == "dance"


def test_a_command_ends_with_the_lab_that_started_it(tmp_path):
    script = (
        "import os, sys; from lab.processes import run;"
        f"run(['sh', '-c', 'echo $$ > {tmp_path}/pid; kill -9 {{}}; exec sleep 60'.format(os.getpid())])"
    )

    ended = subprocess.run([sys.executable, "-c", script], check=False)
    pid = int((tmp_path / "pid").read_text())
    wait_for("it to end", lambda: over(pid), timeout_s=5, pause_s=0.01, remedy="")

    assert ended.returncode == -9
