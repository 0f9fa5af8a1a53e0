"""Faults while one of three control planes is upgraded: the others serve, and etcd keeps its quorum.

One cluster, and one way from the old version to the new: each of its control planes meets a fault in its turn.
"""

import signal
from contextlib import contextmanager

import pytest

from lab import progress
from lab.state import Shape
from lab.upgrades import application
from lab.upgrades.askers import ApiClient, EtcdWatch, ServiceClient
from tests.lab.real import lab, until
from tests.lab.upgrading import (
    APPLY,
    COMPONENTS,
    NEW,
    OLD,
    PATIENCE_S,
    RESUME,
    as_wanted,
    cut,
    ended,
    own_cluster,
    seen,
    until_in_the_middle_of_kubeadm,
    until_told,
)

pytestmark = [pytest.mark.lab, pytest.mark.lab_full]
LONG_S = 1800
#: Of the API through the load balancer, which has to find out that one of its servers is gone.
AWAY_S = 10.0
READY = "timeout 2 bash -c 'exec 3<> /dev/tcp/127.0.0.1/2379' 2> /dev/null"
ASIDE, MANIFEST = "/root/etcd.yaml", "/etc/kubernetes/manifests/etcd.yaml"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with own_cluster("uf-planes", tmp_path_factory.mktemp("planes"), shape=Shape(3, 1)) as made:
        made.app = application.deploy(made.access, anywhere=True)
        yield made


@contextmanager
def looked_on(site):
    """Somebody uses the API through the load balancer, and the application; somebody asks every member of etcd."""
    with (
        ServiceClient(site.access, site.app, node=site.workers[0]) as client,
        ApiClient(site.access) as api,
        EtcdWatch(site.access) as etcd,
    ):
        yield
        answers, calls, members = client.stop(), api.stop(), etcd.stop()
        away = [round(s, 1) for _, s in calls.outages]
        progress.say(f"application: {answers}\nAPI: {calls}; away {away}\netcd: {members}")
    assert members.without_quorum == ()
    assert calls.longest_outage_s <= AWAY_S, calls.outages


def at_work(command, process, *before):
    """The control plane at which kubeadm is in the middle, other than those before."""
    node = until_told(command, process, "kubeadm.upgrade", but=before, timeout_s=PATIENCE_S)
    until_in_the_middle_of_kubeadm(command, process, node=node)
    return node


def servers(site):
    """Control plane -> the version of its API server, by its host."""
    ask = "/proc/$(pidof -s kube-apiserver)/exe --version"
    return {node: site.access.ssh(node, ask).split()[-1] for node in site.planes}


def test_the_first_one_breaks_and_goes_back(site, tmp_path):
    operator = site.operator(tmp_path / "operator")
    with looked_on(site):
        process = operator.start(*APPLY)
        first = at_work(operator, process)
        site.access.ssh(first, "pkill -KILL -x kubeadm")
        killed = ended(operator, process, code=11)
        said = operator("upgrade", "rollback", first, "--yes", "--ssh", timeout_s=PATIENCE_S)

    progress.say(f"{killed[-1500:]}\n{said.stdout}")
    assert "kubeadm replaced etcd.yaml" in killed
    assert servers(site) == dict.fromkeys(site.planes, f"v{OLD}")
    assert site.host(first)["kubelet"] == [f"v{OLD}"]
    assert {name: site.running()[name] for name in COMPONENTS} == dict.fromkeys(COMPONENTS, f"v{OLD}")
    operator.end()


def test_one_breaks_another_loses_its_power_a_member_is_lost_and_a_network_is_cut(site, tmp_path):
    operator = site.operator(tmp_path / "operator")
    before = {node: site.host(node)["left"] for node in site.planes}  # of a run that nobody went on with
    with looked_on(site):
        process = operator.start(*APPLY)
        first = at_work(operator, process)
        process.kill()
        process.wait()
        process = operator.start(*RESUME)
        second = at_work(operator, process, first)
        lab("power", second, "off")
        try:
            until("that to be told", lambda: "retry.scheduled" in operator.stderr)
        finally:
            lab("power", second, "on")
        down = ended(operator, process, code=11)
        site.real.until_ready(second)

        # It goes on up to the drain. Then two of three are well: the new kubelet there would leave one.
        process = operator.start(*RESUME)
        until_told(operator, process, "node.cordon", node=second)
        process.send_signal(signal.SIGTERM)
        ended(operator, process, code=130)
        site.access.ssh(first, f"mv {MANIFEST} {ASIDE}; while pidof etcd > /dev/null; do sleep 0.2; done")
        try:
            refused = operator(*RESUME, code=20, timeout_s=PATIENCE_S).stderr
            still = site.host(second)["kubelet"]
        finally:
            site.access.ssh(first, f"mv {ASIDE} {MANIFEST}")
        # A kubelet backs off from a static pod that was started several times.
        until("that member", lambda: site.access.ssh(first, f"{READY} && echo yes || true") == "yes\n", 400)
        process = operator.start(*RESUME)
        third = at_work(operator, process, first, second)
        cut(site, third, process)
        ended(operator, process, timeout_s=LONG_S)

    progress.say(f"without power: {down[-1500:]}\nwithout a member: {refused[-900:]}")
    seen(operator, "kubeadm.upgrade")
    assert "the host went down" in down
    assert "1 of 3 members of etcd would be left, and 2 are needed" in refused
    assert still == [f"v{OLD}"]
    assert {first, second, third} == set(site.planes)
    assert {node: site.host(node)["package"] for node in site.planes} == dict.fromkeys(
        site.planes, as_wanted()["package"]
    )
    assert {node: site.host(node)["left"] for node in site.planes} == before
    everyone = [*site.planes, *site.workers]
    until("all at the new version", lambda: site.kubelets() == dict.fromkeys(everyone, (f"v{NEW}", False)))
    assert {name: site.running()[name] for name in COMPONENTS} == dict.fromkeys(COMPONENTS, f"v{NEW}")
    operator.end()
