"""The course of one node's evacuation: which pod to ask for next, when, and what each one waits for. Pure.

It is told what happened and the time, and tells what to do; threads, requests and clocks are `actions.drain`'s.

Pods under a disruption budget are asked for only as the budget allows: its numbers are known from a watch, so that
a refusal (429) is the exception, and the next pod goes out the moment the budget has room, not at the next retry.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, Gone, TryLater

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.cluster.model import Budget, Pod, PodChange
    from orchestrator.cluster.ports import EvictionAnswer

#: First pause after a refusal that passes, in seconds; doubled each time, up to the last.
RETRY_FIRST_S = 0.5
#: kubectl's only pause, and the longest here.
RETRY_MOST_S = 5.0
#: A budget that has no room is asked all the same this often: the watch might be broken or its numbers stale.
PROBE_S = 5.0


class State(StrEnum):
    """Where a pod stands."""

    WAITING = "waiting"
    ASKED = "asked"
    LEAVING = "leaving"
    GONE = "gone"
    DENIED = "denied"


@dataclass(slots=True, eq=False)
class _Item:
    """A pod to remove. `covers` are the budgets that count it, `line` those of them whose room it waits for."""

    pod: Pod
    state: State
    since: float
    covers: tuple[str, ...] = ()
    line: tuple[str, ...] = ()
    tries: int = 0
    why: str = ""
    remedy: str = ""


@dataclass(slots=True)
class _Account:
    """What a budget still allows, counting evictions that its numbers do not show yet.

    `granted_at` is when the last eviction under it was granted; minus infinity when none was.

    Source: policy/v1 `status.disruptedPods`: the server adds a pod there in the same write that takes it off
    `disruptionsAllowed`; the controller takes it out when it has seen the pod go.
    """

    budget: Budget
    granted_at: float = -math.inf
    unseen: set[str] = field(default_factory=set)
    shut: bool = False
    probe_at: float | None = None

    def room(self) -> bool:
        return not self.shut and self.budget.allowed - len(self.unseen) > 0

    def update(self, budget: Budget) -> None:
        self.budget = budget
        self.unseen -= budget.disrupted
        self.shut = False
        self._settle()

    def uncount(self, pod: str) -> None:
        self.unseen.discard(pod)
        self._settle()

    def tried_at(self, now: float) -> float:
        """When it is asked all the same, though it has no room."""
        if self.probe_at is None:
            self.probe_at = now + PROBE_S
        return self.probe_at

    def _settle(self) -> None:
        if self.room():
            self.probe_at = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Pods that wait for the same thing.

    Attributes:
        why: For people.
        budget: `namespace/name` when it is a budget, else "".
        pods: Their keys.
        since: When the first of them began to.
    """

    why: str
    budget: str
    pods: tuple[str, ...]
    since: float


@dataclass(frozen=True, slots=True)
class Progress:
    """An evacuation at one moment.

    Attributes:
        total: Pods that were to go.
        gone: Pods that are gone.
        leaving: Pods that were asked to go and have not gone.
        leaving_until: The wall-clock time at which the last grace period of these ends; None when none runs.
        waiting: What the others wait for.
        denied: Pods that will not go, with why.
    """

    total: int
    gone: int
    leaving: tuple[str, ...]
    leaving_until: float | None
    waiting: tuple[Waiting, ...]
    denied: tuple[tuple[str, str, str], ...]

    @property
    def left(self) -> int:
        """Pods that are still there."""
        return self.total - self.gone


class Evacuation:
    """One node's evacuation.

    Args:
        pods: The pods to remove, in the order in which to ask.
        budgets: All budgets; none when budgets do not count.
        parallel: How many evictions may be asked for at once.
        ask_again: Ask also for pods that are leaving already (a grace period is to replace theirs).
        skip_wait_s: Do not wait for pods whose grace period ended longer ago than this; 0 waits for all.
        now: Seconds on the clock that all other calls use.
    """

    def __init__(
        self,
        pods: Iterable[Pod],
        *,
        budgets: Iterable[Budget],
        parallel: int,
        ask_again: bool = False,
        skip_wait_s: int = 0,
        now: float,
    ) -> None:
        self._items: dict[str, _Item] = {}
        self._queues: dict[tuple[str, ...], deque[_Item]] = {}
        self._delayed: list[tuple[float, int, _Item]] = []
        self._accounts = {b.key: _Account(b) for b in budgets}
        self._parallel = parallel
        self._limit = parallel
        self._ask_again = ask_again
        self._skip_wait_s = skip_wait_s
        self._order = 0
        self._count = dict.fromkeys(State, 0)
        self.wants_budgets = False
        for pod in pods:
            leaving = pod.deleting_since is not None and not ask_again
            item = _Item(pod, State.LEAVING if leaving else State.WAITING, now)
            self._items[pod.uid] = item
            self._count[item.state] += 1
            if not leaving:
                self._enqueue(item)

    # ---- what to do -------------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[Pod]:
        """The pods to ask for now. Each one counts as asked until `answered`."""
        while self._delayed and self._delayed[0][0] <= now:
            self._enqueue(heapq.heappop(self._delayed)[2])
        for line, queue in tuple(self._queues.items()):
            while queue and self._count[State.ASKED] < self._limit:
                if queue[0].state is not State.WAITING:
                    queue.popleft()
                    continue
                if not self._has_room(line, now):
                    break
                item = queue.popleft()
                self._move(item, State.ASKED)
                item.tries += 1
                for key in line:
                    self._accounts[key].unseen.add(item.pod.name)
                yield item.pod

    def next_at(self, now: float) -> float | None:
        """When something becomes due by time alone, or None: then only what happens makes it due."""
        if self._count[State.ASKED] >= self._limit:
            return None
        times = [self._delayed[0][0]] if self._delayed else []
        for line, queue in self._queues.items():
            if queue:
                times.append(max((at for key in line if (at := self._accounts[key].probe_at) is not None), default=now))
        return max(now, min(times)) if times else None

    @property
    def finished(self) -> bool:
        """Every pod is gone, or will not go."""
        return self._count[State.GONE] + self._count[State.DENIED] == len(self._items)

    # ---- what happened ----------------------------------------------------------------------------------------

    def answered(self, uid: str, answer: EvictionAnswer, now: float) -> None:
        """The server answered the request for the pod with `uid`."""
        item = self._items[uid]
        if not isinstance(answer, Evicted):
            self._uncount(item)
        if item.state is not State.ASKED:
            return
        match answer:
            case Evicted():
                self._limit = min(self._parallel, self._limit + 1)
                self._granted(item, now)
                self._move(item, State.LEAVING, now)
            case Gone():
                self._move(item, State.GONE, now)
            case BudgetExhausted():
                self._exhausted(item, answer, now)
            case TryLater():
                if answer.overloaded:
                    self._limit = max(1, self._limit // 2)
                self._delay(item, answer.why, answer.retry_after_s, now)
            case Denied():  # pragma: no branch  no other answer is left
                item.why, item.remedy = answer.why, answer.remedy
                self._move(item, State.DENIED, now)

    def pod_changed(self, change: PodChange, now: float) -> bool:
        """The watch reported a change. True when one of the pods has gone by it."""
        item = self._items.get(change.pod.uid)
        if item is None or item.state is State.GONE:
            return False
        item.pod = change.pod
        if change.gone:
            self._uncount(item)
            self._move(item, State.GONE, now)
            return True
        if item.state is State.WAITING:
            if change.pod.deleting_since is not None and not self._ask_again:
                self._move(item, State.LEAVING, now)
            else:
                self._requeue(item)
        return False

    def budget_changed(self, budget: Budget) -> None:
        """The watch reported a budget."""
        account = self._accounts.get(budget.key)
        if account is None or account.budget.selector != budget.selector:
            self._accounts[budget.key] = _Account(budget)
            self._regroup()
        else:
            account.update(budget)

    def passed(self, wall: float) -> None:
        """Time has passed: stop waiting for pods whose grace period ended too long ago, if so asked."""
        if self._skip_wait_s <= 0:
            return
        for item in self._items.values():
            pod = item.pod
            if item.state is State.LEAVING and pod.deleting_since is not None:
                overdue = wall - pod.deleting_since - pod.deletion_grace_s
                if int(overdue) > self._skip_wait_s:
                    self._uncount(item)
                    self._move(item, State.GONE)

    # ---- how it stands ----------------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How it stands."""
        leaving = [i.pod for i in self._items.values() if i.state is State.LEAVING]
        ends = [p.deleting_since + p.deletion_grace_s for p in leaving if p.deleting_since is not None]
        return Progress(
            total=len(self._items),
            gone=self._count[State.GONE],
            leaving=tuple(p.key for p in leaving),
            leaving_until=max(ends, default=None),
            waiting=self._waiting(),
            denied=tuple((i.pod.key, i.why, i.remedy) for i in self._items.values() if i.state is State.DENIED),
        )

    def budget(self, key: str) -> Budget | None:
        """A budget as last seen."""
        account = self._accounts.get(key)
        return account.budget if account else None

    def granted_at(self, key: str) -> float:
        """When an eviction under a budget was last granted; minus infinity when none was."""
        account = self._accounts.get(key)
        return account.granted_at if account else -math.inf

    def _waiting(self) -> tuple[Waiting, ...]:
        groups: dict[tuple[str, str], list[_Item]] = {}
        told: dict[str, str] = {}
        for item in self._items.values():
            if item.state in (State.WAITING, State.ASKED):
                groups.setdefault(self._reason(item, told), []).append(item)
        return tuple(
            Waiting(why, budget, tuple(i.pod.key for i in items), min(i.since for i in items))
            for (why, budget), items in groups.items()
        )

    def _reason(self, item: _Item, told: dict[str, str]) -> tuple[str, str]:
        """What a pod waits for, and the budget's key; `told` keeps what is said of each budget."""
        for key in self._line(item):
            account = self._accounts[key]
            if item.state is State.WAITING and not account.room():
                if key not in told:
                    told[key] = _explained(account.budget) + self._cut_short(account.budget)
                return told[key], key
        if item.why:
            return item.why, ""
        return ("its turn" if item.state is State.WAITING else "the server's answer"), ""

    def _cut_short(self, budget: Budget) -> str:
        """What to say of pods that a budget counts as gone and that stay, or "".

        Source: eviction.go: the server takes a pod off its budget first, then deletes it; a client that dies in
        between ends the request. The disruption controller takes the pod back after `DeletionTimeout`, 2 minutes.
        """
        waiting = (i.pod for i in self._items.values() if i.state is State.WAITING and i.pod.deleting_since is None)
        count = sum(pod.namespace == budget.namespace and pod.name in budget.disrupted for pod in waiting)
        if not count:
            return ""
        pods = "1 pod as gone that is" if count == 1 else f"{count} pods as gone that are"
        evictions = "its eviction" if count == 1 else "their eviction"
        return f"; it counts {pods} still here, because {evictions} was cut short, for up to 2 minutes"

    # ---- inside -----------------------------------------------------------------------------------------------

    def _enqueue(self, item: _Item) -> None:
        item.covers = tuple(key for key, account in self._accounts.items() if account.budget.covers(item.pod))
        item.line = self._line(item)
        self._queues.setdefault(item.line, deque()).append(item)

    def _requeue(self, item: _Item) -> None:
        """Where it belongs after a change. One that is delayed finds its place when its time has come."""
        queue = self._queues.get(item.line, deque())
        if self._line(item) != item.line and item in queue:
            queue.remove(item)
            self._enqueue(item)

    def _regroup(self) -> None:
        queued = [item for queue in self._queues.values() for item in queue]
        self._queues = {}
        for item in queued:
            self._enqueue(item)

    def _move(self, item: _Item, state: State, now: float | None = None) -> None:
        self._count[item.state] -= 1
        self._count[state] += 1
        item.state = state
        if now is not None:
            item.since = now

    def _line(self, item: _Item) -> tuple[str, ...]:
        """The budgets whose room it waits for; none where the server lets it go by rules of its own.

        Source: `eviction.go`: pending, finished and leaving pods bypass budgets; pods that are not ready go when the
        budget is met, whatever it allows.
        """
        pod = item.pod
        return item.covers if pod.ready and not pod.finished and pod.deleting_since is None else ()

    def _has_room(self, line: tuple[str, ...], now: float) -> bool:
        shut = [account for key in line if not (account := self._accounts[key]).room()]
        if max((account.tried_at(now) for account in shut), default=now) > now:
            return False
        for account in shut:
            account.probe_at = now + PROBE_S
        return True

    def _uncount(self, item: _Item) -> None:
        for key in item.covers:
            self._accounts[key].uncount(item.pod.name)

    def _granted(self, item: _Item, now: float) -> None:
        for key in item.covers:
            self._accounts[key].granted_at = now

    def _exhausted(self, item: _Item, answer: BudgetExhausted, now: float) -> None:
        key = f"{item.pod.namespace}/{answer.budget}"
        account = self._accounts.get(key)
        if account is None:
            self.wants_budgets = True
        else:
            account.shut = True
            account.probe_at = now + (answer.retry_after_s or PROBE_S)
        if answer.retry_after_s is None and key in self._line(item):
            self._move(item, State.WAITING)
            self._enqueue(item)
        else:
            self._delay(item, answer.message, answer.retry_after_s, now)

    def _delay(self, item: _Item, why: str, retry_after_s: float | None, now: float) -> None:
        item.why = why
        self._move(item, State.WAITING)
        pause = retry_after_s if retry_after_s is not None else min(RETRY_MOST_S, RETRY_FIRST_S * 2 ** (item.tries - 1))
        self._order += 1
        heapq.heappush(self._delayed, (now + pause, self._order, item))


def _explained(budget: Budget) -> str:
    if not budget.observed:
        return f"budget {budget.key} ({budget.rule}) has not been processed by its controller yet"
    return (
        f"budget {budget.key} ({budget.rule}) allows {budget.allowed}: "
        f"needs {budget.needed} healthy, has {budget.healthy} of {budget.expected}"
    )
