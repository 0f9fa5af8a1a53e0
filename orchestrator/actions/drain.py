"""The drain of one node: its pods judged, asked to go as their budgets allow, and waited for."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.evacuation import Evacuation
from orchestrator.cluster.eviction import Outcome, Rules, daemon_sets, judge
from orchestrator.cluster.model import Budget, PodChange
from orchestrator.engine.crew import Raised
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import GoalNotReached, Refused
from orchestrator.words import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.cluster.evacuation import Progress, Waiting
    from orchestrator.cluster.eviction import Verdict
    from orchestrator.cluster.model import Pod, PodList
    from orchestrator.cluster.ports import EvictionAnswer, Hands, View
    from orchestrator.engine.clock import Clock
    from orchestrator.engine.crew import Crew
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

#: A report of progress at most this often, and at least every HEARTBEAT_S while nothing changes.
REPORT_S = 1.0
HEARTBEAT_S = 10.0
#: For one eviction: well above what servers need where many pods share a budget (11 s seen).
EVICTION_TIMEOUT_S = 30.0
#: A budget that let no pod go for this long is explained by its pods, and again this often.
EXPLAIN_AFTER_S = 2.0
EXPLAIN_EVERY_S = 10.0
#: How many names a message holds.
NAMES = 5


@dataclass(frozen=True, slots=True)
class Survey:
    """A node's pods, judged.

    Attributes:
        pods: All of them that the selector selects, with the place where a watch continues.
        verdicts: One a pod.
        budgets: All budgets of the cluster; none when there is nothing to evict.
    """

    pods: PodList
    verdicts: tuple[Verdict, ...]
    budgets: tuple[Budget, ...]

    def having(self, outcome: Outcome) -> tuple[Verdict, ...]:
        """The verdicts with that outcome."""
        return tuple(v for v in self.verdicts if v.outcome is outcome)


def rules(params: Any) -> Rules:
    """The flags that decide on pods, out of a step's params."""
    return Rules(
        force=params["force"],
        ignore_daemonsets=params["ignore_daemonsets"],
        delete_emptydir_data=params["delete_emptydir_data"],
        skip_wait_for_delete_timeout_s=params["skip_wait_for_delete_timeout_s"],
        disable_eviction=params["disable_eviction"],
    )


def survey(view: View, node: str, params: Any, now: float) -> Survey:
    """Read and judge the pods of `node`; `now` is wall-clock time.

    Raises:
        ApiError: A fact could not be read. A DaemonSet that cannot be looked up is not taken for a missing one.
    """
    pods = view.pods_on(node, params["pod_selector"])
    missing = {key: view.daemon_set_missing(*key) for key in daemon_sets(pods.pods)}
    verdicts = tuple(judge(p, rules(params), missing=missing, budgets=(), now=now) for p in pods.pods)
    if all(v.outcome is Outcome.LEAVE for v in verdicts):
        return Survey(pods, verdicts, ())
    budgets = view.budgets()
    verdicts = tuple(judge(p, rules(params), missing=missing, budgets=budgets, now=now) for p in pods.pods)
    return Survey(pods, verdicts, budgets)


def evictable(view: View, step: Step, now: float) -> tuple[Pod, ...]:
    """The pods that the step would evict, as things are; `now` is wall-clock time."""
    return tuple(v.pod for v in survey(view, step.node, step.params, now).having(Outcome.EVICT))


class Drain:
    """`node.drain`: no pod is left on the node but those that a drain leaves.

    Params: the flags of `orchestrator drain` by their names, `grace_period_s` (None: each pod's own), `parallel`, and
    `cordon`, the id of the step that makes the node unschedulable.

    Args:
        crew: Makes the threads that ask; takes how many.
        clock: For judging pods by their age.
    """

    def __init__(self, crew: Callable[[int], Crew], clock: Clock) -> None:
        self._crew = crew
        self._clock = clock

    def probe(self, view: View, step: Step) -> Facts:
        """Whether the node is unschedulable, which pods would go, and which forbid it."""
        found = survey(view, step.node, step.params, self._clock.wall())
        return {
            "unschedulable": view.node(step.node).unschedulable,
            "evict": [v.pod.key for v in found.having(Outcome.EVICT)],
            "refused": {v.pod.key: [r.text for r in v.reasons] for v in found.having(Outcome.REFUSE)},
            "flags": sorted({r.flag for v in found.having(Outcome.REFUSE) for r in v.reasons if r.flag}),
        }

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Blocked by any pod that may not go, and on a node that would take new pods at once."""
        del past
        if now["refused"]:
            return Blocked(refusal(step.node, now["refused"]), refusal_remedy(step, now["flags"]))
        what = f"{_pods(len(now['evict']))} to evict"
        if not now["unschedulable"]:
            return Blocked(
                f"{step.node} takes new pods: what is evicted could come back",
                f"`orchestrator cordon {step.node}`, or resume: it cordons again",
                until=step.params["cordon"],
                then=what,
            )
        return Needed(what, again=True) if now["evict"] else Done(what)

    def apply(self, hands: Hands, step: Step, now: Facts, run: Applying) -> None:
        """Evict, and wait until the pods are gone.

        Raises:
            GoalNotReached: The deadline came first.
            Refused: The server will not evict some of them, however often it is asked.
            LeaseLost: This run may not change the cluster any more.
        """
        del now
        found = survey(hands, step.node, step.params, run.clock.wall())
        pods = tuple(v.pod for v in found.having(Outcome.EVICT))
        if pods:
            with self._crew(step.params["parallel"]) as crew:
                _Course(hands, step, run, crew, found, pods).take()


class _Course:
    """One evacuation under way."""

    def __init__(
        self, hands: Hands, step: Step, run: Applying, crew: Crew, found: Survey, pods: tuple[Pod, ...]
    ) -> None:
        self._hands = hands
        self._step = step
        self._run = run
        self._crew = crew
        self._grace_s: int | None = step.params["grace_period_s"]
        self._remove = hands.delete if step.params["disable_eviction"] else hands.evict
        now = run.clock.now()
        self._evacuation = Evacuation(
            pods,
            budgets=() if step.params["disable_eviction"] else found.budgets,
            parallel=step.params["parallel"],
            ask_again=self._grace_s is not None,
            skip_wait_s=step.params["skip_wait_for_delete_timeout_s"],
            now=now,
        )
        self._follows_budgets = False
        self._unready: dict[str, str] = {}
        self._explained_at: dict[str, float] = {}
        self._reported: object = None
        self._report_at = now + REPORT_S
        self._heartbeat_at = now + HEARTBEAT_S
        crew.follow("watch.pods", hands.watch_pods(step.node, found.pods, step.params["pod_selector"]))
        if not step.params["disable_eviction"] and any(b.covers(p) for b in found.budgets for p in pods):
            self._follow_budgets()

    def take(self) -> None:
        """Until every pod is gone, or cannot go, or time is up."""
        evacuation, clock = self._evacuation, self._run.clock
        while not evacuation.finished:
            self._run.guard()
            now = clock.now()
            if self._run.deadline is not None and now >= self._run.deadline:
                raise self._late()
            for pod in evacuation.due(now):
                self._ask(pod, now)
            self._report(now)
            self._handle(self._crew.take(self._pause(now)))
            while (item := self._crew.take(0)) is not None:
                self._handle(item)
            evacuation.passed(clock.wall())
        self._emit(evacuation.progress())
        if denied := evacuation.progress().denied:
            raise _denied(self._step.node, denied)

    def _pause(self, now: float) -> float:
        """Seconds until time alone makes something due."""
        ends = [self._report_at, self._evacuation.next_at(now), self._run.deadline]
        return max(0.0, min(end for end in ends if end is not None) - now)

    def _ask(self, pod: Pod, now: float) -> None:
        deadline = self._run.deadline
        timeout_s = EVICTION_TIMEOUT_S if deadline is None else min(EVICTION_TIMEOUT_S, deadline - now)
        self._run.guard()
        self._run.emit("pod.evicting", level="debug", pod=pod.key)
        self._crew.submit(
            pod.key, lambda: _Answered(pod.uid, self._remove(pod, grace_s=self._grace_s, timeout_s=timeout_s))
        )

    def _handle(self, item: object) -> None:
        now = self._run.clock.now()
        match item:
            case _Answered():
                self._evacuation.answered(item.uid, item.answer, now)
                if self._evacuation.wants_budgets:
                    self._follow_budgets()
            case PodChange():
                if self._evacuation.pod_changed(item, now):
                    self._run.emit("pod.gone", level="debug", pod=item.pod.key)
            case Budget():
                self._evacuation.budget_changed(item)
            case _Unready():
                self._unready[item.budget] = item.text
            case Raised(name="watch.budgets" | "explain"):
                self._run.emit("drain.degraded", level="warning", what=item.name, why=str(item.error))
            case Raised():
                raise item.error

    def _follow_budgets(self) -> None:
        """Once, and only where budgets matter: most drains need no such watch."""
        if not self._follows_budgets:
            self._follows_budgets = True
            self._crew.follow("watch.budgets", self._hands.watch_budgets())

    def _report(self, now: float) -> None:
        if now < self._report_at:
            return
        self._report_at = now + REPORT_S
        progress = self._evacuation.progress()
        for waiting in progress.waiting:
            self._explain(waiting, now)
        shown = (progress.gone, len(progress.leaving), progress.waiting, tuple(self._unready.items()))
        if shown != self._reported or now >= self._heartbeat_at:
            self._reported = shown
            self._heartbeat_at = now + HEARTBEAT_S
            self._emit(progress)

    def _emit(self, progress: Progress) -> None:
        clock = self._run.clock
        until = progress.leaving_until
        self._run.emit(
            "drain.progress",
            total=progress.total,
            left=progress.left,
            leaving=len(progress.leaving),
            leaving_pods=list(progress.leaving[:NAMES]),
            grace_left_s=None if until is None else max(0, math.ceil(until - clock.wall())),
            waiting=[
                {
                    "why": _with_unready(w, self._unready),
                    "budget": w.budget,
                    "pods": list(w.pods[:NAMES]),
                    "count": len(w.pods),
                    "for_s": round(clock.now() - w.since),
                }
                for w in progress.waiting
            ],
        )

    def _explain(self, waiting: Waiting, now: float) -> None:
        """Have the pods of a budget without room looked up: which of them are not ready, and since when."""
        budget = self._evacuation.budget(waiting.budget) if waiting.budget else None
        if budget is None:
            return
        still_since = max(waiting.since, self._evacuation.granted_at(waiting.budget))
        again_at = self._explained_at.get(waiting.budget, -math.inf) + EXPLAIN_EVERY_S
        if now < max(still_since + EXPLAIN_AFTER_S, again_at):
            return
        self._explained_at[waiting.budget] = now
        wall = self._run.clock.wall()
        self._crew.submit("explain", lambda: _Unready(budget.key, unready(self._hands.pods_of(budget), wall)))

    def _late(self) -> GoalNotReached:
        progress = self._evacuation.progress()
        self._emit(progress)
        parts = [
            f"{_pods(len(w.pods))} ({_names(w.pods)}): {_with_unready(w, self._unready)}" for w in progress.waiting
        ]
        if progress.leaving:
            parts.append(f"{_pods(len(progress.leaving))} still terminating ({_names(progress.leaving)})")
        parts += [f"{key} cannot go: {why}" for key, why, _ in progress.denied]
        return GoalNotReached(
            f"{self._step.node}: {progress.left} of {_pods(progress.total)} left after "
            f"{self._step.timeout_s:g} s: {'; '.join(parts)}",
            remedy="see to these pods, or give it a longer --timeout; the node stays cordoned meanwhile",
        )


@dataclass(frozen=True, slots=True)
class _Answered:
    uid: str
    answer: EvictionAnswer


@dataclass(frozen=True, slots=True)
class _Unready:
    budget: str
    text: str


def refusal(node: str, refused: dict[str, list[str]]) -> str:
    """What forbids the drain of `node`: every pod with every reason."""
    lines = [f"  {key}: {'; '.join(reasons)}" for key, reasons in sorted(refused.items())]
    verb = "forbids" if len(refused) == 1 else "forbid"
    return "\n".join([f"{node} cannot be drained: {_pods(len(refused))} {verb} it", *lines])


#: Params of `node.drain` whose flags a remedy repeats.
_GIVEN = ("ignore_daemonsets", "delete_emptydir_data", "force", "disable_eviction")


def refusal_remedy(step: Step, flags: list[str]) -> str:
    """The command that allows it, with the flags that were given already, if there is one."""
    if not flags:
        return "see to these pods first"
    given = [f"--{name.replace('_', '-')}" for name in _GIVEN if step.params.get(name)]
    return f"if that is meant, add {' '.join(flags)}: orchestrator drain {step.node} {' '.join([*given, *flags])}"


def unready(pods: tuple[Pod, ...], wall: float) -> str:
    """Which of the pods are not ready, for how long and why, for people; an empty text when all are."""
    bad = [p for p in pods if not p.ready and not p.finished]
    parts = []
    for pod in bad[:NAMES]:
        since = "" if pod.ready_since is None else f" for {round(wall - pod.ready_since)} s"
        why = "terminating" if pod.deleting_since is not None else pod.waiting_reason
        where = f" on {pod.node}" if pod.node else ""
        parts.append(f"{pod.name}{where}{since}" + (f" ({why})" if why else ""))
    return f"not ready: {names(parts, NAMES, len(bad))}" if bad else ""


def _with_unready(waiting: Waiting, texts: dict[str, str]) -> str:
    text = texts.get(waiting.budget, "")
    return f"{waiting.why}; {text}" if text else waiting.why


def _denied(node: str, denied: tuple[tuple[str, str, str], ...]) -> Refused:
    lines = [f"  {key}: {why}" for key, why, _ in denied]
    remedies = Counter(remedy for _, _, remedy in denied)
    return Refused(
        "\n".join([f"{node}: the API server refuses to evict {_pods(len(denied))}", *lines]),
        remedy=remedies.most_common(1)[0][0],
    )


def _pods(count: int) -> str:
    return f"{count} pod" if count == 1 else f"{count} pods"


def _names(keys: tuple[str, ...]) -> str:
    return names(keys, NAMES)
