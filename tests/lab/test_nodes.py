"""The cluster is a real one of kubeadm's, with everything at hand that its upgrade will ask for."""

import pytest

from lab import images, versions
from tests.lab.real import CONTROL_PLANE, WORKER, WORKER2

pytestmark = pytest.mark.lab
RELEASES = [versions.KUBERNETES[version] for version in ("1.36.3", "1.37.2")]


def running(real):
    """Images of the pods of kube-system."""
    pods = real.read("pods", "--namespace=kube-system")["items"]
    return {container["image"] for pod in pods for container in pod["spec"]["containers"]}


def test_three_nodes_are_ready_and_of_the_version_that_was_asked_for(real):
    nodes = {node["metadata"]["name"]: node for node in real.read("nodes")["items"]}

    assert set(nodes) == {CONTROL_PLANE, WORKER, WORKER2}
    assert {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes.values()} == {"v1.36.3"}
    assert [real.ready(name) for name in nodes] == ["True"] * 3
    assert "node-role.kubernetes.io/control-plane" in nodes[CONTROL_PLANE]["metadata"]["labels"]


def test_kubeadm_made_the_cluster(real):
    configured = real.read("configmap", "kubeadm-config", "--namespace=kube-system")["data"]["ClusterConfiguration"]
    manifests = real.ssh(CONTROL_PLANE, "ls", "/etc/kubernetes/manifests").split()

    assert "kubernetesVersion: v1.36.3" in configured
    assert manifests == ["etcd.yaml", "kube-apiserver.yaml", "kube-controller-manager.yaml", "kube-scheduler.yaml"]


def test_the_pods_of_the_system_run_the_images_of_that_kubeadm(real):
    found = running(real)

    parts = ("apiserver", "controller-manager", "scheduler", "proxy")
    assert found == {
        "registry.k8s.io/coredns/coredns:v1.14.2",
        "registry.k8s.io/etcd:3.6.8-0",
        *(f"registry.k8s.io/kube-{part}:v1.36.3" for part in parts),
    }


@pytest.mark.parametrize("node", [CONTROL_PLANE, WORKER, WORKER2])
def test_each_node_has_the_images_of_both_versions_and_the_one_for_tests(real, node):
    kept = set(real.ssh(node, "ctr", "-n", "k8s.io", "images", "ls", "-q").split())

    parts = ("apiserver", "controller-manager", "scheduler", "proxy")
    wanted = {f"registry.k8s.io/kube-{part}:v{release.version}" for part in parts for release in RELEASES}
    wanted |= {f"registry.k8s.io/etcd:{release.etcd}-0" for release in RELEASES}
    wanted |= {f"registry.k8s.io/coredns/coredns:v{release.coredns}" for release in RELEASES}
    wanted |= {f"registry.k8s.io/pause:{release.pause}" for release in RELEASES}
    assert wanted | {images.TEST_IMAGE} <= kept


def test_nodes_are_machines_to_their_administrators(real):
    units = real.ssh(WORKER, "systemctl", "is-active", "kubelet", "containerd", "ssh").split()

    assert units == ["active"] * 3
    assert real.ssh(WORKER, "cat /proc/1/comm") == "systemd\n"
