"""The suite of `tests/contract/hosts.py`, held to by SSH to the server in this process that other tests use."""

import paramiko
import pytest

from tests.fakes.hosts import over_ssh, settings
from tests.fakes.sshd import FakeSshd

pytest.register_assert_rewrite("tests.contract.hosts")
from tests.contract.hosts import *  # noqa: E402, F403


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ssh")
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(directory / "id")
    with FakeSshd(accepts={key.asbytes()}) as server:
        (directory / "known_hosts").write_text(server.known)
        config = directory / "config"
        config.write_text(
            settings(
                "node-1",
                server.port,
                IdentityFile=directory / "id",
                UserKnownHostsFile=directory / "known_hosts",
            )
        )
        made = over_ssh(config)
        yield made
        made.close()


@pytest.fixture
def there(tmp_path):
    directory = tmp_path / "there"
    directory.mkdir()
    return str(directory)
