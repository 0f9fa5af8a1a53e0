"""A plan as data: its order, its JSON, its digest."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.errors import FactUnreadable

NAMES = st.text('abc-./é\n"', max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
STEPS = st.builds(Step, NAMES, NAMES, NAMES, st.dictionaries(NAMES, VALUES, max_size=3), st.none() | st.floats(0, 1e6))
LANES = st.builds(Lane, NAMES, st.lists(STEPS, max_size=3).map(tuple))
WAVES = st.builds(Wave, st.lists(LANES, max_size=3).map(tuple))
PLANS = st.builds(Plan, NAMES, NAMES, st.lists(WAVES, max_size=3).map(tuple))


def step(wave=0, node="n1", action="node.cordon", **params):
    return Step(f"{wave}/{node}/{action}", action, node, params, 60.0)


def plan(**fields):
    first = Wave((Lane("n1", (step(node="n1"),)), Lane("n2", (step(node="n2"), step(node="n2", action="node.drain")))))
    second = Wave((Lane("n1", (step(1, "n1", "node.drain"),)),))
    return replace(Plan("drain", "drain 2 nodes", (first, second)), **fields)


def test_steps_come_in_the_order_in_which_they_may_start():
    assert [s.id for s in plan().steps()] == [
        "0/n1/node.cordon",
        "0/n2/node.cordon",
        "0/n2/node.drain",
        "1/n1/node.drain",
    ]


def test_nodes_come_once_each_in_the_order_in_which_they_come_up():
    assert plan().nodes() == ("n1", "n2")


@given(PLANS)
def test_a_plan_that_was_written_is_read_as_it_was(subject):
    assert Plan.from_json(subject.to_json()) == subject


@given(PLANS)
def test_a_plan_keeps_its_digest_through_a_journal(subject):
    assert Plan.from_json(subject.to_json()).digest() == subject.digest()


def test_the_order_in_which_params_were_given_does_not_count():
    one, other = (
        plan(waves=(Wave((Lane("n1", (Step("x", "node.drain", "n1", params, None),)),)),))
        for params in ({"force": True, "parallel": 16}, {"parallel": 16, "force": True})
    )

    assert one.digest() == other.digest()


@pytest.mark.parametrize(
    "other",
    [
        plan(title="drain 3 nodes"),
        plan(waves=plan().waves[::-1]),
        plan(waves=(*plan().waves, Wave((Lane("n1", (step(2, force=True),)),)))),
        plan(waves=plan().waves[:1]),
    ],
)
def test_a_plan_that_would_do_something_else_has_another_digest(other):
    assert other.digest() != plan().digest()


def test_a_plan_of_another_format_is_refused_and_says_which_version_reads_it():
    known = json.loads(plan().to_json())

    with pytest.raises(FactUnreadable, match="has format 99, this version reads") as caught:
        Plan.from_json(json.dumps({**known, "format": 99}))

    assert "version of orchestrator that started the run" in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        "7",
        '"plan"',
        "{}",
        '{"format":1}',
        '{"format":1,"kind":"drain","title":"x","waves":7}',
        '{"format":1,"kind":"drain","title":"x","waves":[{}]}',
        '{"format":1,"kind":"drain","title":"x","waves":[{"lanes":[{"node":"n1","steps":[{"id":"x"}]}]}]}',
        '{"format":1,"kind":"drain","title":"x","waves":[{"lanes":[{"node":"n1","steps":["x"]}]}]}',
        plan().to_json()[:-1],
        plan().to_json().replace('"timeout_s"', '"timeout"'),
    ],
)
def test_what_is_no_plan_is_an_error_and_not_half_a_plan(text):
    with pytest.raises(FactUnreadable, match="not a plan"):
        Plan.from_json(text)
