"""A lost member of etcd replaced, with the real scripts on a host that is a directory: undisturbed, killed, refused."""

from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator import replacements
from orchestrator.actions import replacement as actions
from orchestrator.actions import restore
from orchestrator.app import App, Settings
from orchestrator.engine import runs
from orchestrator.engine.plan import Done
from orchestrator.errors import BadUsage, CommandFailed, FactUnreadable, HostUnreachable, Refused
from orchestrator.hostlease import HostLeases
from orchestrator.kube.lease import KubeLeases
from orchestrator.planners import replacement as planner
from tests.fakes.crash import Crash, Death, Life
from tests.fakes.replacing import LOST, RingWorld
from tests.fakes.site_world import At

REQUEST = planner.Request(
    name="replace-1", node=LOST, member=LOST, peers=("https://198.18.0.13:2380",), data="/var/lib/etcd",
    others=("cp-1", "cp-2"), source="cp-2", old=("3",),
)  # fmt: skip


@pytest.fixture
def world(tmp_path):
    return RingWorld(tmp_path)


@pytest.fixture
def plan():
    return planner.replace(REQUEST)


def shortcomings(world):
    """All that is not as it has to be when a member was replaced; empty when nothing is."""
    site = world.site
    found = [f"{name} does not vote" for name, _, votes in site.listed.values() if not votes]
    found += ["members"] if sorted(name for name, _, _ in site.listed.values()) != ["cp-1", "cp-2", LOST] else []
    found += ["the old one is a member"] if 3 in site.listed else []
    manifest = site.at("/etc/kubernetes/manifests/etcd.yaml").read_text()
    kept = site.at("/etc/kubernetes/orchestrator-replace-1/etcd.before").read_text()
    found += ["the copy of its manifest"] if kept != site.manifest else []
    apart = set(manifest.splitlines()) ^ set(kept.splitlines())
    found += [line for line in apart if "--initial-cluster" not in line]
    found += ["old data"] if site.at("/var/lib/etcd.before-replace-1/member/snap/db").read_text() != "old" else []
    found += [f"left {world.left()}"] if world.left() != ["etcd.before-", "orchestrator-"] else []
    up = sorted(site.machines[LOST].components)
    return found + ([] if len(up) == 4 and site.joined else [f"runs {up}"])


def test_the_member_comes_back_under_a_new_id_with_its_manifest_as_it_was_but_for_two_flags(world, plan):
    world.start(plan)

    assert shortcomings(world) == []
    order = [of[0] if of[0] != "member" else of[1] for of in world.effects]
    wanted = [
        "save", "rm", "stop", "stop", "aside", "remove", "add", "keep", "write", "start", "promote", "start", "start",
    ]  # fmt: skip
    assert order[: len(wanted)] == wanted


POINTS = [(number, how) for number in range(3, 17) for how in ("before", "after")]


@pytest.mark.matrix
@pytest.mark.parametrize(("number", "how"), POINTS)
def test_killed_at_any_effect_it_is_resumed_to_the_same_end(world, plan, number, how):
    with suppress(Crash):
        world.start(plan, life=Life(Death("effect", number, how)))
    world.resume()

    assert shortcomings(world) == []
    changes = [of for of in world.effects if of[0] == "member"]
    assert len(changes) <= 4  # one of them may have been asked for twice, and found done


@pytest.mark.parametrize("said", ["etcdserver: unhealthy cluster", "etcdserver: too many requests"])
def test_what_etcd_will_do_a_little_later_is_asked_again(world, plan, said):
    world.site.complaint = said

    world.start(plan)

    assert shortcomings(world) == []


def test_what_etcd_refuses_is_said_with_the_way_on(world, plan):
    world.site.complaint = "etcdserver: permission denied"

    with pytest.raises(CommandFailed, match="permission denied"):
        world.start(plan)
    world.resume()

    assert shortcomings(world) == []


def test_another_member_that_fails_meanwhile_forbids_that_one_is_taken_out(world, plan):
    for number in (4, 5):
        world.site.listed[number] = [f"cp-{number}", f"https://198.18.0.1{number}:2380", True]
        world.site.machines[f"cp-{number}"] = world.site.machines["cp-1"]

    with pytest.raises(Refused, match="member cp-2 does not answer"):
        world.start(plan, life=At(("aside",), lambda: world.site.silent.add("cp-2")))

    assert 3 in world.site.listed


def test_an_answer_that_is_a_second_old_is_not_enough_to_take_a_member_out(world, plan):
    """As the snapshot's step left it: all were well then."""
    removing = actions.Remove()
    step = next(s for s in plan.steps() if s.action == "member.remove")
    for name in ("etcd", "kube-apiserver"):
        world.site.at(f"/etc/kubernetes/manifests/{name}.yaml").unlink()
    hands = world.site.hands()
    before = removing.probe(hands, step)
    world.site.silent.add("cp-2")

    with pytest.raises(Refused, match="quorum is lost"):
        removing.apply(hands, step, before, SimpleNamespace(guard=lambda: None))

    assert 3 in world.site.listed


def test_etcd_that_somebody_starts_on_the_empty_directory_is_stopped_and_its_data_set_aside_too(world, plan):
    """An old manifest there makes a cluster of one of an empty directory: nothing may join with that."""
    with suppress(Crash):
        world.start(plan, life=At(("write",)))
    world.site.write("/var/lib/etcd/member/snap/db", "strange")

    world.resume()

    assert world.site.at("/var/lib/etcd.before-replace-1.1/member/snap/db").read_text() == "strange"
    assert world.site.at("/var/lib/etcd.before-replace-1/member/snap/db").read_text() == "old"
    assert world.site.joined


# ---- back ---------------------------------------------------------------------------------------------------------


def found_again(world):
    site = world.site
    data = site.at("/var/lib/etcd/member/snap/db").read_text()
    manifest = site.at("/etc/kubernetes/manifests/etcd.yaml").read_text()
    return data == "old" and manifest == site.manifest and world.left() == [] and 3 in site.listed


@pytest.mark.parametrize("effect", ["stop", "aside"])
def test_before_it_is_taken_out_a_release_puts_everything_back(world, plan, effect):
    with suppress(Crash):
        world.start(plan, life=At((effect,)))

    world.site.pass_time(60)  # its lease runs out
    world.release()

    assert found_again(world)


@pytest.mark.matrix
@pytest.mark.parametrize("effect", [("back",), ("return",)])
def test_a_release_that_was_killed_goes_on(world, plan, effect):
    with suppress(Crash):
        world.start(plan, life=At(("aside",)))
    world.site.pass_time(60)
    with suppress(Crash):
        world.release(life=At(effect))

    world.resume("release-1")

    assert found_again(world)


@pytest.mark.parametrize("effect", [("member", "remove"), ("member", "add"), ("start",), ("member", "promote")])
def test_afterwards_there_is_only_a_way_on(world, plan, effect):
    with suppress(Crash):
        world.start(plan, life=At(effect))

    (first, *_) = world.preview(planner.back("run-1", plan, world.read().past))
    assert "cannot be used again" in first.decision.why
    world.resume()
    assert shortcomings(world) == []


def test_old_data_and_the_copy_of_the_manifest_go_when_somebody_says_so(world, plan):
    world.start(plan)

    world.start(planner.confirm("run-1", plan), run="run-2")

    assert world.left() == []
    assert world.site.joined


# ---- scripts that are killed in their middle ------------------------------------------------------------------------

_DIES = r"""
n=$(($(cat COUNT 2> /dev/null || echo 0) + 1)); echo $n > COUNT
[ $n != AT ] || kill -9 $PPID
exec REAL "$@"
"""


@pytest.mark.matrix
@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("at", range(1, 7))
def test_a_script_that_was_killed_anywhere_ends_as_if_it_was_not(world, plan, at, mounted):
    site, count = world.site, world.site.root / "count"
    if mounted:
        (site.root / "mounted").touch()
        site.write("/var/lib/etcd/more", "more")
    for name in ("mv", "mkdir", "chown", "chmod", "rmdir", "cp"):
        text = _DIES.replace("COUNT", str(count)).replace("AT", str(at)).replace("REAL", f"/bin/{name}")
        site.program(name, text)
    host = site.host_of(site.machines[LOST], Life())
    for script, words in ((restore.STOP, ["hand", "etcd"]), (actions._ASIDE, [])):
        argv = ["sh", "-c", script, "sh", "replace-1", "/var/lib/etcd", "", *words]
        while host.run(argv, timeout_s=30.0).rc != 0:
            assert int(count.read_text()) == at
    assert not site.at("/var/lib/etcd/member").exists()
    before = site.at("/var/lib/etcd/.before-replace-1" if mounted else "/var/lib/etcd.before-replace-1")
    assert (before / "member/snap/db").read_text() == "old"

    count.unlink()
    for script, words in ((actions._BACK, []), (actions._RETURN, ["etcd"])):
        argv = ["sh", "-c", script, "sh", "replace-1", "/var/lib/etcd", "", *words]
        while host.run(argv, timeout_s=30.0).rc != 0:
            assert int(count.read_text()) == at
    assert found_again(world)


# ---- the use case -----------------------------------------------------------------------------------------------


@pytest.fixture
def desk(world):
    """The application, as the command has it."""
    session = SimpleNamespace(server="https://lb:6443")
    return SimpleNamespace(
        settings=Settings(context="lab"), reader=world.site.view(), session=session, clock=world.clock,
        machines=SimpleNamespace(know=lambda _: None), refuse_if_held=lambda: None, follow=lambda _: None,
    )  # fmt: skip


def prepare(desk, *accept, node=LOST):
    return replacements.prepare(desk, node, accept, lambda _: None)


def actions_of(plan):
    return [step.action for step in plan.steps()]


def test_a_lost_member_is_replaced_with_the_snapshot_of_a_follower(world, desk):
    found = prepare(desk)

    assert next(found.plan.steps()).node == "cp-2"
    first = next(step for step in found.plan.steps() if step.action == "member.remove")
    assert (first.params["old"], first.params["others"]) == (["3"], ["cp-1", "cp-2"])
    assert any("none of cp-1, cp-2 may fail" in text for text in found.warnings)
    world.start(found.plan)
    assert world.site.joined


def test_one_that_was_removed_already_is_added(world, desk):
    del world.site.listed[3]

    found = prepare(desk)
    world.start(found.plan)

    assert any("has no member in the list" in text for text in found.warnings)
    assert world.site.joined


def test_a_learner_that_never_started_is_taken_out_and_added_anew(world, desk):
    world.site.listed[3] = ["", world.site.peer(LOST), False]

    world.start(prepare(desk).plan)

    assert world.site.joined not in (None, 3)


def following(world, *, votes):
    site = world.site
    site.listed[3] = [LOST, site.peer(LOST), votes]
    site.write("/var/lib/etcd/member/id", "3")
    site.write(
        "/etc/kubernetes/manifests/etcd.yaml", site.manifest.replace(f"{LOST}={site.peer(LOST)}", site.cluster())
    )
    site.refuses = False
    site.turn()
    assert site.joined == 3


def test_a_learner_that_follows_gets_its_vote_and_nothing_is_stopped(world, desk):
    following(world, votes=False)

    found = prepare(desk)
    world.start(found.plan)

    assert "member.stop" not in actions_of(found.plan)
    assert world.site.listed[3][2]
    assert "only gets its vote" in found.warnings[0]


def test_a_member_that_is_well_is_replaced_only_when_that_is_said(world, desk):
    following(world, votes=True)

    with pytest.raises(Refused, match="the member on cp-3 is well") as caught:
        prepare(desk)

    assert "--accept healthy-member" in caught.value.remedy
    assert "member.remove" in actions_of(prepare(desk, "healthy-member").plan)


def test_one_that_has_other_keys_is_not_well(world, desk):
    following(world, votes=True)
    world.site.machines[LOST].faults["etcd"] = "differs"

    assert "member.remove" in actions_of(prepare(desk).plan)


def test_the_alarm_of_a_corrupt_member_is_cleared_once_it_is_out(world, desk):
    following(world, votes=True)
    world.site.alarms = [{"memberID": 3, "alarm": 2}]

    found = prepare(desk)
    world.start(found.plan)

    assert any("is cleared" in text for text in found.warnings)
    assert world.site.alarms == []
    assert world.site.joined not in (None, 3)


@pytest.mark.parametrize(("number", "alarm", "says"), [(1, 2, "that is another member"), (3, 1, "NOSPACE")])
def test_other_alarms_come_first(world, desk, number, alarm, says):
    world.site.alarms = [{"memberID": number, "alarm": alarm}]

    with pytest.raises(Refused, match=says):
        prepare(desk)


def test_the_others_have_to_have_the_same_keys(world, desk):
    world.site.machines["cp-2"].faults["etcd"] = "differs"

    with pytest.raises(Refused, match=r"do not have the same keys: cp-1 .*, cp-2 "):
        prepare(desk)


def test_with_a_second_one_lost_there_is_no_quorum(world, desk):
    world.site.silent.add("cp-2")

    with pytest.raises(Refused, match="there is no quorum") as caught:
        prepare(desk)

    assert "orchestrator etcd restore last" in caught.value.remedy


def test_the_one_of_two_that_is_left_is_told_that_both_will_be_needed(world, desk):
    site = world.site
    del site.listed[2], site.listed[3]
    site.machines["cp-2"].manifests.pop("etcd")
    site.machines["cp-2"].components.pop("etcd")
    site.silent.add("cp-2")
    desk.reader = world.site.view()

    with pytest.raises(Refused, match="both are needed") as caught:
        prepare(desk)

    assert "--accept no-spare" in caught.value.remedy
    assert "from now on both members are needed: cp-1 and that on cp-3" in prepare(desk, "no-spare").warnings


def test_where_there_is_no_room_for_new_data_beside_the_old_ones_it_is_refused(world, desk):
    world.site.room = 1000

    with pytest.raises(Refused, match="/var/lib/etcd has 0 MB free; the new data beside the old ones need 134 MB"):
        prepare(desk)


def test_an_answer_of_a_host_that_nobody_understands_is_no_lost_member(world, desk):
    world.site.garbled.add(LOST)

    with pytest.raises(FactUnreadable):
        prepare(desk)


def test_half_an_answer_of_the_host_is_no_answer(world, plan):
    world.site.half = True

    with pytest.raises(FactUnreadable, match="is not whole"):
        actions.Aside().probe(world.site.view(), next(s for s in plan.steps() if s.action == "member.aside"))


def test_an_etcd_on_other_machines_is_told_from_a_lost_one(world, desk):
    world.site.at("/etc/kubernetes/manifests/etcd.yaml").unlink()
    world.site.external = "https://etcd-1:2379"

    with pytest.raises(Refused, match="etcd is on other machines"):
        prepare(desk)


@pytest.mark.parametrize(("alarm", "kind"), [(True, HostLeases), (False, KubeLeases)])
def test_while_an_alarm_is_raised_the_lock_is_on_a_disk(alarm, kind):
    app = App(Settings(), SimpleNamespace(emit=lambda event: None))
    # What a process would connect to: nothing of it is asked here.
    app.__dict__ |= {"hands": None, "session": None, "machines": SimpleNamespace(machine=lambda hands, node: node)}

    assert isinstance(app._leases(planner.replace(replace(REQUEST, alarm=alarm))), kind)


def test_a_host_that_is_away_is_joined_anew_with_these_commands(world, desk):
    world.site.machines[LOST].cut = True

    with pytest.raises(Refused, match="cp-3 cannot be reached") as caught:
        prepare(desk)

    assert "kubeadm reset" in caught.value.remedy
    assert "kubeadm token create --print-join-command" in caught.value.remedy


def test_every_other_control_plane_has_to_be_reached(world, desk):
    world.site.machines["cp-2"].cut = True

    with pytest.raises(Refused, match="cp-2 cannot be reached"):
        prepare(desk)


@pytest.mark.parametrize(("node", "hint"), [("cp-33", "did you mean cp-3"), ("node", "one of: cp-1, cp-2, cp-3")])
def test_what_is_no_control_plane_is_said_with_those_that_are(desk, node, hint):
    with pytest.raises(BadUsage, match="there is no control plane") as caught:
        prepare(desk, node=node)

    assert hint in caught.value.remedy


def test_nothing_else_can_be_accepted(desk):
    with pytest.raises(BadUsage, match="--accept=anything is none"):
        prepare(desk, "anything")


def test_a_kubeconfig_of_that_very_control_plane_is_refused(world, desk):
    desk.session.server = f"https://{world.site.nodes[LOST].addresses.get('InternalIP') or LOST}:6443"

    with pytest.raises(Refused, match="asks the API server of cp-3 itself"):
        prepare(desk)


@pytest.mark.parametrize(
    ("old", "new", "says", "remedy"),
    [
        ("--name=", "--wal-dir=/log\n    - --name=", "keeps its log apart", "by hand"),
        ("--name=", "--force-new-cluster\n    - --name=", "a cluster of its own", "take that flag out"),
        ("--initial-cluster=", "--initial-cluster ", "no line --initial-cluster", "one in a line"),
        ("etcd:3.6.8-0", "etcd:3.4.9-0", "cannot read what the others write", "image"),
        ("--name=cp-3", "--name=cp-2", "the name or an address of cp-2, too", "etcd.yaml"),
        ("--initial-advertise-peer-urls", "--x", "cannot be told", "see etcd.yaml on cp-3"),
    ],
)
def test_what_its_manifest_makes_impossible_is_refused(world, desk, old, new, says, remedy):
    world.site.write("/etc/kubernetes/manifests/etcd.yaml", world.site.manifest.replace(old, new, 1))

    with pytest.raises(Refused, match=says) as caught:
        prepare(desk)

    assert remedy in caught.value.remedy


@pytest.mark.parametrize("name", ["etcd", "kube-apiserver"])
def test_what_an_earlier_run_has_put_aside_is_looked_for(world, desk, name):
    world.site.at(f"/etc/kubernetes/manifests/{name}.yaml").unlink()

    with pytest.raises(Refused, match=name) as caught:
        prepare(desk)

    assert "an earlier run" in caught.value.remedy


def test_a_certificate_that_is_missing_is_named_with_what_makes_it(world, desk):
    world.site.at("/etc/kubernetes/pki/etcd/peer.crt").unlink()

    with pytest.raises(Refused, match=r"cp-3 lacks /etc/kubernetes/pki/etcd/peer\.crt") as caught:
        prepare(desk)

    assert "kubeadm init phase certs etcd-server" in caught.value.remedy


def test_nothing_of_this_changes_anything(world, desk):
    prepare(desk)

    assert world.effects == []
    assert found_again(world)


def test_members_that_cannot_be_asked_are_an_error_and_no_empty_list(world):
    for name in ("cp-1", "cp-2"):
        world.site.machines[name].cut = True

    with pytest.raises(HostUnreachable):
        actions.ask(world.site.view(), ("cp-1", "cp-2"))


def test_one_of_the_others_that_cannot_be_asked_is_passed_over(world):
    world.site.machines["cp-1"].cut = True

    assert actions.ask(world.site.view(), ("cp-1", "cp-2"))[0] == "cp-2"


@pytest.mark.parametrize("state", ["ended", "stopped"])
def test_only_a_replacement_that_ended_well_is_confirmed(world, plan, desk, monkeypatch, state):
    monkeypatch.setenv("XDG_STATE_HOME", str(world.root.parent.parent))
    monkeypatch.setattr(runs, "root", lambda: world.root)
    with suppress(Crash):
        world.start(plan, life=Life() if state == "ended" else At(("aside",)))

    if state == "ended":
        assert [s.action for s in replacements.confirmed(desk, "run-1").steps()] == ["member.forget"]
        world.start(planner.confirm("run-1", plan), run="run-2")
        with pytest.raises(BadUsage, match="replaced no member"):
            replacements.confirmed(desk, "run-2")
    else:
        with pytest.raises(Refused, match="has not ended well"):
            replacements.confirmed(desk, "run-1")


def test_a_plan_that_was_carried_out_finds_nothing_to_do_but_looks(world, plan):
    world.start(plan)

    found = {p.step.action: p.decision for p in world.preview(plan)}
    assert isinstance(found["member.remove"], Done)
    assert isinstance(found["member.add"], Done)
