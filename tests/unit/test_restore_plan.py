"""Restores of etcd: the barriers, what each step decides by, and what takes a restore back."""

import json
from dataclasses import replace

import pytest

from orchestrator.actions.restore import Forget, Quorum, Stage, Start, Stop, Swap
from orchestrator.actions.restoreback import Back, Fetch, Kept, Raise
from orchestrator.engine.host import Completed
from orchestrator.engine.plan import Blocked, Done, Lane, Needed, Plan, Step, Wave
from orchestrator.engine.runner import Applying
from orchestrator.errors import HostUnreachable
from orchestrator.planners import nodes, restore
from orchestrator.planners.restore import Plane, Request
from tests.fakes.time import FakeClock

PLANES = [
    Plane(f"cp-{n}", f"m{n}", f"https://198.18.0.{n}:2380", "/var/lib/etcd", f"198.18.0.{n}", f"kind://docker/x/cp-{n}")
    for n in (1, 2, 3)
]
REQUEST = Request(
    name="restore-1", cluster="prod", file="staging/x.db", snapshot="prod-1", bump=1000, revision=1500, token="t",
    source="cp-2",
)  # fmt: skip


@pytest.fixture
def plan():
    return restore.restore(PLANES, REQUEST)


def words(step):
    return f"{step.action} {' '.join(step.params.get('names', ()))}".strip()


def waves(plan):
    """Each barrier as what is done, and on which nodes."""
    return [
        (sorted({words(s) for lane in w.lanes for s in lane.steps}), [lane.node for lane in w.lanes])
        for w in plan.waves
    ]


def past_until(plan, wave):
    """As a journal has it when everything before that wave was begun."""
    return {s.id: {} for w in plan.waves[:wave] for lane in w.lanes for s in lane.steps}


ALL = ["cp-1", "cp-2", "cp-3"]
UP = [
    (["restore.start etcd"], ALL),
    (["restore.quorum"], ["cp-1"]),
    (["restore.start kube-apiserver"], ALL),
    (["cluster.gate"], ["cp-1"]),
    (["restore.start kube-controller-manager kube-scheduler"], ALL),
    (["cluster.gate"], ["cp-1"]),
]
CLEAR = [(["host.tidy"], ALL), (["etcd.unstage"], ["cp-1"])]


def test_every_control_plane_passes_a_barrier_before_any_goes_on(plan):
    assert waves(plan) == [
        (["etcd.snapshot"], ["cp-2"]),
        (["restore.stage"], ALL),
        (["restore.stop kube-apiserver kube-controller-manager kube-scheduler"], ALL),
        (["restore.stop etcd"], ALL),
        (["restore.swap"], ALL),
        *UP,
        (["restore.compare"], ["cp-1"]),
        *CLEAR,
    ]


def test_every_member_is_restored_from_the_same_file_with_one_token_under_its_own_name(plan):
    stages = [s.params for s in plan.steps() if s.action == "restore.stage"]

    assert {(p["file"], p["token"], p["bump"]) for p in stages} == {("staging/x.db", "t", 1000)}
    assert {p["cluster"] for p in stages} == {",".join(f"m{n}=https://198.18.0.{n}:2380" for n in (1, 2, 3))}
    assert [(p["name"], p["peer"]) for p in stages] == [(f"m{n}", f"https://198.18.0.{n}:2380") for n in (1, 2, 3)]
    assert {p["cluster_name"] for p in stages} == {"prod"}  # what an operator types


def test_where_no_member_answers_nothing_is_kept_first():
    made = restore.restore(PLANES, Request(**{**{f: getattr(REQUEST, f) for f in REQUEST.__slots__}, "source": ""}))

    assert "etcd.snapshot" not in {s.action for s in made.steps()}


def facts(**changes):
    known = {
        "manifests": ["etcd", "kube-apiserver"], "aside": [], "processes": ["etcd", "kube-apiserver"],
        "halted": False, "staged": False,
        "beside": False, "before": False, "before_bytes": 0, "member": True, "pointed": True, "raised": False,
        "old": "", "here": False, "released": False, "forgotten": False,
    }  # fmt: skip
    return {**known, **changes}


def step(plan, action, more=""):
    return next(s for s in plan.steps() if words(s) == f"{action} {more}".strip())


BEGUN = {"0/cp-2/etcd.snapshot": {}}


# ---- a path of their own ----------------------------------------------------------------------------------------


def asked(**changes):
    return Request(**{**{f: getattr(REQUEST, f) for f in REQUEST.__slots__}, **changes})


def test_at_a_path_of_their_own_kubeadm_is_told_once_the_api_serves_and_every_step_knows_the_path():
    made = restore.restore(PLANES, asked(target="/var/lib/new"))

    assert waves(made)[-4:] == [(["restore.datadir"], ["cp-1"]), (["restore.compare"], ["cp-1"]), *CLEAR]
    of_hosts = [s for s in made.steps() if s.action.startswith("restore.") and s.action != "restore.quorum"]
    assert {s.params["target"] for s in of_hosts} == {"/var/lib/new"}
    assert step(made, "restore.datadir").params["path"] == "/var/lib/new"
    assert step(restore.confirm("run-1", made), "restore.forget").params["target"] == "/var/lib/new"


def test_taken_back_from_there_kubeadm_has_the_old_path_again():
    made = restore.restore(PLANES, asked(target="/var/lib/new"))

    back = restore.back("run-1", made, past_until(made, 6))

    assert waves(back)[-3:] == [(["restore.datadir"], ["cp-1"]), *CLEAR]
    assert step(back, "restore.datadir").params["path"] == "/var/lib/etcd"
    assert step(back, "restore.back").params["target"] == "/var/lib/new"


def test_a_plan_of_before_there_were_paths_is_taken_back_and_confirmed(plan):
    old = [replace(s, params={k: v for k, v in s.params.items() if k != "target"}) for s in plan.steps()]
    waves_ = tuple(Wave((Lane(s.node, (s,)),)) for s in old)
    older = Plan(plan.kind, plan.title, waves_)

    assert step(restore.confirm("run-1", older), "restore.forget").params["target"] == ""
    assert step(restore.back("run-1", older, {s.id: {} for s in old}), "restore.back").params["target"] == ""


def test_what_is_compared_and_told_is_in_the_plan_for_whoever_resumes_it():
    made = restore.restore(PLANES, asked(dead=("cp-9",), shown=("prod-1", "--from", "s3://b")))

    params = step(made, "restore.compare").params
    assert (params["before"], params["file"]) == ("restore-1-before.db", "staging/x.db")
    assert (params["snapshot"], params["shown"]) == ("prod-1", ["prod-1", "--from", "s3://b"])
    assert params["dead"] == ["cp-9"]
    assert step(restore.restore(PLANES, asked(source="")), "restore.compare").params["before"] == ""


# ---- back -------------------------------------------------------------------------------------------------------


def test_what_was_not_begun_is_not_taken_back(plan):
    assert restore.back("run-1", plan, {}).waves == ()
    assert restore.back("run-1", plan, past_until(plan, 1)).waves == ()  # a snapshot only


@pytest.mark.parametrize("wave", [2, 3, 4, 5])
def test_before_etcd_was_started_the_old_data_come_back_and_everything_is_started(plan, wave):
    past = past_until(plan, wave)

    assert not restore.begun(plan, past)
    assert waves(restore.back("run-1", plan, past)) == [(["restore.back"], ALL), *UP, *CLEAR]


def test_afterwards_everything_is_stopped_first(plan):
    past = past_until(plan, 6)

    assert restore.begun(plan, past)
    assert waves(restore.back("run-1", plan, past)) == [
        (["restore.kept"], ALL),
        (["restore.fetch"], ["cp-2"]),
        (["restore.raise"], ALL),
        (["restore.stop kube-apiserver kube-controller-manager kube-scheduler"], ALL),
        (["restore.stop etcd"], ALL),
        (["restore.back"], ALL),
        *UP,
        *CLEAR,
    ]


def test_what_comes_back_is_one_database_for_all_members_with_a_revision_above_what_clients_saw(plan):
    back = restore.back("run-1", plan, past_until(plan, 6))

    raises = [s.params for s in back.steps() if s.action == "restore.raise"]
    assert {(p["file"], p["bump"], p["trailer"]) for p in raises} == {
        ("staging/restore-1.old.db", 1_000_000_000, False)
    }
    assert {p["token"] for p in raises} == {"t-back"}  # neither the ids of the restored members nor the first ones
    assert [(p["name"], p["peer"]) for p in raises] == [(p.member, p.peer) for p in PLANES]
    assert step(back, "restore.fetch").params["file"] == "staging/restore-1.old.db"
    assert all(s.params["raised"] for s in back.steps() if s.action == "restore.back")


def test_old_data_come_back_above_restored_ones_that_began_far_above_what_anybody_knew():
    """One of several members did not answer before the restore, so nobody knew the last revision."""
    made = restore.restore(PLANES, asked(bump=restore.RAISED))
    back = restore.back("run-1", made, past_until(made, 6))

    assert {s.params["bump"] for s in back.steps() if s.action == "restore.raise"} == {2 * restore.RAISED}


def test_old_data_that_did_not_answer_come_back_as_they_are():
    made = restore.restore(PLANES, asked(source=""))
    back = restore.back("run-1", made, past_until(made, 5))

    assert [each for each, _ in waves(back)][:2] == [
        ["restore.kept"], ["restore.stop kube-apiserver kube-controller-manager kube-scheduler"],
    ]  # fmt: skip
    assert not any(s.params["raised"] for s in back.steps() if s.action == "restore.back")


@pytest.mark.parametrize(
    ("now", "fetch", "raised"),
    [
        (facts(before=True), Needed, Needed),
        (facts(before=True, here=True), Done, Needed),
        (facts(before=True, here=True, raised=True), Done, Done),
        (facts(), Done, Done),  # they are in place again
    ],
)
def test_the_old_database_is_fetched_and_raised_once(plan, now, fetch, raised):
    back = restore.back("run-1", plan, past_until(plan, 6))

    assert isinstance(Fetch().decide(now, step(back, "restore.fetch"), BEGUN), fetch)
    assert isinstance(Raise().decide(now, step(back, "restore.raise"), BEGUN), raised)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (facts(before=True), Done),
        (facts(released=True), Done),  # they are in place again
        (facts(), Blocked),  # somebody has deleted them, from wherever
        (facts(before=True, forgotten=True), Blocked),  # that was cut short: half of them may be gone
    ],
)
def test_there_is_a_way_back_while_the_old_data_are_there(plan, now, kind):
    kept = step(restore.back("run-1", plan, past_until(plan, 6)), "restore.kept")

    assert isinstance(Kept().decide(now, kept, {}), kind)


@pytest.mark.parametrize(("source", "remedy"), [("cp-2", "is a snapshot, pre-restore in"), ("", "take another one of")])
def test_without_old_data_there_is_another_restore(plan, source, remedy):
    made = restore.restore(PLANES, asked(source=source))
    kept = step(restore.back("run-1", made, past_until(made, 6)), "restore.kept")

    decision = Kept().decide(facts(), kept, {})

    assert decision.why == "cp-1: the old data of run-1 were deleted: it cannot be taken back; nothing was changed"
    assert remedy in decision.remedy
    assert "orchestrator etcd restore" in decision.remedy


def test_where_the_old_data_are_in_place_again_nothing_is_stopped_for_them(plan):
    back = restore.back("run-1", plan, past_until(plan, 6))
    for names in ("kube-apiserver kube-controller-manager kube-scheduler", "etcd"):
        stop = step(back, "restore.stop", names)

        assert isinstance(Stop().decide(facts(before=True), stop, {}), Needed)
        assert isinstance(Stop().decide(facts(released=True), stop, {}), Done)


def test_a_release_of_a_restore_is_that_and_knows_where_hosts_are_without_the_api(plan):
    back = nodes.release("run-1", plan, past_until(plan, 6))

    assert nodes.released_run(back) == "run-1"
    hosts = {
        (s.node, s.params["address"], s.params["provider"]) for s in back.steps() if s.action.startswith("restore.b")
    }
    assert hosts == {(p.name, p.address, p.provider) for p in PLANES}


def test_old_data_are_deleted_on_every_control_plane_and_nothing_else(plan):
    assert waves(restore.confirm("run-1", plan)) == [(["restore.forget"], ALL)]


# ---- what steps decide by ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (facts(), Needed),
        (facts(staged=True), Done),
        (facts(before=True), Done),
        (facts(before=True, member=False), Needed),
    ],
)
def test_a_copy_is_restored_once(plan, now, kind):
    assert isinstance(Stage().decide(now, step(plan, "restore.stage"), BEGUN), kind)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (facts(), Needed),
        (facts(manifests=["kube-apiserver"], aside=["etcd"]), Needed),  # its process is there yet
        (facts(processes=["kube-apiserver"]), Needed),  # it would be started again
        (facts(manifests=["kube-apiserver"], processes=["kube-apiserver"], aside=["etcd"]), Done),
    ],
)
def test_stopped_means_no_manifest_and_no_process(plan, now, kind):
    assert isinstance(Stop().decide(now, step(plan, "restore.stop", "etcd"), BEGUN), kind)


def test_data_change_places_only_where_neither_etcd_nor_an_api_server_runs(plan):
    swap = step(plan, "restore.swap")
    for running in (["etcd"], ["kube-apiserver"]):
        decision = Swap().decide(facts(staged=True, processes=running), swap, BEGUN)
        assert isinstance(decision, Blocked)
        assert decision.until == swap.params["stopped"]

    assert isinstance(Swap().decide(facts(staged=True, processes=[]), swap, BEGUN), Needed)
    assert isinstance(Swap().decide(facts(before=True, staged=True, processes=[]), swap, BEGUN), Needed)
    assert isinstance(Swap().decide(facts(before=True, processes=["etcd"]), swap, BEGUN), Done)
    elsewhere = facts(before=True, processes=[], pointed=False)  # its manifest has the old data yet
    assert isinstance(Swap().decide(elsewhere, swap, BEGUN), Needed)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (facts(manifests=[], aside=["etcd"], processes=[]), Needed),
        (facts(processes=[]), Needed),
        (facts(), Done),
        (facts(halted=True), Needed),  # what stopped the kubelet was cut short
        (facts(manifests=[], processes=[]), Blocked),  # there is none to start
    ],
)
def test_started_means_its_manifest_and_its_process(plan, now, kind):
    assert isinstance(Start().decide(now, step(plan, "restore.start", "etcd"), BEGUN), kind)


def test_before_anything_is_stopped_people_are_told_what_will_be_started(plan):
    assert isinstance(Start().decide(facts(), step(plan, "restore.start", "etcd"), {}), Needed)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (facts(), Done),
        (facts(beside=True, staged=True), Needed),  # a copy that was never put in place
        (facts(beside=True), Needed),  # half of one
        (facts(before=True), Blocked),  # etcd runs on the restored data
        (facts(before=True, processes=[]), Needed),
    ],
)
def test_old_data_come_back_only_under_nobody(plan, now, kind):
    back = step(restore.back("run-1", plan, past_until(plan, 6)), "restore.back")

    assert isinstance(Back().decide(now, back, BEGUN), kind)


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (facts(), Done),
        (facts(before=True), Needed),
        (facts(before=True, processes=[]), Blocked),
        (facts(forgotten=True), Needed),  # what deletes them was cut short
    ],
)
def test_old_data_are_deleted_only_while_etcd_runs_on_the_restored_ones(plan, now, kind):
    assert isinstance(Forget().decide(now, step(restore.confirm("run-1", plan), "restore.forget"), BEGUN), kind)


@pytest.mark.parametrize(
    ("wrong", "alarms", "kind"), [([], [], Done), (["no leader"], [], Needed), ([], ["NOSPACE on member 1"], Needed)]
)
def test_all_members_agree_and_no_alarm_is_raised_before_an_api_server_starts(plan, wrong, alarms, kind):
    now = {"wrong": wrong, "alarms": alarms, "share": 0.1}

    assert isinstance(Quorum().decide(now, step(plan, "restore.quorum"), BEGUN), kind)


# ---- the quorum -------------------------------------------------------------------------------------------------


class Members:
    """Hosts whose members tell of themselves."""

    def __init__(self, *, revisions=(1500, 1500), hashes=(7, 7), alarms="", silent=False):
        self.revisions, self.hashes, self.alarms, self.silent = revisions, hashes, alarms, silent
        self.ran = []
        self.name = "cp-1"

    def ask(self, node, query, *words):
        place = ["cp-1", "cp-2"].index(node)
        if query.name == "etcd-hash":
            assert words == (str(min(self.revisions)),)
            value = {"Endpoint": "x", "HashKV": {"header": {}, "hash": self.hashes[place], "hash_revision": 1}}
            return f"@@hash\n {json.dumps([value])}\n@@end\n" if self.hashes[place] else "@@hash\n@@end\n"
        if self.silent:
            raise HostUnreachable(f"{node}: no connection", remedy="see")
        url = "https://198.18.0.{}:2379"
        header = {"header": {"member_id": 1}}
        members = [
            {"ID": n, "name": f"m{n}", "peerURLs": ["p"], "clientURLs": [url.format(n)]}
            for n in range(1, len(self.revisions) + 1)
        ]
        status = [
            {
                "Endpoint": url.format(n),
                "Status": {
                    "header": {"member_id": n, "revision": revision, "raft_term": 2}, "version": "3.6.8", "leader": 1,
                    "raftIndex": 9, "raftTerm": 2, "raftAppliedIndex": 9, "dbSize": 10, "dbSizeInUse": 5,
                },
            }
            for n, revision in enumerate(self.revisions, 1)
        ]  # fmt: skip
        health = [{"endpoint": url.format(n), "health": True} for n in range(1, len(self.revisions) + 1)]
        alarms = {"alarms": [{"memberID": 1, "alarm": 1}]} if self.alarms else {}
        parts = {"members": {**header, "members": members}, "status": status, "health": health, "alarms": alarms}
        return "".join(f"@@{name}\n {json.dumps(value)}\n" for name, value in parts.items())

    def host(self, node):
        del node
        return self

    def run(self, argv, **how):
        del how
        self.ran.append(argv[2])
        return Completed(tuple(argv), 0, b"", b"", 0.1)


QUORUM = Step("5/cp-1/restore.quorum", "restore.quorum", "cp-1", {"members": ["cp-1", "cp-2"], "revision": 1500}, 60.0)


@pytest.mark.parametrize(
    ("members", "wrong"),
    [
        (Members(), []),
        (Members(revisions=(1500, 1499)), ["revision 1499, wanted 1500"]),
        (Members(revisions=(1500,)), ["1 of 2 members answer"]),
        (Members(hashes=(7, 8)), ["members have different keys"]),
        (Members(hashes=(7, 0)), ["cp-2 did not tell the hash of its keys"]),
        (Members(silent=True), ["cp-1: no connection"]),
    ],
)
def test_members_are_asked_for_revision_and_hash(members, wrong):
    assert Quorum().probe(members, QUORUM)["wrong"] == wrong


@pytest.mark.parametrize(("alarms", "share", "cleared"), [(["NOSPACE"], 0.1, 1), (["NOSPACE"], 0.99, 0), ([], 0.1, 0)])
def test_an_alarm_that_came_with_the_snapshot_is_cleared_where_there_is_room(alarms, share, cleared):
    members = Members()
    guarded = Applying("run-1", QUORUM, None, FakeClock(), lambda *_: None, lambda: None)

    Quorum().apply(members, QUORUM, {"wrong": [], "alarms": alarms, "share": share}, guarded)

    assert len(members.ran) == cleared
    assert all("alarm disarm" in script for script in members.ran)
