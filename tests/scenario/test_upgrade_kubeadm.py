"""kubeadm and kubelets, as an upgrade's actions find, judge and move them, on a cluster with hosts in memory."""

import pytest

from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import CommandFailed
from tests.fakes.site_machines import FakePackage
from tests.fakes.site_world import SiteWorld
from tests.fakes.stage import Stage, drained, installed, lost, moved, upgraded

OLD, TO = "1.36.3", "1.37.2"


@pytest.fixture
def world(tmp_path):
    made = SiteWorld(tmp_path / "world")
    yield made
    assert made.site.rules.broken == []


# ---- kubeadm.upgrade --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hasten", [True, False])
def test_static_pods_are_upgraded_and_the_settings_of_the_cluster_follow(world, hasten):
    installed(world, "cp-1", TO, "kubeadm")
    stage = Stage(world, "kubeadm.upgrade", "cp-1", request={"hasten": hasten})
    assert stage.decide() == Needed(
        "kube-apiserver v1.36.3, kube-controller-manager v1.36.3, kube-scheduler v1.36.3 to v1.37.2"
    )

    assert stage.apply() == Done("static pods run v1.37.2")

    assert world.site.kubernetes == TO
    (argv,) = [e.argv for e in world.machine("cp-1").errands.values()]
    assert (argv[0] == "sh") == hasten
    assert argv[-5:] == ("kubeadm", "upgrade", "apply", "--yes", "v1.37.2")
    said = [fields["line"] for name, fields in stage.events if name == "kubeadm.said"]
    assert sum("Moving new manifest" in line for line in said) == 4


def test_what_may_fail_and_further_options_come_to_kubeadm(world):
    upgraded(world, "cp-1")
    installed(world, "node-1", TO, "kubeadm")
    request = {"accept": ("Swap", "SystemVerification"), "options": ("--certificate-renewal=false",)}
    stage = Stage(world, "kubeadm.upgrade", "node-1", request=request)

    assert stage.apply() == Done("settings are those of v1.37.2")

    (argv,) = [e.argv for e in world.machine("node-1").errands.values()]
    words = ("--ignore-preflight-errors=Swap,SystemVerification", "--certificate-renewal=false")
    assert argv == ("kubeadm", "upgrade", "node", *words)


@pytest.mark.parametrize("node", ["cp-1", "node-1"])
def test_another_kubeadm_cannot_lead_there(world, node):
    stage = Stage(world, "kubeadm.upgrade", node)

    found = stage.decide()

    assert isinstance(found, Blocked)
    assert found.why == f"{node}: kubeadm is v1.36.3, which cannot lead to v1.37.2"
    assert found.until == stage.step.params["kubeadm"]


def test_a_worker_follows_all_api_servers(world):
    installed(world, "node-1", TO, "kubeadm")
    stage = Stage(world, "kubeadm.upgrade", "node-1")

    found = stage.decide()

    assert isinstance(found, Blocked)
    assert found.why == "node-1: to v1.37.2 while the API server of cp-1 is v1.36.3: workers follow"
    assert found.until == "2/cp-1/kubeadm.upgrade"


def test_a_worker_does_not_follow_an_api_server_that_only_its_manifest_is_of_the_version(world):
    installed(world, "node-1", TO, "kubeadm")
    world.machine("cp-1").manifests["kube-apiserver"] = TO

    assert isinstance(Stage(world, "kubeadm.upgrade", "node-1").decide(), Blocked)


def test_api_servers_are_never_two_minors_apart(tmp_path):
    world = SiteWorld(tmp_path / "three", planes=3)
    installed(world, "cp-2", TO, "kubeadm")
    world.machine("cp-3").manifests["kube-apiserver"] = "1.35.0"
    stage = Stage(world, "kubeadm.upgrade", "cp-2")

    found = stage.decide()

    assert isinstance(found, Blocked)
    assert found.why.endswith("to v1.37.2 while the API server of cp-3 is v1.35.0: within one minor is allowed")


def test_an_api_server_whose_version_cannot_be_told_is_in_the_way(tmp_path):
    world = SiteWorld(tmp_path / "three", planes=3)
    installed(world, "node-1", TO, "kubeadm")
    lost(world, "cp-1")

    found = Stage(world, "kubeadm.upgrade", "node-1").decide()

    assert isinstance(found, Blocked)
    assert found.why == "cp-1: the version of its API server cannot be told"


def test_a_worker_whose_kubelet_is_there_needs_no_settings(world):
    stage = Stage(world, "kubeadm.upgrade", "node-1")
    installed(world, "node-1", TO)
    world.machine("node-1").running = TO

    assert stage.decide() == Done("settings are those of v1.37.2")


def test_a_first_control_plane_is_done_only_when_its_kubeadm_ended_well(world):
    upgraded(world, "cp-1")
    assert Stage(world, "kubeadm.upgrade", "cp-1", request={"configuration": ""}).decide() == Needed(
        "its settings to v1.37.2"
    )


def test_a_further_control_plane_that_is_there_is_done(world):
    """The cluster's settings tell that another one led."""
    upgraded(world, "cp-1")
    assert Stage(world, "kubeadm.upgrade", "cp-1").decide() == Done("static pods run v1.37.2")


@pytest.mark.parametrize(
    ("state", "rc", "text"),
    [
        ("running", -1, "kubeadm runs already"),
        ("vanished", -1, "kubeadm was cut short before"),
        ("late", -1, "kubeadm hung before"),
        ("ended", 1, "kubeadm failed before, with 1"),
    ],
)
def test_what_became_of_kubeadm_before_is_said_and_it_is_not_done(world, state, rc, text):
    upgraded(world, "cp-1")
    stage = Stage(world, "kubeadm.upgrade", "cp-1")
    now = {**stage.facts(), "trace": state, "rc": rc}

    assert stage.doing.decide(now, stage.step, {}) == Needed(f"its settings to v1.37.2 ({text})")


@pytest.mark.parametrize(("for_s", "waited_s"), [(30.0, 30.0), (9999.0, 120.0)])
def test_kubeadm_is_started_when_the_api_knows_the_static_pods_that_run(world, for_s, waited_s):
    """It waits until that knowledge changes; longer than it waits itself, nobody waits for it."""
    installed(world, "cp-1", TO, "kubeadm")
    machine, stage, began = world.machine("cp-1"), Stage(world, "kubeadm.upgrade", "cp-1"), world.clock.now()
    machine.faults["mirrors"] = ("etcd",)
    world.site.after(for_s, machine.faults.clear)

    stage.apply()

    waits = [fields["why"] for name, fields in stage.events if name == "gate.waiting"]
    assert set(waits) == {"not of its manifest yet, here or in the API: etcd"}
    assert waited_s <= 2.0 * len(waits) <= waited_s + 4.0
    assert world.clock.now() > began + waited_s


def test_a_kubeadm_that_refuses_is_told_by_its_own_words(world):
    installed(world, "cp-1", TO, "kubeadm")
    world.machine("cp-1").faults["kubeadm"] = "refuses"

    with pytest.raises(CommandFailed, match="CoreDNSUnsupportedPlugins") as caught:
        Stage(world, "kubeadm.upgrade", "cp-1").apply()

    assert caught.value.rc == 1
    assert "kubeadm replaced no manifest" in str(caught.value)
    assert "kube-apiserver v1.36.3" in str(caught.value)


def test_a_worker_whose_kubeadm_fails_is_not_told_to_roll_a_control_plane_back(world):
    upgraded(world, "cp-1")
    installed(world, "node-1", TO, "kubeadm")
    world.machine("node-1").faults["kubeadm"] = "fails late"

    with pytest.raises(CommandFailed, match="kubelet-config") as caught:
        Stage(world, "kubeadm.upgrade", "node-1").apply()

    assert "rollback" not in caught.value.remedy
    assert "now on node-1: no static pods" in str(caught.value)


# ---- kubelet.upgrade --------------------------------------------------------------------------------------------


def ready_for_kubelet(world):
    upgraded(world, "cp-1")
    moved(world, "node-1")
    drained(world, "node-1")


def test_a_kubelet_is_installed_held_and_restarted(world):
    ready_for_kubelet(world)
    stage = Stage(world, "kubelet.upgrade", "node-1")
    assert stage.decide() == Needed("kubelet v1.36.3 to v1.37.2")

    assert stage.apply() == Done("v1.37.2 runs")

    machine = world.machine("node-1")
    assert (machine.running, machine.replaced) == (TO, False)
    assert {machine.packages[name].held for name in ("kubelet", "kubectl")} == {True}
    assert machine.packages["kubeadm"].version == OLD


def test_a_kubelet_that_was_installed_and_not_restarted_does_not_run(world):
    ready_for_kubelet(world)
    installed(world, "node-1", TO)
    world.machine("node-1").replaced = True
    stage = Stage(world, "kubelet.upgrade", "node-1")
    assert stage.decide() == Needed("kubelet v1.36.3 to v1.37.2")

    stage.apply()

    assert world.machine("node-1").running == TO


def test_a_file_that_was_replaced_by_one_of_the_same_version_is_not_what_runs(world):
    ready_for_kubelet(world)
    installed(world, "node-1", TO)
    world.machine("node-1").running, world.machine("node-1").replaced = TO, True

    assert isinstance(Stage(world, "kubelet.upgrade", "node-1").decide(), Needed)


@pytest.mark.parametrize("part", ["manifests", "components"])
def test_a_kubelet_is_never_newer_than_an_api_server(world, part):
    ready_for_kubelet(world)
    getattr(world.machine("cp-1"), part)["kube-apiserver"] = OLD
    stage = Stage(world, "kubelet.upgrade", "node-1")

    found = stage.decide()

    assert isinstance(found, Blocked)
    assert found.why == "node-1: a kubelet v1.37.2 would be newer than the API server of cp-1 (v1.36.3)"
    assert found.until == "2/cp-1/kubeadm.upgrade"


def test_a_kubelet_waits_for_the_api_servers_that_it_may_ask(tmp_path):
    world = SiteWorld(tmp_path / "three", planes=3)
    upgraded(world, "cp-2")
    world.site.change_node("cp-2", unschedulable=True)
    stage = Stage(world, "kubelet.upgrade", "cp-2")
    assert isinstance(stage.decide(), Needed)

    world.machine("cp-2").asks_itself = False

    found = stage.decide()
    assert isinstance(found, Blocked)
    assert found.why.endswith("would be newer than the API server of cp-1 (v1.36.3)")


def test_an_api_server_of_an_unknown_version_counts_as_older(tmp_path):
    world = SiteWorld(tmp_path / "three", planes=3)
    upgraded(world, "cp-1", "cp-2", "cp-3")
    drained(world, "node-1")
    lost(world, "cp-2")

    found = Stage(world, "kubelet.upgrade", "node-1").decide()

    assert isinstance(found, Blocked)
    assert found.why.endswith("the API server of cp-2 (?)")


def test_a_kubelet_is_not_touched_on_a_node_that_takes_pods(world):
    ready_for_kubelet(world)
    world.uncordon("node-1")
    stage = Stage(world, "kubelet.upgrade", "node-1")

    found = stage.decide()

    assert isinstance(found, Blocked)
    assert found.why.startswith("node-1 takes new pods: somebody uncordoned it")
    assert found.until == stage.step.params["drained"]


def test_a_kubelet_is_not_touched_while_pods_are_left(world):
    ready_for_kubelet(world)
    world.site.add_controller("ReplicaSet", "default", "late", 2, on=("node-1",))
    stage = Stage(world, "kubelet.upgrade", "node-1")

    found = stage.decide()

    assert isinstance(found, Blocked)
    assert found.why == "node-1 is not drained: 2 pods are on it, default/late-1, default/late-2"
    assert found.until == stage.step.params["drained"]


def test_a_kubelet_that_runs_needs_no_drained_node(world):
    upgraded(world, "cp-1")
    stage = Stage(world, "kubelet.upgrade", "node-1")
    installed(world, "node-1", TO)
    world.machine("node-1").running = TO

    assert stage.decide() == Done("v1.37.2 runs")


@pytest.mark.parametrize(
    ("running", "replaced", "packages", "version"),
    [
        (OLD, False, {}, OLD),
        (TO, False, dict.fromkeys(("kubeadm", "kubelet", "kubectl"), FakePackage(TO)), TO),
        (OLD, True, {}, ""),
        (OLD, False, {"kubeadm": FakePackage(TO)}, ""),
        (TO, False, {"kubelet": FakePackage(TO)}, ""),
        (OLD, False, {"kubelet": FakePackage(OLD, state="ok unpacked")}, ""),
    ],
)
def test_a_node_is_at_one_version_when_all_of_it_is_there_and_runs(world, running, replaced, packages, version):
    machine = world.machine("node-1")
    machine.running, machine.replaced = running, replaced
    machine.packages |= packages

    assert str(world.site.facts("node-1").at_one or "") == (version and f"v{version}")
