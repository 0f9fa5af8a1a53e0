"""Whole upgrades on a cluster with hosts in memory, undisturbed and killed anywhere."""

import os
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.engine import journal
from orchestrator.engine.plan import Blocked
from orchestrator.errors import BadUsage, CommandFailed, Paused
from orchestrator.planners.upgrade import Hook
from tests.fakes.crash import Crash, Life
from tests.fakes.site_machines import LIST
from tests.fakes.site_world import At, SiteWorld

TO = "1.37.2"


@pytest.fixture
def root(tmp_path):
    """In memory where the system has such a place: hundreds of runs, each with its journal."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(place)


# ---- whole runs -------------------------------------------------------------------------------------------------


def test_one_control_plane_and_two_workers_end_at_the_version_as_they_were_found(root):
    world = SiteWorld(root)

    world.start(world.upgrade(TO))

    assert world.shortcomings(TO) == []
    assert world.order("cordon") == ["cp-1", "node-1", "node-2"]
    steps = ["packages.prefetch", "packages.install", "kubeadm.upgrade", "kubelet.upgrade"]
    assert {name: world.started(name) for name in world.site.machines} == dict.fromkeys(world.site.machines, steps)


@pytest.mark.parametrize("asks_itself", [True, False])
def test_of_three_control_planes_the_one_whose_etcd_leads_is_the_last(root, asks_itself):
    world = SiteWorld(root, planes=3, workers=1)
    for machine in world.site.planes():
        machine.asks_itself = asks_itself

    world.start(world.upgrade(TO))

    assert world.shortcomings(TO) == []
    assert world.order("cordon") == ["cp-2", "cp-3", "cp-1", "node-1"]


def test_kubelets_of_control_planes_that_may_ask_any_api_server_wait_for_all_of_them(root):
    world = SiteWorld(root, planes=3, workers=1)
    for machine in world.site.planes():
        machine.asks_itself = False

    world.start(world.upgrade(TO))

    steps = [of[2].rpartition("/")[2] for of in world.effects if of[0] == "start" and of[1].startswith("cp-")]
    assert steps[steps.index("kubelet.upgrade") :] == ["kubelet.upgrade"] * 3


def test_two_minors_are_taken_one_after_the_other_on_every_node(root):
    world = SiteWorld(root)

    world.start(world.upgrade("1.37.2", "1.38.1"))

    assert world.shortcomings("1.38.1") == []
    assert set(world.machine("node-1").files) == {LIST, f"{LIST}.v1.36.bak", f"{LIST}.v1.37.bak"}
    hops = ["packages.install", "kubeadm.upgrade", "kubelet.upgrade"]
    assert [step for step in world.started("node-1") if step != "packages.prefetch"] == hops * 2


def test_workers_that_come_last_skip_the_minor_between(root):
    world = SiteWorld(root)

    world.start(world.upgrade("1.37.2", "1.38.1", workers=False))

    assert world.shortcomings("1.38.1") == []
    assert world.started("node-1").count("kubelet.upgrade") == 1
    assert world.started("cp-1").count("kubelet.upgrade") == 2


def test_no_more_workers_than_allowed_are_out_of_service_at_once(root):
    """As the site's rules see to."""
    world = SiteWorld(root, workers=5, max_unavailable=2)

    world.start(world.upgrade(TO))

    assert world.shortcomings(TO) == []


def test_what_another_run_left_half_done_is_brought_to_its_end(root):
    world = SiteWorld(root)
    world.machine("node-2").faults["kubeadm"] = "refuses"
    with pytest.raises(CommandFailed):
        world.start(world.upgrade(TO))
    world.machine("node-2").faults.clear()

    world.start(world.upgrade(TO, name="upgrade-2"), run="run-2")

    for name in ("node-1", "node-2"):  # node-1 may have been stopped before its cordon
        world.machine(name).left.discard("upgrade-1")
    assert world.shortcomings(TO) == []
    assert world.effects.count(("cordon", "node-1")) == 1


def test_a_node_that_somebody_had_cordoned_stays_so(root):
    world = SiteWorld(root)
    world.cluster.change_node("node-2", unschedulable=True)
    world.cluster.pass_time(1)

    world.start(world.upgrade(TO))

    assert world.shortcomings(TO, cordoned={"node-2"}) == []


def test_a_cordon_that_somebody_takes_over_in_the_middle_stays(root):
    world = SiteWorld(root)
    life = At(("start", "node-1", "3/node-1/kubelet.upgrade"), lambda: world.hand_over("node-1"))

    world.start(world.upgrade(TO), life=life)

    assert world.shortcomings(TO, cordoned={"node-1"}) == []


def test_a_preview_of_every_kind_of_cluster_finds_nothing_in_the_way(root):
    for number, site in enumerate(({}, {"planes": 3}, {"workers": 0}, {"workers": 4, "max_unavailable": 2})):
        world = SiteWorld(root / str(number), **site)
        before = world.site.standing()

        found = world.preview(world.upgrade("1.37.2", "1.38.1"))

        assert [p for p in found if isinstance(p.decision, Blocked)] == []
        assert world.site.standing() == before


def test_a_pause_that_was_asked_for_comes_once(root):
    world = SiteWorld(root)
    plan = world.upgrade(TO, pause_after="first-worker")

    with pytest.raises(Paused, match="pauses as asked: after the first worker") as caught:
        world.start(plan)
    assert caught.value.exit_code == 4
    assert {name: m.running for name, m in world.site.machines.items()} == {
        "cp-1": TO,
        "node-1": TO,
        "node-2": "1.36.3",
    }
    world.resume()

    assert world.shortcomings(TO) == []


# ---- killed anywhere --------------------------------------------------------------------------------------------

#: Each part takes every so many of the points, so that several processes share them.
PARTS = 4
#: A site, what is asked for, and every how many of its journal's writes are points to die at.
KINDS = {
    "1+2": ({}, {}, 1),
    "3+1": (
        {"planes": 3, "workers": 1},
        {"before": Hook(("notify",), 30.0), "after": Hook(("tell",), 30.0, on_node=True)},
        7,
    ),
    "1+4": ({"workers": 4, "max_unavailable": 2}, {}, 7),
}


def go_on(world, plan, life=None):
    """What a person does after a crash: resume the last run, or, where not even the plan was written, start again."""
    begun = len(tuple(world.root.iterdir()))
    try:
        world.resume(f"run-{begun}", life=life)
    except BadUsage:
        assert world.effects == []
        world.start(plan, run=f"run-{begun + 1}", life=life)


def repeated(effects, reference):
    """How many effects there were beyond the reference. Which pods are evicted depends on when: no name comes twice.

    But for those of the stateful set, which come back under their name.
    """
    evictions = Counter(of for of in effects if of[0] == "evict" and "/web-" in of[1])
    others = Counter(of for of in effects if of[0] != "evict") - Counter(reference)
    return sum(others.values()) + sum(evictions.values()) - len(evictions)


@pytest.mark.matrix
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_killed_at_any_point_resumes_to_the_end_of_one_that_was_not(root, kind, part):
    site, request, every = KINDS[kind]
    reference, life = SiteWorld(root / "reference", **site), Life()
    reference.start(reference.upgrade(TO, **request), life=life)
    assert reference.shortcomings(TO) == []
    points = [p for p in life.points() if p.kind != "write" or p.number % every == 0][part::PARTS]
    died = 0

    for number, death in enumerate(points):
        world = SiteWorld(root / str(number), **site)
        plan = world.upgrade(TO, **request)
        with suppress(Crash):
            world.start(plan, life=(killed := Life(death)))
        died += killed.dead
        world.cluster.pass_time((0.0, 7.0, 1000.0)[number % 3])
        go_on(world, plan)

        assert world.shortcomings(TO) == [], death
        assert world.site.standing() == reference.site.standing(), death
        assert repeated(world.effects, life.effects) <= 1, death
    # Lanes that run at once may be through with a little less: not each of these deaths comes.
    assert died > len(points) * 0.9


@pytest.mark.matrix
def test_an_upgrade_killed_again_and_again_comes_to_its_end(root):
    reference, life = SiteWorld(root / "reference"), Life()
    reference.start(reference.upgrade(TO), life=life)
    reference.cluster.pass_time(120)
    points = life.points()

    for number in range(0, len(points), 12):
        world = SiteWorld(root / str(number))
        plan = world.upgrade(TO)
        deaths = [points[number], *(p for p in points if p.kind == "effect" and p.number <= 3)]
        with suppress(Crash):
            world.start(plan, life=Life(deaths[0]))
        for death in deaths[1:]:
            with suppress(Crash):
                go_on(world, plan, Life(death))
        go_on(world, plan)

        assert world.shortcomings(TO) == []
        assert world.site.standing() == reference.site.standing(), deaths


def test_what_a_command_changes_is_in_the_journal_on_disk_before_it_starts(root):
    world = SiteWorld(root)
    unrecorded = []

    def look():
        verb, *of = life.effects[-1]
        contents = journal.read(world.place("run-1"))
        if verb == "start" and (of[1] not in contents.past or of[1] in contents.done):
            unrecorded.append(of)

    life = Life(then=dict.fromkeys(range(1, 200), look))
    world.start(world.upgrade(TO), life=life)

    assert unrecorded == []
