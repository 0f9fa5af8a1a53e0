"""Restores of three members: failed on purpose, killed, without a dead control plane, to a path of their own."""

import json
import time

import pytest

from lab import docker, progress
from lab.state import Shape
from tests.api.command import Command
from tests.lab.real import lab, since, until
from tests.lab.upgrading import join_anew, own_cluster

pytestmark = [pytest.mark.lab, pytest.mark.lab_full]
LONG_S = 600


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Three control planes and a worker, for the tests of this module one after another."""
    with own_cluster("rs-three", tmp_path_factory.mktemp("rs"), shape=Shape(3, 1)) as made:
        yield made


@pytest.fixture
def orchestrator(site, tmp_path):
    """The command; nodes are containers of the lab's own daemon. There is a snapshot, and a world that went on."""
    command = Command(site.real.cluster.kubeconfig, tmp_path, {"DOCKER_HOST": f"unix://{docker.current().socket}"})
    site.real.attempt("delete", "configmap", "kept", "later")
    site.real.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    command("etcd", "backup", timeout_s=LONG_S)
    site.real.kubectl("delete", "configmap", "kept")
    site.real.kubectl("create", "configmap", "later")
    yield command
    command.end()


def names(site):
    return {each["metadata"]["name"] for each in site.real.read("configmaps")["items"]} & {"kept", "later"}


def beside(site):
    """What restores left on control planes."""
    look = "ls -d /var/lib/etcd.* /etc/kubernetes/orchestrator-* /etc/kubernetes/etcd.yaml.* 2> /dev/null; true"
    return {name: found for name in site.planes if (found := site.real.ssh(name, look).split())}


def members(command, count):
    """So many members of etcd, all well."""
    found = command.json("etcd", "status")
    well = [each for each in found["members"] if not each["health"]]
    assert len(well) == len(found["members"]) == count, found["members"]


def serves(site, command, expected, count=3):
    """The cluster works: what it has, its members, a write, and a pod that a controller makes."""
    assert names(site) == expected
    members(command, count)
    site.real.kubectl("-n", "kube-system", "rollout", "restart", "deployment", "coredns")
    site.real.kubectl("-n", "kube-system", "rollout", "status", "deployment", "coredns", "--timeout=180s")


def confirmed(site, command):
    run = command.json("runs")["runs"][0]["id"]
    command("etcd", "restore", "--confirm", run, "--yes", timeout_s=LONG_S)
    assert beside(site) == {}


# ---- failed on purpose ------------------------------------------------------------------------------------------

#: Barrier -> the program that fails on one of three hosts, and on which words.
BARRIERS = {
    "restored beside": ("nice", "*snapshot*restore*"),
    "servers stop": ("mv", "*manifests/kube-scheduler.yaml*orchestrator-*"),
    "etcd stops": ("mv", "*manifests/etcd.yaml*orchestrator-*"),
    "data change places": ("mv", "*before-*"),
    "the restored ones are put in place": ("mv", "*.restore-*"),
}


@pytest.mark.parametrize("barrier", BARRIERS)
def test_what_fails_on_one_of_three_before_etcd_is_started_is_swung_back_on_all(site, orchestrator, barrier):
    program, words = BARRIERS[barrier]
    fails = f'case "$*" in {words}) echo "{program}: not today" >&2; exit 1;; esac'
    with site.real.ahead_of(site.planes[1], program, fails):
        done = orchestrator("etcd", "restore", "last", "--yes", code=11, timeout_s=LONG_S)

    assert "not today" in done.stderr
    assert "everything was swung back" in done.stderr
    assert beside(site) == {}
    serves(site, orchestrator, {"later"})


# ---- killed -----------------------------------------------------------------------------------------------------

#: At the beginning of which step the command is killed: its action, and how many of these came before.
KILLED = {
    "the old state is kept": ("etcd.snapshot", 0),
    "restored beside": ("restore.stage", 0),
    "servers stop": ("restore.stop", 0),
    "etcd stops": ("restore.stop", 3),
    "data change places": ("restore.swap", 0),
    "etcd starts": ("restore.start", 0),
    "API servers start": ("restore.start", 3),
    "gate": ("cluster.gate", 0),
    "others start": ("restore.start", 6),
    "compared": ("restore.compare", 0),
    "tidied up": ("host.tidy", 0),
}


def told(command):
    lines = command.stderr.splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


@pytest.mark.parametrize("moment", KILLED)
def test_killed_at_a_barrier_a_restore_is_resumed_to_its_end_and_tells_what_was_lost(site, orchestrator, moment):
    action, before = KILLED[moment]
    process = orchestrator.start("etcd", "restore", "last", "--yes", "--log-format", "json")

    def begun():
        assert process.poll() is None, orchestrator.stderr
        found = [e for e in told(orchestrator) if e["event"] == "step.started" and e["action"] == action]
        return len(found) > before

    until(f"{action} to begin", begun, LONG_S)
    process.kill()
    process.wait()
    began = time.monotonic()
    found = json.loads(orchestrator("resume", "last", "-o", "json", timeout_s=LONG_S).stdout)

    progress.say(f"killed at {moment}: resumed in {since(began)} s")
    assert found["outcome"] == "finished"
    report = found["restore"]
    groups = {(g["fate"], g["kind"], tuple(g["names"])) for g in report["groups"] if g["kind"] == "ConfigMap"}
    assert {("lost", "ConfigMap", ("later",)), ("back", "ConfigMap", ("kept",))} <= groups
    assert [each["node"] for each in report["oldData"]] == site.planes
    serves(site, orchestrator, {"kept"})
    confirmed(site, orchestrator)


# ---- a path of their own ----------------------------------------------------------------------------------------


def data_dir(site):
    settings = site.real.read("-n", "kube-system", "configmap", "kubeadm-config")["data"]["ClusterConfiguration"]
    return next(line.split()[1] for line in settings.splitlines() if "dataDir:" in line)


def manifest(site, node):
    return site.real.ssh(node, "cat /etc/kubernetes/manifests/etcd.yaml")


# kubeadm writes the manifest from the cluster's own settings, into a directory for rehearsals.
WRITTEN = r"""set -e
dir=$(mktemp -d); export KUBEADM_INIT_DRYRUN_DIR=$dir
kubectl --kubeconfig=/etc/kubernetes/admin.conf -n kube-system get configmap kubeadm-config \
  -o 'jsonpath={.data.ClusterConfiguration}' > "$dir/settings"
kubeadm init phase etcd local --config "$dir/settings" --dry-run > "$dir/said" 2>&1 || cat "$dir/said"
cat "$dir/etcd.yaml" | sed -n 's/.*--data-dir=//p'
rm -rf "$dir"
"""


def test_restored_to_a_path_of_their_own_manifest_and_kubeadm_follow_and_go_back(site, orchestrator):
    new = ("--data-dir-mode", "new-path", "--yes")
    before = {name: manifest(site, name) for name in site.planes}
    orchestrator("etcd", "restore", "last", *new, timeout_s=LONG_S)
    for name in site.planes:
        pointed = before[name].replace("=/var/lib/etcd\n", "=/var/lib/etcd-from-backup\n")
        assert manifest(site, name) == pointed.replace(": /var/lib/etcd\n", ": /var/lib/etcd-from-backup\n")
    assert data_dir(site) == "/var/lib/etcd-from-backup"
    serves(site, orchestrator, {"kept"})

    orchestrator("release", "last", "--yes", timeout_s=LONG_S)
    assert {name: manifest(site, name) for name in site.planes} == before
    assert data_dir(site) == "/var/lib/etcd"
    serves(site, orchestrator, {"later"})
    for name in site.planes:
        site.real.ssh(name, "rm -rf /var/lib/etcd-from-backup.restored-* /var/lib/etcd.raw-*")

    orchestrator("etcd", "restore", "last", *new, timeout_s=LONG_S)
    refused = orchestrator("etcd", "restore", "last", *new, code=20, timeout_s=LONG_S)
    assert "cannot be a new path" in refused.stderr
    confirmed(site, orchestrator)
    for name in site.planes:
        assert site.real.ssh(name, "ls -d /var/lib/etcd*").split() == ["/var/lib/etcd-from-backup"]
    # What kubeadm writes from its settings is what is there.
    for name in site.planes:
        assert site.access.ssh(name, WRITTEN).split() == ["/var/lib/etcd-from-backup"]
    serves(site, orchestrator, {"kept"})


# ---- a node that only one of both states has --------------------------------------------------------------------


def test_a_node_that_joined_since_is_told_of_and_known_again_once_its_kubelet_starts(site, orchestrator):
    worker = site.workers[0]
    site.real.kubectl("delete", "node", worker)
    orchestrator("etcd", "backup", timeout_s=LONG_S)
    site.real.ssh(worker, "systemctl restart kubelet")
    site.real.until_ready(worker)

    found = json.loads(orchestrator("etcd", "restore", "last", "--yes", "-o", "json", timeout_s=LONG_S).stdout)

    [unknown] = [each for each in found["restore"]["findings"] if each["check"] == "NodeUnknown"]
    assert worker in unknown["text"]
    assert "systemctl restart kubelet" in unknown["remedy"]
    site.real.ssh(worker, "systemctl restart kubelet")
    site.real.until_ready(worker)
    confirmed(site, orchestrator)


# ---- dead for good: the last test, for the cluster has two members afterwards -----------------------------------


def test_with_a_control_plane_dead_for_good_the_others_are_restored_as_a_cluster_of_two(site, orchestrator):
    dead = site.planes[2]
    lab("power", dead, "off")
    refused = orchestrator("etcd", "restore", "last", "--dead", dead, "--yes", code=20, timeout_s=LONG_S)
    assert "only" in refused.stderr
    words = ("--dead", dead, "--accept", "one-member-lost", "--yes", "-o", "json")
    found = json.loads(orchestrator("etcd", "restore", "last", *words, timeout_s=LONG_S).stdout)["restore"]

    [told_of] = [each for each in found["findings"] if each["check"] == "NodeDead"]
    assert f"kubectl delete node {dead}" in told_of["remedy"]
    site.real.kubectl("delete", "node", dead)  # else pods of the rollout would be sent there, and waited for
    serves(site, orchestrator, {"kept"}, count=2)

    # It comes back with its old data: the members do not listen to it, and the cluster is the restored one.
    lab("power", dead, "on")
    heard = "grep -lR 'cluster ID mismatch' /var/log/pods/kube-system_etcd-*/; true"
    until("its etcd to be turned away", lambda: site.real.ssh(dead, heard).strip(), 180)
    serves(site, orchestrator, {"kept"}, count=2)

    join_anew(site.access, dead, site.planes[0])
    site.real.until_ready(dead)
    serves(site, orchestrator, {"kept"})
    orchestrator("etcd", "backup", timeout_s=LONG_S)
