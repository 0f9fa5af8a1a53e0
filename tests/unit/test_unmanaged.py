"""Pods that no controller would bring back."""

import pytest

from orchestrator.cluster.model import Budget, OwnerRef, Pod, Selector, Workload
from orchestrator.cluster.unmanaged import Fate, Kind, unmanaged

NOW = 1_000_000.0
SETS = (
    Workload("ReplicaSet", "default", "web", "r1", None, 1, 1),
    Workload("DaemonSet", "default", "agent", "s1", None, 1, 1),
)
EMPTY_DIR_REFUSAL = "has emptyDir volumes, whose contents are lost (--delete-emptydir-data allows it)"


def pod(name="p", **fields):
    known = {"namespace": "default", "uid": f"uid-{name}", "node": "n1", "phase": "Running", "ready": True}
    return Pod(name=name, **{**known, **fields})


def owner(kind, name, version="apps/v1", uid="other"):
    return OwnerRef(kind, name, version, uid)


def judged(*pods, budgets=()):
    return unmanaged(pods, SETS, budgets, now=NOW)


@pytest.mark.parametrize(
    "subject",
    [
        pod(controller=owner("ReplicaSet", "web", uid="r1")),
        pod(controller=owner("DaemonSet", "agent", uid="s1")),
        pod(phase="Succeeded"),
        pod(phase="Failed", controller=owner("ReplicaSet", "gone")),
    ],
)
def test_pods_that_come_back_or_have_ended_are_left_out(subject):
    assert judged(subject) == ()


@pytest.mark.parametrize(
    ("subject", "kind", "why"),
    [
        (pod(), Kind.NAKED, "no controller"),
        (
            pod(mirror=True, controller=owner("Node", "n1", "v1")),
            Kind.STATIC,
            "static pod: its kubelet runs it from a file on the node",
        ),
        (pod(controller=owner("ReplicaSet", "old")), Kind.ORPHAN, "its ReplicaSet old does not exist any more"),
        (pod(controller=owner("DaemonSet", "agent")), Kind.ORPHAN, "its DaemonSet agent does not exist any more"),
        (pod(controller=owner("Job", "x", "batch/v1")), Kind.ORPHAN, "its Job x does not exist any more"),
        (
            pod(controller=owner("ReplicationController", "x", "v1")),
            Kind.ORPHAN,
            "its ReplicationController x does not exist any more",
        ),
        (
            pod(controller=owner("CloneSet", "x", "apps.example.org/v1")),
            Kind.CUSTOM,
            "run by CloneSet x (apps.example.org/v1), which alone knows whether it comes back",
        ),
        (
            pod(controller=owner("DaemonSet", "x", "apps.example.org/v1")),
            Kind.CUSTOM,
            "run by DaemonSet x (apps.example.org/v1), which alone knows whether it comes back",
        ),
    ],
)
def test_each_is_told_apart(subject, kind, why):
    (found,) = judged(subject)

    assert (found.kind, found.why) == (kind, why)


@pytest.mark.parametrize(
    ("subject", "drain", "forced", "lost"),
    [
        (
            pod(),
            (Fate.REFUSED, "refused: no controller would bring it back (--force allows it)", False),
            (Fate.DELETED, "deleted for good", False),
            (Fate.LOST, "lost for good", False),
        ),
        (
            pod(empty_dir=True),
            (
                Fate.REFUSED,
                f"refused: {EMPTY_DIR_REFUSAL}; no controller would bring it back (--force allows it)",
                False,
            ),
            (Fate.REFUSED, f"refused: {EMPTY_DIR_REFUSAL}", False),
            (Fate.LOST, "lost for good, and the contents of its emptyDir volumes are lost", True),
        ),
        (
            pod(mirror=True, empty_dir=True, controller=owner("Node", "n1", "v1")),
            (Fate.STAYS, "stays: only its kubelet can remove it", False),
            (Fate.STAYS, "stays: only its kubelet can remove it", False),
            (Fate.WITH_NODE, "lost with the node; its kubelet brings it back if the node comes back", False),
        ),
        (
            pod(controller=owner("ReplicaSet", "old")),
            (Fate.DELETED, "deleted for good", False),
            (Fate.DELETED, "deleted for good", False),
            (Fate.LOST, "lost for good", False),
        ),
        (
            pod(controller=owner("DaemonSet", "gone")),
            (Fate.REFUSED, "refused: its DaemonSet does not exist (not found) (--force allows it)", False),
            (Fate.DELETED, "deleted for good", False),
            (Fate.LOST, "lost for good", False),
        ),
        (
            pod(controller=owner("CloneSet", "x", "apps.example.org/v1"), empty_dir=True),
            (Fate.REFUSED, f"refused: {EMPTY_DIR_REFUSAL}", False),
            (Fate.REFUSED, f"refused: {EMPTY_DIR_REFUSAL}", False),
            (
                Fate.OWNER_DECIDES,
                "lost, and the contents of its emptyDir volumes are lost; its owner decides whether a new one is made",
                True,
            ),
        ),
        (
            pod(controller=owner("CloneSet", "x", "apps.example.org/v1")),
            (Fate.OWNER_DECIDES, "evicted; its owner decides whether it comes back", False),
            (Fate.OWNER_DECIDES, "evicted; its owner decides whether it comes back", False),
            (Fate.OWNER_DECIDES, "lost; its owner decides whether a new one is made", False),
        ),
    ],
)
def test_what_becomes_of_each_is_the_drains_own_verdict(subject, drain, forced, lost):
    (found,) = judged(subject)

    assert [(c.fate, c.text, c.data_lost) for c in (found.drain, found.forced, found.lost)] == [drain, forced, lost]


def test_a_pod_under_two_budgets_is_refused_even_with_force():
    budgets = [Budget("default", n, Selector(), allowed=1, healthy=1, needed=0, expected=1) for n in "ab"]

    (found,) = judged(pod(), budgets=budgets)

    assert found.forced.fate is Fate.REFUSED
    assert found.forced.flags == ("--disable-eviction",)
    assert found.drain.flags == ("--force", "--disable-eviction")


def test_they_come_by_node_and_kind():
    static = pod("a", mirror=True, controller=owner("Node", "n1", "v1"))

    found = judged(pod("c", node="n2"), static, pod("b"))

    assert [u.pod.name for u in found] == ["b", "a", "c"]
