"""Nodes in containers, by a runtime that is a script: what it is called with, and what its own complaints mean."""

import pytest

from orchestrator.errors import HostUnreachable
from orchestrator.hosts.container import ContainerTransport
from tests.fakes.hosts import machine

LONG_S = 30.0


@pytest.fixture
def runtime(tmp_path):
    """Makes a program that stands for docker; gives its path."""

    def of(script):
        path = tmp_path / "docker"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return of


def test_a_command_runs_in_the_container_as_root(runtime, tmp_path):
    engine = runtime(f'echo "$1 $2 $3 $4" > {tmp_path}/called; shift 4; exec "$@"')
    host = machine(ContainerTransport("kind-worker", engine))

    done = host.run(["sh", "-c", "cat; exit 3"], stdin=b"input", timeout_s=LONG_S)

    assert (done.rc, done.stdout) == (3, b"input")
    assert (tmp_path / "called").read_text() == "exec -i --user=0 kind-worker\n"
    host.close()


@pytest.mark.parametrize(
    "complaint",
    [
        "Error response from daemon: No such container: kind-worker",
        "Error response from daemon: container 3f is not running",
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
    ],
)
def test_a_container_that_is_not_there_is_an_unreachable_host_and_no_failed_command(runtime, complaint):
    host = machine(ContainerTransport("kind-worker", runtime(f"echo '{complaint}' >&2; exit 1")))

    with pytest.raises(HostUnreachable, match="kind-worker") as caught:
        host.run(["true"], timeout_s=LONG_S)

    assert caught.value.retryable


def test_a_runtime_that_is_not_installed_is_named():
    host = machine(ContainerTransport("kind-worker", "no-such-runtime"))

    with pytest.raises(HostUnreachable, match="no-such-runtime cannot be started"):
        host.run(["true"], timeout_s=LONG_S)
