"""Label selectors, and what a budget covers by them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.model import Budget, Pod, Requirement, Selector

IN = Requirement("app", "In", ("web", "api"))
NOT_IN = Requirement("app", "NotIn", ("web", "api"))
EXISTS = Requirement("app", "Exists")
MISSING = Requirement("app", "DoesNotExist")
LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["web", "db"]))


def pod(namespace="shop", **labels):
    return Pod(namespace, "p", "u", "n1", "Running", ready=True, labels=labels)


def budget(selector):
    return Budget("shop", "web", selector, allowed=1, healthy=2, needed=1, expected=2)


@pytest.mark.parametrize(
    ("requirement", "labels", "holds"),
    [
        (IN, {"app": "web"}, True),
        (IN, {"app": "db"}, False),
        (IN, {}, False),
        (NOT_IN, {"app": "web"}, False),
        (NOT_IN, {"app": "db"}, True),
        (NOT_IN, {}, True),
        (EXISTS, {"app": ""}, True),
        (EXISTS, {"tier": "web"}, False),
        (MISSING, {"app": ""}, False),
        (MISSING, {"tier": "web"}, True),
        (Requirement("app", "Matches", ("web",)), {"app": "web"}, False),
    ],
)
def test_an_expression_holds_as_the_api_has_it(requirement, labels, holds):
    assert requirement.holds(labels) is holds
    assert Selector({}, (requirement,)).holds(labels) is holds


@pytest.mark.parametrize(
    ("selector", "labels", "holds"),
    [
        (Selector(), {}, True),
        (Selector(), {"app": "web"}, True),
        (Selector({"app": "web"}), {"app": "web", "tier": "front"}, True),
        (Selector({"app": "web"}), {"app": "db"}, False),
        (Selector({"app": "web"}), {}, False),
        (Selector({"app": "web"}, (MISSING,)), {"app": "web"}, False),
        (Selector({"tier": "front"}, (IN, EXISTS)), {"app": "api", "tier": "front"}, True),
        (Selector({"tier": "front"}, (IN, EXISTS)), {"app": "api", "tier": "back"}, False),
    ],
)
def test_a_selector_holds_when_all_of_it_does(selector, labels, holds):
    assert selector.holds(labels) is holds


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (Selector(), ""),
        (Selector({"app": "web", "tier": "front"}), "app=web,tier=front"),
        (Selector({}, (IN,)), "app in (web,api)"),
        (Selector({}, (NOT_IN,)), "app notin (web,api)"),
        (Selector({"tier": "front"}, (EXISTS, MISSING)), "tier=front,app,!app"),
    ],
)
def test_a_selector_is_written_as_the_api_takes_it(selector, text):
    assert str(selector) == text


@given(LABELS, st.lists(st.sampled_from(["web", "db"])))
def test_not_in_holds_exactly_where_in_does_not(labels, values):
    inside, outside = (Requirement("app", operator, tuple(values)) for operator in ("In", "NotIn"))

    assert inside.holds(labels) is not outside.holds(labels)


@given(LABELS, LABELS)
def test_a_selector_of_labels_holds_exactly_where_all_of_them_are_there(wanted, labels):
    assert Selector(wanted).holds(labels) is (wanted.items() <= labels.items())


def test_a_budget_with_an_empty_selector_covers_its_whole_namespace_and_nothing_else():
    everything = budget(Selector())

    assert everything.covers(pod())
    assert everything.covers(pod(app="web"))
    assert not everything.covers(pod("other", app="web"))


def test_a_budget_without_a_selector_covers_nothing():
    assert not budget(None).covers(pod(app="web"))
