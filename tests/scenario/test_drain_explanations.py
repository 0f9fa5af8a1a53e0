"""When the pods of a budget are looked up to say what it waits for: when it is stuck, not while it lets pods go."""

import pytest

from orchestrator.errors import GoalNotReached
from tests.fakes.world import World, drain


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    for node in ("node-1", "node-2"):
        world.cluster.add_node(node)
    return world


def budgeted(world, ready_after_s, replicas=8):
    cluster = world.cluster
    cluster.add_controller("ReplicaSet", "default", "web", replicas, on=("node-1",), ready_after_s=ready_after_s)
    cluster.add_budget("default", "web", max_unavailable=1, app="web")
    cluster.pass_time(1)


def looked_up(world):
    return [of for what, of in world.hands.requests if what == "pods_of"]


def test_a_budget_that_lets_a_pod_go_every_second_is_not_looked_into(world):
    budgeted(world, ready_after_s=1.0)
    began = world.clock.now()

    world.start(drain("node-1"))

    assert world.clock.now() - began > 6
    assert looked_up(world) == []


def test_a_budget_that_lets_none_go_for_some_seconds_is_looked_into(world):
    budgeted(world, ready_after_s=8.0, replicas=3)

    world.start(drain("node-1"))

    assert looked_up(world) != []


def test_a_budget_that_stays_shut_is_looked_into_now_and_then(world):
    budgeted(world, ready_after_s=1.0, replicas=3)
    world.cluster.change_budget("default/web", max_unavailable=0)

    with pytest.raises(GoalNotReached):
        world.start(drain("node-1", timeout_s=60.0))

    assert 5 <= len(looked_up(world)) <= 6
