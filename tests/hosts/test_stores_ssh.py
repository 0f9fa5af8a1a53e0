"""The contract of `tests/scenario/test_stores.py`, held to over a real sshd."""

import pytest

from orchestrator.backup.stores import open_store
from tests.scenario.test_stores import BIG, Disks, digest, names_in

pytestmark = pytest.mark.sshd


@pytest.fixture
def place(tmp_path):
    """The store's directory, which is not there yet, nor is the one above it."""
    return tmp_path / "above" / "store"


@pytest.fixture
def there(place):
    return lambda: names_in(place) if place.exists() else []


@pytest.fixture
def large(tmp_path):
    """Many pieces, and the last one not whole."""
    path = tmp_path / "large"
    path.write_bytes(BIG * 3)
    return path


class TestShell(Disks):
    """An account with a shell: files are hashed there."""

    @pytest.fixture
    def store(self, host, place):
        return open_store(f"sftp://node-1{place}", host=lambda _: host)

    def test_a_file_of_many_pieces_is_whole(self, store, large, target):
        store.put(large, "a.db", digest(BIG * 3))
        store.get("a.db", target)

        assert target.read_bytes() == BIG * 3
