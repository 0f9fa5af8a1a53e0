"""A run that takes the cluster's data back to an earlier time, and the lease with them, keeps what it holds."""

from dataclasses import replace

import pytest

from orchestrator.engine.lease import Lease
from orchestrator.errors import LeaseLost
from tests.fakes.lease import FakeLeases, unkept
from tests.fakes.sink import Recorder
from tests.fakes.time import FakeClock

LONG_S = 20.0


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(clock):
    return FakeLeases(clock)


def lease(store, clock, *, turns_back, run="rollback-1"):
    return Lease(store, "ann@laptop", run, clock, Recorder(), beside=unkept, turns_back=turns_back)


def an_earlier_run(store, clock):
    """What was stored while another run, which is over, held the cluster."""
    with lease(store, clock, turns_back=False, run="upgrade-1"):
        return store.record


def turned_back(store, clock, record):
    """The store as it was then."""
    clock.pass_to(clock.now() + LONG_S)
    store.record = record and replace(record, resource_version="1000000001")


@pytest.mark.parametrize("there", [True, False])
def test_a_record_from_before_is_replaced_and_the_run_goes_on(store, clock, there):
    old = an_earlier_run(store, clock)
    clock.pass_to(clock.now() + LONG_S)

    with lease(store, clock, turns_back=True) as held:
        turned_back(store, clock, old if there else None)
        held.guard()
        assert store.record.run == "rollback-1"
    assert store.record is None


def test_another_run_loses_it_all_the_same(store, clock):
    old = an_earlier_run(store, clock)
    clock.pass_to(clock.now() + LONG_S)

    with lease(store, clock, turns_back=False) as held:
        turned_back(store, clock, old)
        with pytest.raises(LeaseLost):
            held.guard()


def test_somebody_who_takes_it_over_meanwhile_has_it(store, clock):
    with lease(store, clock, turns_back=True) as held:
        now = clock.wall() + LONG_S
        taken = replace(store.record, holder="bob", run="drain-9", acquired=now, renewed=now, resource_version="99")
        turned_back(store, clock, taken)
        with pytest.raises(LeaseLost, match="bob"):
            held.guard()
