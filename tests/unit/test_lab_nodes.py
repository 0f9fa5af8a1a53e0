"""What nodes are told: by kind, and by the lab after kind."""

import ipaddress
import json
import re
import select
import subprocess
import sys

import pytest

from lab import cache, kind, network, ssh
from lab.cluster import node_script
from lab.errors import LabError
from lab.state import Cluster

RANGES = {"lab-control-plane": "198.19.0.0/24", "lab-worker": "198.19.1.0/24", "lab-worker2": "198.19.2.0/24"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def cluster(shape="1+2", version="1.36.3", image="node:1"):
    return Cluster("lab", shape, version, (version,) if version else (), image, 3)


def files(script):
    """The files that a script writes: path -> text."""
    return dict(re.findall(r"cat > (\S+) <<'FILE'\n(.*?)FILE\n", script, re.DOTALL))


def script(name):
    made = cluster()
    return node_script(made, next(n for n in made.nodes() if n.name == name), RANGES)


def test_a_node_has_a_route_to_the_pods_of_every_other_and_none_to_its_own():
    routes = files(script("lab-worker"))["/etc/lab/routes"].splitlines()

    assert [line for line in routes if " via " in line] == [
        "ip route replace 198.19.0.0/24 via 198.18.3.11",
        "ip route replace 198.19.2.0/24 via 198.18.3.13",
    ]


def test_pods_without_a_route_are_unreachable_and_not_somewhere_outside():
    routes = files(script("lab-worker"))["/etc/lab/routes"].splitlines()
    (last,) = [line.split() for line in routes if " unreachable " in line]

    behind = ipaddress.ip_network(last[4])

    assert all(ipaddress.ip_network(each).subnet_of(behind) for each in RANGES.values())


def test_a_nodes_pods_get_addresses_of_its_own_range():
    config = json.loads(files(script("lab-worker2"))["/etc/cni/net.d/10-lab.conflist"])

    assert config["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "198.19.2.0/24"}]]


def test_a_node_finds_packages_of_its_own_minor():
    assert "/v1.36/" in files(script("lab-worker"))["/etc/apt/sources.list.d/kubernetes.list"]


def test_a_nodes_script_is_shell():
    checked = subprocess.run(["sh", "-n"], input=script("lab-worker"), text=True, capture_output=True, check=False)

    assert (checked.returncode, checked.stderr) == (0, "")


def test_kind_is_asked_for_every_node_but_the_load_balancer():
    asked = kind.configuration(cluster("3+1"))

    assert [node["role"] for node in asked["nodes"]] == ["control-plane"] * 3 + ["worker"]


@pytest.mark.parametrize(("version", "own_network"), [("1.36.3", True), ("", False)])
def test_only_nodes_of_our_own_making_get_our_pod_network(version, own_network):
    asked = kind.configuration(cluster(version=version))

    assert asked["networking"]["disableDefaultCNI"] is own_network
    assert asked["networking"]["podSubnet"] == network.PODS


def wrapped(tmp_path, made, *argv, balancer=""):
    """What the real docker is called with when kind calls the wrapper."""
    real = tmp_path / "real"
    real.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    real.chmod(0o755)
    wrapper = kind.wrapper_script(str(real), made, balancer)
    return subprocess.run(
        ["sh", "-c", wrapper, "docker", *argv], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_kinds_new_nodes_get_their_fixed_address_and_the_labs_label(tmp_path):
    called = wrapped(tmp_path, cluster(), "run", "--name", "lab-worker2", "--privileged", "an image", "a b")

    assert called[:5] == ["run", "--name", "lab-worker2", "--ip", "198.18.3.13"]
    assert "orchestrator-lab.cluster=lab" in called
    assert called[-3:] == ["--privileged", "an image", "a b"]


def test_nodes_of_published_images_keep_the_names_of_the_world(tmp_path):
    ours, published = (
        wrapped(tmp_path, cluster(version=version), "run", "--name", "lab-worker", "image")
        for version in ("1.36.3", "")
    )

    assert "--dns" in ours
    assert "--dns" not in published


@pytest.mark.parametrize("argv", [["ps", "--all"], ["exec", "--name", "x y"], ["run", "--rm", "--name", "lab-worker"]])
def test_whatever_else_kind_asks_of_docker_passes_unchanged(tmp_path, argv):
    assert wrapped(tmp_path, cluster(), *argv) == argv


@pytest.mark.parametrize("argv", [["run", "--name", "lab-worker", "image"], ["pull", "image"]])
def test_what_kind_asks_of_docker_ends_with_kind(tmp_path, argv):
    real = tmp_path / "docker"
    real.write_text("#!/bin/sh\necho $$\nexec cat\n")
    real.chmod(0o755)
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(kind.wrapper_script(str(real), cluster(), ""))
    asks = ["import subprocess, sys; subprocess.run(sys.argv[1:])", "sh", str(wrapper), *argv]

    with subprocess.Popen([sys.executable, "-c", *asks], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as for_kind:
        for_kind.stdout.readline()
        for_kind.kill()
        ended, _, _ = select.select([for_kind.stdout], [], [], 10)

    assert ended  # readable: nothing can write to it any more, though cat still waits for us


def test_kinds_load_balancer_is_replaced_by_ours(tmp_path):
    argv = ["run", "--name", "lab-external-load-balancer", "-p", "a b", "docker.io/envoyproxy/envoy:v1.36.2"]

    called = wrapped(tmp_path, cluster("3+0"), *argv, balancer="lab/balancer:1")

    assert called[-3:] == ["-p", "a b", "lab/balancer:1"]
    assert "198.18.3.10" in called


def test_without_docker_it_says_how_to_get_it(monkeypatch, home):
    monkeypatch.setenv("PATH", str(home))

    with pytest.raises(LabError, match="no docker command") as caught:
        kind._docker_for_kind(cluster(), "")

    assert "docker.io" in caught.value.remedy


def a_key(out):
    (out / "id_ed25519").write_text("")


def test_ssh_knows_every_nodes_key_before_the_first_connection():
    cache.artifact("ssh-key", ["ssh.py"], a_key)  # there already: no tool has to make it
    made = cluster().save()

    ssh.write(made, {"lab-worker": "ssh-ed25519 AAAA root@x\nssh-rsa BBBB root@x\n"})

    assert ssh.known_hosts(made).read_text().splitlines() == [
        "lab-worker,198.18.3.12 ssh-ed25519 AAAA",
        "lab-worker,198.18.3.12 ssh-rsa BBBB",
    ]
    config = ssh.config(made).read_text()
    assert "Host lab-worker 198.18.3.12\n  HostName 198.18.3.12\n" in config
    assert "lab-worker2" not in config
    assert "StrictHostKeyChecking yes" in config


@pytest.mark.parametrize(
    ("words", "line"),
    [([], []), (["uptime; id"], ["uptime; id"]), (["echo", "a b", "$HOME"], ["echo 'a b' '$HOME'"])],
)
def test_several_words_arrive_as_they_are_and_a_single_one_is_a_shell_line(words, line):
    argv = ssh.command(cluster(), "lab-worker", words)

    assert argv[argv.index("lab-worker") + 1 :] == line
