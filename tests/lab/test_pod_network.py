"""Pods reach each other across nodes, by address, Service and name, and nothing of theirs leaves the lab."""

import re

import pytest

from lab.processes import run
from tests.lab.real import CONTROL_PLANE, WORKER, WORKER2, guard, pod, service, serving, until

pytestmark = pytest.mark.lab
OUTSIDE = "198.51.100.1"  # Source: RFC 5737, TEST-NET-2: belongs to nobody
NO_POD = "198.19.77.7"


@pytest.fixture(scope="module")
def pair(place):
    """Pod -> its address; `left` is on the one worker, `right` on the other, each with a Service."""
    place.create(
        *(pod(name, serving(name), node=node) for name, node in (("left", WORKER), ("right", WORKER2))),
        *(service(name) for name in ("left", "right")),
    )
    place.until_ready(2)
    place.until_named("left", "left", "right")
    return {name: found["status"]["podIP"] for name, found in place.pods().items()}


@pytest.fixture
def refused():
    """Packets that the machine has refused to forward or send for the lab since the test began."""
    assert len([rule for rule in guard() if rule.endswith("-j ORCHESTRATOR-LAB")]) == 2  # else it would really go out
    before = counted()
    return lambda: counted() - before


@pytest.fixture
def leaving():
    """Packets to OUTSIDE that have passed this machine's rules: counted where they would leave."""
    rule = ["POSTROUTING", "-d", OUTSIDE, "-m", "comment", "--comment", "counted for a test"]
    run(["iptables", "-w", "-t", "mangle", "-A", *rule])
    yield lambda: packets(run(["iptables", "-w", "-t", "mangle", "-nvxL", "POSTROUTING"]), "counted for a test")
    run(["iptables", "-w", "-t", "mangle", "-D", *rule])


def counted():
    return packets(run(["iptables", "-w", "-nvxL", "ORCHESTRATOR-LAB"]), "REJECT")


def packets(listing, word):
    """The sum of the first column in the lines that have a word."""
    return sum(int(line.split()[0]) for line in listing.splitlines() if word in line)


def connect(address):
    """A line of shell that tries one connection, and says why there is none."""
    return f"timeout 10 bash -c 'echo > /dev/tcp/{address}/80' 2>&1; true"


def paths(place, pair):
    """What each pod gets from the other: by its address, its Service's address, and its Service's name."""
    got = {}
    for here, there in (("left", "right"), ("right", "left")):
        cluster_ip = place.kubectl("get", "service", there, "-o", "jsonpath={.spec.clusterIP}")
        for address in (pair[there], cluster_ip, there, f"{there}.{place.name}.svc.cluster.local"):
            got[here, address] = place.fetched(here, address)
    return got


def expected(got):
    return {key: f"{'right' if key[0] == 'left' else 'left'}\n" for key in got}


def test_pods_on_two_workers_reach_each_other_by_address_service_and_name(place, pair):
    # Tests before cut API servers off: kube-proxy and the DNS server come back to their watches after up to a minute.
    until("Services to be known on both nodes", lambda: (got := paths(place, pair)) == expected(got), 120)

    assert len(paths(place, pair)) == 8


def test_pods_have_addresses_of_their_nodes_range(real, place, pair):
    nodes = {found["spec"]["nodeName"]: found["status"]["podIP"] for found in place.pods().values()}

    for node, address in nodes.items():
        network = real.node(node)["spec"]["podCIDR"].removesuffix(".0/24")
        assert re.fullmatch(r"198\.19\.\d+", network)
        assert address.startswith(f"{network}.")


def test_a_node_does_not_reach_the_outside(real, refused, leaving):
    said = real.ssh(WORKER, connect(OUTSIDE))

    assert "Connection refused" in said
    assert refused() > 0
    assert leaving() == 0


def test_a_pod_does_not_reach_the_outside(place, pair, refused, leaving):
    said = place.fetched("left", OUTSIDE)

    assert "Connection refused" in said  # by its node, before the machine would
    assert leaving() == 0


def test_an_address_of_no_pod_is_unreachable_from_nodes_and_pods(real, place, pair, refused):
    from_node = real.ssh(CONTROL_PLANE, connect(NO_POD))
    from_pod = place.fetched("right", NO_POD)

    assert "No route to host" in from_node
    assert "unreachable" in from_pod or "No route to host" in from_pod


def test_a_node_that_lost_its_routes_does_not_send_pods_packets_out(real, refused):
    real.ssh(WORKER, "ip route | grep ^unreachable | xargs -L1 ip route del")

    said = real.ssh(WORKER, connect(NO_POD))
    real.ssh(WORKER, "sh /etc/lab/routes")

    assert "Connection refused" in said
    assert refused() > 0


def test_this_machine_does_not_send_to_the_labs_range_elsewhere_either(refused):
    said = run(["sh", "-c", connect(NO_POD)])

    assert "Connection refused" in said
    assert refused() > 0
