"""The way back of one control plane, as a plan."""

from dataclasses import replace

import pytest

from orchestrator.cluster.former import Former
from orchestrator.cluster.versions import parse
from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.errors import ApiUnreachable, LeaseLost, Refused
from orchestrator.planners.rollback import Request, rollback, way_back

OLD = parse("1.36.3")
FILES = {
    "kube-scheduler": "/etc/kubernetes/tmp/kubeadm-backup-manifests-2/kube-scheduler.yaml",
    "kube-apiserver": "/etc/kubernetes/tmp/kubeadm-backup-manifests-1/kube-apiserver.yaml",
}
KEPT = Former(OLD, FILES, None, "")


def plan(kept=KEPT, **changes):
    wish = {
        "name": "back-1",
        "owner": "ann@laptop",
        "planes": ("cp-1", "cp-2"),
        "flags": {"force": False},
        "drain_timeout_s": 60.0,
        "data": "",
        "snapshot": True,
        "etcd": "v3.6.8",
        "settings": True,
    }
    return rollback("cp-1", OLD, kept, Request(**{**wish, **changes}))


def actions(found):
    return [step.action for step in found.steps()]


def test_the_kubelet_goes_first_then_static_pods_then_kubeadm():
    """A kubelet is never newer than its API server."""
    found = plan()

    packages = [step.params["packages"] for step in found.steps() if step.action == "packages.downgrade"]
    order = actions(found)
    assert packages == [["kubelet", "kubectl"], ["kubeadm"]]
    assert order.index("node.drain") < order.index("packages.downgrade") < order.index("kubeadm.rollback")
    assert order.index("kubeadm.rollback") < order.index("cluster.gate") < order.index("node.return")


def test_a_snapshot_comes_before_everything_where_etcd_answers():
    assert actions(plan())[0] == "etcd.snapshot"
    assert "etcd.snapshot" not in actions(plan(snapshot=False))


@pytest.mark.parametrize(("changes", "missing"), [({"settings": False}, "kubeadm.settings")])
def test_what_is_not_asked_for_is_left_out(changes, missing):
    assert missing in actions(plan())
    assert missing not in actions(plan(**changes))


def test_manifests_that_kubeadm_moved_back_itself_are_left_alone():
    assert "kubeadm.rollback" not in actions(plan(kept=None))


def test_the_copy_of_the_data_is_named_in_the_plan():
    [step] = [s for s in plan(data="/etc/kubernetes/tmp/kubeadm-backup-etcd-1/etcd").steps() if "data" in s.params]

    assert (step.params["data"], step.params["manifests"]) == (
        "/etc/kubernetes/tmp/kubeadm-backup-etcd-1/etcd",
        [FILES["kube-apiserver"], FILES["kube-scheduler"]],
    )


def test_ids_are_unique_and_the_node_returns_as_its_cordon_found_it():
    steps = list(plan().steps())

    assert len({step.id for step in steps}) == len(steps)
    [back] = [step for step in steps if step.action == "node.return"]
    assert back.params["cordon"] in {step.id for step in steps if step.action == "node.cordon"}


def test_without_an_api_server_nothing_is_asked_of_it_before_its_static_pods_are_back():
    found = plan(away=True)

    order = actions(found)
    assert not {name for name in order if name.startswith("node.")}
    assert order.index("kubeadm.rollback") < order.index("cluster.gate") < order.index("kubeadm.settings")
    assert all(step.params["without_api"] for step in found.steps())


UPGRADE = Step("1/cp-1/kubeadm.upgrade", "kubeadm.upgrade", "cp-1", {"control_planes": ["cp-1"]}, None)


def upgrading(step=UPGRADE):
    return Plan("upgrade", "upgrade to v1.37.2", (Wave((Lane(step.node, (step,)),)),))


def lost(*, unanswered=True):
    err = LeaseLost("in vain", remedy="look")
    err.unanswered = unanswered
    return err


@pytest.mark.parametrize("err", [lost(), ApiUnreachable("no answer", remedy="wait")])
def test_an_upgrade_that_lost_the_only_api_server_is_told_the_way_back_that_needs_none(err):
    assert way_back(upgrading(), {UPGRADE.id: {}}, err).startswith("orchestrator upgrade rollback cp-1 ")


@pytest.mark.parametrize(
    ("found", "past", "err"),
    [
        (upgrading(), {}, lost()),
        (upgrading(), {UPGRADE.id: {}}, Refused("no", remedy="look")),
        (upgrading(), {UPGRADE.id: {}}, lost(unanswered=False)),
        (upgrading(replace(UPGRADE, node="node-1")), {UPGRADE.id: {}}, lost()),
        (
            upgrading(replace(UPGRADE, params={"control_planes": ["cp-1", "cp-2"]})),
            {UPGRADE.id: {}},
            lost(),
        ),
    ],
    ids=["not begun", "another end", "somebody took it", "a worker", "others serve"],
)
def test_whose_api_server_is_not_the_only_one_or_not_away_is_told_no_such_way(found, past, err):
    assert way_back(found, past, err) == ""
