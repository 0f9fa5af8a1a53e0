"""Drains against a real API server, real controllers and real budgets."""

import json
import os
import signal
import stat
import subprocess

import pytest

from lab.api import objects
from lab.api.stages import GOES_AFTER, NEVER_READY
from tests.api.conftest import Observer

pytestmark = pytest.mark.api


def test_a_drain_moves_every_pod_and_leaves_nothing_behind_but_a_cordon_with_its_owner(world, orchestrator):
    world.deploy("web", 20)

    said = orchestrator("drain", "node/n1", "--owner", "ann@ops", "--reason", "new disk")

    assert said.stdout == "node/n1 drained\n"
    assert world.pods("n1") == []
    record = json.loads(world.node("n1")["metadata"]["annotations"]["kube-orchestrator.io/cordon"])
    assert (record["owner"], record["reason"]) == ("ann@ops", "new disk")
    assert world.lease() is None
    assert {stat.S_IMODE(path.stat().st_mode) for path in orchestrator.runs.iterdir()} == {0o700}


def test_a_refused_drain_names_every_pod_with_every_reason_and_changes_nothing(world, orchestrator, requests):
    world.deploy("web", 2)
    world.put("alone", "n1")
    world.put("cache", "n1", spec={"volumes": [{"name": "scratch", "emptyDir": {}}]})

    said = orchestrator("drain", "n1", code=20)

    assert "default/alone" in said.stderr
    assert "default/cache" in said.stderr
    assert "orchestrator drain n1 --delete-emptydir-data --force" in said.stderr
    assert requests.changing() == []
    assert not world.cordoned("n1")
    assert len(world.pods("n1")) == 4


def test_a_dry_run_changes_nothing_and_says_that_there_is_work(world, orchestrator, requests):
    world.deploy("web", 3)

    orchestrator("drain", "n1", "--dry-run", code=3)

    assert requests.changing() == []
    assert not orchestrator.runs.exists()


def test_a_server_dry_run_asks_for_every_eviction_and_makes_none(world, orchestrator, requests):
    world.deploy("web", 3, budget={"maxUnavailable": 0})

    said = orchestrator("drain", "n1", "--dry-run=server", code=3)

    assert len(world.pods("n1")) == 3
    assert not world.cordoned("n1")
    evictions = [status for verb, uri, status in requests.changing() if uri.partition("?")[0].endswith("/eviction")]
    assert evictions == [429] * 3
    assert "web" in said.stderr


def test_a_server_dry_run_of_undoing_a_cordon_has_the_server_check_it(world, orchestrator, requests):
    world.deploy("db", 1, budget={"minAvailable": 1})
    orchestrator("drain", "n1", "--timeout", "1s", code=30)
    asked = len(requests.changing())

    orchestrator("uncordon", "n1", "--dry-run=server", code=3)
    orchestrator("release", "last", "--dry-run=server", code=3)

    assert [(verb, uri) for verb, uri, _ in requests.changing()[asked:]] == [
        ("patch", "/api/v1/nodes/n1?dryRun=All")
    ] * 2
    assert world.cordoned("n1")


def test_nothing_is_done_twice(world, orchestrator, requests):
    world.deploy("web", 3)
    orchestrator("drain", "n1")
    asked = len(requests.changing())

    said = orchestrator("drain", "n1")

    assert said.stdout == "node/n1 already drained\n"
    assert len(requests.changing()) == asked


def test_a_budget_is_kept_all_the_time(world, orchestrator):
    world.deploy("web", 20, budget={"maxUnavailable": "10%"})

    with Observer(lambda: world.ready("n1", "web") + world.ready("n2", "web")) as seen:
        orchestrator("drain", "n1")

    assert world.pods("n1") == []
    assert seen.least >= 18


def test_a_budget_that_never_allows_it_is_explained_when_time_is_up(world, orchestrator):
    world.deploy("db", 1, budget={"minAvailable": 1})

    said = orchestrator("drain", "n1", "--timeout", "2s", code=30)

    assert "budget default/db (minAvailable: 1) allows 0: needs 1 healthy, has 1 of 1" in said.stderr
    assert "orchestrator resume drain-" in said.stderr
    assert "orchestrator release drain-" in said.stderr
    assert world.cordoned("n1")


def test_the_pods_that_hold_a_budget_up_are_named(world, orchestrator):
    world.deploy("web", 2, budget={"minAvailable": 2})
    metadata = {"labels": {"app": "web"}, "annotations": {NEVER_READY: "yes"}}
    world.client.create(objects.pod("web-broken", "n2", metadata=metadata))
    world.until("the budget to count it", lambda: world.budget("web")["status"]["expectedPods"] == 3)

    said = orchestrator("drain", "n1", "--timeout", "5s", code=30)

    assert "not ready: web-broken on n2" in said.stderr


def test_a_stopped_drain_is_resumed_once_the_budget_has_room(world, orchestrator):
    world.deploy("db", 1, budget={"minAvailable": 1})
    orchestrator("drain", "n1", "--timeout", "1s", code=30)
    world.client.delete(["/apis/policy/v1/namespaces/default/poddisruptionbudgets/db"])

    orchestrator("resume", "last")

    assert world.pods("n1") == []


def test_a_released_drain_puts_back_its_own_cordon_only(world, orchestrator):
    world.deploy("db", 1, budget={"minAvailable": 1})
    world.client.patch("/api/v1/nodes/n2", {"spec": {"unschedulable": True}})
    orchestrator("drain", "n1", "n2", "--yes", "--timeout", "1s", code=30)

    orchestrator("release", "last", "--yes")

    assert not world.cordoned("n1")
    assert world.cordoned("n2")


def test_the_grace_period_of_pods_is_waited_for(world, orchestrator):
    world.deploy("slow", 4, annotations={GOES_AFTER: "2s"})

    said = orchestrator("drain", "n1")

    assert world.pods("n1") == []
    assert "terminating" in said.stderr


def test_pods_are_deleted_past_their_budget_where_evictions_are_disabled(world, orchestrator, requests):
    world.deploy("web", 5, budget={"maxUnavailable": 0})

    orchestrator("drain", "n1", "--disable-eviction")

    assert world.pods("n1") == []
    assert not [uri for _, uri, _ in requests.changing() if uri.endswith("/eviction")]


def test_both_tools_leave_the_same_pods(world, plane, orchestrator):
    _mixed(world, "n1")
    _mixed(world, "n2")
    flags = ("--force", "--ignore-daemonsets", "--pod-selector=keep!=yes")

    orchestrator("drain", "n1", *flags)
    theirs = [plane.kubectl, f"--kubeconfig={plane.kubeconfig}", "drain", "n2", *flags]
    subprocess.run(theirs, check=True, capture_output=True)

    left = {name.removeprefix("n1-") for name in world.names("n1")}
    assert left == {name.removeprefix("n2-") for name in world.names("n2")}
    assert left == {"mirror", "kept"}


def _mixed(world, node):
    world.put(f"{node}-mirror", node, metadata={"annotations": {"kubernetes.io/config.mirror": "h"}})
    world.put(f"{node}-naked", node)
    world.put(f"{node}-kept", node, metadata={"labels": {"keep": "yes"}})


def test_a_second_run_is_refused_with_the_holders_name(world, orchestrator):
    world.deploy("db", 1, budget={"minAvailable": 1})
    orchestrator.start("drain", "n1", "--owner", "ann@ops", "--timeout", "60s")
    world.until("the first run's lease", world.lease)

    said = orchestrator("cordon", "n2", code=21)

    assert "ann@ops holds the cluster with run drain-" in said.stderr
    assert not world.cordoned("n2")


def test_a_run_that_was_killed_holds_nobody_up_on_its_own_machine(world, orchestrator):
    world.deploy("db", 1, budget={"minAvailable": 1})
    run = orchestrator.start("drain", "n1", "--timeout", "60s")
    world.until("the run's wait", lambda: "budget default/db" in orchestrator.stderr)
    run.kill()
    run.wait()
    assert world.lease()

    said = orchestrator("uncordon", "n1")

    assert "took the cluster's run lock over from" in said.stderr
    assert not world.cordoned("n1")


def test_a_run_whose_lease_is_deleted_stops_before_its_next_effect(world, orchestrator, requests):
    world.deploy("db", 1, budget={"minAvailable": 1})
    run = orchestrator.start("drain", "n1")
    world.until("the run's wait", lambda: "budget default/db" in orchestrator.stderr)
    world.client.delete(["/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-orchestrator"])

    code = run.wait(30)

    assert code == 21
    assert "somebody deleted its lease" in orchestrator.stderr
    assert len(world.pods("n1")) == 1
    asked = len(requests.changing())
    world.client.delete(["/apis/policy/v1/namespaces/default/poddisruptionbudgets/db"])
    assert len(requests.changing()) == asked


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_stop_at_once_and_the_run_goes_on_later(world, orchestrator, sign):
    world.deploy("db", 1, budget={"minAvailable": 1})
    run = orchestrator.start("drain", "n1")
    world.until("the run's wait", lambda: "budget default/db" in orchestrator.stderr)

    run.send_signal(sign)
    world.until("the first to be heeded", lambda: "asking again stops at once" in orchestrator.stderr)
    run.send_signal(sign)

    assert run.wait(30) == 130
    assert "Traceback" not in orchestrator.stderr
    assert world.lease() is None
    world.client.delete(["/apis/policy/v1/namespaces/default/poddisruptionbudgets/db"])
    orchestrator("resume", "last")
    assert world.pods("n1") == []


@pytest.mark.parametrize(
    "end", [pytest.param("kill", id="at once"), pytest.param("stop", id="slowly", marks=pytest.mark.lab_full)]
)
def test_an_api_server_that_restarts_in_the_middle_is_waited_for(world, plane, orchestrator, end):
    world.deploy("web", 10, budget={"maxUnavailable": 1}, annotations={GOES_AFTER: "500ms"})
    run = orchestrator.start("drain", "n1")
    world.until("some pods to have moved", lambda: 0 < len(world.pods("n1")) < 9)

    if end == "kill":
        os.kill(plane.daemon("kube-apiserver").pid(), signal.SIGKILL)
    plane.stop("kube-apiserver")  # waits for open watches, for longer than a lease is good for
    plane.start("kube-apiserver")

    assert run.wait(120) == 0, orchestrator.stderr
    assert world.pods("n1") == []


def test_an_api_server_that_never_answers_does_not_outlast_the_deadline(world, plane, orchestrator):
    world.deploy("db", 1, budget={"minAvailable": 1})
    run = orchestrator.start("drain", "n1", "--timeout", "4s")
    world.until("the run's wait", lambda: "budget default/db" in orchestrator.stderr)
    server = plane.daemon("kube-apiserver").pid()

    os.kill(server, signal.SIGSTOP)
    try:
        code = run.wait(40)
    finally:
        os.kill(server, signal.SIGCONT)

    assert code in (21, 30), orchestrator.stderr


def test_another_owners_cordon_is_undone_only_when_that_is_meant(world, orchestrator):
    orchestrator("cordon", "n1", "--owner", "ann@ops", "--reason", "bad memory")

    said = orchestrator("uncordon", "n1", "--owner", "bob@ops", code=20)

    assert "n1 is cordoned by ann@ops (bad memory)" in said.stderr
    assert world.cordoned("n1")
    orchestrator("uncordon", "n1", "--owner", "bob@ops", "--force-owner")
    assert not world.cordoned("n1")
    assert "kube-orchestrator.io/cordon" not in world.node("n1")["metadata"].get("annotations", {})


def test_events_are_json_lines_when_asked_for(world, orchestrator):
    world.deploy("web", 3)

    said = orchestrator("drain", "n1", "--log-format", "json")

    names = [json.loads(line)["event"] for line in said.stderr.splitlines()]
    assert names[0] == "run.started"
    assert names[-1] == "run.finished"
    assert "drain.progress" in names


def test_status_tells_what_the_cluster_is_like(world, orchestrator):
    world.deploy("web", 3)
    world.deploy("db", 1, budget={"minAvailable": 1})
    orchestrator("cordon", "n2", "--owner", "ann@ops", "--reason", "bad memory")

    found = orchestrator.json("status")

    assert found["kind"] == "ClusterStatus"
    assert found["summary"]["nodes"] == 2
    cordoned = {node["name"]: node["cordon"] for node in found["nodes"] if node["cordon"]}
    assert cordoned["n2"]["owner"] == "ann@ops"
    assert [budget["name"] for budget in found["budgets"]] == ["db"]
    assert {a["name"]: a["nodes"] for a in found["applications"]}["web"]


def test_unmanaged_tells_what_would_be_lost(world, orchestrator):
    world.put("alone", "n1")

    found = orchestrator.json("unmanaged", "n1")

    assert [pod["name"] for pod in found["pods"]] == ["alone"]


@pytest.fixture
def frozen_node(world):
    """Nobody may change n2, until this is undone: gives what undoes it."""
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["UPDATE"],
        "resources": ["nodes"],
        "resourceNames": ["n2"],
    }
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "frozen"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "object.spec == oldObject.spec", "message": "n2 is frozen"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "frozen"},
        "spec": {"policyName": "frozen", "validationActions": ["Deny"]},
    }
    base = "/apis/admissionregistration.k8s.io/v1"
    places = (f"{base}/validatingadmissionpolicies/frozen", f"{base}/validatingadmissionpolicybindings/frozen")
    bodies = (policy, binding)

    def changes(status):
        change = {"spec": {"podCIDR": None, "taints": [{"key": "try", "effect": "NoExecute"}]}}
        path = "/api/v1/nodes/n2?dryRun=All"
        return world.client.attempt("PATCH", path, change, content_type="application/merge-patch+json")[0] == status

    def freeze():
        for place, body in zip(places, bodies, strict=True):
            world.client.ask("POST", place.rpartition("/")[0], body)
        world.until("n2 to be frozen", lambda: changes(422))

    def thaw():
        world.client.delete(places)
        world.until("n2 to thaw", lambda: changes(200))

    yield freeze, thaw
    world.client.delete(places)


@pytest.mark.parametrize("word", ["release", "resume"])
def test_a_release_that_stopped_half_way_goes_on(world, orchestrator, frozen_node, word):
    freeze, thaw = frozen_node
    world.deploy("db", 1, budget={"minAvailable": 1})
    orchestrator("drain", "n1", "n2", "--yes", "--timeout", "1s", code=30)
    drained = orchestrator.json("runs")["runs"][0]["id"]
    freeze()
    orchestrator("release", drained, "--yes", code=12)
    assert world.cordoned("n2")
    thaw()

    orchestrator(word, drained if word == "release" else "last")

    assert not world.cordoned("n1")
    assert not world.cordoned("n2")
    states = {run["id"]: run["state"] for run in orchestrator.json("runs")["runs"]}
    assert states.pop(drained) == "released"
    assert list(states.values()) == ["finished"]
