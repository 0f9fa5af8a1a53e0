"""Plans of the commands, against the ones kept in `plans/`.

After a change that is meant, `REWRITE_PLANS=1 .venv/bin/pytest tests/unit/test_planners.py` writes them anew; what a
command will do to a cluster differently is then in the diff, for review.
"""

import json
import os
from pathlib import Path

import pytest

from orchestrator.engine.plan import Plan
from orchestrator.planners import nodes

KEPT = Path(__file__).parent / "plans"
FLAGS = {
    "force": False,
    "ignore_daemonsets": True,
    "delete_emptydir_data": False,
    "disable_eviction": False,
    "grace_period_s": None,
    "parallel": 16,
    "pod_selector": "",
    "skip_wait_for_delete_timeout_s": 0,
}
OWNER = {"owner": "ann@pc", "reason": "new kernel"}


def drain(*names, timeout_s=600.0):
    return nodes.drain(names, **OWNER, flags=FLAGS, timeout_s=timeout_s)


def found(*, unschedulable):
    return {"unschedulable": unschedulable, "owner": None, "reason": None, "run": None}


PLANS = {
    "cordon": nodes.cordon(["n1", "n2"], **OWNER),
    "uncordon": nodes.uncordon(["n1"], owner="ann@pc", force_owner=False),
    "drain-one-node": drain("n1"),
    "drain-two-nodes-without-a-timeout": drain("n2", "n1", timeout_s=None),
    "release": nodes.release(
        "run-7",
        drain("n1", "n2", "n3"),
        {"0/n1/node.cordon": found(unschedulable=False), "0/n2/node.cordon": found(unschedulable=True)},
    ),
    "release-of-nothing": nodes.release("run-7", drain("n1"), {}),
}


@pytest.mark.parametrize("name", PLANS)
def test_each_command_plans_what_was_reviewed(name):
    path = KEPT / f"{name}.json"
    planned = json.dumps(json.loads(PLANS[name].to_json()), indent=2) + "\n"

    if os.environ.get("REWRITE_PLANS"):
        path.write_text(planned)

    assert planned == path.read_text()


def test_every_plan_that_is_kept_is_of_a_command():
    assert {path.stem for path in KEPT.iterdir()} == set(PLANS)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_was_kept_can_still_be_resumed(name):
    assert Plan.from_json((KEPT / f"{name}.json").read_text()) == PLANS[name]


@pytest.mark.parametrize("name", PLANS)
def test_no_two_steps_of_a_plan_share_an_id(name):
    ids = [s.id for s in PLANS[name].steps()]

    assert len(ids) == len(set(ids))


def test_all_nodes_are_cordoned_before_the_first_is_drained_and_drained_one_after_another():
    first, *others = drain("n2", "n1", "n3").waves

    assert [(lane.node, [s.action for s in lane.steps]) for lane in first.lanes] == [
        (name, ["node.cordon"]) for name in ("n2", "n1", "n3")
    ]
    assert [[lane.node for lane in wave.lanes] for wave in others] == [["n2"], ["n1"], ["n3"]]


def test_a_drain_names_the_step_that_cordons_its_node():
    plan = drain("n1", "n2")
    cordons = {s.node: s.id for s in plan.steps() if s.action == "node.cordon"}

    assert {s.node: s.params["cordon"] for s in plan.steps() if s.action == "node.drain"} == cordons


def test_a_release_leaves_nodes_alone_that_the_run_never_came_to():
    assert PLANS["release"].nodes() == ("n1", "n2")
    assert list(PLANS["release-of-nothing"].steps()) == []


def test_a_release_undoes_cordons_only():
    plan = nodes.release("run-7", drain("n1"), {"1/n1/node.drain": {"evict": []}})

    assert plan.nodes() == ()


@pytest.mark.parametrize(("names", "title"), [(["n1"], "cordon n1"), (["n1", "n2"], "cordon 2 nodes")])
def test_a_title_names_one_node_and_counts_several(names, title):
    assert nodes.cordon(names, **OWNER).title == title
