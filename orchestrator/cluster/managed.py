"""Clusters that are not kubeadm's on hosts with apt: who runs them, by what that is seen, and their own way up. Pure.

A provider id (`aws:///…`, `gce://…`, `azure://…`) tells nothing: clusters of kubeadm on rented machines have one too,
where a cloud provider runs in them. What tells is the version of the kubelet, which providers build themselves, labels
that only their node pools set, and the image of the operating system.

Source of labels and versions: the documentation of each provider.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.cluster.hostfacts import HostFacts
    from orchestrator.cluster.model import Node

GUIDE = "https://kubernetes.io/docs/tasks/administer-cluster/cluster-upgrade/"


@dataclass(frozen=True, slots=True)
class Managed:
    """A cluster that is upgraded another way.

    Attributes:
        name: Of what runs it.
        evidence: By what that is seen, and on which node.
        remedy: Its own way; what is in capitals is the reader's to fill in.
    """

    name: str
    evidence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Signs:
    """How something is recognised: any one of these will do.

    Attributes:
        labels: How a label's key begins.
        version: In the kubelet's version.
        image: How the name of the operating system begins.
    """

    name: str
    remedy: str
    labels: tuple[str, ...] = ()
    version: str = ""
    image: str = ""


#: The first that fits is it: providers that build on a distribution stand before it.
_KNOWN = (
    _Signs(
        "Google Kubernetes Engine (GKE)",
        "gcloud container clusters upgrade NAME --master --cluster-version VERSION, then each pool: "
        "gcloud container clusters upgrade NAME --node-pool POOL",
        ("cloud.google.com/gke-",),
        r"-gke\.",
    ),
    _Signs(
        "Amazon Elastic Kubernetes Service (EKS)",
        "aws eks update-cluster-version --name NAME --kubernetes-version VERSION, then each group: "
        "aws eks update-nodegroup-version --cluster-name NAME --nodegroup-name GROUP",
        ("eks.amazonaws.com/", "alpha.eksctl.io/"),
        r"-eks-",
    ),
    _Signs(
        "Azure Kubernetes Service (AKS)",
        "az aks upgrade --resource-group GROUP --name NAME --kubernetes-version VERSION",
        ("kubernetes.azure.com/cluster", "kubernetes.azure.com/agentpool"),
    ),
    _Signs(
        "DigitalOcean Kubernetes (DOKS)",
        "doctl kubernetes cluster upgrade NAME --version VERSION",
        ("doks.digitalocean.com/",),
    ),
    _Signs(
        "Linode Kubernetes Engine (LKE)",
        "linode-cli lke cluster-update ID --k8s_version VERSION, then linode-cli lke cluster-nodes-recycle ID",
        ("lke.linode.com/",),
    ),
    _Signs(
        "Oracle Kubernetes Engine (OKE)",
        "oci ce cluster update --cluster-id OCID --kubernetes-version VERSION, then oci ce node-pool update",
        ("oke.oraclecloud.com/", "node.info.ds_proxymux_client"),
    ),
    _Signs(
        "IBM Cloud Kubernetes Service (IKS)",
        "ibmcloud ks cluster master update --cluster NAME --version VERSION, then ibmcloud ks worker update",
        ("ibm-cloud.kubernetes.io/",),
        r"\+IKS",
    ),
    _Signs(
        "Alibaba Cloud Container Service (ACK)",
        "upgrade it in the console of Container Service: the cluster, Operations, Upgrade Cluster",
        ("alibabacloud.com/nodepool-id",),
        r"-aliyun\.",
    ),
    _Signs(
        "Tencent Kubernetes Engine (TKE)",
        "tccli tke UpdateClusterVersion --ClusterId ID --DstVersion VERSION",
        ("tke.cloud.tencent.com/",),
        r"-tke\.",
    ),
    _Signs(
        "Huawei or Open Telekom Cloud Container Engine (CCE)",
        "upgrade it in the console of the provider: CCE, the cluster, Upgrade",
        ("cce.cloud.com/",),
        r"-CCE\d",
    ),
    _Signs(
        "OVHcloud Managed Kubernetes",
        "upgrade it in the control panel: the cluster, Service, Upgrade to the next minor version",
        ("node.k8s.ovh/", "k8s.ovh.net/"),
    ),
    _Signs(
        "Scaleway Kapsule",
        "scw k8s cluster upgrade ID version=VERSION upgrade-pools=true",
        ("k8s.scaleway.com/kapsule", "k8s.scaleway.com/pool"),
    ),
    _Signs(
        "Exoscale Scalable Kubernetes Service (SKS)",
        "exo compute sks upgrade NAME VERSION, then replace the nodes of each pool: exo compute sks nodepool evict",
        ("node.exoscale.net/nodepool-id",),
    ),
    _Signs(
        "Civo Kubernetes",
        "civo kubernetes upgrade NAME --version VERSION",
        ("kubernetes.civo.com/",),
    ),
    _Signs(
        "Vultr Kubernetes Engine (VKE)",
        "vultr-cli kubernetes upgrades start ID --version VERSION",
        ("vke.vultr.com/",),
    ),
    _Signs(
        "Gardener",
        "set spec.kubernetes.version of its Shoot: kubectl edit shoot NAME",
        ("worker.gardener.cloud/",),
    ),
    _Signs(
        "OpenShift",
        "oc adm upgrade --to VERSION",
        ("node.openshift.io/",),
        image="Red Hat Enterprise Linux CoreOS",
    ),
    _Signs(
        "VMware Tanzu Kubernetes Grid",
        "tanzu cluster upgrade NAME, or set the version in its Cluster object",
        ("run.tanzu.vmware.com/",),
        r"\+vmware\.",
    ),
    _Signs(
        "kOps",
        "kops upgrade cluster --yes, kops update cluster --yes, kops rolling-update cluster --yes",
        ("kops.k8s.io/",),
    ),
    _Signs(
        "RKE2",
        "servers first, then agents, one after another: curl -sfL https://get.rke2.io | "
        "INSTALL_RKE2_VERSION=VERSION sh -, then systemctl restart rke2-server (https://docs.rke2.io/upgrades)",
        version=r"\+rke2r",
    ),
    _Signs(
        "k3s",
        "servers first, then agents, one after another: the install script with INSTALL_K3S_VERSION=VERSION and the "
        "arguments of the first time (https://docs.k3s.io/upgrades)",
        version=r"\+k3s",
    ),
    _Signs(
        "k0s",
        "k0sctl apply, with spec.k0s.version set (https://docs.k0sproject.io/stable/upgrade/)",
        version=r"\+k0s",
    ),
    _Signs(
        "MicroK8s",
        "one node after another: microk8s kubectl drain NODE, snap refresh microk8s --channel=VERSION/stable, "
        "microk8s kubectl uncordon NODE (https://microk8s.io/docs/upgrading)",
        ("microk8s.io/",),
    ),
    _Signs(
        "Talos Linux",
        "talosctl upgrade-k8s --to VERSION",
        image="Talos",
    ),
)


def provider(nodes: Sequence[Node]) -> Managed | None:
    """What runs the cluster, where that is not kubeadm; None where nothing tells of another."""
    found = ((signs, sign) for signs in _KNOWN for node in nodes if (sign := _sign(signs, node)))
    return next((Managed(signs.name, sign, signs.remedy) for signs, sign in found), None)


def _sign(signs: _Signs, node: Node) -> str:
    """What on a node tells of it, in words; "" when nothing does."""
    for key, value in sorted(node.labels.items()):
        if key.startswith(signs.labels):
            return f"{node.name} has the label {key}={value}"
    if signs.version and re.search(signs.version, node.kubelet_version):
        return f"{node.name} runs kubelet {node.kubelet_version}"
    if signs.image and node.os_image.startswith(signs.image):
        return f"{node.name} runs {node.os_image}"
    return ""


def plain(hosts: Mapping[str, HostFacts]) -> Managed | None:
    """A cluster whose components were set up by hand, as services of systemd; None where kubeadm set it up.

    kubeadm runs the API server as a static pod: there is a manifest for it on the host where it runs.

    Args:
        hosts: By node; the control planes have to be among them.
    """
    bare = [h for h in hosts.values() if "kube-apiserver" in h.components and "kube-apiserver" not in h.manifests]
    if bare:
        evidence = f"{bare[0].node} runs an API server that has no manifest in /etc/kubernetes/manifests"
    elif hosts and not any(h.manifests or h.kubeadm for h in hosts.values()):
        evidence = f"none of {len(hosts)} hosts has kubeadm, or a manifest in /etc/kubernetes/manifests"
    else:
        return None
    remedy = f'upgrade its components by hand, control planes first: {GUIDE}, "manual deployments"'
    return Managed("a cluster of components that were set up by hand", evidence, remedy)


def aptless(hosts: Mapping[str, HostFacts]) -> Managed | None:
    """Hosts whose packages are not apt's, by name; None where all have apt. Only hosts with apt are supported."""
    lacking = sorted(node for node, host in hosts.items() if not host.apt)
    if not lacking:
        return None
    named = ", ".join(f"{node} ({hosts[node].os or 'system not known'})" for node in lacking)
    return Managed(
        "a cluster with hosts that have no apt",
        f"no apt on {named}; only hosts with apt (Debian, Ubuntu) are supported",
        f"upgrade this cluster by hand with kubeadm, as {GUIDE} tells it for dnf",
    )
