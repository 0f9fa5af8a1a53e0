"""Upgrades of other shapes: three control planes behind a load balancer, and two minors in one run."""

import pytest

from lab import progress
from lab.state import Shape
from lab.upgrades import application
from lab.upgrades.askers import ApiClient, EtcdWatch, ServiceClient
from lab.upgrades.budgets import BudgetWatch
from tests.lab.real import until
from tests.lab.upgrading import ACCEPTED, APPLY, NEW, OLD, own_cluster, told_in

pytestmark = [pytest.mark.lab, pytest.mark.lab_full]
OLDER = "1.35.4"
LONG_S = 1800
#: Of the API through the load balancer. What an operator was promised; each answer is waited for as long.
AWAY_S = 5.0


def everywhere(site, version):
    names = [node["metadata"]["name"] for node in site.real.read("nodes")["items"]]
    return dict.fromkeys(names, (f"v{version}", False))


def steps(said):
    """How long each step took, for people."""
    return "\n".join(
        f"{e['node']} {e['step'].split('/', 2)[2]} {e['took_s']}"
        for e in told_in(said.stderr)
        if e["event"] == "step.finished" and e["took_s"] >= 1
    )


def test_three_control_planes_serve_all_the_time(tmp_path):
    with own_cluster("uf-three", tmp_path, shape=Shape(3, 1)) as site:
        app = application.deploy(site.access, anywhere=True)
        with (
            ServiceClient(site.access, app) as client,
            ApiClient(site.access) as api,
            BudgetWatch(site.access) as watch,
            EtcdWatch(site.access) as etcd,
        ):
            said = site.command(*APPLY, timeout_s=LONG_S)
            answers, calls, held, members = client.stop(), api.stop(), watch.stop(), etcd.stop()
        outages = [(round(s, 1)) for _, s in calls.outages]
        progress.say(f"{steps(said)}\napplication: {answers}\nAPI: {calls}; away {outages}\netcd: {members}")
        until("all at the new version", lambda: site.kubelets() == everywhere(site, NEW))

        planes = [e["node"] for e in told_in(said.stderr) if e["event"] == "step.finished" and _control_plane(e)]
        assert len(planes) == 3
        assert answers.failures == (), str(answers)
        assert held.shortages == ()
        assert calls.longest_outage_s <= AWAY_S, outages
        assert members.without_quorum == ()


def _control_plane(event):
    return event["action"] == "kubeadm.upgrade" and "control-plane" in event["node"]


def test_two_minors_in_one_run(tmp_path):
    with own_cluster("uf-hops", tmp_path, version=OLDER, offered=(OLDER, OLD, NEW)) as site:
        app = application.deploy(site.access)
        with ServiceClient(site.access, app) as client, BudgetWatch(site.access) as watch:
            shown = site.command.json("upgrade", "plan", "--to", "1.37", *ACCEPTED, "--ssh")
            said = site.command(*APPLY, timeout_s=LONG_S)
            answers, held = client.stop(), watch.stop()
        progress.say(f"{steps(said)}\napplication: {answers}")
        until("all at the new version", lambda: site.kubelets() == everywhere(site, NEW))

        assert [hop["to"] for hop in shown["hops"]] == [f"v{OLD}", f"v{NEW}"]
        assert answers.failures == (), str(answers)
        assert held.shortages == ()
        assert site.host(site.plane)["held"] == ["kubeadm", "kubectl", "kubelet"]
