"""The lease of a run: taken, refused, taken over, renewed, lost, given back."""

import threading
from dataclasses import replace

import pytest

from orchestrator.engine import lease as engine
from orchestrator.engine.lease import Lease, LeaseRecord
from orchestrator.errors import ApiConflict, ApiForbidden, ApiUnreachable, LeaseLost, Locked
from tests.fakes.lease import FakeLeases
from tests.fakes.sink import Recorder
from tests.fakes.time import FakeClock


class Bench:
    """A lease, whose keeper runs only when the test says so."""

    def __init__(self):
        self.clock = FakeClock()
        self.leases = FakeLeases(self.clock)
        self.sink = Recorder()
        self.keeper = None
        self.over = None

    def lease(self, run="run-1", unattended=lambda _: False):
        how = {"beside": self._beside, "wait": self._wait, "unattended": unattended}
        return Lease(self.leases, "ann@laptop", run, self.clock, self.sink, **how)

    def _beside(self, work):
        self.keeper = work

    def _wait(self, event, seconds):
        """Time passes, and what others do meanwhile happens."""
        self.over = event
        self.clock.pass_to(self.clock.now() + seconds)
        while self.leases.changes and self.leases.changes[0][0] <= self.clock.now():
            self.leases.changes.pop(0)[1]()
        return event.is_set()

    def bobs(self, *, ago=0.0):
        """Another run's lease, renewed so long ago."""
        at = self.clock.wall() - ago
        return self.leases.put(LeaseRecord("bob@desk", "run-9", at - 60, at, 15))

    def keep(self, seconds):
        """The keeper at work until the run ends, in so many seconds."""

        def end():
            self.over.set()

        self.leases.later(seconds, end)
        self.keeper()


@pytest.fixture
def bench():
    return Bench()


# ---- taking it --------------------------------------------------------------------------------------------------


def test_a_free_cluster_is_taken_with_one_request_and_given_back_with_one(bench):
    with bench.lease():
        record = bench.leases.record

    assert (record.holder, record.run, record.duration_s) == ("ann@laptop", "run-1", engine.DURATION_S)
    assert record.acquired == record.renewed == bench.clock.wall()
    assert bench.leases.requests == ["create", "delete"]
    assert bench.leases.record is None


def test_a_lease_that_is_good_still_is_refused_at_once_and_its_holder_named(bench):
    bench.bobs(ago=5)

    with pytest.raises(Locked, match="bob@desk holds the cluster with run run-9, since 20") as raised, bench.lease():
        pass

    assert raised.value.exit_code == 21
    assert "`orchestrator resume run-9`" in raised.value.remedy
    assert bench.clock.now() == 0
    assert bench.leases.record.holder == "bob@desk"


def test_a_lease_that_ran_out_is_taken_over_only_after_it_was_watched_for_its_whole_time(bench):
    bench.bobs(ago=3600)

    with bench.lease():
        assert bench.clock.now() >= engine.DURATION_S
        assert bench.leases.record.holder == "ann@laptop"

    assert bench.sink.names() == ["lease.watched", "lease.taken_over"]
    assert bench.sink.events[1].fields == {"run": "run-1", "holder": "bob@desk", "from_run": "run-9"}


def test_a_lease_that_seems_old_by_a_wrong_clock_but_is_renewed_is_refused(bench):
    there = bench.bobs(ago=3600)
    bench.leases.later(4, lambda: bench.leases.put(replace(there, renewed=there.renewed + 5)))

    with pytest.raises(Locked, match="bob@desk"), bench.lease():
        pass

    assert bench.clock.now() == 4


def test_a_lease_that_is_given_back_while_it_is_watched_is_taken_at_once(bench):
    bench.bobs(ago=3600)
    bench.leases.later(4, lambda: bench.leases.put(None))

    with bench.lease():
        assert bench.clock.now() == 4

    assert "lease.taken_over" not in bench.sink.names()


def test_a_watch_that_breaks_loses_nothing(bench):
    bench.bobs(ago=3600)
    bench.leases.watch_fails = ApiConflict("too old", remedy="again", status=410)

    with bench.lease():
        assert bench.clock.now() >= engine.DURATION_S
        assert bench.leases.record.run == "run-1"


def test_a_renewal_that_nobody_saw_is_found_out_when_it_is_taken_over(bench):
    there = bench.bobs(ago=3600)
    bench.leases.watch_fails = ApiConflict("too old", remedy="again", status=410)
    ask = bench.leases.replace

    def beaten(record):
        bench.leases.replace = ask
        bench.leases.put(replace(there, renewed=bench.clock.wall()))
        return ask(record)

    bench.leases.replace = beaten

    with pytest.raises(Locked, match="bob@desk"), bench.lease():
        pass

    assert bench.leases.record.holder == "bob@desk"


def test_a_run_takes_its_own_lease_from_before_a_crash_at_once(bench):
    with bench.lease():
        left = bench.leases.record
    bench.leases.put(left)

    with bench.lease():
        assert bench.clock.now() == 0
        assert bench.leases.record.run == "run-1"

    assert bench.sink.names() == []


def test_a_lease_that_is_good_still_is_taken_at_once_from_a_run_that_is_known_to_be_over(bench):
    bench.bobs(ago=1)

    with bench.lease(unattended=lambda run: run == "run-9"):
        assert bench.clock.now() == 0
        assert (bench.leases.record.holder, bench.leases.record.run) == ("ann@laptop", "run-1")

    assert bench.sink.names() == ["lease.taken_over"]


def test_a_run_that_is_known_to_be_over_and_is_resumed_meanwhile_keeps_its_lease(bench):
    bobs = bench.bobs(ago=1)
    over = iter([True, False])

    def looked(run):
        bench.leases.put(replace(bobs, renewed=bench.clock.wall()))
        return next(over)

    with pytest.raises(Locked, match="bob@desk"), bench.lease(unattended=looked):
        pass

    assert bench.leases.record.run == "run-9"


def test_a_creation_whose_answer_is_lost_is_recognised_as_ones_own(bench):
    bench.leases.deaf = 1

    with bench.lease() as lease:
        lease.guard()

    assert bench.leases.requests == ["create", "create", "read", "replace", "delete"]
    assert bench.leases.record is None


def test_a_cluster_that_does_not_answer_is_not_taken(bench):
    bench.leases.down = True

    with pytest.raises(ApiUnreachable) as raised, bench.lease():
        pass

    assert 55 <= bench.clock.now() <= 60
    assert raised.value.__notes__[0].startswith("tried ")


def test_two_that_take_it_at_the_same_moment_do_not_both_have_it(bench):
    ask = bench.leases.create

    def beaten(record):
        bench.leases.create = ask
        bench.bobs()
        return ask(record)

    bench.leases.create = beaten

    with pytest.raises(Locked, match="bob@desk"), bench.lease():
        pass


def test_a_lease_that_is_given_back_between_two_requests_is_taken(bench):
    bench.bobs()
    ask = bench.leases.read

    def given_back():
        bench.leases.read = ask
        bench.leases.put(None)
        return ask()

    bench.leases.read = given_back

    with bench.lease():
        assert bench.leases.record.run == "run-1"


# ---- keeping it -------------------------------------------------------------------------------------------------


def test_a_run_of_an_instant_is_spared_renewals_and_watches(bench):
    with bench.lease():
        bench.keep(0.5)

    assert bench.leases.requests == ["create", "delete"]


def test_a_lease_is_renewed_in_time_for_as_long_as_the_run_lasts(bench):
    with bench.lease():
        bench.keep(60)
        age = bench.clock.wall() - bench.leases.record.renewed

    assert age <= engine.RENEW_S + engine.CONFIRMED_S
    assert 11 <= bench.leases.requests.count("replace") <= 13
    assert bench.sink.names() == []


def test_a_renewal_keeps_when_it_was_taken(bench):
    taken = bench.clock.wall()
    with bench.lease():
        bench.keep(30)

        assert bench.leases.record.acquired == taken
        assert bench.leases.record.renewed > taken


def test_a_renewal_that_fails_for_a_while_is_tried_again(bench):
    with bench.lease() as lease:
        bench.clock.sleep(4)
        bench.leases.deaf = 2
        bench.clock.sleep(1)
        lease.confirm()

        assert bench.leases.record.renewed >= bench.clock.wall() - 2
        lease.guard()
    assert bench.sink.names() == []


def test_a_label_that_somebody_puts_on_it_does_not_cost_the_lease(bench):
    with bench.lease() as lease:
        bench.leases.put(bench.leases.record)
        bench.clock.sleep(3)
        lease.confirm()

    assert bench.leases.record is None
    assert bench.sink.names() == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda bench: bench.leases.put(None), "somebody deleted its lease"),
        (lambda bench: bench.bobs(), "bob@desk took it over for run run-9"),
    ],
)
def test_a_lease_that_is_taken_away_is_noticed_while_it_is_watched(bench, change, why):
    with bench.lease() as lease:
        bench.leases.later(2.5, lambda: change(bench))
        bench.keep(60)

        with pytest.raises(LeaseLost, match=why) as raised:
            lease.guard()

    assert bench.clock.now() == 2.5
    assert raised.value.exit_code == 21
    assert "orchestrator resume run-1" in raised.value.remedy
    assert [e.fields["why"] for e in bench.sink.named("lease.lost")] == [why]


def test_a_lease_that_is_lost_is_not_taken_from_its_new_holder_at_the_end(bench):
    with bench.lease() as lease:
        bench.bobs()
        bench.clock.sleep(2)
        with pytest.raises(LeaseLost):
            lease.confirm()
        bench.leases.requests.clear()

    assert bench.leases.requests == []
    assert bench.leases.record.holder == "bob@desk"


def test_a_keeper_that_gets_no_answer_goes_on_until_nobody_would_wait_any_longer(bench):
    with bench.lease() as lease:
        bench.leases.down = True
        bench.keep(300)

        assert engine.DURATION_S < bench.clock.now() < 120
        with pytest.raises(LeaseLost, match=r"it could not be renewed for 10[3-9] s"):
            lease.guard()
    assert bench.sink.names() == ["lease.unwatched", "lease.renewal_failed", "lease.lost"]


def test_a_lease_that_may_not_be_renewed_any_more_is_lost_when_its_time_is_up(bench):
    def forbidden(record):
        raise ApiForbidden("no", remedy="ask", status=403)

    with bench.lease() as lease:
        bench.leases.replace = forbidden
        bench.clock.sleep(5)
        lease.confirm()
        bench.clock.sleep(9)

        with pytest.raises(LeaseLost, match="could not be renewed"):
            lease.confirm()


# ---- proving it -------------------------------------------------------------------------------------------------


def test_a_guard_in_time_asks_nobody(bench):
    with bench.lease() as lease:
        bench.clock.sleep(12)
        lease.guard()

        assert bench.leases.requests == ["create"]


def test_a_step_confirms_the_lease_unless_that_was_done_just_now(bench):
    with bench.lease() as lease:
        lease.confirm()
        bench.clock.sleep(1.5)
        lease.confirm()
        lease.confirm()

        assert bench.leases.requests == ["create", "replace"]


def test_a_step_may_start_while_the_lease_is_good_though_nobody_answers(bench):
    with bench.lease() as lease:
        bench.clock.sleep(3)
        bench.leases.down = True
        lease.confirm()

        assert bench.clock.now() < engine.DURATION_S
        bench.leases.down = False


def test_after_a_sleep_of_the_laptop_only_a_renewal_on_its_own_version_proves_the_lease(bench):
    with bench.lease() as lease:
        bench.clock.step_wall(3600)
        lease.guard()

        assert bench.leases.requests == ["create", "replace"]


def test_after_a_sleep_of_the_laptop_a_lease_that_somebody_had_meanwhile_is_lost(bench):
    with bench.lease() as lease:
        bench.clock.step_wall(3600)
        bench.bobs()
        with pytest.raises(LeaseLost, match="bob@desk took it over"):
            lease.guard()
        with pytest.raises(LeaseLost, match="bob@desk took it over"):
            lease.guard()


def test_after_a_sleep_of_the_laptop_a_lease_that_somebody_had_and_gave_back_is_lost(bench):
    with bench.lease() as lease:
        bench.clock.step_wall(3600)
        bench.bobs()
        bench.leases.put(None)

        with pytest.raises(LeaseLost, match="deleted"):
            lease.guard()


def test_an_api_server_that_comes_back_proves_the_lease_by_its_version(bench):
    with bench.lease() as lease:
        bench.clock.sleep(20)
        bench.leases.down = True
        back = Back(bench, at=60)

        lease.guard(clock=back)

        assert 60 <= bench.clock.now() < 65
    assert bench.sink.names() == ["lease.in_doubt"]
    assert bench.leases.record is None


def test_an_api_server_that_comes_back_with_another_holder_has_lost_us_the_lease(bench):
    with bench.lease() as lease:
        bench.clock.sleep(20)
        bench.leases.down = True
        bench.bobs()

        with pytest.raises(LeaseLost, match="bob@desk took it over"):
            lease.guard(clock=Back(bench, at=60))


def test_a_guard_in_doubt_keeps_to_the_deadline(bench):
    with bench.lease() as lease:
        bench.clock.sleep(20)
        bench.leases.down = True

        with pytest.raises(LeaseLost, match=r"it could not be renewed for 2\d s: no answer"):
            lease.guard(deadline=25)
        assert 20 < bench.clock.now() <= 25


def test_a_guard_in_doubt_gives_up_after_a_while(bench):
    with bench.lease() as lease:
        bench.clock.sleep(20)
        bench.leases.down = True

        with pytest.raises(LeaseLost, match="could not be renewed"):
            lease.guard()
        assert 100 < bench.clock.now() <= 110


class Back:
    """A clock during whose pauses the API server comes back."""

    def __init__(self, bench, *, at):
        self._bench = bench
        self._at = at

    def now(self):
        return self._bench.clock.now()

    def wall(self):
        return self._bench.clock.wall()

    def sleep(self, seconds):
        self._bench.clock.sleep(seconds)
        self._bench.leases.down = self.now() < self._at


def test_a_wall_clock_that_is_set_back_does_not_prolong_a_lease(bench):
    with bench.lease() as lease:
        bench.clock.step_wall(-3600)
        bench.clock.sleep(14)
        bench.leases.down = True

        with pytest.raises(LeaseLost):
            lease.guard()


# ---- giving it back ---------------------------------------------------------------------------------------------


def test_an_error_of_the_run_is_not_hidden_by_a_lease_that_cannot_be_given_back(bench):
    def fail():
        bench.leases.down = True
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), bench.lease():
        fail()

    kept = bench.sink.named("lease.kept")
    assert [e.fields["until_s"] for e in kept] == [engine.DURATION_S]


def test_a_lease_is_given_back_though_an_answer_to_its_renewal_was_lost(bench):
    with bench.lease():
        bench.leases.put(replace(bench.leases.record, renewed=bench.clock.wall()))

    assert bench.leases.record is None


def test_giving_back_a_lease_whose_answer_is_lost_is_no_error(bench):
    with bench.lease():
        bench.leases.deaf = 1

    assert bench.leases.requests == ["create", "delete", "delete"]
    assert bench.leases.record is None
    assert bench.sink.names() == []


def test_the_keeper_of_production_is_a_thread_that_ends_with_the_run():
    clock = FakeClock()
    before = set(threading.enumerate())

    with Lease(FakeLeases(clock), "ann@laptop", "run-1", clock, Recorder()):
        (keeper,) = set(threading.enumerate()) - before
    keeper.join(10)

    assert keeper.daemon
    assert not keeper.is_alive()
