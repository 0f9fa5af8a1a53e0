"""The way into a node: real sshd, keys that are known before the first connection, and nothing changed on the way."""

import os
import subprocess

import pytest

from lab import ssh
from tests.lab.real import CONTROL_PLANE, WORKER, WORKER2, lab

pytestmark = pytest.mark.lab
NODES = (CONTROL_PLANE, WORKER, WORKER2)


def host_keys(cluster):
    """Node -> its keys in known_hosts, as type and key."""
    lines = [line.split() for line in ssh.known_hosts(cluster).read_text().splitlines()]
    return {name: {(kind, key) for names, kind, key in lines if name in names.split(",")} for name in NODES}


@pytest.mark.parametrize("code", [0, 1, 7, 254])
def test_a_commands_exit_code_comes_back(real, code):
    done = lab("ssh", WORKER, "--", f"exit {code}", code=code)

    assert done.stdout == b""


def test_bytes_go_in_and_come_out_as_they_are(real):
    everything = bytes(range(256)) * 400

    done = lab("ssh", WORKER, "--", "cat", stdin=everything)

    assert done.stdout == everything


def test_words_arrive_as_they_were_given(real):
    words = ["two  words", "it's", "$HOME", '"', ""]

    done = lab("ssh", WORKER, "--", "printf", "<%s>\\n", *words)

    assert done.stdout.decode().splitlines() == [f"<{word}>" for word in words]


def test_each_node_has_host_keys_of_its_own(real):
    keys = host_keys(real.cluster)

    assert all(keys.values())
    assert len(set.union(*keys.values())) == sum(map(len, keys.values()))


def test_the_known_keys_are_those_that_the_nodes_have(real):
    shown = real.ssh(WORKER, "cat /etc/ssh/ssh_host_*_key.pub")

    assert {tuple(line.split()[:2]) for line in shown.splitlines()} == host_keys(real.cluster)[WORKER]


def test_a_node_that_shows_another_key_than_the_known_one_is_not_spoken_to(real, tmp_path):
    swapped = tmp_path / "known_hosts"
    known = ssh.known_hosts(real.cluster).read_text().splitlines()
    swapped.write_text("".join(f"{WORKER} {line.split(' ', 1)[1]}\n" for line in known if line.startswith(WORKER2)))
    option = f"UserKnownHostsFile={swapped}"

    argv = ["ssh", "-o", option, "-F", str(ssh.config(real.cluster)), WORKER, "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


def test_the_users_own_ssh_and_kubectl_files_are_left_alone(real, tmp_path):
    environ = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(real.cluster.directory.parents[3])}

    lab("ssh", WORKER, "--", "true", env=environ)

    assert list(tmp_path.rglob("*")) == []


def test_an_unknown_node_is_answered_with_the_nodes_that_there_are(real):
    done = lab("ssh", "nobody", "--", "true", code=1)

    assert "error: there is no node nobody" in done.stderr
    assert all(name in done.stderr.partition("remedy: nodes are: ")[2] for name in NODES)
