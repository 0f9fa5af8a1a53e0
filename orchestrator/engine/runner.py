"""Carries a plan out: probe, decide, journal, apply, verify; and looks without touching (`preview`)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from orchestrator.engine import retry
from orchestrator.engine.events import Event
from orchestrator.engine.lease import Lease
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import GoalNotReached, Interrupted, OrchestratorError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.engine.clock import Clock
    from orchestrator.engine.events import Sink
    from orchestrator.engine.journal import Journal
    from orchestrator.engine.lease import LeaseStore
    from orchestrator.engine.plan import Decision, Facts, Lane, Past, Plan, Step, Wave

V = TypeVar("V")
H = TypeVar("H")
V_contra = TypeVar("V_contra", contravariant=True)
H_contra = TypeVar("H_contra", contravariant=True)

#: Lanes of one wave that run at once.
LANES = 32


@dataclass(frozen=True, slots=True)
class Applying:
    """What an action is handed while it changes the world.

    Attributes:
        run: The run's id.
        step: The step.
        deadline: On `clock.now()`; None waits for ever.
        clock: Time.
        emit: Reports an event; `run`, `node` and `step` are added, `level=` sets the level.
        guard: Called before each effect; raises LeaseLost, or Interrupted after a second request to stop.
    """

    run: str
    step: Step
    deadline: float | None
    clock: Clock
    emit: Callable[..., None]
    guard: Callable[[], None]


class Action(Protocol[V_contra, H_contra]):
    """How one kind of step is carried out."""

    def probe(self, view: V_contra, step: Step) -> Facts:
        """Read what `decide` needs."""
        ...

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Judge. Pure."""
        ...

    def apply(self, hands: H_contra, step: Step, now: Facts, run: Applying) -> None:
        """Change the world towards the goal. May be repeated."""
        ...


@dataclass(frozen=True, slots=True)
class Preview:
    """A step, and what was decided about it before anything started."""

    step: Step
    decision: Decision


class Stop:
    """A request to stop, from a person or a signal. Safe to use from a signal handler.

    Attributes:
        soft: Finish the running steps, start no other.
        hard: Start no other effect.
    """

    def __init__(self) -> None:
        self.soft = False
        self.hard = False

    def request(self) -> None:
        """Ask to stop; the second time, at once."""
        self.hard = self.soft
        self.soft = True


def preview(plan: Plan, view: V, actions: Mapping[str, Action[V, Any]]) -> tuple[Preview, ...]:
    """What each step would find now. Takes a view, so there is nothing to change anything with."""
    needed: set[str] = set()
    found = []
    for step in plan.steps():
        action = actions[step.action]
        decision = action.decide(action.probe(view, step), step, {})
        if isinstance(decision, Blocked) and decision.until in needed:
            decision = Needed(decision.then or decision.why)
        if isinstance(decision, Needed):
            needed.add(step.id)
        found.append(Preview(step, decision))
    return tuple(found)


def execute(  # noqa: PLR0913  the runner takes everything it needs itself, so no use case can forget the lease
    plan: Plan,
    hands: H,
    actions: Mapping[str, Action[H, H]],
    *,
    journal: Journal,
    leases: LeaseStore,
    holder: str,
    clock: Clock,
    sink: Sink,
    stop: Stop,
    resumed: bool = False,
) -> None:
    """Carry `plan` out, or on, under the cluster's lease.

    Raises:
        OrchestratorError: The first failure, with a note of where; the others are notes too.
    """
    run = _Run(hands, actions, journal, clock, sink, stop)
    try:
        with Lease(leases, holder, journal.run, clock, sink) as run.lease:
            if resumed:
                journal.mark("resumed")
            run.emit("run.started", title=plan.title, resumed=resumed)
            for number, wave in enumerate(plan.waves, start=1):
                run.wave(number, wave)
    except Interrupted as err:
        journal.mark("stopped")
        run.emit("run.stopped", level="warning", why=str(err), remedies=_remedies(journal.run))
        raise
    except OrchestratorError as err:
        journal.failed(err)
        run.emit("run.stopped", level="error", why=str(err), remedies=_remedies(journal.run))
        raise
    journal.mark("ended")
    run.emit("run.finished")


def _remedies(run: str) -> list[str]:
    return [f"orchestrator resume {run}", f"orchestrator release {run}"]


@dataclass(slots=True)
class _Run(Generic[H]):
    """One execution."""

    hands: H
    actions: Mapping[str, Action[H, H]]
    journal: Journal
    clock: Clock
    sink: Sink
    stop: Stop
    lease: Lease = field(init=False)

    def emit(self, name: str, *, level: str = "info", **fields: Any) -> None:
        self.sink.emit(Event(name, {"run": self.journal.run, **fields}, level))

    def wave(self, number: int, wave: Wave) -> None:
        """Its lanes at once; the first failure stops the others at their next step."""
        failed = threading.Event()
        self.emit("wave.started", wave=number)
        if len(wave.lanes) == 1:
            self._lane(number, wave.lanes[0], failed)
        else:
            with ThreadPoolExecutor(min(LANES, len(wave.lanes)), "lane") as pool:
                results = [pool.submit(self._lane, number, lane, failed) for lane in wave.lanes]
            _raise_first([err for result in results if (err := result.exception())])
        self.emit("wave.finished", wave=number)

    def _lane(self, number: int, lane: Lane, failed: threading.Event) -> None:
        try:
            for step in self._rest(lane):
                if failed.is_set():
                    return
                if self.stop.soft:
                    raise Interrupted(
                        f"stopped before {step.id}", remedy=f"orchestrator resume {self.journal.run}, or release it"
                    )
                self._step(number, step)
        except BaseException:
            failed.set()
            raise

    def _rest(self, lane: Lane) -> tuple[Step, ...]:
        """The steps that are left.

        Finished ones are not judged again: a node that is back in service would be drained a second time. Only where
        the first unfinished one is Blocked was something undone meanwhile, and the lane is walked from its start.
        """
        rest = tuple(s for s in lane.steps if s.id not in self.journal.done)
        if rest and rest[0] is not lane.steps[0]:
            action = self.actions[rest[0].action]
            now = action.probe(self.hands, rest[0])
            if isinstance(action.decide(now, rest[0], self.journal.past), Blocked):
                return lane.steps
        return rest

    def _step(self, number: int, step: Step) -> None:
        begun = self.clock.now()

        def emit(name: str, *, level: str = "info", **fields: Any) -> None:
            known = {"node": step.node, "step": step.id, "action": step.action}
            self.emit(name, level=level, **known, **fields)

        try:
            why = self._reach(step, emit, begun)
        except OrchestratorError as err:
            emit("step.failed", level="error", why=str(err))
            err.add_note(f"wave {number}, {step.node}, step {step.id}")
            raise
        took_s = round(self.clock.now() - begun, 3)
        if why is None:
            emit("step.finished", outcome="changed", took_s=took_s)
        else:
            emit("step.skipped", outcome="skipped", why=why, took_s=took_s)

    def _reach(self, step: Step, emit: Callable[..., None], begun: float) -> str | None:
        """Apply until Done. None when something was changed, else why nothing had to be."""
        deadline = None if step.timeout_s is None else begun + step.timeout_s
        action = self.actions[step.action]
        now = action.probe(self.hands, step)
        decision = action.decide(now, step, self.journal.past)
        if isinstance(decision, Done):
            self.journal.finished(step.id, "skipped")
            return decision.why
        emit("step.started", why=decision.why)
        applying = Applying(self.journal.run, step, deadline, self.clock, emit, self._guard)
        rounds = 0
        while not isinstance(decision, Done):
            if isinstance(decision, Blocked):
                raise Refused(decision.why, remedy=decision.remedy)
            if deadline is not None and self.clock.now() >= deadline:
                raise self._late(step, decision)
            if rounds:
                emit("step.waiting", why=decision.why)
                self._pause(rounds, deadline)
            self.journal.started(step.id, now)
            self._guard()
            self.lease.confirm()
            action.apply(self.hands, step, now, applying)
            rounds += 1
            now = action.probe(self.hands, step)
            decision = action.decide(now, step, self.journal.past)
        self.journal.finished(step.id, "changed")
        return None

    def _guard(self) -> None:
        if self.stop.hard:
            raise Interrupted("stopped", remedy=f"orchestrator resume {self.journal.run}, or release it")
        self.lease.guard()

    def _pause(self, rounds: int, deadline: float | None) -> None:
        policy = retry.SETTLE
        pause_s = min(policy.most_s, policy.first_s * policy.factor ** (rounds - 1))
        if deadline is not None:
            pause_s = min(pause_s, max(0.0, deadline - self.clock.now()))
        self.clock.sleep(pause_s)

    def _late(self, step: Step, decision: Needed) -> GoalNotReached:
        return GoalNotReached(
            f"{step.node}: {step.action} is not there after {step.timeout_s:g} s: {decision.why}",
            remedy=f"look at the node, then `orchestrator resume {self.journal.run}`",
        )


def _raise_first(errors: list[BaseException]) -> None:
    """Raise the first failure; what a person did comes after what broke."""
    if not errors:
        return
    errors.sort(key=lambda e: isinstance(e, Interrupted))
    first, *others = errors
    for other in others:
        first.add_note(f"also: {other}")
    raise first
