"""A cluster at a glance."""

from dataclasses import replace

import pytest

from orchestrator.cluster.applications import Identity
from orchestrator.cluster.model import (
    Budget,
    CordonRecord,
    FieldManager,
    Node,
    OwnerRef,
    Pod,
    Requirement,
    Selector,
    Taint,
    Toleration,
    Workload,
)
from orchestrator.cluster.overview import EtcdHealth, Overlap, Why, overview
from orchestrator.cluster.versions import Skew

CONTROL_PLANE = Taint("node-role.kubernetes.io/control-plane", "", "NoSchedule")
UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule", since=500.0)
EVERYTHING = Toleration("", "Exists", "", "")
WEB = Workload("Deployment", "shop", "web", "d1", None, wanted=2, ready=2)
WEB_SET = Workload("ReplicaSet", "shop", "web-7d", "r1", OwnerRef("Deployment", "web", "apps/v1", "d1"), 2, 2)
OLD_SET = Workload("ReplicaSet", "shop", "web-6c", "r0", OwnerRef("Deployment", "web", "apps/v1", "d1"), 0, 0)
AGENT = Workload("DaemonSet", "kube-system", "agent", "s1", None, wanted=1, ready=1)
OF_WEB = OwnerRef("ReplicaSet", "web-7d", "apps/v1", "r1")
OF_AGENT = OwnerRef("DaemonSet", "agent", "apps/v1", "s1")


def node(name="n1", **fields):
    known = {"unschedulable": False, "ready": True, "kubelet_version": "v1.36.3", "ready_reason": "KubeletReady"}
    return Node(name, f"uid-{name}", "1", **{**known, **fields})


def pod(name="web-1", **fields):
    known = {"namespace": "shop", "uid": f"uid-{name}", "node": "n1", "phase": "Running", "ready": True}
    return Pod(name=name, **{**known, "controller": OF_WEB, **fields})


def static(name="etcd-n1", **fields):
    owner = OwnerRef("Node", fields.get("node", "n1"), "v1", "uid-n1")
    return pod(name, **{"namespace": "kube-system", "mirror": True, "controller": owner, **fields})


def etcd(on, *, ready=True):
    return static(f"etcd-{on}", node=on, ready=ready, labels={"component": "etcd"})


def budget(name="web", **fields):
    known = {"allowed": 0, "healthy": 2, "needed": 2, "expected": 3}
    return Budget("shop", name, **{"selector": Selector({"app": "web"}), **known, **fields})


def look(nodes=(), pods=(), budgets=(), workloads=(), *, server="v1.36.3", answers=None):
    return overview(nodes, pods, budgets, workloads, server_version=server, etcd_answers=answers)


def test_replica_sets_old_and_new_belong_to_one_deployment():
    found = look([node()], [pod(), pod("web-2", node="n2", ready=False)], workloads=[WEB, WEB_SET, OLD_SET])

    (web,) = found.applications

    assert web.identity == Identity("shop", "Deployment", "web")
    assert (web.pods, web.ready, web.wanted) == (2, 1, 2)
    assert web.nodes == (("n1", 1), ("n2", 1))


def test_pods_that_wait_for_a_node_count_but_are_hosted_nowhere():
    (web,) = look(pods=[pod(node="", phase="Pending", ready=False)], workloads=[WEB, WEB_SET]).applications

    assert (web.pods, web.nodes) == (1, ())


def test_a_deployment_without_pods_is_an_application_and_an_ended_job_is_not():
    job = Workload("Job", "shop", "import", "j1", None, 1, 0)

    found = look(workloads=[WEB, job]).applications

    assert [(a.identity.name, a.pods) for a in found] == [("web", 0)]


def test_a_running_job_belongs_to_its_cron_job_though_cron_jobs_are_not_listed():
    job = Workload("Job", "shop", "import-1", "j1", OwnerRef("CronJob", "import", "batch/v1", "c1"), 1, 1)

    (found,) = look(pods=[pod(controller=OwnerRef("Job", "import-1", "batch/v1", "j1"))], workloads=[job]).applications

    assert (found.identity.kind, found.identity.name, found.wanted) == ("CronJob", "import", None)


def test_owners_are_followed_to_the_last_that_is_named():
    rollout = OwnerRef("Rollout", "web", "example.org/v1", "x1")
    run_by_another = replace(WEB, controller=rollout)

    (found,) = look(pods=[pod()], workloads=[WEB_SET, run_by_another]).applications

    assert (found.identity.kind, found.identity.name) == ("Rollout", "web")


def test_a_pod_without_a_controller_is_an_application_of_its_own():
    (found,) = look(pods=[pod("shell", controller=None)]).applications

    assert found.identity == Identity("shop", "Pod", "shell")


def test_static_and_finished_pods_are_counted_apart():
    found = look(pods=[static(), pod("done", phase="Succeeded", ready=False)])

    assert (found.applications, found.static_pods, found.finished_pods, found.unready) == ((), 1, 1, ())


def test_owners_that_own_one_another_do_not_hang_it():
    ring = Workload("ReplicaSet", "shop", "a", "r1", OwnerRef("ReplicaSet", "a", "apps/v1", "r1"), 1, 1)

    (found,) = look(pods=[pod()], workloads=[ring]).applications

    assert found.identity.name == "a"


def test_only_the_clusters_own_namespace_is_system():
    found = look(workloads=[WEB, AGENT]).applications

    assert [a.system for a in found] == [True, False]


@pytest.mark.parametrize(
    ("kubelet", "server", "skew"),
    [
        ("v1.36.3", "v1.36.0", Skew.WITHIN),
        ("v1.33.0", "v1.36.3", Skew.WITHIN),
        ("v1.32.9", "v1.36.3", Skew.TOO_OLD),
        ("v1.37.0", "v1.36.3", Skew.NEWER),
        ("v1.24.0", "v1.26.0", Skew.WITHIN),
        ("v1.24.0", "v1.27.0", Skew.TOO_OLD),
        ("v1.35.4-eks-1a2b", "v1.36.3+k3s1", Skew.WITHIN),
        ("v1.36.3", "v2.0.0", Skew.TOO_OLD),
        ("", "v1.36.3", Skew.UNKNOWN),
        ("v1.36.3", "", Skew.UNKNOWN),
    ],
)
def test_kubelets_are_held_against_the_skew_policy(kubelet, server, skew):
    (state,) = look([node(kubelet_version=kubelet)], server=server).nodes

    assert state.skew is skew


@pytest.mark.parametrize(
    ("fields", "obstacles"),
    [
        ({}, ()),
        ({"taints": (Taint("gpu", "only", "PreferNoSchedule"),)}, ()),
        ({"taints": (Taint("gpu", "only", "NoSchedule"),)}, ("taint gpu=only:NoSchedule",)),
        ({"taints": (Taint("gone", "", "NoExecute"),)}, ("taint gone:NoExecute",)),
        ({"unschedulable": True, "taints": (UNSCHEDULABLE,)}, ("cordoned, no owner recorded",)),
        ({"taints": (UNSCHEDULABLE,)}, ("taint node.kubernetes.io/unschedulable:NoSchedule",)),
        (
            {
                "ready": False,
                "ready_reason": "NodeStatusUnknown",
                "taints": (Taint("node.kubernetes.io/unreachable", "", "NoExecute"),),
            },
            ("not ready (NodeStatusUnknown)",),
        ),
        ({"ready": False, "ready_reason": ""}, ("not ready",)),
        (
            {"unschedulable": True, "cordon": CordonRecord("ann@pc", "disk", "r", 1.0), "ready": False},
            ("cordoned by ann@pc (disk)", "not ready (KubeletReady)"),
        ),
    ],
)
def test_a_node_takes_workloads_when_nothing_stands_against_it(fields, obstacles):
    (state,) = look([node(**fields)]).nodes

    assert state.obstacles == obstacles
    assert state.takes_workloads is not bool(obstacles)


@pytest.mark.parametrize(
    ("fields", "text", "since"),
    [
        ({"cordon": CordonRecord("ann@pc", "", "run-1", 400.0), "taints": (UNSCHEDULABLE,)}, "cordoned by ann@pc", 400),
        ({"cordon": CordonRecord("a@pc", "disk", "", 0.0), "taints": (UNSCHEDULABLE,)}, "cordoned by a@pc (disk)", 500),
        (
            {"cordoned_by": FieldManager("kubectl-cordon", 900.0), "taints": (CONTROL_PLANE, UNSCHEDULABLE)},
            "cordoned, no owner recorded (probably by kubectl-cordon)",
            500,
        ),
        (
            {"cordoned_by": FieldManager("kubectl-cordon", 900.0)},
            "cordoned, no owner recorded (probably by kubectl-cordon)",
            900,
        ),
        ({}, "cordoned, no owner recorded", None),
        (
            {"cordon": CordonRecord("ann@pc", "", "", 400.0), "cordoned_by": FieldManager("orchestrator", 1.0)},
            "cordoned by ann@pc",
            400,
        ),
    ],
)  # fmt: skip
def test_a_cordon_says_whose_and_since_when_by_the_best_evidence(fields, text, since):
    (state,) = look([node(unschedulable=True, **fields)]).nodes

    assert (str(state.cordon), state.cordon.since) == (text, since)


def test_a_record_on_a_schedulable_node_is_no_cordon():
    (state,) = look([node(cordon=CordonRecord("ann@pc", "", "", 1.0))]).nodes

    assert state.cordon is None


@pytest.mark.parametrize(
    ("fields", "pods", "empty"),
    [
        ({}, [], "no pods at all: nothing else has been scheduled on it"),
        ({}, [pod()], ""),
        ({}, [pod("shell", controller=None)], ""),
        (
            {},
            [pod("agent-1", controller=OF_AGENT), static()],
            "only static pods and pods of DaemonSets: nothing else has been scheduled on it",
        ),
        (
            {"taints": (CONTROL_PLANE,)},
            [static()],
            f"only static pods and pods of DaemonSets: taint {CONTROL_PLANE}",
        ),
        ({"unschedulable": True}, [], "no pods at all: cordoned, no owner recorded"),
        ({}, [pod(phase="Succeeded")], "no pods at all: nothing else has been scheduled on it"),
    ],
)
def test_an_empty_node_says_why(fields, pods, empty):
    (state,) = look([node(**fields)], pods).nodes

    assert state.empty == empty


def test_pods_and_applications_are_counted_a_node():
    first, second = look(
        [node("n2"), node("n1")],
        [pod(), pod("web-2"), pod("agent-1", controller=OF_AGENT), static()],
        workloads=[WEB, WEB_SET, AGENT],
    ).nodes

    assert (first.node.name, first.pods, first.applications) == ("n1", 4, 2)
    assert (second.node.name, second.pods, second.applications) == ("n2", 0, 0)


def test_pods_on_a_control_plane_are_there_for_a_reason():
    pods = [
        static(),
        pod("agent-1", controller=OF_AGENT, tolerations=(EVERYTHING,)),
        pod("dns-1", tolerations=(Toleration("node-role.kubernetes.io/control-plane", "", "", "NoSchedule"),)),
        pod("web-1", tolerations=(Toleration("node.kubernetes.io/not-ready", "Exists", "", "NoExecute"),)),
    ]

    (state,) = look([node(roles=("control-plane",), taints=(CONTROL_PLANE, UNSCHEDULABLE))], pods).nodes

    assert [(p.why, p.pods) for p in state.placements] == [
        (Why.STATIC, ("kube-system/etcd-n1",)),
        (Why.DAEMON_SET, ("shop/agent-1",)),
        (Why.TOLERATES, ("shop/dns-1",)),
        (Why.DESPITE, ("shop/web-1",)),
    ]


def test_a_control_plane_without_a_taint_takes_anything():
    (state,) = look([node(roles=("control-plane",))], [pod(), static()]).nodes

    assert [p.why for p in state.placements] == [Why.STATIC, Why.NO_TAINT]


def test_placements_are_told_of_control_planes_only():
    (state,) = look([node()], [pod()]).nodes

    assert state.placements == ()


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        (Toleration("gpu", "Equal", "a", "NoSchedule"), True),
        (Toleration("gpu", "", "a", ""), True),
        (Toleration("gpu", "Equal", "b", ""), False),
        (Toleration("gpu", "Exists", "", ""), True),
        (Toleration("gpu", "Exists", "", "NoExecute"), False),
        (Toleration("cpu", "Exists", "", ""), False),
        (Toleration("", "Exists", "", ""), True),
        (Toleration("", "Equal", "a", ""), False),
    ],
)
def test_tolerations_cover_taints_as_the_scheduler_has_it(toleration, covers):
    assert toleration.covers(Taint("gpu", "a", "NoSchedule")) is covers


@pytest.mark.parametrize(
    ("fields", "never", "why"),
    [
        ({}, False, "needs 2 healthy, has 2 of 3"),
        ({"needed": 3, "healthy": 3}, True, "needs 3 healthy, has 3 of 3: it can never allow an eviction"),
        ({"needed": 5}, True, "needs 5 healthy, has 2 of 3: it can never allow an eviction"),
        ({"observed": False, "expected": 0}, False, "its controller has not seen its present form yet"),
        (
            {"always_allow_unhealthy": True},
            False,
            "needs 2 healthy, has 2 of 3, but lets go of pods that are not ready",
        ),
        (
            {"healthy": 3},
            False,
            "needs 2 healthy, has 3 of 3, and allows 0 all the same: its controller could not work it out",
        ),
    ],
)
def test_a_budget_that_allows_nothing_says_why(fields, never, why):
    pods = [pod(labels={"app": "web"}), pod("web-2", labels={"app": "web"}, ready=False)]

    (shut,) = look(pods=pods, budgets=[budget(**fields)]).shut

    assert (shut.never, shut.why, shut.unready) == (never, why, ("shop/web-2",))


def test_an_unhealthy_policy_without_unready_pods_is_not_mentioned():
    (shut,) = look(budgets=[budget(always_allow_unhealthy=True)]).shut

    assert shut.why == "needs 2 healthy, has 2 of 3"


@pytest.mark.parametrize("fields", [{"allowed": 1}, {"expected": 0, "healthy": 0, "needed": 0}])
def test_a_budget_with_room_or_without_pods_is_not_listed(fields):
    assert look(budgets=[budget(**fields)]).shut == ()


def test_a_pod_under_two_budgets_is_named_with_both():
    budgets = [
        budget("b", allowed=1, selector=Selector({}, (Requirement("app", "Exists"),))),
        budget("a", allowed=1),
        budget("none", allowed=1, selector=None),
        budget("other", allowed=1, selector=Selector({"app": "db"})),
    ]

    found = look(pods=[pod(labels={"app": "web", "tier": "x"}), pod("db", labels={})], budgets=budgets)

    assert found.overlapping == (Overlap("shop", ("a", "b"), ("shop/web-1",)),)


def test_pods_that_are_not_ready_are_named_in_order():
    found = look(pods=[pod("b", ready=False), pod("a", ready=False), pod("c"), pod("d", phase="Failed", ready=False)])

    assert [p.name for p in found.unready] == ["a", "b"]


@pytest.mark.parametrize(
    ("members", "answers", "health"),
    [
        ([("cp1", True), ("cp2", True)], True, EtcdHealth.HEALTHY),
        ([("cp1", True), ("cp2", True)], None, EtcdHealth.UNKNOWN),
        ([("cp1", True), ("cp2", False)], True, EtcdHealth.DEGRADED),
        ([("cp1", True), ("cp2", False)], None, EtcdHealth.DEGRADED),
        ([("cp1", True)], True, EtcdHealth.DEGRADED),
        ([("cp1", True), ("cp2", True)], False, EtcdHealth.FAILING),
        ([], True, EtcdHealth.ANSWERS),
        ([], None, EtcdHealth.UNKNOWN),
        ([], False, EtcdHealth.FAILING),
    ],
)
def test_etcd_is_never_said_to_be_better_than_was_seen(members, answers, health):
    nodes = [node(n, roles=("control-plane",)) for n in ("cp1", "cp2")] + [node("w1")]

    found = look(nodes, [etcd(on, ready=ready) for on, ready in members], answers=answers).etcd

    assert found.health is health
    assert [(m.node, m.ready) for m in found.members] == members


def test_a_control_plane_without_a_member_is_named_where_others_have_one():
    nodes = [node(n, roles=("control-plane",)) for n in ("cp1", "cp2")]

    assert look(nodes, [etcd("cp1")]).etcd.without == ("cp2",)
    assert look(nodes, [static("etcd-cp1", labels={})]).etcd.without == ()
