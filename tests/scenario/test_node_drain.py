"""Drains on a cluster in memory: budgets, refusals, time, and what others do meanwhile."""

from itertools import pairwise

import pytest

from orchestrator.actions.drain import Drain
from orchestrator.cluster.model import Budget, PodChange
from orchestrator.cluster.ports import BudgetExhausted, Denied, Gone, TryLater
from orchestrator.engine.lease import LeaseRecord
from orchestrator.engine.plan import Blocked, Needed
from orchestrator.engine.runner import Stop
from orchestrator.errors import (
    ApiNotFound,
    ApiUnreachable,
    GoalNotReached,
    Interrupted,
    LeaseLost,
    Locked,
    Refused,
)
from orchestrator.planners import nodes as planners
from tests.fakes.crash import Life
from tests.fakes.world import World, cordon, drain


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    for node in ("node-1", "node-2", "node-3"):
        world.cluster.add_node(node)
    return world


@pytest.fixture
def cluster(world):
    return world.cluster


def on(cluster, node):
    return sorted(p.name for p in cluster.pods.values() if p.node == node)


def web(cluster, replicas=4, **pod):
    cluster.add_controller("ReplicaSet", "default", "web", replicas, on=("node-1",), **pod)


def settled(cluster):
    cluster.pass_time(1)


def asked(world, verb="evict"):
    return [of for what, of in world.hands.requests if what == verb]


def progress(world):
    return [e.fields for e in world.sink.named("drain.progress")]


# ---- what goes and what stays -----------------------------------------------------------------------------------


def test_a_drain_cordons_the_node_and_empties_it_of_all_that_can_live_elsewhere(world, cluster):
    web(cluster)
    cluster.add_controller("DaemonSet", "kube-system", "proxy", 0)
    cluster.add_pod("kube-system", "etcd", "node-1", mirror=True)

    world.start(drain("node-1"))

    assert on(cluster, "node-1") == ["etcd", "proxy-1"]
    assert cluster.cordons()["node-1"] == "ann@laptop"
    assert len(asked(world)) == 4


def test_a_node_without_pods_is_drained_without_asking_for_anything(world, cluster):
    world.start(drain("node-1"))

    assert world.crews == []
    assert world.sink.steps("step.skipped") == ["1/node-1/node.drain"]


def test_pods_on_other_nodes_are_left_alone(world, cluster):
    cluster.add_controller("ReplicaSet", "default", "web", 4, on=("node-1", "node-2"))

    world.start(drain("node-1"))

    assert {"web-2", "web-4"} <= set(on(cluster, "node-2"))


def test_only_pods_that_the_selector_selects_go(world, cluster):
    web(cluster, 2)
    cluster.add_controller("ReplicaSet", "default", "api", 2, on=("node-1",))

    world.start(drain("node-1", pod_selector="app=api"))

    assert on(cluster, "node-1") == ["web-1", "web-2"]


def test_finished_and_pending_pods_go_whatever_the_budget_says(world, cluster):
    labels = {"app": "job"}
    cluster.add_pod("default", "over", "node-1", phase="Succeeded", ready=False, labels=labels)
    web(cluster, 1, labels=labels)
    cluster.add_pod("default", "stuck", "node-1", phase="Pending", ready=False, labels=labels)
    cluster.add_budget("default", "job", min_available=9, app="job")

    with pytest.raises(Refused, match="default/stuck: no controller"):
        world.start(drain("node-1"))
    with pytest.raises(GoalNotReached):
        world.start(drain("node-1", force=True, timeout_s=5.0), run="run-2")

    assert on(cluster, "node-1") == ["web-1"]


def test_a_pod_that_forbids_the_drain_is_named_with_every_reason_and_flag_and_nothing_is_evicted(world, cluster):
    web(cluster)
    cluster.add_pod("default", "bare", "node-1", empty_dir=True)

    with pytest.raises(Refused) as raised:
        world.start(drain("node-1"))

    assert str(raised.value).splitlines() == [
        "node-1 cannot be drained: 1 pod forbids it",
        "  default/bare: has emptyDir volumes, whose contents are lost; no controller would bring it back",
    ]
    command = "orchestrator drain node-1 --ignore-daemonsets --delete-emptydir-data --force"
    assert raised.value.remedy == f"if that is meant, add --delete-emptydir-data --force: {command}"
    assert asked(world) == []


def test_a_preview_names_what_forbids_a_drain_and_changes_nothing(world, cluster):
    cluster.add_pod("default", "bare", "node-1")
    web(cluster)
    before = cluster.state()

    found = world.preview(drain("node-1", "node-2"))

    assert [type(p.decision) for p in found] == [Needed, Needed, Blocked, Needed]
    assert cluster.state() == before


def test_a_preview_of_a_drain_shows_what_is_to_do_after_the_cordon(world, cluster):
    web(cluster)

    found = world.preview(drain("node-1"))

    assert [p.decision for p in found] == [Needed("takes new pods"), Needed("4 pods to evict")]


def test_a_view_has_nothing_to_change_a_cluster_with(cluster):
    assert not {"cordon", "uncordon", "evict", "delete"} & set(dir(cluster.view()))


def test_a_daemon_set_that_cannot_be_looked_up_is_not_taken_for_a_missing_one(world, cluster):
    cluster.add_controller("DaemonSet", "kube-system", "proxy", 0)
    cluster.down = True

    with pytest.raises(ApiUnreachable):
        world.preview(drain("node-1"))


def test_a_pod_of_a_daemon_set_that_is_gone_forbids_the_drain_unless_forced(world, cluster):
    cluster.add_controller("DaemonSet", "kube-system", "proxy", 0)
    cluster.remove_controller("DaemonSet", "kube-system", "proxy")

    with pytest.raises(Refused, match="its DaemonSet does not exist"):
        world.start(drain("node-1"))
    world.start(drain("node-1", force=True), run="run-2")

    assert on(cluster, "node-1") == []


# ---- budgets ----------------------------------------------------------------------------------------------------


def test_a_budget_is_never_broken_and_hardly_ever_asked_in_vain(world, cluster):
    web(cluster, 6)
    cluster.add_budget("default", "web", max_unavailable=1, app="web")
    settled(cluster)

    world.start(drain("node-1"))

    assert all(b.healthy >= b.needed for _, b in cluster.log if isinstance(b, Budget))
    assert sorted(asked(world)) == [f"default/web-{i}" for i in range(1, 7)]


def test_the_next_pod_is_asked_for_as_soon_as_the_budget_has_room(world, cluster):
    web(cluster, 6, ready_after_s=8.0)
    cluster.add_budget("default", "web", max_unavailable=2, app="web")
    settled(cluster)
    began = world.clock.now()

    world.start(drain("node-1"))

    assert 2 * 8.0 + 1.0 <= world.clock.now() - began < 2 * 8.0 + 2.0


def test_pods_of_different_budgets_do_not_wait_for_one_another(world, cluster):
    cluster.add_controller("ReplicaSet", "default", "slow", 3, on=("node-1",), ready_after_s=60.0)
    cluster.add_controller("ReplicaSet", "default", "fast", 3, on=("node-1",), ready_after_s=1.0)
    cluster.add_controller("ReplicaSet", "default", "free", 3, on=("node-1",))
    cluster.add_budget("default", "slow", max_unavailable=1, app="slow")
    cluster.add_budget("default", "fast", max_unavailable=1, app="fast")
    settled(cluster)
    began = cluster.wall()

    world.start(drain("node-1"))

    gone = {c.pod.name: c.pod.deleting_since - began for _, c in cluster.log if isinstance(c, PodChange) and c.gone}
    assert max(at for name, at in gone.items() if name.startswith("free")) == 0
    assert max(at for name, at in gone.items() if name.startswith("fast")) < 5
    assert max(at for name, at in gone.items() if name.startswith("slow")) > 120


def test_a_budget_of_another_namespace_does_not_count(world, cluster):
    web(cluster)
    cluster.add_budget("other", "web", min_available=9, app="web")
    settled(cluster)

    world.start(drain("node-1"))

    assert on(cluster, "node-1") == []


def exhausted(world, cluster, **more):
    """A drain that a budget without room stops; the error."""
    cluster.add_budget("default", "web", max_unavailable=0, app="web")
    settled(cluster)
    with pytest.raises(GoalNotReached) as raised:
        world.start(drain("node-1", **more))
    return raised.value


def test_a_budget_without_room_is_explained_with_its_numbers_when_time_is_up(world, cluster):
    web(cluster, 4)

    err = exhausted(world, cluster, timeout_s=60.0)

    assert str(err) == (
        "node-1: 4 of 4 pods left after 60 s: 4 pods (default/web-1, default/web-2, default/web-3, default/web-4): "
        "budget default/web (maxUnavailable: 0) allows 0: needs 4 healthy, has 4 of 4"
    )
    assert err.exit_code == 30
    assert "--timeout" in err.remedy


def test_a_drain_ends_at_its_deadline_to_the_second(world, cluster):
    web(cluster)
    began = world.clock.now() + 1.0

    exhausted(world, cluster, timeout_s=60.0)

    assert world.clock.now() - began == pytest.approx(60.0)


def test_a_budget_without_room_is_asked_all_the_same_now_and_then(world, cluster):
    web(cluster, 4)

    exhausted(world, cluster, timeout_s=60.0)

    assert 8 <= len(asked(world)) <= 14


def test_the_pods_that_are_not_ready_are_named_beside_the_budget_that_waits_for_them(world, cluster):
    web(cluster, 3)
    cluster.change_pod("default/web-3", node="node-2", ready=False, waiting_reason="CrashLoopBackOff")
    cluster.add_budget("default", "web", max_unavailable=1, app="web")
    settled(cluster)

    with pytest.raises(GoalNotReached) as raised:
        world.start(drain("node-1", timeout_s=30.0))

    assert "needs 2 healthy, has 2 of 3; not ready: web-3 on node-2 for " in str(raised.value)
    assert "(CrashLoopBackOff)" in str(raised.value)
    assert "CrashLoopBackOff" in progress(world)[-1]["waiting"][0]["why"]


def test_a_budget_that_gets_room_lets_the_drain_go_on_within_a_second(world, cluster):
    web(cluster, 2, ready_after_s=1.0)
    cluster.add_budget("default", "web", max_unavailable=0, app="web")
    settled(cluster)
    cluster.after(31.5, lambda: cluster.change_budget("default/web", max_unavailable=2))
    began = world.clock.now()

    world.start(drain("node-1"))

    assert 32.5 <= world.clock.now() - began < 33.5


def test_a_budget_that_is_deleted_holds_nobody_back_any_more(world, cluster):
    web(cluster, 2)
    cluster.add_budget("default", "web", max_unavailable=0, app="web")
    settled(cluster)
    cluster.after(30, lambda: cluster.remove_budget("default/web"))
    began = world.clock.now()

    world.start(drain("node-1"))

    assert 31 <= world.clock.now() - began < 33


def test_a_budget_that_comes_up_during_the_drain_is_kept_too(world, cluster):
    web(cluster, 5, ready_after_s=4.0)
    life = Life(then={2: lambda: cluster.add_budget("default", "web", max_unavailable=1, app="web")})

    world.start(drain("node-1", parallel=1), life=life)

    kept = [b for _, b in cluster.log if isinstance(b, Budget)]
    assert on(cluster, "node-1") == []
    assert all(b.healthy >= b.needed for b in kept)
    assert ("watch_budgets", "") in world.hands.requests


def test_a_budget_that_its_controller_has_not_counted_yet_is_waited_for(world, cluster):
    web(cluster, 1)
    cluster.add_budget("default", "web", max_unavailable=1, processed=False, app="web")
    settled(cluster)
    cluster.after(20, lambda: cluster.change_budget("default/web", processed=True))

    world.start(drain("node-1"))

    whys = {w["why"] for p in progress(world) for w in p["waiting"]}
    assert "budget default/web (maxUnavailable: 1) has not been processed by its controller yet" in whys
    assert on(cluster, "node-1") == []


def test_a_pod_that_is_not_ready_goes_when_the_budget_is_met_without_it(world, cluster):
    web(cluster, 3)
    cluster.change_pod("default/web-1", ready=False)
    cluster.change_pod("default/web-2", node="node-2")
    cluster.change_pod("default/web-3", node="node-2")
    cluster.add_budget("default", "web", min_available=2, app="web")
    settled(cluster)

    world.start(drain("node-1"))

    assert on(cluster, "node-1") == []


def test_a_pod_that_is_not_ready_is_asked_for_again_while_its_budget_is_not_met(world, cluster):
    web(cluster, 2)
    for pod in ("default/web-1", "default/web-2"):
        cluster.change_pod(pod, ready=False)
    cluster.add_budget("default", "web", min_available=2, app="web")
    settled(cluster)

    with pytest.raises(GoalNotReached, match="needs 2 healthy pods and has 0 currently"):
        world.start(drain("node-1", timeout_s=60.0))

    assert 2 * 10 <= len(asked(world)) <= 2 * 18


def test_a_pod_that_is_not_ready_goes_at_once_where_the_budget_always_allows_it(world, cluster):
    web(cluster, 2)
    cluster.change_pod("default/web-1", ready=False)
    cluster.change_pod("default/web-2", ready=False)
    cluster.add_budget("default", "web", min_available=2, always=True, app="web")
    settled(cluster)
    began = world.clock.now()

    world.start(drain("node-1"))

    assert world.clock.now() - began < 2


def test_a_pod_in_two_budgets_is_refused_before_anything_starts(world, cluster):
    web(cluster, 1)
    cluster.add_budget("default", "web", max_unavailable=1, app="web")
    cluster.add_budget("default", "all", max_unavailable=1)

    with pytest.raises(Refused, match=r"covered by 2 budgets \(all, web\)") as raised:
        world.start(drain("node-1"))

    assert "--disable-eviction" in raised.value.remedy
    assert asked(world) == []


def test_deletions_instead_of_evictions_ask_no_budget(world, cluster):
    web(cluster, 3)
    cluster.add_budget("default", "web", max_unavailable=0, app="web")
    settled(cluster)

    world.start(drain("node-1", disable_eviction=True))

    assert (asked(world), len(asked(world, "delete"))) == ([], 3)
    assert ("watch_budgets", "") not in world.hands.requests


# ---- what the server answers ------------------------------------------------------------------------------------


def test_a_pod_that_the_server_will_not_evict_fails_the_drain_after_the_others_have_gone(world, cluster):
    web(cluster, 3)
    cluster.answers["default/web-2"] = [Denied("admission webhook says no", "ask the team of the webhook")]

    with pytest.raises(Refused) as raised:
        world.start(drain("node-1"))

    assert str(raised.value).splitlines() == [
        "node-1: the API server refuses to evict 1 pod",
        "  default/web-2: admission webhook says no",
    ]
    assert raised.value.remedy == "ask the team of the webhook"
    assert on(cluster, "node-1") == ["web-2"]


def test_a_failure_that_passes_is_asked_again_ever_less_often(world, cluster):
    web(cluster, 1)
    cluster.answers["default/web-1"] = [TryLater("500: etcd leader changed")] * 6

    world.start(drain("node-1"))

    assert len(asked(world)) == 7
    assert world.clock.now() == pytest.approx(0.5 + 1 + 2 + 4 + 5 + 5 + 1, abs=0.1)


def test_a_pause_that_the_server_asks_for_is_kept(world, cluster):
    web(cluster, 1)
    cluster.answers["default/web-1"] = [TryLater("the namespace is terminating", retry_after_s=20.0)]

    world.start(drain("node-1"))

    assert world.clock.now() == pytest.approx(21.0, abs=0.1)


def test_a_refusal_by_a_budget_is_heeded_with_the_pause_that_the_server_asks_for(world, cluster):
    web(cluster, 1)
    cluster.add_budget("default", "web", max_unavailable=1, app="web")
    settled(cluster)
    cluster.answers["default/web-1"] = [BudgetExhausted("still being processed", "web", 10.0)]
    began = world.clock.now()

    world.start(drain("node-1"))

    assert world.clock.now() - began == pytest.approx(11.0, abs=0.1)


def test_what_a_pod_waits_for_is_told_in_the_servers_words(world, cluster):
    web(cluster, 1)
    cluster.answers["default/web-1"] = [TryLater("500: etcd leader changed", retry_after_s=30.0)]

    world.start(drain("node-1"))

    (waiting,) = progress(world)[0]["waiting"]
    assert waiting == {
        "why": "500: etcd leader changed",
        "budget": "",
        "pods": ["default/web-1"],
        "count": 1,
        "for_s": 1,
    }


def test_a_pod_that_is_gone_already_when_it_is_asked_for_is_counted_as_gone(world, cluster):
    web(cluster, 2)
    cluster.answers["default/web-1"] = [Gone()]
    cluster.after(3, lambda: cluster.remove_pod("default/web-1"))

    world.start(drain("node-1"))

    assert on(cluster, "node-1") == []


def test_no_more_evictions_are_asked_for_at_once_than_there_may_be(world, cluster):
    web(cluster, 30)

    world.start(drain("node-1", parallel=7))

    assert world.crews[0].most_submitted == 7


def test_pods_that_a_busy_server_turned_away_are_asked_for_again_when_it_said(world, cluster):
    web(cluster, 40)
    for i in range(1, 9):
        cluster.answers[f"default/web-{i}"] = [TryLater("asks for less load", 1.0, overloaded=True)]

    world.start(drain("node-1", parallel=8))

    assert on(cluster, "node-1") == []
    assert len(asked(world)) == 48


# ---- leaving ----------------------------------------------------------------------------------------------------


def test_a_pod_has_the_grace_period_that_it_asks_for(world, cluster):
    web(cluster, 1, grace_s=300.0, stops_after_s=None)

    world.start(drain("node-1"))

    assert world.clock.now() == pytest.approx(300.0, abs=0.1)


def test_a_grace_period_can_be_given_instead_of_the_pods_own(world, cluster):
    web(cluster, 1, grace_s=300.0, stops_after_s=None)

    world.start(drain("node-1", grace_period_s=20))

    assert world.clock.now() == pytest.approx(20.0, abs=0.1)


def test_a_pod_that_is_leaving_already_is_waited_for_and_not_asked_again(world, cluster):
    web(cluster, 1, grace_s=40.0, stops_after_s=None)
    cluster.remove(cluster.pods["default/web-1"], evict=False, grace_s=None)

    world.start(drain("node-1"))

    assert asked(world) == []
    assert on(cluster, "node-1") == []


def test_a_pod_that_is_leaving_already_is_asked_again_for_another_grace_period(world, cluster):
    web(cluster, 1, grace_s=400.0, stops_after_s=None)
    cluster.remove(cluster.pods["default/web-1"], evict=False, grace_s=None)

    world.start(drain("node-1", grace_period_s=10))

    assert asked(world) == ["default/web-1"]
    assert world.clock.now() == pytest.approx(10.0, abs=0.1)


def test_a_pod_that_never_goes_is_named_when_time_is_up(world, cluster):
    web(cluster, 2, grace_s=30.0)
    cluster.add_controller("ReplicaSet", "default", "stuck", 1, on=("node-1",), stuck=True)

    with pytest.raises(GoalNotReached) as raised:
        world.start(drain("node-1", timeout_s=100.0))

    assert str(raised.value) == ("node-1: 1 of 3 pods left after 100 s: 1 pod still terminating (default/stuck-1)")
    assert world.clock.now() == pytest.approx(100.0)


def test_a_pod_whose_grace_ended_long_ago_is_no_longer_waited_for_if_so_asked(world, cluster):
    web(cluster, 1, grace_s=30.0, stuck=True)

    world.start(drain("node-1", skip_wait_for_delete_timeout_s=20))

    assert 30 + 20 < world.clock.now() <= 30 + 20 + 2
    assert on(cluster, "node-1") == ["web-1"]
    assert world.read().state == "finished"


def test_a_pod_that_comes_back_with_its_name_elsewhere_counts_as_gone(world, cluster):
    cluster.add_controller("StatefulSet", "default", "db", 3, on=("node-1",))
    cluster.add_budget("default", "db", max_unavailable=1, app="db")
    settled(cluster)

    world.start(drain("node-1"))

    assert on(cluster, "node-1") == []
    assert sorted(asked(world)) == ["default/db-0", "default/db-1", "default/db-2"]
    assert all(b.healthy >= b.needed for _, b in cluster.log if isinstance(b, Budget))


def test_a_pod_with_the_name_of_one_that_was_to_go_is_never_evicted_for_it(world, cluster):
    web(cluster, 1)
    cluster.add_controller("StatefulSet", "default", "db", 1, on=("node-1",), ready_after_s=1.0)

    def replaced():
        """Between the look and the request: db-0 is another pod now."""
        if cluster.pods["default/db-0"].node == "node-1":
            cluster.remove_pod("default/db-0")
            cluster.add_pod("default", "db-0", "node-2", labels={"app": "db"})

    cluster.answers["default/db-0"] = [TryLater("busy", retry_after_s=5.0)]
    cluster.after(3, replaced)

    world.start(drain("node-1"))

    assert on(cluster, "node-2").count("db-0") == 1
    assert ("evict", "default/db-0") not in world.effects


def test_a_pod_that_comes_onto_the_node_during_the_drain_goes_too(world, cluster):
    web(cluster, 1, stops_after_s=10.0)
    late = {"controller": cluster.controllers()[0].owner, "labels": {"app": "web"}}
    cluster.after(5, lambda: cluster.add_pod("default", "late", "node-1", **late))

    world.start(drain("node-1"))

    assert on(cluster, "node-1") == []
    assert asked(world) == ["default/web-1", "default/late"]


# ---- progress ---------------------------------------------------------------------------------------------------


def test_progress_is_told_at_least_every_ten_seconds_and_no_more_than_every_second(world, cluster):
    web(cluster, 1, grace_s=60.0, stops_after_s=None)
    told = []
    emit = world.sink.emit

    def noted(event):
        emit(event)
        if event.name == "drain.progress":
            told.append(world.clock.now())

    world.sink.emit = noted

    world.start(drain("node-1"))

    gaps = [later - earlier for earlier, later in pairwise(told)]
    assert 6 <= len(told) <= 8
    assert max(gaps) <= 10.1
    assert progress(world)[0]["grace_left_s"] == 59
    assert progress(world)[-1]["left"] == 0


# ---- what goes wrong meanwhile ----------------------------------------------------------------------------------


def test_a_watch_of_the_pods_that_is_broken_for_good_ends_the_drain_with_its_error(world, cluster):
    web(cluster, 1, stops_after_s=20.0)
    cluster.after(5, lambda: cluster.break_watches("pods"))

    with pytest.raises(ApiUnreachable, match="the watch of pods broke"):
        world.start(drain("node-1"))

    assert world.clock.now() == pytest.approx(5.0)


def test_without_a_watch_of_the_budgets_the_drain_goes_on_more_slowly_and_says_so(world, cluster):
    web(cluster, 3, ready_after_s=4.0)
    cluster.add_budget("default", "web", max_unavailable=1, app="web")
    settled(cluster)
    cluster.after(0.01, lambda: cluster.break_watches("budgets"))
    began = world.clock.now()

    world.start(drain("node-1"))

    assert on(cluster, "node-1") == []
    assert 5 < world.clock.now() - began < 30
    (degraded,) = world.sink.named("drain.degraded")
    assert (degraded.level, degraded.fields["what"]) == ("warning", "watch.budgets")


def test_no_further_pod_is_evicted_once_the_lease_is_lost(world, cluster):
    web(cluster, 6, ready_after_s=10.0)
    cluster.add_budget("default", "web", max_unavailable=1, app="web")
    settled(cluster)

    def taken():
        now = cluster.wall()
        world.leases.put(LeaseRecord("bob@desk", "run-9", now, now, 15))

    life = Life(then={3: taken})  # the cordon and two evictions

    with pytest.raises(LeaseLost, match="bob@desk took it over") as raised:
        world.start(drain("node-1"), life=life)

    assert len(life.effects) <= 4
    assert raised.value.__notes__[0].endswith("step 1/node-1/node.drain")
    assert world.leases.record.holder == "bob@desk"


def test_the_first_request_to_stop_finishes_the_drain_of_the_node(world, cluster):
    web(cluster, 4)
    stop = Stop()

    with pytest.raises(Interrupted):
        world.start(drain("node-1", "node-2"), stop=stop, life=Life(then={3: stop.request}))

    assert on(cluster, "node-1") == []
    assert world.read().done == {"0/node-1/node.cordon", "0/node-2/node.cordon", "1/node-1/node.drain"}


def test_the_second_request_to_stop_evicts_no_further_pod(world, cluster):
    web(cluster, 4)
    stop = Stop()

    with pytest.raises(Interrupted):
        world.start(
            drain("node-1", parallel=1), stop=stop, life=Life(then={2: lambda: (stop.request(), stop.request())})
        )

    assert len(asked(world)) == 1
    assert world.read().state == "stopped"


def test_the_second_request_to_stop_leaves_the_wait_for_pods_that_are_going(world, cluster):
    web(cluster, 2, grace_s=300.0, stops_after_s=None)
    stop = Stop()
    cluster.after(20, lambda: (stop.request(), stop.request()))

    with pytest.raises(Interrupted):
        world.start(drain("node-1"), stop=stop)

    assert 20 <= world.clock.now() <= 21
    assert on(cluster, "node-1") == ["web-1", "web-2"]


def test_a_lease_that_is_lost_is_noticed_while_pods_are_waited_for(world, cluster):
    web(cluster, 2, grace_s=300.0, stops_after_s=None)

    def taken():
        now = cluster.wall()
        world.leases.put(LeaseRecord("bob@desk", "run-9", now, now, 15))

    cluster.after(20, taken)

    with pytest.raises(LeaseLost):
        world.start(drain("node-1"))

    assert 20 <= world.clock.now() <= 40


def test_a_node_that_somebody_uncordons_before_its_drain_is_not_drained(world, cluster):
    web(cluster, 2)
    cluster.add_controller("ReplicaSet", "default", "api", 2, on=("node-2",))
    life = Life(then={3: lambda: cluster.change_node("node-2", unschedulable=False, cordon=None)})

    with pytest.raises(Refused, match="node-2 takes new pods"):
        world.start(drain("node-1", "node-2"), life=life)

    assert {"api-1", "api-2"} <= set(on(cluster, "node-2"))

    world.resume()

    assert on(cluster, "node-2") == []
    assert cluster.cordons() == {"node-1": "ann@laptop", "node-2": "ann@laptop", "node-3": None}


def test_a_node_that_somebody_uncordons_during_its_drain_is_not_counted_as_drained(world, cluster):
    web(cluster, 2, stops_after_s=10.0)
    cluster.after(5, lambda: cluster.change_node("node-1", unschedulable=False, cordon=None))

    with pytest.raises(Refused, match="node-1 takes new pods"):
        world.start(drain("node-1"))

    assert "1/node-1/node.drain" not in world.read().done


def test_a_node_that_was_cordoned_before_and_uncordoned_meanwhile_is_left_cordoned_by_a_release(world, cluster):
    cluster.change_node("node-1", unschedulable=True)
    web(cluster, 1)
    life = Life(then={1: lambda: cluster.change_node("node-1", unschedulable=False)})
    with pytest.raises(Refused):
        world.start(drain("node-1"), life=life)
    world.resume()

    world.release()

    assert cluster.nodes["node-1"].unschedulable


def test_a_release_leaves_a_cordon_alone_that_somebody_took_over(world, cluster):
    world.start(cordon("node-1", "node-2"))
    cluster.change_node("node-1", cordon=None)

    world.release()

    assert cluster.cordons() == {"node-1": "somebody", "node-2": None, "node-3": None}


def test_a_released_run_is_not_resumed(world, cluster):
    world.start(cordon("node-1"))
    world.release()

    with pytest.raises(Refused, match="was released"):
        world.resume()


def test_a_node_that_is_removed_meanwhile_is_an_error_that_names_it(world, cluster):
    web(cluster, 1)

    with pytest.raises(ApiNotFound, match="node-1"):
        world.start(drain("node-1"), life=Life(then={2: lambda: cluster.remove_node("node-1")}))


def test_a_kubelet_that_changes_its_node_meanwhile_does_not_disturb_the_cordon(world, cluster):
    cluster.after(0, lambda: cluster.change_node("node-1", boot_id="new"))

    world.start(cordon("node-1"))

    assert cluster.cordons()["node-1"] == "ann@laptop"


def test_a_failed_drain_is_followed_by_no_other_node(world, cluster):
    web(cluster, 2)
    cluster.add_controller("ReplicaSet", "default", "api", 2, on=("node-2",))
    cluster.add_budget("default", "web", max_unavailable=0, app="web")
    settled(cluster)

    with pytest.raises(GoalNotReached):
        world.start(drain("node-1", "node-2", timeout_s=30.0))

    assert on(cluster, "node-2") == ["api-1", "api-2"]
    assert cluster.cordons() == {"node-1": "ann@laptop", "node-2": "ann@laptop", "node-3": None}


def test_a_failed_drain_goes_on_when_what_held_it_up_is_mended(world, cluster):
    web(cluster, 2)
    cluster.add_budget("default", "web", max_unavailable=0, app="web")
    settled(cluster)
    with pytest.raises(GoalNotReached):
        world.start(drain("node-1", timeout_s=30.0))
    cluster.change_budget("default/web", max_unavailable=1)

    world.resume()

    assert on(cluster, "node-1") == []
    assert world.read().state == "finished"


# ---- uncordon ---------------------------------------------------------------------------------------------------


def uncordon(*nodes, owner="ann@laptop", force_owner=False):
    return planners.uncordon(nodes, owner=owner, force_owner=force_owner)


def test_an_uncordon_undoes_ones_own_cordon_and_those_without_an_owner(world, cluster):
    world.start(cordon("node-1"))
    cluster.change_node("node-2", unschedulable=True)

    world.start(uncordon("node-1", "node-2", "node-3"), run="run-2")

    assert cluster.cordons() == {"node-1": None, "node-2": None, "node-3": None}
    assert sorted(world.effects[1:]) == [("uncordon", "node-1"), ("uncordon", "node-2")]


def test_an_uncordon_leaves_the_cordon_of_another_owner_unless_forced(world, cluster):
    world.start(cordon("node-1", owner="bob@desk"))

    with pytest.raises(Refused, match=r"node-1 is cordoned by bob@desk \(kernel\)"):
        world.start(uncordon("node-1"), run="run-2")
    assert cluster.cordons()["node-1"] == "bob@desk"

    world.start(uncordon("node-1", force_owner=True), run="run-3")
    assert cluster.cordons()["node-1"] is None


# ---- two at once ------------------------------------------------------------------------------------------------


def test_of_two_runs_at_once_the_second_is_refused_and_changes_nothing(world, cluster):
    web(cluster, 4, stops_after_s=10.0)
    refused = []

    def second():
        life = Life()
        with pytest.raises(Locked, match="ann@laptop holds the cluster with run run-1") as raised:
            world.start(cordon("node-2"), run="run-2", life=life, holder="bob@desk")
        world.leases.life = first
        refused.append((raised.value.exit_code, life.effects))

    first = Life(then={3: second})
    world.start(drain("node-1"), life=first)

    assert refused == [(21, [])]
    assert on(cluster, "node-1") == []
    assert cluster.cordons()["node-2"] is None


def test_a_drain_reads_its_facts_once_for_each_look(world, cluster):
    step = next(s for s in drain("node-1").steps() if s.action == "node.drain")
    web(cluster, 4)
    view = cluster.view()

    facts = Drain(lambda size: None, world.clock).probe(view, step)

    assert [what for what, _ in view.requests] == ["pods_on", "budgets", "node"]
    assert facts["evict"] == [f"default/web-{i}" for i in range(1, 5)]
