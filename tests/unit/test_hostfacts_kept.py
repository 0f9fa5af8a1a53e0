"""What is kept of earlier upgrades on a control plane, and whom its kubelet asks."""

import pytest

from orchestrator.cluster.hostfacts import HostFacts, Manifest, parse_kept

TMP = "/etc/kubernetes/tmp"
SERVER = "- kube-apiserver\n    - --advertise-address=10.0.0.1\n"
ANSWER = f"""@@manifest {TMP}/kubeadm-backup-manifests-2026-11-24-10-10-51/etcd.yaml {TMP}/kubeadm-backup-manifests-2026-11-24-10-10-51
     image: registry.k8s.io/etcd:3.6.8-0
@@manifest {TMP}/kubeadm-backup-manifests-2026-11-24-10-10-51/kube-apiserver.yaml {TMP}/kubeadm-backup-manifests-2026-11-24-10-10-51
     image: registry.k8s.io/kube-apiserver:v1.36.3
@@manifest {TMP}/kubeadm-backup-manifests-2026-05-01-09-00-00/kube-scheduler.yaml {TMP}/kubeadm-backup-manifests-2026-05-01-09-00-00
     image: registry.k8s.io/kube-scheduler:v1.35.4
@@manifest {TMP}/kubeadm-backup-manifests-2026-05-01-09-00-00/odd.yaml {TMP}/kubeadm-backup-manifests-2026-05-01-09-00-00
     no picture
@@data {TMP}/kubeadm-backup-etcd-2026-11-24-10-10-51/etcd {TMP}/kubeadm-backup-etcd-2026-11-24-10-10-51
@@source /etc/apt/sources.list.d/kubernetes.list.v1.36.bak
 deb http://x/core:/stable:/v1.36/deb/ /
@@end
"""  # noqa: E501


def test_the_latest_upgrade_comes_first_with_its_copy_of_the_data():
    latest, earlier = parse_kept(ANSWER)

    assert str(latest.version) == "v1.36.3"
    assert {name: str(v) for name, v in latest.versions.items()} == {"etcd": "v3.6.8", "kube-apiserver": "v1.36.3"}
    assert latest.data == f"{TMP}/kubeadm-backup-etcd-2026-11-24-10-10-51/etcd"
    assert (str(earlier.version), earlier.data) == ("v1.35.4", "")


def test_an_upgrade_that_changed_etcd_only_has_no_version_of_kubernetes():
    [only] = parse_kept(f"@@manifest {TMP}/b-1/etcd.yaml {TMP}/b-1\n image: etcd:3.6.8-0\n@@end\n")

    assert only.version is None


def test_nothing_kept_is_nothing():
    assert parse_kept("@@end\n") == ()


@pytest.mark.parametrize(
    ("asks", "itself"),
    [
        ("https://10.0.0.1:6443", True),
        ("https://10.0.0.1", True),
        ("https://lb.example:6443", False),
        ("https://10.0.0.10:6443", False),
        ("", False),
    ],
)
def test_a_kubelet_asks_its_own_api_server_or_the_clusters_endpoint(asks, itself):
    manifest = Manifest("kube-apiserver", "kube-apiserver:v1.36.3", SERVER)

    assert HostFacts("cp-1", asks=asks, manifests={"kube-apiserver": manifest}).asks_itself is itself
    assert not HostFacts("worker-1", asks=asks).asks_itself
