"""What is gone at which version."""

import re

import pytest

from orchestrator.cluster import removed
from orchestrator.cluster.removed import Removed
from orchestrator.cluster.versions import parse


@pytest.mark.parametrize(
    ("argument", "target", "since"),
    [
        ("--containerd=/run/containerd/containerd.sock", "1.37.2", "1.37"),
        ("--containerd", "1.37.2", "1.37"),
        ("--global_housekeeping_interval=1m", "1.37.2", "1.37"),
        ("--containerd=/run/containerd/containerd.sock", "1.36.3", ""),
        ("--pod-infra-container-image=registry.k8s.io/pause:3.10", "1.35.0", "1.35"),
        ("--pod-infra-container-image=registry.k8s.io/pause:3.10", "1.37.2", "1.35"),
        ("--pod-infra-container-image=registry.k8s.io/pause:3.10", "1.34.9", ""),
        ("--keep-terminated-pod-volumes", "1.31.0", "1.31"),
        ("--cloud-config=/etc/cloud", "1.34.0", "1.34"),
        ("--housekeeping-interval=10s", "1.37.2", ""),
        ("--containerd-address=x", "1.37.2", ""),
        ("--concurrent-service-syncs=2", "1.37.2", ""),
        ("/usr/bin/kubelet", "1.37.2", ""),
    ],
)
def test_a_flag_of_the_kubelet_stops_working_at_its_minor_and_after_it(argument, target, since):
    found = removed.flags([argument], parse(target))

    assert [each.since for each in found] == ([since] if since else [])
    assert all(each.name.startswith("--") and "=" not in each.name and "_" not in each.name for each in found)


def test_each_component_has_flags_of_its_own():
    arguments = ["kube-controller-manager", "--concurrent-service-syncs=2", "--containerd=x"]

    assert removed.flags(arguments, parse("1.37.0"), "kube-controller-manager") == (
        Removed("--concurrent-service-syncs", "1.37"),
    )
    assert removed.flags(arguments, parse("1.37.0"), "kube-scheduler") == ()


def test_a_flag_given_twice_is_told_once_and_in_the_order_of_the_arguments():
    found = removed.flags(["--machine-id-file=a", "--boot-id-file=b", "--machine-id-file=c"], parse("1.38.0"))

    assert [each.name for each in found] == ["--machine-id-file", "--boot-id-file"]


@pytest.mark.parametrize(
    ("gate", "target", "since"),
    [
        ("SidecarContainers", "1.37.0", "1.37"),
        ("SidecarContainers", "1.36.3", ""),
        ("HonorPVReclaimPolicy", "1.36.0", "1.36"),
        ("HonorPVReclaimPolicy", "1.35.4", ""),
        ("AppArmor", "1.37.2", "1.33"),
        ("KubeletInUserNamespace", "1.37.2", ""),
        ("DynamicResourceAllocation", "1.37.2", ""),
        ("NodeLocalCRISocket", "1.37.2", ""),
    ],
)
def test_a_feature_gate_is_unknown_at_its_minor_and_after_it(gate, target, since):
    found = removed.gates([gate, gate], parse(target))

    assert found == ((Removed(gate, since),) if since else ())


def test_kubeadm_has_gates_of_its_own():
    names = ["NodeLocalCRISocket", "RootlessControlPlane", "EtcdLearnerMode", "SidecarContainers"]

    assert removed.kubeadm_gates(names, parse("1.37.2")) == (
        Removed("NodeLocalCRISocket", "1.37"),
        Removed("EtcdLearnerMode", "1.33"),
    )
    assert removed.kubeadm_gates(names, parse("1.36.3")) == (Removed("EtcdLearnerMode", "1.33"),)


@pytest.mark.parametrize(
    ("name", "target", "since", "instead"),
    [
        ("storage.k8s.io/v1beta1/volumeattributesclasses", "1.37.2", "1.37", "storage.k8s.io/v1"),
        ("storage.k8s.io/v1beta1/volumeattributesclasses", "1.36.3", "", ""),
        ("storage.k8s.io/v1beta1/csinodes", "1.37.2", "", ""),
        ("scheduling.k8s.io/v1alpha2/workloads", "1.37.0", "1.37", "scheduling.k8s.io/v1beta1"),
        ("scheduling.k8s.io/v1alpha2", "1.37.0", "1.37", "scheduling.k8s.io/v1beta1"),
        ("flowcontrol.apiserver.k8s.io/v1beta3/flowschemas", "1.32.0", "1.32", "flowcontrol.apiserver.k8s.io/v1"),
        ("networking.k8s.io/v1alpha1/clustercidrs", "1.37.0", "1.29", ""),
        ("networking.k8s.io/v1alpha1/ipaddresses", "1.34.0", "1.34", "networking.k8s.io/v1"),
        ("v1/endpoints", "1.37.2", "", ""),
        ("apps/v1/deployments", "1.37.2", "", ""),
    ],
)
def test_an_api_version_is_gone_at_its_minor_and_after_it(name, target, since, instead):
    found = removed.apis([name, name], parse(target))

    assert found == ((Removed(name, since, instead),) if since else ())


def test_the_data_is_well_formed_and_nothing_stands_in_it_twice():
    gates = [gate for names in removed.GATES.values() for gate in names]
    flags = [(name, flag) for name, lists in removed.FLAGS.items() for flags in lists.values() for flag in flags]
    apis = [api for lists in removed.APIS.values() for api in lists]

    assert all(len(set(each)) == len(each) for each in (gates, flags, apis))
    assert all(list(lists) == sorted(lists) for lists in (removed.GATES, removed.APIS, *removed.FLAGS.values()))
    assert all(re.fullmatch(r"--[a-z][a-z0-9-]+", flag) for _, flag in flags)
    assert all(re.fullmatch(r"[A-Za-z0-9]+", gate) for gate in gates)
    assert all(re.fullmatch(r"[a-z.0-9]+/v\d\w*(/[a-z]+)?", api) for api in apis)
    assert {flag for _, flag in flags} >= removed.CLEANED


def test_api_versions_that_go_on_the_way_are_those_after_the_current_minor_up_to_the_target():
    assert "networking.k8s.io/v1beta1/servicecidrs" in removed.until(parse("1.36.3"), parse("1.37.2"))
    assert "scheduling.k8s.io/v1alpha1" not in removed.until(parse("1.36.3"), parse("1.37.2"))
    assert "scheduling.k8s.io/v1alpha1" in removed.until(parse("1.35.0"), parse("1.37.2"))
    assert removed.until(parse("1.37.0"), parse("1.37.2")) == ()
