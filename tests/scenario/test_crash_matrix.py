"""Runs that are killed at every effect, lease request and journal write, before, in and after it; and then go on."""

import os
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cluster.model import CordonRecord
from orchestrator.engine import journal
from orchestrator.engine.plan import Lane, Plan, Wave
from orchestrator.engine.runner import Stop
from orchestrator.errors import BadUsage, GoalNotReached, Interrupted
from orchestrator.planners.nodes import uncordon
from tests.fakes.crash import Crash, Life
from tests.fakes.world import World, drain

NODES = ("node-1", "node-2", "node-3")
BEFORE = {"node-1": None, "node-2": "bob@desk", "node-3": None, "spare-1": None, "spare-2": None}
DRAINED = {**BEFORE, "node-1": "ann@laptop", "node-3": "ann@laptop"}


def rolling(*nodes):
    """As an upgrade does: each node cordoned, drained and put back before the next one."""
    (cordons, *_), back = drain(*nodes).waves, uncordon(nodes, owner="ann@laptop", force_owner=False).waves[0]
    drains = drain(*nodes).waves[1:]
    waves = tuple(
        Wave((Lane(node, (cordons.lanes[i].steps[0], drains[i].lanes[0].steps[0], back.lanes[i].steps[0])),))
        for i, node in enumerate(nodes)
    )
    return Plan("upgrade", "roll", waves)


DRAIN = drain(*NODES)
ROLL = rolling("node-1", "node-3")
#: The plan, the cordons after it, and its effects.
PLANS = {
    "drain": (DRAIN, DRAINED, {"cordon": 2, "evict": 9}),
    "roll": (ROLL, BEFORE, {"cordon": 2, "evict": 7, "uncordon": 2}),
}


def a_world(root):
    """Three nodes to drain, one of them cordoned by somebody else; budgets, a stateful set, pods that stay."""
    world = World(root)
    cluster = world.cluster
    for node in NODES:
        cluster.add_node(node)
    for node in ("spare-1", "spare-2"):
        cluster.add_node(node, labels={"preferred": ""})
    cluster.change_node("node-2", unschedulable=True, cordon=CordonRecord("bob@desk", "disk", "", 0.0))
    cluster.add_controller("ReplicaSet", "default", "web", 5, on=NODES)
    cluster.add_controller("ReplicaSet", "default", "api", 3, on=("node-1",), stops_after_s=20.0)
    cluster.add_controller("StatefulSet", "default", "db", 2, on=("node-3", "spare-1"))
    cluster.add_controller("DaemonSet", "kube-system", "proxy", 0)
    cluster.add_budget("default", "web", max_unavailable=1, app="web")
    cluster.add_budget("default", "db", min_available=1, app="db")
    cluster.pass_time(1)
    return world


def settled(world):
    """Nodes and pods once the controllers have done what they do."""
    world.cluster.pass_time(60)
    return world.cluster.state()


def killed(act, life):
    with pytest.raises(Crash):
        act(life)


def go_on(world, plan, life=None):
    """What a person does after a crash: resume the last run, or, where not even the plan was written, start again."""
    started = len(tuple(world.root.iterdir()))
    try:
        world.resume(f"run-{started}", life=life)
    except BadUsage:
        assert world.effects == []
        world.start(plan, run=f"run-{started + 1}", life=life)


def surplus(effects, reference):
    """How many effects there were beyond the reference, which must all be there."""
    assert Counter(reference) - Counter(effects) == Counter()
    return sum((Counter(effects) - Counter(reference)).values())


@pytest.fixture
def root(tmp_path):
    """In memory where the system has such a place: hundreds of runs, each with its journal."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(place)


@dataclass
class Reference:
    """A run that nobody killed."""

    plan: Plan
    cordons: dict
    verbs: dict
    life: Life
    end: tuple


@pytest.fixture(scope="module", params=PLANS)
def reference(request, tmp_path_factory):
    plan, cordons, verbs = PLANS[request.param]
    world, life = a_world(tmp_path_factory.mktemp("reference")), Life()
    world.start(plan, life=life)
    return Reference(plan, cordons, verbs, life, settled(world))


def test_the_undisturbed_run_moves_the_pods_and_leaves_the_cordon_that_was_there(reference):
    cordons, pods = reference.end

    assert cordons == reference.cordons
    assert {name for node, name, _ in pods if node in ("node-1", "node-3")} == {"proxy"}
    assert all(ready for _, _, ready in pods)
    assert Counter(verb for verb, _ in reference.life.effects) == reference.verbs


@pytest.mark.matrix
def test_a_run_killed_at_any_point_resumes_to_the_state_of_one_that_was_not(reference, root):
    points = reference.life.points()

    for number, death in enumerate(points):
        world = a_world(root / str(number))
        killed(lambda life, world=world: world.start(reference.plan, life=life), Life(death))
        go_on(world, reference.plan)

        assert settled(world) == reference.end, death
        assert surplus(world.effects, reference.life.effects) <= 1, death
    assert len(points) > 60


@pytest.mark.matrix
def test_a_run_killed_twice_resumes_to_the_same_state_all_the_same(reference, root):
    points = reference.life.points()
    died = 0

    for number, first in enumerate(points):
        second = points[(number * 7 + len(points) // 3) % len(points)]
        world = a_world(root / str(number))
        killed(lambda life, world=world: world.start(reference.plan, life=life), Life(first))
        with suppress(Crash):
            go_on(world, reference.plan, twice := Life(second))
        died += twice.dead
        go_on(world, reference.plan)

        assert settled(world) == reference.end, (first, second)
        assert surplus(world.effects, reference.life.effects) <= 2, (first, second)
    assert died > 30


def test_every_effect_finds_its_step_in_the_journal_on_disk(reference, root):
    world = a_world(root)
    unrecorded = []

    def look():
        verb, of = life.effects[-1]
        contents = journal.read(world.place("run-1"))
        under_way = {step for step in contents.past if step not in contents.done}
        if not any(step.endswith({"evict": "drain"}.get(verb, verb)) for step in under_way):
            unrecorded.append((verb, of, under_way))

    life = Life(then=dict.fromkeys(range(1, 99), look))
    world.start(reference.plan, life=life)

    assert unrecorded == []


@pytest.mark.matrix
def test_whatever_point_a_run_was_killed_at_its_release_leaves_the_nodes_as_they_were_found(reference, root):
    for number, death in enumerate(reference.life.points()):
        world = a_world(root / str(number))
        killed(lambda life, world=world: world.start(reference.plan, life=life), Life(death))
        if death.kind == "write" and death.number == 1 and death.how != "after":
            assert world.effects == []
            continue
        world.clock.sleep(60)
        world.release()

        assert settled(world)[0] == BEFORE, death
        assert world.read().state == "released", death


# ---- release --------------------------------------------------------------------------------------------------


def stopped(world):
    """A run that was asked to stop when it had drained a node."""
    stop = Stop()
    with pytest.raises(Interrupted):
        world.start(DRAIN, stop=stop, life=Life(then={8: stop.request}))


def failed(world):
    """A run that a pod held up for ever."""
    world.cluster.change_budget("default/web", max_unavailable=0)
    world.cluster.pass_time(1)
    with pytest.raises(GoalNotReached):
        world.start(drain(*NODES, timeout_s=5.0))


def finished(world):
    world.start(DRAIN)


@pytest.mark.parametrize("ended", [stopped, failed, finished])
def test_a_release_leaves_the_nodes_as_they_were_found(ended, root):
    world = a_world(root)
    ended(world)
    assert settled(world)[0] == DRAINED

    world.release()

    assert settled(world)[0] == BEFORE


@pytest.mark.matrix
@pytest.mark.parametrize("ended", [stopped, failed])
def test_a_release_killed_at_any_point_resumes_or_is_asked_for_again(ended, root):
    reference, life = a_world(root / "reference"), Life()
    ended(reference)
    reference.release(life=life)
    points = life.points()

    for number, death in enumerate(points):
        for again in (resume_of_the_release, another_release):
            world = a_world(root / f"{number}-{again.__name__}")
            ended(world)
            world.effects.clear()
            killed(lambda life, world=world: world.release(life=life), Life(death))
            again(world)

            assert settled(world)[0] == BEFORE, (death, again)
            assert surplus(world.effects, life.effects) <= 1, (death, again)
    assert len(points) > 20


def resume_of_the_release(world):
    try:
        world.resume("release-1")
    except BadUsage:
        another_release(world)


def another_release(world):
    """By then the lease of the killed one has run out."""
    world.clock.sleep(60)
    world.release(by="release-2")
