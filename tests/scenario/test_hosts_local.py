"""The suite of `tests/contract/hosts.py`, held to by this machine; `tests/hosts` has SSH, `tests/lab` nodes."""

import pytest

from tests.fakes.hosts import local

pytest.register_assert_rewrite("tests.contract.hosts")
from tests.contract.hosts import *  # noqa: E402, F403


@pytest.fixture
def host():
    return local()


@pytest.fixture
def there(tmp_path):
    directory = tmp_path / "there"
    directory.mkdir()
    return str(directory)
