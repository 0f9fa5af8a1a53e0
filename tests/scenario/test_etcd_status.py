"""etcd's members looked at while the API does not answer: where control planes are is known otherwise."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator import away, etcds, surveys
from orchestrator.cluster.model import Node
from orchestrator.cluster.overview import Backup
from orchestrator.engine import runs
from orchestrator.engine.journal import Journal
from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.errors import ApiNotFound, ApiUnreachable, BackupError, HostError, Refused, StoreError
from orchestrator.library import Library
from orchestrator.report import etcd as report
from orchestrator.served import Seat, seated
from tests.fakes.site_world import Desk

SERVER = "https://api.example.org:6443"


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Three control planes; all API servers are away."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    desk = Desk(tmp_path, planes=3, workers=1)
    desk.app.session = SimpleNamespace(server=SERVER, authority=desk.site.authority)
    desk.app.machines = desk.app.reader.machines
    for machine in desk.site.planes():
        down(machine, "kube-apiserver")
    return desk


def down(machine, component):
    """Its process is away, and stays away: its manifest is there."""
    machine.components.pop(component)


def survey(desk, *named, library=None):
    return away.survey(desk.app, library or desk.library(), named, desk.said.append)


def hold(desk, *names, ago_s=3600.0, **changes):
    """A destination has a snapshot of when the members were on these control planes."""
    return desk.world.hold(desk.world.destination("a"), ago_s, members=desk.peers(*names), **changes)


def ran(desk, run, *planes, hosts=("cp-1", "cp-2", "cp-3", "node-1"), noted=None, **meta):
    """A run from here, which noted where hosts are; its plan names control planes where they are given."""
    params = {"control_planes": planes} if planes else {}
    plan = Plan("drain", "drain", (Wave((Lane(hosts[0], (Step("1", "cluster.gate", hosts[0], params, 1.0),)),)),))
    where = noted or {name: (desk.site.machines[name].address, "") for name in hosts}
    told = {"server": SERVER, runs.HOSTS: where, **meta}
    desk.clock.sleep(1)
    Journal.create(runs.directory(run), run, plan, meta=told, wall=desk.clock.wall).close()


# ---- where the names are from ---------------------------------------------------------------------------------------


def test_control_planes_are_those_of_the_newest_snapshot_of_the_cluster(three):
    hold(three, "cp-1", ago_s=7200.0, revision=2)
    record = hold(three, "cp-1", "cp-2", "cp-3")

    found = survey(three)

    assert [m.name for m in found.facts.members] == ["cp-1", "cp-2", "cp-3"]
    assert found.cluster == "kubernetes"
    [said] = three.said
    assert said.startswith("the API does not answer (no answer)")
    assert said.endswith(f"those of snapshot {record.name}: cp-1, cp-2, cp-3")


def test_its_hosts_are_reached_as_a_run_noted_it_of_the_same_address(three):
    hold(three, "cp-1", "cp-2")
    at = {name: three.site.machines[name].address for name in ("cp-1", "cp-2")}
    noted = {"cp-1": (at["cp-1"], "kind://docker/lab/cp-1"), "cp-2": ("198.18.0.99", "kind://docker/lab/cp-2")}
    ran(three, "drain-1", noted=noted)

    survey(three)

    assert three.app.machines.places() == {"cp-1": noted["cp-1"], "cp-2": (at["cp-2"], "")}


def test_snapshots_of_another_cluster_tell_nothing(three):
    hold(three, "cp-1", ago_s=60.0, authority="0" * 64)
    hold(three, "cp-2", "cp-3")

    survey(three)

    assert three.said[0].endswith("cp-2, cp-3")


def test_a_snapshot_is_the_cluster_s_too_when_a_run_on_its_server_took_it(three):
    three.app.session.authority = ""
    ran(three, "backup-1")
    hold(three, "cp-2", "cp-3", run="backup-1")

    survey(three)

    assert three.said[0].endswith("cp-2, cp-3")


def test_a_destination_that_cannot_be_read_is_told(three):
    hold(three, "cp-1")
    library = three.library()
    library.catalogues = lambda: ((), (("s3://b", BackupError("no answer", remedy="wait")),))
    ran(three, "upgrade-1", "cp-1")

    survey(three, library=library)

    assert three.said[0] == "s3://b could not be read: no answer"


def test_without_a_snapshot_they_are_those_that_a_run_from_here_named(three):
    ran(three, "upgrade-1", "cp-1", "cp-2", "cp-3")
    ran(three, "drain-2")

    found = survey(three)

    assert three.said[0].endswith("those of run upgrade-1: cp-1, cp-2, cp-3")
    assert len(found.facts.members) == 3
    assert report.document(found).cluster == ""
    assert "its name is not known" in report.table(found)


def test_a_run_that_named_none_has_all_hosts_asked_which_it_knew(three):
    ran(three, "drain-1", ssh=True)

    found = survey(three)

    assert three.said[0].endswith("those of run drain-1: cp-1, cp-2, cp-3, node-1")
    assert [host.node for host in report.document(found).hosts] == ["cp-1", "cp-2", "cp-3"]
    assert three.app.settings.ssh


def test_runs_on_another_server_tell_nothing_and_the_error_says_how_to_name_them(three):
    ran(three, "upgrade-1", "cp-1", server="https://elsewhere:6443")

    with pytest.raises(ApiUnreachable, match="no answer") as caught:
        survey(three)

    assert "orchestrator etcd status --node NAME" in caught.value.remedy


def test_named_ones_are_asked_without_the_api(three):
    found = survey(three, "cp-1", "cp-2")

    assert [host.node for host in report.document(found).hosts] == ["cp-1", "cp-2"]
    assert three.said == ["the API is not asked: control planes are those of --node: cp-1, cp-2"]


def test_named_ones_are_where_a_run_noted_them_else_they_have_their_names_for_addresses(three):
    ran(three, "drain-1", hosts=("cp-1",))

    survey(three, "cp-1", "cp-2")

    places = three.app.machines.places()
    assert [places[name] for name in ("cp-1", "cp-2")] == [(three.site.machines["cp-1"].address, ""), ("cp-2", "")]


def test_without_a_kubeconfig_what_runs_of_no_cluster_noted_is_not_this_one_s(three):
    three.app.session.server = ""
    ran(three, "backup-1", hosts=("cp-1",), server="")

    survey(three, "cp-1")

    assert three.app.machines.places() == {"cp-1": ("cp-1", "")}


# ---- one host, for what is done beside the cluster -----------------------------------------------------------------


def reached(desk, node, record=None, *, chosen=False):
    """Where the host of a node is, and what was said of that."""
    desk.app.host = lambda name: desk.app.machines.machine(desk.app.reader, name)
    away.reach(desk.app, node, record, desk.said.append, chosen=chosen)
    return desk.app.machines.places()[node]


def test_a_host_is_where_the_snapshot_of_the_cluster_has_its_member(three):
    ran(three, "drain-1", noted={"cp-2": ("198.18.0.99", "")})
    record = hold(three, "cp-1", "cp-2")

    assert reached(three, "cp-2", record) == (three.site.machines["cp-2"].address, "")
    assert three.said == ["the API does not answer (no answer): where cp-2 is, the snapshot's record tells"]


def test_a_host_without_a_member_is_where_a_run_from_here_noted_it(three):
    ran(three, "drain-1")

    assert reached(three, "node-1", hold(three, "cp-1")) == (three.site.machines["node-1"].address, "")
    assert three.said[0].endswith("where node-1 is, a run from here noted")


@pytest.mark.parametrize("theirs", ["", "1" * 64])
def test_a_snapshot_that_may_be_of_the_cluster_tells_where_nothing_else_does(three, theirs):
    three.app.session.authority = ""
    for machine in three.site.planes():
        machine.authority = theirs
    record = hold(three, "cp-1", "cp-2", authority=theirs)
    ran(three, "drain-1", hosts=("cp-1",))

    reached(three, "cp-1", record)
    reached(three, "cp-2", record)

    where, *_ = (each for each in three.said if "cp-1 is" in each)
    assert where.endswith("where cp-1 is, a run from here noted")
    where, *_ = (each for each in three.said if "cp-2 is" in each)
    assert where.endswith("where cp-2 is, the snapshot's record tells")
    assert ("cp-1: of which cluster it is cannot be told" in three.said) == (not theirs)


def test_behind_a_load_balancer_with_a_certificate_of_its_own_what_runs_from_here_took_is_known(three):
    three.app.session.authority = "2" * 64
    ran(three, "backup-1", noted={"cp-1": ("198.18.0.99", "")})
    record = hold(three, "cp-1", run="backup-1")

    assert reached(three, "cp-1", record) == (three.site.machines["cp-1"].address, "")
    assert three.said[0].endswith("the snapshot's record tells")


def test_a_snapshot_of_another_cluster_tells_nothing_of_hosts(three):
    ran(three, "drain-1", noted={"cp-1": ("198.18.0.99", "")})
    record = hold(three, "cp-1", "cp-2", authority="0" * 64)

    assert reached(three, "cp-1", record) == ("198.18.0.99", "")
    with pytest.raises(ApiUnreachable) as caught:
        reached(three, "cp-2", record)

    assert "--node NAME" in caught.value.remedy
    assert "--here" in caught.value.remedy


def test_a_host_that_nothing_tells_of_is_asked_by_its_name_when_a_person_named_it(three):
    assert reached(three, "node-1", chosen=True) == ("node-1", "")
    assert three.said[0].endswith("where node-1 is, nothing tells: it is asked by its name")


@pytest.mark.parametrize("known", ["kubeconfig", "record"])
def test_a_host_that_is_of_another_cluster_by_now_is_not_worked_on(three, known):
    record = hold(three, "cp-1")
    if known == "record":
        three.app.session.authority = ""
    three.site.machines["cp-1"].authority = "1" * 64

    with pytest.raises(Refused, match="cp-1: its authority is another than was known: 1111111111111111…"):
        reached(three, "cp-1", record)


def test_while_the_api_answers_it_tells_where_a_host_is(three):
    three.site.machines["cp-1"].components["kube-apiserver"] = "1.36.3"

    nothing_of_it = ("", "")  # nodes of this cluster tell no address
    assert reached(three, "cp-2", hold(three, "cp-2")) == nothing_of_it
    assert three.said == []


def test_a_host_that_the_api_does_not_know_is_none_whatever_else_tells_of_it(three):
    three.site.machines["cp-1"].components["kube-apiserver"] = "1.36.3"
    ran(three, "drain-1", noted={"gone": ("198.18.0.99", "")})

    with pytest.raises(ApiNotFound):
        reached(three, "gone", chosen=True)


def test_what_is_done_where_a_snapshot_was_taken_finds_that_host(three):
    record = hold(three, "cp-1", "cp-2", node="cp-2")
    copy = SimpleNamespace(held=SimpleNamespace(record=record), record=record)
    three.app.host = lambda name: three.app.machines.machine(three.app.reader, name)

    place = seated(three.app, Seat(), copy, three.said.append)

    assert place == Seat("cp-2")
    assert three.said[0].endswith("where cp-2 is, the snapshot's record tells")


# ---- what it looks at ----------------------------------------------------------------------------------------------


def test_while_the_api_answers_nothing_else_is_looked_for(three):
    three.site.machines["cp-1"].components["kube-apiserver"] = "1.36.3"
    library = three.library()
    library.catalogues = None

    assert len(survey(three, library=library).facts.members) == 3
    assert three.said == []


# ---- what is seen -----------------------------------------------------------------------------------------------


def test_a_control_plane_that_is_off_is_told_and_the_others_are_shown(three):
    hold(three, "cp-1", "cp-2", "cp-3")
    three.site.machines["cp-3"].power_off()

    text = report.table(survey(three))

    assert "cp-3 could not be asked: cp-3: no connection" in text
    assert "cp-1  (static pod" in text


def test_all_control_planes_gone_is_an_answer(three):
    hold(three, "cp-1", "cp-2")
    for name in ("cp-1", "cp-2"):
        three.site.machines[name].power_off()

    found = survey(three)

    text = report.table(found)
    assert "members       no host could be asked" in text
    assert "cp-1 could not be asked" in text
    assert "cp-2 could not be asked" in text
    assert [each.partition(" ")[0] for each in report.document(found).troubles] == ["cp-1", "cp-2"]


def test_that_no_host_can_be_asked_is_an_error_while_the_api_answers(three):
    nodes = tuple(three.site.nodes.values())
    for machine in three.site.planes():
        machine.power_off()
    three.app.machines.know([Node.at(m.name, m.address) for m in three.site.planes()])

    with pytest.raises(HostError, match="no connection"):
        etcds.read(three.app.reader, nodes, "", 0.0)


def test_etcd_that_is_stopped_everywhere_is_shown_with_its_manifest(three):
    hold(three, "cp-1", "cp-2")
    for name in ("cp-1", "cp-2"):
        down(three.site.machines[name], "etcd")

    text = report.table(survey(three))

    assert "no member answers; stopped on cp-1, cp-2" in text
    assert "process       none; its manifest is there" in text
    assert "image         registry.k8s.io/etcd:3.6.8" in text


def test_members_without_a_quorum_are_told_each_with_what_it_says(three):
    hold(three, "cp-1", "cp-2", "cp-3")
    three.site.machines["cp-1"].faults["etcd"] = "mute"
    for name in ("cp-2", "cp-3"):
        down(three.site.machines[name], "etcd")

    found = survey(three)

    assert "no member answers; runs on cp-1; stopped on cp-2, cp-3" in report.table(found)
    assert found.troubles == ("cp-1: etcd runs, but lists no members",)
    [ill] = replace(found, hosts={"cp-1": replace(found.hosts["cp-1"], health="no leader")}).troubles
    assert ill == "cp-1: etcd runs, but no leader"


def test_a_host_that_is_named_and_has_nothing_of_etcd_is_told(three):
    found = survey(three, "node-1")

    assert found.troubles == ("node-1: there is neither a process of etcd nor its manifest",)
    assert "no member on these hosts" in report.table(found)


def test_a_control_plane_without_etcd_makes_no_external_one_of_the_others(three):
    hold(three, "cp-1", "cp-2", "cp-3")
    cp3 = three.site.machines["cp-3"]
    down(cp3, "etcd")
    cp3.manifests.pop("etcd")
    three.site.external = "https://198.18.0.11:2379,https://198.18.0.12:2379"

    assert survey(three).external == ""


# ---- the last backup, in `status` -------------------------------------------------------------------------------


def test_the_newest_whole_snapshot_of_the_cluster_here_is_the_last_backup(three):
    def held(ago_s, **changes):
        return three.world.hold(runs.snapshots(), ago_s, **changes)

    held(7200.0)
    wanted = held(3600.0)
    held(1800.0, authority="0" * 64)
    held(-60.0)
    broken = held(60.0)
    (runs.snapshots() / broken.data.file).unlink()

    assert surveys.last_backup(three.app) == Backup(wanted.name, wanted.at)


def test_without_a_directory_of_snapshots_there_is_none_and_nothing_is_loaded(three):
    three.app = None

    assert surveys.last_backup(three.app) == Backup()


def test_a_directory_without_one_of_the_cluster_has_none(three):
    three.world.hold(runs.snapshots(), 60.0, authority="0" * 64)

    assert surveys.last_backup(three.app) == Backup()


def test_a_directory_that_cannot_be_read_is_told(three, monkeypatch):
    runs.snapshots().mkdir()
    failed = (("/x", StoreError("/x cannot be read", remedy="look")),)
    monkeypatch.setattr(Library, "catalogues", lambda self: ((), failed))

    assert surveys.last_backup(three.app).unread == "/x cannot be read"
