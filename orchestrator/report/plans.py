"""A plan as people and programs are shown it before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, Gone, TryLater
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.report.console import verb
from orchestrator.words import names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.cluster.ports import EvictionAnswer
    from orchestrator.engine.plan import Decision
    from orchestrator.engine.runner import Preview

#: How many names a line holds before it says how many more there are.
NAMES = 10


def text(previews: Iterable[Preview]) -> str:
    """The plan, a line a step, in the order in which they run."""
    lines = [f"  {p.step.node}: {verb(p.step.action)}: {_said(p.decision)}" for p in previews]
    return "\n".join(["plan:", *lines]) + "\n"


def _said(decision: Decision) -> str:
    match decision:
        case Done(why):
            return f"nothing to do ({why})"
        case Needed(why):
            return why
        case Blocked(why):
            return f"forbidden: {why.splitlines()[0]}"  # the rest follows in the error


def step_body(preview: Preview) -> dict[str, Any]:
    """A step as JSON values."""
    decision = preview.decision
    return {
        "id": preview.step.id,
        "action": preview.step.action,
        "node": preview.step.node,
        "decision": type(decision).__name__.lower(),
        "why": decision.why,
    }


def answer_text(answer: EvictionAnswer) -> str:
    """What the server would answer to an eviction, for people."""
    match answer:
        case Evicted():
            return "would go"
        case Gone():
            return "is gone already"
        case BudgetExhausted(message=message):
            return f"would have to wait: {message}"
        case TryLater(why=why):
            return f"would be asked again: {why}"
        case Denied(why=why):
            return f"would be refused: {why}"


def answers_text(answers: Iterable[tuple[str, EvictionAnswer]]) -> str:
    """The server's answers, the same ones together."""
    groups: dict[str, list[str]] = {}
    for key, answer in answers:
        groups.setdefault(answer_text(answer), []).append(key)
    lines = []
    for said, keys in groups.items():
        lines.append(f"  {said}: {names(keys, NAMES)}")
    return "\n".join(["the API server says:", *lines]) + "\n"
