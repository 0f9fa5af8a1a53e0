"""A real cluster taken back to a snapshot, and back from that again, with a client that asks its API all the time."""

import json
import shutil
import time

import pytest

from lab import docker, progress, ssh
from lab.upgrades.access import Access
from lab.upgrades.askers import ApiClient
from tests.api.command import Command
from tests.lab.real import CONTROL_PLANE, deployment, lab, pod, serving, until

pytestmark = pytest.mark.lab
#: Half of what the textbook's procedure took in the lab.
AWAY_S = 37.5
#: What the cluster changes by itself: not part of the state that a snapshot is about.
ROUTINE = ("Event", "Lease", "Endpoints", "EndpointSlice", "Node", "Pod")


@pytest.fixture
def orchestrator(real, tmp_path):
    """The command; nodes are containers of the lab's own daemon."""
    command = Command(real.cluster.kubeconfig, tmp_path, {"DOCKER_HOST": f"unix://{docker.current().socket}"})
    yield command
    command.end()


def objects(real, *kinds):
    """Kind and name of objects -> what they hold."""
    found = {}
    for kind in kinds:
        for entry in real.read(kind, "-A")["items"]:
            meta = entry["metadata"]
            key = (kind, meta.get("namespace", ""), meta["name"])
            found[key] = (meta["uid"], json.dumps(entry.get("data") or entry.get("spec"), sort_keys=True))
    return found


KINDS = ("namespaces", "configmaps", "secrets", "serviceaccounts", "deployments", "services", "clusterroles")


def changed(real, place):
    """The world after the snapshot: a namespace gone, others made, a secret rotated."""
    real.kubectl("delete", "namespace", "doomed")
    real.kubectl("create", "namespace", "later")
    place.kubectl("delete", "secret", "rotated")
    place.kubectl("create", "secret", "generic", "rotated", "--from-literal=key=new")
    place.kubectl("delete", "deployment", "web")


def going(real):
    """Namespaces that are being deleted."""
    found = real.read("namespaces")["items"]
    return [each["metadata"]["name"] for each in found if "deletionTimestamp" in each["metadata"]]


@pytest.fixture
def world(real, place, orchestrator):
    """A world, a snapshot of it, and what it was."""
    # That of the tests before may still be going: it would come back with the snapshot, and go again.
    until("no namespace to be going", lambda: not going(real))
    real.kubectl("create", "namespace", "doomed")
    real.kubectl("-n", "doomed", "create", "configmap", "kept", "--from-literal=a=b")
    place.kubectl("create", "secret", "generic", "rotated", "--from-literal=key=old")
    place.create(deployment("web", 2, serving("web")))
    place.until_ready(2)
    orchestrator("etcd", "backup")
    yield objects(real, *KINDS)
    real.kubectl("delete", "namespace", "doomed", "later", "--ignore-not-found")
    place.kubectl("delete", "secret", "rotated", "--ignore-not-found")
    place.clear()


def beside(real):
    """What restores left on the control plane."""
    return real.ssh(CONTROL_PLANE, "ls -d /var/lib/etcd.* /etc/kubernetes/orchestrator-* 2> /dev/null; true").split()


def works(real, place, name):
    """Controllers, the scheduler and kubelets work: a new pod runs, one that is deleted comes back."""
    place.create(pod(name, serving(name)))
    until(f"{name} to run", lambda: ready_of(place, name))
    place.kubectl("delete", "pod", name)
    until("the application", lambda: sum(ready_of(place, each) for each in place.pods() if each.startswith("web")) >= 2)
    real.until_ready(*(n["metadata"]["name"] for n in real.read("nodes")["items"]))


def booted():
    """The boot that the control plane is in, once its kubelet has started; "" before, and while it is not reached."""
    ask = "systemctl is-active --quiet kubelet && cat /proc/sys/kernel/random/boot_id"
    return lab("ssh", CONTROL_PLANE, "--", ask, code=None).stdout.decode().strip()


def ready_of(place, name):
    conditions = place.pods().get(name, {}).get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def test_a_restore_brings_the_state_back_the_cluster_works_by_itself_and_the_old_data_go_when_confirmed(
    real, place, orchestrator, world
):
    changed(real, place)
    with ApiClient(Access(real.cluster)) as client:
        done = orchestrator("etcd", "restore", "last", "--yes", "-o", "json", timeout_s=300)
        back = time.time()
        until("answers", lambda: client.so_far().after(back).asked > 5)
        answers = client.stop()

    assert answers.longest_outage_s < AWAY_S
    assert objects(real, *KINDS) == world
    works(real, place, "after")

    report = json.loads(done.stdout)["restore"]
    told_rightly(report, place.name)
    [old] = report["oldData"]
    assert beside(real) == [old["path"]]  # until somebody says that the new ones are good
    assert old["sizeBytes"] > 1e6
    orchestrator(*report["diff"].split()[1:])
    assert orchestrator.json("resume", "last")["restore"]["groups"] == report["groups"]
    orchestrator(*report["confirm"].split()[1:], "--yes")
    assert beside(real) == []
    assert (
        "not compared" in orchestrator.json("resume", orchestrator.json("runs")["runs"][1]["id"])["restore"]["unknown"]
    )


#: What controllers and kubelets write all the time, or have to write anew after a restore.
LIVELY = ("componentstatuses", "endpoints", "endpointslices.discovery.k8s.io", "events", "events.events.k8s.io")
LIVELY += ("leases.coordination.k8s.io", "nodes", "pods")


def everything(real):
    """Each object of every other kind that the API serves -> all of it but its status and its version."""
    kinds = real.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    found = {}
    for kind in (each for each in kinds if each not in LIVELY):
        for entry in real.read(kind, "-A")["items"]:
            meta = {k: v for k, v in entry["metadata"].items() if k not in ("resourceVersion", "managedFields")}
            whole = {**{k: v for k, v in entry.items() if k != "status"}, "metadata": meta}
            found[kind, meta.get("namespace", ""), meta["name"]] = json.dumps(whole, sort_keys=True)
    return found


@pytest.mark.lab_full
def test_every_object_of_every_kind_is_as_it_was(real, place, orchestrator, world):
    before = everything(real)
    changed(real, place)

    orchestrator("etcd", "restore", "last", "--yes", timeout_s=300)

    after = everything(real)
    kinds = {kind for kind, _, _ in before}
    progress.say(f"{len(before)} objects of {len(kinds)} kinds")
    assert len(kinds) > 20
    assert {key: (before.get(key), after.get(key)) for key in before | after if before.get(key) != after.get(key)} == {}
    orchestrator("etcd", "restore", "--confirm", orchestrator.json("runs")["runs"][0]["id"], "--yes")


def told_rightly(report, namespace):
    """What `changed` did is what was lost and came back, and the cluster is well."""
    names = {(g["fate"], g["kind"], g["namespace"]): g["names"] for g in report["groups"]}
    assert names["lost", "Namespace", None] == ["later"]
    assert names["back", "Namespace", None] == ["doomed"]
    assert "kept" in names["back", "ConfigMap", "doomed"]
    assert names["back", "Deployment", namespace] == ["web"]
    assert names["different", "Secret", namespace] == ["rotated"]
    assert not any(kind in ("Event", "Lease") for _, kind, _ in names)
    assert report["before"]
    assert report["findings"] == []


def test_a_restore_is_taken_back_with_what_was_written_before_it_and_then_its_leftovers_go(
    real, place, orchestrator, world
):
    changed(real, place)
    between = objects(real, "namespaces", "secrets", "deployments")
    orchestrator("etcd", "restore", "last", "--yes", timeout_s=300)
    run = orchestrator.json("runs")["runs"][0]["id"]

    orchestrator("release", run, "--yes", timeout_s=300)

    assert objects(real, "namespaces", "secrets", "deployments") == between
    place.create(pod("released", serving("released")))  # who watches hears of new things
    until("a new pod to run", lambda: ready_of(place, "released"))
    refused = orchestrator("etcd", "restore", "--confirm", run, "--yes", code=20)
    assert "old data are the way back" in refused.stderr


def test_what_fails_before_etcd_is_started_is_swung_back(real, place, orchestrator, world):
    changed(real, place)
    between = objects(real, "namespaces", "secrets", "deployments")
    # The old data cannot be moved aside.
    fails = 'case "$*" in *before-*) echo "mv: it does not move" >&2; exit 1;; esac'
    with real.ahead_of(CONTROL_PLANE, "mv", fails):
        done = orchestrator("etcd", "restore", "last", "--yes", code=11, timeout_s=300)

    assert "swung back" in done.stderr
    assert list((orchestrator.home / "state/orchestrator/snapshots/staging").iterdir()) == []
    assert objects(real, "namespaces", "secrets", "deployments") == between


@pytest.mark.lab_full
def test_a_host_that_booted_with_a_broken_etcd_is_restored(real, place, orchestrator, world, tmp_path):
    """Its kubelet has heard of no pod of the API, so it would end no static pod, and start each again."""
    changed(real, place)
    left = beside(real)  # of tests before
    before = booted()
    real.ssh(
        CONTROL_PLANE,
        "truncate -s 100k /var/lib/etcd/member/snap/db; pkill -KILL -x etcd; sleep 1; systemctl reboot; true",
    )
    until("it to boot, and its kubelet to start", lambda: booted() not in ("", before))
    # Without an API the way to a host is the record's.
    (tmp_path / ".ssh").mkdir()
    shutil.copy(ssh.config(real.cluster), tmp_path / ".ssh/config")

    done = orchestrator("etcd", "restore", "last", "--yes", timeout_s=300)

    assert "the API does not answer" in done.stderr
    assert objects(real, *KINDS) == world
    works(real, place, "after-boot")
    orchestrator("etcd", "restore", "--confirm", "last", "--yes", "--ssh")
    assert beside(real) == left


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "name a snapshot"),
        (("nothing",), 2, "there is no snapshot"),
        (("last", "--accept", "anything"), 2, "--accept=anything is none"),
        (("last", "--dead", "nobody"), 2, "is no control plane"),
        (("--confirm", "nothing"), 2, "there is no run"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_touched(orchestrator, words, code, said):
    orchestrator("etcd", "backup")

    done = orchestrator("etcd", "restore", *words, code=code)

    assert said in done.stderr


def test_nobody_is_taken_back_unasked_and_a_dry_run_leaves_nothing(real, orchestrator):
    orchestrator("etcd", "backup")
    before = beside(real)

    done = orchestrator("etcd", "restore", "last", code=20)
    orchestrator("etcd", "restore", "last", "--dry-run", code=3)

    assert "has to be confirmed" in done.stderr
    assert list((orchestrator.home / "state/orchestrator/snapshots/staging").iterdir()) == []
    assert beside(real) == before
