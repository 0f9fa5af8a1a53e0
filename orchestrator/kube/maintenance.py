"""What maintenance wants to know of a cluster beside its nodes and pods."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from orchestrator.cluster.model import Renewal, Written
from orchestrator.cluster.removed import requested
from orchestrator.errors import ApiForbidden, ApiNotFound, ApiUnreachable
from orchestrator.kube.cluster import KubeView
from orchestrator.kube.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.kube.session import Response

#: For one read that tells whether the API is there.
GLANCE_S = 5.0
_KUBE_SYSTEM = "/api/v1/namespaces/kube-system"


class _LeaseSpec(Wire):
    renew_time: datetime | None = None


class _Lease(Wire):
    spec: _LeaseSpec = msgspec.field(default_factory=_LeaseSpec)


class _ConfigMap(Wire):
    data: dict[str, str] = msgspec.field(default_factory=dict)


class _Preferred(Wire):
    group_version: str = ""


class _Group(Wire):
    preferred_version: _Preferred = msgspec.field(default_factory=_Preferred)


class _Resource(Wire):
    name: str
    verbs: list[str] = msgspec.field(default_factory=list)


class _Resources(Wire):
    resources: list[_Resource] = msgspec.field(default_factory=list)


class _Manager(Wire):
    manager: str = ""
    api_version: str = ""


class _Meta(Wire):
    name: str = ""
    namespace: str = ""
    managed_fields: list[_Manager] | None = None


class _Object(Wire):
    metadata: _Meta


#: Source: API concepts, "Metadata-only fetches": one such list for every kind, whatever its spec is.
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_GROUP = msgspec.json.Decoder(_Group)
_RESOURCES = msgspec.json.Decoder(_Resources)
_LEASE = msgspec.json.Decoder(_Lease)
_CONFIG_MAP = msgspec.json.Decoder(_ConfigMap)


class KubeMaintenance(KubeView):
    """A view that also knows of heartbeats, of kubeadm's settings, and of requests for APIs that will be removed."""

    def heartbeat(self, node: str) -> Renewal | None:
        """When the kubelet of `node` last renewed its lease; None when it has none.

        Source: kubelets renew a Lease of the node's name in `kube-node-lease` every 10 s.
        """
        return self._renewed("kube-node-lease", node)

    def leads(self, component: str) -> Renewal | None:
        """When the leader of a component last renewed its lease; None when none leads.

        Source: leader election of kube-controller-manager and kube-scheduler: a Lease of their name in kube-system,
        renewed every 2 s; another one takes over after 15 s.
        """
        return self._renewed("kube-system", component)

    def _renewed(self, namespace: str, name: str) -> Renewal | None:
        what = f"read the lease {namespace}/{name}"
        path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{quote(name)}"
        try:
            answer = self._get(path, {}, what)
        except ApiNotFound:
            return None
        at = self._parse(_LEASE, answer, what).spec.renew_time
        return Renewal(at.timestamp(), _told_at(answer, self._clock.wall())) if at else None

    def glance(self) -> None:
        """One authorised read, without patience; see `actions.site.Site`.

        It is asked again at once: a connection that was kept may have ended long ago, which is no break.
        """

        def ask() -> None:
            self._attempt("GET", "/api/v1/nodes", "list nodes", query={"limit": "1"}, timeout_s=GLANCE_S)

        try:
            ask()
        except ApiUnreachable:
            ask()

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
        return requested(answer.body.decode(errors="replace"))

    def written(self, versions: Iterable[str]) -> tuple[Written, ...] | None:
        """Who set fields of objects through these API versions, `GROUP/VERSION` or `GROUP/VERSION/RESOURCE`.

        Objects are listed in their group's preferred version: a request in an old one would count as a use of it.
        Source: server-side field management: each entry of managedFields names the API version of the request.

        Returns:
            By API version and manager; None where some of it may not be read.
        """
        groups: dict[str, list[list[str]]] = {}
        for version in versions:
            parts = version.split("/")
            groups.setdefault(parts[0], []).append(parts)
        try:
            found = [entry for group, mine in groups.items() for entry in self._written(group, mine)]
        except ApiForbidden:
            return None
        counts = Counter((api, manager) for api, manager, _ in found)
        examples = {(api, manager): example for api, manager, example in reversed(found)}
        return tuple(Written(*key, count, examples[key]) for key, count in sorted(counts.items()))

    def _written(self, group: str, versions: list[list[str]]) -> Iterator[tuple[str, str, str]]:
        """API version with resource, manager, object: one for each entry of managedFields in one of the versions."""
        what = f"read the resources of {group}"
        try:
            answer = self._get(f"/apis/{quote(group)}", {}, what)
        except ApiNotFound:
            return
        preferred = self._parse(_GROUP, answer, what).preferred_version.group_version
        for resource in self._parse(_RESOURCES, self._get(f"/apis/{preferred}", {}, what), what).resources:
            gone = {f"{group}/{version}" for _, version, *name in versions if name in ([], [resource.name])}
            if not gone or "list" not in resource.verbs or "/" in resource.name:
                continue
            path = f"/apis/{preferred}/{resource.name}"
            for each in self._list(path, _Object, {}, f"list {resource.name}.{group}", accept=_METADATA)[0]:
                meta = each.metadata
                key = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
                for entry in meta.managed_fields or ():
                    if entry.api_version in gone:
                        yield f"{entry.api_version}/{resource.name}", entry.manager, key


def _told_at(answer: Response, otherwise: float) -> float:
    """When the API server answered, by its own clock, to the second; `otherwise` where it does not say.

    Source: RFC 9110, `Date`; every answer of an API server has one.
    """
    try:
        return parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except ValueError:
        return otherwise
