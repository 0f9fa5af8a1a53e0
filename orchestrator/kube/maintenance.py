"""What maintenance wants to know of a cluster beside its nodes and pods."""

from __future__ import annotations

import re
from datetime import datetime
from urllib.parse import quote

import msgspec

from orchestrator.errors import ApiForbidden, ApiNotFound
from orchestrator.kube.cluster import KubeView
from orchestrator.kube.wire import Wire

_KUBE_SYSTEM = "/api/v1/namespaces/kube-system"
_REQUESTED = re.compile(r"^apiserver_requested_deprecated_apis\{([^}]*)\} ([0-9.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class _LeaseSpec(Wire):
    renew_time: datetime | None = None


class _Lease(Wire):
    spec: _LeaseSpec = msgspec.field(default_factory=_LeaseSpec)


class _ConfigMap(Wire):
    data: dict[str, str] = msgspec.field(default_factory=dict)


_LEASE = msgspec.json.Decoder(_Lease)
_CONFIG_MAP = msgspec.json.Decoder(_ConfigMap)


class KubeMaintenance(KubeView):
    """A view that also knows of heartbeats, of kubeadm's settings, and of requests for APIs that will be removed."""

    def heartbeat(self, node: str) -> float | None:
        """When the kubelet of `node` last renewed its lease, in seconds since the epoch; None when it has none.

        Source: kubelets renew a Lease of the node's name in `kube-node-lease` every 10 s.
        """
        return self._renewed("kube-node-lease", node)

    def leads(self, component: str) -> float | None:
        """When the leader of a component last renewed its lease, in seconds since the epoch; None when none leads.

        Source: leader election of kube-controller-manager and kube-scheduler: a Lease of their name in kube-system,
        renewed every 2 s; another one takes over after 15 s.
        """
        return self._renewed("kube-system", component)

    def _renewed(self, namespace: str, name: str) -> float | None:
        what = f"read the lease {namespace}/{name}"
        path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{quote(name)}"
        try:
            answer = self._get(path, {}, what)
        except ApiNotFound:
            return None
        at = self._parse(_LEASE, answer, what).spec.renew_time
        return at.timestamp() if at else None

    def configuration(self) -> str:
        """The ClusterConfiguration of kubeadm, as YAML; "" where kubeadm left none.

        Source: kubeadm keeps it in the ConfigMap kube-system/kubeadm-config.
        """
        what = "read kubeadm's configuration"
        try:
            answer = self._get(f"{_KUBE_SYSTEM}/configmaps/kubeadm-config", {}, what)
        except ApiNotFound:
            return ""
        return self._parse(_CONFIG_MAP, answer, what).data.get("ClusterConfiguration", "")

    def deprecated(self) -> tuple[str, ...] | None:
        """APIs that were asked for and will be removed, as `GROUP/VERSION/RESOURCE@REMOVED_RELEASE`; None if hidden.

        Source: the API server's metric `apiserver_requested_deprecated_apis`: 1 for each that was asked for since it
        started. Reading metrics needs a permission of its own.
        """
        try:
            answer = self._get("/metrics", {}, "read the API server's metrics")
        except ApiForbidden:
            return None
        found = []
        for labels, value in _REQUESTED.findall(answer.body.decode(errors="replace")):
            known = dict(_LABEL.findall(labels))
            if float(value):
                group = known.get("group", "")
                name = "/".join(part for part in (group, known.get("version", ""), known.get("resource", "")) if part)
                found.append(f"{name}@{known.get('removed_release', '')}")
        return tuple(sorted(set(found)))
