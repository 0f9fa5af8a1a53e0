"""Everything that is checked before an upgrade touches the first node. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster import checks_cluster, checks_hosts, checks_settings
from orchestrator.cluster.situation import CLUSTER, Finding, Severity, Situation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["CLUSTER", "Finding", "Severity", "Situation", "findings", "unaccepted"]

_CHECKS = (
    checks_cluster.servers,
    checks_cluster.nodes,
    checks_cluster.etcd,
    checks_cluster.skew,
    checks_cluster.kubelets,
    checks_cluster.pods,
    checks_hosts.known,
    checks_hosts.repositories,
    checks_hosts.installed,
    checks_hosts.images,
    checks_hosts.disks,
    checks_hosts.kubeadm,
    checks_hosts.certificates,
    checks_hosts.clocks,
    checks_settings.kubelets,
    checks_settings.components,
    checks_settings.etcd,
    checks_settings.apis,
    checks_settings.starts,
)


def findings(situation: Situation) -> tuple[Finding, ...]:
    """All there is to say, the worst first, then what is of the whole cluster, then by node."""
    order = list(Severity)
    found = dict.fromkeys(finding for check in _CHECKS for finding in check(situation))
    return tuple(sorted(found, key=lambda f: (order.index(f.severity), f.where != CLUSTER, f.where, f.check, f.text)))


#: With nothing to do, only these count: they hide whether there is something.
HIDING = frozenset({"HostUnknown", "NoApt", "Repository"})


def unaccepted(findings: Iterable[Finding], accepted: Collection[str]) -> tuple[Finding, ...]:
    """Those that forbid the start, in their order.

    Args:
        findings: As `findings` gives them.
        accepted: Names of checks, each by name: there is no word for all of them.
    """
    return tuple(
        f
        for f in findings
        if f.severity is Severity.FORBIDDEN or (f.severity is Severity.ERROR and f.check not in accepted)
    )
