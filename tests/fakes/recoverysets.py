"""Recovery sets as `etcd backup` makes them, and machines that answer how they stand."""

import io
import json
import tarfile

import yaml

from orchestrator.cluster.recovery import CONFIGMAPS, MANIFESTS, PKI, SHARED, TOOL
from tests.fakes import boltfiles

ETCD = """\
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=https://{address}:2379
    - --data-dir=/var/lib/etcd
    - --initial-advertise-peer-urls=https://{address}:2380
    - --initial-cluster={name}=https://{address}:2380
    - --listen-client-urls=https://127.0.0.1:2379,https://{address}:2379
    - --name={name}
    image: registry.k8s.io/etcd:3.6.8-0
  volumes:
  - hostPath:
      path: /var/lib/etcd
      type: DirectoryOrCreate
    name: etcd-data
"""
SERVER = """\
metadata:
  annotations:
    kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: {address}:6443
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address={address}
    - --encryption-provider-config=/etc/kubernetes/enc/config.yaml
    - --audit-log-path=/var/log/audit.log
    - --secure-port=6443
    image: registry.k8s.io/kube-apiserver:v1.36.3
"""
OTHER = "spec:\n  containers:\n  - image: registry.k8s.io/{name}:v1.36.3\n"
FLAGS = 'KUBELET_KUBEADM_ARGS="--node-ip={address} --provider-id=kind://docker/x/{name} --node-labels="\n'
CONFIGURATION = (
    "apiVersion: kubeadm.k8s.io/v1beta4\nclusterName: prod\nkind: ClusterConfiguration\nkubernetesVersion: v1.36.3\n"
)
RUNTIME = "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\nrotateCertificates: true\n"


def texts(name="cp-1", address="198.18.0.11", **changes):
    """Path -> contents of a set that was taken on that control plane; `changes` by the last part of the path."""
    told = {"name": name, "address": address}
    found = {
        f"{MANIFESTS}/etcd.yaml": ETCD.format(**told),
        f"{MANIFESTS}/kube-apiserver.yaml": SERVER.format(**told),
        **{
            f"{MANIFESTS}/{each}.yaml": OTHER.format(name=each)
            for each in ("kube-controller-manager", "kube-scheduler")
        },
        "/var/lib/kubelet/config.yaml": RUNTIME,
        "/var/lib/kubelet/kubeadm-flags.env": FLAGS.format(**told),
        "/etc/kubernetes/enc/config.yaml": "kind: EncryptionConfiguration\n",
        "/etc/kubernetes/admin.conf": "the certificate of one year\n",
        f"{PKI}/apiserver.crt": "one node's\n",
        **{path: f"{path}\n" for path in SHARED},
        CONFIGMAPS: yaml.safe_dump({"items": [{"data": {"x": ""}}, {"data": {"ClusterConfiguration": CONFIGURATION}}]}),
        TOOL: "a program\n",
    }
    for path in tuple(found):
        word = "enc" if "/enc/" in path else path.rpartition("/")[2].partition(".")[0].replace("-", "_")
        if word in changes:
            found[path] = changes[word]
    return {path: text for path, text in found.items() if text is not None}


def archive(found, links=()):
    """A set as a tar, as the host packs it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, text in found.items():
            entry = tarfile.TarInfo(path.removeprefix("/"))
            entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = len(text.encode()), 0o640, 3, 4, 1000
            tar.addfile(entry, io.BytesIO(text.encode()))
        for name in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/shadow"
            tar.addfile(entry)
    return out.getvalue()


def answer(name="cp-1", address="198.18.0.11", *, heads=(), **changes):
    """What a fresh machine answers; `heads` are more sections without text."""
    told = {
        "name": name, "addresses": f"127.0.0.1\n{address}", "kubeadm": "v1.36.3", "kubelet": "Kubernetes v1.36.3",
        "kubectl": "/usr/bin/kubectl", "runtime": "active\ninactive", "service": "activating", "others": "",
        **changes,
    }  # fmt: skip
    lines = [line for head, text in told.items() for line in (f"@@{head}", *(f" {row}" for row in text.split("\n")))]
    return "\n".join([*lines, *(f"@@{head}" for head in heads), "@@end", ""])


def member(number):
    """A row of the bucket `members` of a snapshot."""
    told = {"id": number, "name": f"cp-{number}", "peerURLs": [f"https://198.18.0.{10 + number}:2380"]}
    return (b"%x" % number, json.dumps(told).encode())


def snapshot(planes=3):
    """A snapshot of a cluster with so many members."""
    keys = boltfiles.Keys()
    keys.put(b"/registry/pods/a/b", b"x")
    return boltfiles.snapshot(keys.pairs, members=[member(n) for n in range(1, planes + 1)])
