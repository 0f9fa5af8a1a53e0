"""What a LeaseStore does, whichever cluster is behind it."""

from dataclasses import replace

import pytest

from orchestrator.engine.lease import LeaseRecord
from orchestrator.errors import ApiConflict, ApiNotFound

RECORD = LeaseRecord("ann@laptop", "drain-20261124-0159-7f3a", 1_795_000_000.25, 1_795_000_005.5, 15)


def told(record):
    """What the holder wrote into it."""
    return (record.holder, record.run, record.acquired, record.renewed, record.duration_s)


def test_there_is_none_until_it_is_created(harness):
    assert harness.leases.read() is None


def test_a_created_lease_is_read_as_it_was_stored(harness):
    stored = harness.leases.create(RECORD)

    assert told(stored) == told(RECORD)
    assert stored.resource_version
    assert stored.uid
    assert harness.leases.read() == stored


def test_there_can_be_only_one(harness):
    stored = harness.leases.create(RECORD)

    with pytest.raises(ApiConflict):
        harness.leases.create(replace(RECORD, holder="bob@desk", run="run-9"))

    assert harness.leases.read() == stored


def test_a_replaced_lease_has_another_version_and_the_same_uid(harness):
    stored = harness.leases.create(RECORD)

    renewed = harness.leases.replace(replace(stored, renewed=stored.renewed + 5))

    assert told(renewed) == told(replace(RECORD, renewed=RECORD.renewed + 5))
    assert renewed.uid == stored.uid
    assert renewed.resource_version != stored.resource_version
    assert harness.leases.read() == renewed


def test_a_lease_that_was_changed_since_it_was_read_is_not_replaced(harness):
    stored = harness.leases.create(RECORD)
    renewed = harness.leases.replace(replace(stored, holder="bob@desk"))

    with pytest.raises(ApiConflict):
        harness.leases.replace(replace(stored, renewed=stored.renewed + 5))

    assert harness.leases.read() == renewed


def test_a_lease_that_is_gone_is_not_replaced(harness):
    stored = harness.leases.create(RECORD)
    harness.leases.delete(stored)

    with pytest.raises((ApiConflict, ApiNotFound)):
        harness.leases.replace(stored)

    assert harness.leases.read() is None


def test_a_lease_that_another_one_took_the_place_of_is_not_replaced(harness):
    stored = harness.leases.create(RECORD)
    harness.leases.delete(stored)
    other = harness.leases.create(replace(RECORD, holder="bob@desk"))

    with pytest.raises(ApiConflict):
        harness.leases.replace(stored)

    assert harness.leases.read() == other


def test_a_deleted_lease_is_gone(harness):
    harness.leases.delete(harness.leases.create(RECORD))

    assert harness.leases.read() is None


def test_a_lease_that_was_changed_since_it_was_read_is_not_deleted(harness):
    stored = harness.leases.create(RECORD)
    renewed = harness.leases.replace(replace(stored, holder="bob@desk"))

    with pytest.raises(ApiConflict):
        harness.leases.delete(stored)

    assert harness.leases.read() == renewed


def test_a_lease_that_another_one_took_the_place_of_is_not_deleted(harness):
    stored = harness.leases.create(RECORD)
    harness.leases.delete(stored)
    other = harness.leases.create(replace(RECORD, holder="bob@desk"))

    with pytest.raises(ApiConflict):
        harness.leases.delete(stored)

    assert harness.leases.read() == other


def test_a_lease_that_is_gone_is_not_found_when_it_is_deleted(harness):
    stored = harness.leases.create(RECORD)
    harness.leases.delete(stored)

    with pytest.raises(ApiNotFound):
        harness.leases.delete(stored)


def test_a_watch_tells_of_a_renewal(harness):
    stored = harness.leases.create(RECORD)
    harness.soon(lambda: harness.leases.replace(replace(stored, renewed=stored.renewed + 5)))

    seen = next(iter(harness.leases.watch(stored, 20.0)))

    assert told(seen) == told(replace(RECORD, renewed=RECORD.renewed + 5))
    assert seen.uid == stored.uid


def test_a_watch_tells_of_a_deletion(harness):
    stored = harness.leases.create(RECORD)
    harness.soon(lambda: harness.leases.delete(stored))

    assert next(iter(harness.leases.watch(stored, 20.0))) is None


def test_a_watch_tells_what_happened_before_it_began(harness):
    stored = harness.leases.create(RECORD)
    renewed = harness.leases.replace(replace(stored, holder="bob@desk"))

    assert next(iter(harness.leases.watch(stored, 20.0))) == renewed


def test_a_watch_of_a_lease_that_nobody_changes_ends_in_its_time(harness):
    stored = harness.leases.create(RECORD)

    assert list(harness.leases.watch(stored, 1.0)) == []
