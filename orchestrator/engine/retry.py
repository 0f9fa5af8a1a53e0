"""The only retry there is: policies with names, carried out by tenacity."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import tenacity

from orchestrator.errors import OrchestratorError

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


# A control plane that restarts is away for 20 to 40 s, and a person waits a minute for an answer. Five seconds at
# most between attempts, so that its return is noticed soon and a hundred clients do not keep it down.
API_READ = Policy("api-read", 0.2, 2, 5, 60)
# As reading: a change names the version it is meant for, so that a repeated one cannot take effect twice.
API_WRITE = Policy("api-write", 0.2, 2, 5, 60)
# Several attempts between two renewals, and at an end before a lease of 15 s, renewed after 5, has run out.
LEASE_RENEW = Policy("lease-renew", 0.2, 2, 1, 7)
# A lease whose time is up is proven by a renewal on its version, or not at all. The API server of a single control
# plane is away for up to 70 s when it restarts (a third of it its own slow exit); a person waits no longer.
LEASE_PROVE = Policy("lease-prove", 0.2, 2, 2, 90)
# At the end of a run nobody waits long: what is not given back runs out by itself.
LEASE_GIVE_BACK = Policy("lease-give-back", 0.2, 2, 1, 2)
# Between an effect and seeing it: at once, then ever less often. It has no end of its own: the step's deadline does.
SETTLE = Policy("settle", 0.2, 2, 5, math.inf)
# A host that answers at all answers within seconds; one that boots is waited for by its own step, not here.
HOST_CONNECT = Policy("host-connect", 0.5, 2, 5, 30)
# A network that is away while a command goes on without it: until the command's own deadline.
HOST_AWAY = Policy("host-away", 0.5, 2, 5, math.inf)

#: A pause lasts between this part of itself and the whole, so that clients that failed together part.
LEAST_PART = 0.5
#: Growth ends here: every policy has reached its longest pause, and a float its largest power only at 1,024.
GROWS = 64
#: A pause that the server asked for is kept, and exceeded by up to this part of it.
ASKED_EXCESS = 0.1


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
        deadline: On `clock.now()`; an attempt that could only come after it is not made.
        scheduled: Told of each error that is followed by another attempt, and of the pause.

    Raises:
        OrchestratorError: The last one, as it was raised, with a note of how often and how long it was tried.
    """
    return until(policy, work, lambda _: True, clock=clock, deadline=deadline, scheduled=scheduled)


def until(
    policy: Policy,
    work: Callable[[], T],
    good: Callable[[T], bool],
    *,
    clock: Clock,
    deadline: float | None = None,
    scheduled: Callable[[OrchestratorError, float], None] | None = None,
) -> T:
    """What `work` returns, asked again while that is not `good`, as well as for errors as in `call`.

    Returns:
        The first answer that is good; the last one, of an attempt when time is up, whatever it is.

    Raises:
        OrchestratorError: The last attempt's, as in `call`.
    """
    began = clock.now()
    end = began + policy.give_up_s if deadline is None else min(deadline, began + policy.give_up_s)

    def wait(state: tenacity.RetryCallState) -> float:
        pause_s = _pause(policy, state.attempt_number, err := _error(state))
        return pause_s if err else max(0.0, min(pause_s, end - clock.now()))

    def stop(state: tenacity.RetryCallState) -> bool:
        """An answer is looked at once more when time is up; an attempt that may have an effect comes before that."""
        return clock.now() >= end if _error(state) is None else clock.now() + state.upcoming_sleep >= end

    def tell(state: tenacity.RetryCallState) -> None:
        err = _error(state)
        if scheduled and isinstance(err, OrchestratorError):
            scheduled(err, state.upcoming_sleep)

    def give_up(state: tenacity.RetryCallState) -> T:
        if (err := _error(state)) is None:
            return state.outcome.result()  # type: ignore[union-attr,no-any-return]
        raise err

    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_passes) | tenacity.retry_if_result(lambda answer: not good(answer)),
        wait=wait,
        stop=stop,
        sleep=clock.sleep,
        before_sleep=tell,
        retry_error_callback=give_up,
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
            err.add_note(f"tried {tried} times in {clock.now() - began:.0f} s")
        raise


def _passes(err: BaseException) -> bool:
    return isinstance(err, OrchestratorError) and err.retryable


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _pause(policy: Policy, attempt: int, err: BaseException | None) -> float:
    """Seconds after attempt number `attempt`, from 1; what the server asked for is the least."""
    grown = min(policy.most_s, policy.first_s * policy.factor ** min(attempt - 1, GROWS))
    asked: float | None = getattr(err, "retry_after_s", None)
    if asked is not None:
        return asked + random.uniform(0, ASKED_EXCESS) * asked  # noqa: S311  spreads clients, protects nothing
    return random.uniform(LEAST_PART, 1) * grown  # noqa: S311
