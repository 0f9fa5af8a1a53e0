"""The suites of `tests/contract/hosts*.py`, held to by real nodes: by `docker exec`, and by SSH, under systemd."""

import uuid

import pytest

from lab import docker, ssh
from orchestrator.hosts.config import SshConfig
from orchestrator.hosts.container import ContainerTransport
from orchestrator.hosts.detached import Unit, stop
from orchestrator.hosts.keyring import Keyring
from orchestrator.hosts.secrets import Secrets
from orchestrator.hosts.ssh import SshTransport, Switchboard
from tests.fakes.hosts import machine
from tests.lab.real import WORKER

pytest.register_assert_rewrite("tests.contract.hosts", "tests.contract.hosts_detached")
from tests.contract.hosts import *  # noqa: E402, F403
from tests.contract.hosts_detached import *  # noqa: E402, F403
from tests.contract.hosts_detached import LONG_S, detached, noting  # noqa: E402

pytestmark = pytest.mark.lab


def by_container(cluster):
    engine = docker.current()
    return machine(ContainerTransport(WORKER, env=engine.env()), name=WORKER, patience_s=10.0)


def by_ssh(cluster):
    route = SshConfig(ssh.config(cluster), None).route(WORKER)
    return machine(SshTransport(route, Switchboard(Keyring(Secrets()))), name=WORKER, patience_s=10.0)


@pytest.fixture(params=[by_container, by_ssh], ids=["container", "ssh"])
def host(request, real):
    made = request.param(real.cluster)
    yield made
    made.close()


@pytest.fixture
def there(host):
    path = f"/var/tmp/hosts-{uuid.uuid4().hex}"
    host.run(["mkdir", path], timeout_s=LONG_S)
    yield path
    host.run(["rm", "-rf", path], timeout_s=LONG_S)


@pytest.fixture
def unit(host, there):
    made = []

    def of(step):
        made.append(Unit(f"run-{uuid.uuid4().hex}", step, root=f"{there}/root"))
        return made[-1]

    yield of
    for one in made:
        stop(host, one)


@pytest.fixture
def cut(real):
    """Ends every session of sshd on the node, and no command."""
    node = by_container(real.cluster)
    return lambda: node.run(["pkill", "-KILL", "-f", "^sshd: root@"], timeout_s=LONG_S)


def test_a_detached_command_is_a_unit_of_systemd(host, unit):
    one = unit("unit")

    done = detached(host, one, "sh", "-c", "cat /proc/self/cgroup; systemctl is-active " + one.name)

    assert one.name in done.stdout.decode()
    assert done.stdout.endswith(b"active\n")
    assert host.run(["systemctl", "is-active", one.name], timeout_s=LONG_S).text == "inactive"


def test_a_restart_of_sshd_does_not_end_it(host, unit, real):
    one = unit("restart")
    node = by_container(real.cluster)

    def heard(line):
        if line == "1":
            node.run(["systemctl", "restart", "ssh"], timeout_s=LONG_S)

    done = detached(host, one, *noting(one, "for i in 1 2 3; do echo $i; sleep 1; done"), on_line=heard)

    assert done.stdout == b"1\n2\n3\n"
