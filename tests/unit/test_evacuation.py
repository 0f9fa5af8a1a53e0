"""The course of an evacuation."""

from dataclasses import replace

import pytest

from orchestrator.cluster.evacuation import PROBE_S, Evacuation
from orchestrator.cluster.model import Budget, Pod, PodChange, Selector
from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, Gone, TryLater


def pod(number, *, app="web", **fields):
    known = {"namespace": "default", "node": "n1", "phase": "Running", "ready": True, "labels": {"app": app}}
    return Pod(name=f"{app}-{number}", uid=f"{app}-{number}", **{**known, **fields})


def pods(count, **fields):
    return [pod(n, **fields) for n in range(count)]


def budget(allowed, *, app="web", name=None, disrupted=(), **fields):
    return Budget(
        "default", name or app, Selector({"app": app}), allowed=allowed, healthy=10, needed=10 - allowed, expected=10,
        rule="maxUnavailable: 10%", disrupted=frozenset(disrupted), **fields,
    )  # fmt: skip


def start(subjects, *budgets, parallel=16, **fields):
    return Evacuation(subjects, budgets=budgets, parallel=parallel, now=0.0, **fields)


def due(course, now=0.0):
    return [p.name for p in course.due(now)]


def gone(course, name, now=0.0):
    course.pod_changed(PodChange(pod(int(name.rpartition("-")[2]), app=name.rpartition("-")[0]), gone=True), now)


def test_no_more_pods_are_asked_for_at_once_than_allowed():
    course = start(pods(5), parallel=2)

    assert due(course) == ["web-0", "web-1"]
    assert due(course) == []
    course.answered("web-0", Evicted(), 0.0)
    assert due(course) == ["web-2"]


def test_it_is_finished_when_all_pods_are_gone_and_not_when_they_are_only_leaving():
    course = start(pods(2))
    due(course)
    course.answered("web-0", Evicted(), 0.0)
    course.answered("web-1", Gone(), 0.0)

    assert not course.finished
    gone(course, "web-0")
    assert course.finished
    assert course.progress().left == 0


def test_a_budget_is_never_asked_for_more_than_it_allows():
    course = start(pods(10), budget(3))

    assert len(due(course)) == 3
    for name in ("web-0", "web-1", "web-2"):
        course.answered(name, Evicted(), 0.1)
    assert due(course, 0.2) == []
    course.budget_changed(budget(0, disrupted=("web-0", "web-1", "web-2")))
    assert due(course, 0.4) == []
    course.budget_changed(budget(2))
    assert due(course, 1.0) == ["web-3", "web-4"]


def test_an_eviction_that_the_budgets_numbers_show_already_is_not_counted_twice():
    course = start(pods(10), budget(3))
    due(course)

    course.budget_changed(budget(2, disrupted=("web-0", "web-1", "web-2")))

    assert len(due(course, 0.1)) == 2


def test_numbers_from_before_an_eviction_do_not_make_room_for_another():
    course = start(pods(10), budget(1))
    due(course)

    course.budget_changed(budget(1))

    assert due(course, 0.1) == []


def test_a_shut_budget_is_tried_with_one_pod_when_its_watch_says_nothing_for_long():
    course = start(pods(10), budget(0))

    assert due(course, 0.0) == []
    assert course.next_at(0.0) == PROBE_S
    assert due(course, PROBE_S) == ["web-0"]
    assert due(course, PROBE_S) == []


def test_one_budgets_pods_do_not_hold_up_the_others():
    course = start([*pods(3), *pods(3, app="db")], budget(0))
    course.budget_changed(budget(0))

    assert due(course) == ["db-0", "db-1", "db-2"]


def test_pods_that_are_not_ready_are_asked_for_whatever_the_budget_allows():
    course = start(pods(2, ready=False), budget(0))

    assert due(course) == ["web-0", "web-1"]


def test_a_refusal_by_a_budget_waits_for_the_budget_and_explains_it():
    course = start(pods(2), budget(1))
    assert due(course) == ["web-0"]

    course.answered("web-0", BudgetExhausted("The disruption budget web needs 9", "web", None), 0.0)

    assert due(course, 1.0) == []
    (waiting,) = course.progress().waiting
    assert (waiting.budget, waiting.pods) == ("default/web", ("default/web-0", "default/web-1"))
    assert "needs 9 healthy, has 10 of 10" in waiting.why
    course.budget_changed(budget(1))
    assert due(course, 2.0) == ["web-1"]


def test_a_refusal_by_an_unknown_budget_asks_for_the_budgets_to_be_watched():
    course = start(pods(1))
    due(course)

    course.answered("web-0", BudgetExhausted("needs 1", "new", None), 0.0)

    assert course.wants_budgets
    course.budget_changed(budget(0, name="new"))
    assert due(course, 1.0) == []
    course.budget_changed(budget(1, name="new"))
    assert due(course, 1.1) == ["web-0"]


def test_what_the_server_asks_to_wait_is_waited():
    course = start(pods(1))
    due(course)

    course.answered("web-0", TryLater("busy", retry_after_s=10.0), 0.0)

    assert course.next_at(0.0) == 10.0
    assert due(course, 9.9) == []
    assert due(course, 10.0) == ["web-0"]


def test_pauses_grow_while_a_failure_lasts():
    course = start(pods(1))
    pauses = []
    now = 0.0
    for _ in range(6):
        assert due(course, now) == ["web-0"]
        course.answered("web-0", TryLater("500"), now)
        pauses.append(course.next_at(now) - now)
        now = course.next_at(now)

    assert pauses == sorted(pauses)
    assert pauses[-1] == pauses[-2] > pauses[0]


def test_an_overloaded_server_is_asked_for_less_at_once_and_slowly_for_more_again():
    course = start(pods(20), parallel=8)
    for name in due(course):
        course.answered(name, TryLater("less", retry_after_s=1.0, overloaded=True), 0.0)

    assert len(due(course, 0.5)) == 1
    course.answered("web-8", Evicted(), 0.5)
    assert len(due(course, 0.5)) == 2


def test_a_pod_that_cannot_go_does_not_stop_the_others_and_is_kept_with_its_reason():
    course = start(pods(2))
    due(course)

    course.answered("web-0", Denied("webhook says no", "ask its owner"), 0.0)
    course.answered("web-1", Gone(), 0.0)

    assert course.finished
    assert course.progress().denied == (("default/web-0", "webhook says no", "ask its owner"),)


def test_pods_that_are_leaving_already_are_waited_for_and_not_asked():
    course = start(pods(1, deleting_since=0.0, deletion_grace_s=30.0))

    assert due(course) == []
    assert course.progress().leaving_until == 30.0
    gone(course, "web-0")
    assert course.finished


def test_pods_that_are_leaving_are_asked_again_when_a_grace_period_replaces_theirs():
    course = start(pods(1, deleting_since=0.0), ask_again=True)

    assert due(course) == ["web-0"]


def test_a_pod_that_somebody_else_deletes_while_it_waits_is_only_waited_for():
    course = start(pods(2), parallel=1)
    due(course)

    course.pod_changed(PodChange(pod(1, deleting_since=1.0), gone=False), 1.0)
    course.answered("web-0", Evicted(), 1.0)

    assert due(course, 1.0) == []
    assert course.progress().leaving == ("default/web-0", "default/web-1")


def test_a_deletion_seen_before_its_answer_counts_once():
    course = start(pods(1))
    due(course)

    gone(course, "web-0")
    course.answered("web-0", Evicted(), 0.0)

    assert course.finished
    assert course.progress().gone == 1


def test_pods_that_should_have_been_gone_are_not_waited_for_when_so_asked():
    course = start(pods(1, deleting_since=0.0, deletion_grace_s=10.0), skip_wait_s=20)

    course.passed(30.5)
    assert not course.finished
    course.passed(31.5)
    assert course.finished


def test_changes_of_pods_that_are_none_of_its_business_are_ignored():
    course = start(pods(1))

    assert not course.pod_changed(PodChange(pod(7), gone=True), 0.0)
    assert course.progress().gone == 0


def test_a_deleted_budget_holds_nothing_any_more():
    course = start(pods(1), budget(0))
    course.budget_changed(budget(0))
    assert due(course) == []

    course.budget_changed(Budget("default", "web", None, allowed=0, healthy=0, needed=0, expected=0))

    assert due(course, 1.0) == ["web-0"]


def test_a_budget_that_its_controller_has_not_seen_says_so():
    course = start(pods(1), budget(0, observed=False))
    course.budget_changed(budget(0, observed=False))

    assert "has not been processed" in course.progress().waiting[0].why


@pytest.mark.parametrize("count", [0, 1, 500])
def test_every_pod_is_asked_for_exactly_once_when_all_goes_well(count):
    course = start(pods(count))
    asked = []
    while not course.finished:
        for p in list(course.due(0.0)):
            asked.append(p.name)
            course.answered(p.uid, Evicted(), 0.0)
            gone(course, p.name)

    assert sorted(asked) == sorted(p.name for p in pods(count))


def test_pods_that_are_not_ready_do_not_queue_behind_ready_ones_that_wait_for_a_budget():
    course = start([pod(0), pod(1, ready=False)], budget(0))

    assert due(course) == ["web-1"]


def test_a_pod_that_stops_being_ready_while_it_waits_goes_past_those_that_wait_for_the_budget():
    course = start(pods(3), budget(0))
    assert due(course) == []

    course.pod_changed(PodChange(pod(2, ready=False), gone=False), 1.0)

    assert due(course, 1.0) == ["web-2"]


def test_a_pod_that_becomes_ready_while_it_waits_is_held_to_the_budget_again():
    course = start([pod(0), pod(1, ready=False)], budget(0), parallel=1)
    assert due(course) == ["web-1"]
    course.answered("web-1", TryLater("busy", retry_after_s=1.0), 0.0)

    course.pod_changed(PodChange(pod(1), gone=False), 0.5)

    assert due(course, 1.0) == []


def test_the_only_pod_of_a_budget_goes_the_moment_there_is_room_however_often_it_was_refused():
    course = start(pods(1), budget(0))
    now = 0.0
    assert due(course, now) == []
    for _ in range(5):
        now = course.next_at(now)
        assert due(course, now) == ["web-0"]
        course.answered("web-0", BudgetExhausted("needs 10", "web", None), now)
    course.budget_changed(budget(1))

    assert due(course, now + 0.1) == ["web-0"]


def test_a_budget_whose_controller_asks_for_time_is_given_it():
    course = start(pods(1), budget(1))
    due(course)

    course.answered("web-0", BudgetExhausted("not processed yet", "web", 10.0), 0.0)
    course.budget_changed(budget(1))

    assert due(course, 9.9) == []
    assert due(course, 10.0) == ["web-0"]


def test_a_budget_that_had_room_meanwhile_is_not_tried_early_when_it_runs_out_again():
    course = start(pods(3), budget(1))
    assert due(course, 0.0) == ["web-0"]
    course.answered("web-0", Gone(), PROBE_S - 1)
    assert due(course, PROBE_S - 1) == ["web-1"]

    assert due(course, PROBE_S) == []
    assert course.next_at(PROBE_S) == PROBE_S - 1 + PROBE_S


def test_two_shut_budgets_over_one_pod_are_tried_when_both_have_been_silent_long_enough():
    course = start(pods(2), budget(0), budget(1, name="other"))
    assert due(course, 0.0) == []
    course.budget_changed(budget(0, name="other"))
    assert due(course, 2.0) == []

    assert due(course, PROBE_S) == []
    assert course.next_at(PROBE_S) == 2.0 + PROBE_S
    assert due(course, 2.0 + PROBE_S) == ["web-0"]


def test_time_alone_makes_nothing_due_while_as_many_are_asked_as_may_be():
    course = start(pods(2), parallel=1)
    due(course)

    assert course.next_at(0.0) is None


def test_time_alone_makes_nothing_due_when_all_have_been_asked():
    course = start(pods(1))
    due(course)

    assert course.next_at(0.0) is None


def test_pods_that_should_have_been_gone_are_waited_for_unless_told_otherwise():
    course = start(pods(1, deleting_since=0.0, deletion_grace_s=10.0))

    course.passed(1_000_000.0)

    assert not course.finished


def test_only_pods_that_are_known_to_be_leaving_are_given_up():
    course = start(pods(3), parallel=2, skip_wait_s=20)
    due(course)
    course.answered("web-0", Evicted(), 0.0)

    course.passed(1_000_000.0)

    assert course.progress().left == 3


def test_each_pod_that_waits_says_what_it_waits_for():
    course = start([*pods(2), *pods(2, app="db"), pod(0, app="api")], budget(0), budget(5, app="db"), parallel=2)
    assert due(course) == ["db-0", "db-1"]
    course.answered("db-0", TryLater("the API server is restarting"), 1.0)

    found = {w.why: (w.budget, w.pods) for w in course.progress().waiting}

    assert found == {
        "budget default/web (maxUnavailable: 10%) allows 0: needs 10 healthy, has 10 of 10": (
            "default/web",
            ("default/web-0", "default/web-1"),
        ),
        "the API server is restarting": ("", ("default/db-0",)),
        "the server's answer": ("", ("default/db-1",)),
        "its turn": ("", ("default/api-0",)),
    }


def test_waiting_counts_from_when_it_began_however_often_the_server_was_asked():
    course = start(pods(1))
    due(course, 3.0)
    course.answered("web-0", TryLater("busy"), 4.0)

    (waiting,) = course.progress().waiting

    assert waiting.since == 0.0


def test_a_budget_is_told_as_it_was_last_seen():
    course = start(pods(1), budget(0))

    course.budget_changed(budget(3))

    assert course.budget("default/web") == budget(3)
    assert course.budget("default/none") is None


def test_an_end_of_grace_is_told_only_where_one_is_known():
    course = start([pod(0, deleting_since=5.0, deletion_grace_s=30.0), pod(1)])
    due(course)
    course.answered("web-1", Evicted(), 0.0)

    found = course.progress()

    assert (found.leaving, found.leaving_until) == (("default/web-0", "default/web-1"), 35.0)


def test_a_pod_that_cannot_go_and_goes_all_the_same_is_gone():
    course = start(pods(1))
    due(course)
    course.answered("web-0", Denied("no", "ask"), 0.0)

    gone(course, "web-0")

    assert (course.finished, course.progress().gone, course.progress().denied) == (True, 1, ())


def test_a_budget_that_selects_other_pods_now_holds_up_none_of_those_before():
    course = start(pods(1), budget(0))
    assert due(course) == []

    course.budget_changed(replace(budget(0), selector=Selector({"app": "other"})))

    assert due(course) == ["web-0"]


def test_a_pod_that_is_seen_leaving_before_the_answer_counts_as_asked_until_the_answer():
    course = start(pods(2), parallel=1)
    due(course)

    course.pod_changed(PodChange(pod(0, deleting_since=1.0, deletion_grace_s=30.0), gone=False), 1.0)

    assert due(course, 1.0) == []
    course.answered("web-0", Evicted(), 1.0)
    assert due(course, 1.0) == ["web-1"]
    assert course.progress().leaving_until == 31.0


def test_each_answer_that_asks_for_less_halves_what_is_asked_for_at_once():
    course = start(pods(20), parallel=8)
    first, *others = due(course)
    course.answered(first, TryLater("less", retry_after_s=60.0, overloaded=True), 0.0)

    for name in others[:4]:
        course.answered(name, Gone(), 0.0)

    assert due(course) == ["web-8"]


def test_pods_that_a_budget_counts_as_gone_though_they_stay_are_told():
    course = start(pods(5), budget(0, disrupted=["web-1", "web-3", "elsewhere"]))
    due(course)

    (waiting,) = course.progress().waiting

    assert waiting.why.endswith(
        "it counts 2 pods as gone that are still here, because their eviction was cut short, for up to 2 minutes"
    )


def test_pods_that_are_on_their_way_out_are_no_news_to_their_budget():
    course = start(pods(5), budget(2))
    due(course)
    for name in ("web-0", "web-1"):
        course.answered(name, Evicted(), 0.0)
    course.budget_changed(budget(0, disrupted=["web-0", "web-1"]))

    (waiting,) = course.progress().waiting

    assert "cut short" not in waiting.why
