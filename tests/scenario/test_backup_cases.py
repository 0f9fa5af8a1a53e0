"""The use cases of backups: what is looked at before one is taken, what there is, and what monitoring is told."""

import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pyrage
import pytest

from orchestrator import backups, etcds, library, monitoring
from orchestrator.backup import metrics, retention
from orchestrator.backup.catalogue import Checked
from orchestrator.cluster.model import Node
from orchestrator.cluster.recovery import PKI
from orchestrator.engine import runs
from orchestrator.engine.journal import Journal
from orchestrator.engine.plan import Needed, Plan
from orchestrator.engine.runner import Stop
from orchestrator.errors import (
    ApiForbidden,
    ApiUnauthorized,
    ApiUnreachable,
    BackupError,
    BadUsage,
    CommandFailed,
    HostUnreachable,
    Interrupted,
    Locked,
    Refused,
    SnapshotInvalid,
    StoreError,
)  # fmt: skip
from orchestrator.report.etcd import table
from tests.fakes.lease import FakeLeases
from tests.fakes.site_machines import snapshot_of
from tests.fakes.site_world import SERVER, At, Desk, good

HOUR_S, DAY_S = 3600.0, 86400.0


@pytest.fixture
def root(tmp_path):
    """In memory where the system has such a place: what is stored is synced to the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(place)


@pytest.fixture
def desk(root, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(root))
    return Desk(root)


@pytest.fixture
def three(root, monkeypatch):
    """With three control planes; the member of cp-1 leads."""
    monkeypatch.setenv("XDG_STATE_HOME", str(root))
    return Desk(root, planes=3, workers=1)


def node_of(plan):
    [node] = plan.nodes()
    return node


# ---- whose member -----------------------------------------------------------------------------------------------


def test_a_snapshot_is_taken_of_a_follower(three):
    assert node_of(three.prepare()) == "cp-2"


def test_the_leader_gives_it_where_there_is_no_other(desk):
    assert node_of(desk.prepare()) == "cp-1"


@pytest.mark.parametrize("fault", ["learner", "unhealthy"])
def test_a_member_that_is_a_learner_or_not_well_gives_none(three, fault):
    three.site.machines["cp-2"].faults["etcd"] = fault

    assert node_of(three.prepare()) == "cp-3"


def test_the_leader_comes_before_a_follower_that_is_not_well(three):
    for name in ("cp-2", "cp-3"):
        three.site.machines[name].faults["etcd"] = "unhealthy"

    assert node_of(three.prepare()) == "cp-1"


def test_the_member_that_is_wanted_gives_it(three):
    assert node_of(three.prepare(node="cp-1")) == "cp-1"


@pytest.mark.parametrize("node", ["node-1", "cp-9", "cp-2"])
def test_one_that_is_wanted_and_has_no_healthy_member_is_refused_with_those_that_have(three, node):
    three.site.machines["cp-2"].faults["etcd"] = "unhealthy"

    with pytest.raises(Refused, match=f"{node} has no healthy member") as caught:
        three.prepare(node=node)

    assert caught.value.remedy == "those that have one: cp-1, cp-3"


def test_without_any_member_that_is_well_it_is_refused_with_the_reasons(desk):
    desk.site.machines["cp-1"].faults["etcd"] = "unhealthy"

    with pytest.raises(Refused, match="no member of etcd is well: https://cp-1:2379 is not healthy"):
        desk.prepare()


def test_members_that_differ_are_refused_by_name(three):
    three.site.machines["cp-3"].faults["etcd"] = "differs"

    with pytest.raises(Refused, match=r"differ at revision 4: cp-1 (\w+), cp-2 \1, cp-3 (?!\1)"):
        three.prepare()


def test_of_members_that_differ_the_one_that_is_named_gives_it(three):
    three.site.machines["cp-3"].faults["etcd"] = "differs"

    assert node_of(three.prepare(node="cp-1")) == "cp-1"


def test_a_member_that_tells_no_hash_does_not_count_as_another(three):
    three.site.machines["cp-3"].faults["etcd"] = "mute"

    assert node_of(three.prepare()) == "cp-2"


def test_an_etcd_on_other_machines_is_refused_with_what_to_do_there(desk):
    desk.site.use_external_etcd("https://198.18.9.1:2379")

    with pytest.raises(Refused, match=r"etcd is on other machines \(https://198.18.9.1:2379\)") as caught:
        desk.prepare()

    assert "etcdctl snapshot save" in caught.value.remedy


URLS = "https://198.18.9.1:2379,https://198.18.9.2:2379"


def test_an_etcd_on_other_machines_is_backed_up_from_a_control_plane_that_reaches_it(three):
    three.site.use_external_etcd(URLS, clients=("cp-2",))

    run = three.take()

    [held] = three.library().catalogues()[0][0].held
    assert (held.record.run, held.record.node, held.record.etcd) == (run, "cp-2", "3.5.26")
    assert [(m.name, m.client_urls) for m in held.record.members] == [
        ("e1", ("https://198.18.9.1:2379",)), ("e2", ("https://198.18.9.2:2379",)),
    ]  # fmt: skip
    assert good(three.world.destination("a")) == [held.record.name]


def test_room_for_a_snapshot_of_an_etcd_on_other_machines_is_looked_for_on_that_host(three):
    three.site.use_external_etcd(URLS, clients=("cp-2",))
    three.site.machines["cp-2"].free_bytes = 20_480

    with pytest.raises(CommandFailed, match="the snapshot needs 22528"):
        three.take()


@pytest.mark.parametrize(("node", "fault"), [("cp-1", ""), ("", "unhealthy")])
def test_an_etcd_on_other_machines_is_refused_where_nobody_reaches_a_member_that_is_well(three, node, fault):
    three.site.use_external_etcd(URLS, clients=("cp-2",))
    three.site.machines["cp-2"].faults["etcd"] = fault

    with pytest.raises(Refused, match=f"and {node or 'no control plane'} reaches no member that is well"):
        three.prepare(node=node)


def test_an_etcd_on_other_machines_of_which_a_member_has_other_data_is_refused(three):
    three.site.use_external_etcd(URLS, clients=("cp-2",))
    three.site.alarms = [{"memberID": 2, "alarm": 2}]

    with pytest.raises(Refused, match="reaches no member that is well"):
        three.prepare()


def test_members_on_other_machines_are_shown_with_who_reached_them(three):
    three.site.use_external_etcd(URLS, clients=("cp-2", "cp-3"))

    found = etcds.read(three.app.reader, tuple(three.site.nodes.values()), "", 0.0)

    assert [m.name for m in found.facts.members] == ["e1", "e2"]
    assert f"on other machines: {URLS}; asked from cp-2" in " ".join(table(found).split())


def test_a_control_plane_that_is_off_does_not_stop_a_backup(three):
    three.site.machines["cp-3"].power_off()
    three.site.pass_time(60)

    assert node_of(three.prepare()) == "cp-2"


# ---- what is said before anything is done -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [{"destinations": ("ftp://host/dir",)}, {"destinations": ("s3://user:secret@bucket/x",)}, {"keep": "dayly=7"}],
)
def test_what_cannot_be_meant_is_said_before_any_host_is_asked(desk, asked):
    with pytest.raises(BadUsage):
        backups.prepare(desk.app, replace(desk.wish(), **asked), desk.said.append)

    assert desk.site.machines["cp-1"].looks.total() == 0


def test_an_alarm_is_said_and_the_backup_taken(desk):
    desk.site.alarms = [{"memberID": 1, "alarm": 1}]

    desk.prepare()

    assert desk.said == [
        "etcd raised the alarm NOSPACE on member 1; it is in the snapshot, too: orchestrator etcd disarm"
    ]


def test_of_a_corrupt_member_none_is_taken_and_the_others_give_one(three):
    three.site.alarms = [{"memberID": 2, "alarm": 2}]
    three.site.machines["cp-2"].faults["etcd"] = "differs"

    assert node_of(three.prepare()) == "cp-3"

    (said,) = three.said
    assert "CORRUPT on member 2, whose data differ: none is taken of cp-2" in said
    assert said.endswith("orchestrator etcd replace-member cp-2")


def test_the_others_of_a_corrupt_member_have_to_have_the_same_keys(three):
    three.site.alarms = [{"memberID": 2, "alarm": 2}]
    three.site.machines["cp-3"].faults["etcd"] = "differs"

    with pytest.raises(Refused, match=r"differ at revision 4: cp-1 (\w+), cp-3 (?!\1)"):
        three.prepare()


def test_a_corrupt_member_that_is_alone_gives_none(desk):
    desk.site.alarms = [{"memberID": 1, "alarm": 2}]

    with pytest.raises(Refused, match=r"no member of etcd is well: .*CORRUPT"):
        desk.prepare()


@pytest.mark.parametrize(("alarms", "on_a_host"), [([], False), ([1], True), ([2], True)])
def test_while_the_api_takes_no_writes_the_lock_is_on_a_host(three, alarms, on_a_host):
    three.site.alarms = [{"memberID": 2, "alarm": alarm} for alarm in alarms]

    steps = tuple(
        three.prepare(recipients=(str(pyrage.x25519.Identity.generate().to_public()),), recovery=True).steps()
    )

    assert any(step.params.get("without_api") for step in steps) is on_a_host
    assert {step.params["lock"] for step in steps if "lock" in step.params} == ({"cp-1"} if on_a_host else set())


def test_while_it_does_a_run_that_still_holds_the_clusters_lock_is_not_overtaken(three):
    three.site.alarms = [{"memberID": 2, "alarm": 1}]
    three.held = Locked("ann upgrades", remedy="wait")

    with pytest.raises(Locked, match="ann"):
        three.prepare()


# ---- while the API is away --------------------------------------------------------------------------------------


@pytest.fixture
def away(three, monkeypatch):
    """All API servers are, and there is a snapshot of before."""
    members = three.peers("cp-1", "cp-2", "cp-3")
    three.world.hold(three.world.destination("a"), HOUR_S, members=members, cluster="prod")
    make = three.site.hands

    def hands(life):  # as of `App`: they share the hosts that were found
        made = make(life)
        made.machines.know([Node.at(m.name, m.address) for m in three.site.planes()])
        return made

    monkeypatch.setattr(three.site, "hands", hands)
    three.app.session.authority = three.site.authority
    three.app.machines = three.app.reader.machines
    for machine in three.site.planes():
        machine.components.pop("kube-apiserver")
    three.world.leases = FakeLeases(three.clock)  # on a host's disk
    three.site.cluster_name = "prod"
    three.said.clear()
    return three


def answers_with(monkeypatch, err):
    """The API has an answer for who asks it for members of etcd: an error."""

    def survey(app):
        raise err

    monkeypatch.setattr(etcds, "survey", survey)


def test_while_the_api_is_away_a_snapshot_is_taken_of_hosts_that_are_known_from_the_last(away):
    run = away.take()

    [[held]] = [c.held for c in backups.of_run(away.app, [away.url("a")], run).catalogues]
    assert (held.record.cluster, held.record.node, held.wrong) == ("prod", "cp-2", "")
    assert any("the API does not answer" in line and "cp-1, cp-2, cp-3" in line for line in away.said)
    steps = tuple(away.world.read(run).plan.steps())
    assert {step.params["lock"] for step in steps if step.params.get("without_api")} == {"cp-1"}


def test_the_lock_is_on_the_first_control_plane_that_is_reached(away):
    away.site.machines["cp-1"].power_off()

    assert {step.params["lock"] for step in away.prepare().steps() if "lock" in step.params} == {"cp-2"}


def test_of_a_cluster_that_nothing_is_known_of_the_member_that_is_named_gives_it(away, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nothing"))

    with pytest.raises(ApiUnreachable) as caught:
        backups.prepare(away.app, backups.Wish(("node:/srv", "/srv/x.db", away.url("empty")), ()), away.said.append)
    assert "orchestrator etcd backup --node NAME" in caught.value.remedy

    assert node_of(away.prepare("empty", node="cp-3")) == "cp-3"


def test_a_host_that_is_of_another_cluster_by_now_gives_none(away):
    away.site.machines["cp-2"].authority = "0" * 64

    assert node_of(away.prepare()) == "cp-3"

    assert "cp-2 could not be asked: cp-2: it is of another cluster now: its authority is another" in away.said


def test_hosts_that_all_have_another_authority_may_have_a_renewed_one(away):
    away.site.authority = "1" * 64

    assert node_of(away.prepare()) == "cp-2"

    assert any("is it of another cluster, or was it renewed?" in line for line in away.said)


def test_the_authority_of_the_kubeconfig_counts_as_well_as_that_of_the_snapshot(away):
    """It was renewed on one, and on the others not yet."""
    members = away.peers("cp-1", "cp-2", "cp-3")
    away.world.hold(away.world.destination("a"), 60.0, members=members, run="backup-0", revision=4)
    meta = {"server": SERVER, runs.HOSTS: {"node-1": ("198.18.0.21", "")}}
    Journal.create(runs.directory("backup-0"), "backup-0", Plan("backup", "", ()), meta=meta).close()
    away.app.session.authority = away.site.machines["cp-2"].authority = "1" * 64

    assert node_of(away.prepare()) == "cp-2"


def test_ended_credentials_are_not_got_around_where_nobody_hears_of_it(away, monkeypatch):
    answers_with(monkeypatch, ApiUnauthorized("the certificate ended", remedy="a fresh one", status=401))

    with pytest.raises(ApiUnauthorized):
        away.prepare(reason="scheduled")
    away.prepare()
    assert any("takes no request of this kubeconfig" in line for line in away.said)


def test_under_an_alarm_a_run_from_here_that_is_at_work_is_seen(three):
    three.site.alarms = [{"memberID": 2, "alarm": 1}]

    with (
        Journal.create(runs.directory("replace-1"), "replace-1", Plan("x", "", ()), meta={"server": SERVER}),
        pytest.raises(Locked, match="replace-1 is at work on that cluster"),
    ):
        three.prepare()


def test_of_a_host_that_is_named_it_is_said(away):
    away.app.session.authority = "0" * 64

    assert node_of(away.prepare("empty", node="cp-3")) == "cp-3"

    assert any(line.startswith("cp-3: its authority is another than was known") for line in away.said)


def test_one_that_is_named_is_asked_beside_those_that_are_known(away):
    away.world.hold(away.world.destination("a"), 60.0, members=away.peers("cp-1"), cluster="prod", revision=4)

    assert node_of(away.prepare(node="cp-3")) == "cp-3"


def test_hosts_that_cannot_be_reached_are_the_error_and_not_etcd(away):
    for machine in away.site.planes():
        machine.power_off()

    with pytest.raises(HostUnreachable, match="no control plane could be asked: cp-1: no connection; cp-2: no conn"):
        away.prepare()


def test_a_member_whose_host_cannot_be_reached_is_not_called_ill(three):
    three.site.machines["cp-2"].power_off()

    with pytest.raises(HostUnreachable, match="cp-2: no connection"):
        three.prepare(node="cp-2")


def test_without_any_cluster_that_is_meant_nothing_is_looked_for_elsewhere(away):
    away.app.session.server = ""

    with pytest.raises(ApiUnreachable, match="no answer"):
        away.prepare(node="cp-2")


def test_while_a_run_from_here_is_at_work_nothing_is_got_around(away):
    plan = away.prepare()

    with (
        Journal.create(runs.directory("upgrade-1"), "upgrade-1", plan, meta={"server": SERVER}),
        pytest.raises(Locked, match="upgrade-1 is at work on that cluster"),
    ):
        away.prepare()


def test_a_worker_that_a_run_knew_has_no_lock(away, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    worker = away.site.machines["a-worker"] = away.site.machines.pop("node-1")
    worker.name = "a-worker"
    where = {name: (machine.address, "") for name, machine in away.site.machines.items()}
    meta = {"server": SERVER, runs.HOSTS: where}
    Journal.create(runs.directory("drain-1"), "drain-1", Plan("drain", "", ()), meta=meta).close()

    assert {step.params["lock"] for step in away.prepare("empty").steps() if "lock" in step.params} == {"cp-1"}


def test_what_is_forbidden_is_not_got_around(away, monkeypatch):
    answers_with(monkeypatch, ApiForbidden("may not list nodes", remedy="a role", status=403))

    with pytest.raises(ApiForbidden):
        away.prepare(node="cp-2")


NOT_WELL = "etcd is not all well: https://cp-2:2379 is not healthy: it does not say why; the snapshot is of cp-3"


@pytest.mark.parametrize(("fault", "said"), [("unhealthy", [f"{NOT_WELL}: orchestrator etcd status"]), ("learner", [])])
def test_a_member_that_is_not_well_is_said_and_the_backup_taken_of_another(three, fault, said):
    three.site.machines["cp-2"].faults["etcd"] = fault

    plan = three.prepare()

    assert node_of(plan) == "cp-3"
    assert three.said == said


def test_a_member_whose_host_is_off_is_said_and_the_backup_taken_of_another(three):
    three.site.machines["cp-3"].power_off()
    three.site.pass_time(60)

    three.prepare()

    away, members = three.said
    assert away.startswith("cp-3 could not be asked: ")
    assert members.startswith("etcd is not all well: member cp-3 does not answer; ")


@pytest.mark.parametrize(
    ("compress", "name", "needed"), [(False, "a", "5000"), (True, "a", "at least 500"), (True, "c/now.db", "5000")]
)
def test_destinations_that_are_all_too_full_are_refused_before_a_run(desk, compress, name, needed):
    desk.site.machines["cp-1"].db_size_bytes = 5000
    directory = desk.url(name.removesuffix("/now.db"))
    desk.site.full.add(directory)

    with pytest.raises(Refused) as caught:
        desk.prepare(name, compress=compress)

    assert str(caught.value) == f"{desk.url(name)} has 0 bytes free; the snapshot needs {needed}"
    assert "etcd prune" in caught.value.remedy


def test_one_that_is_too_full_is_said_and_the_others_get_theirs(desk):
    desk.site.full.add(desk.url("a"))
    desk.world.take_away("b")

    plan = desk.prepare("a", "b")

    assert plan.nodes() == ("cp-1",)
    [line] = desk.said
    assert line.startswith(f"{desk.url('a')} has 0 bytes free; the snapshot needs ")


def test_a_destination_that_cannot_be_asked_is_left_to_the_run(three):
    three.site.machines["cp-3"].power_off()
    three.site.pass_time(60)

    plan = backups.prepare(three.app, replace(three.wish(), destinations=("cp-3:/srv",)), three.said.append)

    assert node_of(plan) == "cp-2"


def test_without_a_recipient_keys_are_left_out_and_that_is_said(desk):
    plan = desk.prepare(recovery=True)

    assert [step.action for step in plan.steps() if step.action == "etcd.recovery"] == []
    assert any(line.startswith("no --recipient: keys and certificates") for line in desk.said)


def test_the_same_destination_twice_is_one(desk):
    plan = desk.prepare("a", "b", "a")

    [step] = [s for s in plan.steps() if s.action == "etcd.store"]
    assert step.params["destinations"] == [desk.url("a"), desk.url("b")]


def test_without_a_destination_it_goes_to_the_users_own_directory(desk):
    plan = backups.prepare(desk.app, backups.Wish((), ()), desk.said.append)

    [step] = [s for s in plan.steps() if s.action == "etcd.store"]
    assert step.params["destinations"] == [str(library.home())]


def test_runs_that_have_not_ended_are_handed_to_retention(desk):
    plan = desk.world.backup(name="backup-0")
    desk.world.take_away("a")
    with pytest.raises(StoreError):
        desk.world.start(plan, run="run-0")
    desk.world.bring_back("a")

    [step] = [s for s in desk.prepare(keep="last=3").steps() if s.action == "etcd.retain"]

    assert step.params["unfinished"] == ["run-0"]


def test_what_was_prepared_is_only_looked_at_in_a_dry_run(desk, root):
    files = {path for path in root.rglob("*") if path.is_file()}

    found = desk.world.preview(desk.prepare("a", "b", keep="last=3"))

    assert {type(each.decision) for each in found} == {Needed}
    assert {path for path in root.rglob("*") if path.is_file()} == files


# ---- what runs that failed left here ----------------------------------------------------------------------------


def fail(desk, *, server=SERVER, **asked):
    """A run whose destination is away: what it leaves here is all that there is of its snapshot."""
    desk.world.take_away("b")
    desk.world.meta = {**desk.world.meta, "server": server}
    with pytest.raises(StoreError):
        desk.take("b", **{"reason": "scheduled", **asked})
    desk.world.meta = {**desk.world.meta, "server": SERVER}
    desk.world.bring_back("b")
    desk.clock.sleep(60)
    return desk.staged()


def test_what_a_scheduled_run_left_goes_with_the_next_one_and_not_before(desk):
    left = fail(desk)

    plan = desk.prepare(reason="scheduled")

    assert len(left) == 2
    assert desk.staged() == left
    desk.world.start(plan)
    assert desk.staged() == []


def test_half_of_a_snapshot_that_a_scheduled_run_left_goes_too(desk):
    [name, _] = fail(desk)
    (desk.site.kept / "staging" / name.replace(".db", ".json")).unlink()

    desk.take(reason="scheduled")

    assert desk.staged() == []


@pytest.mark.parametrize(
    ("of", "next_one"),
    [
        ({"reason": "manual"}, "scheduled"),
        ({"reason": "scheduled"}, "manual"),
        ({"server": "https://other:6443"}, "scheduled"),
    ],
)
def test_what_a_person_or_another_cluster_may_go_on_with_stays(desk, of, next_one):
    left = fail(desk, **of)

    desk.take(reason=next_one)

    assert desk.staged() == left


def test_a_backup_that_begins_while_one_is_at_work_takes_nothing_from_it(desk):
    refused = []
    desk.take()
    desk.clock.sleep(60)

    def overlap():
        before = desk.staged()
        with pytest.raises(Locked) as caught:
            desk.take("a", "b", reason="scheduled")
        refused.append(caught.value)
        assert desk.staged() == before
        assert desk.told().attempt_ok is False

    run = desk.take("a", "b", reason="scheduled", life=At(("store", desk.url("a")), overlap))
    desk.clock.sleep(60)
    desk.take("a", "b", reason="scheduled", life=At(("store", desk.url("b")), overlap))

    assert len(refused) == 2
    assert len(good(desk.world.destination("b"))) == 2
    assert backups.of_run(desk.app, [desk.url("b")], run).record.run == run
    assert desk.told().attempt_ok


def test_a_run_that_is_gone_on_with_before_the_next_one_has_the_lock_keeps_what_it_has(desk):
    left = fail(desk)
    plan = desk.prepare(reason="scheduled")
    refused = []

    def overlap():
        with pytest.raises(Locked):
            desk.world.start(plan, run="backup-9999")
        refused.append(desk.staged())

    desk.world.resume("backup-0001", life=At(("store", desk.url("b")), overlap))

    assert refused == [left]
    assert (len(good(desk.world.destination("b"))), desk.staged()) == (1, [])


def test_two_that_were_prepared_in_the_same_second_both_store_theirs(desk):
    fail(desk)
    first, second = (desk.prepare(reason="scheduled") for _ in range(2))

    desk.world.start(first, run="backup-0011")
    desk.clock.sleep(60)
    desk.world.start(second, run="backup-0012")

    assert len(good(desk.world.destination("a"))) == 2
    assert desk.staged() == []


def test_room_that_the_run_makes_here_counts(desk):
    """Else a disk that is full of what a run left would stay so."""
    [name, _] = fail(desk)
    file = desk.site.kept / "staging" / name
    with file.open("r+b") as sparse:
        sparse.truncate(1 << 40)
    desk.site.machines["cp-1"].db_size_bytes = shutil.disk_usage(file).free

    plan = desk.prepare(reason="scheduled", compress=True)

    assert [step.action for step in plan.steps()][:2] == ["etcd.supersede", "etcd.snapshot"]


# ---- what there is ----------------------------------------------------------------------------------------------


def hold(desk, ago_s, name="a", **changes):
    return desk.world.hold(desk.world.destination(name), ago_s, **changes)


def test_the_last_one_is_the_newest_that_is_whole(desk):
    old, new = hold(desk, 2 * DAY_S), hold(desk, DAY_S)
    assert desk.library().find("last").record.name == new.name

    (desk.world.destination("a") / new.data.file).unlink()

    assert desk.library().find("last").record.name == old.name


def test_one_is_found_by_its_name_and_by_a_beginning_that_no_other_has(desk):
    old = hold(desk, 2 * DAY_S)
    hold(desk, DAY_S)

    assert desk.library().find(old.name).record.name == old.name
    assert desk.library().find(old.name[:19]).record.name == old.name


def test_a_beginning_that_several_have_is_refused_with_their_names(desk):
    old, new = hold(desk, 2 * DAY_S), hold(desk, DAY_S)

    with pytest.raises(BadUsage, match="several snapshots begin with 'kube'") as caught:
        desk.library().find("kube")

    assert caught.value.remedy == f"one of: {old.name}, {new.name}"


def test_one_that_several_destinations_have_is_one_and_taken_where_it_is_whole(desk):
    record = hold(desk, DAY_S)
    hold(desk, DAY_S, "b")
    (desk.world.destination("a") / record.data.file).unlink()

    assert desk.library("a", "b").find("kube").url == desk.url("b")


@pytest.mark.parametrize("name", ["last", "nothing"])
def test_none_is_an_error_that_names_where_was_looked_and_what_was_away(desk, name):
    desk.world.take_away("b")

    with pytest.raises(BadUsage, match=f"no snapshot '{name}' at .*{desk.url('b')} could not be read"):
        desk.library("a", "b").find(name)


def test_one_that_is_dated_in_the_future_is_not_the_last(desk):
    hold(desk, -40 * DAY_S, revision=3)
    new = hold(desk, HOUR_S, revision=9)

    assert desk.library().find("last").record.name == new.name


def test_destinations_that_are_away_do_not_hide_the_others(desk):
    record = hold(desk, DAY_S)
    desk.world.take_away("b")

    found, failed = desk.library("a", "b").catalogues()

    assert [h.record.name for each in found for h in each.held] == [record.name]
    assert [url for url, _ in failed] == [desk.url("b")]


def test_only_the_snapshots_of_one_cluster_are_listed_when_it_is_named(desk):
    hold(desk, DAY_S)
    mine = hold(desk, DAY_S, cluster="prod")

    [found], _ = desk.library().catalogues("prod")

    assert [h.record.name for h in found.held] == [mine.name]


@pytest.mark.parametrize(
    ("ages_s", "says"),
    [
        ((), "there is no snapshot that is whole"),
        ((DAY_S,), ""),
        ((27 * HOUR_S, 40 * HOUR_S), "the newest snapshot is 27.0 h old; it may be 26.0 h"),
    ],
)
def test_the_newest_may_be_so_old(desk, ages_s, says):
    for age_s in ages_s:
        hold(desk, age_s)

    found, _ = desk.library().catalogues()
    assert monitoring.too_old(found, 26 * HOUR_S, desk.clock.wall()) == says


def test_one_that_is_not_whole_does_not_count_as_the_newest(desk):
    hold(desk, 30 * HOUR_S)
    (desk.world.destination("a") / hold(desk, HOUR_S).data.file).write_bytes(b"")

    found, _ = desk.library().catalogues()
    assert monitoring.too_old(found, 26 * HOUR_S, desk.clock.wall()).startswith("the newest snapshot is 30.0 h old")


def test_one_that_is_dated_in_the_future_does_not_count_as_the_newest(desk):
    hold(desk, 30 * HOUR_S)
    hold(desk, -40 * DAY_S)

    found, _ = desk.library().catalogues()
    assert monitoring.too_old(found, 26 * HOUR_S, desk.clock.wall()) != ""


# ---- proof ------------------------------------------------------------------------------------------------------


def test_a_file_is_proven_whoever_made_it(desk, tmp_path):
    (tmp_path / "x.db").write_bytes(snapshot_of("cp-1", 9))

    found = library.verify(desk.library(), str(tmp_path / "x.db"), (), trailer=True).proven

    assert (found.where, found.record, found.snapshot.revision) == (str(tmp_path / "x.db"), None, 9)


def test_a_copy_of_a_database_has_no_sum(desk, tmp_path):
    (tmp_path / "x.db").write_bytes(snapshot_of("cp-1", 9)[:-32])

    assert library.verify(desk.library(), str(tmp_path / "x.db"), (), trailer=False).proven.snapshot.revision == 9
    with pytest.raises(SnapshotInvalid, match="no SHA-256 at its end"):
        library.verify(desk.library(), str(tmp_path / "x.db"), (), trailer=True)


def test_a_file_that_is_another_than_its_record_says_is_refused(desk):
    record = hold(desk, DAY_S)
    file = desk.world.destination("a") / record.data.file
    assert library.verify(desk.library(), str(file), (), trailer=True).proven.record.name == record.name

    file.write_bytes(snapshot_of("cp-2", 9))

    with pytest.raises(SnapshotInvalid, match=r"is not the one that .* records"):
        library.verify(desk.library(), str(file), (), trailer=True)


def test_a_file_that_is_not_there_is_no_name(desk):
    with pytest.raises(BadUsage, match=r"there is no file \./nothing"):
        library.verify(desk.library(), "./nothing", (), trailer=True)


@dataclass
class Keys:
    """An identity in a file, and its recipient."""

    path: Path
    recipient: str


def keys(directory, name="key"):
    identity, path = pyrage.x25519.Identity.generate(), directory / name
    path.write_text(f"{identity}\n")
    path.chmod(0o600)
    return Keys(path, str(identity.to_public()))


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("encrypt", [True, False])
def test_a_stored_one_is_proven_and_nothing_of_it_stays_here(desk, tmp_path, compress, encrypt):
    key = keys(tmp_path)
    desk.take(compress=compress, recipients=(key.recipient,) if encrypt else (), recovery=encrypt)

    verified = library.verify(desk.library(), "last", (key.path,), trailer=True)

    found = verified.proven
    assert verified.copies == (Checked(desk.url("a"), recovery="" if encrypt else None),)
    assert found.where == f"{found.record.name} at {desk.url('a')}"
    assert (found.snapshot.keys, found.snapshot.sha256) == (3, found.record.sha256)
    assert [path for path in library.home().rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), SnapshotInvalid, "was recorded"),
        (lambda content: content[:-1], SnapshotInvalid, "bytes, not"),
        (None, SnapshotInvalid, "is missing"),
    ],
)
def test_a_stored_one_that_was_changed_is_told_so_with_its_destination(desk, tmp_path, spoil, error, text):
    key = keys(tmp_path)
    desk.take(compress=True, recipients=(key.recipient,))
    [file] = desk.world.destination("a").glob("*.db.zst.age")
    name = desk.library().find("last").record.name
    if spoil:
        file.write_bytes(spoil(file.read_bytes()))
    else:
        file.unlink()

    with pytest.raises(error, match=text) as caught:
        library.verify(desk.library(), name, (key.path,), trailer=True)

    assert str(caught.value).startswith(desk.url("a"))


def test_each_copy_of_a_stored_one_is_read_and_the_bad_one_is_told_by_its_destination(desk):
    record = hold(desk, DAY_S, "a")
    for name in "bc":
        hold(desk, DAY_S, name)
    spoilt = desk.world.destination("b") / record.data.file
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"?")

    found = library.verify(desk.library("a", "b", "c"), record.name, (), trailer=True)

    one, two, three = found.copies
    assert (one, three) == (Checked(desk.url("a")), Checked(desk.url("c")))
    assert two.wrong.startswith(f"{desk.url('b')}: {record.data.file} has sha256")
    assert [type(err) for err in found.failures] == [SnapshotInvalid]
    assert found.proven.where == f"{record.name} at {desk.url('a')}"


def test_a_destination_without_a_copy_is_told_and_one_that_is_away_is_a_failure(desk):
    record = hold(desk, DAY_S)
    hold(desk, 2 * DAY_S, "b")
    desk.world.take_away("c")

    found = library.verify(desk.library("a", "b", "c"), record.name, (), trailer=True)

    assert found.copies == (Checked(desk.url("a")), Checked(desk.url("b"), there=False))
    assert [type(err) for err in found.failures] == [StoreError]


def test_without_a_whole_copy_all_of_them_are_told(desk):
    record = hold(desk, DAY_S)
    hold(desk, DAY_S, "b")
    for name in "ab":
        (desk.world.destination(name) / record.data.file).write_bytes(b"")

    with pytest.raises(SnapshotInvalid, match="has 0 bytes") as caught:
        library.verify(desk.library("a", "b"), record.name, (), trailer=True)

    assert caught.value.__notes__[0].startswith(desk.url("b"))


def test_that_a_copy_is_whole_is_recorded_there_and_nowhere_else(desk):
    record = hold(desk, DAY_S)
    hold(desk, DAY_S, "b")
    library.verify(desk.library("a"), "last", (), trailer=True)

    (one, two) = desk.library("a", "b").copies(record.name).held

    assert (one.record.proven_at, two.record.proven_at) == (desk.clock.wall(), record.at)
    assert one.record.verified == desk.clock.wall()


def test_a_record_that_cannot_be_written_does_not_spoil_a_proof_and_is_told(desk):
    class Kept(library.Library):
        def note(self, held, **changes):
            raise StoreError(f"{held.file}: read-only", remedy="x")

    record = hold(desk, DAY_S)

    found = library.verify(Kept(desk.app, [desk.url("a")]), "last", (), trailer=True)

    assert found.copies == (Checked(desk.url("a"), unrecorded=f"{record.name}.json: read-only"),)
    assert found.failures == ()


def test_a_set_of_which_no_machine_is_rebuilt_is_told_with_what_it_lacks(desk, tmp_path):
    key = keys(tmp_path)
    desk.site.machines["cp-1"].faults["collect"] = f"{PKI}/ca.key"
    desk.take(recipients=(key.recipient,), recovery=True)

    found = library.verify(desk.library(), "last", (key.path,), trailer=True)

    assert found.copies == (Checked(desk.url("a"), recovery=f"the recovery set lacks {PKI}/ca.key"),)
    assert found.failures == ()


def test_a_set_that_was_changed_where_it_is_stored_is_a_copy_that_is_not_whole(desk, tmp_path):
    key = keys(tmp_path)
    desk.take(recipients=(key.recipient,), recovery=True)
    [file] = desk.world.destination("a").glob("*.recovery.tar.zst.age")
    file.write_bytes(file.read_bytes()[:-1] + b"?")

    with pytest.raises(SnapshotInvalid, match=f"{file.name} has sha256"):
        library.verify(desk.library(), "last", (key.path,), trailer=True)


def test_an_identity_is_needed_and_has_to_be_the_right_one(desk, tmp_path):
    key, other = keys(tmp_path), keys(tmp_path, "other")
    desk.take(recipients=(key.recipient,))

    with pytest.raises(BadUsage, match="is encrypted"):
        library.verify(desk.library(), "last", (), trailer=True)
    with pytest.raises(SnapshotInvalid, match="none of the 1 identities given opens it"):
        library.verify(desk.library(), "last", (other.path,), trailer=True)


# ---- what goes, and what never does -----------------------------------------------------------------------------


def test_a_dry_run_of_a_prune_only_judges(desk):
    old, new = hold(desk, 9 * DAY_S), hold(desk, DAY_S)

    [found] = backups.prune(desk.library(), retention.parse("last=1"), desk.clock.wall(), dry_run=True)

    assert [(j.record.name, j.keep) for j in found.judged] == [(new.name, True), (old.name, False)]
    assert set(good(desk.world.destination("a"))) == {old.name, new.name}


def test_a_prune_removes_what_goes_and_what_killed_runs_left(desk):
    hold(desk, 9 * DAY_S)
    new = hold(desk, DAY_S)
    there = desk.world.destination("a")
    left = there / f".{new.data.file}.part-{'0' * 16}"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    young = there / f".{new.data.file}.part-{'1' * 16}"
    young.write_bytes(b"half")
    os.utime(young, (desk.clock.wall(),) * 2)

    [found] = backups.prune(desk.library(), retention.parse("last=1"), desk.clock.wall(), dry_run=False)

    assert found.left == (left.name,)
    assert {path.name for path in there.iterdir()} == {new.data.file, f"{new.name}.json", young.name}


def test_a_prune_judges_each_cluster_by_itself(desk):
    for cluster in ("prod", "test"):
        for days in (3, 2, 1):
            hold(desk, days * DAY_S, cluster=cluster)

    backups.prune(desk.library(), retention.parse("last=2"), desk.clock.wall(), dry_run=False)

    [found], _ = desk.library().catalogues()
    assert sorted(h.record.cluster for h in found.held) == ["prod"] * 2 + ["test"] * 2


def test_a_pin_is_set_and_taken_away_wherever_the_snapshot_is(desk):
    record = hold(desk, 9 * DAY_S)
    hold(desk, 9 * DAY_S, "b")
    policy = retention.parse("last=1")
    for name in ("a", "b"):
        hold(desk, DAY_S, name)

    assert backups.pin(desk.library("a", "b"), record.name, "before the move") == (desk.url("a"), desk.url("b"))

    backups.prune(desk.library("a", "b"), policy, desk.clock.wall(), dry_run=False)
    assert all(record.name in good(desk.world.destination(name)) for name in ("a", "b"))
    backups.pin(desk.library("a", "b"), record.name, "")
    backups.prune(desk.library("a", "b"), policy, desk.clock.wall(), dry_run=False)
    assert not any(record.name in good(desk.world.destination(name)) for name in ("a", "b"))


@pytest.mark.parametrize(("why", "done"), [("before the move", "pinned"), ("", "no longer pinned")])
def test_a_pin_is_set_where_it_can_be_and_fails_by_the_names_of_those_that_were_away(desk, why, done):
    record = hold(desk, 9 * DAY_S, "a", pin="" if why else "old")
    for name in ("b", "c"):
        hold(desk, 9 * DAY_S, name)
        desk.world.take_away(name)

    with pytest.raises(StoreError) as caught:
        backups.pin(desk.library("b", "a", "c"), "last", why)

    assert desk.library("a").find(record.name).record.pin == why
    notes = caught.value.__notes__
    assert notes[0] == f"nothing was changed at {desk.url('b')}"
    assert notes[1].startswith(f"nothing was changed at {desk.url('c')}: ")
    assert notes[2] == f"{done} at {desk.url('a')}"
    again = f"orchestrator etcd pin {record.name} --reason {shlex.quote(why)}"
    assert caught.value.remedy.splitlines()[-1].startswith(f"when they are back, repeat it for them: {again} --from ")


def test_a_pin_that_one_destination_does_not_take_is_set_at_those_after_it(desk):
    record = hold(desk, DAY_S, "a")
    hold(desk, DAY_S, "b")
    library = desk.library("a", "b")
    stores = library.store

    def store(url):
        found = stores(url)
        if url == desk.url("a"):
            found.put_bytes = full
        return found

    def full(content, name):
        raise StoreError(f"no room for {name}", remedy="make room")

    library.store = store
    with pytest.raises(StoreError, match="no room for") as caught:
        backups.pin(library, record.name, "why")

    assert f"pinned at {desk.url('b')}" in caught.value.__notes__
    assert desk.library("b").find(record.name).record.pin == "why"


def test_what_is_noted_of_a_copy_leaves_what_was_noted_meanwhile(desk):
    desk.take()
    library = desk.library()
    [held] = library.catalogues()[0][0].held
    desk.library().rewrite(held.record, pin="before the audit")

    library.note(held, verified=1.0)

    [later] = desk.library().catalogues()[0][0].held
    assert (later.record.pin, later.record.verified) == ("before the audit", 1.0)


def test_nothing_is_noted_of_a_copy_that_was_removed_meanwhile(desk):
    desk.take()
    library = desk.library()
    [held] = library.catalogues()[0][0].held
    for file in held.files:
        library.store(held.url).remove(file)

    with pytest.raises(StoreError, match="there is no"):
        library.note(held, verified=1.0)

    assert desk.library().catalogues()[0][0].held == ()


def test_what_is_not_there_cannot_be_pinned(desk):
    with pytest.raises(BadUsage, match="no snapshot 'x'"):
        backups.pin(desk.library(), "x", "why")


# ---- what a run took, and what monitoring is told ---------------------------------------------------------------


def test_what_a_run_took_is_told_with_where_it_is(desk):
    hold(desk, DAY_S)
    run = desk.take("a", "b")

    found = backups.of_run(desk.app, [desk.url("a"), desk.url("b")], run)

    assert (found.record.run, found.urls) == (run, (desk.url("a"), desk.url("b")))
    assert [len(each.held) for each in found.catalogues] == [1, 1]


def test_a_run_that_is_at_no_destination_took_nothing(desk):
    hold(desk, DAY_S)

    with pytest.raises(BackupError, match="the snapshot of run-9 is at none of"):
        backups.of_run(desk.app, [desk.url("a")], "run-9")


def test_a_snapshot_of_an_etcd_that_nobody_wrote_to_is_stored_under_its_own_name(desk):
    desk.take()
    desk.clock.step_wall(60.0)

    run = desk.take(pin="before the move")

    assert backups.of_run(desk.app, [desk.url("a")], run).record.pin == "before the move"


def test_a_success_is_told_with_the_snapshot(desk):
    desk.take("a", "b")

    found, record = desk.told(), desk.library().find("last").record
    assert (found.cluster, found.attempt_ok, found.success_at, found.verified) == ("kubernetes", True, record.at, True)
    assert (found.revision, found.keys, found.size_bytes) == (record.revision, 3, record.size_bytes)
    assert [(c.destination, c.ok, c.success_at) for c in found.copies] == [
        (desk.url(name), True, record.at) for name in ("a", "b")
    ]


def test_a_destination_that_missed_one_is_told_and_the_last_success_stays(desk):
    desk.take("a", "b")
    first = desk.told()
    desk.clock.step_wall(HOUR_S)
    desk.site.revision += 1
    desk.world.take_away("b")

    with pytest.raises(StoreError):
        desk.take("a", "b")

    found = desk.told()
    assert (found.attempt_ok, found.attempt_at) == (False, desk.clock.wall())
    assert (found.success_at, found.revision) == (first.success_at, first.revision)
    assert [(c.ok, c.success_at) for c in found.copies] == [
        (True, first.success_at + HOUR_S), (False, first.success_at)
    ]  # fmt: skip


def test_a_run_that_is_interrupted_is_a_failed_try_and_its_resume_a_success(desk):
    stop = Stop()
    with pytest.raises(Interrupted):
        desk.take(life=At(("save", "cp-1"), stop.request), stop=stop)
    began, first = desk.clock.wall(), read_metrics(desk)
    desk.clock.sleep(HOUR_S)

    outcome = monitoring.resume(desk.app, "last")

    found = read_metrics(desk)["kubernetes"]
    assert [each.attempt_ok for each in first.values()] == [False]
    assert (outcome.run, found.attempt_ok, found.attempt_at) == ("backup-0001", True, desk.clock.wall())
    assert found.duration_s == pytest.approx(desk.clock.wall() - began, abs=60)
    assert [(c.destination, c.ok) for c in found.copies] == [(desk.url("a"), True)]


def test_going_on_with_one_whose_recovery_set_lacks_something_makes_no_success_of_it(desk):
    desk.site.machines["cp-1"].faults["collect"] = f"{PKI}/sa.key"
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    with pytest.raises(BackupError, match="the snapshot is stored, but"):
        desk.take(recipients=(recipient,), recovery=True)

    monitoring.resume(desk.app, "last")

    [found] = read_metrics(desk).values()
    assert (found.attempt_ok, found.success_at is None) == (False, False)


def read_metrics(desk):
    return {each.cluster: each for each in metrics.parse(desk.metrics.read_text())}


def test_a_run_that_is_interrupted_when_all_is_stored_is_a_failed_try_with_a_new_success(desk):
    stop = Stop()
    with pytest.raises(Interrupted):
        desk.take(keep="last=1", life=At(("store", desk.url("a")), stop.request, time=2), stop=stop)

    [found] = read_metrics(desk).values()
    assert (found.attempt_ok, found.success_at) == (False, desk.library().find("last").record.at)


def test_a_resume_that_fails_is_a_failed_try(desk):
    desk.world.take_away("b")
    with pytest.raises(StoreError):
        desk.take("a", "b")
    desk.clock.sleep(HOUR_S)

    with pytest.raises(StoreError):
        monitoring.resume(desk.app, "last")

    found = desk.told()
    assert (found.attempt_ok, found.attempt_at) == (False, desk.clock.wall())
    assert [c.ok for c in found.copies] == [True, False]


def test_a_resume_that_cannot_begin_or_has_nothing_to_do_tells_nothing(desk):
    desk.take()
    before = desk.metrics.read_text()
    desk.clock.sleep(HOUR_S)

    monitoring.resume(desk.app, "last")
    with pytest.raises(BadUsage):
        monitoring.resume(desk.app, "backup-9")

    assert desk.metrics.read_text() == before


def test_a_run_that_knows_no_file_of_metrics_is_resumed_as_before(desk):
    """As those of earlier versions, and those that were started without one."""
    del desk.world.meta[runs.METRICS]
    fail(desk)
    before = desk.metrics.read_text()

    monitoring.resume(desk.app, "last")

    assert len(good(desk.world.destination("b"))) == 1
    assert desk.metrics.read_text() == before


@pytest.mark.parametrize(("before", "cluster"), [(True, "kubernetes"), (False, "lab")])
def test_a_failure_before_anything_is_told_of_the_cluster_that_is_known(desk, before, cluster):
    if before:
        desk.take()
        desk.clock.sleep(HOUR_S)
    desk.site.machines["cp-1"].faults["etcd"] = "unhealthy"

    with pytest.raises(Refused):
        desk.take()

    found = desk.told()
    assert (found.cluster, found.attempt_ok) == (cluster, False)
    assert (found.success_at is not None) is before
    assert [(c.destination, c.ok) for c in found.copies] == [(desk.url("a"), False)]
