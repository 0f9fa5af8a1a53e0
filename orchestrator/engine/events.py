"""What happened, as data, for people and for logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        name: A static string of the vocabulary in `docs/output.md`, such as `step.finished`.
        fields: JSON values; `run`, `node` and `step` where they apply.
        level: `debug`, `info`, `warning` or `error`.
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    level: str = "info"


class Sink(Protocol):
    """Where events go. Called from several threads; an implementation takes care of that itself."""

    def emit(self, event: Event) -> None:
        """Show or record `event`. Never raises: a full disk must not stop a drain half-way."""
        ...


def retrying(sink: Sink) -> Callable[[Exception, float], None]:
    """What tells, as `retry.scheduled`, of an error that is followed by another attempt, and of the pause."""

    def tell(err: Exception, pause_s: float) -> None:
        sink.emit(Event("retry.scheduled", {"why": str(err), "in_s": round(pause_s, 1)}, "warning"))

    return tell


class Silent:
    """A sink for those who want none."""

    def emit(self, event: Event) -> None:
        """Nothing."""
