"""Nodes whose power or network is gone: what the API server makes of it, what the tool says, and how they come back."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.api.command import Command
from tests.lab.real import CONTROL_PLANE, WORKER, WORKER2, deployment, lab, pod, serving, until

pytestmark = pytest.mark.lab
CGROUPS = Path("/sys/fs/cgroup")
GRACE_S, OVERDUE_S = 3, 2


@pytest.fixture(scope="module")
def story(real, place, tmp_path_factory):
    """One outage, told once: a worker loses its power in the middle of a drain, the other one its network; both return.

    Pods that take longer to end than they have would be ended by their kubelet, which is gone.
    """
    told = SimpleNamespace()
    command = Command(real.cluster.kubeconfig, tmp_path_factory.mktemp("home"))
    place.create(pod("witness", serving("witness"), node=WORKER2))
    slow = serving("slow", ending="/bin/busybox sleep 60;", grace_s=GRACE_S)
    place.create(deployment("slow", 2, {**slow, "nodeSelector": {"kubernetes.io/hostname": WORKER}}))
    place.until_ready(3)
    try:
        patience = ("--timeout", "5m", "--skip-wait-for-delete-timeout", str(OVERDUE_S), "-o", "json")
        draining = command.start("drain", WORKER, "--ignore-daemonsets", *patience)
        until("pods to be told to end", lambda: len(leaving(place)) == 2)
        lab("power", WORKER, "off")
        lab("network", WORKER2, "cut")
        told.code = draining.wait(timeout=120)
        told.result = json.loads((command.home / "stdout").read_text())
        told.left_on_it = leaving(place)
        told.late = command("drain", WORKER, "--ignore-daemonsets", "--timeout", "2s", code=30).stderr
        told.ssh = {name: lab("ssh", name, "--", "true", code=255).stderr for name in (WORKER, WORKER2)}
        until("both nodes to be given up", lambda: {real.ready(WORKER), real.ready(WORKER2)} == {"Unknown"})
        told.status = command.json("status")
        told.shown = command("status").stdout
        told.lab = lab("status").stdout.decode()
    finally:
        command.end()
        lab("power", WORKER, "on")
        lab("network", WORKER2, "heal")
    real.until_ready(WORKER, WORKER2)
    told.pods = place.pods()
    until("the overdue pods to go", lambda: not leaving(place))
    command("uncordon", WORKER)
    return told


def leaving(place):
    """Pods that were told to end and have not."""
    return {name for name, found in place.pods().items() if "deletionTimestamp" in found["metadata"]}


def shown(told, name):
    """A node, as `status` has it."""
    return next(node for node in told.status["nodes"] if node["name"] == name)


def test_a_drain_does_not_wait_for_overdue_pods_of_a_node_that_lost_its_power(story):
    assert story.code == 0
    assert len(story.left_on_it) == 2
    assert all(name.startswith("slow-") for name in story.left_on_it)


def test_without_that_flag_the_drain_ends_with_its_time_and_names_what_is_left(story):
    assert "error: " in story.late
    assert all(name in story.late for name in story.left_on_it)
    assert "remedy: " in story.late


@pytest.mark.parametrize("name", [WORKER, WORKER2])
def test_status_shows_that_a_lost_node_is_not_ready_and_why(story, name):
    node = shown(story, name)

    assert node["ready"] is False
    assert node["readyReason"] == "NodeStatusUnknown"
    assert any(name in line and "NodeStatusUnknown" in line for line in story.shown.splitlines())


def test_status_shows_the_others_as_they_are(story):
    assert shown(story, CONTROL_PLANE)["ready"] is True


def test_lab_status_tells_a_node_without_power_from_one_without_network(story):
    conditions = {line.split()[0]: line.split(maxsplit=3)[3] for line in story.lab.splitlines() if "test-" in line}

    assert conditions[CONTROL_PLANE] == "on"
    assert conditions[WORKER] == "off"
    assert conditions[WORKER2] == "on, network cut"


@pytest.mark.parametrize("name", [WORKER, WORKER2])
def test_a_lost_node_does_not_answer(story, name):
    assert "timed out" in story.ssh[name] or "No route to host" in story.ssh[name]


def test_a_node_without_network_went_on_with_its_pods(story):
    witness = story.pods["witness"]

    assert witness["status"]["containerStatuses"][0]["restartCount"] == 0


def test_power_off_of_a_node_that_is_off_changes_nothing(real):
    lab("power", WORKER2, "off")

    lab("power", WORKER2, "off")

    assert f"{WORKER2} is off" in lab("network", WORKER2, "cut", code=1).stderr
    assert f"remedy: python -m lab power {WORKER2} on" in lab("network", WORKER2, "heal", code=1).stderr
    lab("power", WORKER2, "on")
    lab("power", WORKER2, "on")
    real.until_ready(WORKER2)


def test_a_cut_stays_over_other_commands_and_ends_with_heal(real):
    lab("network", WORKER2, "cut")
    lab("network", WORKER2, "cut")

    cut = lab("status").stdout.decode()
    lab("network", WORKER2, "heal")

    assert "network cut" in cut
    assert "network cut" not in lab("status").stdout.decode()
    assert real.ssh(WORKER2, "cat /proc/1/comm") == "systemd\n"


def test_a_cut_is_over_when_the_power_comes_back(real):
    lab("network", WORKER2, "cut")

    lab("power", WORKER2, "cycle")

    assert "network cut" not in lab("status").stdout.decode()
    real.until_ready(WORKER2)


def test_a_node_in_which_something_is_frozen_can_lose_its_power(real, place):
    place.create(pod("frozen", serving("frozen"), node=WORKER2))
    until("it to run", lambda: place.pods()["frozen"]["status"].get("phase") == "Running")
    inside = f"**/{real.cluster.containers[WORKER2]}/**/cri-containerd-*"
    controls = dict.fromkeys(CGROUPS.glob(f"{inside}/freezer.state"), "FROZEN")
    controls |= dict.fromkeys(CGROUPS.glob(f"{inside}/cgroup.freeze"), "1")
    for path, word in controls.items():
        path.write_text(word)

    lab("power", WORKER2, "cycle")

    assert controls
    real.until_ready(WORKER2)
