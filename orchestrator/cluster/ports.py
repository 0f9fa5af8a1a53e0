"""What the core needs of a cluster. `View` cannot change anything; `Hands` can.

Both are protocols: `kube` has the real ones, `tests/fakes` the fakes, and `tests/contract` runs one suite against both.
All methods raise ApiError (see `orchestrator.errors`) and are retried inside by the policies of `engine.retry`, within
`timeout_s` where they take one, so that a caller sees only failures that stayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from orchestrator.cluster.model import Budget, CordonRecord, Node, Pod, PodChange, PodList, Workload


@dataclass(frozen=True, slots=True)
class Evicted:
    """The server accepted the eviction (or deletion): the pod is on its way out."""


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such pod any more, or another one has its name (404, or 409 on the UID precondition)."""


@dataclass(frozen=True, slots=True)
class BudgetExhausted:
    """429 by a budget.

    Attributes:
        message: The server's own, with the cause that names budget and numbers.
        budget: The name of the budget in the pod's namespace, "" when the message does not tell.
        retry_after_s: What the server asked for, or None.
    """

    message: str
    budget: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class TryLater:
    """A failure that passes: 409, 429 by load, 5xx, no answer, a namespace that is terminating.

    Attributes:
        why: For people, in few words.
        retry_after_s: What the server asked for, or None.
        overloaded: The server asked for less load (priority and fairness), not for more time.
    """

    why: str
    retry_after_s: float | None = None
    overloaded: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """A failure that does not pass by itself: a webhook's refusal, no permission, an invalid request."""

    why: str
    remedy: str


EvictionAnswer = Evicted | Gone | BudgetExhausted | TryLater | Denied


class View(Protocol):
    """Reads a cluster."""

    def node(self, name: str) -> Node:
        """The node.

        Raises:
            ApiNotFound: There is none of that name.
        """
        ...

    def nodes(self, selector: str = "") -> tuple[Node, ...]:
        """All nodes, or those that the label selector selects, by name."""
        ...

    def pods_on(self, node: str, selector: str = "") -> PodList:
        """The pods bound to `node`, of all namespaces, or those of them that the label selector selects."""
        ...

    def pods(self) -> tuple[Pod, ...]:
        """All pods of the cluster."""
        ...

    def budgets(self) -> tuple[Budget, ...]:
        """All disruption budgets."""
        ...

    def workloads(self) -> tuple[Workload, ...]:
        """All Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and ReplicationControllers."""
        ...

    def daemon_set_missing(self, namespace: str, name: str) -> str:
        """An empty text when the DaemonSet exists, else the API's words for why it does not.

        Raises:
            ApiError: It cannot be told.
        """
        ...

    def pods_of(self, budget: Budget) -> tuple[Pod, ...]:
        """The pods that `budget` covers, on all nodes."""
        ...

    def watch_pods(self, node: str, since: PodList, selector: str = "") -> AbstractContextManager[Iterator[PodChange]]:
        """Changes of the pods on `node` after `since`, until the context is left.

        Resumes after a lost connection, lists again after 410 and then reports as gone what is not there any more.
        The iterator blocks; leaving the context from another thread ends it.
        """
        ...

    def watch_budgets(self) -> AbstractContextManager[Iterator[Budget]]:
        """All budgets as they are now, then each change of one, until the context is left. Blocks like watch_pods.

        One that was deleted comes with no selector: it covers nothing any more.
        """
        ...


class Hands(View, Protocol):
    """Changes a cluster. Each change takes effect at most once, however often the connection failed."""

    def cordon(self, node: Node, record: CordonRecord) -> Node:
        """Make `node` unschedulable and record whose cordon it is; returns it as stored.

        Raises:
            ApiConflict: The node changed since it was read.
        """
        ...

    def uncordon(self, node: Node) -> Node:
        """Make `node` schedulable and remove the record; returns it as stored.

        Raises:
            ApiConflict: The node changed since it was read.
        """
        ...

    def evict(self, pod: Pod, *, grace_s: int | None, timeout_s: float) -> EvictionAnswer:
        """Ask once for the eviction of `pod`, with its UID as precondition. Never raises for what the server answers.

        Args:
            pod: Of which `namespace`, `name` and `uid` count.
            grace_s: Instead of the pod's own grace period, in seconds; None leaves it.
            timeout_s: For this one request.
        """
        ...

    def delete(self, pod: Pod, *, grace_s: int | None, timeout_s: float) -> EvictionAnswer:
        """Delete `pod` without asking its budgets. As `evict` otherwise."""
        ...


class Rehearsal(View, Protocol):
    """Asks the server what it would answer to a change, and makes none: every request carries `dryRun=All`."""

    def would_cordon(self, node: Node) -> None:
        """Have the server check the cordon of `node`.

        Raises:
            ApiError: It would be refused.
        """
        ...

    def would_uncordon(self, node: Node) -> None:
        """Have the server check the undoing of the cordon of `node`.

        Raises:
            ApiError: It would be refused.
        """
        ...

    def would_evict(self, pod: Pod, *, grace_s: int | None, timeout_s: float) -> EvictionAnswer:
        """What the server would answer to `Hands.evict`."""
        ...

    def would_delete(self, pod: Pod, *, grace_s: int | None, timeout_s: float) -> EvictionAnswer:
        """What the server would answer to `Hands.delete`."""
        ...
