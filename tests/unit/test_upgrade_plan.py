"""Plans of upgrades: which nodes, in which order, by which steps."""

from dataclasses import replace

import pytest

from orchestrator.cluster.versions import Hop, Workers, parse
from orchestrator.engine.plan import Plan
from orchestrator.errors import BadUsage
from orchestrator.planners.upgrade import (
    PAUSES,
    STRATEGIES,
    Hook,
    Request,
    Target,
    check,
    order,
    strategy,
    upgrade,
    workers_mode,
)

CONFIGURATION = "kind: ClusterConfiguration\nkubernetesVersion: v1.36.3\nnetworking: {}\n"
FLAGS = {"force": False, "ignore_daemonsets": True, "pod_selector": ""}
V137, V138 = Hop(parse("1.37.2"), workers=True), Hop(parse("1.38.1"), workers=True)

SMALL = """\
upgrade to v1.37.2
0 cp: etcd.snapshot, packages.prefetch
0 a: packages.prefetch
1 cp: cluster.gate:before, cluster.note, packages.repository, packages.install
2 cp: kubeadm.upgrade, cluster.gate:followed, node.cordon, node.drain, kubelet.upgrade, cluster.gate:upgraded, \
node.return, cluster.gate:settled, host.tidy
2 a: packages.repository, packages.install
3 a: cluster.note, kubeadm.upgrade, \
node.cordon, node.drain, kubelet.upgrade, cluster.gate:upgraded, node.return, \
cluster.gate:settled, host.tidy
"""


def planes(*names, leader="", **facts):
    return [Target(name, control_plane=True, leads=name == leader, **facts) for name in names]


def workers(*names):
    return [Target(name, control_plane=False) for name in names]


def plan(targets, *hops, **request):
    known = {
        "name": "upgrade-7",
        "owner": "ann@pc",
        "flags": FLAGS,
        "drain_timeout_s": 600.0,
        "configuration": CONFIGURATION,
    }
    return upgrade(targets, hops or (V137,), Request(**{**known, **request}))


def shown(made):
    lines = [
        f"{number} {lane.node}: {', '.join(step.id.split('/', 2)[2] for step in lane.steps)}\n"
        for number, wave in enumerate(made.waves)
        for lane in wave.lanes
    ]
    return "".join([f"{made.title}\n", *lines])


def waves(made):
    """The nodes of each wave."""
    return [[lane.node for lane in wave.lanes] for wave in made.waves]


def steps(made, action, node=""):
    return [s for s in made.steps() if s.action == action and node in ("", s.node)]


def params(made, action, name):
    return [(s.node, s.params[name]) for s in steps(made, action)]


MIXED = [Target("p1", control_plane=True), Target("p2", control_plane=True, asks_itself=False), *workers("a")]
PLANS = {
    "small": plan([*planes("cp"), *workers("a")]),
    "without workers": plan(planes("cp")),
    "only a worker": plan([Target("cp", control_plane=True, upgrade=False), *workers("a")]),
    "three": plan([*planes("p1", "p2", "p3", leader="p1"), *workers("a", "b", "c")], max_unavailable=2),
    "three that ask anyone": plan([*planes("p1", "p2", "p3", asks_itself=False), *workers("a")]),
    "mixed": plan(MIXED),
    "two hops": plan([*planes("p1", "p2"), *workers("a", "b")], V137, V138),
    "with hooks": plan(
        [*planes("cp"), *workers("a")],
        before=Hook(("notify", "now"), 30.0),
        after=Hook(("tell",), 20.0, on_node=True),
        pause_after="first-worker",
    ),
    "nothing to go to": upgrade(workers("a"), (), Request("upgrade-7", "ann@pc", FLAGS, None)),
}


def test_a_small_plan_is_the_one_that_was_reviewed():
    assert shown(PLANS["small"]) == SMALL


@pytest.mark.parametrize("name", PLANS)
def test_no_two_steps_share_an_id_and_each_begins_with_its_wave_and_node(name):
    made = PLANS[name]
    ids = [s.id for s in made.steps()]

    assert len(ids) == len(set(ids))
    for number, wave in enumerate(made.waves):
        for lane in wave.lanes:
            assert {s.id.split("/")[0] for s in lane.steps} == {str(number)}
            assert {s.node for s in lane.steps} == {s.id.split("/")[1] for s in lane.steps} == {lane.node}


@pytest.mark.parametrize("name", PLANS)
def test_every_step_that_a_step_names_comes_before_it(name):
    seen = set()
    for step in PLANS[name].steps():
        named = [step.params[key] for key in ("cordon", "drained", "kubeadm") if key in step.params]
        named += step.params.get("after", {}).values()
        if step.action == "cluster.gate" and {"owners", "watches"} & set(step.params["checks"]):
            named.append(step.params["noted"])
        assert set(named) <= seen, step.id
        seen.add(step.id)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_the_same_after_it_was_kept(name):
    assert Plan.from_json(PLANS[name].to_json()) == PLANS[name]


# ---- order ------------------------------------------------------------------------------------------------------


def test_the_control_plane_whose_etcd_member_leads_comes_last_and_workers_after_all_of_them():
    assert [t.name for t in order([*workers("a"), *planes("p1", "p2", "p3", leader="p1")])] == ["p2", "p3", "p1"]
    assert waves(PLANS["three"]) == [
        ["p2", "p3", "p1", "a", "b", "c"],
        ["p2"],
        ["p3"],
        ["p1"],
        ["p1", "a", "b"],
        ["a", "b", "c"],
        ["c"],
    ]


def test_kubelets_of_control_planes_that_may_ask_any_api_server_come_after_all_static_pods():
    made = PLANS["three that ask anyone"]

    assert waves(made)[1:] == [["p1"], ["p2"], ["p3"], ["p3", "a"], ["p1"], ["p2"], ["p3"], ["a"]]
    assert [s.node for s in steps(made, "kubeadm.upgrade")][:3] == ["p1", "p2", "p3"]
    assert [s.id for s in steps(made, "kubelet.upgrade")][:3] == [f"{n + 4}/p{n}/kubelet.upgrade" for n in (1, 2, 3)]
    assert {len(s.params["after"]) for s in steps(made, "kubelet.upgrade")} == {3}


def test_after_static_pods_alone_their_api_servers_have_to_last():
    gates = [s for s in PLANS["mixed"].steps() if s.id.endswith(":static-pods")]

    assert [s.node for s in gates] == ["p1", "p2"]
    assert all(s.params["lasts_s"] > 0 for s in gates)


def test_one_control_plane_leads_the_upgrade_and_the_others_follow():
    assert params(PLANS["three"], "kubeadm.upgrade", "mode") == [
        ("p2", "apply"),
        *((name, "node") for name in ("p3", "p1", "a", "b", "c")),
    ]


def test_where_one_led_already_all_others_follow():
    begun = CONFIGURATION.replace("1.36.3", "1.37.2")

    assert params(plan(planes("p1", "p2"), configuration=begun), "kubeadm.upgrade", "mode") == [
        ("p1", "node"),
        ("p2", "node"),
    ]
    assert params(plan(planes("p1"), configuration=""), "kubeadm.upgrade", "mode") == [("p1", "apply")]


def test_each_hop_goes_over_all_nodes_before_the_next_and_has_a_snapshot_of_its_own():
    made = PLANS["two hops"]

    one = [["p1", "p2", "a", "b"], ["p1"], ["p2"], ["p2", "a"], ["a", "b"], ["b"]]
    assert waves(made) == one + one
    assert [s.params["version"] for s in steps(made, "kubelet.upgrade", "a")] == ["v1.37.2", "v1.38.1"]
    assert [s.params["minor"] for s in steps(made, "packages.repository", "p1")] == ["1.37", "1.38"]
    assert params(made, "etcd.snapshot", "file") == [
        ("p1", "upgrade-7-v1.37.2.db"),
        ("p1", "upgrade-7-v1.38.1.db"),
    ]
    assert set(steps(made, "kubelet.upgrade", "a")[1].params["after"].values()) == {
        "7/p1/kubeadm.upgrade",
        "9/p2/kubeadm.upgrade",
    }


def test_the_snapshot_is_taken_where_there_is_a_member_or_not_at_all():
    first, second = planes("p1", "p2")
    mixed = [replace(first, etcd=False), second]

    assert [s.node for s in steps(plan(mixed, V137), "etcd.snapshot")] == ["p2"]
    assert steps(plan([replace(p, etcd=False) for p in (first, second)], V137), "etcd.snapshot") == []


def test_workers_wait_for_the_hop_that_they_are_in():
    made = plan([*planes("cp"), *workers("a")], Hop(parse("1.37.2"), workers=False), V138)

    assert waves(made) == [["cp"], ["cp"], ["cp", "a"], ["cp"], ["cp", "a"], ["a"]]


def test_a_node_that_is_not_chosen_is_left_out_and_still_known():
    made = PLANS["only a worker"]

    assert made.nodes() == ("a",)
    assert params(made, "kubelet.upgrade", "control_planes") == [("a", ["cp"])]
    assert steps(made, "etcd.snapshot") == []


def test_a_worker_that_is_there_already_is_not_drained_for_nothing():
    there = [Target("a", control_plane=False, at=parse("1.37.2")), Target("b", control_plane=False)]

    assert waves(plan([*planes("cp"), *there]))[1:] == [["cp"], ["cp", "b"], ["b"]]
    assert waves(plan([*planes("cp"), *there], V138))[1:] == [["cp"], ["cp", "a"], ["a", "b"], ["b"]]
    assert waves(plan(there[:1])) == []


def test_images_are_fetched_for_control_planes_only():
    assert dict(params(PLANS["small"], "packages.prefetch", "images")) == {"cp": True, "a": False}


# ---- pauses and hooks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pause", "before"),
    [
        ("first-control-plane", [["p1"]]),
        ("control-planes", [["p1"], ["p2"]]),
        ("first-worker", [["p1"], ["p2"], ["a"]]),
    ],
)
def test_a_pause_is_a_wave_of_its_own_and_comes_once(pause, before):
    made = plan([*planes("p1", "p2"), *workers("a", "b")], V137, V138, pause_after=pause)

    (paused,) = steps(made, "run.pause")
    number = next(n for n, wave in enumerate(made.waves) if wave.lanes[0].steps[0] is paused)
    assert waves(made)[1:number] == before
    assert [len(lane.steps) for lane in made.waves[number].lanes] == [1]
    assert paused.params == {"why": f"after the {pause.replace('-', ' ')}"}


def test_each_pause_that_can_be_asked_for_is_known():
    for pause in PAUSES:
        assert len(steps(plan([*planes("cp"), *workers("a")], pause_after=pause), "run.pause")) == 1


def test_workers_are_made_ready_while_the_nodes_before_them_are_worked_at():
    made = PLANS["three"]

    _, *others = [line for line in shown(made).splitlines() if line.startswith("4 ")]
    assert others == [f"4 {name}: packages.repository, packages.install" for name in ("a", "b")]
    _, before, own = [line for line in shown(made).splitlines() if " c: " in line]
    assert before == "5 c: packages.repository, packages.install, kubeadm.upgrade"
    assert own.startswith("6 c: cluster.note, node.cordon, node.drain, kubelet.upgrade, ")
    last = made.waves[4].lanes[0]
    assert (last.node, last.steps[0].action) == ("p1", "kubeadm.upgrade")
    assert {s.params["noted"] for s in last.steps if s.action == "cluster.gate"} == {"3/p1/cluster.note"}
    assert {s.node for wave in made.waves[1:4] for lane in wave.lanes for s in lane.steps} == {"p1", "p2", "p3"}


@pytest.mark.parametrize("request_", [{"pause_after": "first-worker"}, {"before": Hook(("notify",), 30.0)}])
def test_workers_are_not_touched_ahead_of_a_pause_or_of_their_hook(request_):
    made = plan([*planes("cp"), *workers("a", "b")], **request_)

    assert [nodes for nodes in waves(made)[1:] if nodes != ["b"]][:2] == [["cp"], ["a"]]
    assert [s.id.split("/")[0] for s in steps(made, "packages.install")] == [
        s.id.split("/")[0] for s in steps(made, "kubeadm.upgrade")
    ]


def test_a_control_plane_that_only_gets_static_pods_is_tidied_up_and_waited_for_all_the_same():
    made = plan([*planes("cp", at=V137.to), *workers("a")])

    assert waves(made)[1:] == [["cp"], ["cp", "a"], ["a"]]
    assert [s.action for s in made.waves[2].lanes[0].steps] == ["kubeadm.upgrade", "cluster.gate", "host.tidy"]


def test_hooks_are_around_every_node():
    made = PLANS["with hooks"]

    for node in ("cp", "a"):
        names = [s.id.split("/", 2)[2] for s in made.steps() if s.node == node]
        assert names.index("hook.run:before") < names.index("packages.repository")
        assert names.index("hook.run:after") > names.index("node.return")
    before, after = (s.params for s in steps(made, "hook.run", "a"))
    assert before == {"argv": ["notify", "now"], "run_timeout_s": 30.0, "on_node": False}
    assert after == {"argv": ["tell"], "run_timeout_s": 20.0, "on_node": True}


# ---- what is passed on ------------------------------------------------------------------------------------------


def test_what_is_asked_for_comes_to_the_steps():
    made = plan(
        [*planes("cp"), *workers("a")],
        accept=("Swap",),
        options=("--certificate-renewal=false",),
        hasten=False,
        lasts_s=40.0,
        gate_s=300.0,
        drain_timeout_s=None,
    )

    assert {tuple(p) for _, p in params(made, "kubeadm.upgrade", "accept")} == {("Swap",)}
    assert {tuple(p) for _, p in params(made, "kubeadm.upgrade", "options")} == {("--certificate-renewal=false",)}
    assert {p for _, p in params(made, "kubeadm.upgrade", "hasten")} == {False}
    assert {s.timeout_s for s in steps(made, "cluster.gate")} == {300.0}
    assert [s.timeout_s for s in steps(made, "node.drain")] == [None, None]
    lasting = {s.id: s.params["lasts_s"] for s in steps(made, "cluster.gate") if s.params["lasts_s"]}
    assert lasting == {"2/cp/cluster.gate:upgraded": 40.0}


def test_commands_on_hosts_are_known_by_the_plans_name():
    made = PLANS["with hooks"]

    others = {s.action for s in made.steps() if s.params.get("plan") != "upgrade-7"}
    assert {action.partition(".")[0] for action in others} == {"node", "run", "hook"}


def test_a_kubelet_knows_how_its_node_is_drained():
    made = PLANS["small"]

    for kubelet, drain in zip(steps(made, "kubelet.upgrade"), steps(made, "node.drain"), strict=True):
        (cordon,) = steps(made, "node.cordon", drain.node)
        assert kubelet.params["drained"] == drain.id
        assert kubelet.params["drain"] == drain.params == {**FLAGS, "cordon": cordon.id}


# ---- usage ------------------------------------------------------------------------------------------------------


def test_an_upgrade_of_no_node_is_refused():
    with pytest.raises(BadUsage, match="no node is to be upgraded"):
        plan([Target("cp", control_plane=True, upgrade=False)])


@pytest.mark.parametrize(
    ("wanted", "pause", "why", "known"),
    [
        ("rolling", "lunch", "--pause-after=lunch is none", PAUSES),
        ("yolo", "", "--strategy=yolo is none", STRATEGIES),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(wanted, pause, why, known):
    with pytest.raises(BadUsage, match=why) as caught:
        check(wanted, pause)

    assert all(name in caught.value.remedy for name in known)


@pytest.mark.parametrize("wanted", STRATEGIES)
@pytest.mark.parametrize("pause", ["", *PAUSES])
def test_what_can_be_meant_is_not_refused(wanted, pause):
    check(wanted, pause)


def test_an_upgrade_to_nowhere_is_an_empty_plan():
    assert (PLANS["nothing to go to"].title, PLANS["nothing to go to"].waves) == ("upgrade", ())


@pytest.mark.parametrize(
    ("wanted", "workers_", "schedulable", "found"),
    [
        ("rolling", 1, 1, "rolling"),
        ("all-at-once", 5, 6, "all-at-once"),
        ("auto", 1, 1, "all-at-once"),
        ("auto", 0, 1, "all-at-once"),
        ("auto", 1, 2, "rolling"),
        ("auto", 3, 3, "rolling"),
    ],
)
def test_auto_rolls_where_pods_have_another_node_to_go_to(wanted, workers_, schedulable, found):
    chosen, why = strategy(wanted, workers_, schedulable)

    assert chosen == found
    assert bool(why) == (wanted == "auto")


@pytest.mark.parametrize(("text", "mode"), [("each-hop", Workers.EACH_HOP), ("last", Workers.LAST)])
def test_workers_follow_in_each_hop_or_in_the_last(text, mode):
    assert workers_mode(text) is mode


def test_another_way_for_workers_is_refused():
    with pytest.raises(BadUsage, match="--workers=never is none"):
        workers_mode("never")


@pytest.mark.parametrize("asks_itself", [True, False])
def test_a_control_plane_whose_kubelet_is_there_already_is_not_drained_again(asks_itself):
    """kubeadm runs once more, for it may have failed late; that harms nobody."""
    done = planes("p1", at=V137.to, asks_itself=asks_itself)
    found = plan([*done, *planes("p2", asks_itself=asks_itself)])

    mine = [step.action for step in found.steps() if step.node == "p1"]
    assert "kubeadm.upgrade" in mine
    assert not {"node.cordon", "node.drain", "kubelet.upgrade"} & set(mine)
    assert mine[-1] == "host.tidy"
    assert [s.node for s in found.steps() if s.action == "kubelet.upgrade"] == ["p2"]
