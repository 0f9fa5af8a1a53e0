"""A member of etcd replaced: the order of steps, what each decides by, and what takes it back."""

from dataclasses import replace

import pytest

from orchestrator.actions import replacement as actions
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.planners import nodes
from orchestrator.planners import replacement as planner

REQUEST = planner.Request(
    name="replace-1", node="cp-3", member="cp-3", peers=("https://198.18.0.3:2380",), data="/var/lib/etcd",
    others=("cp-1", "cp-2"), source="cp-2", old=("cc",),
)  # fmt: skip


@pytest.fixture
def plan():
    return planner.replace(REQUEST)


def steps(plan):
    """What is done on which node, in order; each is a barrier of its own."""
    assert all(len(wave.lanes) == len(wave.lanes[0].steps) == 1 for wave in plan.waves)
    return [f"{s.node} {s.action} {' '.join(s.params.get('names', ()))}".strip() for s in plan.steps()]


UP = [
    "cp-3 member.promote",
    "cp-1 member.quorum",
    "cp-3 member.start kube-apiserver",
    "cp-3 cluster.gate",
    "cp-3 member.start kube-controller-manager kube-scheduler",
    "cp-3 cluster.gate",
    "cp-2 host.tidy",
]
STOPS = ["cp-3 member.stop kube-apiserver kube-controller-manager kube-scheduler", "cp-3 member.stop etcd"]


def test_the_old_one_is_stopped_and_set_aside_before_it_is_taken_out_and_the_new_one_votes_before_the_api_serves(plan):
    assert steps(plan) == [
        "cp-2 etcd.snapshot",
        *STOPS,
        "cp-3 member.aside",
        "cp-3 member.remove",
        "cp-3 member.add",
        "cp-3 member.manifest",
        "cp-3 member.start etcd",
        *UP,
    ]
    assert len({s.id for s in plan.steps()}) == len(steps(plan))


def test_an_alarm_is_cleared_right_after_the_member_that_raised_it_was_taken_out():
    made = planner.replace(replace(REQUEST, alarm=True))
    order = steps(made)

    assert order[order.index("cp-3 member.remove") + 1] == "cp-2 etcd.disarm"
    assert any(s.params.get("without_api") for s in made.steps())  # its lock is no Lease


def test_a_learner_that_follows_only_gets_its_vote():
    assert steps(planner.replace(replace(REQUEST, joined=True, old=()))) == ["cp-2 etcd.snapshot", *UP]


def test_every_step_on_members_knows_whom_to_ask_and_who_is_taken_out(plan):
    told = [s.params for s in plan.steps() if s.action.startswith("member.") and s.action != "member.quorum"]

    assert {tuple(p["others"]) for p in told} == {("cp-1", "cp-2")}
    assert {tuple(p["old"]) for p in told} == {("cc",)}
    assert {(p["plan"], p["data"], p["member"], *p["peers"]) for p in told} == {
        ("replace-1", "/var/lib/etcd", "cp-3", "https://198.18.0.3:2380")
    }


def past_until(plan, number):
    """As a journal has it when so many steps were begun."""
    return {s.id: {} for s in list(plan.steps())[:number]}


@pytest.mark.parametrize("number", [0, 1])
def test_what_was_not_begun_is_not_taken_back(plan, number):
    assert nodes.release("run-1", plan, past_until(plan, number)).waves == ()


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (2, ["cp-3 member.return kube-apiserver kube-controller-manager kube-scheduler"]),
        (3, ["cp-3 member.return kube-apiserver kube-controller-manager kube-scheduler etcd"]),
        (4, ["cp-3 member.back", "cp-3 member.return kube-apiserver kube-controller-manager kube-scheduler etcd"]),
        (9, ["cp-3 member.back", "cp-3 member.return kube-apiserver kube-controller-manager kube-scheduler etcd"]),
    ],
)
def test_a_release_looks_at_the_list_first_and_then_puts_back_what_was_moved(plan, number, wanted):
    back = nodes.release("run-1", plan, past_until(plan, number))

    assert steps(back) == ["cp-3 member.listed", *wanted, "cp-2 host.tidy"]
    assert nodes.released_run(back) == "run-1"


def test_old_data_are_deleted_on_that_node_and_nowhere_else(plan):
    assert steps(planner.confirm("run-1", plan)) == ["cp-3 member.forget"]
    assert steps(planner.confirm("run-1", planner.replace(replace(REQUEST, joined=True, old=())))) == []


# ---- what steps decide by -------------------------------------------------------------------------------------------

BEGUN = {"0/cp-2/etcd.snapshot": {}}
MANIFEST = "    - --initial-cluster=cp-3=https://198.18.0.3:2380\n"
ALL = "cp-1=https://198.18.0.1:2380,cp-3=https://198.18.0.3:2380"
JOINING = f"    - --initial-cluster={ALL}\n    - --initial-cluster-state=existing\n"


def step(plan, action, more=""):
    return next(s for s in plan.steps() if s.action == action and (not more or more in s.params["names"]))


def host(**changes):
    known = {
        "manifests": ["kube-apiserver", "etcd"], "aside": [], "halted": False, "processes": ["etcd"], "staged": False,
        "before": False,
        "before_bytes": 0, "member": True, "there": True, "manifest": MANIFEST,
        "place": ["/etc/kubernetes/manifests/etcd.yaml", "600", "root:root"], "lacks": [],
    }  # fmt: skip
    return {**known, **changes}


def listed(**changes):
    known = {
        "speaker": "cp-1", "old": ["cc"], "new": "", "votes": False, "behind": None, "lacking": [], "cluster": ALL,
        "runs": False,
    }  # fmt: skip
    return {**known, **changes}


STOPPED = {"manifests": ["kube-apiserver"], "aside": ["etcd"], "processes": []}


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (host(), Needed),
        (host(**STOPPED), Done),
        (host(processes=[]), Needed),  # it would be started again
    ],
)
def test_stopped_means_no_manifest_and_no_process(plan, now, kind):
    assert isinstance(actions.Stop().decide(now, step(plan, "member.stop", "etcd"), BEGUN), kind)


def test_other_static_pods_are_stopped_without_a_look_at_that_of_etcd(plan):
    now = host(manifests=["etcd"], processes=["etcd"])

    assert isinstance(actions.Stop().decide(now, step(plan, "member.stop", "kube-apiserver"), BEGUN), Done)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (host(), Blocked),
        (host(processes=[]), Needed),
        (host(processes=[], member=False, there=False, before=True), Needed),  # killed between two renames
        (host(processes=[], member=False, before=True), Done),
        (host(processes=[], member=False), Done),  # there never were any
        (host(processes=[], before=True), Needed),  # somebody started etcd meanwhile
    ],
)
def test_data_are_aside_when_an_empty_directory_is_in_their_place(plan, now, kind):
    aside = step(plan, "member.aside")
    decision = actions.Aside().decide(now, aside, BEGUN)

    assert isinstance(decision, kind)
    if kind is Blocked:
        assert decision.until == aside.params["stopped"]


def test_before_anything_began_people_are_told_that_data_will_be_set_aside(plan):
    assert isinstance(actions.Aside().decide(host(member=False, processes=[]), step(plan, "member.aside"), {}), Needed)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (listed(), Needed),
        (listed(old=[]), Done),
        (listed(lacking=["member cp-2 does not answer"]), Blocked),
        (listed(old=[], lacking=["member cp-2 does not answer"]), Done),
        (listed(runs=True), Blocked),
        (listed(speaker=""), Blocked),
    ],
)
def test_a_member_is_taken_out_only_while_the_others_are_well_and_it_does_not_run(plan, now, kind):
    assert isinstance(actions.Remove().decide(now, step(plan, "member.remove"), BEGUN), kind)


def test_one_that_was_removed_already_is_not_looked_for(plan):
    made = planner.replace(replace(REQUEST, old=()))

    decision = actions.Remove().decide(listed(old=[], runs=True), step(made, "member.remove"), BEGUN)

    assert decision == Done("it was no member any more")


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (listed(old=[]), Needed),
        (listed(old=[], new="dd"), Done),
        (listed(), Blocked),  # two of one address
        (listed(speaker=""), Blocked),
    ],
)
def test_a_learner_is_added_once_and_never_beside_the_old_one(plan, now, kind):
    assert isinstance(actions.Add().decide(now, step(plan, "member.add"), BEGUN), kind)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (host(**STOPPED, **listed(old=[], new="dd")), Needed),
        (host(**STOPPED, **listed(old=[], new="dd"), manifest=JOINING), Done),
        (host(**listed(old=[], new="dd"), manifest=JOINING), Done),
        (host(**listed(old=[], new="dd")), Blocked),  # the kubelet would take it while it is written
        (host(**STOPPED, **listed(old=[])), Blocked),  # nobody knows yet who is listed
        (host(**STOPPED, **listed(old=[], new="dd"), manifest=""), Blocked),
        (host(**STOPPED, **listed(speaker="")), Blocked),
    ],
)
def test_the_manifest_is_written_where_the_kubelet_does_not_look_once_the_member_is_listed(plan, now, kind):
    assert isinstance(actions.Manifest().decide(now, step(plan, "member.manifest"), BEGUN), kind)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (host(**STOPPED, member=False), Needed),
        (host(), Done),
        (host(**STOPPED), Blocked),  # data that are not its own
        (host(manifests=[], processes=[], member=False), Blocked),
    ],
)
def test_a_new_member_starts_on_an_empty_directory(plan, now, kind):
    start = step(plan, "member.start", "etcd")
    decision = actions.Start().decide(now, start, BEGUN)

    assert isinstance(decision, kind)
    assert isinstance(actions.Start().decide(now, start, {}), Needed)  # what will be done


def test_an_api_server_starts_whatever_data_there_are(plan):
    now = host(manifests=["etcd"], aside=["kube-apiserver"])

    assert isinstance(actions.Start().decide(now, step(plan, "member.start", "kube-apiserver"), BEGUN), Needed)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (listed(old=[], new="dd"), "does not answer"),
        (listed(old=[], new="dd", behind=5000), "5000 entries behind"),
        (listed(old=[], new="dd", behind=3), "give it its vote"),
        (listed(old=[], new="dd", votes=True), "votes"),
        (listed(old=[]), "no member of cp-3 is listed"),
        (listed(old=[], speaker=""), "quorum is lost"),
    ],
)
def test_a_learner_gets_its_vote_once_it_answers_and_follows(plan, now, says):
    decision = actions.Promote().decide(now, step(plan, "member.promote"), BEGUN)

    assert says in decision.why
    assert isinstance(decision, Done) is now["votes"]


def test_before_it_began_people_are_told_what_a_learner_waits_for(plan):
    assert isinstance(actions.Promote().decide(listed(), step(plan, "member.promote"), {}), Needed)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (listed(), None),
        (listed(old=[]), "member cc was taken out"),
        (listed(new="dd"), "member dd was added"),
        (listed(speaker=""), "quorum is lost"),
    ],
)
def test_the_old_one_is_started_again_only_while_it_is_a_member_yet(plan, now, says):
    first = step(nodes.release("run-1", plan, past_until(plan, 5)), "member.listed")
    decision = actions.Listed().decide(now, first, {})

    assert isinstance(decision, Blocked if says else Done)
    if says:
        assert says in decision.why
    if says and now["speaker"]:
        assert "orchestrator resume run-1" in decision.remedy


@pytest.mark.parametrize(
    ("now", "kind"), [(host(), Done), (host(before=True), Blocked), (host(before=True, processes=[]), Needed)]
)
def test_old_data_come_back_only_under_nobody(plan, now, kind):
    back = step(nodes.release("run-1", plan, past_until(plan, 5)), "member.back")

    assert isinstance(actions.Back().decide(now, back, {}), kind)


@pytest.mark.parametrize(("aside", "kind"), [(["etcd"], Needed), (["kube-proxy"], Done), ([], Done)])
def test_static_pods_are_put_back_and_nobody_waits_for_one_that_was_ill(plan, aside, kind):
    back = step(nodes.release("run-1", plan, past_until(plan, 5)), "member.return")

    assert isinstance(actions.Return().decide(host(aside=aside, processes=[]), back, {}), kind)
    assert isinstance(actions.Return().decide(host(aside=aside, halted=True), back, {}), Needed)


@pytest.mark.parametrize(
    ("now", "kind"), [(host(), Done), (host(before=True), Needed), (host(before=True, processes=[]), Blocked)]
)
def test_old_data_are_deleted_only_while_etcd_runs_on_the_new_ones(plan, now, kind):
    assert isinstance(actions.Forget().decide(now, step(planner.confirm("r", plan), "member.forget"), {}), kind)
