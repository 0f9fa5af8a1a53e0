"""Detached commands over SSH to a real server: sessions that are killed, and a network that is away for a while."""

import threading
import time

import pytest

from orchestrator.hosts.detached import Unit, stop
from tests.fakes.hosts import local, over_ssh
from tests.fakes.network import Wire

pytest.register_assert_rewrite("tests.contract.hosts_detached")
from tests.contract.hosts_detached import *  # noqa: E402, F403
from tests.contract.hosts_detached import count, detached, noting  # noqa: E402

pytestmark = pytest.mark.sshd


@pytest.fixture
def host(config):
    made = over_ssh(config, patience_s=5.0)
    yield made
    made.close()


@pytest.fixture
def cut(server):
    return server.cut


@pytest.fixture
def unit(tmp_path):
    made = []

    def of(step):
        made.append(Unit("run-1", step, root=str(tmp_path / "root"), systemd=False))
        return made[-1]

    yield of
    for one in made:
        stop(local(), one)


def test_a_network_that_is_away_is_waited_for(server, config, known_hosts, unit):
    one = unit("away")
    with Wire(server.port) as wire:
        known_hosts.write_text(server.known_hosts.replace(f":{server.port} ", f":{wire.port} "))
        config.write_text(config.read_text().replace(f"Port {server.port}", f"Port {wire.port}"))
        host = over_ssh(config)
        waited = []

        def heard(line):
            if line == "1":
                wire.cut()
                threading.Timer(3.0, wire.heal).start()

        began = time.monotonic()
        done = detached(
            host, one, *noting(one, "for i in 1 2 3 4; do echo $i; sleep 0.4; done"), on_line=heard,
            waiting=lambda err, pause_s: waited.append((err, pause_s)),
        )  # fmt: skip

        assert done.stdout == b"1\n2\n3\n4\n"
        assert waited
        assert time.monotonic() - began >= 3
        assert count(local(), one, "runs") == 1


def test_what_one_process_started_another_one_finds(config, unit):
    one = unit("found")
    first, second = over_ssh(config), over_ssh(config)
    begun = threading.Event()
    words = noting(one, "echo begun; sleep 1; echo end")
    thread = threading.Thread(target=detached, args=(first, one, *words), kwargs={"on_line": lambda _: begun.set()})
    thread.start()
    assert begun.wait(30)

    done = detached(second, one, *words)

    thread.join()
    assert done.stdout == b"begun\nend\n"
    assert count(second, one, "runs") == 1
