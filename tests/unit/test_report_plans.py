"""A plan before it runs, and what the server would answer to it."""

import pytest

from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, Gone, TryLater
from orchestrator.engine.plan import Blocked, Done, Needed, Step
from orchestrator.engine.runner import Preview
from orchestrator.report.plans import NAMES, answer_text, answers_text, step_body, text


def preview(decision, *, action="node.drain", node="n1"):
    return Preview(Step(f"0/{node}/{action}", action, node, {}, None), decision)


def test_a_plan_is_a_line_a_step_in_their_order():
    previews = [
        preview(Needed("takes new pods"), action="node.cordon"),
        preview(Blocked("n1 cannot be drained: 1 pod forbids it\n  shop/a: no controller", "x")),
        preview(Done("takes new pods already"), action="node.uncordon", node="n2"),
    ]

    assert text(previews).splitlines() == [
        "plan:",
        "  n1: cordon: takes new pods",
        "  n1: drain: forbidden: n1 cannot be drained: 1 pod forbids it",
        "  n2: uncordon: nothing to do (takes new pods already)",
    ]


@pytest.mark.parametrize(
    ("decision", "word"), [(Done("a"), "done"), (Needed("a"), "needed"), (Blocked("a", "b"), "blocked")]
)
def test_a_step_for_programs_has_its_decision_in_a_word(decision, word):
    assert step_body(preview(decision)) == {
        "id": "0/n1/node.drain",
        "action": "node.drain",
        "node": "n1",
        "decision": word,
        "why": "a",
    }


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Evicted(), "would go"),
        (Gone(), "is gone already"),
        (BudgetExhausted("needs 2", "web", None), "would have to wait: needs 2"),
        (TryLater("busy"), "would be asked again: busy"),
        (Denied("forbidden", "ask"), "would be refused: forbidden"),
    ],
)
def test_each_answer_is_told_in_the_conditional(answer, said):
    assert answer_text(answer) == said


def test_the_same_answers_are_told_together_and_many_names_are_counted():
    answers = [(f"shop/web-{i}", Evicted()) for i in range(NAMES + 2)] + [("shop/db", Denied("no", "ask"))]

    lines = answers_text(answers).splitlines()

    assert lines[0] == "the API server says:"
    assert lines[1].startswith("  would go: shop/web-0, shop/web-1, ")
    assert lines[1].endswith("shop/web-9 and 2 more")
    assert lines[2:] == ["  would be refused: no: shop/db"]
