"""The use cases of etcd: its members and their hosts looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.actions.members import members
from orchestrator.cluster import queries
from orchestrator.cluster.etcdhosts import Etcd, parse_host
from orchestrator.cluster.kubeadm import cluster_name
from orchestrator.errors import Refused
from orchestrator.hosts.pool import together

if TYPE_CHECKING:
    from orchestrator.actions.site import Site
    from orchestrator.app import App
    from orchestrator.cluster.etcdhosts import EtcdHost
    from orchestrator.cluster.model import Node


def survey(app: App) -> Etcd:
    """Every member, and every host that has one.

    Raises:
        Refused: The cluster has no control plane whose host could be asked: it is a managed one.
        ApiError: Its nodes could not be listed.
        HostError: A host could not be asked.
    """
    view = app.reader
    nodes = view.nodes()
    app.machines.know(nodes)
    return read(view, nodes, view.configuration(), app.clock.wall())


def read(view: Site, nodes: tuple[Node, ...], configuration: str, at: float) -> Etcd:
    """As `survey`, of these nodes; those that are no control planes are asked only where no control plane has etcd.

    Raises:
        Refused: As `survey`.
        HostError: As `survey`.
    """
    planes = [n.name for n in nodes if n.control_plane]
    if not planes:
        raise Refused(
            "no node has the role control-plane: etcd is not on machines that can be reached here",
            remedy="of a managed cluster the provider keeps etcd; back up its objects instead",
        )
    found = _asked(view, planes)
    if not any(host.how for host in found.values()):
        others = _asked(view, [n.name for n in nodes if n.name not in planes])
        found |= {name: host for name, host in others.items() if host.how}
    external = next((host.servers for host in found.values() if host.external), "")
    members_at = [name for name, host in found.items() if host.runs]
    return Etcd(cluster_name(configuration), at, found, members(view, members_at), external)


def _asked(view: Site, names: list[str]) -> dict[str, EtcdHost]:
    return together(names, lambda name: parse_host(name, view.ask(name, queries.ETCD_HOST)))
