"""Which pods a drain takes, leaves or refuses, and every reason why. Pure.

The outcome for each pod equals kubectl's (`docs/kubectl-differences.md` has the deviations); the reasons add up
instead of overwriting one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.cluster.model import Budget, Pod


class Outcome(StrEnum):
    """What a drain does with a pod."""

    EVICT = "evict"
    LEAVE = "leave"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why.

    Attributes:
        text: For people.
        flag: The flag that would change the outcome, or "" when none would.
    """

    text: str
    flag: str = ""


DAEMON_SET = Reason("managed by a DaemonSet, which would bring it back at once", "--ignore-daemonsets")
DAEMON_SET_LEFT = Reason("managed by a DaemonSet: left in place")
MIRROR = Reason("a static pod: only its kubelet can remove it")
EMPTY_DIR = Reason("has emptyDir volumes, whose contents are lost", "--delete-emptydir-data")
EMPTY_DIR_LOST = Reason("the contents of its emptyDir volumes are lost")
NO_CONTROLLER = Reason("no controller would bring it back", "--force")
NO_CONTROLLER_LOST = Reason("no controller brings it back")
LEAVING = Reason("asked to go so long ago that nobody waits for it")


@dataclass(frozen=True, slots=True)
class Rules:
    """The flags of a drain that decide on pods, named as kubectl names them."""

    force: bool = False
    ignore_daemonsets: bool = False
    delete_emptydir_data: bool = False
    skip_wait_for_delete_timeout_s: int = 0
    disable_eviction: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to one pod, and every reason that matters to it."""

    pod: Pod
    outcome: Outcome
    reasons: tuple[Reason, ...] = ()


def daemon_sets(pods: Iterable[Pod]) -> tuple[tuple[str, str], ...]:
    """Namespace and name of each DaemonSet that the pods name as controller, sorted, each once.

    Source: kubectl 1.34 and later look at the API group of the owner as well: `apps/v1` only. Finished pods are not
    asked about.
    """
    return tuple(sorted({(p.namespace, p.controller.name) for p in pods if p.controller and _of_daemon_set(p)}))


def judge(
    pod: Pod, rules: Rules, *, missing: Mapping[tuple[str, str], str], budgets: Iterable[Budget], now: float
) -> Verdict:
    """What a drain by `rules` does with `pod`.

    Args:
        pod: The pod.
        rules: The drain's flags.
        missing: For each of `daemon_sets`: an empty text when it exists, else why it does not.
        budgets: All budgets of the cluster.
        now: Seconds since the epoch.

    Source: k8s.io/kubectl `pkg/drain/filters.go` 1.37: filters in this order, the first that does not delete ends
    the chain.
    """
    if _left_long_ago(pod, rules, now):
        return Verdict(pod, Outcome.LEAVE, (LEAVING,))
    refusals: list[Reason] = []
    notes: list[Reason] = []
    if _of_daemon_set(pod) and pod.controller:
        why = missing[pod.namespace, pod.controller.name]
        if not why:
            outcome, reason = (
                (Outcome.LEAVE, DAEMON_SET_LEFT) if rules.ignore_daemonsets else (Outcome.REFUSE, DAEMON_SET)
            )
            return Verdict(pod, outcome, (reason,))
        orphan = Reason(f"its DaemonSet does not exist ({why})", "" if rules.force else "--force")
        (notes if rules.force else refusals).append(orphan)
    if pod.mirror and not refusals:
        return Verdict(pod, Outcome.LEAVE, (MIRROR,))
    if not pod.finished:
        _add(rules.delete_emptydir_data, pod.empty_dir, EMPTY_DIR_LOST, EMPTY_DIR, notes, refusals)
        _add(rules.force, pod.controller is None, NO_CONTROLLER_LOST, NO_CONTROLLER, notes, refusals)
        refusals += _too_many_budgets(pod, rules, budgets)
    if refusals:
        return Verdict(pod, Outcome.REFUSE, tuple(refusals))
    return Verdict(pod, Outcome.EVICT, tuple(notes))


def _add(
    allowed: bool,  # noqa: FBT001  private, and every call names the flag it passes
    holds: bool,  # noqa: FBT001
    note: Reason,
    refusal: Reason,
    notes: list[Reason],
    refusals: list[Reason],
) -> None:
    if holds:
        if allowed:
            notes.append(note)
        else:
            refusals.append(refusal)


def _of_daemon_set(pod: Pod) -> bool:
    owner = pod.controller
    return owner is not None and owner.kind == "DaemonSet" and owner.api_version == "apps/v1" and not pod.finished


def _left_long_ago(pod: Pod, rules: Rules, now: float) -> bool:
    """Kubectl's `--skip-wait-for-delete-timeout`: counted from the end of the grace period, whole seconds, 0 is off."""
    if rules.skip_wait_for_delete_timeout_s <= 0 or pod.deleting_since is None:
        return False
    return int(now - pod.deleting_since - pod.deletion_grace_s) > rules.skip_wait_for_delete_timeout_s


def _too_many_budgets(pod: Pod, rules: Rules, budgets: Iterable[Budget]) -> list[Reason]:
    """The eviction API answers 500 for a pod that several budgets cover, however often it is asked.

    Source: `pkg/registry/core/pod/storage/eviction.go`; pods that are pending or already leaving bypass budgets.
    """
    if rules.disable_eviction or pod.phase == "Pending" or pod.deleting_since is not None:
        return []
    covering = [b.name for b in budgets if b.covers(pod)]
    if len(covering) < 2:
        return []
    return [Reason(f"covered by {len(covering)} budgets ({', '.join(covering)}): the API evicts no such pod",
                   "--disable-eviction")]  # fmt: skip
