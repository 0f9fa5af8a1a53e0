"""The members of a cluster's etcd, as one of its control planes has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.actions.packages import looked
from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import EtcdFacts, parse_etcd
from orchestrator.cluster.membership import of_node, spared
from orchestrator.errors import FactUnreadable, HostError, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.plan import Step
    from orchestrator.engine.runner import Applying

#: How long the other members are waited for: what passes by itself passes in that time, and a node may be out.
SPARED_S = 60.0
PAUSE_S = 2.0


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


def until_spared(hands: SiteHands, step: Step, run: Applying, control_planes: Sequence[str]) -> None:
    """Return once etcd on the step's node may restart: the others are a quorum without it.

    The gate before the node saw that they were; since then it was drained, or the run was stopped. Nothing is asked
    with fewer than three control planes: there the API is away meanwhile, which is known before the start.

    Raises:
        Refused: They were not within a minute.
    """
    if step.node not in control_planes or len(control_planes) < 3:
        return
    end = run.clock.now() + SPARED_S
    while why := _needed(hands, step.node, control_planes):
        if run.clock.now() >= end:
            raise Refused(
                f"{step.node}: its etcd has to restart, but {why}",
                remedy="orchestrator etcd status; bring that member back, or give its node a fresh one: "
                f"orchestrator etcd replace-member NODE; then orchestrator resume {run.run}",
            )
        run.waiting()
        run.emit("gate.waiting", why=why)
        run.clock.sleep(PAUSE_S)


def _needed(site: Site, node: str, control_planes: Sequence[str]) -> str:
    """Why the member of a node must not restart; the others are asked first, for its own may just not answer."""
    manifest = looked(site, node).manifests.get("etcd")
    if manifest is None:
        return ""
    silent = []
    for name in (*(n for n in control_planes if n != node), node):
        try:
            found = members(site, [name])
        except (FactUnreadable, HostError) as err:  # off, or restarting between two of the questions
            silent.append(str(err))
            continue
        if found.members:
            peers = manifest.flag("initial-advertise-peer-urls").split(",")
            mine = [m.id for m in of_node(found.members, manifest.flag("name") or node, peers)]
            return spared(found.members, found.statuses, found.health, mine)
    return "; ".join(["no member of etcd tells how it is", *silent[:1]])
