"""What is said of the cluster before an upgrade touches the first node, and what of it may be accepted."""

from dataclasses import replace

import pytest

from orchestrator.cluster import preflight
from orchestrator.cluster.eviction import DAEMON_SET, EMPTY_DIR, NO_CONTROLLER
from orchestrator.cluster.hostfacts import EtcdFacts
from orchestrator.cluster.model import OwnerRef, Selector, Toleration, Workload
from orchestrator.cluster.packages import Package
from orchestrator.cluster.preflight import Finding, Severity
from orchestrator.cluster.versions import Hop, parse
from tests.fakes.situations import (
    TAINT,
    V135,
    V136,
    V137,
    at,
    budget,
    etcd,
    found,
    node,
    only,
    plane,
    pod,
    situation,
    worker,
)

# ---- all of it --------------------------------------------------------------------------------------------------


def test_a_cluster_in_order_has_notes_only():
    notes = preflight.findings(situation())

    assert [(f.check, f.severity, f.where) for f in notes] == [
        ("HeldPackages", Severity.NOTE, "cp1"),
        ("SingleControlPlane", Severity.NOTE, "cp1"),
        ("HeldPackages", Severity.NOTE, "w1"),
    ]
    assert preflight.unaccepted(notes, ()) == ()
    assert "kubeadm, kubectl, kubelet; they are held again" in notes[0].text
    assert "15 to 45 s as measured, once; workloads go on" in notes[1].text


def test_three_control_planes_in_order_have_nothing_against_them():
    assert found(situation(plane("cp1"), plane("cp2"), plane("cp3"), worker("w1"), worker("w2"))) == []


def test_with_nothing_to_do_there_is_nothing_to_check_against():
    made = situation(to=(), deprecated=("apps/v1beta1/deployments@1.16",), checks={})

    assert [f.check for f in preflight.findings(made)] == ["HeldPackages", "HeldPackages"]


def test_the_worst_comes_first_then_the_cluster_then_nodes_by_name():
    made = situation(
        plane(),
        worker("w1", unfinished="kubelet"),
        worker("a1", unfinished="kubelet"),
        apis={"cp1": "readyz: no answer"},
        deprecated=("x/v1/ys@1.36", "x/v1/zs@1.99"),
    )

    order = [(f.severity.value, f.where) for f in found(made)]

    assert order == [
        ("forbidden", "cp1"),
        ("error", "cluster"),
        ("error", "a1"),
        ("error", "w1"),
        ("warning", "cluster"),
    ]


def test_errors_may_be_accepted_by_name_and_what_is_forbidden_may_not():
    known = [
        Finding(check, severity, "n", "t", "r")
        for check, severity in [
            ("A", Severity.FORBIDDEN),
            ("B", Severity.ERROR),
            ("C", Severity.ERROR),
            ("D", Severity.WARNING),
            ("E", Severity.NOTE),
        ]
    ]

    assert [f.check for f in preflight.unaccepted(known, ())] == ["A", "B", "C"]
    assert [f.check for f in preflight.unaccepted(known, ("A", "B", "all", "*"))] == ["A", "C"]


def test_every_finding_has_evidence_and_a_remedy():
    made = situation(
        plane(swap=True, unfinished="x", cgroup="v1"),
        worker(packages={}),
        worker("w2", locks={"/var/lib/dpkg/lock": "7 apt-get"}),
        apis={},
        etcd=EtcdFacts(),
        offers={},
        configuration="",
        edited={"cp1": "+ --v=4"},
        clocks={"cp1": 0.0, "w1": 0.0, "w2": 100.0},
    )

    assert len(found(made)) >= 10
    assert all(f.text and f.remedy and f.where for f in preflight.findings(made))


# ---- API servers and nodes --------------------------------------------------------------------------------------


def test_an_api_server_that_is_not_well_forbids_the_start():
    one = only(situation(apis={"cp1": "readyz: [-]etcd failed"}), "ApiServer")

    assert (one.severity, one.where) == (Severity.FORBIDDEN, "cp1")
    assert "readyz: [-]etcd failed" in one.text
    assert only(situation(apis={}), "ApiServer").text.endswith("it was not asked")


def test_a_single_control_plane_is_away_once_for_each_hop():
    made = situation(plane(), worker(), to=(V136, V137))

    assert "as measured, 2 times" in only(made, "SingleControlPlane").text
    assert found(replace(made, upgrading=("w1",)), "SingleControlPlane") == []
    assert found(situation(plane("cp1"), plane("cp2"), plane("cp3")), "SingleControlPlane") == []


@pytest.mark.parametrize(("upgrading", "severity"), [(("cp1", "w1"), Severity.ERROR), (("cp1",), Severity.WARNING)])
def test_a_node_that_is_not_ready_stops_the_plan_that_has_it(upgrading, severity):
    made = situation(
        nodes=(node("cp1"), node("w1", ready=False, ready_reason="NodeStatusUnknown")), upgrading=upgrading
    )

    one = only(made, "NodesReady")

    assert (one.severity, one.where) == (severity, "w1")
    assert "NodeStatusUnknown" in one.text
    unknown = replace(made, nodes=(node("w1", ready=False),))
    assert "no reason given" in only(unknown, "NodesReady").text


def test_a_node_that_was_cordoned_stays_so_and_that_is_no_fault():
    made = situation(nodes=(node("cp1"), node("w1", unschedulable=True)))

    one = only(made, "Cordoned")

    assert (one.severity, one.where) == (Severity.NOTE, "w1")
    assert "stays cordoned" in one.text
    assert found(replace(made, upgrading=("cp1",)), "Cordoned") == []


# ---- etcd -------------------------------------------------------------------------------------------------------

HA = (plane("cp1"), plane("cp2"), plane("cp3"))


def test_of_three_members_one_down_forbids_the_start_with_the_numbers():
    made = situation(*HA, etcd=etcd(3, down=(2,)))

    assert [(f.check, f.severity) for f in found(made)] == [
        ("EtcdQuorum", Severity.FORBIDDEN),
        ("EtcdHealth", Severity.ERROR),
        ("EtcdHealth", Severity.ERROR),
    ]
    assert only(made, "EtcdQuorum").text == (
        "2 of 3 etcd members healthy; stopping one more would lose quorum (needs 2)"
    )
    assert {f.text for f in found(made, "EtcdHealth")} == {
        "etcd: member cp2 does not answer",
        "etcd: https://cp2:2379 is not healthy: context deadline exceeded",
    }


@pytest.mark.parametrize(
    ("count", "down", "severity"),
    [
        (1, (), None),
        (1, (1,), Severity.FORBIDDEN),
        (2, (), Severity.ERROR),
        (2, (2,), Severity.FORBIDDEN),
        (3, (), None),
        (5, (4,), None),
        (5, (3, 4), Severity.FORBIDDEN),
    ],
)
def test_what_is_left_of_the_members_when_one_stops(count, down, severity):
    hosts = [plane(f"cp{i}") for i in range(1, count + 1)]

    assert [f.severity for f in found(situation(*hosts, etcd=etcd(count, down=down)), "EtcdQuorum")] == (
        [severity] if severity else []
    )


def test_a_member_whose_health_was_not_told_does_not_count_as_healthy():
    made = situation(*HA, etcd=replace(etcd(3), health={}))

    assert only(made, "EtcdQuorum").severity is Severity.FORBIDDEN


def test_an_alarm_forbids_the_start():
    one = only(situation(etcd=replace(etcd(), alarms=("NOSPACE on member ff",))), "EtcdAlarm")

    assert one.severity is Severity.FORBIDDEN
    assert "NOSPACE on member ff" in one.text
    assert "etcdctl alarm disarm" in one.remedy


def test_members_that_cannot_be_asked_are_not_members_in_order():
    one = only(situation(etcd=EtcdFacts()), "EtcdHealth")

    assert one.severity is Severity.FORBIDDEN


def test_an_etcd_elsewhere_is_said_not_to_be_looked_at():
    bare = plane(manifests={n: m for n, m in plane().manifests.items() if n != "etcd"})

    one = only(situation(bare, worker(), etcd=EtcdFacts()), "ExternalEtcd")
    assert one.severity is Severity.WARNING
    assert "takes no snapshot" in one.text
    assert one.remedy.splitlines()[-1] == (
        "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "
        "--cert=/etc/kubernetes/pki/apiserver-etcd-client.crt --key=/etc/kubernetes/pki/apiserver-etcd-client.key "
        "snapshot save pre-upgrade.db, on cp1"
    )
    unknown = plane(manifests={}, components={"kube-apiserver": V136})
    assert "etcdctl  snapshot save" in only(situation(unknown, worker(), etcd=EtcdFacts()), "ExternalEtcd").remedy
    assert found(situation(worker(), etcd=EtcdFacts()), "ExternalEtcd", "EtcdHealth") == []


def test_an_etcd_that_is_no_static_pod_is_looked_at_and_said_not_to_be_touched():
    bare = plane(manifests={n: m for n, m in plane().manifests.items() if n != "etcd"})
    facts = replace(etcd(2, version="3.5.21"), alarms=("NOSPACE on member ff",))
    old = situation(bare, worker(), to=(parse("v1.34.1"),), etcd=facts)

    assert "takes no snapshot" in only(old, "ExternalEtcd").text
    assert only(old, "ExternalEtcd").remedy == "take one first: orchestrator etcd backup"
    assert only(old, "EtcdAlarm")
    assert found(old, "EtcdQuorum", "EtcdVersion") == []
    assert found(situation(worker(), etcd=etcd()), "ExternalEtcd") == []


GB = 2**30


@pytest.mark.parametrize(
    ("used", "quota", "flag", "severity"),
    [
        (int(1.5 * GB), 2 * GB, "", None),
        (int(1.7 * GB), 2 * GB, "", Severity.WARNING),
        (int(1.95 * GB), 2 * GB, "", Severity.ERROR),
        (int(1.7 * GB), 0, "", Severity.WARNING),
        (int(1.7 * GB), 0, str(8 * GB), None),
        (int(1.7 * GB), 0, "many", Severity.WARNING),
    ],
)
def test_a_database_near_its_quota_is_told_with_its_numbers(used, quota, flag, severity):
    manifest = plane().manifests["etcd"]
    manifest = replace(manifest, text=f"{manifest.text}\n    - --quota-backend-bytes={flag}\n")
    host = plane(manifests={**plane().manifests, "etcd": manifest})
    made = situation(host, worker(), etcd=etcd(db_size_bytes=used, quota_bytes=quota, in_use_bytes=300_000_000))

    reported = found(made, "EtcdSize")

    assert [f.severity for f in reported] == ([severity] if severity else [])
    assert all("its quota of 2.1 GB; 300 MB of it are in use" in f.text for f in reported)


@pytest.mark.parametrize(
    ("version", "to", "bad"),
    [
        ("3.5.21", "v1.34.1", True),
        ("3.5.26", "v1.34.1", False),
        ("3.5.21", "v1.33.4", False),
        ("3.6.1", "v1.34.1", False),
        ("main", "v1.34.1", False),
    ],
)
def test_an_old_etcd_is_not_taken_to_the_next_minor(version, to, bad):
    hosts = [at(h, parse("v1.33.1")) for h in (plane(), worker())]

    reported = found(situation(*hosts, to=(parse(to),), etcd=etcd(version=version)), "EtcdVersion")

    assert [f.severity for f in reported] == ([Severity.ERROR] if bad else [])
    assert found(situation(*hosts, to=(), etcd=etcd(version=version)), "EtcdVersion") == []


# ---- versions beside one another --------------------------------------------------------------------------------


def test_a_kubelet_newer_than_its_api_server_is_an_error_and_one_of_another_patch_is_none():
    newer = situation(plane(), at(worker(), V136, kubelet=V137))
    patch = situation(plane(), at(worker(), V136, kubelet=parse("v1.36.9")))

    one = only(newer, "Skew")

    assert (one.severity, one.where) == (Severity.ERROR, "w1")
    assert "kubelet of w1 (v1.37.2)" in one.text
    assert found(patch) == []


@pytest.mark.parametrize(("to", "severity"), [((V137,), Severity.WARNING), ((parse("v1.36.9"),), Severity.ERROR)])
def test_a_kube_proxy_that_a_control_plane_left_behind_when_it_went_back_bars_no_upgrade_that_mends_it(to, severity):
    made = situation(plane(), worker(proxy=V137), to=to)

    one = only(made, "Skew")

    assert (one.severity, one.where) == (severity, "w1")
    assert "kube-proxy of w1 (v1.37.2)" in one.text


def test_a_control_plane_that_is_done_before_the_others_is_on_the_way_and_no_violation():
    made = situation(at(plane("cp1"), V137), plane("cp2"), plane("cp3"), worker())

    assert found(made, "Skew", "SkewOnTheWay") == []


def test_api_servers_two_minors_apart_are_an_error():
    made = situation(at(plane("cp1"), V137), at(plane("cp2"), V135), at(plane("cp3"), V137))

    reported = found(made, "Skew")
    assert any("kube-apiserver of cp2 (v1.35.4)" in f.text for f in reported)
    assert any("kube-scheduler of cp2 (v1.35.4)" in f.text for f in reported)
    assert all(f.severity is Severity.ERROR for f in reported)


def test_a_worker_that_the_plan_leaves_too_far_behind_forbids_it_and_says_when():
    hosts = (at(plane(), parse("v1.36.3")), at(worker(), parse("v1.33.1")), at(worker("w2"), parse("v1.36.3")))

    one = only(situation(*hosts, upgrading=("cp1", "w2")), "SkewOnTheWay")

    assert (one.severity, one.where) == (Severity.FORBIDDEN, "w1")
    assert one.text.startswith("with the control plane of cp1 at v1.37.2: kubelet of w1 (v1.33.1)")
    assert found(situation(plane(), at(worker(), parse("v1.34.1")), upgrading=("cp1",)), "SkewOnTheWay") == []


def test_control_planes_that_the_plan_leaves_out_are_too_old_for_those_it_takes_two_minors_up():
    hosts = [at(plane(f"cp{i}"), V135) for i in (1, 2, 3)]

    made = situation(*hosts, to=(V136, V137), upgrading=("cp1",))

    assert {f.where for f in found(made, "SkewOnTheWay")} >= {"cp2", "cp3"}
    assert found(replace(made, upgrading=("cp1", "cp2", "cp3")), "Skew", "SkewOnTheWay") == []


def test_workers_may_not_go_before_a_control_plane():
    made = situation(plane(), worker(), upgrading=("w1",))

    one = only(made, "SkewOnTheWay")

    assert one.text.startswith("with the workers at v1.37.2: kubelet of w1 (v1.37.2)")


def test_workers_that_skip_a_hop_stay_where_they_are_in_it():
    hosts = [at(h, V135) for h in (plane(), worker())]
    made = situation(*hosts, to=(V136, V137))
    lazy = (Hop(V136, workers=False), Hop(V137, workers=True))

    assert found(replace(made, hops=lazy), "SkewOnTheWay") == []


def test_what_is_newer_than_a_hop_stays_as_it_is_in_it():
    made = situation(at(plane(), V137), at(worker(), V135), to=(V136, V137))

    assert found(made, "SkewOnTheWay") == []


def test_a_worker_that_is_too_old_now_may_be_brought_up_by_the_plan():
    hosts = (plane(), at(worker(), parse("v1.32.1")))
    made = situation(*hosts, to=(V136, V137))

    assert [(f.check, f.where) for f in found(made, "Skew", "SkewOnTheWay")] == [("Skew", "w1")]


def test_a_static_pod_that_does_not_run_counts_as_its_manifest_says():
    host = plane(components={})
    bare = plane("cp2", components={}, manifests={})

    assert found(situation(host, at(worker(), V136, kubelet=V137)), "Skew") != []
    assert found(situation(bare, worker(running=None, kubelet=None), etcd=EtcdFacts()), "Skew") == []


def test_kubelets_of_several_minors_are_told():
    made = situation(plane(), at(worker("w1"), V136, kubelet=V135), worker("w2"))

    one = only(made, "MixedVersions")

    assert one.severity is Severity.NOTE
    assert "1.35: w1; 1.36: cp1, w2" in one.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"replaced": True}, True),
        ({"kubelet": parse("v1.36.9")}, True),
        ({"kubelet": parse("v1.36.9"), "running": None}, False),
        ({}, False),
    ],
)
def test_a_kubelet_that_was_replaced_and_runs_on_is_told(changes, told):
    assert bool(found(situation(plane(), worker(**changes)), "KubeletNotRestarted")) is told


def test_a_kube_proxy_and_a_kubectl_are_held_against_the_skew_policy():
    old = Package("kubectl", "1.34.1-1.1", held=False, whole=True)
    host = worker(proxy=parse("v1.32.1"), packages={**worker().packages, "kubectl": old})

    now = found(situation(plane(), host), "Skew")

    assert {(f.severity, f.where) for f in now} == {(Severity.ERROR, "w1"), (Severity.WARNING, "w1")}
    assert any("kube-proxy" in f.text for f in now if f.severity is Severity.ERROR)
    assert all("kubectl" in f.text for f in now if f.severity is Severity.WARNING)


def test_kube_proxy_follows_the_last_control_plane():
    host = worker(proxy=V136)
    made = situation(plane(), host, to=(V137, parse("v1.38.1"), parse("v1.39.1"), parse("v1.40.1")))

    assert found(made, "SkewOnTheWay") == []


# ---- pods -------------------------------------------------------------------------------------------------------


def test_budgets_that_let_nobody_go_are_named_with_their_numbers():
    made = situation(
        pods=(pod("a"), pod("b", where="elsewhere", labels={"app": "other"})),
        budgets=(
            budget("stuck", 0),
            budget("free", 1),
            budget("other", 0, selector=Selector({"app": "other"})),
            budget("none", 0, namespace="empty"),
        ),
    )

    one = only(made, "NoDisruptionAllowed")

    assert one.severity is Severity.WARNING
    assert one.text == "budgets that allow no disruption now: web/stuck (2 ready, 2 needed)"


@pytest.mark.parametrize("change", [{"phase": "Succeeded"}, {"mirror": True}, {"node": "w9"}])
def test_budgets_of_pods_that_nobody_moves_do_not_matter(change):
    made = situation(pods=(pod("a", **change),), budgets=(budget("stuck", 0),))

    assert found(made, "NoDisruptionAllowed") == []


def test_budgets_that_are_not_asked_keep_no_drain_waiting():
    made = situation(pods=(pod("a"),), budgets=(budget("stuck", 0),), at_once=True)

    one = only(made, "NoDisruptionAllowed")

    assert one.text.endswith("all-at-once does not ask them: their pods are deleted")
    assert "waits" not in one.remedy.removeprefix("--strategy rolling, which waits for them")


def test_all_at_once_names_the_workloads_that_will_be_down():
    deployment = OwnerRef("Deployment", "web", "apps/v1")
    alone = OwnerRef("StatefulSet", "alone", "apps/v1")
    daemon = OwnerRef("DaemonSet", "d", "apps/v1")
    made = situation(
        plane(),
        worker("w1"),
        worker("w2"),
        pods=(
            pod("a", "w1"),
            pod("b", "w2"),
            pod("c", "w1", controller=alone),
            pod("c2", "cp1", controller=alone),
            pod("d", "w1", controller=daemon),
            pod("e", "w2", controller=None),
        ),
        workloads=(Workload("ReplicaSet", "web", "web-1", "u", deployment, 2, 2),),
        at_once=True,
    )

    one = only(made, "AllAtOnce")

    assert (one.severity, one.where, one.detail) == (Severity.WARNING, "cluster", "")
    assert one.text == (
        "out of service at the same time, budgets not asked: w1, w2; "
        "2 of all workloads will be down meanwhile: Deployment web/web, Pod web/e"
    )
    assert only(replace(made, pods=()), "AllAtOnce").text.endswith("no workload is down whole")
    assert found(replace(made, hops=()), "AllAtOnce") == []
    assert found(replace(made, at_once=False), "AllAtOnce") == []
    many = tuple(pod(f"p{i}", controller=None) for i in range(6))
    assert len(only(replace(made, pods=many), "AllAtOnce").detail.splitlines()) == 6


def test_all_at_once_of_the_only_node_takes_down_what_runs_there():
    made = situation(plane(), pods=(pod("a", "cp1"),), at_once=True)

    assert "1 of all workloads will be down" in only(made, "AllAtOnce").text


SEVERAL = "covered by 2 budgets (a, b): the API evicts no such pod"


@pytest.mark.parametrize(
    ("reasons", "remedy"),
    [
        ((NO_CONTROLLER.text,), "add --force"),
        ((NO_CONTROLLER.text, EMPTY_DIR.text), "add --delete-emptydir-data --force"),
        ((DAEMON_SET.text,), "move these pods, or remove them, by hand"),
        (("its DaemonSet does not exist (not found)",), "add --force"),
        ((SEVERAL,), "leave each pod to one budget; or --strategy all-at-once, which asks none"),
        (
            (SEVERAL, NO_CONTROLLER.text),
            "add --force\nleave each pod to one budget; or --strategy all-at-once, which asks none",
        ),
        ((SEVERAL, "something new"), "move these pods, or remove them, by hand"),
        (("something new",), "move these pods, or remove them, by hand"),
    ],
)
def test_pods_that_a_drain_would_refuse_come_with_the_flags_that_allow_it(reasons, remedy):
    made = situation(refused={"cp1": {}, "w1": {"web/a": reasons}})

    one = only(made, "PodsRefused")

    assert (one.severity, one.where, one.remedy) == (Severity.FORBIDDEN, "w1", remedy)
    assert reasons[0] in one.text


def test_of_many_refused_pods_a_few_are_named_and_all_are_in_the_detail():
    made = situation(refused={"w1": {f"web/{i}": (NO_CONTROLLER.text,) for i in range(9)}})

    one = only(made, "PodsRefused")

    assert "refuse 9 pods" in one.text
    assert one.text.endswith("and 4 more")
    assert len(one.detail.split("\n")) == 9


def test_pods_of_the_only_worker_have_nowhere_to_go():
    made = situation(pods=(pod("a"), pod("b")))

    one = only(made, "NowhereToGo")

    assert (one.severity, one.where) == (Severity.WARNING, "w1")
    assert "2 pods have no other node to go to: web/a, web/b" in one.text


@pytest.mark.parametrize(
    ("nodes", "pods"),
    [
        ((node("cp1"), node("w1"), node("w2")), (pod("a"),)),
        ((node("cp1"), node("w1")), (pod("a", tolerations=(Toleration("", "Exists", "", ""),)),)),
        ((node("cp1", taints=(replace(TAINT, effect="PreferNoSchedule"),)), node("w1")), (pod("a"),)),
        ((node("cp1"), node("w1")), (pod("a", controller=None),)),
        ((node("cp1"), node("w1")), (pod("a", controller=OwnerRef("DaemonSet", "d", "apps/v1")),)),
        ((node("cp1"), node("w1")), (pod("a", deleting_since=1.0),)),
    ],
)
def test_pods_that_another_node_takes_or_that_do_not_move_have_a_place(nodes, pods):
    assert found(situation(nodes=nodes, pods=pods), "NowhereToGo") == []


@pytest.mark.parametrize("other", [{"ready": False}, {"unschedulable": True}])
def test_a_node_that_takes_no_pods_is_no_place_to_go(other):
    made = situation(nodes=(node("w1"), node("w2", **other)), pods=(pod("a"),))

    assert only(made, "NowhereToGo").where == "w1"


def test_workloads_of_one_replica_are_told():
    def workload(kind, name, wanted, controller=None):
        return Workload(kind, "web", name, "u", controller, wanted, 1)

    made = situation(
        workloads=(
            workload("Deployment", "one", 1),
            workload("Deployment", "two", 2),
            workload("ReplicaSet", "one-1", 1, OwnerRef("Deployment", "one", "apps/v1")),
            workload("StatefulSet", "db", 1),
            workload("DaemonSet", "d", None),
        )
    )

    one = only(made, "SingleReplica")

    assert one.severity is Severity.NOTE
    assert one.text.endswith("Deployment web/one, StatefulSet web/db")
    assert found(replace(made, hops=()), "SingleReplica") == []
