"""A cluster and its hosts as they were found before an upgrade, and what a check has to say of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.cluster.hostfacts import EtcdFacts, HostFacts, Offers
    from orchestrator.cluster.kubeadm import Complaint
    from orchestrator.cluster.model import Budget, Node, Pod, Workload, Written
    from orchestrator.cluster.versions import Hop, Version

#: Where a finding is that is of no one node.
CLUSTER = "cluster"


class Severity(StrEnum):
    """What a finding means for the start, the worst first."""

    FORBIDDEN = "forbidden"
    """It cannot be accepted."""
    ERROR = "error"
    """It has to be put right, or accepted by its name."""
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an operator has to know before the start.

    Attributes:
        check: Its name, by which it is accepted; kubeadm's own name for a complaint of kubeadm's.
        where: A node, or `cluster`.
        text: What was seen, with its numbers.
        remedy: What to do about it.
        detail: More than a line: a diff.
        kubeadm: It is a complaint of kubeadm's preflight: kubeadm has to be told by name to ignore it.
    """

    check: str
    severity: Severity
    where: str
    text: str
    remedy: str
    detail: str = ""
    kubeadm: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that was asked.

    Attributes:
        hosts: By node, all of the cluster that answered.
        unseen: Node -> why its host could not be looked at, and what to do about that.
        wanted: Control plane -> images that the first hop's version needs there.
        unlisted: Control plane -> why these could not be listed.
        apis: Control plane -> what is wrong with its API server, "" when nothing is.
        offers: Node -> minor, as `1.37` -> what its package repository of that minor offers.
        checks: Node -> kubeadm's complaints, and why its preflight could not run, "" when it did.
        edited: Control plane -> the diff of manifests that were edited by hand, "" when none was.
        uncompared: Control plane -> why its manifests could not be compared, or not all of them.
        refused: Node -> pod -> why the plan's own drain of it would refuse it.
        deprecated: `GROUP/VERSION/RESOURCE@RELEASE` that clients asked for, and the release that removes it, "" where
            none is named. The group of core is empty. None where it may not be read.
        written: Who set fields through API versions that go on the way. None where it may not be read.
        clocks: Node -> seconds that its host's clock is ahead of this machine's, each at the moment it was asked.
        configuration: kubeadm's ClusterConfiguration, as YAML.
        hops: The versions on the way.
        upgrading: Nodes that the plan touches.
        at_once: All workers are out of service together, and drains ask no budgets.
        renews: The upgrade renews certificates.
        sought: The minor that was looked for and that nobody offers, so that the way does not lead to it; "" otherwise.
        waves: Nodes that are out of service together, one group after another; none where all of them are at once.
        now: Seconds since the epoch.
    """

    nodes: tuple[Node, ...]
    hosts: Mapping[str, HostFacts]
    etcd: EtcdFacts
    apis: Mapping[str, str]
    offers: Mapping[str, Mapping[str, Offers]]
    checks: Mapping[str, tuple[tuple[Complaint, ...], str]]
    edited: Mapping[str, str]
    pods: tuple[Pod, ...]
    budgets: tuple[Budget, ...]
    workloads: tuple[Workload, ...]
    refused: Mapping[str, Mapping[str, tuple[str, ...]]]
    deprecated: tuple[str, ...] | None
    configuration: str
    hops: tuple[Hop, ...]
    upgrading: tuple[str, ...]
    now: float
    wanted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlisted: Mapping[str, str] = field(default_factory=dict)
    waves: tuple[tuple[str, ...], ...] = ()
    written: tuple[Written, ...] | None = ()
    unseen: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    sought: str = ""
    at_once: bool = False
    uncompared: Mapping[str, str] = field(default_factory=dict)
    renews: bool = True
    clocks: Mapping[str, float] = field(default_factory=dict)

    @property
    def target(self) -> Version | None:
        """The version that the plan ends at; None when there is nothing to do."""
        return self.hops[-1].to if self.hops else None

    @property
    def touched(self) -> tuple[HostFacts, ...]:
        """Hosts that the plan changes."""
        return tuple(self.hosts[name] for name in self.upgrading if name in self.hosts)

    @property
    def planes(self) -> tuple[HostFacts, ...]:
        """Hosts of control planes, whether the plan touches them or not."""
        return tuple(host for host in self.hosts.values() if host.control_plane)


#: So many names are in a line.
NAMED = 5


def named(names: tuple[str, ...] | list[str], most: int = NAMED) -> str:
    """Names in one line, the first few of them and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def size(size_bytes: float) -> str:
    """`1.5 GB`, `200 MB`."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
