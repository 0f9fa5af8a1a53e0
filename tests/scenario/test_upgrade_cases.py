"""The use cases of upgrades: what is looked at and refused before a plan is made, and the way back."""

from types import SimpleNamespace

import pytest

from orchestrator import rollbacks, upgrades
from orchestrator.app import DryRun, Settings
from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import STATIC
from orchestrator.cluster.versions import Workers
from orchestrator.engine import runs
from orchestrator.engine.journal import Journal
from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.errors import ApiForbidden, ApiThrottled, ApiUnreachable, BadUsage, HostUnreachable, Locked, Refused
from tests.fakes.site import FakeSite, FakeSiteView
from tests.fakes.site_machines import FakeErrand
from tests.fakes.time import FakeClock
from tests.fakes.world import FLAGS

SERVER = "https://198.18.0.11:6443"


@pytest.fixture
def site(tmp_path):
    found = FakeSite(FakeClock(), tmp_path, planes=1, workers=2)
    found.add_applications()
    return found


@pytest.fixture
def said():
    return []


def application(site, *, dry_run=DryRun.CLIENT, held=None):
    def refuse_if_held():
        if held:
            raise held

    reader = site.view() if dry_run is not DryRun.NONE else site.hands()
    return SimpleNamespace(
        settings=Settings(dry_run=dry_run),
        reader=reader,
        session=SimpleNamespace(server=SERVER),
        machines=reader.machines,
        clock=site.clock,
        owner="ann@laptop",
        refuse_if_held=refuse_if_held,
    )


class Asking(FakeSiteView):
    """A view of hosts of which some answer otherwise: `other` gives an error, or what is replaced by what, or None."""

    def __init__(self, site, other):
        super().__init__(site)
        self._other = other

    def ask(self, node, query, *words):
        other = self._other(node, query)
        if isinstance(other, Exception):
            raise other
        answer = super().ask(node, query, *words)
        return answer.replace(*other) if other else answer


LOST = HostUnreachable("the connection broke", remedy="see that it is up")


def asking(site, other):
    app = application(site)
    app.reader = Asking(site, other)
    app.machines = app.reader.machines
    return app


def prepared(site, said=None, app=None, **wish):
    asked = {
        "to": "1.37",
        "nodes": (),
        "accept": (),
        "strategy": "rolling",
        "workers": Workers.EACH_HOP,
        "max_unavailable": 1,
        "flags": FLAGS,
        "drain_timeout_s": 60.0,
        "pause_after": "",
    }
    lines = said if said is not None else []
    return upgrades.prepare(app or application(site), upgrades.Wish(**{**asked, **wish}), lines.append)


def back(site, node="cp-1", app=None):
    return rollbacks.prepare(
        app or application(site), node, flags=FLAGS, drain_timeout_s=60.0, say=lambda _: None
    )  # fmt: skip


def nodes_of(plan, action):
    return [step.node for step in plan.steps() if step.action == action]


# ---- upgrade --------------------------------------------------------------------------------------------------------


def test_the_plan_leads_over_all_nodes_control_planes_first(site, said):
    found = prepared(site, said)

    assert (str(found.current), [str(h.to) for h in found.hops]) == ("v1.36.3", ["v1.37.2"])
    assert nodes_of(found.plan, "kubeadm.upgrade") == ["cp-1", "node-1", "node-2"]
    assert found.unaccepted == ()
    assert any("3 hosts" in line for line in said)


def test_without_a_version_it_is_the_next_minor(site):
    assert [str(h.to) for h in prepared(site, to="").hops] == ["v1.37.2"]


def test_two_minors_are_two_hops(site):
    assert [str(h.to) for h in prepared(site, to="1.38").hops] == ["v1.37.2", "v1.38.1"]


def test_nothing_newer_on_offer_is_nothing_to_do(site):
    for machine in site.machines.values():
        machine.offers = {"1.36": ("1.36.3",)}

    found = prepared(site, to="")
    assert (found.hops, list(found.plan.steps()), found.unaccepted) == ((), [], ())


def test_a_hosts_clock_is_held_against_this_machines_at_that_moment(site):
    site.machines["node-2"].ahead_s = 60.0

    assert [f.where for f in prepared(site).unaccepted if f.check == "ClockSkew"] == ["node-2"]
    for machine in site.machines.values():
        machine.ahead_s = 60.0
    assert [f.where for f in prepared(site).unaccepted if f.check == "ClockSkew"] == ["cluster"]


UNREAD = ("@@update 0\n", "@@update 0\n W: Failed to fetch http://x  Could not connect\n")


def test_a_repository_that_does_not_answer_is_not_taken_for_one_that_has_nothing_newer(site):
    for machine in site.machines.values():
        machine.offers = {"1.36": ("1.36.3",), "1.37": ("1.36.3",)}

    def unread(_, query):
        return UNREAD if query is queries.OFFERS else None

    found = prepared(site, app=asking(site, unread), to="")
    assert found.hops == ()
    assert {(f.check, f.where) for f in found.unaccepted} == {("Repository", name) for name in site.machines}
    with pytest.raises(Refused, match="offers") as caught:
        prepared(site, app=asking(site, unread), to="1.37")
    assert any("Could not connect" in note for note in caught.value.__notes__)


def test_a_newer_version_without_its_kubelet_is_no_way(site):
    for machine in site.machines.values():
        machine.lacks = {"kubelet"}

    assert prepared(site, to="").hops == ()
    with pytest.raises(Refused, match="offers"):
        prepared(site)


def test_of_nodes_that_are_done_it_is_said_who_is_behind(site):
    for name in ("cp-1", "node-1"):
        machine = site.machines[name]
        machine.manifests = {n: v.replace("1.36.3", "1.37.2") for n, v in machine.manifests.items()}
        machine.components = dict(machine.manifests)
        for package in machine.packages.values():
            package.version = package.version.replace("1.36.3", "1.37.2")
        machine.running = "1.37.2"
        site.change_node(name, kubelet_version="v1.37.2")

    found = prepared(site, nodes=("cp-1", "node-1"))

    assert (found.hops, found.unaccepted, found.behind) == ((), (), ("node-2 (v1.36.3)",))


def test_a_control_plane_alone_has_its_own_kubelet_to_follow(tmp_path):
    site = FakeSite(FakeClock(), tmp_path, planes=1, workers=0)
    machine = site.machines["cp-1"]
    machine.manifests = {name: version.replace("1.36.3", "1.37.2") for name, version in machine.manifests.items()}
    machine.components = dict(machine.manifests)
    site.kubernetes = machine.packages["kubeadm"].version = "1.37.2"

    assert [str(h.to) for h in prepared(site).hops] == ["v1.37.2"]


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        ({"to": "1.35"}, Refused, "does not downgrade"),
        ({"to": "1.36.1"}, Refused, "offers"),
        ({"to": "1.39"}, Refused, "offers"),
        ({"to": "tomorrow"}, BadUsage, "is no version"),
        ({"nodes": ("node-9",)}, BadUsage, "node-9"),
    ],
)
def test_what_cannot_be_reached_is_refused_before_a_plan_is_made(site, wish, error, words):
    with pytest.raises(error, match=words):
        prepared(site, **wish)


def test_a_downgrade_is_refused_with_the_source_of_its_rule(site):
    with pytest.raises(Refused) as caught:
        prepared(site, to="1.35")
    assert "https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-upgrade/" in caught.value.remedy


def test_a_cluster_that_a_run_holds_is_refused_at_once(site):
    held = Locked("bob holds it", remedy="wait")

    with pytest.raises(Locked, match="bob"):
        prepared(site, app=application(site, dry_run=DryRun.NONE, held=held))
    prepared(site, app=application(site, dry_run=DryRun.CLIENT, held=held))  # looking is free


def test_a_managed_cluster_is_refused_with_its_own_command(site):
    site.change_node("node-1", kubelet_version="v1.36.3-gke.1000")

    with pytest.raises(Refused, match="kubeadm does not run this cluster") as caught:
        prepared(site)
    assert "gcloud" in caught.value.remedy


def test_a_worker_that_cannot_be_reached_is_a_finding_and_the_others_are_judged(site):
    site.machines["node-2"].cut = True
    site.machines["node-1"].offers = {"1.36": ("1.36.3",)}

    found = prepared(site)

    [unknown] = [f for f in found.unaccepted if f.check == "HostUnknown"]
    assert (unknown.where, unknown.remedy.splitlines()[-1]) == ("node-2", "or leave it out: --nodes cp-1,node-1")
    [lacking] = [f for f in found.unaccepted if f.check == "PackageVersion"]
    assert "node-1" in lacking.text


def test_a_worker_that_cannot_be_reached_keeps_no_other_from_its_upgrade(site):
    site.machines["node-2"].cut = True

    found = prepared(site, nodes=("cp-1", "node-1"))

    assert found.unaccepted == ()
    assert [f.where for f in found.findings if f.check == "HostUnknown"] == ["node-2"]
    assert set(found.plan.nodes()) == {"cp-1", "node-1"}


def test_a_control_plane_that_cannot_be_reached_is_a_finding(tmp_path):
    site = FakeSite(FakeClock(), tmp_path, planes=3, workers=1)
    site.machines["cp-3"].cut = True

    found = prepared(site, nodes=("cp-1",))

    assert [f.where for f in found.unaccepted if f.check == "HostUnknown"] == ["cp-3"]
    assert {step.params["control_planes"][-1] for step in found.plan.steps() if "control_planes" in step.params} == {
        "cp-3"
    }


@pytest.mark.parametrize("nodes", [("node-2",), ("node-1", "node-2")])
def test_none_of_the_nodes_asked_for_can_be_reached_and_nothing_is_judged(site, nodes):
    for name in nodes:
        site.machines[name].cut = True

    with pytest.raises(HostUnreachable) as caught:
        prepared(site, nodes=nodes)
    assert len(getattr(caught.value, "__notes__", ())) == len(nodes) - 1


def test_without_a_control_plane_nothing_can_be_judged(site):
    with pytest.raises(HostUnreachable):
        prepared(site, app=asking(site, lambda node, _: LOST if node == "cp-1" else None))


def test_a_host_that_is_lost_while_it_is_looked_at_is_a_finding(site):
    later = (("node-2", queries.OFFERS), ("cp-1", queries.API))

    found = prepared(site, app=asking(site, lambda *asked: LOST if asked in later else None))

    checks = {f.check: f for f in found.unaccepted}
    assert {"Repository", "ApiServer"} <= set(checks)
    assert "the connection broke" in checks["Repository"].text


def test_a_host_that_is_lost_during_kubeadms_checks_is_a_finding(site):
    found = prepared(site, app=asking(site, lambda _, query: LOST if query is queries.PREFLIGHT else None))

    assert {f.where for f in found.unaccepted if f.check == "KubeadmPreflight"} == {"cp-1", "node-1", "node-2"}


@pytest.mark.parametrize("other", [LOST, ("@@diff 0", "@@diff 1")])
def test_manifests_that_cannot_be_compared_are_a_finding(site, other):
    found = prepared(site, app=asking(site, lambda _, query: other if query is queries.EDITED else None))

    assert [(f.check, f.where) for f in found.unaccepted] == [("ManifestsNotCompared", "cp-1")]


def test_each_api_server_is_asked_for_the_deprecated_apis_that_clients_use(tmp_path):
    site = FakeSite(FakeClock(), tmp_path, planes=3, workers=1)
    labels = 'group="batch",version="v1",resource="cronjobs",removed_release="1.40"'
    site.machines["cp-3"].requested = [f"apiserver_requested_deprecated_apis{{{labels}}} 1"]

    found = prepared(site, app=asking(site, lambda *asked: LOST if asked == ("cp-2", queries.REQUESTED) else None))

    assert ["batch/v1/cronjobs" in f.text for f in found.findings if f.check == "DeprecatedApis"] == [True]


def test_hosts_without_apt_are_refused_when_no_other_is_to_be_upgraded(site):
    def rpm(node, query):
        del query
        return ("/usr/bin/apt-get", "") if node == "node-2" else None

    assert [f.where for f in prepared(site, app=asking(site, rpm)).unaccepted if f.check == "NoApt"] == ["node-2"]
    assert prepared(site, app=asking(site, rpm), nodes=("cp-1", "node-1")).unaccepted == ()
    with pytest.raises(Refused, match="no apt on node-2"):
        prepared(site, app=asking(site, rpm), nodes=("node-2",))


def test_a_version_that_one_node_is_not_offered_is_a_finding_that_names_it(site):
    site.machines["node-2"].offers = {"1.36": ("1.36.3",)}

    found = prepared(site)
    [lacking] = [f for f in found.unaccepted if f.check == "PackageVersion"]
    assert "node-2" in lacking.text
    assert "node-1" not in lacking.text


def test_only_some_nodes_are_upgraded_when_only_they_are_named(site):
    found = prepared(site, nodes=("cp-1",))

    assert set(found.plan.nodes()) == {"cp-1"}


def test_all_at_once_is_one_wave_of_workers_that_asks_no_budgets(site):
    found = prepared(site, strategy="all-at-once")

    [wave] = [w for w in found.plan.waves if any(s.action == "kubelet.upgrade" for s in w.lanes[0].steps)][1:]
    assert {lane.node for lane in wave.lanes} == {"node-1", "node-2"}
    drains = [s for s in found.plan.steps() if s.action == "node.drain" and s.node != "cp-1"]
    assert all(step.params["disable_eviction"] for step in drains)


def test_what_a_drain_would_refuse_cannot_be_accepted(site):
    site.add_pod("default", "bare", "node-1")

    found = prepared(site, accept=("PodsRefused",))

    [refused] = found.unaccepted
    assert (refused.check, refused.where, refused.remedy) == ("PodsRefused", "node-1", "add --force")


def test_pods_are_judged_as_the_plans_own_drains_take_them(site):
    site.add_budget("default", "web-too", max_unavailable=1, app="web")

    assert {f.check for f in prepared(site).unaccepted} == {"PodsRefused"}
    found = prepared(site, strategy="all-at-once")
    assert found.unaccepted == ()
    assert "ReplicaSet default/web" in next(f.text for f in found.findings if f.check == "AllAtOnce")


def test_what_is_accepted_is_handed_to_kubeadm_and_kept_in_the_plan(site):
    found = prepared(site, accept=("SystemVerification",))

    assert {tuple(s.params["accept"]) for s in found.plan.steps() if s.action == "kubeadm.upgrade"} == {
        ("SystemVerification",)
    }


def test_the_member_that_leads_comes_last(tmp_path):
    site = FakeSite(FakeClock(), tmp_path, planes=3, workers=1)
    site.leader = "cp-2"

    assert nodes_of(prepared(site).plan, "kubeadm.upgrade")[:3] == ["cp-1", "cp-3", "cp-2"]


def test_of_an_etcd_elsewhere_no_snapshot_is_planned(site):
    assert nodes_of(prepared(site).plan, "etcd.snapshot") == ["cp-1"]
    site.use_external_etcd("https://etcd-1:2379")

    found = prepared(site)

    assert nodes_of(found.plan, "etcd.snapshot") == []
    assert "takes no snapshot" in next(f.text for f in found.findings if f.check == "ExternalEtcd")


# ---- the way back ---------------------------------------------------------------------------------------------------


def upgraded(site, name, *, etcd="3.7.0-0", kept=True, data=True):
    """A control plane after `kubeadm upgrade`, with what kubeadm kept of before."""
    machine = site.machines[name]
    old = dict(machine.manifests)
    machine.manifests = {n: "1.37.2" if n != "etcd" else etcd for n in old}
    machine.components = dict(machine.manifests)
    machine.packages["kubeadm"].version = "1.37.2"
    machine.kept = [("2026-11-24-10-00-00", old, data)] if kept else []
    return machine


def test_a_control_plane_goes_back_to_what_kubeadm_kept(site):
    upgraded(site, "cp-1", etcd="3.6.8-0")

    found = back(site)
    assert (str(found.to), found.losses) == ("v1.36.3", ())
    [step] = [s for s in found.plan.steps() if s.action == "kubeadm.rollback"]
    kept = "/etc/kubernetes/tmp/kubeadm-backup-manifests-2026-11-24-10-00-00"
    assert step.params["manifests"] == [f"{kept}/{name}.yaml" for name in STATIC]


def test_the_only_members_data_go_back_with_an_older_etcd_and_what_is_lost_is_said(site):
    upgraded(site, "cp-1")

    found = back(site)
    assert any("2026-11-24-10-00-00" in loss for loss in found.losses)
    [step] = [s for s in found.plan.steps() if s.action == "kubeadm.rollback"]
    assert step.params["data"].endswith("2026-11-24-10-00-00/etcd")


def test_the_data_of_before_the_first_of_two_runs_of_kubeadm_go_back(site):
    """It was cut short once: what the second one copied is of the new etcd already."""
    machine = upgraded(site, "cp-1")
    old = machine.kept[0][1]
    first, second = ("etcd", "kube-apiserver"), ("kube-controller-manager", "kube-scheduler")
    machine.kept = [
        ("2026-11-24-10-05-00", {name: old[name] for name in second}, True),
        ("2026-11-24-10-00-00", {name: old[name] for name in first}, True),
    ]

    found = back(site)
    [step] = [s for s in found.plan.steps() if s.action == "kubeadm.rollback"]
    assert step.params["data"].endswith("2026-11-24-10-00-00/etcd")
    assert step.params["etcd"] == "v3.6.8"
    assert [path.rpartition("manifests-2026-11-24-")[2] for path in step.params["manifests"]] == [
        *(f"10-00-00/{name}.yaml" for name in first),
        *(f"10-05-00/{name}.yaml" for name in second),
    ]


def test_an_etcd_that_kubeadm_replaced_alone_stays_where_its_data_would_have_to_go_back(site):
    machine = site.machines["cp-1"]
    machine.packages["kubeadm"].version = "1.37.2"
    machine.manifests["etcd"] = machine.components["etcd"] = "3.7.0-0"
    machine.kept = [("2026-11-24-10-00-00", {"etcd": "3.6.8-0"}, True)]

    found = back(site)

    assert (found.losses, nodes_of(found.plan, "kubeadm.rollback")) == ((), [])


def test_an_etcd_that_kubeadm_replaced_alone_goes_back_where_its_data_can_stay(tmp_path):
    site = FakeSite(FakeClock(), tmp_path, planes=3, workers=1)
    machine = site.machines["cp-1"]
    machine.packages["kubeadm"].version = "1.37.2"
    machine.manifests["etcd"] = machine.components["etcd"] = "3.7.0-0"
    machine.kept = [("2026-11-24-10-00-00", {"etcd": "3.6.8-0"}, True)]

    found = back(site)

    [step] = [s for s in found.plan.steps() if s.action == "kubeadm.rollback"]
    assert (found.losses, step.params["data"], step.params["etcd"]) == ((), "", "v3.6.8")
    assert [path.rpartition("/")[2] for path in step.params["manifests"]] == ["etcd.yaml"]


def test_without_a_copy_of_the_data_there_is_no_way_back(site):
    upgraded(site, "cp-1", data=False)

    with pytest.raises(Refused, match="kept no data"):
        back(site)


def test_a_kubelet_that_would_be_newer_closes_the_way_back(site):
    upgraded(site, "cp-1")
    site.change_node("node-1", kubelet_version="v1.37.2")

    with pytest.raises(Refused, match=r"node-1 \(v1.37.2\)"):
        back(site)


def test_one_that_kubeadm_took_back_itself_has_only_packages_to_put_back(site):
    site.machines["cp-1"].packages["kubeadm"].version = "1.37.2"

    found = back(site)
    assert nodes_of(found.plan, "kubeadm.rollback") == []
    assert nodes_of(found.plan, "packages.downgrade") == ["cp-1", "cp-1"]


@pytest.mark.parametrize(("node", "error"), [("node-1", BadUsage), ("nobody", BadUsage), ("cp-1", Refused)])
def test_what_was_never_upgraded_does_not_go_back(site, node, error):
    with pytest.raises(error):
        back(site, node)


def test_a_held_cluster_is_refused_for_the_way_back_too(site):
    upgraded(site, "cp-1")

    with pytest.raises(Locked):
        back(site, app=application(site, dry_run=DryRun.NONE, held=Locked("bob holds it", remedy="wait")))


# ---- back, without an API server ------------------------------------------------------------------------------------


NOW = FakeClock().wall()
PLACES = {"cp-1": ("198.18.0.11", "kind://docker/k/cp-1"), "node-1": ("198.18.0.12", ""), "node-2": ("198.18.0.13", "")}


@pytest.fixture
def upgrading(tmp_path, monkeypatch, site):
    """An upgrade from here that got as far as its only control plane, whose API server does not come back."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    upgraded(site, "cp-1")
    del site.machines["cp-1"].components["kube-apiserver"]

    def begun(name="upgrade-1", planes=("cp-1",), server=SERVER, at=NOW, kind="upgrade", *, under_way=True, **meta):
        step = Step("kubeadm", "kubeadm.upgrade", "cp-1", {"control_planes": list(planes)}, None)
        plan = Plan(kind, "upgrade to v1.37.2", (Wave((Lane("cp-1", (step,)),)),))
        noted = {"server": server, "hosts": PLACES, "kubeconfig": ["/there.conf"], "context": "there", **meta}
        journal = Journal.create(runs.directory(name), name, plan, meta=noted, wall=lambda: at)
        if under_way:
            journal.started("kubeadm", {})
        return journal

    return begun


def silent(site):
    """Its etcd answers nobody."""
    del site.machines["cp-1"].components["etcd"]


def goes_back(site, said=None, app=None):
    lines = said if said is not None else []
    return rollbacks.prepare(
        app or application(site), "cp-1", flags=FLAGS, drain_timeout_s=60.0, say=lines.append
    )  # fmt: skip


def test_the_only_control_plane_goes_back_though_its_api_server_is_away(site, upgrading, said):
    upgrading(ssh=True).close()
    app = application(site)

    found = goes_back(site, said, app)

    actions = [step.action for step in found.plan.steps()]
    assert [action for action in actions if action.startswith("node.")] == []
    assert all(step.params["without_api"] for step in found.plan.steps())
    assert {"etcd.snapshot", "kubeadm.rollback", "cluster.gate"} <= {*actions}
    assert any("nodes are those that upgrade-1 knew: cp-1, node-1, node-2" in line for line in said)
    assert app.settings.ssh
    assert app.machines.places() == PLACES


def test_who_holds_the_lock_cannot_be_asked_then(site, upgrading):
    upgrading().close()
    held = ApiUnreachable("no answer", remedy="see to it")

    found = goes_back(site, app=application(site, dry_run=DryRun.NONE, held=held))

    assert nodes_of(found.plan, "kubeadm.rollback") == ["cp-1"]


def test_what_the_latest_upgrade_of_that_cluster_knew_counts(site, upgrading):
    upgrading("upgrade-1", at=NOW - 30).close()
    upgrading("upgrade-2", planes=("cp-1", "cp-2"), at=NOW - 20).close()
    upgrading("restore-1", kind="restore", at=NOW - 10).close()
    upgrading("upgrade-3", server="https://elsewhere:6443", at=NOW).close()

    with pytest.raises(ApiUnreachable) as caught:
        goes_back(site)

    assert "other control planes: cp-2" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("node", "planes", "server", "note"),
    [
        ("node-9", ("cp-1",), SERVER, "noted where node-9 is; by hand: docs/upgrade.md"),
        (
            "cp-1",
            ("cp-1",),
            "https://there:6443",
            "of the cluster at https://there:6443; to use that, pass --kubeconfig",
        ),
        ("node-1", ("cp-1",), SERVER, "node-1 was no control plane of it: cp-1"),
        ("cp-1", ("cp-1", "cp-2", "cp-3"), SERVER, "other control planes: cp-2, cp-3"),
    ],
)
def test_without_an_api_server_that_is_known_to_be_the_only_one_nothing_goes_back(
    site, upgrading, node, planes, server, note
):
    upgrading(planes=planes, server=server).close()

    with pytest.raises(ApiUnreachable) as caught:
        back(site, node)

    assert note in caught.value.__notes__[0]


def test_an_api_server_that_only_we_do_not_reach_is_not_away(site, upgrading):
    upgrading().close()
    site.machines["cp-1"].components["kube-apiserver"] = "1.37.2"
    app = application(site, dry_run=DryRun.NONE, held=ApiUnreachable("no way there", remedy="see to it"))

    with pytest.raises(ApiUnreachable) as caught:
        goes_back(site, app=app)

    assert "answers on cp-1 itself" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "err",
    [
        ApiForbidden("may not read leases", remedy="ask for the right", status=403),
        ApiThrottled("too many requests", remedy="wait", status=429),
    ],
)
def test_an_api_server_that_answers_is_not_away(site, upgrading, err):
    upgrading().close()

    with pytest.raises(type(err)):
        goes_back(site, app=application(site, dry_run=DryRun.NONE, held=err))


def test_members_of_etcd_that_no_run_knew_close_the_way_back_without_an_api_server(tmp_path, upgrading):
    three = FakeSite(FakeClock(), tmp_path / "three", planes=3, workers=2)
    upgraded(three, "cp-1")
    for machine in three.planes():
        del machine.components["kube-apiserver"]
    upgrading().close()

    with pytest.raises(Refused, match="one of 3 members of etcd"):
        goes_back(three)


def test_an_etcd_that_does_not_tell_of_members_goes_back_within_the_upgrade_that_found_it_alone(site, upgrading):
    silent(site)
    upgrading().close()

    found = goes_back(site)

    [step] = [s for s in found.plan.steps() if s.action == "kubeadm.rollback"]
    assert step.params["data"].endswith("2026-11-24-10-00-00/etcd")
    assert nodes_of(found.plan, "etcd.snapshot") == []


@pytest.mark.parametrize("why", ["ended", "long ago", "not begun there"])
def test_an_etcd_that_does_not_tell_of_members_may_have_others_when_no_upgrade_is_under_way(site, upgrading, why):
    silent(site)
    with upgrading(at=NOW - (100_000.0 if why == "long ago" else 0.0), under_way=why != "not begun there") as journal:
        if why == "ended":
            journal.mark("ended")

    with pytest.raises(Refused, match="since upgrade-1 others may have joined"):
        goes_back(site)


def test_what_a_way_back_that_was_cut_short_took_away_is_no_sign_of_a_worker(site, upgrading):
    """It had set aside the manifests of the API server and etcd."""
    silent(site)
    for name in ("kube-apiserver", "etcd"):
        del site.machines["cp-1"].manifests[name]
    upgrading().close()

    found = goes_back(site)

    [step] = [s for s in found.plan.steps() if s.action == "kubeadm.rollback"]
    assert step.params["data"].endswith("2026-11-24-10-00-00/etcd")
    assert [path.rpartition("/")[2] for path in step.params["manifests"]] == [f"{name}.yaml" for name in STATIC]


@pytest.mark.parametrize("name", ["upgrade-1", "upgrade-0"])
def test_no_run_that_is_at_work_on_the_cluster_is_worked_against(site, upgrading, name):
    upgrading().close()
    busy = runs.directory(name)

    with Journal.open(busy) if name == "upgrade-1" else upgrading(name, at=NOW - 40), pytest.raises(Locked) as caught:
        goes_back(site)

    assert f"{name} is at work" in str(caught.value)


@pytest.mark.parametrize("away", [True, False])
def test_nothing_goes_back_under_a_kubeadm_that_is_at_work(site, upgrading, away):
    upgrading().close()
    if not away:
        site.machines["cp-1"].components["kube-apiserver"] = "1.37.2"
    site.machines["cp-1"].errands["a"] = FakeErrand(("kubeadm", "upgrade", "apply"))

    with pytest.raises(Refused, match=r"still at work there: kubeadm \(process 77\)"):
        goes_back(site)


@pytest.mark.parametrize("which", ["running", "installed"])
def test_without_an_api_server_kubelets_are_asked_by_their_hosts(site, upgrading, which):
    upgrading().close()
    if which == "running":
        site.machines["node-2"].running = "1.37.2"
    else:
        site.machines["node-2"].packages["kubelet"].version = "1.37.2"

    with pytest.raises(Refused, match=r"newer than its API server: node-2 \(v1.37.2\)"):
        goes_back(site)


def test_a_host_that_is_not_reached_is_said_when_there_is_no_api_server(site, upgrading, said):
    upgrading().close()

    goes_back(site, said, asking(site, lambda node, _: LOST if node == "node-2" else None))

    assert any("not reached: node-2; no kubelet there may be newer than v1.36.3" in line for line in said)
