"""The only retry there is: policies with names, carried out by tenacity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import tenacity

from orchestrator.errors import ApiError, OrchestratorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and how long something is tried again.

    Attributes:
        first_s: The first pause.
        factor: Each pause is the one before times this,
        most_s: but no longer than this.
        give_up_s: From the first attempt on; infinity leaves it to the deadline.
    """

    name: str
    first_s: float
    factor: float
    most_s: float
    give_up_s: float


# A control plane that restarts is away for 20 to 40 s; a person waits a minute for an answer.
API_READ = Policy("api-read", 0.2, 2, 5, 60)
# As reading: a patch is repeated on the version it was meant for, so it cannot take effect twice.
API_WRITE = Policy("api-write", 0.2, 2, 5, 60)
# Several attempts within one renewal interval; the lease's own end is the last word.
LEASE_RENEW = Policy("lease-renew", 0.2, 2, 1, 5)
# Between an effect and seeing it: at once, then less and less often; the step's deadline bounds it.
SETTLE = Policy("settle", 0.2, 2, 5, float("inf"))


def call(
    policy: Policy,
    work: Callable[[], T],
    *,
    clock: Clock,
    deadline: float | None = None,
    scheduled: Callable[[OrchestratorError, float], None] | None = None,
) -> T:
    """What `work` returns, tried again while it fails with an error that passes.

    Args:
        policy: How often.
        work: Raises OrchestratorError; only those with `retryable` are tried again.
        clock: For pauses.
        deadline: On `clock.now()`; no pause goes beyond it.
        scheduled: Told of each error that is followed by another attempt, and of the pause.

    Raises:
        OrchestratorError: The last one, as it was raised, with a note of how long it was tried.
    """
    begun = clock.now()
    end = min(begun + policy.give_up_s, float("inf") if deadline is None else deadline)
    grow = tenacity.wait_exponential_jitter(policy.first_s, policy.most_s, policy.factor, policy.first_s / 2)

    def pause(state: tenacity.RetryCallState) -> float:
        err = state.outcome.exception() if state.outcome else None
        asked = err.retry_after_s if isinstance(err, ApiError) else None
        return asked if asked is not None else grow(state)

    def over(state: tenacity.RetryCallState) -> bool:
        return clock.now() + pause(state) >= end

    def tell(state: tenacity.RetryCallState) -> None:
        err = state.outcome.exception() if state.outcome else None
        if scheduled and isinstance(err, OrchestratorError):
            scheduled(err, state.upcoming_sleep)

    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda e: isinstance(e, OrchestratorError) and e.retryable),
        wait=pause,
        stop=over,
        sleep=clock.sleep,
        before_sleep=tell,
        reraise=True,
    )
    tried = 0

    def counted() -> T:
        nonlocal tried
        tried += 1
        return work()

    try:
        return attempts(counted)
    except OrchestratorError as err:
        if tried > 1:
            err.add_note(f"tried {tried} times in {clock.now() - begun:.0f} s")
        raise
