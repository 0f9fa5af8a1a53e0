"""A whole upgrade of real nodes, told once: what those saw who were there meanwhile, and what is on the hosts."""

import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab import progress
from lab.upgrades import application
from lab.upgrades.askers import ServiceClient
from lab.upgrades.budgets import BudgetWatch
from orchestrator.backup.snapshot import intact
from orchestrator.engine import journal
from tests.lab.real import since
from tests.lab.upgrading import ACCEPTED, APPLY, COMPONENTS, NEW, OLD, PATIENCE_S, as_wanted, own_cluster, told_in

pytestmark = pytest.mark.lab
NAME = "uf-whole"
PLAN = ("upgrade", "plan", "--to", "1.37", "--ssh")
#: kubeadm's check of the machine, which it may pass.
PASSES = Path("/sys/fs/cgroup/cgroup.controllers").exists()


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Planned without and with the acceptance, done with an application and everybody watching, and once more."""
    told = SimpleNamespace()
    with own_cluster(NAME, tmp_path_factory.mktemp("upgrade")) as site:
        told.site, run = site, site.command
        told.app = application.deploy(site.access)
        told.before = {node: site.host(node) for node in site.nodes}
        told.refused = run(*PLAN, code=0 if PASSES else 20)
        told.too_early = run(*APPLY, "--nodes", site.workers[0], code=20)
        told.plan = run.json(*PLAN, *ACCEPTED)
        told.planned = {node: site.host(node) for node in site.nodes}, site.kubelets()
        with ServiceClient(site.access, told.app) as client, BudgetWatch(site.access) as watch:
            began = time.monotonic()
            told.apply = run(*APPLY, timeout_s=PATIENCE_S)
            told.took_s = since(began)
            told.answers, told.held = client.stop(), watch.stop()
        progress.say(f"{told.took_s} s; application: {told.answers}; nodes out of service: {out(told)}")
        told.after = {node: site.host(node) for node in site.nodes}
        told.running, told.kubelets = site.running(), site.kubelets()
        told.again = run(*APPLY)
        told.addresses = {
            node["metadata"]["name"]: {address["address"] for address in node["status"]["addresses"]}
            for node in site.real.read("nodes")["items"]
        }
        told.known = [journal.read(place).meta["hosts"] for place in run.runs.iterdir()]
        yield told


def out(told):
    """Node -> seconds for which it was cordoned."""
    return {node: round(told.held.out_of_service_s(node), 1) for node in told.site.nodes}


def test_the_plan_shows_every_node_and_asks_for_what_has_to_be_accepted(story):
    shown, site = story.refused.stdout, story.site

    assert f"v{OLD} → v{NEW}" in shown
    assert all(node in shown for node in site.nodes)
    assert PASSES or "--accept SystemVerification" in shown
    assert [step["node"] for step in story.plan["steps"] if step["action"] == "kubeadm.upgrade"] == site.nodes
    assert [hop["to"] for hop in story.plan["hops"]] == [f"v{NEW}"]


def test_a_worker_is_not_upgraded_before_its_control_plane(story):
    assert "kubelet is not newer than the oldest API server" in story.too_early.stderr
    assert "nothing was changed" in story.too_early.stderr


def test_planning_and_refusing_change_nothing(story):
    hosts, kubelets = story.planned

    assert story.before == {node: as_wanted(OLD, moved=False) for node in story.site.nodes}
    assert hosts == story.before
    assert kubelets == dict.fromkeys(story.site.nodes, (f"v{OLD}", False))


def test_nobody_who_uses_the_application_notices(story):
    assert story.answers.asked > 5 * story.took_s
    assert story.answers.failures == (), str(story.answers)
    assert story.held.shortages == ()


def test_every_node_is_at_the_new_version_and_takes_pods(story):
    assert story.kubelets == dict.fromkeys(story.site.nodes, (f"v{NEW}", False))
    assert {name: story.running[name] for name in COMPONENTS} == dict.fromkeys(COMPONENTS, f"v{NEW}")


def test_each_node_was_out_of_service_once_and_one_after_another(story):
    cordons = story.held.cordons

    assert [each.node for each in cordons] == story.site.nodes
    assert all(before.until <= after.since for before, after in pairwise(cordons))


def test_hosts_are_as_they_should_be_and_nothing_else_is_left_there(story):
    assert story.after == {node: as_wanted() for node in story.site.nodes}


def test_there_is_a_snapshot_of_etcd_from_before(story):
    kept = story.site.command.home / "state" / "orchestrator" / "snapshots"
    (snapshot,) = kept.glob("*.db")
    (listed,) = story.site.command.json("etcd", "list")["snapshots"]

    assert intact(snapshot)
    (place,) = listed["places"]
    assert (listed["reason"], place["url"], place["wrong"]) == ("pre-upgrade", str(kept), "")
    assert place["verified"]


def test_once_more_there_is_nothing_to_do(story):
    assert f"the cluster is at v{NEW} already: nothing to do" in story.again.stderr
    assert told_in(story.again.stderr) == []


def test_the_run_knows_where_its_hosts_are_for_a_day_without_an_api_server(story):
    [known] = story.known

    assert known.keys() == story.addresses.keys()
    assert all(address in story.addresses[node] for node, (address, _) in known.items())
