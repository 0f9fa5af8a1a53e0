"""Gates of an upgrade: what they wait for, and for how long, on a cluster with hosts in memory."""

import pytest

from orchestrator.cluster.hostfacts import STATIC
from orchestrator.engine.plan import Done, Needed
from orchestrator.errors import GoalNotReached
from orchestrator.planners.upgrade import LASTS_S
from tests.fakes.site_world import SiteWorld
from tests.fakes.stage import Stage, installed, upgraded

TO = "1.37.2"
#: Any step: something of the run has begun.
BEGUN = {"0/cp-1/etcd.snapshot": {}}


@pytest.fixture
def world(tmp_path):
    return SiteWorld(tmp_path / "world")


@pytest.fixture
def three(tmp_path):
    return SiteWorld(tmp_path / "three", planes=3)


def gate(world, node, *checks, lasts_s=0.0, more="upgraded"):
    """A gate of a plan, with other checks."""
    stage = Stage(world, "cluster.gate", node, more=more, past=dict(BEGUN))
    stage.change(checks=list(checks) or stage.step.params["checks"], lasts_s=lasts_s)
    return stage


def done(world, *nodes):
    """The nodes are at the version."""
    upgraded(world, *(node for node in nodes if world.machine(node).plane))
    for node in nodes:
        installed(world, node, TO)
        world.machine(node).running = TO
        world.site.change_node(node, kubelet_version=f"v{TO}")


# ---- what has to be well ----------------------------------------------------------------------------------------


def nothing(world):
    """All is well."""


def not_ready(world):
    world.site.change_node("cp-1", ready=False, ready_reason="KubeletNotReady")


def lags(world):
    world.site.change_node("cp-1", kubelet_version="v1.36.3")


def old_scheduler(world):
    world.machine("cp-1").components["kube-scheduler"] = "1.36.3"


def no_etcd(world):
    world.machine("cp-1").gone(["etcd"], 0.0, 60.0)


def daemon_unready(world):
    world.site.change_pod("kube-system/proxy-1", ready=False, waiting_reason="CrashLoopBackOff")


def unready(world):
    for key in [key for key in world.site.pods if key.startswith("default/web-")][:2]:
        world.site.change_pod(key, ready=False)
    world.site.pass_time(1)


def leaderless(world):
    world.machine("cp-1").gone(["kube-scheduler"], -12.0, 0.0)


@pytest.mark.parametrize(
    ("check", "trouble", "why"),
    [
        ("node", nothing, ""),
        ("node", not_ready, "cp-1 is not Ready (KubeletNotReady)"),
        ("node", lags, "the API has kubelet v1.36.3 of cp-1, not v1.37.2 yet"),
        ("components", nothing, ""),
        ("components", old_scheduler, "kube-scheduler of cp-1 is v1.36.3, not v1.37.2"),
        ("components", no_etcd, "etcd of cp-1 does not run"),
        ("daemons", nothing, ""),
        ("daemons", daemon_unready, "kube-system/proxy-1 is not ready (CrashLoopBackOff)"),
        ("budgets", nothing, ""),
        ("budgets", unready, "budget default/web: 2 ready, needs 3"),
        ("leaders", nothing, ""),
        ("leaders", leaderless, "no kube-scheduler leads: its lease is 12 s old"),
        ("api", nothing, ""),
        ("etcd", nothing, ""),
    ],
)
def test_a_gate_names_what_is_not_well(world, check, trouble, why):
    done(world, "cp-1")
    stage = gate(world, "cp-1", check)
    trouble(world)

    found = stage.decide()

    assert found == (Needed(why) if why else Done("all is well"))


def test_a_kubelet_that_renews_its_lease_no_more_is_not_well_though_it_is_called_ready(three):
    done(three, "cp-1")
    stage = gate(three, "cp-1", "node")
    three.machine("cp-1").on, three.machine("cp-1").off_at = False, three.clock.wall() - 30

    assert stage.decide() == Needed("cp-1 has not renewed its lease for 30 s")


@pytest.mark.parametrize("ahead_s", [-3600.0, -21.0, 11.0, 3600.0])
@pytest.mark.parametrize("check", ["node", "leaders"])
def test_the_operators_own_clock_is_nothing_to_a_gate(three, check, ahead_s):
    done(three, "cp-1")
    three.site.ahead_s = ahead_s

    assert gate(three, "cp-1", check).decide() == Done("all is well")


@pytest.mark.parametrize("lagging_s", [-45.0, 45.0])
@pytest.mark.parametrize("check", ["node", "leaders"])
def test_a_host_whose_clock_is_off_is_well_when_its_lease_is_seen_to_change(three, check, lagging_s):
    done(three, "cp-1")
    three.site.lagging_s["cp-1"] = lagging_s
    stage = gate(three, "cp-1", check)
    assert isinstance(stage.decide(), Needed)

    three.site.pass_time(11)

    assert stage.decide() == Done("all is well")


def test_a_lease_that_was_seen_to_change_long_ago_is_old_again(three):
    done(three, "cp-1")
    three.site.lagging_s["cp-1"] = 45.0
    stage = gate(three, "cp-1", "node")
    stage.decide()
    three.site.pass_time(11)
    assert stage.decide() == Done("all is well")
    three.machine("cp-1").on, three.machine("cp-1").off_at = False, three.clock.wall() // 10 * 10

    three.site.pass_time(30)

    assert isinstance(stage.decide(), Needed)


@pytest.mark.parametrize(
    ("check", "names", "why"),
    [
        ("api", ["kube-apiserver"], "API server of cp-3: readyz: The connection to the server was refused"),
        ("etcd", ["etcd"], "member cp-3 does not answer; https://cp-3:2379 is not healthy: it does not say why"),
    ],
)
def test_every_control_plane_counts_for_a_gate_of_one_of_them(three, check, names, why):
    stage = gate(three, "cp-1", check)
    three.machine("cp-3").gone(names, 0.0, 60.0)

    assert stage.decide() == Needed(why)


def test_etcd_is_asked_where_there_is_one(three):
    stage = gate(three, "cp-1", "etcd")
    three.machine("cp-1").gone(["etcd"], 0.0, 60.0)

    assert stage.decide() == Needed(
        "member cp-1 does not answer; https://cp-1:2379 is not healthy: it does not say why"
    )


def test_an_etcd_that_stops_in_the_middle_of_its_answer_is_waited_for(world):
    stage = gate(world, "cp-1", "etcd")
    world.machine("cp-1").faults["etcd"] = "cut short"

    found = stage.decide()

    assert isinstance(found, Needed)
    assert "alarm list" in found.why


def test_an_etcd_that_tells_nothing_is_not_taken_for_one_elsewhere(three):
    stage = gate(three, "cp-1", "etcd")
    for machine in three.site.planes():
        machine.faults["etcd"] = "mute"

    assert stage.decide() == Needed("no member of etcd tells how it is")


def test_an_etcd_outside_of_the_cluster_is_not_asked(three):
    stage = gate(three, "cp-1", "etcd")
    three.site.use_external_etcd("https://198.18.9.1:2379")

    assert stage.decide() == Done("all is well")


def test_a_member_has_to_be_of_its_manifests_version(three):
    done(three, "cp-1")
    three.machine("cp-1").components["etcd"] = "3.6.8-0"

    found = gate(three, "cp-1", "etcd").decide()

    assert found == Needed("etcd of cp-1 is 3.6.8, and its manifest's is v3.7.0-0")


def test_members_may_be_of_several_versions_while_control_planes_are(three):
    done(three, "cp-1")

    assert gate(three, "cp-2", "etcd").decide() == Done("all is well")


def test_when_all_control_planes_are_done_members_are_of_one_version(three):
    done(three, "cp-1", "cp-2", "cp-3")
    for facts in (three.machine("cp-2").manifests, three.machine("cp-2").components):
        facts["etcd"] = "3.6.8-0"

    found = gate(three, "cp-3", "etcd").decide()

    assert found == Needed("every control plane is at v1.37.2, and members of etcd are 3.6.8, 3.7.0, 3.7.0")


def test_a_tag_that_is_no_version_of_etcds_says_nothing(world):
    world.machine("cp-1").manifests["etcd"] = "2024.1.0"

    assert gate(world, "cp-1", "etcd").decide() == Done("all is well")


def test_a_static_pod_that_runs_as_it_did_before_its_manifest_changed_is_waited_for(world):
    """Its image may be the same: only its hash tells."""
    done(world, "cp-1")
    world.machine("cp-1").faults["static pods"] = ("etcd",)

    assert gate(world, "cp-1", "components").decide() == Needed(
        "etcd of cp-1 is not of its manifest yet, here or in the API"
    )


def test_a_host_that_cannot_be_reached_is_waited_for(three):
    stage = gate(three, "cp-1", "components")
    three.machine("cp-1").cut = True

    assert stage.decide() == Needed("cp-1: no connection")


def test_a_preview_says_what_a_gate_will_wait_for(world):
    stage = gate(world, "cp-1", "api", "etcd", lasts_s=15.0)
    stage.past.clear()

    assert stage.decide() == Needed("waits until all is well: api, etcd, for 15 s")


# ---- what lasts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["cp-1", "cp-2"])
@pytest.mark.parametrize("after_s", [0.0, 0.5, 3.0, 14.0])
def test_a_gate_passes_only_when_every_api_server_answered_for_as_long_as_it_has_to(three, node, after_s):
    """A kubelet's first start with a new minor takes its API server away a few seconds later: one look sees nothing."""
    done(three, "cp-1")
    stage = gate(three, "cp-1", lasts_s=LASTS_S)
    three.machine(node).gone(STATIC, after_s, 5.0)
    ends_at = three.clock.wall() + after_s + 5.0

    found = stage.apply()

    assert found == Done("well for 15 s")
    assert three.clock.wall() >= ends_at + LASTS_S
    assert [fields for name, fields in stage.events if name == "gate.waiting"] != []


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("here", "the endpoint hung up"),
        ("endpoint", "as cp-1 asks it, https://api.example.org:6443: Unable to connect to the server: EOF"),
    ],
)
def test_a_break_of_a_moment_at_an_endpoint_is_seen(three, where, why):
    """A load balancer may lose requests while every API server behind it answers."""
    done(three, "cp-1")
    stage = gate(three, "cp-1", lasts_s=LASTS_S)
    three.site.breaks[where] = 1

    assert stage.apply() == Done("well for 15 s")

    assert [fields["why"] for name, fields in stage.events if name == "gate.waiting"] == [why]


def test_a_gate_that_sees_no_break_waits_no_longer_than_it_has_to(world):
    done(world, "cp-1")
    stage = gate(world, "cp-1", lasts_s=LASTS_S)
    began = world.clock.now()

    assert stage.apply() == Done("well for 15 s")

    assert LASTS_S <= world.clock.now() - began <= 3 * LASTS_S
    assert stage.events == []


def test_what_was_well_for_long_enough_counts_no_more_after_a_break(world):
    done(world, "cp-1")
    stage = gate(world, "cp-1", lasts_s=LASTS_S)
    stage.apply()
    world.machine("cp-1").components["kube-scheduler"] = "1.36.3"
    assert isinstance(stage.decide(), Needed)

    world.machine("cp-1").components["kube-scheduler"] = TO
    world.site.pass_time(10)

    assert stage.decide() == Needed("well for 0 s of 15", again=True)


def test_a_gate_of_another_process_begins_anew(world):
    done(world, "cp-1")
    stage = gate(world, "cp-1", lasts_s=LASTS_S)
    assert isinstance(stage.apply(), Done)

    stage.restart()

    assert stage.decide() == Needed("well for 0 s of 15", again=True)


def test_a_control_plane_that_never_gets_well_is_told_with_what_runs_there_and_the_ways_on(three):
    done(three, "cp-1")
    stage = gate(three, "cp-1", lasts_s=LASTS_S)
    three.machine("cp-1").components["kube-scheduler"] = "1.36.3"

    with pytest.raises(
        GoalNotReached, match=r"cp-1: not well after 600 s: kube-scheduler of cp-1 is v1\.36\.3"
    ) as caught:
        stage.apply()

    assert "kube-scheduler v1.36.3 (manifest v1.37.2)" in str(caught.value)
    assert "kubeadm replaced" not in str(caught.value)
    assert "orchestrator upgrade rollback cp-1" in caught.value.remedy
    assert "as root" not in caught.value.remedy


ANEW, BY_HAND = "orchestrator upgrade rollback cp-1", "ls -d /etc/kubernetes/tmp/kubeadm-backup-*"


@pytest.mark.parametrize(
    ("without_api", "ways"),
    [(False, ["orchestrator release run-1", ANEW, BY_HAND]), (True, [BY_HAND])],
    ids=["begun with an API server", "begun without one"],
)
def test_a_gate_on_the_way_back_of_the_only_control_plane_advises_what_needs_no_api_server(world, without_api, ways):
    stage = gate(world, "cp-1", "components", lasts_s=LASTS_S)
    stage.change(rollback=True, **({"without_api": True} if without_api else {}))

    with pytest.raises(GoalNotReached) as caught:
        stage.apply()

    told = [line.partition("    #")[0] for line in caught.value.remedy.splitlines()]
    assert told == ["orchestrator resume run-1", *ways]


# ---- what was noted ---------------------------------------------------------------------------------------------


def noted(world, node, *checks):
    """A gate after a note, as things are now."""
    stage, note = gate(world, node, *checks, more="settled"), Stage(world, "cluster.note", node)
    assert isinstance(note.decide(), Needed)
    assert isinstance(note.apply(), Done)
    assert note.step.id == stage.step.params["noted"]
    stage.past |= note.past
    return stage


def test_owners_of_a_nodes_pods_have_to_have_as_many_ready_as_before(world):
    stage = noted(world, "node-1", "owners")
    assert stage.past[stage.step.params["noted"]]["owners"] == {
        "ReplicaSet default/web": 4,
        "StatefulSet default/db": 2,
    }
    assert stage.decide() == Done("all is well")

    unready(world)

    assert stage.decide() == Needed("ReplicaSet default/web has 2 pods ready, had 4")


def test_owners_with_no_pod_on_the_node_are_not_its_business(world):
    world.site.add_controller("ReplicaSet", "default", "far", 1, on=("node-2",))
    stage = noted(world, "node-1", "owners")
    world.site.change_pod("default/far-1", ready=False)

    assert stage.decide() == Done("all is well")


def test_an_owner_that_somebody_removed_is_not_waited_for(world):
    stage = noted(world, "node-1", "owners")
    unready(world)

    world.site.remove_controller("ReplicaSet", "default", "web")

    assert stage.decide() == Done("all is well")


@pytest.mark.parametrize(("replicas", "why"), [(2, ""), (3, "ReplicaSet default/web has 2 pods ready, had 4")])
def test_an_owner_that_somebody_made_smaller_has_to_have_as_many_as_are_wanted(world, replicas, why):
    stage = noted(world, "node-1", "owners")
    unready(world)

    web = next(c for c in world.site.controllers() if c.owner.name == "web")
    web.replicas = replicas

    assert stage.decide() == (Needed(why) if why else Done("all is well"))


def test_clients_that_followed_pods_are_waited_for_but_not_for_ever(three):
    stage = noted(three, "cp-1", "watches")
    three.machine("cp-2").gone(["kube-apiserver"], -6.0, 5.0)

    assert stage.decide() == Needed("26 of 30 watches on pods and Services are back")
    stage.apply()
    three.site.pass_time(25)
    assert stage.decide() == Done("all is well")


def test_clients_that_do_not_come_back_are_given_up(three):
    stage = noted(three, "cp-1", "watches")
    for plane in three.site.planes():
        plane.followers = lambda: 9
    stage.apply()
    three.site.pass_time(70)
    assert isinstance(stage.decide(), Needed)

    three.site.pass_time(10)

    assert stage.decide() == Done("all is well")


def test_without_a_count_nobody_is_waited_for(three):
    """An API server that is away tells none: that it is away is for other checks to say."""
    stage = noted(three, "cp-1", "watches")
    three.machine("cp-2").gone(["kube-apiserver"], 0.0, 60.0)

    assert stage.decide() == Done("all is well")


@pytest.mark.parametrize("needed", [1, 4])
def test_a_budget_that_was_short_before_is_not_waited_for(world, needed):
    """An application scaled to nothing keeps its budget; one that has been down for weeks is nobody's fault here."""
    world.site.add_controller("ReplicaSet", "default", "old", 0)
    world.site.add_budget("default", "old", min_available=1, app="old")
    world.site.pass_time(1)
    stage = noted(world, "node-1", "budgets")

    assert stage.decide() == Done("all is well")


def test_a_budget_that_was_well_before_is_waited_for(world):
    stage = noted(world, "node-1", "budgets")

    unready(world)

    assert stage.decide() == Needed("budget default/web: 2 ready, needs 3")


def test_a_budget_that_was_short_before_has_to_be_as_well_as_it_was(world):
    unready(world)
    stage = noted(world, "node-1", "budgets")
    assert stage.decide() == Done("all is well")
    third = next(key for key, pod in world.site.pods.items() if key.startswith("default/web-") and pod.ready)

    world.site.change_pod(third, ready=False)
    world.site.pass_time(1)

    assert stage.decide() == Needed("budget default/web: 1 ready, had 2 of 3 needed")


def test_a_budget_that_nobody_had_before_is_not_waited_for(world):
    stage = noted(world, "node-1", "budgets")
    world.site.add_budget("default", "new", min_available=9, app="web")
    world.site.pass_time(1)

    assert stage.decide() == Done("all is well")


def test_a_daemon_that_was_not_ready_before_is_not_waited_for_and_others_are(world):
    world.site.add_controller("DaemonSet", "kube-system", "agent", 0)
    daemon_unready(world)
    stage = noted(world, "cp-1", "daemons")
    assert stage.decide() == Done("all is well, but for what was not before: DaemonSet kube-system/proxy")

    world.site.change_pod("kube-system/agent-1", ready=False, waiting_reason="ImagePullBackOff")

    assert stage.decide() == Needed("kube-system/agent-1 is not ready (ImagePullBackOff)")


def test_a_gate_that_lasts_passes_over_a_daemon_that_was_not_ready_before(world):
    done(world, "cp-1")
    daemon_unready(world)
    note = Stage(world, "cluster.note", "cp-1")
    note.apply()
    stage = gate(world, "cp-1", lasts_s=LASTS_S)
    stage.past |= note.past
    began = world.clock.now()

    assert stage.apply() == Done("well for 15 s, but for what was not before: DaemonSet kube-system/proxy")
    assert world.clock.now() - began <= 3 * LASTS_S


def test_a_note_of_an_earlier_version_holds_all_to_what_they_need(world):
    """A run that is resumed: its journal knows of owners and watches only."""
    stage = noted(world, "cp-1", "budgets", "daemons")
    stage.past[stage.step.params["noted"]] = {"owners": {}, "watches": None}
    daemon_unready(world)
    unready(world)

    assert stage.decide() == Needed(
        "kube-system/proxy-1 is not ready (CrashLoopBackOff); budget default/web: 2 ready, needs 3"
    )


def test_a_note_is_made_once_a_process(world):
    note = Stage(world, "cluster.note", "node-1")
    note.apply()

    note.restart()

    assert note.decide() == Needed("2 owners to note")


# ---- a gate that is for a drain only ----------------------------------------------------------------------------


def followed(world):
    """The gate before the drain of a control plane, where no scheduler leads."""
    leaderless(world)
    return Stage(world, "cluster.gate", "cp-1", more="followed", past=dict(BEGUN))


def test_with_nothing_to_drain_nobody_is_waited_for(world):
    assert isinstance(followed(world).decide(), Done)


def test_for_a_pod_that_has_ended_nobody_is_waited_for(world):
    """kubeadm's own health check leaves one, for some seconds."""
    world.site.add_pod("kube-system", "upgrade-health-check-x", "cp-1", phase="Succeeded", ready=False)

    assert isinstance(followed(world).decide(), Done)


def test_with_a_pod_to_drain_a_leader_is_waited_for(world):
    world.site.add_controller("ReplicaSet", "default", "web", 1, on=["cp-1"])

    decision = followed(world).decide()

    assert isinstance(decision, Needed)
    assert "no kube-scheduler leads" in str(decision)
