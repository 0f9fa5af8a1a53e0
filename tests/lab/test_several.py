"""Several clusters beside each other, and one with several control planes."""

import pytest

from lab import cluster, docker, state
from lab.cluster import Request
from lab.state import Shape
from tests.lab.real import CONTROL_PLANE, Real, lab, until

pytestmark = [pytest.mark.lab, pytest.mark.lab_full]
HA = "ha-test"


@pytest.fixture
def made(real):
    """Makes clusters beside the shared one, which go with the test."""
    names = []

    def make(name, shape, version="1.36.3"):
        names.append(name)
        return Real(cluster.up(Request(name, Shape.parse(shape), version, ("1.36.3", "1.37.2"))))

    yield make
    for name in names:
        cluster.down(name)


def addresses(real):
    return {node["status"]["addresses"][0]["address"] for node in real.read("nodes")["items"]}


def members(real, *, by):
    """What etcdctl says of the health of all members, asked on a control plane."""
    pki = "/etc/kubernetes/pki/etcd"
    return real.kubectl(
        "-n", "kube-system", "exec", f"etcd-{by}", "--",
        "etcdctl", f"--cacert={pki}/ca.crt", f"--cert={pki}/server.crt", f"--key={pki}/server.key",
        "member", "list", "-w", "simple",
    ).splitlines()  # fmt: skip


def test_two_clusters_of_two_versions_run_beside_each_other_and_go_alone(real, made):
    other = made("other", "1+1", "1.37.2")

    both = lab("status").stdout.decode()
    versions = {node["status"]["nodeInfo"]["kubeletVersion"] for node in other.read("nodes")["items"]}
    found = other.ssh("other-worker", "apt-cache", "madison", "kubeadm")
    apart = addresses(real) & addresses(other)
    cluster.down("other")

    assert versions == {"v1.37.2"}
    assert "1.37.2-1.1" in found
    assert apart == set()
    assert "test: 1+2" in both
    assert "other: 1+1" in both
    assert state.load("other") is None
    assert docker.current().containers("other") == {}
    assert real.ready(CONTROL_PLANE) == "True"
    assert "1.36.3-1.1" in real.ssh(CONTROL_PLANE, "apt-cache", "madison", "kubeadm")


def test_three_control_planes_go_on_without_one_and_take_it_back(made):
    ha = made(HA, "3+1")
    first, second, third = (f"{HA}-control-plane{number}" for number in ("", "2", "3"))

    before = members(ha, by=second)
    lab("power", first, "off")
    until("the load balancer to leave it out", lambda: ha.attempt("get", "nodes").returncode == 0)
    until("it to be given up", lambda: ha.ready(first) == "Unknown")
    ha.kubectl("create", "configmap", "written-without-it")
    condition = [line.split()[-1] for line in lab("status").stdout.decode().splitlines() if f"  {first} " in line]
    lab("power", first, "on")
    ha.until_ready(first, second, third, f"{HA}-worker")

    assert len(before) == 3
    assert all("started" in line for line in before)
    assert condition == ["off"]
    assert ha.read("configmap", "written-without-it")["metadata"]["name"] == "written-without-it"
    assert ha.ssh(first, "systemctl is-active kubelet") == "active\n"


def test_up_starts_what_was_stopped(made):
    ha = made("stopped", "1+1")
    lab("power", "stopped-control-plane", "off")

    again = lab("up", "--name", "stopped", "--shape", "1+1")

    assert "stopped is up but not healthy: starting what is stopped" in again.stderr
    ha.until_ready("stopped-control-plane", "stopped-worker")


def test_the_load_balancer_has_a_power_button_but_is_no_node_to_log_in_to(made):
    ha = made(HA, "2+0")
    balancer = f"{HA}-external-load-balancer"

    done = lab("ssh", balancer, "--", "true", code=1)
    lab("power", balancer, "off")
    without = ha.attempt("get", "nodes", "--request-timeout=5s")
    lab("power", balancer, "on")

    ha.until_served()
    assert f"{balancer} has no ssh" in done.stderr
    assert "remedy: docker exec" in done.stderr
    assert without.returncode != 0
