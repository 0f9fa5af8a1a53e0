"""The cluster's lease beside the lock on a disk: others see a restore by it, and it never holds one up."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator import app as root
from orchestrator import hostlease
from orchestrator.app import App, Settings
from orchestrator.engine.events import Event
from orchestrator.engine.lease import Lease
from orchestrator.engine.plan import Plan
from orchestrator.errors import ApiForbidden, Locked
from orchestrator.kube.lease import KubeLeases
from orchestrator.planners import backup, nodes, rebuild, restore
from orchestrator.planners.restore import Plane, Request
from tests.fakes.lease import FakeLeases, unkept
from tests.fakes.sink import Recorder
from tests.fakes.time import FakeClock

PLANES = [Plane("cp-1", "cp-1", "https://198.18.0.11:2380", "/var/lib/etcd")]
RESTORE = restore.restore(PLANES, Request("restore-1", "prod", "staging/x.db", "prod-1", 1, 2, "t"))
REBUILD = rebuild.Request(
    name="rebuild-1", cluster="prod", snapshot="s", file="f", set="r", identities=(), token="t", bump=1, revision=2,
    size_bytes=1, trailer=True,
)  # fmt: skip


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(clock):
    return FakeLeases(clock)


@pytest.fixture
def sink():
    return Recorder()


def lease(store, clock, run="restore-1"):
    return Lease(store, "ann@laptop", run, clock, Recorder(), beside=unkept, turns_back=True)


def test_it_is_held_meanwhile_and_given_back(store, clock, sink):
    with hostlease.as_well(store, lease(store, clock), "restore-1", sink):
        assert (store.record.holder, store.record.run) == ("ann@laptop", "restore-1")

    assert store.record is None


def test_where_another_run_holds_it_nothing_is_begun(store, clock, sink):
    began = []

    def restored():
        with hostlease.as_well(store, lease(store, clock), "restore-1", sink):
            began.append("restore-1")

    with lease(store, clock, "upgrade-1"), pytest.raises(Locked, match="upgrade-1"):
        restored()
    assert began == []


def test_a_way_back_is_not_barred_by_what_the_failed_run_left(application, store, clock):
    """It could not give its lease back, and API servers may be stopped."""
    back = restore.back("restore-1", RESTORE, {s.id: {} for s in RESTORE.steps()})
    with lease(store, clock, "restore-1"):
        application._execute(SimpleNamespace(plan=back, run="release-1", past={}), resumed=False)

    assert application.held == [(hostlease.HostLeases, "restore-1")]


def test_an_api_that_is_away_is_asked_once_and_not_waited_for(store, clock, sink):
    store.down, began = True, clock.now()

    with hostlease.as_well(store, lease(store, clock), "restore-1", sink):
        assert store.requests == ["read"]

    assert (store.requests, clock.now()) == (["read"], began)
    [told] = sink.events
    assert (told.name, told.level) == ("lease.unseen", "warning")
    assert (told.fields["run"], "no answer" in told.fields["why"]) == ("restore-1", True)


def test_who_may_not_have_it_goes_on_without(store, clock, sink):
    def forbidden(record):
        raise ApiForbidden("no", remedy="a role", status=403)

    store.create = forbidden
    with hostlease.as_well(store, lease(store, clock), "restore-1", sink):
        assert store.record is None
    assert sink.names() == ["lease.unseen"]


def test_an_api_that_goes_away_meanwhile_ends_nothing(store, clock, sink):
    with hostlease.as_well(store, lease(store, clock), "restore-1", sink):
        store.down = True
        clock.pass_to(clock.now() + 60)

    assert store.record.run == "restore-1"  # it runs out by itself


def test_what_came_back_with_the_snapshot_is_taken_away(store, clock, sink):
    with lease(store, clock, "backup-1"):
        old = store.record
    clock.pass_to(clock.now() + 3600)

    with hostlease.as_well(store, lease(store, clock), "restore-1", sink):
        store.record = replace(old, resource_version="1000000001")

    assert store.record is None


def test_an_error_of_the_restore_gives_it_back_and_stays_what_it_is(store, clock, sink):
    with pytest.raises(ZeroDivisionError), hostlease.as_well(store, lease(store, clock), "restore-1", sink):
        raise ZeroDivisionError

    assert store.record is None


def test_that_it_could_not_be_renewed_is_not_told_while_the_api_is_stopped_on_purpose():
    sink = Recorder()
    aside = hostlease.Aside(sink)

    for name in ("lease.watched", "lease.renewal_failed", "lease.lost", "lease.kept", "lease.taken_over"):
        aside.emit(Event(name))

    assert [event.name for event in sink.events] == ["lease.watched", "lease.taken_over"]


@pytest.mark.parametrize(
    ("plan", "held"),
    [
        (RESTORE, True),
        (restore.back("run-1", RESTORE, {s.id: {} for s in RESTORE.steps()}), True),
        (restore.confirm("run-1", RESTORE), True),
        (rebuild.rebuild(PLANES, REBUILD), False),  # there is no API
        (Plan("disarm", "", ()), False),  # it takes no writes
        (nodes.cordon(["n1"], owner="ann", reason=""), False),  # its lock is that lease
        (backup.backup(backup.Request("backup-1", "cp-2", ("/srv",))), False),
        (backup.backup(backup.Request("backup-1", "cp-2", ("/srv",), lock="cp-1")), True),  # the API may come back
    ],
)
def test_restores_have_it_as_well(monkeypatch, store, plan, held):
    taken = []
    monkeypatch.setattr(KubeLeases, "read", lambda leases: store.read())
    monkeypatch.setattr(Lease, "__enter__", taken.append)
    monkeypatch.setattr(Lease, "__exit__", lambda *_: None)
    app = App(Settings(), SimpleNamespace(emit=lambda event: None))
    app.__dict__ |= {"session": None}

    with app._lease_as_well(plan, "run-1"):
        assert len(taken) == held


@pytest.fixture
def application(monkeypatch, tmp_path, store, clock):
    """One that notes who holds the cluster while it works."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("orchestrator.kube.lease.KubeLeases", lambda session, clock: store)
    app = App(Settings(owner="ann@laptop"), Recorder())
    app.clock, app.held = clock, []
    hands = SimpleNamespace(recording=lambda *_: nullcontext())
    machines = SimpleNamespace(machine=lambda hands, node: node)
    app.__dict__ |= {"hands": hands, "session": None, "machines": machines, "actions": {}}
    monkeypatch.setattr(root, "execute", lambda *_, leases, **how: app.held.append((type(leases), store.record.run)))
    return app


def test_a_run_holds_both(application, store):
    application._execute(SimpleNamespace(plan=RESTORE, run="restore-1", past={}), resumed=False)

    assert application.held == [(hostlease.HostLeases, "restore-1")]
    assert store.record is None


def test_a_run_does_not_start_in_the_middle_of_another(application, store, clock):
    with lease(store, clock, "upgrade-1"), pytest.raises(Locked) as caught:
        application._execute(SimpleNamespace(plan=RESTORE, run="restore-1", past={}), resumed=False)

    assert application.held == []
    assert caught.value.run == ""


@pytest.mark.parametrize(("lock", "host"), [("", None), ("cp-1", "cp-1")])
def test_a_backup_without_the_api_has_its_lock_where_restores_have_theirs(application, store, lock, host):
    plan = backup.backup(backup.Request("backup-1", "cp-2", ("/srv",), lock=lock))

    leases = application._leases(plan)

    assert leases is store if host is None else leases._host == host
    assert application._leases(RESTORE)._host == "cp-1"
