"""One run at a time on a cluster: a lease that is taken, renewed, watched and given back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from orchestrator.engine import retry
from orchestrator.engine.events import Event
from orchestrator.errors import ApiConflict, ApiError, ApiNotFound, LeaseLost, Locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from orchestrator.engine.clock import Clock
    from orchestrator.engine.events import Sink

#: How long a lease is good for after it was renewed, and how often it is renewed: two renewals may fail.
DURATION_S = 15
RENEW_S = 5.0
#: A holder stops this much before its lease ends for others: an effect that was just started is still under way.
MARGIN_S = 2.0
#: Confirmed so recently, a lease need not be renewed before the next step; and a run as short as this is not watched.
CONFIRMED_S = 1.0

DELETED = "somebody deleted its lease"


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The lease as the cluster has it.

    Attributes:
        holder: Who.
        run: For which run.
        acquired: Seconds since the epoch, by the holder's clock.
        renewed: Likewise.
        duration_s: How long it is good for after `renewed`.
    """

    holder: str
    run: str
    acquired: float
    renewed: float
    duration_s: int
    resource_version: str = ""
    uid: str = ""


def locked(there: LeaseRecord) -> Locked:
    """The refusal of whoever finds the cluster held by another run."""
    since = datetime.fromtimestamp(there.acquired, UTC)
    run = there.run or "without a name"
    return Locked(
        f"{there.holder} holds the cluster with run {run}, since {since:%Y-%m-%d %H:%M:%S} UTC",
        remedy=f"wait for it, or ask {there.holder}; on their machine `orchestrator runs` shows it, and if it was "
        f"killed, `orchestrator resume {run}` goes on at once; others can take over {there.duration_s} s after "
        "it stopped",
    )


class LeaseStore(Protocol):
    """Where the lease is. Nothing is retried inside."""

    def read(self) -> LeaseRecord | None:
        """The record, or None."""
        ...

    def create(self, record: LeaseRecord) -> LeaseRecord:
        """The record as stored. Raises ApiConflict when there is one."""
        ...

    def replace(self, record: LeaseRecord) -> LeaseRecord:
        """The record as stored. Raises ApiConflict or ApiNotFound when it is not the one that was read."""
        ...

    def delete(self, record: LeaseRecord) -> None:
        """Remove it. Raises ApiConflict or ApiNotFound when it is not the one that was read."""
        ...

    def watch(self, since: LeaseRecord, timeout_s: float) -> Iterator[LeaseRecord | None]:
        """Changes for `timeout_s` seconds; None when it was deleted."""
        ...


def in_thread(work: Callable[[], None]) -> None:
    """Have `work` done beside. A daemon: a request that hangs must not keep the process from ending."""
    threading.Thread(target=work, name="lease", daemon=True).start()


class Lease:
    """The lease of one run. A context manager: taken on entry, kept by a thread, given back on exit.

    A run that lasts less than CONFIRMED_S costs two requests.

    Args:
        store: Where it is.
        holder: Who takes it.
        run: For which run. One that carries this run's name already is its own, from before a crash: only one process
            at a time has a run's journal open.
        clock: For its validity.
        sink: Told when it is taken over, in danger or lost.
        duration_s: How long it is good for without being renewed.
        renew_s: How often it is renewed.
        beside: Starts the keeper.
        wait: Waits, in the keeper, until the event or for so many seconds; True when it was the event.
        turns_back: The run itself takes what the cluster stores back to an earlier time, and the lease with it: a
            record from before this run took it is not somebody else's, and is replaced.
        unattended: Whether a run, by its name, is known to have no process any more: its lease is taken at once.
    """

    def __init__(  # noqa: PLR0913  the last five are seldom given
        self,
        store: LeaseStore,
        holder: str,
        run: str,
        clock: Clock,
        sink: Sink,
        *,
        duration_s: int = DURATION_S,
        renew_s: float = RENEW_S,
        beside: Callable[[Callable[[], None]], None] = in_thread,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
        turns_back: bool = False,
        unattended: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._store = store
        self._holder = holder
        self._run = run
        self._clock = clock
        self._sink = sink
        self._duration_s = duration_s
        self._valid_s = duration_s - min(MARGIN_S, duration_s / 5)
        self._renew_s = renew_s
        self._beside = beside
        self._wait = wait
        self._mutex = threading.Lock()
        self._over = threading.Event()
        self._confirmed = self._confirmed_wall = 0.0
        self._why_lost = ""
        self._failing = self._unanswered = False
        self._turns_back = turns_back
        self._unattended = unattended
        self._since = clock.wall()

    _record: LeaseRecord

    def __enter__(self) -> Self:
        self._take()
        self._beside(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._why_lost:
            return
        try:
            retry.call(retry.LEASE_GIVE_BACK, self._give_back, clock=self._clock, deadline=self._end)
        except ApiError as failed:
            self._emit("lease.kept", why=str(failed), until_s=self._duration_s)

    def guard(self, deadline: float | None = None, clock: Clock | None = None) -> None:
        """Before an effect: this run still holds the cluster.

        Where its time is up by any clock (an API server that is away, a laptop that slept), only a renewal on the
        version that was written last proves that nobody had it meanwhile. That is waited for: nothing can be changed
        without an API server anyway, and one that restarts comes back.

        Args:
            deadline: On `clock.now()`: until then at most.
            clock: For the pauses of that wait, so that they can be left early.

        Raises:
            LeaseLost: It does not, or cannot tell any more.
        """
        if not self._why_lost and self._unconfirmed_s() >= self._valid_s:
            self._prove(deadline, clock or self._clock)
        if self._why_lost:
            lost = LeaseLost(
                f"run {self._run} no longer holds the cluster: {self._why_lost}; no further change was started",
                remedy=f"see that no other run is at work: `kubectl get lease -n kube-system`; "
                f"then `orchestrator resume {self._run}`",
            )
            lost.unanswered = self._unanswered
            raise lost

    def _prove(self, deadline: float | None, clock: Clock) -> None:
        """Renew it, or lose it."""
        self._emit("lease.in_doubt", for_s=round(self._unconfirmed_s()))

        def attempt() -> None:
            if self._unconfirmed_s() >= self._valid_s:
                self._renew_once()

        try:
            retry.call(retry.LEASE_PROVE, attempt, clock=clock, deadline=deadline)
        except ApiError as err:
            self._lose(f"it could not be renewed for {self._unconfirmed_s():.0f} s: {err}", unanswered=True)

    def confirm(self, deadline: float | None = None, clock: Clock | None = None) -> None:
        """Before a step: as `guard`, and renewed if that was not done just now.

        A renewal that fails without being refused leaves it to the time that the lease still has.
        """
        if not self._why_lost and self._unconfirmed_s() > CONFIRMED_S:
            self._renew(deadline=self._end)
        self.guard(deadline, clock)

    @property
    def _end(self) -> float:
        return self._confirmed + self._valid_s

    def _unconfirmed_s(self) -> float:
        """Seconds since the last renewal that succeeded was sent, by the clock that says more.

        Source: Linux clock_gettime(2): CLOCK_MONOTONIC stands still while the machine is suspended.
        """
        return max(self._clock.now() - self._confirmed, self._clock.wall() - self._confirmed_wall)

    # ---- taking it --------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Create it, or take it over from a run that no longer renews it.

        Raises:
            Locked: Another run holds the cluster.
            ApiError: It cannot be told.
        """
        while True:
            if self._written(retry.API_WRITE, self._create):
                return
            there = retry.call(retry.API_READ, self._store.read, clock=self._clock)
            if there is None:
                continue
            if there.run != self._run and not self._unattended(there.run) and not self._abandoned(there):
                continue
            if self._written(retry.API_WRITE, partial(self._replace, there)):
                if there.run != self._run:
                    self._emit("lease.taken_over", holder=there.holder, from_run=there.run)
                return

    def _written(self, policy: retry.Policy, attempt: Callable[[], LeaseRecord | None]) -> bool:
        """Whether a record of ours is stored; not when somebody else's was in the way."""
        stored = retry.call(policy, attempt, clock=self._clock)
        if stored is None:
            return False
        self._record = stored
        return True

    def _create(self) -> LeaseRecord | None:
        self._sent()
        try:
            return self._store.create(self._fresh())
        except ApiConflict:
            return None

    def _replace(self, there: LeaseRecord) -> LeaseRecord | None:
        self._sent()
        try:
            return self._store.replace(replace(self._fresh(), resource_version=there.resource_version, uid=there.uid))
        except (ApiConflict, ApiNotFound):
            return None

    def _sent(self) -> None:
        self._confirmed, self._confirmed_wall = self._clock.now(), self._clock.wall()

    def _fresh(self) -> LeaseRecord:
        now = self._clock.wall()
        return LeaseRecord(self._holder, self._run, now, now, self._duration_s)

    def _abandoned(self, there: LeaseRecord) -> bool:
        """Whether nobody renewed it for as long as it is good for; clocks of two machines differ, so it is watched.

        A watch that breaks, or cannot begin because that version is forgotten, loses nothing: a record that changed
        meanwhile cannot be replaced.

        Returns:
            False when it is gone meanwhile.

        Raises:
            Locked: It is good still, or somebody renewed it.
        """
        if self._clock.wall() < there.renewed + there.duration_s:
            raise locked(there)
        self._emit("lease.watched", level="info", holder=there.holder, from_run=there.run, for_s=there.duration_s)
        end = self._clock.now() + there.duration_s
        while (left_s := end - self._clock.now()) > 0:
            try:
                for seen in self._store.watch(there, left_s):
                    if seen is None:
                        return False
                    if seen != there:
                        raise locked(seen)
            except ApiError as err:
                self._emit("lease.unwatched", level="debug", why=str(err))
            self._clock.sleep(min(1.0, max(0.0, end - self._clock.now())))
        return True

    # ---- keeping it -------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Renew in time, and between renewals watch for others. Short runs are spared both."""
        if self._wait(self._over, CONFIRMED_S):
            return
        while self._unconfirmed_s() < self._valid_s + retry.LEASE_PROVE.give_up_s:
            self._look_out(self._confirmed + self._renew_s)
            if self._over.is_set() or self._why_lost:
                return
            if not self._renew(deadline=self._end):
                self._wait(self._over, CONFIRMED_S)
        self._lose(f"it could not be renewed for {self._unconfirmed_s():.0f} s", unanswered=True)

    def _look_out(self, until: float) -> None:
        """Watch until it is time to renew; a watch that breaks leaves it to the renewal to find out."""
        left_s = until - self._clock.now()
        if left_s <= 0:
            return
        try:
            for seen in self._store.watch(self._record, left_s):
                if self._over.is_set() or self._taken(seen):
                    return
        except ApiError as err:
            self._emit("lease.unwatched", level="debug", why=str(err))
        left_s = until - self._clock.now()
        if left_s > 0:
            self._wait(self._over, left_s)

    def _taken(self, there: LeaseRecord | None) -> bool:
        """Whether it is not ours any more; notes that it is lost."""
        if self._turns_back and (there is None or there.renewed < self._since):
            return False
        if there is None:
            self._lose(DELETED)
        elif there.run != self._run:
            self._lose(f"{there.holder} took it over for run {there.run}")
        return bool(self._why_lost)

    def _renew(self, *, deadline: float) -> bool:
        """Renew, again if need be until `deadline`. Whether it is renewed; lost or failing, the sink is told once."""
        try:
            retry.call(retry.LEASE_RENEW, self._renew_once, clock=self._clock, deadline=deadline)
        except ApiError as err:
            if not self._failing:
                self._emit("lease.renewal_failed", why=str(err))
            self._failing = True
            return False
        self._failing = False
        return True

    def _renew_once(self) -> None:
        with self._mutex:
            if self._over.is_set() or self._why_lost:
                return
            now, wall = self._clock.now(), self._clock.wall()
            try:
                self._record = self._store.replace(replace(self._record, renewed=wall))
            except ApiNotFound:
                if not self._turns_back:
                    self._lose(DELETED)
                    return
                self._record = self._store.create(self._fresh())
                self._confirmed, self._confirmed_wall = now, wall
            except ApiConflict:
                self._reread()
                if not self._why_lost:
                    raise
            else:
                self._confirmed, self._confirmed_wall = now, wall

    def _give_back(self) -> None:
        with self._mutex:
            try:
                self._store.delete(self._record)
            except ApiNotFound:
                return
            except ApiConflict:
                self._reread()
                if not self._why_lost:
                    raise

    def _reread(self) -> None:
        """After a conflict: a renewal of our own may have landed without its answer, or somebody labelled it."""
        there = self._store.read()
        if not self._taken(there) and there is not None:
            mine = there if there.run == self._run else self._fresh()
            self._record = replace(mine, resource_version=there.resource_version, uid=there.uid)

    def _lose(self, why: str, *, unanswered: bool = False) -> None:
        if not self._why_lost:
            self._why_lost, self._unanswered = why, unanswered
            if not self._over.is_set():
                self._emit("lease.lost", why=why)

    def _emit(self, name: str, *, level: str = "warning", **fields: object) -> None:
        self._sink.emit(Event(name, {"run": self._run, **fields}, level))
