"""Where a node is, by what the cluster says of it; and how hosts are shown."""

import pytest

from orchestrator.cluster.model import Node
from orchestrator.engine.host import Reached, Vouched
from orchestrator.errors import FactUnreadable
from orchestrator.hosts.locate import BySsh, InContainer, place
from orchestrator.report import hosts


def node(name="node-1", **what):
    return Node(name, "uid", "1", unschedulable=False, ready=True, **what)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({"provider_id": "kind://docker/kind/kind-worker"}, InContainer("docker", "kind-worker")),
        ({"provider_id": "kind://podman/kind/kind-worker"}, InContainer("podman", "kind-worker")),
        ({"labels": {"minikube.k8s.io/name": "m"}, "os_image": "Ubuntu 22.04"}, InContainer("docker", "node-1")),
        (
            {
                "labels": {"minikube.k8s.io/name": "m"},
                "os_image": "Buildroot 2025.02",
                "addresses": {"InternalIP": "192.168.39.2"},
            },
            BySsh("node-1", "192.168.39.2"),
        ),
        ({"addresses": {"ExternalIP": "1.2.3.4", "InternalIP": "10.0.0.5"}}, BySsh("node-1", "10.0.0.5")),
        ({"addresses": {"Hostname": "n1"}, "provider_id": "aws:///eu/i-1"}, BySsh("node-1", "n1")),
    ],
)
def test_a_node_is_where_its_kind_of_cluster_has_it(what, expected):
    assert place(node(**what)) == expected


@pytest.mark.parametrize("provider_id", ["kind://docker/kind", "kind://rm -rf/kind/x"])
def test_a_provider_id_that_only_begins_as_kind_s_is_not_guessed_at(provider_id):
    with pytest.raises(FactUnreadable, match="provider id"):
        place(node(provider_id=provider_id))


def test_a_node_without_an_address_is_an_error():
    with pytest.raises(FactUnreadable, match="no address"):
        place(node())


def test_places_are_shown_as_the_commands_that_reach_them():
    assert [str(p) for p in (InContainer("docker", "c"), BySsh("n", "10.0.0.5"), BySsh("n", ""))] == [
        "docker exec c",
        "ssh 10.0.0.5",
        "ssh n",
    ]


def test_hosts_are_a_table_with_what_is_wrong_below():
    found = (
        Reached("n1", "ssh 10.0.0.1", "root", "is root", systemd=True, latency_s=0.0123),
        Reached("n2", "ssh 10.0.0.2", "ann", "", latency_s=0.2, error="n2: no sudo", remedy="install it"),
        Reached("n3", "ssh 10.0.0.3", error="n3 is down", remedy="one\ntwo"),
    )

    lines = hosts.checked(found).splitlines()

    assert lines[1].split() == ["n1", "ssh", "10.0.0.1", "root", "is", "root", "12", "ms", "systemd"]
    assert "NO" in lines[2]
    assert lines[3].endswith("NOT REACHED")
    assert [line.strip() for line in lines[5:10]] == [
        "n2: no sudo",
        "remedy: install it",
        "",
        "n3 is down",
        "remedy: one",
    ]
    assert lines[-1] == "3 hosts: 1 can be worked on, 2 cannot"
    assert hosts.checked(()) == "there are no hosts"
    assert [h.latency_s for h in hosts.host_list(found).hosts] == [0.0123, 0.2, None]


def test_keys_are_shown_under_their_hosts():
    found = (
        Vouched("n1", "n1", "ssh-ed25519", "SHA256:abc", "new", "kh"),
        Vouched("n1", "n1", "ssh-rsa", "SHA256:def", "known", "kh"),
        Vouched("n2", "[10.0.0.2]:2222", "ssh-rsa", "SHA256:ghi", "changed", "kh"),
    )

    assert hosts.keys(found).splitlines() == [
        "n1:",
        "  new     ssh-ed25519          SHA256:abc",
        "  known   ssh-rsa              SHA256:def",
        "n2 ([10.0.0.2]:2222 in known_hosts):",
        "  changed ssh-rsa              SHA256:ghi",
    ]
    assert [k.type for k in hosts.key_list(found).keys] == ["ssh-ed25519", "ssh-rsa", "ssh-rsa"]
