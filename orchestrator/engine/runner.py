"""Carries a plan out: probe, decide, journal, apply, verify; and looks without touching (`preview`)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from orchestrator.engine import retry, runs
from orchestrator.engine.events import Event
from orchestrator.engine.lease import Lease, in_thread
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import GoalNotReached, Interrupted, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from orchestrator.engine.clock import Clock
    from orchestrator.engine.events import Sink
    from orchestrator.engine.journal import Journal
    from orchestrator.engine.lease import LeaseStore
    from orchestrator.engine.plan import Decision, Facts, Lane, Past, Plan, Step, Wave

V = TypeVar("V")
H = TypeVar("H")
V_contra = TypeVar("V_contra", contravariant=True)
H_contra = TypeVar("H_contra", contravariant=True)

#: How one does the same for several nodes at once: the nodes and what is done for each, in; the outcomes by node, out.
Together: TypeAlias = "Callable[[Iterable[str], Callable[[str], dict[str, Facts]]], Mapping[str, dict[str, Facts]]]"

#: Lanes of one wave that run at once: each is a thread with a connection; more would crowd the API server.
LANES = 16
#: A pause is left this soon after a second request to stop, or after the lease was lost.
HEED_S = 0.5


@dataclass(frozen=True, slots=True)
class Applying:
    """What an action is handed while it changes the world.

    Attributes:
        run: The run's id.
        step: The step.
        deadline: On `clock.now()`; None waits for ever.
        clock: Time.
        emit: Reports an event; `run`, `node`, `step` and `action` are added, `level=` sets the level.
        guard: Called before each effect; raises LeaseLost, or Interrupted after a second request to stop.
        before: Facts as they were when the step first started in this run.
        waiting: Called in place of `guard` while nothing of the step has begun: the first request to stop ends it, too.
    """

    run: str
    step: Step
    deadline: float | None
    clock: Clock
    emit: Callable[..., None]
    guard: Callable[[], None]
    before: Facts = field(default_factory=dict)
    waiting: Callable[[], None] = lambda: None


class Action(Protocol[V_contra, H_contra]):
    """How one kind of step is carried out.

    One that has no effect, and only waits, may say so by an attribute `only_waits`: it is not finished first when a
    person asks the run to stop, and decides without facts before a run: what it will wait for is not there yet.
    """

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
    """A request to stop, from a person or a signal. Safe in threads and in signal handlers: it holds no lock."""

    def __init__(self) -> None:
        self._requests: list[None] = []

    def request(self) -> None:
        """Ask to stop; the second time, at once."""
        self._requests.append(None)

    @property
    def soft(self) -> bool:
        """Finish the running steps, start no other."""
        return len(self._requests) > 0

    @property
    def hard(self) -> bool:
        """Start no other effect."""
        return len(self._requests) > 1


def preview(
    plan: Plan, view: V, actions: Mapping[str, Action[V, Any]], *, together: Together | None = None
) -> tuple[Preview, ...]:
    """What each step would find now. Takes a view, so there is nothing to change anything with.

    Args:
        plan: The steps.
        view: What they look at.
        actions: What they are, by name.
        together: Looks at several nodes at once; None for one after another.
    """

    def look(node: str) -> dict[str, Facts]:
        own = [(s, actions[s.action]) for s in plan.steps() if s.node == node]
        return {s.id: {} if getattr(action, "only_waits", False) else action.probe(view, s) for s, action in own}

    nodes = tuple(dict.fromkeys(s.node for s in plan.steps()))
    looked = together(nodes, look) if together else {node: look(node) for node in nodes}
    needed: set[str] = set()
    found = []
    for step in plan.steps():
        decision = actions[step.action].decide(looked[step.node][step.id], step, {})
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
    beside: Callable[[Callable[[], None]], None] = in_thread,
) -> None:
    """Carry `plan` out, or on, under the cluster's lease, which a keeper renews `beside` the run.

    Raises:
        Locked: Another run holds the cluster; nothing was started.
        Interrupted: It was asked to stop before all was done.
        OrchestratorError: The first failure, with a note of where; what else failed is in further notes.
    """
    run = _Run(plan, hands, actions, journal, clock, sink, stop, resumed=resumed)
    began = clock.now()
    run.emit(
        "run.started", title=plan.title, nodes=list(plan.nodes()), resumed=resumed, waves=len(plan.waves),
        steps=_counted(plan, journal.done),
    )  # fmt: skip
    try:
        # A step may turn back what the cluster stores to an earlier time, the lease too; it says so itself.
        back = any(step.params.get("turns_back") for step in plan.steps())
        with Lease(
            leases, holder, journal.run, clock, sink, beside=beside, turns_back=back, unattended=runs.unattended
        ) as lease:
            if resumed:
                journal.mark("resumed", machine=runs.machine())
            run.carry_out(lease)
            journal.mark("ended", outcome="finished")
    except Exception as err:
        run.stopped(err)
        raise
    run.emit("run.finished", outcome="finished", took_s=round(clock.now() - began, 3))


def _counted(plan: Plan, done: Collection[str]) -> dict[str, dict[str, int]]:
    """Node -> how many steps it has in all, and how many are left."""
    found = {node: {"all": 0, "left": 0} for node in plan.nodes()}
    for step in plan.steps():
        found[step.node]["all"] += 1
        found[step.node]["left"] += step.id not in done
    return found


@dataclass(frozen=True, slots=True)
class _Failure:
    """What went wrong in which step of which wave; `out` when its node is out of service."""

    error: BaseException
    step: Step
    wave: int
    out: bool

    def __str__(self) -> str:
        return f"wave {self.wave}, {self.step.node}, step {self.step.id}"


class _Run(Generic[H]):
    """One execution."""

    def __init__(
        self,
        plan: Plan,
        hands: H,
        actions: Mapping[str, Action[H, H]],
        journal: Journal,
        clock: Clock,
        sink: Sink,
        stop: Stop,
        *,
        resumed: bool,
    ) -> None:
        self._plan = plan
        self._steps = {step.id: step for step in plan.steps()}
        self._hands = hands
        self._actions = actions
        self._journal = journal
        self._clock = clock
        self._sink = sink
        self._stop = stop
        self._resumed = resumed
        self._failures: list[_Failure] = []

    _lease: Lease

    def emit(self, name: str, *, level: str = "info", **fields: Any) -> None:
        """Report an event of the run."""
        self._sink.emit(Event(name, {"run": self._journal.run, **fields}, level))

    def carry_out(self, lease: Lease) -> None:
        """Wave after wave, each one only when the one before is finished.

        Raises:
            Interrupted: A request to stop came before all was done.
        """
        self._lease = lease
        for number, wave in enumerate(self._plan.waves, start=1):
            if all(step.id in self._journal.done for lane in wave.lanes for step in lane.steps):
                continue
            self.emit("wave.started", wave=number)
            self._wave(number, wave)
            self._raise_failure()
            if any(step.id not in self._journal.done for lane in wave.lanes for step in lane.steps):
                raise self._interrupted("stopped as asked, between two steps")
            self.emit("wave.finished", wave=number)

    def stopped(self, err: Exception) -> None:
        """Record the end, and say where, why, and what continues and undoes the run."""
        run = self._journal.run
        failure = next((f for f in self._failures if f.error is err), None)
        try:
            if isinstance(err, Interrupted):
                self._journal.mark("stopped")
            else:
                self._journal.failed(err, failure.step.id if failure else None)
        except Refused as unwritten:
            err.add_note(str(unwritten))
        where = {"node": failure.step.node, "step": failure.step.id} if failure else {}
        self.emit(
            "run.stopped",
            level="warning" if isinstance(err, Interrupted) else "error",
            **where,
            why=str(err) or type(err).__name__,
            remedies=[f"orchestrator resume {run}", f"orchestrator release {run}"],
        )

    # ---- waves and lanes --------------------------------------------------------------------------------------

    def _wave(self, number: int, wave: Wave) -> None:
        """Its lanes at once. The first failure stops the others at their next step; see `_goes_on`."""
        if len(wave.lanes) == 1:
            self._lane(number, wave.lanes[0])
            return
        with ThreadPoolExecutor(min(LANES, len(wave.lanes)), "lane") as pool:
            lanes = [pool.submit(self._lane, number, lane) for lane in wave.lanes]
        for lane in lanes:
            lane.result()

    def _raise_failure(self) -> None:
        """The first one itself; what a person did comes after what broke. The others become its notes."""
        if not self._failures:
            return
        first, *others = sorted(self._failures, key=lambda f: isinstance(f.error, Interrupted))
        for other in others:
            if other.error is not first.error:
                first.error.add_note(f"{other}: {type(other.error).__name__}: {other.error}")
        raise first.error

    def _lane(self, number: int, lane: Lane) -> None:
        """The steps of one node that are left, in order, until one fails, here or beside, or until asked to stop.

        Finished ones are not judged again: a node that is back in service would be drained a second time. Only where
        a resumed lane finds its first unfinished step Blocked was something undone meanwhile: then the lane is walked
        once more from its start, and before that the step of an earlier wave that the Blocked names.
        """
        todo = [step for step in lane.steps if step.id not in self._journal.done]
        again = self._resumed
        while todo and not self._stop.soft and self._goes_on(lane):
            step = todo.pop(0)
            try:
                blocked = self._step(step)
                if blocked is not None:
                    todo = self._walked_again(lane, step, blocked) if again else []
                    if not todo:
                        raise Refused(blocked.why, remedy=blocked.remedy)
            except BaseException as err:
                self._fail(_Failure(err, step, number, self._out(lane)))
                if not isinstance(err, Exception):
                    raise
                return
            again = False

    def _goes_on(self, lane: Lane) -> bool:
        """Whether nothing failed beside it that stops it.

        What fails on a node that is in service, being made ready, leaves no other out of service: that one is brought
        to its end. What fails on a node that is out may fail on the next one as well.
        """
        return not self._failures or (self._out(lane) and not any(failure.out for failure in self._failures))

    def _out(self, lane: Lane) -> bool:
        """Whether a step of it that takes its node out of service was begun."""
        return any(step.params.get("takes_out") and step.id in self._journal.past for step in lane.steps)

    def _walked_again(self, lane: Lane, step: Step, blocked: Blocked) -> list[Step]:
        """The steps that may clear `blocked`, and the rest of the lane; none when there is nothing before `step`."""
        named = self._steps.get(blocked.until)
        before = [named] if named and named not in lane.steps and named.id in self._journal.done else []
        return [*before, *lane.steps] if before or lane.steps[0] is not step else []

    def _fail(self, failure: _Failure) -> None:
        self._failures.append(failure)
        failure.error.add_note(str(failure))
        if isinstance(failure.error, Exception) and not isinstance(failure.error, Interrupted):
            self._emit_of(failure.step, "step.failed", level="warning", why=str(failure.error), outcome="failed")

    # ---- one step ---------------------------------------------------------------------------------------------

    def _step(self, step: Step) -> Blocked | None:
        """Reach the step's goal; the Blocked that forbids to start it, or None when it is reached."""
        began = self._clock.now()
        self._guard()
        action = self._actions[step.action]
        now = action.probe(self._hands, step)
        decision = action.decide(now, step, self._journal.past)
        if isinstance(decision, Blocked):
            return decision
        cut_short = step.id in self._journal.past and step.id not in self._journal.done
        self._journal.started(step.id, now)
        if isinstance(decision, Needed):
            self._emit_of(step, "step.started", why=decision.why)
            decision = self._reach(step, action, now, began)
            outcome = "changed"
        else:
            outcome = "changed" if cut_short else "skipped"
        self._journal.finished(step.id, outcome)
        name = "step.skipped" if outcome == "skipped" else "step.finished"
        took_s = round(self._clock.now() - began, 3)
        self._emit_of(step, name, outcome=outcome, took_s=took_s, why=decision.why)
        return None

    def _reach(self, step: Step, action: Action[H, H], now: Facts, began: float) -> Decision:
        """Apply, then look until it is Done; apply again where `decide` says so.

        Raises:
            GoalNotReached: It is not, in the time it was given.
            Refused: It was Blocked meanwhile.
        """
        deadline = None if step.timeout_s is None else began + step.timeout_s
        guard = partial(self._guard, deadline, patient=not getattr(action, "only_waits", False))
        before = self._journal.past[step.id]
        waiting = partial(self._guard, deadline, patient=False)
        applying = Applying(self._journal.run, step, deadline, self._clock, self._emitter(step), guard, before, waiting)
        self._apply(action, step, now, applying)
        said = ""

        def look() -> Decision:
            nonlocal said
            guard()
            seen = action.probe(self._hands, step)
            decision = action.decide(seen, step, self._journal.past)
            if isinstance(decision, Blocked):
                raise Refused(decision.why, remedy=decision.remedy)
            if isinstance(decision, Needed) and decision.why != said:
                said = decision.why
                self._emit_of(step, "step.waiting", why=said)
            if isinstance(decision, Needed) and decision.again and not self._past(deadline):
                self._apply(action, step, seen, applying)
            return decision

        decision = retry.until(
            retry.SETTLE,
            look,
            lambda d: isinstance(d, Done),
            clock=_Heeding(self._clock, guard),
            deadline=deadline,
            scheduled=lambda err, _: self._emit_of(step, "step.waiting", level="warning", why=str(err)),
        )
        if not isinstance(decision, Done):
            raise GoalNotReached(
                f"{step.node}: {step.action} has not reached its goal in {step.timeout_s:g} s: {decision.why}",
                remedy=f"see to it, then `orchestrator resume {self._journal.run}`, which gives it as long again",
            )
        return decision

    def _apply(self, action: Action[H, H], step: Step, now: Facts, applying: Applying) -> None:
        self._heed()
        self._lease.confirm(applying.deadline, _Heeding(self._clock, self._heed))
        action.apply(self._hands, step, now, applying)

    def _past(self, deadline: float | None) -> bool:
        return deadline is not None and self._clock.now() >= deadline

    def _guard(self, deadline: float | None = None, *, patient: bool = True) -> None:
        """Raise when nothing more may be done; `patient` steps are finished first when a person asks to stop."""
        if self._stop.soft and not patient:
            raise self._interrupted("stopped as asked, while it waited")
        self._heed()
        self._lease.guard(deadline, _Heeding(self._clock, self._heed))

    def _heed(self) -> None:
        if self._stop.hard:
            raise self._interrupted("stopped at once, as asked")

    def _interrupted(self, why: str) -> Interrupted:
        run = self._journal.run
        return Interrupted(
            f"run {run}: {why}", remedy=f"`orchestrator resume {run}` goes on, `orchestrator release {run}` undoes it"
        )

    def _emit_of(self, step: Step, name: str, *, level: str = "info", **fields: Any) -> None:
        self.emit(name, level=level, node=step.node, step=step.id, action=step.action, **fields)

    def _emitter(self, step: Step) -> Callable[..., None]:
        def emit(name: str, *, level: str = "info", **fields: Any) -> None:
            self._emit_of(step, name, level=level, **fields)

        return emit


@dataclass(frozen=True, slots=True)
class _Heeding:
    """A clock whose pauses end with the error of `guard` when it raises one."""

    clock: Clock
    guard: Callable[[], None]

    def now(self) -> float:
        return self.clock.now()

    def wall(self) -> float:
        return self.clock.wall()

    def sleep(self, seconds: float) -> None:
        end = self.clock.now() + seconds
        while (left_s := end - self.clock.now()) > 0:
            self.clock.sleep(min(HEED_S, left_s))
            self.guard()
