"""What is not right in a cluster that came back out of a snapshot, and how it is told."""

import json

import msgspec
import pytest

from orchestrator.backup import losses
from orchestrator.backup.contents import Change, Key
from orchestrator.backup.losses import Group, Losses
from orchestrator.cluster.aftermath import Finding, World, findings, moved
from orchestrator.cluster.kubeadm import data_dir, with_data_dir
from orchestrator.cluster.model import Node, OwnerRef, Pod, Workload
from orchestrator.errors import FactUnreadable
from orchestrator.report import bodies, restores
from orchestrator.report.restores import Aftermath, Old

WEB = OwnerRef("ReplicaSet", "web-1", "apps/v1", "rs")


def node(name, **changes):
    return Node(name, "u", "1", **{"unschedulable": False, "ready": True, **changes})


def pod(name, on="n1", *, ready=True, controller=WEB, **changes):
    return Pod("shop", name, f"uid-{name}", on, "Running", ready=ready, controller=controller, **changes)


def workload(kind, name, uid, wanted, ready, controller=None):
    return Workload(kind, "shop", name, uid, controller, wanted, ready)


def world(**changes):
    """One node, and an application of two pods that are well."""
    deployment = workload("Deployment", "web", "d", 2, 2)
    sets = workload("ReplicaSet", "web-1", "rs", 2, 2, OwnerRef("Deployment", "web", "apps/v1", "d"))
    known = {"nodes": (node("n1"),), "pods": (pod("a"), pod("b")), "workloads": (deployment, sets)}
    return World(**{**known, **changes})


def checks(found):
    return [(each.check, each.passes) for each in found]


# ---- what is found ----------------------------------------------------------------------------------------------


def test_nothing_is_found_where_all_is_well():
    assert findings(world()) == ()


AWAY = node("n1", ready=False, ready_reason="NodeStatusUnknown")
WELL = (pod("a"), pod("b"))
LONE = pod("x", ready=False, controller=None)
PULLS = pod("x", ready=False, controller=None, waiting_reason="ImagePullBackOff")
WORKS = pod("x", ready=False, controller=OwnerRef("Job", "j", "batch/v1", "j"))


@pytest.mark.parametrize(
    ("changes", "expected", "says"),
    [
        ({"still": ("kube-scheduler",)}, [("NoLeader", True)], "kube-scheduler"),
        ({"nodes": (AWAY,)}, [("NodeNotReady", True)], "n1 is not Ready (NodeStatusUnknown)"),
        ({"nodes": (node("n1", ready=False),)}, [("NodeNotReady", True)], "n1 is not Ready"),
        ({"silent": frozenset({"n1"})}, [("NodeSilent", True)], "no kubelet has spoken for it"),
        ({"silent": frozenset({"n1"}), "nodes_back": ("n1",)}, [("NodeBack", True)], "did not have it"),
        ({"nodes_back": ("n1",)}, [], ""),
        ({"nodes_lost": ("n2",)}, [("NodeUnknown", False)], "n2 was in the cluster before"),
        ({"nodes_lost": ("n1",)}, [], ""),  # its kubelet has registered it anew
        ({"dead": ("n9",)}, [], ""),  # the snapshot has no node of it
        ({"volumes_back": ("v1",)}, [("VolumesBack", False)], "v1"),
        ({"volumes_lost": tuple("abcdefg")}, [("VolumesLost", False)], "a, b, c, d, e and 2 more"),
        ({"pods": (*WELL, pod("c", "n7"))}, [("PodsOfUnknownNodes", False)], "shop/c"),
        ({"pods": (pod("a"), pod("b", ready=False))}, [("NotBack", True)], "Deployment shop/web (1 of 2)"),
        ({"pods": (pod("a"),)}, [("NotBack", True)], "(1 of 2)"),
        ({"pods": (*WELL, PULLS)}, [("PodsNotReady", True)], "shop/x (ImagePullBackOff)"),
        ({"pods": (*WELL, LONE)}, [("PodsNotReady", True)], "pods are not ready: shop/x"),
        ({"pods": (*WELL, pod("x", ready=False, mirror=True))}, [], ""),
        ({"pods": (*WELL, WORKS)}, [], ""),
    ],
)
def test_what_is_not_right_is_found_and_whether_it_may_pass(changes, expected, says):
    found = findings(world(**changes))

    assert checks(found) == expected
    assert says in " ".join(each.text for each in found)
    assert all(each.remedy for each in found)


def test_a_control_plane_that_was_said_to_be_dead_is_told_what_to_do_with_and_nothing_waits_for_its_pods():
    daemons = workload("DaemonSet", "proxy", "p", 2, 1)
    of = OwnerRef("DaemonSet", "proxy", "apps/v1", "p")
    pods = (
        pod("p1", controller=of),
        pod("p2", "cp-3", ready=False, controller=of),
        pod("x", "cp-3", ready=False, controller=None),
    )

    found = findings(World((node("n1"), node("cp-3", ready=False)), pods, (daemons,), dead=("cp-3",)))

    assert checks(found) == [("NodeDead", False), ("NotBack", False), ("PodsNotReady", False)]
    assert "kubectl delete node cp-3" in found[0].remedy
    assert "wiped" in found[0].remedy
    assert "DaemonSet shop/proxy (1 of 2, 1 on nodes that nobody can hear)" in found[1].text


def test_who_renewed_a_lease_between_two_looks_is_there_whatever_its_clock_says():
    assert moved({"a": 5.0, "b": 5.0, "c": None}, {"a": 9.0, "b": 5.0, "c": 1.0, "d": 3.0, "e": None}) == {"a", "c"}


# ---- kubeadm's settings -----------------------------------------------------------------------------------------

CONFIGURATION = """apiServer: {}
# a remark
etcd:
  local:
    dataDir: /var/lib/etcd
kubernetesVersion: v1.36.3
"""


@pytest.mark.parametrize(
    ("configuration", "path"),
    [
        (CONFIGURATION, "/var/lib/etcd"),
        ("etcd: {local: {}}", "/var/lib/etcd"),
        ("kubernetesVersion: v1", "/var/lib/etcd"),
        ("etcd: {external: {endpoints: []}}", ""),
        ("", ""),
        ("{", ""),
    ],
)
def test_the_data_directory_that_kubeadm_has(configuration, path):
    assert data_dir(configuration) == path


def test_another_data_directory_changes_one_line_of_the_settings():
    changed = with_data_dir(CONFIGURATION, "/var/lib/new")

    assert changed == CONFIGURATION.replace("/var/lib/etcd", "/var/lib/new")


@pytest.mark.parametrize("text", ["etcd: {local: {}}", f"{CONFIGURATION}x:\n  dataDir: /y\n", "a:\n  dataDir: /y\n"])
def test_settings_that_name_it_elsewhere_are_left_to_a_person(text):
    with pytest.raises(FactUnreadable, match="dataDir") as caught:
        with_data_dir(text, "/new")

    assert "kubectl -n kube-system edit configmap kubeadm-config" in caught.value.remedy


# ---- what was lost ----------------------------------------------------------------------------------------------


def change(what, kind, name, namespace="shop"):
    before, after = {"lost": (5, 0), "back": (0, 5), "different": (4, 5)}[what]
    return Change(Key(kind, "", kind.lower(), namespace, name), before, after)


def test_differences_are_counted_by_kind_and_namespace_with_the_first_names_and_without_routine():
    changes = [
        *(change("lost", "Secret", f"s{n}") for n in range(9)),
        change("back", "Deployment", "web"),
        change("different", "ConfigMap", "c"),
        change("different", "Pod", "web-1"),
        change("different", "Node", "n1", ""),
        change("lost", "Lease", "n1", "kube-node-lease"),
        change("lost", "Event", "e"),
        change("lost", "Node", "n2", ""),
        change("back", "PersistentVolume", "v", ""),
    ]

    found = losses.told(changes, "prod-1", 70)

    assert [(g.fate, g.kind, g.namespace, g.objects) for g in found.groups] == [
        ("lost", "Node", "", 1), ("lost", "Secret", "shop", 9),
        ("back", "Deployment", "shop", 1), ("back", "PersistentVolume", "", 1),
        ("different", "ConfigMap", "shop", 1),
    ]  # fmt: skip
    assert found.groups[1].names == ("s0", "s1", "s2", "s3", "s4")
    assert (found.routine, found.total("lost")) == (4, 10)
    assert (found.nodes, found.volumes) == ({"lost": ("n2",)}, {"back": ("v",)})
    assert losses.decode(losses.encode(found), "x") == found


def test_a_damaged_comparison_is_not_taken_for_an_empty_one():
    with pytest.raises(FactUnreadable, match="there cannot be read"):
        losses.decode(b"{", "there")


# ---- how it is told ---------------------------------------------------------------------------------------------

KNOWN = Losses(
    before="prod-9",
    before_revision=900,
    groups=(
        Group(fate="lost", kind="Secret", namespace="shop", objects=9, names=("s0", "s1")),
        *(Group(fate="back", kind=f"K{n:02}", namespace="", objects=1, names=("x",)) for n in range(25)),
    ),
    routine=7,
)


def aftermath(**changes):
    known = {
        "run": "restore-1", "snapshot": "prod-7", "losses": KNOWN, "diff": "orchestrator etcd diff prod-9 prod-7",
        "findings": (Finding("NodeDead", "cp-3 is dead", "kubectl delete node cp-3"),),
        "old": (Old("cp-1", "/var/lib/etcd.before-restore-1", 5_000_000), Old("cp-2", "", why="cp-2: no connection")),
    }  # fmt: skip
    return Aftermath(**{**known, **changes})


def test_people_are_told_what_was_lost_what_to_look_at_and_both_ways_on():
    said = restores.text(aftermath())

    assert "The state before is kept: prod-9, revision 900." in said
    assert "LOST: the state before had them" in said
    assert "Secret  shop       9        s0, s1 and 7 more" in said
    assert "... and 5 more kinds and namespaces" in said
    assert "DIFFERENT" not in said
    assert "not shown: 7 of routine" in said
    assert "all of it: orchestrator etcd diff prod-9 prod-7 --all" in said
    assert "cp-3 is dead" in said
    assert "    kubectl delete node cp-3" in said
    assert "cp-1  /var/lib/etcd.before-restore-1  5.0 MB" in said
    assert "cp-2: no connection" in said
    assert "orchestrator etcd restore --confirm restore-1" in said
    assert "orchestrator release restore-1" in said
    assert max(map(len, said.splitlines())) <= 110


def test_an_old_state_that_is_not_known_is_said_to_be_so():
    said = restores.text(aftermath(losses=Losses(unknown="no member answered"), findings=(), diff=""))

    assert "The state before is not known: no member answered. What was lost cannot be told." in said
    assert "Nodes, pods and their controllers are back." in said
    assert "diff" not in said


def test_one_that_could_not_be_compared_is_named():
    said = restores.text(aftermath(losses=Losses(before="prod-9", unknown="page 3 is damaged"), diff=""))

    assert "not known (snapshot prod-9): page 3 is damaged" in said


def test_where_nothing_differs_and_no_old_data_are_left_nothing_is_offered():
    said = restores.text(aftermath(losses=Losses(before="prod-9"), old=(Old("cp-1", ""),), diff=""))

    assert "Nothing of it was lost, and nothing came back" in said
    assert "cp-1  none   -" in said
    assert "--confirm" not in said


def test_programs_get_the_same():
    body = bodies.body(restores.document(aftermath()))

    assert json.loads(msgspec.json.encode(body)) == body
    assert (body["before"], body["beforeRevision"], body["lost"], body["back"], body["routine"]) == (
        "prod-9",
        900,
        9,
        25,
        7,
    )
    assert body["oldData"][0] == {
        "node": "cp-1", "path": "/var/lib/etcd.before-restore-1", "sizeBytes": 5_000_000, "why": "",
    }  # fmt: skip
    assert body["oldData"][1]["path"] is None
    assert body["findings"] == [{"check": "NodeDead", "text": "cp-3 is dead", "remedy": "kubectl delete node cp-3"}]
