"""What a View and Hands do, whichever cluster is behind them."""

import pytest

from orchestrator.cluster.model import CordonRecord
from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, Gone
from orchestrator.errors import ApiConflict, ApiNotFound
from tests.contract.harness import first

RECORD = CordonRecord("ann@laptop", "a new kernel", "run-1", 1_795_000_000.25)


def evict(harness, pod, grace_s=None):
    return harness.hands.evict(pod, grace_s=grace_s, timeout_s=30.0)


def delete(harness, pod, grace_s=None):
    return harness.hands.delete(pod, grace_s=grace_s, timeout_s=30.0)


def there(harness, pod):
    """The pod as it is now; None when it is gone."""
    return next((p for p in harness.view.pods() if p.uid == pod.uid), None)


def gone(harness, pod):
    return harness.until(f"{pod.key} to go", lambda: there(harness, pod) is None)


def budget(harness, name):
    return next((b for b in harness.view.budgets() if b.key == f"{harness.namespace}/{name}"), None)


def pods_of(harness, app):
    return [p for p in harness.view.pods() if p.namespace == harness.namespace and p.labels.get("app") == app]


def ready_of(harness, app):
    return [p for p in pods_of(harness, app) if p.ready and p.deleting_since is None]


# ---- nodes ------------------------------------------------------------------------------------------------------


def test_a_node_is_read_by_its_name(harness):
    name = harness.node()

    node = harness.view.node(name)

    assert (node.name, node.unschedulable, node.ready, node.cordon) == (name, False, True, None)
    assert node.uid
    assert node.resource_version


def test_a_node_that_is_not_there_is_not_found_and_named(harness):
    with pytest.raises(ApiNotFound, match="no-such-node"):
        harness.view.node("no-such-node")


def test_nodes_come_by_name_and_by_selector(harness):
    names = [harness.node(shelf="a"), harness.node(shelf="b"), harness.node(shelf="a")]

    assert [n.name for n in harness.view.nodes() if n.name in names] == sorted(names)
    assert [n.name for n in harness.view.nodes("shelf=b")] == [names[1]]


def test_a_cordon_is_stored_with_its_record(harness):
    name = harness.node()

    stored = harness.hands.cordon(harness.hands.node(name), RECORD)

    assert (stored.unschedulable, stored.cordon) == (True, RECORD)
    seen = harness.view.node(name)
    assert (seen.unschedulable, seen.cordon, seen.uid) == (True, RECORD, stored.uid)


def test_an_uncordon_removes_the_cordon_and_its_record(harness):
    name = harness.node()
    cordoned = harness.hands.cordon(harness.hands.node(name), RECORD)

    stored = harness.hands.uncordon(cordoned)

    assert (stored.unschedulable, stored.cordon) == (False, None)
    seen = harness.view.node(name)
    assert (seen.unschedulable, seen.cordon) == (False, None)


def test_every_change_of_a_node_gives_it_another_version(harness):
    node = harness.hands.node(harness.node())

    cordoned = harness.hands.cordon(node, RECORD)

    assert cordoned.resource_version != node.resource_version


def test_a_cordon_goes_through_though_something_else_of_the_node_has_changed(harness):
    node = harness.hands.node(harness.node())
    harness.touch_node(node.name)

    assert harness.hands.cordon(node, RECORD).unschedulable
    assert harness.view.node(node.name).cordon == RECORD


def test_a_cordon_is_a_conflict_when_somebody_cordoned_the_node_meanwhile(harness):
    node = harness.hands.node(harness.node())
    harness.cordon_by_hand(node.name)

    with pytest.raises(ApiConflict):
        harness.hands.cordon(node, RECORD)

    assert harness.view.node(node.name).cordon is None


def test_an_uncordon_is_a_conflict_when_somebody_uncordoned_the_node_meanwhile(harness):
    node = harness.hands.cordon(harness.hands.node(harness.node()), RECORD)
    harness.cordon_by_hand(node.name, unschedulable=False)

    with pytest.raises(ApiConflict):
        harness.hands.uncordon(node)


def test_a_node_that_is_removed_meanwhile_cannot_be_cordoned(harness):
    node = harness.hands.node(harness.node())
    harness.remove_node(node.name)

    with pytest.raises(ApiNotFound, match=node.name):
        harness.hands.cordon(node, RECORD)


# ---- pods -------------------------------------------------------------------------------------------------------


def test_the_pods_of_a_node_are_those_bound_to_it(harness):
    here, elsewhere = harness.node(), harness.node()
    pods = [harness.pod(here), harness.pod(here)]
    other = harness.pod(elsewhere)

    found = harness.view.pods_on(here)

    assert {p.uid for p in found.pods} == {p.uid for p in pods}
    assert found.resource_version
    assert there(harness, other).node == elsewhere


def test_the_pods_of_a_node_can_be_selected_by_label(harness):
    node = harness.node()
    harness.pod(node, shelf="a")
    wanted = harness.pod(node, shelf="b")

    assert [p.uid for p in harness.view.pods_on(node, "shelf=b").pods] == [wanted.uid]


def test_a_pod_is_described_by_its_phase_labels_grace_and_readiness(harness):
    pod = there(harness, harness.pod(harness.node(), grace_s=7, shelf="a"))

    assert (pod.phase, pod.ready, pod.grace_s, pod.labels["shelf"]) == ("Running", True, 7, "a")
    assert (pod.controller, pod.deleting_since, pod.mirror) == (None, None, False)


def test_a_pod_names_the_controller_that_would_bring_it_back(harness):
    harness.controller("ReplicaSet", "web", 1, harness.node())

    (pod,) = pods_of(harness, "web")

    assert (pod.controller.kind, pod.controller.name, pod.controller.api_version) == ("ReplicaSet", "web", "apps/v1")


# ---- evictions --------------------------------------------------------------------------------------------------


def test_an_evicted_pod_has_its_grace_period_and_goes(harness):
    pod = harness.pod(harness.node(), grace_s=20, goes_after_s=2.0)

    assert evict(harness, pod) == Evicted()

    leaving = there(harness, pod)
    assert leaving.deleting_since is not None
    assert leaving.deletion_grace_s == 20
    gone(harness, pod)


def test_the_grace_period_can_be_another_than_the_pods_own(harness):
    pod = harness.pod(harness.node(), grace_s=600, stuck=True)

    assert evict(harness, pod, grace_s=3) == Evicted()

    assert there(harness, pod).deletion_grace_s == 3


def test_a_pod_that_is_leaving_can_be_asked_again_with_a_shorter_grace(harness):
    pod = harness.pod(harness.node(), grace_s=600, stuck=True)
    evict(harness, pod)
    since = there(harness, pod).deleting_since

    assert evict(harness, pod, grace_s=3) == Evicted()

    again = there(harness, pod)
    assert again.deletion_grace_s == 3
    assert abs(again.deleting_since - since) <= 2


def test_a_pod_that_is_leaving_is_not_given_more_time_by_asking_again(harness):
    pod = harness.pod(harness.node(), grace_s=5, stuck=True)
    evict(harness, pod)

    assert evict(harness, pod, grace_s=600) == Evicted()

    assert there(harness, pod).deletion_grace_s == 5


def test_a_pod_that_is_not_there_is_gone(harness):
    pod = harness.pod(harness.node())
    harness.remove_pod(pod)

    assert evict(harness, pod) == Gone()
    assert delete(harness, pod) == Gone()


def test_a_pod_is_gone_when_another_one_has_its_name_and_that_one_stays(harness):
    node = harness.node()
    pod = harness.pod(node, name="db-0")
    harness.remove_pod(pod)
    other = harness.pod(node, name="db-0")

    assert evict(harness, pod) == Gone()
    assert delete(harness, pod) == Gone()

    assert there(harness, other).deleting_since is None


def test_a_deleted_pod_goes_as_an_evicted_one_does(harness):
    pod = harness.pod(harness.node(), grace_s=20, goes_after_s=2.0)

    assert delete(harness, pod) == Evicted()

    assert there(harness, pod).deletion_grace_s == 20
    gone(harness, pod)


# ---- budgets ----------------------------------------------------------------------------------------------------


def test_a_budget_is_read_with_its_numbers_and_its_rule(harness):
    node = harness.node()
    for _ in range(3):
        harness.pod(node, app="web")
    harness.budget("web", min_available=2, app="web")

    found = harness.until("the count", lambda: (b := budget(harness, "web")) and b.allowed == 1 and b)

    assert (found.allowed, found.healthy, found.needed, found.expected) == (1, 3, 2, 3)
    assert (found.observed, found.rule) == (True, "minAvailable: 2")


def test_a_budget_of_so_many_unavailable_counts_what_its_controller_wants(harness):
    harness.controller("ReplicaSet", "web", 3, harness.node())
    harness.budget("web", max_unavailable=1, app="web")

    found = harness.until("the count", lambda: (b := budget(harness, "web")) and b.allowed == 1 and b)

    assert (found.healthy, found.needed, found.expected) == (3, 2, 3)
    assert found.rule == "maxUnavailable: 1"


def test_a_budget_lets_as_many_pods_go_as_it_allows_and_no_more(harness):
    node = harness.node()
    pods = [harness.pod(node, goes_after_s=60.0, grace_s=60, app="web") for _ in range(3)]
    harness.budget("web", min_available=2, app="web")

    answers = [evict(harness, pod) for pod in pods]

    assert answers[0] == Evicted()
    assert [type(a) for a in answers[1:]] == [BudgetExhausted, BudgetExhausted]
    assert answers[1].budget == "web"
    assert there(harness, pods[1]).deleting_since is None


def test_an_exhausted_budget_says_what_it_needs_and_has(harness):
    node = harness.node()
    pods = [harness.pod(node, app="web") for _ in range(2)]
    harness.budget("web", min_available=2, app="web")

    answer = evict(harness, pods[0])

    assert answer.message == "The disruption budget web needs 2 healthy pods and has 2 currently"
    assert answer.budget == "web"


def test_an_eviction_is_seen_in_the_budget_at_once(harness):
    node = harness.node()
    pods = [harness.pod(node, stuck=True, app="web") for _ in range(3)]
    harness.budget("web", min_available=2, app="web")

    evict(harness, pods[0])

    found = budget(harness, "web")
    assert found.allowed == 0
    assert pods[0].name in found.disrupted or found.healthy == 2


def test_a_budget_has_room_again_when_the_pod_was_brought_back(harness):
    harness.controller("ReplicaSet", "web", 2, harness.node())
    harness.budget("web", max_unavailable=1, app="web")
    before = harness.until("two pods", lambda: len(found := ready_of(harness, "web")) == 2 and found)

    evict(harness, before[0])

    gone(harness, before[0])
    harness.until("room again", lambda: budget(harness, "web").allowed == 1)
    after = ready_of(harness, "web")
    assert len(after) == 2
    assert before[0].name not in {p.name for p in after}


def test_a_deletion_asks_no_budget(harness):
    pod = harness.pod(harness.node(), app="web")
    harness.budget("web", max_unavailable=0, app="web")

    assert delete(harness, pod) == Evicted()
    gone(harness, pod)


def test_a_pod_that_two_budgets_cover_is_denied_with_a_way_out(harness):
    pod = harness.pod(harness.node(), app="web")
    harness.budget("web", max_unavailable=1, app="web")
    harness.budget("all", max_unavailable=1)

    answer = evict(harness, pod)

    assert isinstance(answer, Denied)
    assert "more than one PodDisruptionBudget" in answer.why
    assert "--disable-eviction" in answer.remedy


def test_a_pod_that_is_not_ready_goes_while_the_budget_is_met_without_it(harness):
    node = harness.node()
    harness.pod(node, app="web")
    broken = harness.pod(node, ready=False, app="web")
    harness.budget("web", min_available=1, app="web")

    assert evict(harness, broken) == Evicted()


def test_a_pod_that_is_not_ready_is_held_while_the_budget_is_not_met(harness):
    node = harness.node()
    harness.pod(node, app="web")
    broken = harness.pod(node, ready=False, app="web")
    harness.budget("web", min_available=2, app="web")

    answer = evict(harness, broken)

    assert answer.message == "The disruption budget web needs 2 healthy pods and has 1 currently"


@pytest.mark.parametrize("phase", ["Succeeded", "Pending"])
def test_pods_that_are_finished_or_not_started_go_whatever_the_budget_says(harness, phase):
    pod = harness.pod(harness.node(), phase=phase, ready=False, app="web")
    harness.budget("web", max_unavailable=0, app="web")

    assert evict(harness, pod) == Evicted()
    gone(harness, pod)


def test_the_pods_of_a_budget_are_those_that_it_covers_on_any_node(harness):
    covered = [harness.pod(harness.node(), app="web"), harness.pod(harness.node(), app="web")]
    harness.pod(harness.node(), app="api")
    harness.budget("web", max_unavailable=1, app="web")

    found = harness.view.pods_of(budget(harness, "web"))

    assert {p.uid for p in found} == {p.uid for p in covered}


# ---- controllers ------------------------------------------------------------------------------------------------


def test_a_pod_of_a_stateful_set_comes_back_with_its_name_and_another_uid(harness):
    harness.controller("StatefulSet", "db", 1, harness.node())
    (before,) = harness.until("db-0", lambda: ready_of(harness, "db"))

    evict(harness, before)

    (after,) = harness.until("another db-0", lambda: [p for p in ready_of(harness, "db") if p.uid != before.uid])
    assert (after.name, before.name) == ("db-0", "db-0")


def test_no_pod_is_brought_back_onto_a_cordoned_node(harness):
    node = harness.node()
    harness.node()
    harness.controller("ReplicaSet", "web", 1, node)
    (before,) = harness.until("a pod", lambda: ready_of(harness, "web"))
    harness.hands.cordon(harness.hands.node(before.node), RECORD)

    evict(harness, before)

    (after,) = harness.until("another pod", lambda: [p for p in ready_of(harness, "web") if p.uid != before.uid])
    assert after.node != before.node


@pytest.mark.parametrize("kind", ["ReplicaSet", "StatefulSet"])
def test_a_workload_is_read_with_how_many_pods_it_wants_and_has_ready(harness, kind):
    harness.controller(kind, "web", 2, harness.node())

    def found():
        known = [w for w in harness.view.workloads() if (w.namespace, w.name) == (harness.namespace, "web")]
        return next((w for w in known if w.kind == kind and w.ready == 2), None)

    assert harness.until("two ready pods", found).wanted == 2


def test_a_daemon_set_is_missing_in_the_words_of_the_api_or_not_missing(harness):
    harness.controller("DaemonSet", "proxy", 1, harness.node())

    assert harness.view.daemon_set_missing(harness.namespace, "proxy") == ""
    assert harness.view.daemon_set_missing(harness.namespace, "other") == 'daemonsets.apps "other" not found'


# ---- watches ----------------------------------------------------------------------------------------------------


def test_a_watch_of_pods_tells_that_a_pod_is_leaving_and_that_it_is_gone(harness):
    node = harness.node()
    pod = harness.pod(node, goes_after_s=1.0)

    with harness.view.watch_pods(node, harness.view.pods_on(node)) as changes:
        evict(harness, pod)
        leaving = first(changes, lambda c: c.pod.uid == pod.uid and c.pod.deleting_since is not None)
        end = leaving if leaving.gone else first(changes, lambda c: c.gone)

    assert (end.pod.uid, end.gone) == (pod.uid, True)


def test_a_watch_of_pods_misses_nothing_since_the_list(harness):
    node = harness.node()
    pod = harness.pod(node)
    since = harness.view.pods_on(node)
    evict(harness, pod)
    gone(harness, pod)

    with harness.view.watch_pods(node, since) as changes:
        end = first(changes, lambda c: c.gone)

    assert end.pod.uid == pod.uid


def test_a_watch_of_pods_tells_nothing_of_other_nodes_or_other_labels(harness):
    node = harness.node()
    others = [harness.pod(harness.node(), app="web"), harness.pod(node, app="api")]
    wanted = harness.pod(node, app="web")

    with harness.view.watch_pods(node, harness.view.pods_on(node, "app=web"), "app=web") as changes:
        for pod in (*others, wanted):
            evict(harness, pod)
            gone(harness, pod)
        seen = []
        first(changes, lambda c: seen.append(c.pod.uid) or c.gone)

    assert set(seen) == {wanted.uid}


def test_a_watch_of_pods_tells_of_new_ones(harness):
    node = harness.node()

    with harness.view.watch_pods(node, harness.view.pods_on(node)) as changes:
        pod = harness.pod(node)
        change = first(changes, lambda c: c.pod.uid == pod.uid)

    assert not change.gone


def test_a_watch_of_budgets_begins_with_all_of_them_as_they_are(harness):
    harness.pod(harness.node(), app="web")
    harness.budget("web", max_unavailable=0, app="web")
    harness.budget("api", min_available=0, app="api")

    with harness.view.watch_budgets() as changes:
        found = {first(changes, lambda b: b.name == "api").name, first_of(harness, "web").name}

    assert found == {"api", "web"}


def first_of(harness, name):
    with harness.view.watch_budgets() as changes:
        return first(changes, lambda b: b.key == f"{harness.namespace}/{name}")


def test_a_watch_of_budgets_tells_that_an_eviction_was_counted(harness):
    node = harness.node()
    pods = [harness.pod(node, stuck=True, app="web") for _ in range(2)]
    harness.budget("web", min_available=1, app="web")

    with harness.view.watch_budgets() as changes:
        before = first(changes, lambda b: b.key == f"{harness.namespace}/web" and b.allowed == 1)
        evict(harness, pods[0])
        after = first(changes, lambda b: b.key == before.key and b.allowed == 0)

    assert after.needed == 1


def test_a_watch_of_budgets_tells_of_a_deleted_one_as_one_that_covers_nothing(harness):
    pod = harness.pod(harness.node(), app="web")
    harness.budget("web", max_unavailable=0, app="web")

    with harness.view.watch_budgets() as changes:
        first(changes, lambda b: b.key == f"{harness.namespace}/web")
        harness.remove_budget("web")
        last = first(changes, lambda b: b.key == f"{harness.namespace}/web" and b.selector is None)

    assert not last.covers(pod)


def test_a_watch_that_was_left_ends(harness):
    node = harness.node()

    with harness.view.watch_pods(node, harness.view.pods_on(node)) as changes:
        pass

    assert list(changes) == []
