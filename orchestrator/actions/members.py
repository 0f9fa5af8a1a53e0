"""The members of a cluster's etcd, as one of its control planes has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import EtcdFacts, parse_etcd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.actions.site import Site


def members(site: Site, control_planes: Iterable[str]) -> EtcdFacts:
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
