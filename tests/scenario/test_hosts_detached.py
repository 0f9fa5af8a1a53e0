"""Detached commands over SSH to a server in this process; `tests/hosts` has a real one, `tests/lab` systemd."""

import paramiko
import pytest

from orchestrator.hosts.detached import Unit, stop
from tests.fakes.hosts import local, over_ssh, settings
from tests.fakes.sshd import FakeSshd

pytest.register_assert_rewrite("tests.contract.hosts_detached")
from tests.contract.hosts_detached import (  # noqa: E402, F401  the others take long, and are in tests/hosts
    test_a_command_that_a_reboot_ended_is_not_repeated,
    test_a_connection_that_is_cut_in_the_middle_neither_ends_nor_repeats_it,
    test_a_detached_command_ends_as_any_other,
    test_a_stopped_command_is_gone_with_what_it_started_and_is_not_taken_for_a_result,
    test_a_unit_of_another_command_is_refused,
    test_it_is_ended_there_when_its_time_is_up_and_that_stays_known,
    test_the_same_unit_again_gives_the_same_result_without_another_run,
    test_who_looks_at_a_host_sees_what_is_at_work_there,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with FakeSshd() as made:
        yield made


@pytest.fixture
def host(tmp_path, server):
    paramiko.ECDSAKey.generate().write_private_key_file(tmp_path / "id")
    (tmp_path / "known_hosts").write_text(server.known)
    config = tmp_path / "config"
    files = {"IdentityFile": tmp_path / "id", "UserKnownHostsFile": tmp_path / "known_hosts"}
    config.write_text(settings("node-1", server.port, **files))
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


def test_units_have_names_that_neither_paths_nor_systemd_misread():
    one = Unit("drain-1", "../1/node-1/node.drain; reboot")

    assert one.directory == "/var/lib/orchestrator/drain-1/_1_node-1_node.drain__reboot"
    assert one.name == "orchestrator-drain-1-_1_node-1_node.drain__reboot.service"
    assert len(Unit("r" * 300, "s").name) < 256
