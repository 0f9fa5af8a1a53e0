"""A restore of etcd as it is taught, command after command, as a careful person types it.

Source: Kubernetes, "Operating etcd clusters", "Restoring an etcd cluster": stop all API servers, restore the state in
all members, start all API servers; kubeadm's static pods are stopped by moving their manifests away.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING

from lab import progress
from lab.processes import wait_for

if TYPE_CHECKING:
    from lab.state import Node
    from lab.upgrades.access import Access

SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_PLACE = "/root/restore"
_PAUSE_S = 1.0
_WAIT_S = 300
_PKI = "/etc/kubernetes/pki/etcd"
_ETCDCTL = (
    f"{_PLACE}/etcdctl --endpoints=https://127.0.0.1:2379 --cacert={_PKI}/ca.crt --cert={_PKI}/server.crt"
    f" --key={_PKI}/server.key --command-timeout=10s"
)
_SNAPSHOT = f"{_PLACE}/snapshot.db"


class Textbook:
    """One restore of one cluster.

    Args:
        access: To the cluster.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._planes = access.control_planes()

    def save(self) -> None:
        """A snapshot, and etcd's programs, on every control plane: none of this stops anything."""
        first = self._planes[0].name
        for node in self._planes:
            self._on(
                node.name,
                f"mkdir -p {_PLACE}/stopped; cp /proc/$(pidof etcd)/root/usr/local/bin/etcd* {_PLACE}/",
            )
        self._on(first, f"{_ETCDCTL} snapshot save {_SNAPSHOT} > /dev/null 2>&1")
        text = self._on(first, f"base64 -w0 {_SNAPSHOT}")
        for node in self._planes[1:]:
            self._on(node.name, f"base64 -d > {_SNAPSHOT} <<'END'\n{text}\nEND")

    def restore(self) -> None:
        """Take the cluster back to it, one command after another, on one control plane after another."""
        self._stop(*SERVERS)
        self._stop("etcd")
        cluster = ",".join(f"{node.name}={_peer(node)}" for node in self._planes)
        token = secrets.token_hex(8)
        with progress.step("the data of every member restored and put in place"):
            for node in self._planes:
                self._on(
                    node.name,
                    f"{_PLACE}/etcdutl snapshot restore {_SNAPSHOT} --data-dir /var/lib/etcd-restored"
                    f" --name {node.name} --initial-cluster {cluster} --initial-advertise-peer-urls {_peer(node)}"
                    f" --initial-cluster-token {token} --bump-revision 1000000000 --mark-compacted > /dev/null 2>&1;"
                    " mv /var/lib/etcd /var/lib/etcd-old; mv /var/lib/etcd-restored /var/lib/etcd",
                )
        self._start("etcd")
        self._until("all members to be healthy", f"{_ETCDCTL} endpoint health --cluster > /dev/null 2>&1 && echo yes")
        self._start(SERVERS[0])
        self._until("every API server to be ready", _READY)
        self._start(*SERVERS[1:])
        self._until("controllers and schedulers to run", f"pidof {SERVERS[1]} && pidof {SERVERS[2]}")

    def _stop(self, *names: str) -> None:
        with progress.step(f"stopping {', '.join(names)}"):
            for node in self._planes:
                self._on(
                    node.name, "; ".join(f"mv /etc/kubernetes/manifests/{n}.yaml {_PLACE}/stopped/" for n in names)
                )
            for name in names:
                self._until(f"no {name} to run", f"pidof {name} > /dev/null || echo gone")

    def _start(self, *names: str) -> None:
        for node in self._planes:
            self._on(node.name, "; ".join(f"mv {_PLACE}/stopped/{n}.yaml /etc/kubernetes/manifests/" for n in names))

    def _until(self, what: str, script: str) -> None:
        """Every control plane says something to that question."""
        for node in self._planes:
            remedy = f"python -m lab ssh {node.name}"
            asked = partial(self._says, node.name, script)
            wait_for(f"{what} on {node.name}", asked, timeout_s=_WAIT_S, pause_s=_PAUSE_S, remedy=remedy)

    def _says(self, node: str, script: str) -> bool:
        return bool(self._on(node, f"{{ {script}; }} || true").strip())

    def _on(self, node: str, script: str) -> str:
        return self._access.ssh(node, f"{script}\n")


_READY = (
    "kubectl --kubeconfig /etc/kubernetes/admin.conf --server https://$(hostname -i | cut -d' ' -f1):6443"
    " --request-timeout=3s get --raw /readyz 2> /dev/null | grep -x ok"
)


def _peer(node: Node) -> str:
    return f"https://{node.address}:2380"
