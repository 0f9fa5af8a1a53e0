"""A node that reboots is a new boot to everyone, and comes back by itself with its pods and their network."""

from time import monotonic

import pytest

from tests.lab.real import WORKER, WORKER2, deployment, lab, pod, service, serving, since, starts, until

pytestmark = pytest.mark.lab
MANY = 10


def told(record_property, name, seconds):
    """Keep a measured time in the report, for people: it decides nothing."""
    record_property(name, seconds)
    print(f"{name}: {seconds} s")  # noqa: T201 - shown by `pytest -rP`


@pytest.fixture
def empty(real, orchestrator):
    """A worker with nothing on it but what belongs to nodes."""
    orchestrator("drain", WORKER, "--ignore-daemonsets", "--force")
    yield WORKER
    orchestrator("uncordon", WORKER)


@pytest.fixture
def full(place):
    """A worker with many pods, and one on the other worker that can look at them."""
    spec = {**serving("many"), "nodeName": WORKER}
    place.create(deployment("many", MANY, spec), service("many"))
    place.create(pod("left", serving("left"), node=WORKER), pod("right", serving("right"), node=WORKER2))
    place.until_ready(MANY + 2)
    return WORKER


def test_a_drained_node_comes_back_as_a_new_boot(real, empty, record_property):
    before = real.boot_id(empty)

    seconds = real.reboot(empty)

    after = real.boot_id(empty)
    told(record_property, "drained node, reboot to Ready", seconds)
    assert before != after == real.ssh(empty, "cat", "/proc/sys/kernel/random/boot_id").strip()
    assert real.ready(empty) == "True"


def test_a_full_node_comes_back_with_its_pods_and_they_reach_the_others(real, full, place, record_property):
    started = monotonic()

    seconds = real.reboot(full)
    until("its pods to start anew", lambda: sum(map(starts, place.pods().values())) == MANY + 1)
    place.until_ready(MANY + 2)

    told(record_property, "full node, reboot to Ready", seconds)
    told(record_property, "full node, reboot until all its pods are Ready again", since(started))
    addresses = {name: found["status"]["podIP"] for name, found in place.pods().items()}
    assert place.fetched("left", addresses["right"]) == "right\n"
    assert place.fetched("right", addresses["left"]) == "left\n"
    assert {place.fetched("right", addresses[name]) for name in addresses if name.startswith("many")} == {"many\n"}
    # DNS and kube-proxy come to Services by watches of their own, which tests before may have cut: up to a minute.
    until(
        "Services to be known on both nodes",
        lambda: {place.fetched(pod, "many") for pod in ("left", "right")} == {"many\n"},
    )


def test_routes_and_refusals_are_back_before_the_kubelet_after_a_reboot(real):
    order = real.ssh(WORKER, "systemctl show -p ActiveEnterTimestampMonotonic --value pod-routes containerd kubelet")
    routes = real.ssh(WORKER, "ip route")

    assert sorted(map(int, order.split())) == [int(stamp) for stamp in order.split()]
    assert "unreachable 198.19.0.0/17" in routes
    assert routes.count(" via 198.18.") >= 3


def test_a_cut_of_the_power_is_a_new_boot_too(real):
    before = real.boot_id(WORKER2)

    lab("power", WORKER2, "cycle")
    until(f"{WORKER2} to boot", lambda: real.boot_id(WORKER2) != before)
    real.until_ready(WORKER2)

    assert real.boot_id(WORKER2) == real.ssh(WORKER2, "cat", "/proc/sys/kernel/random/boot_id").strip()


def test_a_node_keeps_its_address_and_host_keys_over_a_cut_of_the_power(real):
    keys = 'cat /etc/ssh/ssh_host_*_key.pub; ip -4 -o address show eth0 | grep -o "inet [^ ]*"'
    before = real.ssh(WORKER2, keys)

    lab("power", WORKER2, "cycle")

    assert real.ssh(WORKER2, keys) == before
