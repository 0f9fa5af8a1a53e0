"""What a client was answered, and for how long it was not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from lab.upgrades.asking import RIGHT

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Groups of failures that are told of.
_TOLD = 6


@dataclass(frozen=True, slots=True, order=True)
class Answer:
    """One answer, or none.

    Attributes:
        asked_at: Seconds since 1970.
        took_s: Until it was there, or given up.
        said: RIGHT, or what was wrong.
    """

    asked_at: float
    took_s: float
    said: str

    @property
    def right(self) -> bool:
        """Whether it was what was expected."""
        return self.said == RIGHT


@dataclass(frozen=True, slots=True)
class Answers:
    """All that one client was answered, in the order of asking."""

    each: tuple[Answer, ...]

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> Answers:
        """In order."""
        return cls(tuple(sorted(answers)))

    @property
    def asked(self) -> int:
        """How often it asked."""
        return len(self.each)

    @property
    def failures(self) -> tuple[Answer, ...]:
        """Answers that were not right, or not there."""
        return tuple(one for one in self.each if not one.right)

    @property
    def longest_gap_s(self) -> float:
        """The longest time between two askings that were answered right, or to the first and last ones at all.

        It is never less than the interval of asking, and counts times in which nobody asked.
        """
        if not self.each:
            return float("inf")
        times = [one.asked_at for one in self.each if one.right]
        ends = [self.each[0].asked_at, *times, self.each[-1].asked_at]
        return max(later - earlier for earlier, later in pairwise(ends))

    @property
    def outages(self) -> tuple[tuple[float, float], ...]:
        """Times in which whoever asked got no right answer: since when, and seconds until one asked that got one."""
        found: list[tuple[float, float]] = []
        since = None
        for one in self.each:
            if one.right and since is not None:
                found.append((since, one.asked_at - since))
                since = None
            elif not one.right and since is None:
                since = one.asked_at
        if since is not None:
            found.append((since, self.each[-1].asked_at + self.each[-1].took_s - since))
        return tuple(found)

    @property
    def longest_outage_s(self) -> float:
        """The longest of the outages."""
        return max((took_s for _, took_s in self.outages), default=0.0)

    def after(self, start: float) -> Answers:
        """Those asked since then, in seconds since 1970."""
        return Answers(tuple(one for one in self.each if one.asked_at >= start))

    def __str__(self) -> str:
        found = self.failures
        if not found:
            return f"{self.asked} requests, none failed; longest gap {self.longest_gap_s:.1f} s"
        start = self.each[0].asked_at
        runs = [list(run) for _, run in groupby(found, key=lambda one: one.said.partition(":")[0])]
        told = [f"{len(run)} times {run[0].said[:80]} from {run[0].asked_at - start:.1f} s" for run in runs]
        more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
        return (
            f"{len(found)} of {self.asked} requests failed, longest gap {self.longest_gap_s:.1f} s:"
            f" {'; '.join(told[:_TOLD])}{more}"
        )


def parse(log: str) -> dict[str, Answers]:
    """Name -> answers, out of a log that `asking` wrote; a last line that is not whole is left out."""
    found: dict[str, list[Answer]] = {}
    for line in log[: log.rfind("\n") + 1].splitlines():
        name, asked_at, took_s, said = line.split(" ", 3)
        found.setdefault(name, []).append(Answer(float(asked_at), float(took_s), said))
    return {name: Answers.of(answers) for name, answers in found.items()}
