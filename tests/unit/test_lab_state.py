"""What the lab remembers of its clusters."""

import ipaddress
import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import network, state
from lab.cluster import Request
from lab.errors import LabError
from lab.state import Cluster, Shape

TRIES = 5000


def said(capsys, thread):
    """What was said since the last call, a moment later."""
    thread.join(0.002)
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "orchestrator-lab" / "run" / "clusters"


def cluster(name="lab", shape="1+2", slot=1, **fields):
    known = {"version": "1.36.3", "offered": ("1.36.3", "1.37.2"), "image": "node:1"}
    return Cluster(name, shape, slot=slot, **{**known, **fields})


@given(st.integers(1, 9), st.integers(0, 99))
def test_a_shape_that_was_written_is_read(control_planes, workers):
    shape = Shape.parse(str(Shape(control_planes, workers)))

    assert (shape.control_planes, shape.workers, shape.total) == (control_planes, workers, control_planes + workers)


@pytest.mark.parametrize("text", ["", "1", "1+", "+2", "0+2", "10+2", "1+100", "-1+2", "1 + 2", "1+2+3", "a+b"])
def test_what_is_no_shape_is_refused_with_one_that_is(text):
    with pytest.raises(LabError, match="is no shape") as caught:
        Shape.parse(text)

    assert "--shape 1+2" in caught.value.remedy


def test_nodes_bear_kinds_names_and_addresses_of_the_clusters_own_slot():
    nodes = cluster(shape="1+2", slot=7).nodes()

    assert [(n.name, n.role, n.address) for n in nodes] == [
        ("lab-control-plane", "control-plane", "198.18.7.11"),
        ("lab-worker", "worker", "198.18.7.12"),
        ("lab-worker2", "worker", "198.18.7.13"),
    ]


def test_several_control_planes_stand_behind_a_load_balancer():
    nodes = cluster(shape="3+0").nodes()

    assert [n.name for n in nodes] == [
        "lab-control-plane",
        "lab-control-plane2",
        "lab-control-plane3",
        "lab-external-load-balancer",
    ]


@given(st.integers(1, 9), st.integers(0, 99), st.integers(1, 126))
def test_no_two_nodes_share_an_address_and_all_are_in_the_network_of_the_nodes(control_planes, workers, slot):
    nodes = cluster(shape=f"{control_planes}+{workers}", slot=slot).nodes()
    addresses = {ipaddress.ip_address(n.address) for n in nodes}

    assert len(addresses) == len(nodes)
    assert addresses <= set(ipaddress.ip_network(f"198.18.{slot}.0/24").hosts())
    assert ipaddress.ip_network(f"198.18.{slot}.0/24").subnet_of(ipaddress.ip_network(network.NODES))
    assert ipaddress.ip_address(network.GATEWAY) not in addresses


def test_the_networks_of_nodes_pods_and_services_keep_apart_inside_the_range_that_is_guarded():
    nodes, pods, services = map(ipaddress.ip_network, (network.NODES, network.PODS, network.SERVICES))

    assert not any(one.overlaps(other) for one, other in itertools.combinations((nodes, pods, services), 2))
    assert all(part.subnet_of(ipaddress.ip_network(network.RANGE)) for part in (nodes, pods, services))
    assert not any(ipaddress.ip_address(network.NOWHERE) in part for part in (nodes, pods, services))


def test_what_was_saved_is_loaded():
    saved = cluster(status="up", containers={"lab-worker": "abc"}, api_server="https://x").save()

    assert state.load("lab") == saved
    assert state.load("other") is None


def test_a_cluster_that_is_half_written_is_not_seen(home):
    (home / "lab").mkdir(parents=True)
    (home / "lab" / "state.json.new").write_text('{"name": "lab"')

    assert state.load("lab") is None
    assert state.clusters() == ()


def test_clusters_come_by_name_and_are_gone_when_forgotten(home):
    for name in ("b", "a", "c"):
        cluster(name).save()

    state.load("b").forget()

    assert [c.name for c in state.clusters()] == ["a", "c"]
    assert not (home / "b").exists()


def test_only_the_user_sees_what_is_remembered(home):
    cluster().save()

    assert (home / "lab").stat().st_mode & 0o077 == 0


def test_a_new_cluster_gets_the_first_slot_that_none_has():
    for name, slot in (("a", 1), ("b", 3)):
        cluster(name, slot=slot).save()

    assert state.free_slot() == 2


@pytest.mark.parametrize("name", ["a", "lab", "lab-2", "a" * 32, "9"])
def test_names_that_hosts_can_have_are_taken(name):
    assert state.check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "../x", "a" * 33, "a b", "ä", "a\n"])
def test_names_that_no_host_can_have_are_refused_with_what_is_allowed(name):
    with pytest.raises(LabError, match="cannot name a cluster") as caught:
        state.check_name(name)

    assert "small letters, digits and hyphens" in caught.value.remedy


def test_a_version_that_cannot_be_built_is_refused_with_those_that_can():
    with pytest.raises(LabError, match=r"cannot build Kubernetes 1\.2\.3") as caught:
        Request("lab", Shape(1, 0), "1.36.3", ("1.2.3",))

    assert "1.36.3" in caught.value.remedy


def test_a_bad_name_is_refused_before_anything_is_made():
    with pytest.raises(LabError, match="cannot name a cluster"):
        Request("No", Shape(1, 0), "1.36.3", ())


def test_the_version_of_the_nodes_is_always_offered_too():
    assert Request("lab", Shape(1, 0), "1.37.2", ("1.36.3",)).cluster(slot=1).offered == ("1.36.3", "1.37.2")


def test_a_published_image_brings_its_own_version():
    made = Request("lab", Shape(1, 0), "any", ("any",), image="kindest/node:v1.30.0").cluster(slot=1)

    assert (made.version, made.offered, made.image, made.published) == ("", (), "kindest/node:v1.30.0", True)
    assert not cluster().published


def test_who_has_a_lock_is_alone(capsys):
    order = []

    def other():
        with state.lock("lab"):
            order.append("other")

    waiter = threading.Thread(target=other)
    with state.lock("lab"):
        waiter.start()
        waits = any("waiting for it" in said(capsys, waiter) for _ in range(TRIES))
        order.append("first")
    waiter.join(10)

    assert waits
    assert order == ["first", "other"]


def test_locks_of_different_things_do_not_wait_for_one_another():
    with state.lock("cluster-a"), state.lock("cluster-b"):
        assert {p.name for p in state.run_directory().glob("*.lock")} == {"cluster-a.lock", "cluster-b.lock"}
