"""`make demo` tells what is so, on a cluster of the lab's and on one that the lab is only pointed at."""

import os

import pytest

from lab import cluster, demo, gobuild, images, state
from lab.demo import Place
from tests.lab.real import WORKER, WORKER2, lab

pytestmark = pytest.mark.lab


@pytest.fixture
def deployed(real):
    """The demo's namespace goes with the test."""
    yield demo.NAMESPACE
    real.kubectl("delete", "namespace", demo.NAMESPACE, "--ignore-not-found", "--wait=false")


@pytest.fixture
def public_image(real):
    """The image that the demo would pull on a cluster that is not the lab's, at hand under that name."""
    for node in (WORKER, WORKER2):
        real.ssh(node, "ctr", "-n", "k8s.io", "images", "tag", "--force", images.TEST_IMAGE, demo.PUBLIC_IMAGE)
    yield demo.PUBLIC_IMAGE
    for node in (WORKER, WORKER2):
        real.ssh(node, "ctr", "-n", "k8s.io", "images", "rm", demo.PUBLIC_IMAGE)


@pytest.fixture
def theirs(real):
    """The environment of a person who has a kind cluster and kubectl."""
    kubectl = gobuild.kubernetes(real.cluster.version)
    return {**os.environ, "KUBECONFIG": str(real.cluster.kubeconfig), "PATH": f"{kubectl}:{os.environ['PATH']}"}


def test_the_story_is_true_on_a_cluster_that_the_lab_is_pointed_at(real, deployed, public_image, theirs):
    done = lab("demo", "--context", "kind-test", env=theirs)

    told = done.stdout.decode()
    pods = real.read("pods", "--namespace", deployed)["items"]
    assert [line for line in told.splitlines() if line.startswith("$ ")] == [
        "$ orchestrator status",
        f"$ orchestrator unmanaged {WORKER}",
        f"$ orchestrator drain {WORKER} --ignore-daemonsets",
        f"$ orchestrator drain {WORKER} --ignore-daemonsets --force --timeout 2m --dry-run",
        f"$ orchestrator drain {WORKER} --ignore-daemonsets --force --timeout 2m --reason demo",
        "$ orchestrator status",
        f"$ orchestrator uncordon {WORKER}",
    ]
    assert {p["spec"]["containers"][0]["image"] for p in pods} == {public_image}
    assert {p["spec"]["nodeName"] for p in pods} == {WORKER2}
    assert "unschedulable" not in real.node(WORKER)["spec"]


def test_a_context_that_is_not_a_kind_or_minikube_cluster_is_not_drained(theirs):
    done = lab("demo", "--context", "production", env=theirs, code=1)

    assert "production is not a kind or minikube cluster" in done.stderr
    assert "remedy: " in done.stderr


def test_without_kubectl_a_cluster_of_ones_own_is_not_begun_with(theirs, tmp_path):
    done = lab("demo", "--context", "kind-test", env={**theirs, "PATH": str(tmp_path)}, code=1)

    assert "kubectl is not on PATH" in done.stderr
    assert "remedy: install it" in done.stderr


def test_a_step_that_does_not_end_as_told_ends_the_story(real):
    kubectl = gobuild.kubernetes(real.cluster.version) / "kubectl"
    story = demo._Story(Place(str(real.cluster.kubeconfig), real.cluster.context, str(kubectl), images.TEST_IMAGE))

    with pytest.raises(demo.LabError, match="ended with exit code 2, expected 0"):
        story._orchestrator("status", "--no-such-flag", codes=(0,))


@pytest.mark.lab_full
def test_the_demo_runs_twice_on_a_cluster_of_its_own_which_stays(real):
    there_before = state.load(demo.NAME) is not None

    first = lab("demo").stdout.decode()
    second = lab("demo").stdout.decode()

    stays = state.load(demo.NAME)
    if not there_before:
        cluster.down(demo.NAME)
    assert first.count("$ orchestrator") == second.count("$ orchestrator") == 7
    assert "`make lab-down` stops it" in second
    assert stays.status == "up"
