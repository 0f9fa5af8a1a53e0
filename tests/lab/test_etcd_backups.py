"""Backups of a real etcd: taken, stored, proven, pruned, rehearsed, and what happens when one is killed."""

import base64
import json
import os
import re
import signal
import subprocess
from datetime import UTC, datetime

import pyrage
import pytest
import zstandard

from lab import docker, gobuild
from lab.processes import run
from orchestrator.backup.snapshot import examine
from tests.api.command import PROGRAM, Command
from tests.lab.real import CONTROL_PLANE, ETCD, VERSION, deployment, serving, until

pytestmark = pytest.mark.lab
NODE_FILE = "/opt/snapshot-pre-boot.db"


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """An identity of age: its file, and who it is for others."""
    made = pyrage.x25519.Identity.generate()
    path = tmp_path_factory.mktemp("age") / "identity.txt"
    path.touch(mode=0o600)
    path.write_text(f"{made}\n")
    return path, str(made.to_public())


@pytest.fixture
def orchestrator(real, tmp_path):
    """The command; nodes are containers of the lab's own daemon."""
    command = Command(real.cluster.kubeconfig, tmp_path, {"DOCKER_HOST": f"unix://{docker.current().socket}"})
    yield command
    command.end()


@pytest.fixture
def store(tmp_path):
    return tmp_path / "backups"


def listed(orchestrator, store, *words):
    return orchestrator.json("etcd", "list", "--from", str(store), *words)["snapshots"]


def tried(orchestrator, *words):
    """The exit code of a command, whatever it is."""
    done = subprocess.run([PROGRAM, *words], env=orchestrator.environ, capture_output=True, timeout=120, check=False)
    return done.returncode


def left_on_the_host(real):
    """What runs left there, but for when etcd was defragmented, and processes of drills."""
    said = real.ssh(
        CONTROL_PLANE,
        "ls -I etcd-defragmented /var/lib/orchestrator 2> /dev/null;"
        " pgrep -fa 'name [d]rill|[k]ube-apiserver --etcd-servers=unix'; true",
    )
    return said.splitlines()


def test_status_answers_which_version_at_what_address_and_where_the_certificate_is(orchestrator):
    text = orchestrator("etcd", "status").stdout
    found = orchestrator.json("etcd", "status")

    (host,) = found["hosts"]
    (member,) = found["members"]
    assert host["certFile"] == "/etc/kubernetes/pki/etcd/server.crt"
    assert "https://127.0.0.1:2379" in host["listenClientUrls"]
    assert (host["how"], host["dataDir"], host["mount"]) == ("static pod", "/var/lib/etcd", False)
    assert (member["version"], member["health"], member["leader"]) == (ETCD, "", True)
    assert member["dbSizeBytes"] > 0
    assert member["revision"] > 0
    assert host["latencyS"] > 0
    for told in (ETCD, "/etc/kubernetes/pki/etcd/server.crt", "/var/lib/etcd", "well"):
        assert told in text


def test_a_snapshot_is_the_state_of_the_cluster_at_that_moment(real, place, orchestrator, store):
    place.kubectl("create", "configmap", "before", "--from-literal=a=b")

    orchestrator("etcd", "backup", "--to", str(store), "--no-compress")

    (record,) = listed(orchestrator, store)
    (file,) = store.glob("*.db")
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    assert record["keys"] == examine(file).keys
    assert record["members"] == [CONTROL_PLANE]
    assert f"/registry/configmaps/{place.name}/before".encode() in file.read_bytes()
    assert record["recoverySet"] is False  # nobody to encrypt it for
    assert left_on_the_host(real) == []


@pytest.mark.parametrize("old", [False, True])
def test_a_snapshot_is_saved_at_the_pace_of_a_part_of_a_processor_where_systemd_can(real, orchestrator, store, old):
    refuses = 'case "$*" in *CPUQuotaPeriodSec*) exit 1;; esac' if old else ""
    with real.ahead_of(CONTROL_PLANE, "systemd-run", f'echo "$*" >> /root/units\n{refuses}'):
        orchestrator("etcd", "backup", "--to", str(store))
    units = real.ssh(CONTROL_PLANE, "cat /root/units; rm /root/units")

    saved = [line for line in units.splitlines() if "snapshot save" in line]
    assert len(saved) == (0 if old else 1)
    assert all("CPUQuota=10%" in line and "UMask=0077" in line for line in saved)
    assert len(listed(orchestrator, store)) == 1
    assert left_on_the_host(real) == []


def test_a_plain_file_on_the_control_planes_own_disk_is_one_that_etcdutl_restores(real, orchestrator):
    orchestrator("etcd", "backup", "--to", f"node:{NODE_FILE}")

    said = real.ssh(
        CONTROL_PLANE,
        f"stat -c %a {NODE_FILE}; bin=/proc/$(pidof -s etcd)/root/usr/local/bin; d=$(mktemp -d);"
        f" $bin/etcdutl snapshot restore {NODE_FILE} --data-dir $d/data > /dev/null 2>&1 && ls $d/data; rm -r $d",
    )

    assert said.split() == ["600", "member"]


def test_what_is_encrypted_opens_with_its_identity_and_holds_what_new_machines_need(orchestrator, store, key, tmp_path):
    identity, recipient = key
    orchestrator("etcd", "backup", "--to", str(store), "--recipient", recipient)
    (sealed,) = store.glob("*.recovery.tar.zst.age")
    for file in store.iterdir():
        assert b"PRIVATE KEY" not in file.read_bytes()

    refused = orchestrator("etcd", "verify", "last", "--from", str(store), code=2)
    proven = orchestrator.json("etcd", "verify", "last", "--from", str(store), "-i", str(identity))
    compressed = pyrage.decrypt(sealed.read_bytes(), [pyrage.x25519.Identity.from_str(identity.read_text().strip())])

    assert "--identity" in refused.stderr
    assert proven["keys"] == listed(orchestrator, store)[0]["keys"]
    assert [copy["recoverySet"] for copy in proven["copies"]] == [""]
    (tmp_path / "set.tar.zst").write_bytes(compressed)
    with (tmp_path / "set.tar.zst").open("rb") as packed, (tmp_path / "set.tar").open("wb") as tar:
        zstandard.ZstdDecompressor().copy_stream(packed, tar)
    names = run(["tar", "tf", str(tmp_path / "set.tar")]).split()
    for needed in (
        "etc/kubernetes/pki/ca.key", "etc/kubernetes/pki/sa.key", "etc/kubernetes/pki/etcd/ca.key",
        "etc/kubernetes/manifests/etcd.yaml", "etc/kubernetes/admin.conf", "var/lib/kubelet/config.yaml",
        "tools/etcdutl", "configmaps.yaml",
    ):  # fmt: skip
        assert needed in names


def test_cron_hears_nothing_of_success_and_monitoring_all_of_it(orchestrator, store, tmp_path):
    metrics = tmp_path / "etcd.prom"

    done = orchestrator("etcd", "backup", "--to", str(store), "--scheduled", "-q", "--metrics-file", str(metrics))

    assert (done.stdout, done.stderr) == ("", "")
    told = dict(
        re.findall(r'^orchestrator_etcd_backup_(\w+)\{cluster="test"\} (\S+)$', metrics.read_text(), re.MULTILINE)
    )
    (record,) = listed(orchestrator, store)
    assert record["reason"] == "scheduled"
    assert float(told["revision"]) == record["revision"]
    assert told["last_attempt_success"] == "1"
    assert told["verified"] == "1"


def test_a_destination_that_is_away_is_a_failure_that_says_what_succeeded(orchestrator, store, tmp_path):
    metrics, file = tmp_path / "etcd.prom", tmp_path / "file"
    file.touch()
    away = str(file / "backups")

    done = orchestrator("etcd", "backup", "--to", str(store), "--to", away, "--metrics-file", str(metrics), code=40)

    assert f"stored at {store}" in done.stderr
    assert len(listed(orchestrator, store)) == 1
    told = metrics.read_text()
    assert f'destination_success{{cluster="test",destination="{store}"}} 1' in told
    assert f'destination_success{{cluster="test",destination="{away}"}} 0' in told
    file.unlink()
    orchestrator("resume", "last")
    assert [s["name"] for s in listed(orchestrator, away)] == [s["name"] for s in listed(orchestrator, store)]


def test_a_backup_that_is_killed_goes_on_and_leaves_nothing(real, orchestrator, store):
    process = orchestrator.start("etcd", "backup", "--to", str(store))
    until("its start", lambda: "snapshot" in orchestrator.stderr)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    until("the lease to end", lambda: tried(orchestrator, "resume", "last") == 0)

    (record,) = listed(orchestrator, store)
    assert record["places"][0]["wrong"] == ""
    orchestrator("etcd", "verify", "last", "--from", str(store))
    assert left_on_the_host(real) == []
    assert list((orchestrator.home / "state/orchestrator/snapshots/staging").iterdir()) == []


def test_a_second_run_at_the_same_time_is_refused_with_the_name_of_the_first(real, orchestrator, store):
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "kube-orchestrator", "namespace": "kube-system"},
        "spec": {"holderIdentity": "bob@elsewhere", "leaseDurationSeconds": 300, "acquireTime": now, "renewTime": now},
    }
    real.kubectl("create", "-f", "-", stdin=json.dumps(lease))
    try:
        done = orchestrator("etcd", "backup", "--to", str(store), code=21)
    finally:
        real.kubectl("-n", "kube-system", "delete", "lease", "kube-orchestrator")

    assert "bob@elsewhere" in done.stderr
    assert listed(orchestrator, store) == []


def test_what_the_policy_does_not_keep_goes_and_the_pinned_stays(orchestrator, store):
    for _ in range(2):
        orchestrator("etcd", "backup", "--to", str(store))
    oldest = listed(orchestrator, store)[-1]["name"]
    orchestrator("etcd", "pin", oldest, "--reason", "kept on purpose", "--from", str(store))

    orchestrator("etcd", "backup", "--to", str(store), "--keep", "last=1")

    found = listed(orchestrator, store)
    assert (len(found), found[1]["name"]) == (2, oldest)
    told = orchestrator("etcd", "prune", "--keep", "last=1", "--from", str(store), "--dry-run").stdout
    assert "kept on purpose" in told


def test_a_restore_is_rehearsed_on_the_control_plane_and_here(real, orchestrator, store):
    orchestrator("etcd", "backup", "--to", str(store))
    programs = str(gobuild.etcd("3.7.0"))

    there = orchestrator.json("etcd", "drill", "--from", str(store))
    here = orchestrator.json("etcd", "drill", "--from", str(store), "--here", "--programs", programs)

    (record,) = listed(orchestrator, store)
    for found, version in ((there, ETCD), (here, "3.7.0")):
        assert (found["ok"], found["etcdVersion"], found["revision"]) == (True, version, record["revision"])
        assert found["counts"]["all"] == record["keys"]
    assert there["hash"] == here["hash"]
    assert (there["memberHash"], there["incomparable"]) == (there["hash"], "")
    assert here["incomparable"] == "that of the member is of etcd 3.6.8"
    assert record["drill"]["ok"] is True
    assert left_on_the_host(real) == []


def test_an_api_server_reads_all_of_a_snapshot_on_the_control_plane_and_here(real, place, orchestrator, store):
    place.kubectl("create", "configmap", "read", "--from-literal=a=b")
    orchestrator("etcd", "backup", "--to", str(store))
    running = real.ssh(CONTROL_PLANE, "pidof kube-apiserver etcd")
    lookups = [f"--programs={gobuild.etcd(ETCD)}", f"--programs={gobuild.kubernetes(VERSION)}"]

    there = orchestrator.json("etcd", "drill", "--api-server", "--from", str(store))
    here = orchestrator.json("etcd", "drill", "--api-server", "--from", str(store), "--here", *lookups)

    expected = orchestrator.json("etcd", "verify", "last", "--from", str(store), "--deep")
    kinds = {f"{k['resource']}.{k['group']}".rstrip("."): k["objects"] for k in expected["kinds"]}
    for found in (there, here):
        assert (found["ok"], found["wrong"], found["apiServer"]["version"]) == (True, [], f"v{VERSION}")
        counts = found["apiServer"]["counts"]
        for name in ("configmaps", "secrets", "nodes", "pods", "deployments.apps", "namespaces"):
            assert counts.get(name, 0) == kinds.get(name, 0)
    (record,) = listed(orchestrator, store)
    assert f"kube-apiserver v{VERSION} read" in record["drill"]["text"]
    assert real.ssh(CONTROL_PLANE, "pidof kube-apiserver etcd") == running
    assert left_on_the_host(real) == []


def definition(plural, kind):
    version = {"name": "v1", "served": True, "storage": True}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.extract.example.com"},
        "spec": {
            "group": "extract.example.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [{**version, "schema": schema}],
        },
    }


def test_what_was_deleted_comes_back_out_of_a_snapshot_and_kubectl_applies_it(real, place, orchestrator, store):
    doubtful = {"yes": "y", "power": "1e3", "octal": "0o17", "number": "007", "lines": "a\n  b\n\n", "none": ""}
    widget = {
        "apiVersion": "extract.example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "finalizers": ["extract.example.com/wait"]},
        "spec": {"size": 3, "on": True, "share": 0.5, "name": "on"},
    }
    real.kubectl("apply", "-f", "-", stdin=json.dumps(definition("widgets", "Widget")))
    real.kubectl("wait", "--for=condition=Established", "crd/widgets.extract.example.com")
    place.create(
        deployment("web", 1, serving("hello")),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": doubtful},
        widget,
    )
    place.until_ready(1)
    before = {kind: place.read(kind, name) for kind, name in (("secret", "db"), ("widget", "w"))}
    orchestrator("etcd", "backup", "--to", str(store))
    place.kubectl("patch", "widget", "w", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    place.kubectl("delete", "deployment/web", "secret/db", "widget/w")

    for kind, name in (("deploy", "web"), ("Secret", "db"), ("widgets.extract.example.com", "w")):
        done = orchestrator("etcd", "extract", "last", kind, f"{place.name}/{name}", "--from", str(store))
        place.kubectl("apply", "-f", "-", stdin=done.stdout)

    place.until_ready(1)
    assert place.read("secret", "db")["data"] == before["secret"]["data"]
    assert place.read("widget", "w")["spec"] == widget["spec"]
    assert place.read("widget", "w")["metadata"]["uid"] != before["widget"]["metadata"]["uid"]
    whole = ("etcd", "extract", "last", "secret", f"{place.name}/db", "--whole", "-o", "json", "--from", str(store))
    stored = json.loads(orchestrator(*whole).stdout)
    assert stored["metadata"]["uid"] == before["secret"]["metadata"]["uid"]
    assert stored["metadata"]["managedFields"]
    near = orchestrator("etcd", "extract", "last", "deploy", f"{place.name}/wbe", "--from", str(store), code=2)
    assert f"Deployment {place.name}/web" in near.stderr
    assert left_on_the_host(real) == []
    place.kubectl("patch", "widget", "w", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    real.kubectl("delete", "crd", "widgets.extract.example.com")


def test_a_snapshot_that_was_damaged_fails_its_proof_and_its_drill(orchestrator, store):
    orchestrator("etcd", "backup", "--to", str(store), "--no-compress")
    (file,) = store.glob("*.db")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    for command in ("verify", "drill"):
        done = orchestrator("etcd", command, "last", "--from", str(store), code=40)
        assert file.name in done.stderr


def test_a_missed_backup_is_noticed(orchestrator, store):
    nothing = orchestrator("etcd", "list", "--from", str(store), "--max-age", "26h", code=40)
    orchestrator("etcd", "backup", "--to", str(store))
    orchestrator("etcd", "list", "--from", str(store), "--max-age", "26h")

    old = orchestrator("etcd", "list", "--from", str(store), "--max-age", "1ms", code=40)

    assert "no snapshot" in nothing.stderr
    assert "old" in old.stderr


def test_results_are_documents(orchestrator, store):
    orchestrator("etcd", "backup", "--to", str(store))

    taken = json.loads(orchestrator("etcd", "backup", "--to", str(store), "-o", "json").stdout)

    assert taken["kind"] == "SnapshotList"
    assert len(taken["snapshots"]) == 1


def test_unused_space_is_given_back_and_the_cluster_goes_on(orchestrator):
    orchestrator("etcd", "defrag", "--above", "0", "--at-least", "0")

    again = orchestrator("etcd", "defrag")

    assert "already defragmented" in again.stdout
    assert orchestrator.json("etcd", "status")["troubles"] == []


@pytest.mark.lab_full
def test_while_no_api_server_answers_a_backup_is_taken_all_the_same(real, orchestrator, store):
    pods = "/etc/kubernetes/manifests"
    orchestrator("etcd", "backup", "--to", str(store))
    real.ssh(CONTROL_PLANE, f"mv {pods}/kube-apiserver.yaml /root/")
    try:
        until("it to end", lambda: not real.ssh(CONTROL_PLANE, "pidof kube-apiserver; true").strip(), 180)
        done = orchestrator("etcd", "backup", "--to", str(store))
    finally:
        real.ssh(CONTROL_PLANE, f"mv /root/kube-apiserver.yaml {pods}/")
        until("the API", lambda: real.attempt("get", "--raw", "/readyz").returncode == 0, 180)

    assert "the API does not answer" in done.stderr
    later, earlier = listed(orchestrator, store)
    assert later["revision"] > earlier["revision"]
    assert (later["cluster"], later["authority"]) == (earlier["cluster"], earlier["authority"])
    orchestrator("etcd", "verify", "last", "--from", str(store))
    assert left_on_the_host(real) == []


@pytest.mark.lab_full
def test_etcd_comes_out_of_its_alarm_when_there_is_room_again(real, place, orchestrator, tmp_path):
    manifest = "/etc/kubernetes/manifests/etcd.yaml"
    blob = tmp_path / "blob"
    blob.write_text(base64.b64encode(os.urandom(600_000)).decode())

    def quota(line):
        old = real.ssh(CONTROL_PLANE, "pidof -s etcd")
        real.ssh(
            CONTROL_PLANE, f"sed -i -e /quota-backend-bytes/d -e 's/^    - --snapshot-count=.*/{line}&/' {manifest}"
        )
        until("another etcd", lambda: real.ssh(CONTROL_PLANE, "pidof -s etcd; true") not in (old, ""), 180)
        until("the API", lambda: real.attempt("get", "--raw", "/readyz").returncode == 0, 180)

    quota(r"    - --quota-backend-bytes=8000000\n")
    made = 0
    while real.attempt("-n", place.name, "create", "configmap", f"blob{made}", f"--from-file={blob}").returncode == 0:
        made += 1
        assert made < 30
    until("the alarm", lambda: orchestrator.json("etcd", "status")["alarms"])

    for number in range(made):
        place.kubectl("delete", "configmap", f"blob{number}")
    orchestrator("etcd", "disarm", "--yes")

    assert orchestrator.json("etcd", "status")["alarms"] == []
    place.kubectl("create", "configmap", "after")
    quota("")
