"""Upgrades on a cluster with hosts in memory that meet faults, and people who act in between."""

from types import SimpleNamespace

import pytest

from orchestrator.engine.runner import Stop
from orchestrator.errors import (
    CommandFailed,
    CommandTimedOut,
    CommandVanished,
    HostError,
    Interrupted,
    Locked,
    OrchestratorError,
    Refused,
)
from orchestrator.site import FRESH_S
from tests.fakes.crash import Crash
from tests.fakes.site_machines import LIST
from tests.fakes.site_world import At, SiteWorld

TO = "1.37.2"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "world"


def killed_after(world, plan, what):
    """The world after a run that died right after an effect."""
    with pytest.raises(Crash):
        world.start(plan, life=At(what))


# ---- what fails -------------------------------------------------------------------------------------------------


def stopped(world, kind, plan=None, **how):
    """The error of a run that does not come to its end."""
    with pytest.raises(kind) as raised:
        world.start(plan or world.upgrade(TO), **how)
    assert world.site.rules.broken == []
    return raised.value


def mended_after(world, node, fault):
    """The world after a run that a kubeadm of that node stopped, which would not fail any more."""
    world.machine(node).faults["kubeadm"] = fault
    stopped(world, CommandFailed)
    world.machine(node).faults.clear()


def test_a_kubeadm_that_fails_stops_the_run_and_its_state_is_told(root):
    world = SiteWorld(root)
    world.machine("cp-1").faults["kubeadm"] = "fails"

    err = stopped(world, CommandFailed)

    assert "cp-1: `kubeadm upgrade apply` ended with 1" in str(err)
    assert "static Pod hash did not change" in str(err)
    assert (
        "replaced etcd.yaml, kube-apiserver.yaml, kube-controller-manager.yaml and moved them back, but for etcd.yaml"
        in str(err)
    )
    assert "kubeadm-backup-manifests-2026-11-23/kube-apiserver.yaml" in str(err)
    assert "now on cp-1: etcd v3.7.0; kube-apiserver v1.36.3; kube-controller-manager v1.36.3" in str(err)
    assert err.remedy.splitlines()[0].startswith("orchestrator resume run-1")
    assert "orchestrator upgrade rollback cp-1" in err.remedy
    assert "orchestrator release run-1 && orchestrator upgrade apply --to 1.37.2 " in err.remedy
    assert "it alone works while the API is away" in err.remedy
    assert set(world.order("cordon")) == set()


def test_after_a_kubeadm_that_failed_was_mended_the_run_goes_on(root):
    world = SiteWorld(root)
    world.machine("cp-1").faults["kubeadm"] = "fails"
    stopped(world, CommandFailed)

    with pytest.raises(CommandFailed):
        world.resume()
    world.machine("cp-1").faults.clear()
    world.resume()

    assert world.shortcomings(TO) == []
    assert world.started("cp-1").count("kubeadm.upgrade") == 3


@pytest.mark.parametrize("node", ["cp-2", "node-1"])
def test_a_kubeadm_that_fails_in_its_last_phase_is_run_again(root, node):
    """Its static pods are new by then: that alone does not make it done."""
    world = SiteWorld(root, planes=3, workers=1)
    mended_after(world, node, "fails late")

    world.resume()

    assert world.shortcomings(TO) == []
    assert world.started(node).count("kubeadm.upgrade") == 2


def test_a_node_is_not_drained_while_its_kubeadm_goes_on(root):
    """The process dies while it runs, and comes back when the static pods are new, but kubeadm has more to do."""
    world = SiteWorld(root, planes=3, workers=1)
    plan, machine = world.upgrade(TO), world.machine("cp-3")
    kubeadm = next(s.id for s in plan.steps() if (s.action, s.node) == ("kubeadm.upgrade", "cp-3"))
    killed_after(world, plan, ("start", "cp-3", kubeadm))
    world.cluster.pass_time(35.0)
    assert (machine.working("kubeadm"), machine.components["kube-scheduler"]) == (True, TO)
    at_work = []

    world.resume(life=At(("cordon", "cp-3"), lambda: at_work.append(machine.working("kubeadm"))))

    assert at_work == [False]
    assert world.shortcomings(TO) == []


def test_a_kubeadm_that_hangs_is_ended_and_the_run_stops_with_the_state(root):
    world = SiteWorld(root)
    world.machine("cp-1").faults["kubeadm"] = "hangs"

    err = stopped(world, CommandTimedOut)

    told = "\n".join(err.__notes__)
    assert "kubeadm did not end within 1800 s (--kubeadm-timeout)" in told
    assert "kubeadm replaced etcd.yaml, kube-apiserver.yaml, kube-controller-manager.yaml" in told
    assert "kube-controller-manager v1.36.3 (manifest v1.37.2)" in told
    world.machine("cp-1").faults.clear()
    world.resume()
    assert world.shortcomings(TO) == []


@pytest.mark.parametrize("fault", ["refuses", "lock", "disk"])
@pytest.mark.parametrize(("node", "step"), [("cp-1", "packages.install"), ("node-1", "kubelet.upgrade")])
def test_an_apt_that_fails_stops_the_run_with_its_words_holds_back_and_resuming_goes_on(root, fault, node, step):
    world = SiteWorld(root)
    machine = world.machine(node)
    before = next(s.id for s in world.upgrade(TO).steps() if (s.action, s.node) == (step, node))
    begins = (
        ("write", node, LIST)
        if step == "packages.install"
        else ("start", node, before.replace(step, "kubeadm.upgrade"))
    )
    life = At(begins, lambda: machine.faults.update(apt=fault))

    err = stopped(world, CommandFailed, life=life)

    words = {"refuses": "not signed", "lock": "Could not get lock", "disk": "No space left on device"}
    assert words[fault] in str(err)
    assert str(err).startswith(f"{node}: ")
    assert all(p.held for p in machine.packages.values())
    assert machine.running == "1.36.3"
    machine.faults.clear()
    world.resume()
    assert world.shortcomings(TO) == []


def test_an_apt_that_hangs_is_ended_with_holds_back_and_resuming_goes_on(root):
    world = SiteWorld(root)
    machine = world.machine("node-1")
    life = At(("evict", "default/web-1"), lambda: machine.faults.update(apt="hangs"))

    err = stopped(world, CommandTimedOut, life=life)

    assert "orchestrator resume run-1" in err.remedy
    assert all(p.held for p in machine.packages.values())
    machine.faults.clear()
    world.resume()
    assert world.shortcomings(TO) == []


def test_a_host_that_loses_power_in_the_middle_is_done_again_when_it_is_back(root):
    world = SiteWorld(root)
    machine = world.machine("node-1")

    def power_cut():
        world.cluster.after(3.5, machine.power_off)
        world.cluster.after(60.0, machine.power_on)

    err = stopped(world, CommandVanished, life=At(("start", "node-1", "3/node-1/kubelet.upgrade"), power_cut))

    assert "node-1" in str(err)
    assert err.remedy.endswith("`orchestrator resume run-1`, which does it again")
    assert not machine.packages["kubelet"].held
    world.resume()
    assert world.shortcomings(TO) == []
    assert machine.started["upgrade-1", "3/node-1/kubelet.upgrade"] == 2


def test_a_control_plane_that_loses_power_under_kubeadm_is_told_with_its_state_and_done_again(root):
    world = SiteWorld(root, planes=3, workers=1)
    machine = world.machine("cp-2")

    def power_cut():
        world.cluster.after(15.0, machine.power_off)
        world.cluster.after(20.0, machine.power_on)

    err = stopped(world, CommandVanished, life=At(("start", "cp-2", "1/cp-2/kubeadm.upgrade"), power_cut))

    assert err.__notes__[0].startswith("kubeadm replaced etcd.yaml, kube-apiserver.yaml and did not move them back")
    assert "kube-apiserver does not run (manifest v1.37.2)" in err.__notes__[0]
    assert "kube-scheduler does not run (manifest v1.36.3)" in err.__notes__[0]
    assert err.remedy.splitlines()[0].startswith("orchestrator resume run-1")
    world.resume()
    assert world.shortcomings(TO) == []


def test_a_host_that_stays_away_stops_the_run_and_nothing_else_is_touched(root):
    world = SiteWorld(root)
    machine = world.machine("node-1")
    life = At(("cordon", "node-1"), machine.power_off)

    err = stopped(world, HostError, life=life)

    assert "node-1" in str(err)
    assert world.site.nodes["node-2"].unschedulable is False
    machine.power_on()
    world.cluster.pass_time(10)
    world.resume()
    assert world.shortcomings(TO) == []


@pytest.mark.parametrize("step", ["2/node-1/packages.install", "3/node-1/kubeadm.upgrade", "3/node-1/kubelet.upgrade"])
def test_a_network_that_is_cut_in_the_middle_of_a_command_neither_ends_nor_repeats_it(root, step):
    world = SiteWorld(root)
    machine = world.machine("node-1")

    def cut():
        machine.cut = True
        world.cluster.after(60.0, lambda: setattr(machine, "cut", False))

    world.start(world.upgrade(TO), life=At(("start", "node-1", step), cut))

    assert world.shortcomings(TO) == []
    assert set(machine.started.values()) == {1}


# ---- etcd -----------------------------------------------------------------------------------------------------------

LOST = "member cp-1 does not answer: 1 of 3 members of etcd would be left, and 2 are needed"


def lose_during(world, node, for_s):
    """The member of the first control plane is lost when that node was just cordoned."""

    def lose():
        world.machine("cp-1").gone(["etcd"], 0.0, for_s)
        world.cluster.pass_time(FRESH_S)

    return At(("cordon", node), lose)


@pytest.mark.parametrize("node", ["cp-2", "cp-3"])
def test_a_member_that_was_lost_since_the_run_stopped_keeps_kubeadm_from_the_next_one(root, node):
    """The gate before that node was passed before."""
    world = SiteWorld(root, planes=3, workers=1)
    mended_after(world, node, "fails")
    world.cluster.pass_time(60)
    world.machine("cp-1").gone(["etcd"], 0.0, 3600.0)
    began = len(world.effects)

    with pytest.raises(Refused) as raised:
        world.resume()
    assert str(raised.value).startswith(f"{node}: its etcd has to restart, but {LOST}")
    assert "etcd replace-member" in raised.value.remedy
    assert [effect for effect in world.effects[began:] if effect[0] == "start"] == []
    world.cluster.pass_time(3600)
    world.resume()

    assert world.site.rules.broken == []
    assert world.shortcomings(TO) == []


def test_a_member_that_is_lost_during_a_drain_keeps_the_kubelet_from_being_replaced(root):
    world = SiteWorld(root, planes=3, workers=1)

    err = stopped(world, Refused, life=lose_during(world, "cp-2", 3600.0))

    assert str(err).startswith(f"cp-2: its etcd has to restart, but {LOST}")
    assert world.machine("cp-2").packages["kubelet"].version == "1.36.3"
    world.cluster.pass_time(3600)
    world.resume()
    assert world.shortcomings(TO) == []


def test_a_member_that_is_away_for_a_moment_is_waited_for(root):
    world = SiteWorld(root, planes=3, workers=1)

    world.start(world.upgrade(TO), life=lose_during(world, "cp-2", 20.0))

    assert world.site.rules.broken == []
    assert world.shortcomings(TO) == []


def test_who_asks_it_to_stop_while_it_waits_for_a_member_is_heard_at_once(root):
    world = SiteWorld(root, planes=3, workers=1)
    stop, waits = Stop(), []

    def emit(event):
        if event.name == "gate.waiting" and "1 of 3 members" in event.fields["why"]:
            waits.append(event)
            stop.request()

    with pytest.raises(Interrupted, match="stopped as asked, while it waited"):
        world.start(
            world.upgrade(TO), life=lose_during(world, "cp-2", 3600.0), stop=stop, sink=SimpleNamespace(emit=emit)
        )

    assert len(waits) == 1
    assert world.machine("cp-2").packages["kubelet"].version == "1.36.3"


def test_a_whole_control_plane_that_is_lost_during_a_drain_is_told_as_a_lost_member(root):
    world = SiteWorld(root, planes=3, workers=1)

    def lose():
        world.machine("cp-1").power_off()
        world.cluster.pass_time(FRESH_S)

    err = stopped(world, Refused, life=At(("cordon", "cp-2"), lose))

    assert str(err).startswith(f"cp-2: its etcd has to restart, but {LOST}")
    world.machine("cp-1").power_on()
    world.cluster.pass_time(120)
    world.resume()
    assert world.shortcomings(TO) == []


def test_where_no_member_tells_how_it_is_none_is_restarted(root):
    world = SiteWorld(root, planes=3, workers=1)

    def silence():
        for machine in world.site.planes():
            machine.faults["etcd"] = "mute"
        world.cluster.pass_time(FRESH_S)

    err = stopped(world, Refused, life=At(("cordon", "cp-2"), silence))

    assert str(err).startswith("cp-2: its etcd has to restart, but no member of etcd tells how it is")
    for machine in world.site.planes():
        machine.faults.clear()
    world.resume()
    assert world.shortcomings(TO) == []


# ---- people -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "time"), [(("cordon", "node-1"), 1), (("evict",), 2)])
def test_a_node_that_somebody_uncordons_in_the_middle_is_never_upgraded_undrained(root, effect, time):
    """The run stops; resuming it cordons and drains again."""
    world = SiteWorld(root)
    life = At(effect, lambda: world.uncordon("node-1"), time=time)

    err = stopped(world, OrchestratorError, life=life)

    assert str(err).startswith("node-1")
    assert "takes new pods" in str(err)
    assert world.machine("node-1").packages["kubelet"].version == "1.36.3"
    world.resume()
    assert world.shortcomings(TO) == []


def test_a_node_that_was_uncordoned_while_the_run_was_dead_is_drained_again(root):
    world = SiteWorld(root)
    killed_after(world, world.upgrade(TO), ("evict",))
    world.cluster.pass_time(60)
    with pytest.raises(Crash):
        world.resume(life=At(("evict",)))
    world.uncordon("node-1")
    world.cluster.add_controller("ReplicaSet", "default", "late", 1, on=("node-1",))
    world.cluster.pass_time(30)

    world.resume()

    assert world.shortcomings(TO) == []
    assert world.effects.count(("cordon", "node-1")) == 2


def test_a_second_run_is_refused_while_the_first_is_at_work(root):
    world = SiteWorld(root)
    refusals = []

    def another():
        effects, hands = list(world.effects), world.hands
        life = world.leases.life
        with pytest.raises(Locked) as raised:
            world.start(world.upgrade(TO, name="upgrade-2"), run="run-2", holder="bob@desk")
        refusals.append(str(raised.value))
        assert world.effects == effects
        world.hands, world.leases.life = hands, life

    world.start(world.upgrade(TO), life=At(("start", "cp-1", "2/cp-1/kubeadm.upgrade"), another))

    assert world.shortcomings(TO) == []
    assert len(refusals) == 1
    assert "ann@laptop holds the cluster with run run-1" in refusals[0]


def test_a_repository_that_lacks_the_version_on_one_node_stops_the_run_before_anything_is_touched(root):
    world = SiteWorld(root)
    world.machine("node-2").offers["1.37"] = ("1.37.1",)
    before = {name: m.packages for name, m in world.site.machines.items()}

    err = stopped(world, CommandFailed)

    assert str(err).startswith("node-2: ")
    assert world.order("cordon", "write") == []
    assert {name: m.packages for name, m in world.site.machines.items()} == before
    world.machine("node-2").offers["1.37"] = ("1.37.2",)
    world.resume()
    assert world.shortcomings(TO) == []


def test_a_repository_that_loses_the_version_later_stops_the_run_with_no_node_out_of_service(root):
    """The next worker is made ready while this one is worked at, which comes to its end all the same."""
    world = SiteWorld(root)
    offered = world.machine("node-2").offers["1.37"]
    life = At(("start", "cp-1", "2/cp-1/kubeadm.upgrade"), lambda: world.machine("node-2").offers.update({"1.37": ()}))

    err = stopped(world, CommandFailed, life=life)
    assert str(err).startswith("node-2: ")
    assert {node for effect, node, *_ in world.effects if effect == "cordon"} <= {"cp-1", "node-1"}
    assert not [node.name for node in world.cluster.nodes.values() if node.unschedulable]

    world.machine("node-2").offers["1.37"] = offered
    world.resume()
    assert world.shortcomings(TO) == []


def test_a_repository_that_loses_the_version_of_what_is_there_stops_nothing(root):
    world = SiteWorld(root)
    life = At(("cordon", "node-2"), lambda: world.machine("node-2").offers.update({"1.37": ()}))

    world.start(world.upgrade(TO), life=life)

    assert world.shortcomings(TO) == []


def test_a_static_pod_that_somebody_took_back_in_the_middle_is_upgraded_again(root):
    """What is done is looked at, and not remembered: neither by the run nor by the command that ended well."""
    world = SiteWorld(root, workers=1)
    machine = world.machine("cp-1")
    killed_after(world, world.upgrade(TO), ("start", "cp-1", "2/cp-1/kubeadm.upgrade"))
    world.cluster.pass_time(200)
    machine.manifests["kube-scheduler"] = machine.components["kube-scheduler"] = "1.36.3"

    world.resume()

    assert world.shortcomings(TO) == []


def test_a_hold_that_somebody_takes_away_in_the_middle_is_put_back(root):
    world = SiteWorld(root, workers=1)
    machine = world.machine("node-1")
    killed_after(world, world.upgrade(TO), ("start", "node-1", "3/node-1/kubelet.upgrade"))
    world.cluster.pass_time(200)
    machine.packages["kubelet"].held = False

    world.resume()

    assert world.shortcomings(TO) == []
