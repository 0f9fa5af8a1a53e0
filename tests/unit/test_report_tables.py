"""A cluster at a glance, pods without a controller, and a doctor's findings, as people and programs see them."""

import json

import msgspec
import pytest

from orchestrator.cluster.checkup import Credentials, Finding, Level
from orchestrator.cluster.model import (
    Budget,
    CordonRecord,
    FieldManager,
    Node,
    OwnerRef,
    Pod,
    Selector,
    Taint,
    Workload,
)
from orchestrator.cluster.overview import Backup, Status, overview
from orchestrator.cluster.unmanaged import UnmanagedPods, unmanaged
from orchestrator.report import bodies, shapes, tables
from orchestrator.report.text import WIDTH, ago, columns, count, limited, names

NOW = 1_795_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR
ROLE = {"node-role.kubernetes.io/control-plane": ""}
TAINT = Taint("node-role.kubernetes.io/control-plane", "", "NoSchedule")
WEB = Workload("Deployment", "shop", "web", "d1", None, wanted=3, ready=2)
WEB_SET = Workload("ReplicaSet", "shop", "web-7d", "r1", OwnerRef("Deployment", "web", "apps/v1", "d1"), 3, 2)
OF_WEB = OwnerRef("ReplicaSet", "web-7d", "apps/v1", "r1")


def node(name="w1", **fields):
    known = {"unschedulable": False, "ready": True, "kubelet_version": "v1.36.3", "ready_since": NOW - 5 * HOUR}
    return Node(name, f"uid-{name}", "1", **{**known, **fields})


def pod(name="web-1", **fields):
    known = {"namespace": "shop", "uid": f"uid-{name}", "node": "w1", "phase": "Running", "ready": True}
    return Pod(name=name, **{**known, "controller": OF_WEB, "labels": {"app": "web"}, **fields})


def budget(name="web", **fields):
    known = {"allowed": 0, "healthy": 2, "needed": 2, "expected": 3, "rule": "minAvailable: 2"}
    return Budget("shop", name, **{"selector": Selector({"app": "web"}), **known, **fields})


def etcd(on, *, ready=True):
    owner = OwnerRef("Node", on, "v1", f"uid-{on}")
    return pod(
        f"etcd-{on}", namespace="kube-system", node=on, ready=ready, mirror=True, controller=owner,
        labels={"component": "etcd"},
    )  # fmt: skip


def status(nodes=(), pods=(), budgets=(), workloads=(), *, version="v1.36.3", answers=None, **reached):
    seen = overview(nodes, pods, budgets, workloads, server_version=version, etcd_answers=answers)
    known = {"serving_end": None, "credentials": Credentials("none", None), "context": "prod"}
    return Status(server="https://10.0.0.1:6443", at=NOW, seen=seen, **{**known, **reached})


def shown(found, *, everything=False):
    return tables.status(found, everything=everything)


def flat(text):
    """In one line, so that it does not matter where it is wrapped."""
    return " ".join(text.split())


def test_an_empty_cluster_is_told_without_empty_sections():
    text = shown(status(context="", version=""))

    assert "cluster       https://10.0.0.1:6443 (context in-cluster)" in text
    assert "API server    version unknown" in text
    assert "nodes         0: 0 ready, 0 can take workloads" in text
    assert "kubelets      none" in text
    assert "ATTENTION" not in text
    assert "APPLICATIONS" not in text


@pytest.mark.parametrize(
    ("backup", "text"),
    [
        (Backup(), "last backup none known here"),
        (Backup("prod-20270115T090000Z-r7", NOW - 7200), "last backup 2 h ago, prod-20270115T090000Z-r7"),
        (Backup(unread="/x cannot be read"), "last backup not known: /x cannot be read"),
    ],
)
def test_the_last_backup_is_told_with_its_age_and_name(backup, text):
    assert text in flat(shown(status(backup=backup)))


def test_the_head_counts_what_there_is():
    text = flat(
        shown(
            status(
                [node("w1"), node("w2", ready=False, unschedulable=True), node("cp1", labels=ROLE)],
                [pod("a"), pod("b", node="w2"), pod("naked", controller=None), etcd("cp1")],
                workloads=(WEB, WEB_SET),
                answers=True,
            )
        )
    )

    assert "nodes 3: 2 ready, 1 not ready, 1 cordoned, 2 can take workloads" in text
    assert "kubelets v1.36.3 on 3 nodes" in text
    assert "applications 2 on 2 nodes (1 Deployment, 1 pod without a controller), 0 of them in kube-system" in text
    assert "also 1 static pod" in text
    assert "1 of 1 member pod ready, the API server's own check passes" in text


@pytest.mark.parametrize(
    ("kubelet", "note", "attention"),
    [
        ("v1.36.9", "v1.36.9 on 1 node", ""),
        ("v1.37.0", "(newer than the API server)", "kubelet v1.37.0 is newer than the API server: not supported"),
        ("v1.30.0", "(too old for the API server)", "kubelet v1.30.0 is too old for the API server: not supported"),
        ("", "unknown on 1 node (whether it fits the API server is not known)", ""),
    ],
)
def test_kubelets_outside_the_skew_are_noted_and_need_attention(kubelet, note, attention):
    text = flat(shown(status([node(kubelet_version=kubelet)])))

    assert note in text
    assert attention in text
    assert ("ATTENTION" in text) == bool(attention)


def test_nodes_that_need_attention_say_since_when_by_whom_and_why():
    record = CordonRecord("jo@desk", "disk", "drain-1", NOW - 2 * DAY)
    text = flat(
        shown(
            status(
                [
                    node("w1", ready=False, ready_reason="KubeletStopped", ready_since=NOW - 600),
                    node("w2", unschedulable=True, cordon=record),
                    node("w3", unschedulable=True, cordoned_by=FieldManager("kubectl-cordon", None)),
                    node("w4", ready=False, ready_reason="no Ready condition", ready_since=None),
                ]
            )
        )
    )

    assert "node w1 is not ready for 10 min (KubeletStopped)" in text
    assert "node w2 is cordoned by jo@desk (disk) for 2 d" in text
    assert "node w3 is cordoned, no owner recorded (probably by kubectl-cordon)" in text
    assert "node w4 is not ready (no Ready condition)" in text


def test_budgets_that_allow_nothing_and_pods_that_are_not_ready_need_attention():
    sick = pod("b", ready=False, ready_since=NOW - 90, waiting_reason="CrashLoopBackOff")
    text = flat(shown(status([node()], [pod("a"), sick], [budget()], (WEB, WEB_SET))))

    assert "budget shop/web (minAvailable: 2) allows no eviction" in text
    assert "not ready: b" in text or "not ready: shop/b" in text
    assert "pod shop/b on w1 is not ready for 90 s (CrashLoopBackOff)" in text


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"node": "", "phase": "Pending", "waiting_reason": "Unschedulable"},
            "pod shop/b (no node) is not ready (Unschedulable)",
        ),
        ({"deleting_since": NOW - 5, "waiting_reason": "x"}, "pod shop/b on w1 is not ready (terminating)"),
        ({"created": NOW - 4 * HOUR}, "pod shop/b on w1 is not ready for 4 h"),
    ],
)
def test_a_pod_that_is_not_ready_says_what_it_knows(fields, line):
    assert line in flat(shown(status([node()], [pod("b", ready=False, **fields)])))


def test_budgets_that_overlap_are_told_with_what_that_means():
    text = flat(shown(status([node()], [pod("a")], [budget("x", allowed=1), budget("y", allowed=1)])))

    assert "budgets x and y of shop cover the same 1 pod: the API can evict no such pod (shop/a)" in text


def test_a_failing_etcd_needs_attention_and_a_missing_member_is_named():
    control_planes = [node(f"cp{i}", labels=ROLE, roles=("control-plane",)) for i in (1, 2, 3)]
    text = flat(shown(status(control_planes, [etcd("cp1"), etcd("cp2", ready=False)], answers=False)))

    assert "1 of 2 member pods ready, no member on cp3, the API server's own check fails" in text
    assert "etcd is failing" in text or "etcd is degraded" in text


@pytest.mark.parametrize(
    ("reached", "line"),
    [
        ({}, "API server's end is not known from here; no credentials of yours"),
        (
            {"serving_end": NOW + 90 * DAY, "credentials": Credentials("token", None)},
            "(in 90 d); your token's end is not known from here",
        ),
        (
            {"serving_end": NOW - 3 * DAY, "credentials": Credentials("client certificate", NOW + 3 * HOUR)},
            "API server's ended 2026-11-15 (3 d ago); your client certificate ends 2026-11-18 (in 3 h)",
        ),
        ({"credentials": Credentials("token", NOW, renews=True)}, "your token is renewed by its plugin"),
    ],
)
def test_the_ends_of_certificates_are_told_or_said_to_be_unknown(reached, line):
    assert line in flat(shown(status(**reached)))


def test_the_tables_say_what_nodes_and_applications_are():
    found = status(
        [node("w1", roles=("a", "b")), node("w2", ready=False, ready_since=None, kubelet_version="")],
        [pod("a"), pod("b")],
        workloads=(WEB, WEB_SET),
    )
    lines = [" ".join(line.split()) for line in shown(found).splitlines()]

    assert "NAME ROLES STATE FOR KUBELET PODS APPS TAKES WORKLOADS" in lines
    assert "w1 a,b ready 5 h v1.36.3 2 1 yes" in lines
    assert any(line.startswith("w2 - NOT READY ? ? 0 0 no: not ready") for line in lines)
    assert "shop Deployment web 2/3 w1" in lines
    assert "EMPTY NODES" in lines


def test_why_pods_are_on_a_control_plane_is_told():
    control_plane = node("cp1", labels=ROLE, roles=("control-plane",), taints=(TAINT,))
    text = flat(shown(status([control_plane], [etcd("cp1"), pod("a", node="cp1")])))

    assert "WHY PODS ARE ON CONTROL PLANES" in text
    assert "cp1: static: run by the kubelet itself: 1 pod (kube-system/etcd-cp1)" in text
    assert "cp1: does not tolerate the taint" in text


def test_of_many_rows_those_that_matter_come_first_and_the_rest_is_counted():
    nodes = [node(f"w{i:03}") for i in range(tables.ROWS + 5)] + [node("z-sick", ready=False)]
    short, full = shown(status(nodes)), shown(status(nodes), everything=True)

    assert "z-sick" in short.partition("NODES\n")[2].splitlines()[1]
    assert "... and 6 more (--all shows them)" in short
    assert "(--all shows them)" not in full
    assert f"w{tables.ROWS + 4:03}" in full


# ---- documents ------------------------------------------------------------------------------------------------


def full_status():
    control_plane = node("cp1", labels=ROLE, roles=("control-plane",), taints=(TAINT,))
    cordoned = node("w2", unschedulable=True, cordon=CordonRecord("jo", "disk", "drain-1", NOW - DAY))
    return status(
        [control_plane, node("w1"), cordoned],
        [etcd("cp1"), pod("a"), pod("b", ready=False), pod("c", phase="Succeeded"), pod("d", node="cp1")],
        [budget("x"), budget("y")],
        (WEB, WEB_SET),
        serving_end=NOW + DAY,
    )


def test_every_document_can_be_read_by_its_shape_after_a_trip_through_json():
    pods = UnmanagedPods((), 1, unmanaged((pod(controller=None),), (), (), now=NOW))
    documents = [
        bodies.cluster_status(full_status()),
        bodies.unmanaged_pods(pods),
        bodies.doctor_report([Finding("python", Level.OK, "3.11")]),
    ]

    for document in documents:
        again = msgspec.json.decode(msgspec.json.encode(document), type=shapes.KINDS[document.kind])
        assert again == document


def test_the_numbers_of_the_document_are_those_of_the_table():
    document = json.loads(msgspec.json.encode(bodies.cluster_status(full_status())))

    assert document["readAt"] == "2026-11-18T11:06:40Z"
    assert document["summary"] | {"nodes": 3, "ready": 3, "cordoned": 1, "unreadyPods": 1} == document["summary"]
    assert (document["summary"]["finishedPods"], document["summary"]["staticPods"]) == (1, 1)
    assert next(n for n in document["nodes"] if n["name"] == "w2")["cordon"]["owner"] == "jo"
    assert document["overlappingBudgets"][0]["budgets"] == ["x", "y"]
    assert document["unreadyPods"][0]["pod"] == "shop/b"


def test_a_body_leaves_version_and_kind_to_whoever_shows_it():
    body = bodies.body(bodies.doctor_report([]))

    assert set(body) == {"outcome", "findings"}


def test_the_worst_finding_counts():
    ok, bad = Finding("a", Level.OK, "x"), Finding("b", Level.FAILED, "y", "z")

    assert bodies.worst([]) is Level.OK
    assert bodies.worst([ok, bad, ok]) is Level.FAILED
    assert bodies.worst([ok, Finding("c", Level.WARNING, "")]) is Level.WARNING


# ---- unmanaged and doctor -------------------------------------------------------------------------------------


def test_pods_without_a_controller_are_told_with_what_becomes_of_each():
    custom = OwnerRef("CloneSet", "x", "apps.example.org/v1", "u")
    pods = (
        pod("naked", controller=None, empty_dir=True),
        pod("custom", controller=custom),
        pod("free", node="", controller=None),
    )
    text = tables.unmanaged(UnmanagedPods(("w1",), 9, unmanaged(pods, (), (), now=NOW)))
    lines = [" ".join(line.split()) for line in text.splitlines()]

    assert lines[0] == "3 of 9 pods on w1: no controller brings them back"
    assert any(line.startswith("w1 shop/naked no controller refused") for line in lines)
    assert any(line.startswith("w1 shop/custom CloneSet x") for line in lines)
    assert any(line.startswith("- shop/free") for line in lines)
    assert "--delete-emptydir-data" in text


@pytest.mark.parametrize(
    ("nodes", "looked_at", "text"),
    [
        (("w1",), 0, "there are no pods on w1"),
        ((), 1, "the only pod has a controller that brings it back, or has ended"),
        (("w1", "w2"), 3, "each of the 3 pods on w1, w2 has a controller that brings it back, or has ended"),
    ],
)
def test_no_pods_without_a_controller_is_good_news(nodes, looked_at, text):
    assert tables.unmanaged(UnmanagedPods(nodes, looked_at, ())) == text


def test_findings_are_told_with_evidence_remedy_and_their_count():
    findings = [Finding("python", Level.OK, "3.11"), Finding("clock", Level.WARNING, "9 s ahead", "set it")]
    lines = tables.doctor(findings).splitlines()

    assert lines == [
        "ok       python  3.11",
        "warning  clock   9 s ahead",
        "                 remedy: set it",
        "",
        "1 ok, 1 warning",
    ]


# ---- text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * DAY, "3 d")]
)
def test_spans_are_told_in_their_largest_unit(seconds, text):
    assert ago(seconds) == text


def test_long_lines_are_wrapped_and_indented():
    remedy = "word " * 40

    lines = tables.doctor([Finding("clock", Level.WARNING, "x", remedy.strip())]).splitlines()

    assert all(len(line) <= WIDTH for line in lines)
    assert all(line.startswith(" " * 9) for line in lines[1:3])


def test_names_and_rows_beyond_a_few_are_counted():
    assert names(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert limited(["a", "b", "c"], 2) == ["a", "b", "... and 1 more (--all shows them)"]
    assert limited(["a", "b", "c"], None) == ["a", "b", "c"]
    assert (count(1, "pod"), count(2, "pod"), count(0, "pod")) == ("1 pod", "2 pods", "0 pods")
    assert columns(("A", "B"), [("long", "x"), ("y", "")]) == ["A     B", "long  x", "y"]
