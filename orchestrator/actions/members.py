"""The members of a cluster's etcd, as one of its control planes has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.actions.packages import looked
from orchestrator.actions.patience import waited
from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import EtcdFacts, parse_etcd
from orchestrator.cluster.membership import of_node, spared
from orchestrator.errors import FactUnreadable, HostError, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.plan import Facts, Step
    from orchestrator.engine.runner import Applying

#: How long the other members are waited for: what passes by itself passes in that time, and a node may be out.
SPARED_S = 60.0


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


def elsewhere(site: Site, node: str) -> EtcdFacts:
    """Members on other machines, as a control plane's API server reaches them; none where no client is on its host.

    Raises:
        FactUnreadable: etcd answered in a form that is not known.
        HostError: The host could not be asked.
    """
    return parse_etcd(site.ask(node, queries.ETCD_ELSEWHERE))


def until_spared(hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
    """Return once etcd on the step's node may restart: the others are a quorum without it.

    The gate before the node saw that they were; since then it was drained, or the run was stopped. Nothing is asked
    with fewer than three control planes, where the API is away meanwhile, which is known before the start; nor while
    the step's command runs already.

    Args:
        hands: To ask with.
        step: With `control_planes` among its params, where it is to be asked.
        now: With the `trace` of its command.
        run: What waits.

    Raises:
        Refused: They were not within a minute.
    """
    planes = step.params.get("control_planes", ())
    if step.node not in planes or len(planes) < 3 or now["trace"] == "running":
        return
    if why := waited(run, lambda: _needed(hands, step.node, planes), SPARED_S):
        raise Refused(
            f"{step.node}: its etcd has to restart, but {why}",
            remedy="orchestrator etcd status; bring that member back, or give its node a fresh one: "
            f"orchestrator etcd replace-member NODE; then orchestrator resume {run.run}",
        )


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
