"""What will be done, as data: printed, journalled, resumed. No I/O, no clock.

A plan is waves, one after another; a wave is lanes that may run at once; a lane is the steps of one node, in order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.errors import FactUnreadable

#: Readings of an action's probe, as JSON values, so that the journal can keep them.
Facts = Mapping[str, Any]
#: Step id -> facts as they were before that step first ran in this run.
Past = Mapping[str, Facts]

#: Version of the JSON form. A journal with another one is refused, not guessed at.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do on one node.

    Attributes:
        id: Unique in its plan, stable across resumes: `wave/node/action`.
        action: The name of an action, as `noun.verb`.
        node: The node it concerns.
        params: JSON values that the action understands. Two are the runner's own: `takes_out`, its node is out of
            service from then to the end of the lane; `turns_back`, what the cluster stores goes back to earlier.
        timeout_s: Seconds until the goal has to be reached; None waits for ever.
    """

    id: str
    action: str
    node: str
    params: Mapping[str, Any]
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Lane:
    """Steps of one node: strictly in order, the first failure ends the lane."""

    node: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Wave:
    """Lanes that may run at once; the next wave starts only when all of them have finished."""

    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run will do.

    Attributes:
        kind: The command that it serves, such as `drain`.
        title: What it does, for people: `drain node-1`.
        waves: In order.
    """

    kind: str
    title: str
    waves: tuple[Wave, ...]

    def steps(self) -> Iterator[Step]:
        """All steps, in the order in which they may start."""
        for wave in self.waves:
            for lane in wave.lanes:
                yield from lane.steps

    def nodes(self) -> tuple[str, ...]:
        """The nodes that it concerns, each once, in the order in which they come up."""
        return tuple(dict.fromkeys(lane.node for wave in self.waves for lane in wave.lanes))

    def to_json(self) -> str:
        """Canonical JSON: equal plans give equal text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """Hex SHA-256 of `to_json`: what was confirmed is what runs."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            FactUnreadable: The text is not such a plan, or of another format.
        """
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise FactUnreadable(
                    f"the plan has format {raw['format']}, this version reads {FORMAT}",
                    remedy="use the version of orchestrator that started the run",
                )
            waves = tuple(
                Wave(tuple(Lane(lane["node"], tuple(Step(**s) for s in lane["steps"])) for lane in wave["lanes"]))
                for wave in raw["waves"]
            )
            return cls(raw["kind"], raw["title"], waves)
        except (ValueError, KeyError, TypeError) as err:
            raise FactUnreadable(f"not a plan: {err}", remedy="the journal is damaged; start a new run") from err


@dataclass(frozen=True, slots=True)
class Done:
    """The goal is reached; nothing to do."""

    why: str


@dataclass(frozen=True, slots=True)
class Needed:
    """The goal is not reached; applying the step is allowed.

    Attributes:
        again: If it is still so after the step was applied, apply it again; else wait for the effect to show.
    """

    why: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Blocked:
    """The goal is not reached, and applying the step is forbidden until somebody acts.

    Attributes:
        until: The id of the step of the same plan that clears it; "" when none does. A preview that finds that
            step still to be done shows this one as needed after it.
        then: What is needed after it, as a Needed would say.
    """

    why: str
    remedy: str
    until: str = ""
    then: str = ""


Decision = Done | Needed | Blocked
