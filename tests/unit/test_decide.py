"""What each action decides on the facts that it may find."""

import pytest

from orchestrator.actions.drain import Drain
from orchestrator.actions.nodes import Cordon, RestoreScheduling, Uncordon
from orchestrator.engine.plan import Blocked, Done, Needed, Step

CORDON, UNCORDON, RESTORE = Cordon(), Uncordon(), RestoreScheduling()
SCHEDULABLE = {"unschedulable": False, "owner": None, "reason": None, "run": None}
UNOWNED = {**SCHEDULABLE, "unschedulable": True}
ANNS = {"unschedulable": True, "owner": "ann@pc", "reason": "disk", "run": "run-7"}
WITHOUT_REASON = {**ANNS, "reason": ""}


def step(action, **params):
    return Step(f"0/n1/{action}", action, "n1", params, 60.0)


def drain(*, evict=(), refused=None, flags=(), unschedulable=True):
    action = Drain(crew=None, clock=None)
    now = {"unschedulable": unschedulable, "evict": list(evict), "refused": refused or {}, "flags": list(flags)}
    return action.decide(now, step("node.drain", cordon="0/n1/node.cordon"), {})


@pytest.mark.parametrize(
    ("now", "decision"),
    [
        (SCHEDULABLE, Needed("takes new pods")),
        (UNOWNED, Done("already cordoned by another tool, no owner recorded")),
        (ANNS, Done("already cordoned by ann@pc (disk)")),
        (WITHOUT_REASON, Done("already cordoned by ann@pc")),
    ],
)
def test_a_cordon_is_needed_only_where_there_is_none_whoever_made_it(now, decision):
    assert CORDON.decide(now, step("node.cordon", owner="bob@pc", reason=""), {}) == decision


@pytest.mark.parametrize(
    ("now", "owner", "force", "decision"),
    [
        (SCHEDULABLE, "bob@pc", False, Done("takes new pods already")),
        ({**ANNS, "unschedulable": False}, "bob@pc", False, Done("takes new pods already")),
        (UNOWNED, "bob@pc", False, Needed("cordoned by another tool, no owner recorded")),
        (ANNS, "ann@pc", False, Needed("cordoned by ann@pc (disk)")),
        (ANNS, "bob@pc", True, Needed("cordoned by ann@pc (disk)")),
        (
            ANNS,
            "bob@pc",
            False,
            Blocked("n1 is cordoned by ann@pc (disk)", "ask them, or `orchestrator uncordon n1 --force-owner`"),
        ),
    ],
)
def test_another_owners_cordon_is_undone_only_by_force(now, owner, force, decision):
    assert UNCORDON.decide(now, step("node.uncordon", owner=owner, force_owner=force), {}) == decision


@pytest.mark.parametrize(
    ("now", "found_unschedulable", "decision"),
    [
        (SCHEDULABLE, False, Done("takes new pods already")),
        (ANNS, False, Needed("cordoned by that run")),
        (ANNS, True, Done("was cordoned before that run")),
        ({**ANNS, "run": "run-8"}, False, Done("left alone: cordoned by ann@pc (disk), not by that run")),
        (UNOWNED, False, Done("left alone: cordoned by another tool, no owner recorded, not by that run")),
    ],
)
def test_only_the_runs_own_cordon_is_put_back(now, found_unschedulable, decision):
    asked = step("node.restore_scheduling", of_run="run-7", found_unschedulable=found_unschedulable)

    assert RESTORE.decide(now, asked, {}) == decision


def test_a_drain_is_done_when_nothing_is_left_to_evict():
    assert drain() == Done("0 pods to evict")


@pytest.mark.parametrize(("evict", "why"), [(["a/p"], "1 pod to evict"), (["a/p", "a/q"], "2 pods to evict")])
def test_a_drain_that_left_pods_is_applied_again(evict, why):
    assert drain(evict=evict) == Needed(why, again=True)


def test_a_drain_waits_for_the_cordon_of_its_own_plan():
    found = drain(evict=["a/p"], unschedulable=False)

    assert isinstance(found, Blocked)
    assert (found.until, found.then) == ("0/n1/node.cordon", "1 pod to evict")
    assert "orchestrator cordon n1" in found.remedy


def test_a_node_without_pods_that_takes_new_ones_is_not_drained():
    assert isinstance(drain(unschedulable=False), Blocked)


@pytest.mark.parametrize("unschedulable", [True, False])
def test_one_pod_that_may_not_go_blocks_the_drain_and_no_step_clears_it(unschedulable):
    found = drain(
        evict=["a/p"],
        refused={"b/y": ["no controller"], "a/x": ["has local data", "no controller"]},
        flags=["--delete-emptydir-data", "--force"],
        unschedulable=unschedulable,
    )

    assert isinstance(found, Blocked)
    assert found.until == ""
    assert found.why.splitlines() == [
        "n1 cannot be drained: 2 pods forbid it",
        "  a/x: has local data; no controller",
        "  b/y: no controller",
    ]
    assert found.remedy.endswith("orchestrator drain n1 --delete-emptydir-data --force")


def test_pods_that_no_flag_lets_go_have_to_be_seen_to():
    found = drain(refused={"a/x": ["covered by 2 budgets"]})

    assert found.remedy == "see to these pods first"
