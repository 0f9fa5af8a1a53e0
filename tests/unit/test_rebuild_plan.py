"""Rebuilds: each machine by itself, then barriers; what each step decides by; and what takes it all away again."""

import pytest

from orchestrator.actions.rebuild import Bring, Data, Finish, Nodes, Place, Started, Undo
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.planners import nodes, rebuild
from orchestrator.planners.rebuild import Request
from orchestrator.planners.restore import Plane
from tests.fakes.time import FakeClock

ALL = ["cp-1", "cp-2"]
PLANES = [
    Plane(f"cp-{n}", f"m{n}", f"https://198.18.0.{n}:2380", "/var/lib/etcd", f"198.18.0.{n}", f"kind://docker/x/cp-{n}")
    for n in (1, 2)
]
REQUEST = Request(
    name="rebuild-1", cluster="prod", snapshot="prod-1", file="staging/x.db.zst.age", set="staging/x.tar.zst.age",
    identities=("/key",), token="t", bump=1000, revision=1500, size_bytes=9,
)  # fmt: skip
OWN = ["rebuild.bring", "rebuild.place", "rebuild.data", "rebuild.kubelet"]


@pytest.fixture
def plan():
    return rebuild.rebuild(PLANES, REQUEST)


def waves(plan):
    """Each wave as its nodes, and what is done on each of them in order."""
    return [([lane.node for lane in w.lanes], [words(s) for s in w.lanes[0].steps]) for w in plan.waves]


def words(step):
    return f"{step.action} {' '.join(step.params.get('names', ()))}".strip()


def past_until(plan, wave):
    return {s.id: {} for w in plan.waves[:wave] for lane in w.lanes for s in lane.steps}


def step(plan, action):
    return next(s for s in plan.steps() if s.action == action)


def test_machines_are_made_ready_each_by_itself_and_started_barrier_by_barrier(plan):
    assert waves(plan) == [
        (ALL, OWN),
        (ALL, ["restore.start etcd"]),
        (["cp-1"], ["restore.quorum"]),
        (ALL, ["restore.start kube-apiserver"]),
        (["cp-1"], ["cluster.gate"]),
        (ALL, ["restore.start kube-controller-manager kube-scheduler"]),
        (["cp-1"], ["cluster.gate"]),
        (ALL, ["rebuild.finish"]),
        (["cp-1"], ["rebuild.nodes"]),
        (ALL, ["host.tidy"]),
        (["cp-1"], ["etcd.unstage"]),
    ]
    assert len({s.id for s in plan.steps()}) == len(list(plan.steps()))


def test_every_member_is_restored_from_one_snapshot_with_one_token_under_its_own_name(plan):
    data = [s.params for s in plan.steps() if s.action == "rebuild.data"]

    assert {(p["token"], p["bump"], p["trailer"]) for p in data} == {("t", 1000, True)}
    assert {p["cluster"] for p in data} == {"m1=https://198.18.0.1:2380,m2=https://198.18.0.2:2380"}
    assert [(p["name"], p["peer"]) for p in data] == [(p.member, p.peer) for p in PLANES]


def test_an_operator_types_the_clusters_name_and_a_resume_knows_where_hosts_are(plan):
    assert {s.params["cluster_name"] for s in plan.steps() if "cluster_name" in s.params} == {"prod"}
    found = {(s.node, s.params["address"], s.params["provider"]) for s in plan.steps() if "provider" in s.params}
    assert found == {(p.name, p.address, p.provider) for p in PLANES}


def test_no_key_and_no_content_is_in_the_plan(plan):
    assert step(plan, "rebuild.bring").params["identities"] == ["/key"]  # where it is, not what it is


def test_what_brought_nothing_leaves_nothing(plan):
    assert nodes.release("run-1", plan, {}).waves == ()


@pytest.mark.parametrize(("wave", "keep"), [(1, False), (2, True), (11, True)])
def test_a_release_takes_all_of_it_away_and_keeps_data_that_etcd_ran_on(plan, wave, keep):
    back = nodes.release("run-1", plan, past_until(plan, wave))

    assert waves(back) == [(ALL, ["rebuild.undo", "host.tidy"]), (["cp-1"], ["etcd.unstage"])]
    assert nodes.released_run(back) == "run-1"
    undo = step(back, "rebuild.undo").params
    assert (undo["keep"], undo["cluster_name"], undo["plan"]) == (keep, "prod", "rebuild-1")


# ---- what steps decide by ---------------------------------------------------------------------------------------


def facts(**changes):
    known = dict.fromkeys(("own", "set", "snapshot", "placed", "member", "ended", "kubelet_runs"), False)
    return {**known, "occupied": [], "processes": [], **changes}


BEGUN = {"0/cp-1/rebuild.bring": {}}


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (facts(), Needed),
        (facts(own=True), Needed),
        (facts(own=True, set=True), Needed),
        (facts(own=True, set=True, snapshot=True), Done),
        (facts(own=True, placed=True, snapshot=True), Done),
        (facts(own=True, placed=True, member=True), Done),
        (facts(occupied=["/etc/kubernetes/kubelet.conf"]), Blocked),
        (facts(processes=["etcd"]), Blocked),
        (facts(own=True, processes=["etcd"], set=True), Needed),  # its own
    ],
)
def test_only_a_fresh_machine_or_its_own_is_begun(plan, now, kind):
    assert isinstance(Bring().decide(now, step(plan, "rebuild.bring"), {}), kind)


@pytest.mark.parametrize(
    ("action", "doing", "now", "kind"),
    [
        ("rebuild.place", Place(), facts(own=True), Needed),
        ("rebuild.place", Place(), facts(own=True, placed=True), Done),
        ("rebuild.data", Data(), facts(own=True), Needed),
        ("rebuild.data", Data(), facts(member=True), Needed),  # somebody else's: its script refuses
        ("rebuild.data", Data(), facts(own=True, member=True), Done),
        ("rebuild.kubelet", Started(), facts(kubelet_runs=True), Needed),  # it tries, without settings
        ("rebuild.kubelet", Started(), facts(placed=True), Needed),
        ("rebuild.kubelet", Started(), facts(placed=True, kubelet_runs=True), Done),
        ("rebuild.finish", Finish(), facts(), Needed),
        ("rebuild.finish", Finish(), facts(ended=True), Done),
    ],
)
def test_steps_are_done_by_what_is_there(plan, action, doing, now, kind):
    assert isinstance(doing.decide(now, step(plan, action), BEGUN), kind)


def test_what_is_not_there_is_not_taken_away(plan):
    back = step(nodes.release("run-1", plan, past_until(plan, 2)), "rebuild.undo")

    assert isinstance(Undo().decide(facts(), back, BEGUN), Done)
    assert "etcd's data stay" in Undo().decide(facts(own=True), back, BEGUN).why


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"wrong": ["cp-1 is not Ready"], "silent": [], "heard": 1}, "cp-1 is not Ready"),
        ({"wrong": [], "silent": ["node-1"], "heard": 1}, "nothing is heard of node-1 yet"),
    ],
)
def test_kubelets_are_waited_for(plan, now, why):
    nodes_ = Nodes(FakeClock())

    assert nodes_.decide(now, step(plan, "rebuild.nodes"), BEGUN) == Needed(why, again=True)
    assert isinstance(nodes_.decide(now, step(plan, "rebuild.nodes"), {}), Needed)


def test_all_kubelets_are_heard_of(plan):
    now = {"wrong": [], "silent": [], "heard": 3}

    assert Nodes(FakeClock()).decide(now, step(plan, "rebuild.nodes"), BEGUN) == Done("3 kubelets are heard of")
