"""Whose cluster it is."""

import pytest

from orchestrator.cluster import managed
from orchestrator.cluster.hostfacts import HostFacts, Manifest
from orchestrator.cluster.model import Node
from orchestrator.cluster.versions import parse


def node(version="v1.36.3", *, labels=None, image="Debian GNU/Linux 12 (bookworm)", provider_id="", name="n1"):
    return Node(
        name, "u", "1", unschedulable=False, ready=True, kubelet_version=version, labels=labels or {}, os_image=image,
        provider_id=provider_id,
    )  # fmt: skip


def host(name, *, apt=True, manifests=(), components=(), kubeadm=True, os="Debian GNU/Linux 12 (bookworm)"):
    return HostFacts(
        name,
        os=os,
        apt=apt,
        kubeadm=parse("v1.36.3") if kubeadm else None,
        manifests={m: Manifest(m, f"registry.k8s.io/{m}:v1.36.3", "") for m in manifests},
        components=dict.fromkeys(components, parse("v1.36.3")),
    )


@pytest.mark.parametrize(
    ("version", "name", "remedy"),
    [
        ("v1.33.5-gke.1162000", "GKE", "gcloud container clusters upgrade NAME --master --cluster-version VERSION"),
        ("v1.33.4-eks-99d6cc0", "EKS", "aws eks update-cluster-version"),
        ("v1.32.9+IKS", "IKS", "ibmcloud ks cluster master update"),
        ("v1.34.3-aliyun.1", "ACK", "console of Container Service"),
        ("v1.30.0-tke.7", "TKE", "tccli tke UpdateClusterVersion"),
        ("v1.31.6-r0-CCE25.7.1.B003", "CCE", "console"),
        ("v1.28.7+vmware.1", "Tanzu", "tanzu cluster upgrade"),
        ("v1.34.1+k3s1", "k3s", "INSTALL_K3S_VERSION=VERSION"),
        ("v1.34.1+rke2r1", "RKE2", "INSTALL_RKE2_VERSION=VERSION"),
        ("v1.34.1+k0s", "k0s", "k0sctl apply"),
    ],
)
def test_a_kubelet_that_a_provider_built_tells_whose_cluster_it_is(version, name, remedy):
    found = managed.provider([node(version)])

    assert name in found.name
    assert found.evidence == f"n1 runs kubelet {version}"
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("label", "name", "remedy"),
    [
        ("cloud.google.com/gke-nodepool", "GKE", "gcloud container clusters upgrade"),
        ("eks.amazonaws.com/nodegroup", "EKS", "aws eks update-cluster-version"),
        ("kubernetes.azure.com/cluster", "AKS", "az aks upgrade"),
        ("doks.digitalocean.com/node-pool", "DOKS", "doctl kubernetes cluster upgrade"),
        ("lke.linode.com/pool-id", "LKE", "linode-cli lke"),
        ("oke.oraclecloud.com/pool.name", "OKE", "oci ce cluster update"),
        ("ibm-cloud.kubernetes.io/worker-pool-id", "IKS", "ibmcloud ks"),
        ("alibabacloud.com/nodepool-id", "ACK", "console of Container Service"),
        ("tke.cloud.tencent.com/nodepool-id", "TKE", "tccli tke"),
        ("cce.cloud.com/cce-nodepool", "CCE", "console"),
        ("node.k8s.ovh/type", "OVHcloud", "control panel"),
        ("k8s.scaleway.com/pool-name", "Scaleway", "scw k8s cluster upgrade"),
        ("node.exoscale.net/nodepool-id", "Exoscale", "exo compute sks upgrade"),
        ("kubernetes.civo.com/civo-node-pool", "Civo", "civo kubernetes upgrade"),
        ("vke.vultr.com/node-pool", "Vultr", "vultr-cli kubernetes upgrades"),
        ("worker.gardener.cloud/pool", "Gardener", "kubectl edit shoot"),
        ("node.openshift.io/os_id", "OpenShift", "oc adm upgrade"),
        ("run.tanzu.vmware.com/tkr", "Tanzu", "tanzu cluster upgrade"),
        ("kops.k8s.io/instancegroup", "kOps", "kops upgrade cluster"),
        ("microk8s.io/cluster", "MicroK8s", "snap refresh microk8s"),
    ],
)
def test_a_label_that_only_a_provider_sets_tells_whose_cluster_it_is(label, name, remedy):
    found = managed.provider([node(), node(name="n2", labels={label: "x"})])

    assert name in found.name
    assert found.evidence == f"n2 has the label {label}=x"
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("Talos (v1.11.2)", "Talos Linux"),
        ("Red Hat Enterprise Linux CoreOS 418.94.202501221327-0", "OpenShift"),
    ],
)
def test_a_system_that_is_made_for_one_kind_of_cluster_tells_it(image, name):
    found = managed.provider([node(image=image)])

    assert found.name == name
    assert found.evidence == f"n1 runs {image}"


@pytest.mark.parametrize(
    "provider_id",
    [
        "aws:///eu-west-1a/i-0123456789abcdef0",
        "gce://project/europe-west1-b/node-1",
        "azure:///subscriptions/1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/node-1",
        "openstack:///8f3e",
        "digitalocean://123456",
        "hcloud://123456",
        "kind://docker/dev/dev-worker",
        "",
    ],
)
def test_a_provider_id_alone_does_not_make_a_cluster_managed(provider_id):
    labels = {
        "topology.kubernetes.io/zone": "eu-west-1a",
        "node.kubernetes.io/instance-type": "m5.large",
        "kubernetes.azure.com/role": "agent",
        "k8s.scaleway.com/project-env": "infra",
    }

    assert managed.provider([node(provider_id=provider_id, labels=labels)]) is None


@pytest.mark.parametrize("version", ["v1.36.3", "v1.37.0-rc.1", "v1.36.3-1.1", ""])
def test_kubeadms_own_versions_are_nobody_elses(version):
    assert managed.provider([node(version)]) is None


def test_without_nodes_nothing_is_recognised():
    assert managed.provider([]) is None


def test_a_provider_that_builds_on_a_distribution_is_named_before_it():
    found = managed.provider([node("v1.34.1+k3s1", labels={"kubernetes.civo.com/civo-node-pool": "x"})])

    assert found.name == "Civo Kubernetes"


# ---- hosts ------------------------------------------------------------------------------------------------------


def test_a_cluster_of_kubeadm_is_not_plain():
    hosts = [
        host("cp", manifests=("kube-apiserver", "etcd"), components=("kube-apiserver", "etcd")),
        host("worker"),
    ]

    assert managed.plain({h.node: h for h in hosts}) is None


def test_a_control_plane_that_is_down_is_still_kubeadms():
    assert managed.plain({"cp": host("cp", manifests=("kube-apiserver",), kubeadm=False)}) is None


def test_an_api_server_without_a_manifest_was_set_up_by_hand_though_kubeadm_is_installed_somewhere():
    hosts = {"cp": host("cp", components=("kube-apiserver", "etcd"), kubeadm=False), "worker": host("worker")}

    found = managed.plain(hosts)

    assert found.evidence == "cp runs an API server that has no manifest in /etc/kubernetes/manifests"
    assert managed.GUIDE in found.remedy
    assert '"manual deployments"' in found.remedy


def test_hosts_without_a_trace_of_kubeadm_were_set_up_by_hand():
    found = managed.plain({n: host(n, kubeadm=False) for n in ("a", "b")})

    assert found.evidence.startswith("none of 2 hosts has kubeadm")


def test_without_hosts_nothing_is_said_of_them():
    assert managed.plain({}) is None
    assert managed.aptless({}) is None


def test_hosts_without_apt_are_named_with_their_system():
    hosts = {
        "a": host("a"),
        "c": host("c", apt=False, os=""),
        "b": host("b", apt=False, os="Rocky Linux 9.4 (Blue Onyx)"),
    }

    found = managed.aptless(hosts)

    assert found.evidence == (
        "no apt on b (Rocky Linux 9.4 (Blue Onyx)), c (system not known); only hosts with apt (Debian, Ubuntu) are"
        " supported"
    )
    assert managed.aptless({"a": hosts["a"]}) is None
