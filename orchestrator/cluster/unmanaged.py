"""Pods that no controller would bring back, and what becomes of each. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.cluster.applications import LISTED, Owners
from orchestrator.cluster.eviction import Outcome, Rules, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.cluster.model import Budget, OwnerRef, Pod, Workload


class Kind(StrEnum):
    """Why no controller would bring a pod back."""

    NAKED = "naked"
    ORPHAN = "orphan"
    CUSTOM = "custom"
    STATIC = "static"


class Fate(StrEnum):
    """What becomes of a pod."""

    REFUSED = "refused"
    DELETED = "deleted"
    STAYS = "stays"
    OWNER_DECIDES = "owner-decides"
    LOST = "lost"
    WITH_NODE = "with-node"


@dataclass(frozen=True, slots=True)
class Consequence:
    """What something would do to a pod.

    Attributes:
        text: For people, with the reason and the flag that would change it.
        data_lost: The contents of its emptyDir volumes go with it.
        flags: Those that together would allow what is refused; none when no flag would.
    """

    fate: Fate
    text: str
    data_lost: bool = False
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unmanaged:
    """A pod that no controller would bring back.

    Attributes:
        why: For people.
        drain: What `drain --ignore-daemonsets` would do to it.
        forced: What `drain --ignore-daemonsets --force` would.
        lost: What it would mean for it that its node is lost.
    """

    pod: Pod
    kind: Kind
    why: str
    drain: Consequence
    forced: Consequence
    lost: Consequence


@dataclass(frozen=True, slots=True)
class UnmanagedPods:
    """What was looked for, and what was found.

    Attributes:
        nodes: The nodes that were asked about; none for all.
        looked_at: How many pods were judged.
    """

    nodes: tuple[str, ...]
    looked_at: int
    pods: tuple[Unmanaged, ...]


def unmanaged(
    pods: Iterable[Pod], workloads: Iterable[Workload], budgets: Iterable[Budget], *, now: float
) -> tuple[Unmanaged, ...]:
    """Those of `pods` that no controller would bring back, by node, kind and name. Finished pods are left out.

    Args:
        pods: To look at.
        workloads: All of the cluster, read after the pods.
        budgets: All of the cluster.
        now: Seconds since the epoch.
    """
    owners = Owners(workloads)
    all_budgets = tuple(budgets)
    found = [
        _judged(pod, kind, all_budgets, now)
        for pod in pods
        if not pod.finished and (kind := _kind(pod, owners)) is not None
    ]
    order = list(Kind)
    return tuple(sorted(found, key=lambda u: (u.pod.node, order.index(u.kind), u.pod.key)))


def _kind(pod: Pod, owners: Owners) -> Kind | None:
    """Which of these kinds it is; None when a controller brings it back.

    Source: the kubelet makes its Node the controller of a mirror pod, so mirror comes first.
    """
    if pod.mirror:
        return Kind.STATIC
    if pod.controller is None:
        return Kind.NAKED
    if owners.missing(pod.controller):
        return Kind.ORPHAN
    known = (pod.controller.kind, pod.controller.api_version.rpartition("/")[0]) in LISTED
    return None if known else Kind.CUSTOM


def _judged(pod: Pod, kind: Kind, budgets: Sequence[Budget], now: float) -> Unmanaged:
    return Unmanaged(
        pod,
        kind,
        _why(kind, pod.controller),
        _drained(pod, kind, Rules(ignore_daemonsets=True), budgets, now),
        _drained(pod, kind, Rules(ignore_daemonsets=True, force=True), budgets, now),
        _lost(pod, kind),
    )


def _why(kind: Kind, owner: OwnerRef | None) -> str:
    if kind is Kind.STATIC:
        return "static pod: its kubelet runs it from a file on the node"
    if owner is None:
        return "no controller"
    if kind is Kind.ORPHAN:
        return f"its {owner.kind} {owner.name} does not exist any more"
    return f"run by {owner.kind} {owner.name} ({owner.api_version}), which alone knows whether it comes back"


def _drained(pod: Pod, kind: Kind, rules: Rules, budgets: Sequence[Budget], now: float) -> Consequence:
    """What a drain by `rules` does to it: the drain's own verdict, and what that means here."""
    owner = pod.controller
    missing = {(pod.namespace, owner.name): "not found"} if owner else {}
    verdict = judge(pod, rules, missing=missing, budgets=budgets, now=now)
    if verdict.outcome is Outcome.LEAVE:
        return Consequence(Fate.STAYS, "stays: only its kubelet can remove it")
    if verdict.outcome is Outcome.REFUSE:
        whys = "; ".join(r.text + (f" ({r.flag} allows it)" if r.flag else "") for r in verdict.reasons)
        flags = tuple(dict.fromkeys(r.flag for r in verdict.reasons))
        return Consequence(Fate.REFUSED, f"refused: {whys}", flags=flags if all(flags) else ())
    if kind is Kind.CUSTOM:
        return Consequence(
            Fate.OWNER_DECIDES, f"evicted{_DATA[pod.empty_dir]}; its owner decides whether it comes back"
        )
    return Consequence(Fate.DELETED, f"deleted for good{_DATA[pod.empty_dir]}", pod.empty_dir)


_DATA = {True: ", and the contents of its emptyDir volumes are lost", False: ""}


def _lost(pod: Pod, kind: Kind) -> Consequence:
    """What it means that its node is lost and does not come back.

    Source: the controller manager deletes the pods of an unreachable node after their tolerationSeconds (300 by
    default), and what is left when the Node object goes; only a controller makes new ones. A kubelet that does come
    back starts its static pods from their files.
    """
    if kind is Kind.STATIC:
        return Consequence(Fate.WITH_NODE, "lost with the node; its kubelet brings it back if the node comes back")
    if kind is Kind.CUSTOM:
        text = f"lost{_DATA[pod.empty_dir]}; its owner decides whether a new one is made"
        return Consequence(Fate.OWNER_DECIDES, text, pod.empty_dir)
    return Consequence(Fate.LOST, f"lost for good{_DATA[pod.empty_dir]}", pod.empty_dir)
