"""The members of a cluster's etcd, as one of its control planes has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster import etcd, queries
from orchestrator.cluster.hostfacts import EtcdFacts, parse_etcd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.actions.site import Site


def members(site: Site, control_planes: Sequence[str]) -> EtcdFacts:
    """Every member, asked directly by the first host that has one.

    None at all mean an etcd outside of the cluster, unless they are `stacked`: then none could be asked.

    Raises:
        FactUnreadable: etcd answered in a form that is not known.
        HostError: A host could not be asked.
    """
    stacked = False
    for name in control_planes:
        found = parse_etcd(site.ask(name, queries.ETCD))
        if found.members:
            return found
        stacked |= found.stacked
    return EtcdFacts(stacked=stacked)


def needed(site: Site, node: str, control_planes: Sequence[str]) -> str:
    """Why etcd on a control plane must not restart now: the others are no quorum; "" when it may.

    Asked of several only: of a single member, and of two, it is known before the start.

    Raises:
        FactUnreadable: etcd answered in a form that is not known.
        HostError: A host could not be asked.
    """
    if node not in control_planes or len(control_planes) < 3:
        return ""
    found = members(site, control_planes)
    well = {s.id for s in found.statuses if etcd.serves(found.health.get(s.endpoint, "it was not asked"))}
    return etcd.holds_quorum(found.members, well, node)
