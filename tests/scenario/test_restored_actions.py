"""What comes after a restore: the comparison, kubeadm's settings, and the look at the cluster; in memory."""

import json
from dataclasses import replace

import pytest

from orchestrator import aftermaths
from orchestrator.actions.restored import Compare, DataDir, compared
from orchestrator.backup import losses, records
from orchestrator.cluster.model import Node, OwnerRef, Pod, Renewal, Workload
from orchestrator.engine.host import Completed
from orchestrator.engine.plan import Done, Needed, Step
from orchestrator.engine.runner import Applying
from orchestrator.errors import ApiForbidden, ApiUnreachable, HostUnreachable
from orchestrator.planners import restore
from orchestrator.planners.restore import Plane, Request
from tests.fakes.boltfiles import Keys, snapshot
from tests.fakes.time import FakeClock

POD = b"/registry/configmaps/shop/"
OLD = "prod-20261124T010203Z-r70"
SETTINGS = "etcd:\n  local:\n    dataDir: /var/lib/etcd\n"


class Site:
    """What these steps ask for, and change."""

    def __init__(self, directory):
        self.directory = directory
        self.settings = SETTINGS
        self.away = False
        self.commands = []

    def kept(self, name):
        path = self.directory / name
        return path if name and path.is_file() else None

    def place(self, name):
        return self.directory / name

    def configuration(self):
        if self.away:
            raise ApiUnreachable("no answer", remedy="wait")
        return self.settings

    def host(self, node):
        self.name = node
        return self

    def run(self, argv, *, stdin=b"", **how):
        del how
        self.commands.append(argv)
        self.settings = json.loads(stdin)["data"]["ClusterConfiguration"]
        return Completed(tuple(argv), 0, b"", b"", 0.1)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def record(path, revision):
    """As one that was fetched has it."""
    known = records.Record(
        name=f"prod-20261124T010203Z-r{revision}", at=1.0, reason="pre-restore", run="r", cluster="prod",
        cluster_id="1", authority="a",
        node="cp-1", etcd="3.6.8", storage="3.6.0", kubernetes="", revision=revision, compact_revision=1, raft_index=1,
        raft_term=1, keys=1, prefixes={}, alarms=(), size_bytes=1, sha256="x",
        data=records.Part(file=path.name, size_bytes=1, sha256="x"), members=(), tool="1",
    )  # fmt: skip
    path.with_suffix(".json").write_bytes(records.encode(known))


def states(site, *, trailer=True):
    """The old state has `a` and `b`, the restored one `b` and `c`."""
    old = site.directory / "restore-1-before.db"
    old.write_bytes(snapshot(Keys().put(POD + b"a").put(POD + b"b").pairs))
    record(old, 70)
    new = snapshot(Keys().put(POD + b"b").put(POD + b"c").pairs)
    (site.directory / "x.db").write_bytes(new if trailer else new[:-32])


def compare_of(**changes):
    params = {"plan": "restore-1", "before": "restore-1-before.db", "file": "x.db", "trailer": True, **changes}
    return Step("9/cp-1/restore.compare", "restore.compare", "cp-1", params, 60.0)


def apply(action, site, step):
    applying = Applying("run-1", step, None, FakeClock(), lambda *_, **__: None, lambda: None)
    action.apply(site, step, action.probe(site, step), applying)


def found(site):
    path = compared(site, "restore-1")
    return losses.decode(path.read_bytes(), str(path))


# ---- restore.compare --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trailer", [True, False])
def test_the_old_state_is_compared_with_the_restored_one_once(site, trailer):
    states(site, trailer=trailer)
    action, step = Compare(), compare_of(trailer=trailer)
    assert isinstance(action.decide(action.probe(site, step), step, {}), Needed)

    apply(action, site, step)

    assert isinstance(action.decide(action.probe(site, step), step, {}), Done)
    told = found(site)
    assert [(g.fate, g.kind, g.names) for g in told.groups] == [
        ("lost", "ConfigMap", ("a",)),
        ("back", "ConfigMap", ("c",)),
    ]
    assert (told.before, told.before_revision, told.unknown) == (OLD, 70, "")


@pytest.mark.parametrize(
    ("changes", "removed", "why"),
    [
        ({"before": ""}, "", "no member answered"),
        ({}, "x.db", "not here any more"),
        ({}, "restore-1-before.db", "not here any more"),
        ({}, "restore-1-before.json", "not here any more"),
    ],
)
def test_where_there_are_not_two_states_it_is_said_and_the_restore_goes_on(site, changes, removed, why):
    states(site)
    if removed:
        (site.directory / removed).unlink()

    apply(Compare(), site, compare_of(**changes))

    assert why in found(site).unknown


def test_a_record_that_cannot_be_read_is_no_reason_for_a_restore_to_fail(site):
    states(site)
    (site.directory / "restore-1-before.json").write_text("{")

    apply(Compare(), site, compare_of())

    assert "no record of a snapshot" in found(site).unknown


def test_a_state_that_cannot_be_read_is_named_with_the_reason(site):
    states(site)
    path = site.directory / "restore-1-before.db"
    path.write_bytes(path.read_bytes()[:-4096])

    apply(Compare(), site, compare_of())

    assert found(site).before == OLD
    assert "restore-1-before.db" in found(site).unknown


# ---- restore.datadir --------------------------------------------------------------------------------------------


def datadir_of(path="/var/lib/new"):
    return Step("9/cp-1/restore.datadir", "restore.datadir", "cp-1", {"plan": "restore-1", "path": path}, 60.0)


def decide(site, step):
    return DataDir().decide(DataDir().probe(site, step), step, {})


def test_kubeadm_is_told_the_path_once_and_told_the_old_one_again(site):
    step = datadir_of()
    assert isinstance(decide(site, step), Needed)

    apply(DataDir(), site, step)

    assert isinstance(decide(site, step), Done)
    assert site.settings == SETTINGS.replace("/var/lib/etcd", "/var/lib/new")
    assert site.commands[0][-1] == "--patch-file=/dev/stdin"
    assert isinstance(decide(site, datadir_of("/var/lib/etcd")), Needed)


def test_where_kubeadm_left_no_settings_there_is_nothing_to_tell(site):
    site.settings = ""

    assert isinstance(decide(site, datadir_of()), Done)


def test_while_no_api_server_answers_it_is_yet_to_do(site):
    site.away = True

    assert isinstance(decide(site, datadir_of()), Needed)


# ---- the look at the cluster ------------------------------------------------------------------------------------


class Cluster(Site):
    """A cluster that comes back bit by bit: kubelets speak and controllers lead after some seconds."""

    def __init__(self, directory, clock):
        super().__init__(directory)
        self.clock = clock
        self.speaks = {"n1": 5.0, "n2": 8.0}
        self.leads_after = 20.0
        self.ready_after = 12.0
        self.unread_until = 0.0
        self.unreachable = ()

    def nodes(self):
        if self.clock.now() < self.unread_until:
            raise ApiUnreachable("no answer", remedy="wait")
        return tuple(Node(name, "u", "1", unschedulable=False, ready=True) for name in self.speaks)

    def heartbeat(self, node):
        return self.renewal(self.speaks[node])

    def renewal(self, since):
        """A lease that is renewed from then on."""
        now = self.clock.now()
        return Renewal(100.0 + now if now >= since else 90.0, asked=100.0 + now)

    def leads(self, component):
        assert component in aftermaths.LEADERS
        return self.renewal(self.leads_after)

    def pods(self):
        of = OwnerRef("DaemonSet", "d", "apps/v1", "d")
        ready = self.clock.now() >= self.ready_after
        return (Pod("shop", "d-1", "u", "n1", "Running", ready=ready, controller=of),)

    def workloads(self):
        return (Workload("DaemonSet", "shop", "d", "d", None, 1, 1),)

    def ask(self, node, query, *words):
        assert (query.name, words) == ("restore", ("restore-1", "/var/lib/etcd"))
        if node in self.unreachable:
            raise HostUnreachable(f"{node}: no connection", remedy="see")
        return "@@before /var/lib/etcd.before-restore-1\n 5000\n@@member\n@@end\n"


class FakeApp:
    def __init__(self, directory):
        self.clock = FakeClock()
        self.clock.pass_to(0.0)
        self.view = Cluster(directory, self.clock)


@pytest.fixture
def app(tmp_path):
    return FakeApp(tmp_path)


PLANES = [Plane(f"cp-{n}", f"m{n}", f"https://198.18.0.{n}:2380", "/var/lib/etcd") for n in (1, 2)]


def plan_of(**changes):
    known = {"shown": ("prod-7", "--from", "s3://a b"), "source": "cp-1"}
    return restore.restore(PLANES, Request("restore-1", "prod", "x.db", "prod-7", 1, 2, "t", **{**known, **changes}))


def looked(app, plan=None, said=None):
    return aftermaths.looked(app, "run-1", plan or plan_of(), (said if said is not None else []).append)


def test_what_passes_is_waited_for_and_has_to_last(app):
    said = []

    told = looked(app, said=said)

    assert told.findings == ()
    assert 20.0 + aftermaths.LASTS_S - aftermaths.PAUSE_S <= app.clock.now() < 30.0
    assert said[0].startswith("not yet: nobody leads yet")


def test_what_stays_is_told_when_time_is_up(app):
    app.view.speaks["n2"] = 1e9

    told = looked(app)

    assert [each.check for each in told.findings] == ["NodeSilent"]
    assert app.clock.now() >= aftermaths.SETTLE_S


def test_a_control_plane_that_is_dead_is_not_waited_for(app):
    app.view.speaks["n2"] = 1e9

    told = looked(app, plan_of(dead=("n2",)))

    assert [each.check for each in told.findings] == ["NodeDead"]
    assert app.clock.now() < 30.0


def test_an_api_that_comes_late_is_looked_at_then(app):
    app.view.unread_until = 15.0

    assert looked(app).findings == ()


def forbidden():
    raise ApiForbidden("this user may not list nodes", remedy="see docs/rbac.md")


def test_an_api_that_stays_away_is_one_finding(app):
    app.view.unread_until = 1e9

    [only] = looked(app).findings

    assert only.check == "ApiUnread"
    assert "orchestrator resume" in only.remedy


def test_what_may_not_be_read_is_not_waited_for(app):
    app.view.nodes = forbidden

    [only] = looked(app).findings

    assert "may not" in only.text
    assert app.clock.now() < 10.0


def test_the_comparison_of_the_run_is_told_with_the_command_that_shows_all(app):
    states(app.view)
    apply(Compare(), app.view, compare_of())

    told = looked(app)

    assert told.losses.total("lost") == 1
    assert told.diff == f"orchestrator etcd diff {OLD} prod-7 --from 's3://a b'"
    assert [(each.path, each.size_bytes) for each in told.old] == [("/var/lib/etcd.before-restore-1", 5000)] * 2
    assert told.confirm == "orchestrator etcd restore --confirm run-1"


def test_where_there_is_no_comparison_no_command_is_made_up(app):
    told = looked(app)

    assert "not compared" in told.losses.unknown
    assert told.diff == ""


def test_a_run_of_before_that_compared_nothing_is_told_all_the_same(app):
    plan = plan_of()
    older = replace(plan, waves=tuple(w for w in plan.waves if w.lanes[0].steps[0].action != "restore.compare"))

    assert "not compared" in looked(app, older).losses.unknown


def test_a_host_that_does_not_answer_hides_no_other(app):
    app.view.unreachable = ("cp-2",)

    told = looked(app)

    assert [(each.node, each.path != "", each.why) for each in told.old] == [
        ("cp-1", True, ""),
        ("cp-2", False, "cp-2: no connection"),
    ]


def test_once_confirmed_the_comparison_goes(app):
    states(app.view)
    apply(Compare(), app.view, compare_of())
    plan = restore.confirm("run-1", plan_of())

    aftermaths.forget(app, plan)
    aftermaths.forget(app, plan)

    assert not compared(app.view, "restore-1").exists()


def test_only_a_restore_has_something_to_tell():
    assert aftermaths.wanted(plan_of())
    assert not aftermaths.wanted(restore.back("run-1", plan_of(), {}))
