"""Defragmentation, compaction and the way out of an alarm: what is decided, and in which order."""

import pytest

from orchestrator.actions.etcdcare import Compact, Defragment, Disarm
from orchestrator.engine.plan import Blocked, Done, Needed, Step
from orchestrator.planners import etcdcare as planner

MB = 1_000_000


def step(action="etcd.defragment", **params):
    given = {"share": 0.5, "bytes": 64 * MB, "always": False, "members": ["cp-1", "cp-2"], **params}
    return Step("1/cp-1/x", action, "cp-1", given, 60.0)


def sizes(size_mb, in_use_mb, *, troubles=(), at=None):
    return {"size": size_mb * MB, "in_use": in_use_mb * MB, "troubles": list(troubles), "at": at}


@pytest.mark.parametrize(
    ("size_mb", "in_use_mb", "needed"),
    [
        (100, 100, False),
        (100, 30, True),  # 70 of 100 are unused
        (100, 60, False),  # less than half
        (80, 20, False),  # 60 MB are too few to matter
        (1000, 400, True),
    ],
)
def test_a_member_is_defragmented_only_where_much_is_unused(size_mb, in_use_mb, needed):
    decision = Defragment().decide(sizes(size_mb, in_use_mb), step(), {})

    assert isinstance(decision, Needed if needed else Done)


def test_a_member_is_not_touched_while_another_is_not_well():
    decision = Defragment().decide(sizes(100, 10, troubles=["cp-2 does not answer"]), step(), {})

    assert isinstance(decision, Blocked)
    assert "cp-2 does not answer" in decision.why


def test_nothing_has_to_be_well_where_nothing_is_to_be_done():
    assert isinstance(Defragment().decide(sizes(100, 99, troubles=["cp-2 does not answer"]), step(), {}), Done)


def test_a_member_that_does_not_answer_is_not_taken_for_one_without_unused_space():
    facts = {**sizes(0, 0), "size": None, "in_use": None}

    assert isinstance(Defragment().decide(facts, step(), {}), Blocked)


def test_once_in_a_run_means_until_it_was_done_since_the_step_began():
    always = step(always=True)
    before, after = sizes(11, 11, at=None), sizes(1, 1, at=1_795_000_000.0)

    assert isinstance(Defragment().decide(before, always, {}), Needed)
    assert isinstance(Defragment().decide(before, always, {always.id: before}), Needed)
    assert isinstance(Defragment().decide(after, always, {always.id: before}), Done)
    assert isinstance(Defragment().decide(after, always, {always.id: after}), Needed)  # done before this run


@pytest.mark.parametrize(("compacted", "kind"), [(99, Needed), (100, Done), (101, Done), (None, Blocked)])
def test_revisions_are_compacted_up_to_the_one_that_was_planned(compacted, kind):
    assert isinstance(Compact().decide({"compacted": compacted}, step("etcd.compact", revision=100), {}), kind)


ALARM = "NOSPACE on member 8e9e05c52164694d"


@pytest.mark.parametrize(
    ("alarms", "share", "kind"),
    [([], 0.1, Done), ([], 2.0, Done), ([ALARM], 0.5, Needed), ([ALARM], 0.96, Blocked), ([ALARM], 1.8, Blocked)],
)
def test_an_alarm_is_cleared_only_where_it_would_not_come_back_at_once(alarms, share, kind):
    decision = Disarm().decide({"alarms": alarms, "share": share}, step("etcd.disarm", after="1/cp-2/x"), {})

    assert isinstance(decision, kind)
    if kind is Blocked:
        assert decision.until == "1/cp-2/x"  # what makes room may clear it
        assert "--quota-backend-bytes" in decision.remedy


def flat(plan):
    return [[(s.node, s.action) for lane in wave.lanes for s in lane.steps] for wave in plan.waves]


def test_members_are_defragmented_one_after_another_in_the_order_given():
    plan = planner.defragment(["cp-2", "cp-3", "cp-1"], share=0.5, least_bytes=64 * MB)

    assert flat(plan) == [[(node, "etcd.defragment")] for node in ("cp-2", "cp-3", "cp-1")]


def test_the_alarm_is_cleared_after_every_member_was_compacted_and_defragmented():
    plan = planner.disarm(["cp-2", "cp-1"], revision=77)

    assert flat(plan) == [
        [("cp-2", "etcd.compact")],
        [("cp-2", "etcd.defragment")],
        [("cp-1", "etcd.defragment")],
        [("cp-2", "etcd.disarm")],
    ]
    ids = [s.id for s in plan.steps()]
    assert list(plan.steps())[-1].params["after"] == ids[-2]
    assert len(set(ids)) == len(ids)
