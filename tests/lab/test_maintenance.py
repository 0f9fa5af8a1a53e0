"""The tool on real nodes: what it refuses, what it moves and waits for, and what it leaves."""

import subprocess

import pytest

from tests.lab.real import CONTROL_PLANE, WORKER, WORKER2, budget, deployment, pod, ready, serving, until

pytestmark = pytest.mark.lab
REPLICAS, NEEDED = 4, 3
ENDED = "/tmp/ended-by-itself"


@pytest.fixture
def shop(place):
    """An application on both workers, of which one pod at a time may be away; it says on the node that it ended."""
    spec = serving("shop", ending=f"/bin/busybox sleep 2; echo $HOSTNAME >> {ENDED}/pods;", grace_s=30)
    spec["containers"][0]["volumeMounts"] = [{"name": "ended", "mountPath": ENDED}]
    spec["volumes"] = [{"name": "ended", "hostPath": {"path": ENDED, "type": "DirectoryOrCreate"}}]
    place.create(deployment("shop", REPLICAS, spec), budget("shop", NEEDED))
    place.until_ready(REPLICAS)
    until("its budget", lambda: place.kubectl("get", "pdb", "shop", "-o", "jsonpath={.status.currentHealthy}") == "4")
    yield place
    place.clear()


@pytest.fixture
def naked(place):
    """A pod that nobody would bring back, on a worker."""
    place.create(pod("naked", serving("naked"), node=WORKER))
    place.until_ready(1)
    yield "naked"
    place.clear()


@pytest.fixture
def healthy_seen(real, shop, tmp_path):
    """How many pods of the shop were healthy by its budget, at every change since the test began."""
    seen = tmp_path / "seen"
    path = 'jsonpath={.status.currentHealthy}{"\\n"}'
    with seen.open("wb") as out:
        watching = subprocess.Popen(real.argv("-n", shop.name, "get", "pdb", "shop", "-w", "-o", path), stdout=out)
    until("the first look", lambda: seen.read_text().endswith("\n"))
    yield lambda: [int(line) for line in seen.read_text().splitlines()]
    watching.kill()
    watching.wait()


def on(place, node):
    """Pods of a namespace on a node: name -> uid."""
    return {name: p["metadata"]["uid"] for name, p in place.pods().items() if p["spec"].get("nodeName") == node}


def cordon(real, node):
    """What says that a node is closed."""
    found = real.node(node)
    return found["spec"].get("unschedulable"), found["spec"].get("taints"), found["metadata"]["annotations"]


def test_a_drain_is_refused_because_of_a_naked_pod_and_nothing_is_changed(real, place, naked, orchestrator):
    before = cordon(real, WORKER), on(place, WORKER)

    done = orchestrator("drain", WORKER, "--ignore-daemonsets", code=20)

    assert f"{place.name}/{naked}" in done.stderr
    assert "--force" in done.stderr
    assert (cordon(real, WORKER), on(place, WORKER)) == before


def test_a_drain_rehearsed_on_the_server_changes_nothing(real, shop, orchestrator):
    before = cordon(real, WORKER), on(shop, WORKER)

    orchestrator("drain", WORKER, "--ignore-daemonsets", "--dry-run=server", code=3)

    assert (cordon(real, WORKER), on(shop, WORKER)) == before


def test_a_drain_moves_pods_as_their_budget_allows_and_lets_each_end_by_itself(real, shop, orchestrator, healthy_seen):
    real.ssh(WORKER, f"rm -f {ENDED}/pods")
    gone = set(on(shop, WORKER))

    orchestrator("drain", WORKER, "--ignore-daemonsets", "--timeout", "3m", "--reason", "a test")

    ended = set(real.ssh(WORKER, "cat", f"{ENDED}/pods").split())
    assert gone
    assert ended == gone
    assert on(shop, WORKER) == {}
    assert len([name for name in on(shop, WORKER2) if ready(shop.pods()[name])]) >= NEEDED
    assert min(healthy_seen()) == NEEDED
    orchestrator("uncordon", WORKER)


def test_a_drained_node_takes_pods_again_after_uncordon(real, shop, orchestrator):
    orchestrator("drain", WORKER, "--ignore-daemonsets", "--timeout", "3m")
    closed = real.node(WORKER)["spec"].get("unschedulable")

    orchestrator("uncordon", WORKER)

    shop.kubectl("scale", "deployment", "shop", f"--replicas={REPLICAS + 2}")
    shop.until_ready(REPLICAS + 2)
    assert on(shop, WORKER)
    assert closed is True
    assert "unschedulable" not in real.node(WORKER)["spec"]
    assert real.node(WORKER)["spec"].get("taints") is None


def test_unmanaged_shows_the_static_pods_of_the_control_plane(real, orchestrator):
    names = {
        f"{part}-{CONTROL_PLANE}" for part in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    }
    # After the restores of tests before, a kubelet has the API know them again minutes later.
    listed = ("get", "-n", "kube-system", "pods", "-o", "name")
    until("static pods to be listed", lambda: names <= {line[4:] for line in real.kubectl(*listed).split()}, 300)

    found = orchestrator.json("unmanaged", CONTROL_PLANE)["pods"]

    assert {(p["name"], p["kind"], p["drain"]["fate"], p["nodeLost"]["fate"]) for p in found} == {
        (name, "static", "stays", "with-node") for name in names
    }


def test_unmanaged_shows_a_naked_pod_and_what_a_drain_of_it_needs(place, naked, orchestrator):
    found = orchestrator.json("unmanaged", WORKER)["pods"]

    assert [(p["namespace"], p["name"], p["drain"]["fate"]) for p in found] == [(place.name, naked, "refused")]
    assert found[0]["drain"]["flags"] == ["--force"]


def test_doctor_finds_nothing_missing_for_the_clusters_administrator(orchestrator):
    done = orchestrator("doctor")

    assert "error" not in done.stderr
