"""The suite of `tests/contract/hosts.py`, held to by SSH to a real server."""

import pytest

pytest.register_assert_rewrite("tests.contract.hosts")
from tests.contract.hosts import *  # noqa: E402, F403

pytestmark = pytest.mark.sshd


@pytest.fixture
def there(tmp_path):
    directory = tmp_path / "there"
    directory.mkdir()
    return str(directory)
