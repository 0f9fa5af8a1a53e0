"""The same for many, so many at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
K = TypeVar("K")

#: Work on so many hosts at once. A handshake is computation: more only wait for each other.
AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Outcome(Generic[K, T]):
    """What became of the work on one of many.

    Attributes:
        item: Which one.
        value: What the work gave; None when it failed.
        error: How it failed, or None.
    """

    item: K
    value: T | None
    error: OrchestratorError | None


def together(items: Iterable[K], work: Callable[[K], T]) -> dict[K, T]:
    """Item -> what `work` gave for it, so many at once; in the items' order.

    Raises:
        OrchestratorError: The first failure; notes name the others. None is passed over.
    """
    outcomes = each(items, work)
    errors = [o.error for o in outcomes if o.error]
    for other in errors[1:]:
        errors[0].add_note(str(other))
    if errors:
        raise errors[0]
    return {o.item: cast("T", o.value) for o in outcomes}  # none failed


def each(items: Iterable[K], work: Callable[[K], T], *, at_once: int = AT_ONCE) -> tuple[Outcome[K, T], ...]:
    """`work` for each item, so many at once; in the items' order. A failure of one is no failure of the others."""

    def attempt(item: K) -> Outcome[K, T]:
        try:
            return Outcome(item, work(item), None)
        except OrchestratorError as err:
            return Outcome(item, None, err)

    todo = list(items)
    if not todo:
        return ()
    with ThreadPoolExecutor(min(at_once, len(todo)), "host") as crew:
        return tuple(crew.map(attempt, todo))
