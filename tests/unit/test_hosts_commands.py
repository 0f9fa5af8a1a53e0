"""The command lines that run on hosts."""

import shlex
import subprocess

import pytest

from orchestrator.engine.host import shown
from orchestrator.hosts import commands
from orchestrator.hosts.commands import Sudo, wrapped


def test_every_command_has_its_locale_and_its_end():
    words = wrapped(["ls", "-l"], timeout_s=30)

    assert words == ("env", "LC_ALL=C.UTF-8", "LANGUAGE=", "timeout", "--kill-after=5", "30.000", "ls", "-l")


def test_rights_come_before_all_that_root_is_to_do():
    assert wrapped(["ls"], timeout_s=1, sudo=Sudo.FREE)[:4] == ("sudo", "-n", "--", "env")
    assert wrapped(["ls"], timeout_s=1, sudo=Sudo.PASSWORD)[:6] == ("sudo", "-k", "-S", "-p", "", "--")


@pytest.mark.parametrize("read_by_sudo", [True, False])
def test_a_password_never_reaches_the_command_whether_sudo_reads_it_or_not(read_by_sudo):
    _, inner = shlex.join(wrapped(["cat"], timeout_s=5, sudo=Sudo.PASSWORD)).split(" -- ", 1)
    given = commands.password_lines("s3cret") + b"its own input"
    sudo = "IFS= read -r password; " if read_by_sudo else ""

    done = subprocess.run(["sh", "-c", sudo + inner], input=given, capture_output=True, check=True)

    assert done.stdout == b"its own input"


@pytest.mark.parametrize(
    ("rc", "took_s", "expected"), [(124, 5.1, True), (124, 1.0, False), (137, 10.2, True), (137, 5.1, False)]
)
def test_a_status_tells_of_a_timeout_only_when_the_time_was_up(rc, took_s, expected):
    assert commands.timed_out(rc, took_s, 5.0) is expected


def test_one_line_holds_the_words_for_a_shell():
    words = ["printf", "<%s>", "it's", "a\nb", "$HOME"]

    done = subprocess.run(["sh", "-c", commands.line(words)], capture_output=True, check=True)

    assert done.stdout == b"<it's><a\nb><$HOME>"


def test_a_command_is_shown_in_one_line_of_a_bearable_length():
    assert shown(["echo", "a\nb"]) == "echo 'a b'"
    assert len(shown(["x" * 500])) == 120
