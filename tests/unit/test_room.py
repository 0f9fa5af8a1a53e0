"""Whether pods of nodes that go out of service find room elsewhere."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster import room
from orchestrator.cluster.model import OwnerRef, Pod, Taint
from tests.fakes.situations import found, node, only, pod, situation

GB = 1e9


def roomy(name, cpu=4.0, memory=8 * GB, pods=110.0, **changes):
    return node(name, allocatable={"cpu": cpu, "memory": memory, "pods": pods}, **changes)


def asking(name, where, cpu=0.0, memory=0.0, **changes):
    return pod(name, where, requests={"cpu": cpu, "memory": memory}, **changes)


def names(nodes, pods, waves):
    return [each.pod.name for each in room.unplaced(nodes, pods, waves)]


def test_what_fits_is_not_spoken_of():
    pods = [asking("a", "w1", cpu=2), asking("b", "w1", cpu=2), asking("c", "w2", cpu=1)]

    assert names([roomy("w1"), roomy("w2", cpu=5)], pods, [["w1"]]) == []


def test_what_does_not_fit_is_told_with_what_it_lacks():
    pods = [asking("a", "w1", cpu=1, memory=6 * GB), asking("b", "w2", cpu=1, memory=3 * GB)]

    (one,) = room.unplaced([roomy("w1"), roomy("w2")], pods, [["w1"]])

    assert (one.pod.name, one.lacks, one.needs, one.left) == ("a", "memory", 6 * GB, 5 * GB)


def test_the_biggest_is_placed_first_for_small_ones_fit_into_what_is_left():
    pods = [asking("small", "w1", cpu=1), asking("big", "w1", cpu=3)]

    assert names([roomy("w1"), roomy("w2", cpu=3), roomy("w3", cpu=1)], pods, [["w1"]]) == []


def test_each_goes_where_most_is_left():
    pods = [asking("a", "w1", cpu=2), asking("b", "w2", cpu=1), asking("next", "w2", cpu=1)]

    # a goes to w3, so that w2 can be emptied to w1 and w3 afterwards
    assert names([roomy("w1", cpu=2), roomy("w2", cpu=4), roomy("w3", cpu=4)], pods, [["w1"], ["w2"], ["w3"]]) == []


def test_nodes_out_of_service_together_do_not_take_each_others_pods():
    nodes = [roomy("w1", cpu=2), roomy("w2", cpu=2), roomy("w3", cpu=2)]
    pods = [asking("a", "w1", cpu=2), asking("b", "w2", cpu=2)]

    assert names(nodes, pods, [["w1"], ["w2"], ["w3"]]) == []
    assert len(names(nodes, pods, [["w1", "w2"], ["w3"]])) == 1


def test_what_moved_stays_where_it_went():
    nodes = [roomy("w1", cpu=2), roomy("w2", cpu=4)]
    pods = [asking("a", "w1", cpu=2), asking("b", "w2", cpu=2)]

    # w2 takes a; then both of w2's pods want the room of w1, which is enough for one
    assert len(names(nodes, pods, [["w1"], ["w2"]])) == 1


def test_what_found_no_room_is_back_on_its_node_before_the_next():
    nodes = [roomy("w1", cpu=4), roomy("w2", cpu=2)]
    pods = [asking("a", "w1", cpu=4), asking("b", "w2", cpu=1)]

    assert names(nodes, pods, [["w1"], ["w2"]]) == ["a", "b"]


def test_the_number_of_pods_is_a_resource_too():
    nodes = [roomy("w1"), roomy("w2", pods=2)]
    pods = [asking("a", "w1"), asking("b", "w1"), asking("c", "w2")]

    (one,) = room.unplaced(nodes, pods, [["w1"]])

    assert (one.lacks, one.needs, one.left) == ("pods", 1.0, 0.0)


def test_a_resource_that_no_other_node_has_is_lacking():
    pods = [pod("a", "w1", requests={"example.com/gpu": 1.0})]

    (one,) = room.unplaced([roomy("w1"), roomy("w2")], pods, [["w1"]])

    assert (one.lacks, one.left) == ("example.com/gpu", 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"controller": None},
        {"controller": OwnerRef("DaemonSet", "d", "apps/v1")},
        {"deleting_since": 1.0},
        {"phase": "Succeeded"},
        {"node_selector": {"disk": "ssd"}},
    ],
)
def test_who_does_not_move_or_may_not_go_elsewhere_is_no_matter_of_room(changes):
    assert names([roomy("w1"), roomy("w2")], [asking("a", "w1", cpu=100, **changes)], [["w1"]]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"ready": False},
        {"unschedulable": True},
        {"taints": (Taint("x", "", "NoExecute"),)},
        {"labels": {"disk": "hdd"}},
    ],
)
def test_a_node_that_may_not_take_it_has_no_room_for_it(changes):
    nodes = [
        roomy("w1"),
        roomy("w2", cpu=1, labels={"disk": "ssd"}),
        roomy("w3", **{"labels": {"disk": "ssd"}, **changes}),
    ]

    assert names(nodes, [asking("a", "w1", cpu=2, node_selector={"disk": "ssd"})], [["w1"]]) == ["a"]


def test_finished_pods_take_no_room():
    pods = [asking("a", "w1", cpu=3), asking("done", "w2", cpu=3, phase="Succeeded")]

    assert names([roomy("w1"), roomy("w2")], pods, [["w1"]]) == []


PODS = st.lists(st.tuples(st.sampled_from(["w1", "w2", "w3"]), st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(PODS, st.integers(1, 8), st.integers(1, 8))
def test_one_pod_lacks_room_when_every_other_node_has_too_little(drawn, cpu, memory):
    nodes = [roomy(name, cpu=8, memory=8 * GB) for name in ("w1", "w2", "w3")]
    pods = [asking(f"p{i}", where, c, m * GB, controller=None) for i, (where, c, m) in enumerate(drawn)]

    lacking = names(nodes, [*pods, asking("moves", "w1", cpu, memory * GB)], [["w1"]])

    used = {name: [p for p in pods if p.node == name] for name in ("w2", "w3")}
    fits = [
        sum(p.requests["cpu"] for p in mine) + cpu <= 8
        and sum(p.requests["memory"] for p in mine) + memory * GB <= 8 * GB
        for mine in used.values()
    ]
    assert lacking == ([] if any(fits) else ["moves"])


@given(PODS)
def test_with_room_for_everything_nothing_is_lacking(drawn):
    pods = [asking(f"p{i}", where, cpu, memory * GB) for i, (where, cpu, memory) in enumerate(drawn)]
    nodes = [roomy(name, cpu=100, memory=100 * GB) for name in ("w1", "w2", "w3")]

    assert room.unplaced(nodes, pods, [["w1"], ["w2"], ["w3"]]) == ()


# ---- as a finding -----------------------------------------------------------------------------------------------


def test_an_operator_hears_which_pods_would_wait_on_which_node_and_for_what():
    nodes = (node("cp1"), roomy("w1"), roomy("w2", cpu=1, memory=2 * GB))
    pods = (asking("a", "w1", memory=3 * GB), asking("b", "w1", cpu=1.5), asking("c", "w1", cpu=0.5))
    made = situation(nodes=nodes, pods=pods, waves=(("cp1",), ("w1",)))

    one = only(made, "NoRoom")

    assert (one.where, one.severity.value) == ("w1", "warning")
    assert "2 of its pods would find no room elsewhere" in one.text
    assert "web/a (requests memory 3.0 GB, 2.0 GB left)" in one.text
    assert "web/b (requests cpu 1.5, 1 left)" in one.text


def test_all_at_once_says_itself_what_is_down():
    nodes = (node("cp1"), roomy("w1"), roomy("w2", cpu=1))

    assert found(situation(nodes=nodes, pods=(asking("a", "w1", cpu=3),), waves=()), "NoRoom") == []


def test_where_nothing_tells_of_room_every_pod_is_taken_to_have_it_but_for_what_it_requests():
    bare = replace(Pod("web", "a", "u", "w1", "Running", ready=True, controller=OwnerRef("ReplicaSet", "x", "apps/v1")))

    assert names([node("w1"), node("w2")], [bare], [["w1"]]) == []
