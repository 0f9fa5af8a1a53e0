"""One run at a time on a cluster: a lease that is taken, renewed, watched and given back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

from orchestrator.engine import retry
from orchestrator.engine.events import Event
from orchestrator.errors import ApiConflict, ApiError, ApiNotFound, LeaseLost, Locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from orchestrator.engine.clock import Clock
    from orchestrator.engine.events import Sink

#: How long a lease is good for after it was renewed, and how often it is renewed: two renewals may fail.
DURATION_S = 15
RENEW_S = 5.0
#: A holder stops this much before its lease ends for others: their clock runs, ours may lag behind.
MARGIN_S = 2.0
#: Confirmed so recently, a lease need not be renewed before the next step.
CONFIRMED_S = 1.0


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


class Lease:
    """The lease of one run. A context manager: taken on entry, kept by a thread, given back on exit.

    Args:
        store: Where it is.
        holder: Who takes it.
        run: For which run. One that carries this run's name already is its own, from before a crash.
        clock: For its validity.
        sink: Told when it is taken over or lost.
    """

    def __init__(self, store: LeaseStore, holder: str, run: str, clock: Clock, sink: Sink) -> None:
        self._store = store
        self._holder = holder
        self._run = run
        self._clock = clock
        self._sink = sink
        self._mutex = threading.Lock()
        self._over = threading.Event()
        self._record: LeaseRecord | None = None
        self._confirmed = 0.0
        self._why_lost = ""

    def __enter__(self) -> Self:
        sent = self._clock.now()
        self._record = self._take()
        self._confirmed = sent
        threading.Thread(target=self._keep, name="lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        with self._mutex:
            if self._record is None or self._why_lost:
                return
            try:
                self._store.delete(self._record)
            except ApiError as failed:
                self._emit("lease.kept", "warning", why=str(failed), until_s=DURATION_S)

    def guard(self) -> None:
        """Before an effect: this run still holds the cluster.

        Raises:
            LeaseLost: It does not, or cannot tell any more.
        """
        why = self._why_lost
        if not why and self._clock.now() >= self._confirmed + DURATION_S - MARGIN_S:
            why = f"it could not be renewed for {self._clock.now() - self._confirmed:.0f} s"
            self._lose(why)
        if why:
            raise LeaseLost(
                f"run {self._run} no longer holds the cluster: {why}; no further change was made",
                remedy=f"see who holds it: `kubectl get lease -A`; then `orchestrator resume {self._run}`",
            )

    def confirm(self) -> None:
        """Before a step: as `guard`, and renewed if that was not done just now."""
        self.guard()
        if self._clock.now() - self._confirmed >= CONFIRMED_S:
            self._renew()
            self.guard()

    # ---- taking it --------------------------------------------------------------------------------------------

    def _take(self) -> LeaseRecord:
        wanted = self._fresh("", "")
        while True:
            try:
                return retry.call(retry.API_WRITE, lambda: self._create(wanted), clock=self._clock)
            except _Held:
                there = retry.call(retry.API_READ, self._store.read, clock=self._clock)
            if there is None:
                continue
            try:
                return self._take_over(there)
            except (ApiConflict, ApiNotFound):
                continue

    def _create(self, wanted: LeaseRecord) -> LeaseRecord:
        try:
            return self._store.create(wanted)
        except ApiConflict as err:
            raise _Held from err

    def _take_over(self, there: LeaseRecord) -> LeaseRecord:
        if there.run != self._run:
            if self._clock.wall() < there.renewed + there.duration_s or self._moves(there):
                raise self._locked(there)
            self._emit("lease.taken_over", "warning", holder=there.holder, from_run=there.run)
        return self._store.replace(self._fresh(there.resource_version, there.uid))

    def _moves(self, there: LeaseRecord) -> bool:
        """Watch a lease that looks expired for as long as it is good for: clocks of two machines differ."""
        self._emit("lease.watched", "info", holder=there.holder, from_run=there.run, for_s=there.duration_s)
        return any(True for _ in self._store.watch(there, there.duration_s))

    def _locked(self, there: LeaseRecord) -> Locked:
        since = self._clock.wall() - there.acquired
        return Locked(
            f"{there.holder} holds the cluster with run {there.run or 'unknown'}, for {since:.0f} s",
            remedy=f"wait, or ask {there.holder}; `orchestrator runs` on their machine shows it",
        )

    def _fresh(self, resource_version: str, uid: str) -> LeaseRecord:
        now = self._clock.wall()
        return LeaseRecord(self._holder, self._run, now, now, DURATION_S, resource_version, uid)

    # ---- keeping it -------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Renew in time; between renewals watch for others. Short runs are spared the watch."""
        self._over.wait(CONFIRMED_S)
        while not self._over.is_set() and not self._why_lost:
            self._look_out()
            if not self._over.is_set() and not self._why_lost:
                self._renew()

    def _look_out(self) -> None:
        with self._mutex:
            record = self._record
        assert record is not None  # noqa: S101  set before the thread starts
        try:
            for seen in self._store.watch(record, RENEW_S):
                if self._over.is_set():
                    return
                if seen is None:
                    self._lose("somebody deleted its lease")
                elif seen.run != self._run:
                    self._lose(f"{seen.holder} took its lease over for run {seen.run}")
                if self._why_lost:
                    return
        except ApiError:
            self._over.wait(CONFIRMED_S)

    def _renew(self) -> None:
        """Renew once; a failure that passes is left to the next time and to the lease's end."""
        with self._mutex:
            if self._record is None or self._over.is_set():
                return
            sent = self._clock.now()
            try:
                self._record = self._store.replace(replace(self._record, renewed=self._clock.wall()))
                self._confirmed = sent
            except ApiNotFound:
                self._lose("somebody deleted its lease")
            except ApiConflict:
                self._reread(sent)
            except ApiError as err:
                self._emit("lease.renewal_failed", "warning", why=str(err))

    def _reread(self, sent: float) -> None:
        """After a conflict: an earlier renewal of our own may have landed without its answer."""
        try:
            there = self._store.read()
        except ApiError as err:
            self._emit("lease.renewal_failed", "warning", why=str(err))
            return
        if there is None:
            self._lose("somebody deleted its lease")
        elif there.run != self._run:
            self._lose(f"{there.holder} took its lease over for run {there.run}")
        else:
            self._record = there
            self._confirmed = sent

    def _lose(self, why: str) -> None:
        if not self._why_lost:
            self._why_lost = why
            self._emit("lease.lost", "error", why=why)

    def _emit(self, name: str, level: str, **fields: object) -> None:
        self._sink.emit(Event(name, {"run": self._run, **fields}, level))


class _Held(Exception):
    """Somebody holds the lease."""
