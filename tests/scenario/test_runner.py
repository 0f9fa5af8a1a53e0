"""The runner, with deeds instead of a cluster: order, failures, stops, resumes."""

import errno
import json
import os
import threading

import pytest

from orchestrator.engine import runner
from orchestrator.engine.journal import FILE, Journal, read
from orchestrator.engine.lease import LeaseRecord
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.engine.runner import Stop
from orchestrator.errors import (
    ApiForbidden,
    ApiUnreachable,
    GoalNotReached,
    Interrupted,
    LeaseLost,
    Locked,
    Refused,
)
from tests.fakes.deeds import DEEDS, Room, RoomHands, RoomView, plan
from tests.fakes.lease import FakeLeases
from tests.fakes.sink import Recorder
from tests.fakes.time import FakeClock


class Bench:
    """A runner with its surroundings."""

    def __init__(self, place):
        self.place = place / "run-1"
        self.clock = FakeClock()
        self.room = Room(self.clock)
        self.leases = FakeLeases(self.clock)
        self.sink = Recorder()
        self.stop = Stop()
        self.keepers = []

    def start(self, the_plan, **how):
        with Journal.create(self.place, "run-1", the_plan, meta={}, wall=self.clock.wall, **how) as journal:
            self._execute(journal, resumed=False)

    def resume(self):
        self.stop = Stop()
        with Journal.open(self.place, self.clock.wall) as journal:
            self._execute(journal, resumed=True)

    def _execute(self, journal, *, resumed):
        runner.execute(
            journal.plan,
            RoomHands(self.room),
            DEEDS,
            journal=journal,
            leases=self.leases,
            holder="ann@laptop",
            clock=self.clock,
            sink=self.sink,
            stop=self.stop,
            resumed=resumed,
            beside=self.keepers.append,
        )

    def records(self, kind):
        lines = (self.place / FILE).read_text().splitlines()
        return [record for line in lines if (record := json.loads(line))["kind"] == kind]

    def outcomes(self):
        return {r["step"]: r["outcome"] for r in self.records("finished")}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


# ---- order ------------------------------------------------------------------------------------------------------


def test_the_steps_of_a_lane_come_in_order_and_a_wave_only_after_all_of_the_one_before(bench):
    bench.start(plan(["a: sweep dust", "b: sweep dust"], ["a: polish"]))

    changes = bench.room.changes
    assert [c for c in changes if c.startswith("b/")] == ["b/sweep", "b/dust"]
    assert [c for c in changes if c.startswith("a/")] == ["a/sweep", "a/dust", "a/polish"]
    assert changes[-1] == "a/polish"


def test_lanes_of_one_wave_run_at_once(bench):
    together = threading.Barrier(3)
    bench.room.then = {f"{node}/sweep": lambda: together.wait(timeout=10) for node in "abc"}

    bench.start(plan(["a: sweep", "b: sweep", "c: sweep"]))

    assert sorted(bench.room.changes) == ["a/sweep", "b/sweep", "c/sweep"]


def test_no_more_lanes_run_at_once_than_there_are_to_be(bench):
    running, most, lock = [], [], threading.Lock()
    full = threading.Barrier(runner.LANES)

    def work():
        with lock:
            running.append(1)
            most.append(len(running))
        full.wait(timeout=10)
        with lock:
            running.pop()

    names = [f"n{i}" for i in range(2 * runner.LANES)]
    bench.room.then = {f"{name}/sweep": work for name in names}

    bench.start(plan([f"{name}: sweep" for name in names]))

    assert max(most) == runner.LANES


def test_a_plan_without_waves_finishes(bench):
    bench.start(plan())

    assert read(bench.place).state == "finished"


def test_what_happened_is_told_in_order(bench):
    bench.room.done = {"a/dust": 0.0}

    bench.start(plan(["a: sweep dust"]))

    assert bench.sink.names() == [
        "run.started",
        "wave.started",
        "step.started",
        "step.finished",
        "step.skipped",
        "wave.finished",
        "run.finished",
    ]
    assert bench.sink.events[2].fields == {
        "run": "run-1",
        "node": "a",
        "step": "a/sweep",
        "action": "deed.do",
        "why": "not done",
    }


# ---- what is done already ---------------------------------------------------------------------------------------


def test_a_step_that_is_done_already_is_not_applied_and_journalled_as_skipped(bench):
    bench.room.done = {"a/sweep": 0.0}

    bench.start(plan(["a: sweep dust"]))

    assert bench.room.changes == ["a/dust"]
    assert bench.outcomes() == {"a/sweep": "skipped", "a/dust": "changed"}


def test_the_facts_as_found_are_kept_for_every_step_also_a_skipped_one(bench):
    bench.room.done = {"a/sweep": 0.0}

    bench.start(plan(["a: sweep dust"]))

    assert {step: facts["done"] for step, facts in read(bench.place).past.items()} == {
        "a/sweep": True,
        "a/dust": False,
    }


def test_a_step_that_a_crash_cut_short_counts_as_changed_though_it_is_found_done(bench):
    bench.room.then = {"a/sweep": bench.stop.request}
    bench.room.fails = {"a/sweep": [ApiForbidden("no", remedy="ask")]}
    with pytest.raises(ApiForbidden):
        bench.start(plan(["a: sweep"]))
    bench.room.done = {"a/sweep": 0.0}

    bench.resume()

    assert bench.outcomes() == {"a/sweep": "changed"}


# ---- failures ---------------------------------------------------------------------------------------------------


def test_the_first_failure_ends_its_lane_and_no_later_wave_starts(bench):
    bench.room.fails = {"a/dust": [ApiForbidden("no", remedy="ask", status=403)]}

    with pytest.raises(ApiForbidden):
        bench.start(plan(["a: sweep dust polish"], ["b: sweep"]))

    assert bench.room.changes == ["a/sweep"]
    assert bench.sink.named("wave.started")[-1].fields["wave"] == 1


def failing_beside(bench, lanes):
    """Runs two lanes of which `a/sweep` fails while `b/sweep` is worked at."""
    failed = threading.Event()
    swept = threading.Event()
    bench.room.then |= {
        "a/sweep": lambda: swept.wait(10),
        "b/sweep": lambda: (swept.set(), failed.wait(10)),
    }
    bench.room.fails = {"a/sweep": [ApiForbidden("no", remedy="ask")]}
    tell = bench.sink.emit

    def emit(event):
        tell(event)
        if event.name == "step.failed":
            failed.set()

    bench.sink.emit = emit

    with pytest.raises(ApiForbidden):
        bench.start(plan(lanes, ["c: sweep"]))


def test_a_failure_stops_the_other_lanes_at_their_next_step_not_within_one(bench):
    failing_beside(bench, ["a: sweep dust", "b: sweep !dust"])

    assert bench.room.changes == ["b/sweep"]
    assert bench.outcomes() == {"b/sweep": "changed"}


def test_a_failure_beside_it_leaves_no_node_out_of_service(bench):
    failing_beside(bench, ["a: sweep dust", "b: !sweep dust polish"])

    assert bench.room.changes == ["b/sweep", "b/dust", "b/polish"]
    assert bench.records("ended") == []


def test_what_fails_on_a_node_that_is_out_of_service_may_fail_on_the_next_which_stops(bench):
    failing_beside(bench, ["a: !sweep dust", "b: !sweep dust polish"])

    assert bench.room.changes == ["b/sweep"]


def test_who_is_out_of_service_stops_when_asked_whatever_failed_beside(bench):
    bench.room.then = {"b/dust": bench.stop.request}
    failing_beside(bench, ["a: sweep", "b: !sweep dust polish"])

    assert bench.room.changes == ["b/sweep", "b/dust"]


def test_an_error_keeps_its_class_and_code_and_says_where_it_came_from(bench):
    err = ApiForbidden("no", remedy="ask")
    bench.room.fails = {"b/dust": [err]}

    with pytest.raises(ApiForbidden) as raised:
        bench.start(plan(["a: sweep"], ["b: sweep dust"]))

    assert raised.value is err
    assert raised.value.exit_code == 12
    assert err.__notes__ == ["wave 2, b, step b/dust"]


def test_failures_of_other_lanes_become_notes_of_the_first(bench):
    together = threading.Barrier(2)
    bench.room.then = {f"{n}/sweep": lambda: together.wait(timeout=10) for n in "ab"}
    bench.room.fails = {f"{n}/sweep": [ApiForbidden(f"no {n}", remedy="ask")] for n in "ab"}

    with pytest.raises(ApiForbidden) as raised:
        bench.start(plan(["a: sweep", "b: sweep"]))

    first = str(raised.value)[-1]
    other = {"a": "b", "b": "a"}[first]
    assert raised.value.__notes__ == [
        f"wave 1, {first}, step {first}/sweep",
        f"wave 1, {other}, step {other}/sweep: ApiForbidden: no {other}",
    ]


def test_what_broke_comes_before_what_a_person_stopped(bench):
    together = threading.Barrier(2)
    broken = threading.Event()

    def stopped():
        together.wait(timeout=10)
        broken.wait(10)
        bench.stop.request()
        bench.stop.request()

    bench.room.shows_after_s = {"a/sweep": 30.0}
    bench.room.then = {"a/sweep": stopped, "b/sweep": lambda: (together.wait(timeout=10), broken.set())}
    bench.room.fails = {"b/sweep": [ApiForbidden("no", remedy="ask")]}

    with pytest.raises(ApiForbidden) as raised:
        bench.start(plan(["a: sweep", "b: sweep"]))

    assert "Interrupted" in raised.value.__notes__[1]


def test_a_bug_is_raised_as_it_is_and_journalled(bench):
    bench.room.fails = {"a/sweep": [KeyError("nodes")]}

    with pytest.raises(KeyError):
        bench.start(plan(["a: sweep"]))

    (record,) = bench.records("failed")
    assert (record["error"], record["exit_code"], record["step"]) == ("KeyError", 1, "a/sweep")


def test_a_step_that_is_blocked_is_refused_with_its_remedy_and_nothing_is_changed(bench):
    bench.room.forbidden = {"a/sweep": "the floor is wet"}

    with pytest.raises(Refused, match="the floor is wet") as raised:
        bench.start(plan(["a: sweep"]))

    assert raised.value.remedy == "mend it"
    assert bench.room.changes == []
    assert bench.records("started") == []
    assert read(bench.place).state == "failed"


def test_a_step_that_becomes_blocked_while_it_is_waited_for_is_refused(bench):
    bench.room.shows_after_s = {"a/sweep": 30.0}
    bench.room.then = {"a/sweep": lambda: bench.room.forbidden.update({"a/sweep": "somebody spilled"})}

    with pytest.raises(Refused, match="somebody spilled"):
        bench.start(plan(["a: sweep dust"]))

    assert bench.room.changes == ["a/sweep"]


def test_the_end_of_a_failed_run_names_node_and_step_and_what_continues_and_undoes_it(bench):
    bench.room.fails = {"a/sweep": [ApiForbidden("no", remedy="ask")]}

    with pytest.raises(ApiForbidden):
        bench.start(plan(["a: sweep"]))

    end = bench.sink.events[-1]
    assert (end.name, end.level) == ("run.stopped", "error")
    assert end.fields == {
        "run": "run-1",
        "node": "a",
        "step": "a/sweep",
        "why": "no",
        "remedies": ["orchestrator resume run-1", "orchestrator release run-1"],
    }


# ---- waiting ----------------------------------------------------------------------------------------------------


def test_a_step_is_finished_only_when_a_fresh_look_says_so(bench):
    bench.room.shows_after_s = {"a/sweep": 20.0}

    bench.start(plan(["a: sweep dust"]))

    finished = bench.sink.named("step.finished")[0]
    assert 20 <= finished.fields["took_s"] < 25.5
    assert bench.room.changes == ["a/sweep", "a/dust"]
    assert [e.fields["why"] for e in bench.sink.named("step.waiting")] == ["not done"]


def test_a_step_that_wants_it_is_applied_again_until_it_holds(bench):
    bench.room.again = True
    bench.room.wont["a/sweep"] = 2

    bench.start(plan(["a: sweep"]))

    assert bench.room.changes == ["a/sweep"] * 3


def test_a_goal_that_is_not_reached_in_its_time_is_an_error_that_gives_the_time_and_a_way_on(bench):
    bench.room.shows_after_s = {"a/sweep": 500.0}

    with pytest.raises(GoalNotReached, match=r"a: deed\.do has not reached its goal in 60 s: not done") as raised:
        bench.start(plan(["a: sweep dust"]))

    assert 55 <= bench.clock.now() <= 60
    assert "orchestrator resume run-1" in raised.value.remedy
    assert bench.room.changes == ["a/sweep"]


def test_a_resumed_step_has_its_whole_time_again(bench):
    bench.room.shows_after_s = {"a/sweep": 90.0}
    with pytest.raises(GoalNotReached):
        bench.start(plan(["a: sweep"]))
    bench.room.shows_after_s = {"a/sweep": 50.0}

    bench.resume()

    assert read(bench.place).state == "finished"


def test_a_step_without_a_limit_is_waited_for(bench):
    bench.room.shows_after_s = {"a/sweep": 7200.0}

    bench.start(plan(["a: sweep"], timeout_s=None))

    assert bench.clock.now() >= 7200


def test_a_look_that_fails_for_a_while_is_taken_again(bench):
    bench.room.shows_after_s = {"a/sweep": 1.0}
    bench.room.then = {
        "a/sweep": lambda: bench.room.looking_fails.update(
            {"a/sweep": [ApiUnreachable("no answer", remedy="wait")] * 3}
        )
    }

    bench.start(plan(["a: sweep"]))

    assert [e.fields["why"] for e in bench.sink.named("step.waiting")].count("no answer") == 3
    assert bench.room.changes == ["a/sweep"]


def test_a_look_that_is_forbidden_ends_the_wait(bench):
    bench.room.then = {
        "a/sweep": lambda: bench.room.looking_fails.update({"a/sweep": [ApiForbidden("no", remedy="ask")]})
    }

    with pytest.raises(ApiForbidden):
        bench.start(plan(["a: sweep"]))


# ---- stopping ---------------------------------------------------------------------------------------------------


def test_the_first_request_to_stop_finishes_the_running_step_and_starts_no_other(bench):
    bench.room.then = {"a/sweep": bench.stop.request}
    bench.room.shows_after_s = {"a/sweep": 20.0}

    with pytest.raises(Interrupted, match="between two steps") as raised:
        bench.start(plan(["a: sweep dust"]))

    assert raised.value.exit_code == 130
    assert bench.outcomes() == {"a/sweep": "changed"}
    assert read(bench.place).state == "stopped"


def test_the_second_request_to_stop_leaves_a_wait_at_once(bench):
    bench.room.then = {"a/sweep": lambda: (bench.stop.request(), bench.stop.request())}
    bench.room.shows_after_s = {"a/sweep": 40.0}

    with pytest.raises(Interrupted, match="at once"):
        bench.start(plan(["a: sweep dust"]))

    assert bench.clock.now() <= 2 * runner.HEED_S
    assert bench.outcomes() == {}


def test_a_request_to_stop_after_the_last_step_does_not_spoil_a_finished_run(bench):
    bench.room.then = {"a/sweep": bench.stop.request}

    bench.start(plan(["a: sweep"]))

    assert read(bench.place).state == "finished"


def test_a_stopped_run_goes_on_where_it_stopped(bench):
    bench.room.then = {"a/sweep": bench.stop.request}
    with pytest.raises(Interrupted):
        bench.start(plan(["a: sweep dust"], ["b: sweep"]))

    bench.resume()

    assert bench.room.changes == ["a/sweep", "a/dust", "b/sweep"]
    assert read(bench.place).state == "finished"


# ---- resuming ---------------------------------------------------------------------------------------------------


def failed_at(bench, step, the_plan):
    bench.room.fails = {step: [ApiForbidden("no", remedy="ask")]}
    with pytest.raises(ApiForbidden):
        bench.start(the_plan)
    bench.room.changes.clear()


def test_finished_steps_are_not_judged_again_by_a_resume(bench):
    failed_at(bench, "a/polish", plan(["a: sweep dust polish"]))
    del bench.room.done["a/sweep"]

    bench.resume()

    assert bench.room.changes == ["a/polish"]
    assert bench.room.looks["a/sweep"] == 2


def test_a_resumed_lane_whose_next_step_is_blocked_is_walked_again_from_its_start(bench):
    bench.room.clears = {"a/polish": "a/sweep"}
    failed_at(bench, "a/polish", plan(["a: sweep dust polish"]))
    del bench.room.done["a/sweep"]

    bench.resume()

    assert bench.room.changes == ["a/sweep", "a/polish"]
    assert read(bench.place).state == "finished"


def test_a_resumed_lane_is_walked_again_once_and_not_for_ever(bench):
    failed_at(bench, "a/polish", plan(["a: sweep polish"]))
    bench.room.forbidden = {"a/polish": "the floor is wet"}
    looks = bench.room.looks["a/polish"]

    with pytest.raises(Refused, match="the floor is wet"):
        bench.resume()

    assert bench.room.looks["a/polish"] == looks + 2
    assert bench.room.changes == []


def test_a_step_of_an_earlier_wave_that_clears_the_block_is_done_again_first(bench):
    bench.room.clears = {"b/polish": "b/sweep"}
    failed_at(bench, "b/polish", plan(["a: sweep", "b: sweep"], ["b: polish"]))
    bench.room.done.clear()

    bench.resume()

    assert bench.room.changes == ["b/sweep", "b/polish"]


def test_a_first_step_that_is_blocked_with_nothing_before_it_is_refused(bench):
    failed_at(bench, "a/sweep", plan(["a: sweep dust"]))
    bench.room.forbidden = {"a/sweep": "the floor is wet"}

    with pytest.raises(Refused, match="the floor is wet"):
        bench.resume()

    assert bench.room.changes == []


def test_a_block_in_a_first_run_is_not_walked_around(bench):
    bench.room.clears = {"a/polish": "a/sweep"}
    bench.room.then = {"a/dust": lambda: bench.room.done.pop("a/sweep")}

    with pytest.raises(Refused, match="a/sweep is not done"):
        bench.start(plan(["a: sweep dust polish"]))

    assert bench.room.changes == ["a/sweep", "a/dust"]


def test_what_was_found_first_stays_on_record_when_a_step_is_done_again(bench):
    bench.room.clears = {"a/polish": "a/sweep"}
    bench.room.done = {"a/sweep": 0.0}
    failed_at(bench, "a/polish", plan(["a: sweep polish"]))
    del bench.room.done["a/sweep"]

    bench.resume()

    assert bench.room.changes == ["a/sweep", "a/polish"]
    assert read(bench.place).past["a/sweep"]["done"] is True


# ---- looking only -----------------------------------------------------------------------------------------------


def test_a_preview_judges_every_step_and_needs_nothing_to_change_anything_with(bench):
    bench.room.done = {"a/sweep": 0.0}
    bench.room.forbidden = {"b/sweep": "the floor is wet"}

    found = runner.preview(plan(["a: sweep dust", "b: sweep"]), RoomView(bench.room), DEEDS)

    assert [p.decision for p in found] == [
        Done("done"),
        Needed("not done"),
        Blocked("the floor is wet", "mend it", then="to do"),
    ]
    assert not hasattr(RoomView, "do")
    assert bench.room.changes == []


def test_a_preview_takes_a_block_that_an_earlier_step_clears_for_work_to_do(bench):
    bench.room.clears = {"a/dust": "a/sweep"}

    found = runner.preview(plan(["a: sweep dust"]), RoomView(bench.room), DEEDS)

    assert [p.decision for p in found] == [Needed("not done"), Needed("to do")]


class Waiting:
    """Looks at what is there only once a run is under way."""

    only_waits = True

    def probe(self, view, step):
        raise AssertionError(f"{step.id} is looked at before a run")

    def decide(self, now, step, past):
        assert now == {}
        return Needed("waits")


def test_a_preview_does_not_look_for_what_will_only_be_waited_for(bench):
    found = runner.preview(plan(["a: sweep"]), RoomView(bench.room), {"deed.do": Waiting()})

    assert [p.decision for p in found] == [Needed("waits")]


def test_a_preview_keeps_a_block_whose_step_would_be_blocked_itself(bench):
    bench.room.clears = {"a/dust": "a/sweep"}
    bench.room.forbidden = {"a/sweep": "the floor is wet"}

    found = runner.preview(plan(["a: sweep dust"]), RoomView(bench.room), DEEDS)

    assert [type(p.decision) for p in found] == [Blocked, Blocked]


# ---- lease and journal ------------------------------------------------------------------------------------------


def held_by_bob(bench):
    now = bench.clock.wall()
    return bench.leases.put(LeaseRecord("bob@desk", "run-9", now, now, 15))


def test_a_run_takes_the_lease_before_it_looks_and_gives_it_back_after(bench):
    bench.start(plan(["a: sweep"]))

    assert bench.leases.requests == ["create", "delete"]
    assert bench.leases.record is None
    assert len(bench.keepers) == 1


def test_a_cluster_that_another_run_holds_is_left_alone(bench):
    held_by_bob(bench)

    with pytest.raises(Locked, match="bob@desk holds the cluster with run run-9"):
        bench.start(plan(["a: sweep"]))

    assert bench.room.looks == {}
    assert bench.leases.record.holder == "bob@desk"
    assert read(bench.place).past == {}


def test_a_run_that_lost_the_lease_starts_no_further_step(bench):
    bench.room.then = {"a/sweep": lambda: (bench.clock.sleep(20), held_by_bob(bench))}

    with pytest.raises(LeaseLost, match="bob@desk took it over for run run-9") as raised:
        bench.start(plan(["a: sweep dust"]))

    assert raised.value.exit_code == 21
    assert bench.room.changes == ["a/sweep"]
    assert bench.leases.record.holder == "bob@desk"


def test_a_lease_that_was_taken_a_moment_ago_is_noticed_before_the_next_step_changes_anything(bench):
    bench.room.then = {"a/sweep": lambda: (bench.clock.sleep(2), held_by_bob(bench))}

    with pytest.raises(LeaseLost):
        bench.start(plan(["a: sweep dust"]))

    assert bench.room.changes == ["a/sweep"]


def test_a_failed_run_gives_the_lease_back(bench):
    bench.room.fails = {"a/sweep": [ApiForbidden("no", remedy="ask")]}

    with pytest.raises(ApiForbidden):
        bench.start(plan(["a: sweep"]))

    assert bench.leases.record is None


class Disk:
    """A disk on which there is room for so many records."""

    def __init__(self, room):
        self.room = room

    def write(self, fd, line):
        self.room -= 1
        if self.room < 0:
            os.write(fd, line[:9])
            raise OSError(errno.ENOSPC, "No space left on device")
        os.write(fd, line)


@pytest.mark.parametrize(("room", "changes"), [(1, []), (2, ["a/sweep"]), (3, ["a/sweep"]), (4, ["a/sweep", "a/dust"])])
def test_no_effect_without_its_record_on_disk(bench, room, changes):
    with pytest.raises(Refused, match="No space left on device") as raised:
        bench.start(plan(["a: sweep dust"]), write=Disk(room).write)

    assert bench.room.changes == changes
    assert "cannot be written" in raised.value.__notes__[-1]
    assert bench.leases.record is None

    bench.resume()

    assert set(bench.room.done) == {"a/sweep", "a/dust"}
    assert len(bench.room.changes) == 2
    assert read(bench.place).state == "finished"
