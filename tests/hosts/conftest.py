"""Real servers of OpenSSH on loopback, which end with the tests."""

import pytest

from lab import sshd
from tests.fakes.hosts import over_ssh


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a host key of each kind."""
    with sshd.running(tmp_path_factory.mktemp("sshd") / "a", kinds=("ed25519", "ecdsa", "rsa")) as made:
        yield made


@pytest.fixture(scope="module")
def other_server(tmp_path_factory):
    """One more, for ways that go over two."""
    with sshd.running(tmp_path_factory.mktemp("sshd") / "b") as made:
        yield made


@pytest.fixture
def known_hosts(tmp_path, server):
    """A file that knows the server's keys."""
    path = tmp_path / "known_hosts"
    path.write_text(server.known_hosts)
    return path


@pytest.fixture
def config(tmp_path, server, known_hosts):
    """Settings that reach the server as node-1."""
    path = tmp_path / "config"
    path.write_text(server.ssh_config(known_hosts, alias="node-1"))
    return path


@pytest.fixture
def host(config):
    """The server's machine, over SSH."""
    made = over_ssh(config)
    yield made
    made.close()
