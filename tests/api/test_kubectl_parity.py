"""Verdicts on pods beside the real kubectl's, on the same cluster, over many mixes of pods."""

import re
import subprocess
import time

import pytest

from lab.api import objects, tier
from lab.api.client import Client
from orchestrator.actions.drain import survey
from orchestrator.app import App, Settings
from orchestrator.cluster.eviction import Outcome
from orchestrator.engine.events import Silent
from tests.api.mixes import ALL, DAEMON, MIXES

pytestmark = pytest.mark.api

#: kubectl's words for a refusal, and the flag that ours names for it.
REASONS = {
    "DaemonSet-managed Pods (use --ignore-daemonsets to ignore)": "--ignore-daemonsets",
    "Pods with local storage (use --delete-emptydir-data to override)": "--delete-emptydir-data",
    "Pods that declare no controller (use --force to override)": "--force",
    'daemonsets.apps "gone" not found': "--force",
}
EVICTED = re.compile(r"^evicting pod (\S+) \(dry run\)$", re.MULTILINE)
REFUSED = re.compile(r"cannot delete ([^:]+): ((?:[\w.-]+/[\w.-]+)(?:, [\w.-]+/[\w.-]+)*)")
OVERDUE_S = 3  # a grace period of 1 s, and more than 1 s beyond it


def node_of(name):
    return f"m{list(MIXES).index(name)}"


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A control plane on which nothing moves by itself, with every mix on a node of its own."""
    directory = tmp_path_factory.mktemp("still") / "api"
    made = tier.create(directory, tied=True)
    try:
        made.start("etcd", "kube-apiserver")
        with Client(made) as client:
            fill(client)
        yield made
    finally:
        made.stop()


def fill(client):
    client.wait("the namespace", lambda: client.attempt("GET", "/api/v1/namespaces/default")[0] == 200)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}}
    labels = {"app": "agent"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": objects.IMAGE}]}}
    daemon = {
        "apiVersion": DAEMON[1], "kind": DAEMON[0], "metadata": {"name": DAEMON[2], "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }  # fmt: skip
    client.create(account, daemon, *(objects.node(node_of(name)) for name in MIXES))
    placed = [
        (f"{node_of(name)}-{i}", node_of(name), pod) for name, (pods, _) in MIXES.items() for i, pod in enumerate(pods)
    ]
    client.create(*(pod.described(name, node) for name, node, pod in placed))
    for name, _, pod in placed:
        client.patch(f"{PODS}/{name}/status", {"status": {"phase": pod.phase}})
    leaving = [f"{PODS}/{name}" for name, _, pod in placed if pod.leaving and pod.phase not in ("Succeeded", "Failed")]
    client.delete(leaving)
    asked = time.monotonic()
    client.wait("pods to be overdue", lambda: time.monotonic() - asked > OVERDUE_S)


PODS = "/api/v1/namespaces/default/pods"


def kubectl_verdicts(plane, node, flags):
    """Pods that kubectl would evict, and those it refuses, with the flags that it asks for."""
    done = subprocess.run(
        [plane.kubectl, f"--kubeconfig={plane.kubeconfig}", "drain", node, "--dry-run=client", *flags],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    refused = {(pod, REASONS[why]) for why, pods in REFUSED.findall(done.stderr) for pod in pods.split(", ")}
    assert (done.returncode != 0) == bool(refused), done.stderr
    return set(EVICTED.findall(done.stdout)), refused


def our_verdicts(view, node, flags):
    """Ours in the same form; each refused pod with all of its reasons' flags."""
    values = dict(flag.removeprefix("--").partition("=")[::2] for flag in flags)
    params = {
        "force": "force" in values,
        "ignore_daemonsets": "ignore-daemonsets" in values,
        "delete_emptydir_data": "delete-emptydir-data" in values,
        "skip_wait_for_delete_timeout_s": int(values.get("skip-wait-for-delete-timeout", 0)),
        "disable_eviction": False,
        "pod_selector": values.get("pod-selector", ""),
    }
    found = survey(view, node, params, time.time())
    evicted = {v.pod.key for v in found.having(Outcome.EVICT)}
    refused = {(v.pod.key, reason.flag) for v in found.having(Outcome.REFUSE) for reason in v.reasons}
    return evicted, refused


@pytest.fixture(scope="module")
def view(still):
    return App(Settings(str(still.kubeconfig)), Silent()).view


@pytest.mark.parametrize("name", MIXES)
def test_verdicts_equal_kubectls(still, view, name):
    for flags in dict.fromkeys(((), ALL, *MIXES[name][1])):
        evicted, refused = kubectl_verdicts(still, node_of(name), flags)
        ours_evicted, ours_refused = our_verdicts(view, node_of(name), flags)

        assert {pod for pod, _ in ours_refused} == {pod for pod, _ in refused}, flags
        assert refused <= ours_refused, flags  # ours names further reasons, never fewer
        if not refused:
            assert ours_evicted == evicted, flags


def test_the_mixes_are_many_and_some_differ_in_every_way():
    assert len(MIXES) >= 60
    pods = [pod for pods, _ in MIXES.values() for pod in pods]
    assert {pod.phase for pod in pods} == {"Running", "Pending", "Succeeded", "Failed", "Unknown"}


def test_a_pod_under_two_budgets_is_refused_beforehand_where_kubectl_would_fail_half_way(still, view):
    node = "two-budgets"
    with Client(still) as client:
        client.create(objects.node(node))
        owner = {"kind": "ReplicaSet", "apiVersion": "apps/v1", "name": "web", "uid": "u", "controller": True}
        client.create(objects.pod("both", node, metadata={"labels": {"app": "both"}, "ownerReferences": [owner]}))
        client.patch(f"{PODS}/both/status", {"status": {"phase": "Running"}})
        client.create(*(objects.budget(name, {"minAvailable": 0}, app="both") for name in ("one", "two")))

    evicted, refused = kubectl_verdicts(still, node, ())
    ours_evicted, ours_refused = our_verdicts(App(Settings(str(still.kubeconfig)), Silent()).view, node, ())

    assert (evicted, refused) == ({"default/both"}, set())
    assert (ours_evicted, ours_refused) == (set(), {("default/both", "--disable-eviction")})
