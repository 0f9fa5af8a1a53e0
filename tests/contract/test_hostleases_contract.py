"""The suite of `test_leases_contract.py`, held to by the lock on a host's disk; and what only that one has."""

import threading
from dataclasses import replace

import pytest

from orchestrator.engine.clock import SystemClock
from orchestrator.errors import ApiConflict, ApiUnreachable
from orchestrator.hostlease import HostLeases
from tests.fakes.hosts import local

pytest.register_assert_rewrite("tests.contract.test_leases_contract")
from tests.contract.test_leases_contract import *  # noqa: E402, F403
from tests.contract.test_leases_contract import RECORD  # noqa: E402


class OnDisk:
    """This machine's disk."""

    def __init__(self, directory):
        self.directory = directory / "orchestrator"
        self.leases = HostLeases(local(), SystemClock(), str(self.directory))

    def soon(self, change):
        threading.Timer(0.2, change).start()


@pytest.fixture
def harness(tmp_path):
    return OnDisk(tmp_path)


def test_of_many_who_want_it_at_once_one_has_it(harness):
    got, refused = [], []

    def take(number):
        try:
            got.append(harness.leases.create(replace(RECORD, holder=f"operator-{number}")))
        except ApiConflict:
            refused.append(number)

    crew = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for each in crew:
        each.start()
    for each in crew:
        each.join()

    assert (len(got), len(refused)) == (1, 7)
    assert harness.leases.read() == got[0]


def test_it_is_readable_by_nobody_else(harness):
    harness.leases.create(RECORD)

    assert harness.directory.stat().st_mode & 0o077 == 0
    assert (harness.directory / "run-lock").stat().st_mode & 0o077 == 0


def test_a_lock_that_cannot_be_read_is_not_taken_for_none(harness):
    harness.leases.create(RECORD)
    (harness.directory / "run-lock").write_text("someone/1\nnot a record\n")

    with pytest.raises(ApiUnreachable, match="cannot be read"):
        harness.leases.read()


def test_a_disk_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ApiUnreachable, match="run lock"):
        HostLeases(local(), SystemClock(), str(tmp_path / "file" / "below")).create(RECORD)
