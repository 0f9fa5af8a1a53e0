"""How root is become, with a sudo that does what the real one does as far as it matters here."""

import os
import shutil

import pytest

from orchestrator.errors import HostAuthFailed
from orchestrator.hosts.commands import Sudo
from orchestrator.hosts.local import LocalTransport
from orchestrator.hosts.secrets import Secrets
from tests.fakes.hosts import machine

LONG_S = 30.0
#: Reads a password byte by byte when it is to, tries three times, and notes what it was called with.
SUDO = """#!/bin/sh
echo "$@" >> "$LOG"
reads=no
while :; do case "$1" in -S) reads=yes; shift;; -n) reads=never; shift;; -k) shift;; -p) shift 2;; --) shift; break;;
*) break;; esac; done
[ "$KIND" = free ] && exec "$@"
[ "$reads" = never ] && { echo "sudo: a password is required" >&2; exit 1; }
for i in 1 2 3; do IFS= read -r said; [ "$said" = "$PASSWORD" ] && exec "$@"; done
echo "sudo: 3 incorrect password attempts" >&2; exit 1
"""


class Ann(LocalTransport):
    """This machine, as a user who is not root."""

    user = "ann"


@pytest.fixture
def sudo(tmp_path, monkeypatch):
    """Puts a sudo of a kind on PATH, and an id that says we are not root; gives what it was called with."""
    log = tmp_path / "log"
    log.touch()
    for name, text in (("sudo", SUDO), ("id", "#!/bin/sh\necho 1000\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(log))
    monkeypatch.setenv("PASSWORD", "s3cret")

    def of(kind):
        monkeypatch.setenv("KIND", kind)
        return log

    return of


def asking(answer):
    asked = []
    return Secrets(lambda prompt: asked.append(prompt) or answer), asked


def test_sudo_without_a_password_asks_nobody(sudo):
    sudo("free")
    host = machine(Ann())

    assert host.run(["cat"], stdin=b"input", timeout_s=LONG_S).stdout == b"input"
    assert host.sudo() is Sudo.FREE


def test_a_password_is_asked_for_once_and_is_in_no_argument_and_no_input(sudo):
    log = sudo("password")
    secrets, asked = asking("s3cret")
    host = machine(Ann(), secrets=secrets)

    assert host.run(["cat"], stdin=b"input", timeout_s=LONG_S).stdout == b"input"
    assert host.run(["cat"], timeout_s=LONG_S).stdout == b""

    assert asked == ["sudo password of ann"]
    assert "s3cret" not in log.read_text()


def test_a_password_that_was_mistyped_is_asked_for_again(sudo):
    sudo("password")
    answers = iter(["s3crte", "s3cret"])

    assert machine(Ann(), secrets=Secrets(lambda _: next(answers))).sudo() is Sudo.PASSWORD


def test_a_wrong_password_is_asked_for_three_times_and_not_again_for_each_host(sudo):
    sudo("password")
    secrets, asked = asking("wrong")

    for _ in range(3):
        with pytest.raises(HostAuthFailed, match="sudo refuses ann"):
            machine(Ann(), secrets=secrets).sudo()

    assert len(asked) == 3


def test_a_password_that_was_right_elsewhere_is_not_asked_for_again(sudo, monkeypatch):
    sudo("password")
    secrets, asked = asking("s3cret")
    assert machine(Ann(), secrets=secrets).sudo() is Sudo.PASSWORD
    monkeypatch.setenv("PASSWORD", "another")

    with pytest.raises(HostAuthFailed, match="sudo refuses ann"):
        machine(Ann(), secrets=secrets).sudo()

    assert len(asked) == 1


def test_a_wrong_password_gets_no_input_to_read(sudo):
    sudo("password")
    secrets, _ = asking("wrong")

    with pytest.raises(HostAuthFailed, match="sudo refuses ann: sudo: 3 incorrect") as caught:
        machine(Ann(), secrets=secrets).run(["cat"], stdin=b"input", timeout_s=LONG_S)

    assert "wrong" not in str(caught.value)


def test_where_nobody_can_be_asked_it_says_so(sudo):
    sudo("password")

    with pytest.raises(HostAuthFailed, match="nobody to ask"):
        machine(Ann()).run(["true"], timeout_s=LONG_S)


def test_without_sudo_there_is_no_way(sudo, tmp_path, monkeypatch):
    sudo("free")
    for tool in ("sh", "env", "timeout"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    (tmp_path / "sudo").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(HostAuthFailed, match="there is no sudo"):
        machine(Ann()).run(["true"], timeout_s=LONG_S)


def test_what_needs_no_root_asks_for_none(sudo):
    log = sudo("password")

    assert machine(Ann()).run(["echo", "mine"], timeout_s=LONG_S, sudo=False).text == "mine"
    assert log.read_text() == ""


def test_a_user_who_is_root_after_all_needs_no_sudo(sudo, tmp_path):
    sudo("password")
    (tmp_path / "id").write_text("#!/bin/sh\necho 0\n")

    assert machine(Ann()).sudo() is Sudo.NONE
