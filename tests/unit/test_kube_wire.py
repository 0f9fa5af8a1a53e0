"""Objects of the API, from their bytes into the model."""

import json
import math

import msgspec
import pytest

from orchestrator.cluster.model import CordonRecord, OwnerRef, Requirement, Taint, Toleration
from orchestrator.kube.wire import (
    BudgetObject,
    NodeObject,
    WorkloadObject,
    quantity,
    read_cordon,
    read_status,
    write_cordon,
)
from orchestrator.kube.wirepods import PodObject

CORDON = "kube-orchestrator.io/cordon"


def read(kind, obj):
    return msgspec.json.decode(json.dumps(obj).encode(), type=kind).fact()


def pod(**status):
    """A pod with that status; `spec` and `metadata` add to its others."""
    metadata = {"namespace": "shop", "name": "web-1", "uid": "u1", **status.pop("metadata", {})}
    return read(PodObject, {"metadata": metadata, "spec": status.pop("spec", {}), "status": status})


def node(spec=None, **metadata):
    return read(
        NodeObject, {"metadata": {"name": "n1", "uid": "u", "resourceVersion": "7", **metadata}, "spec": spec or {}}
    )


# ---- pods -----------------------------------------------------------------------------------------------------


def test_an_object_with_nothing_but_metadata_can_be_read():
    found = pod()

    assert (found.key, found.node, found.phase, found.ready, found.ready_since) == ("shop/web-1", "", "", False, None)
    assert (found.controller, found.deleting_since, found.grace_s) == (None, None, 30.0)
    assert (found.mirror, found.empty_dir, found.waiting_reason, found.tolerations) == (False, False, "", ())


def test_fields_that_nobody_needs_and_nulls_are_no_obstacle():
    found = pod(
        metadata={"labels": None, "ownerReferences": None, "annotations": None, "managedFields": [{"x": 1}]},
        spec={"volumes": None, "containers": [{"image": "x"}], "tolerations": None},
        conditions=None,
        containerStatuses=None,
    )

    assert found.labels == {}


def test_the_controller_is_the_owner_that_says_so():
    owners = [
        {"kind": "Foo", "name": "other", "apiVersion": "x/v1", "uid": "u8"},
        {"kind": "ReplicaSet", "name": "web", "apiVersion": "apps/v1", "uid": "u9", "controller": True},
    ]

    assert pod(metadata={"ownerReferences": owners}).controller == OwnerRef("ReplicaSet", "web", "apps/v1", "u9")
    assert pod(metadata={"ownerReferences": owners[:1]}).controller is None


def test_the_time_of_a_deletion_is_the_begin_of_its_grace_and_not_its_end():
    found = pod(metadata={"deletionTimestamp": "2026-01-01T00:01:00Z", "deletionGracePeriodSeconds": 45})

    assert found.deleting_since == 1_767_225_660.0 - 45
    assert found.deletion_grace_s == 45


def test_a_mirror_and_an_empty_dir_are_seen():
    annotations = {"kubernetes.io/config.mirror": "hash"}

    assert pod(metadata={"annotations": annotations}).mirror
    assert pod(spec={"volumes": [{"name": "a"}, {"name": "b", "emptyDir": {}}]}).empty_dir
    assert not pod(spec={"volumes": [{"name": "a", "configMap": {}}]}).empty_dir


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, "CrashLoopBackOff"),
        ({"containerStatuses": [{"state": {"running": {}}}, {}]}, ""),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}, "Unschedulable"),
        ({"conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]}, "ContainersNotReady"),
        ({"conditions": [{"type": "Ready", "status": "True", "reason": "x"}], "reason": "Evicted"}, "Evicted"),
    ],
)
def test_why_a_pod_is_not_ready_is_told_by_whoever_knows_best(status, why):
    assert pod(**status).waiting_reason == why


def test_ready_and_since_when_are_of_the_ready_condition():
    found = pod(conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}])

    assert (found.ready, found.ready_since) == (True, 1_767_225_600.0)


def test_tolerations_and_the_own_grace_period_are_read():
    found = pod(spec={"tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 0})

    assert found.tolerations == (Toleration("", "Exists", "", ""),)
    assert found.grace_s == 0.0


# ---- nodes ----------------------------------------------------------------------------------------------------


def test_a_node_without_conditions_is_not_ready_and_says_so():
    assert (node().ready, node().ready_reason) == (False, "no Ready condition")


def test_a_nodes_facts_are_read():
    found = read(
        NodeObject,
        {
            "metadata": {
                "name": "n1", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/a": "", "x": "y"},
            },
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}]},
            "status": {
                "conditions": [{"type": "Ready", "status": "Unknown"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.37.2", "bootID": "b1", "osImage": "Debian", "kernelVersion": "6.1"},
                "allocatable": {"cpu": "1500m", "memory": "2Gi"},
            },
        },
    )  # fmt: skip

    assert (found.ready, found.ready_reason, found.roles, found.control_plane) == (
        False,
        "Unknown",
        ("a", "control-plane"),
        True,
    )
    assert found.taints == (Taint("k", "", "NoSchedule", 1_767_225_600.0),)
    assert (found.addresses, found.boot_id, found.kubelet_version) == ({"InternalIP": "10.0.0.1"}, "b1", "v1.37.2")
    assert (found.allocatable, found.created) == ({"cpu": 1.5, "memory": 2.0**31}, 1_767_225_600.0)


def test_who_cordoned_a_node_is_told_by_who_owns_the_field_and_only_while_it_is_set():
    fields = [
        {"manager": "kubelet", "fieldsV1": {"f:status": {}}},
        {"manager": "kubectl-cordon", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:unschedulable": {}}}},
    ]

    found = node({"unschedulable": True}, managedFields=fields)

    assert (found.cordoned_by.name, found.cordoned_by.at) == ("kubectl-cordon", 1_767_225_600.0)
    assert node({}, managedFields=fields).cordoned_by is None
    assert node({"unschedulable": True}, managedFields=fields[:1]).cordoned_by is None


def test_a_record_comes_back_as_it_was_written():
    record = CordonRecord("jo@desk", 'a "quoted" reason', "drain-1", 1_795_000_000.25)

    assert read_cordon(write_cordon(record)) == record
    assert node(annotations={CORDON: write_cordon(record)}).cordon == record
    assert read_cordon(None) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"owner": "a", "reason": "b", "run": "c", "at": "noon"}', "3"])
def test_a_record_that_cannot_be_read_still_says_that_somebody_owns_the_cordon(text):
    found = read_cordon(text)

    assert found.owner == "unknown"
    assert found.reason.startswith("unreadable record")


# ---- budgets and controllers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ({"minAvailable": 3}, "minAvailable: 3"),
        ({"minAvailable": 0}, "minAvailable: 0"),
        ({"minAvailable": "50%"}, "minAvailable: 50%"),
        ({"maxUnavailable": 1}, "maxUnavailable: 1"),
    ],
)
def test_the_rule_of_a_budget_is_told_as_it_was_written(spec, rule):
    assert read(BudgetObject, {"metadata": {"name": "web"}, "spec": spec}).rule == rule


def test_a_budget_is_read_with_its_numbers_and_its_selector():
    found = read(
        BudgetObject,
        {
            "metadata": {"namespace": "shop", "name": "web", "generation": 2},
            "spec": {
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {
                    "matchLabels": {"app": "web"},
                    "matchExpressions": [
                        {"key": "tier", "operator": "In", "values": ["a", "b"]},
                        {"key": "x", "operator": "Exists"},
                    ],
                },
            },
            "status": {
                "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 4,
                "observedGeneration": 1, "disruptedPods": {"web-1": "2026-01-01T00:00:00Z"},
            },
        },
    )  # fmt: skip

    assert (found.allowed, found.healthy, found.needed, found.expected) == (1, 3, 2, 4)
    assert not found.observed
    assert found.always_allow_unhealthy
    assert found.disrupted == {"web-1"}
    assert found.selector.expressions == (Requirement("tier", "In", ("a", "b")), Requirement("x", "Exists"))
    assert str(found.selector) == "app=web,tier in (a,b),x"


def test_a_budget_without_a_selector_is_told_from_one_with_an_empty_one():
    assert read(BudgetObject, {"metadata": {}, "spec": {}}).selector is None
    assert read(BudgetObject, {"metadata": {}, "spec": {"selector": {}}}).selector is not None


@pytest.mark.parametrize(
    ("kind", "spec", "status", "numbers"),
    [
        ("Deployment", {"replicas": 3}, {"readyReplicas": 2}, (3, 2)),
        ("Deployment", {}, {}, (None, 0)),
        ("DaemonSet", {}, {"desiredNumberScheduled": 5, "numberReady": 4}, (5, 4)),
        ("Job", {"parallelism": 2}, {"ready": 1}, (2, 1)),
    ],
)
def test_each_kind_of_controller_has_its_numbers_where_that_kind_has_them(kind, spec, status, numbers):
    sent = msgspec.convert({"metadata": {"name": "x"}, "spec": spec, "status": status}, type=WorkloadObject)

    found = sent.fact(kind)

    assert (found.kind, (found.wanted, found.ready)) == (kind, numbers)


# ---- small things ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("2", 2.0), ("100m", 0.1), ("1.5Gi", 1.5 * 2**30), ("1e3", 1000.0), ("2k", 2000.0), ("5n", 5e-9), ("0", 0.0)],
)
def test_quantities_have_their_number(text, number):
    assert quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "many", "1Xi", "1mi", "Gi"])
def test_what_is_no_quantity_is_no_number_and_not_zero(text):
    assert math.isnan(quantity(text))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"kind": "Pod"}', b"404 page not found"])
def test_only_a_status_is_a_status(body):
    assert read_status(body) is None


# ---- what a pod requests ----------------------------------------------------------------------------------------


def container(*, sidecar=False, **requests):
    made = {"name": "c", "resources": {"requests": requests}}
    return {**made, "restartPolicy": "Always"} if sidecar else made


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({}, None),
        ({"containers": [{"name": "c"}, {"name": "d", "resources": {}}]}, None),
        ({"containers": [container(cpu="250m"), container(cpu="1")]}, 1.25),
        # An init container runs before the others: the larger of the two counts.
        ({"containers": [container(cpu="1")], "initContainers": [container(cpu="3"), container(cpu="2")]}, 3.0),
        ({"containers": [container(cpu="4")], "initContainers": [container(cpu="3")]}, 4.0),
        # A sidecar runs beside the containers, and beside the init containers after it.
        ({"containers": [container(cpu="1")], "initContainers": [container(cpu="2", sidecar=True)]}, 3.0),
        (
            {
                "containers": [container(cpu="1")],
                "initContainers": [container(cpu="2", sidecar=True), container(cpu="5")],
            },
            7.0,
        ),
        (
            {
                "containers": [container(cpu="1")],
                "initContainers": [container(cpu="5"), container(cpu="2", sidecar=True)],
            },
            5.0,
        ),
        # Of the pod as a whole, in place of its containers'.
        ({"containers": [container(cpu="1")], "resources": {"requests": {"cpu": "3"}}}, 3.0),
        ({"containers": [container(cpu="1")], "overhead": {"cpu": "500m"}}, 1.5),
    ],
)
def test_a_pod_requests_what_the_scheduler_counts(spec, cpu):
    assert pod(spec=spec).requests.get("cpu") == cpu


def test_requests_are_in_the_models_units_and_of_every_resource():
    found = pod(spec={"containers": [container(memory="1Gi", **{"example.com/gpu": "2"})], "nodeSelector": {"a": "b"}})

    assert found.requests == {"memory": 2.0**30, "example.com/gpu": 2.0}
    assert found.node_selector == {"a": "b"}
