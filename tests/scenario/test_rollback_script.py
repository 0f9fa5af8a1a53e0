"""What a control plane's way back does on its host: the real script, below a root of its own, killed at every call."""

import pytest

from orchestrator.actions.rollback import _STATIC_PODS
from tests.fakes.hosts import machine
from tests.fakes.restorehost import MANIFEST, MOST, Below, RestoreHost

PLAN = "rollback-1"
BACKUP = "/etc/kubernetes/tmp/kubeadm-backup-manifests-1"
GIVEN = (f"{BACKUP}/etcd.yaml", f"{BACKUP}/kube-apiserver.yaml")
COPY = "/etc/kubernetes/tmp/kubeadm-backup-etcd-1/etcd"


class Host(RestoreHost):
    """A control plane after an upgrade; kubeadm kept the manifests of before, and a copy of the data."""

    def __init__(self, directory, *, mount=False, moved=False):
        super().__init__(directory, mount=mount)
        self.mount = mount
        if moved:
            old, self.data = self.data, self.root / "var/lib/new-etcd"
            old.rename(self.data)
        etcd = MANIFEST.format(data=self.data, pki=self.root / "etc/kubernetes/pki")
        kept = self.root / BACKUP[1:]
        kept.mkdir(parents=True)
        (kept / "etcd.yaml").write_text(etcd)
        (kept / "kube-apiserver.yaml").write_text("older")
        (self.manifests / "etcd.yaml").write_text(etcd.replace("3.6.8", "3.7.0"))
        copy = self.root / COPY[1:] / "member/snap"
        copy.mkdir(parents=True)
        (copy / "db").write_text("copy")
        self._program(
            "ctr",
            'for at; do :; done; case "$*" in *unmount*) rm -r "$at/usr";; '
            f'*) mkdir -p "$at/usr/local/bin"; cp {self.root}/bin/etcdutl.real "$at/usr/local/bin/etcdutl";; esac',
        )

    def back(self, data=COPY, given=GIVEN):
        """Do it; what came of it."""
        here = machine(Below(self.root), name="cp-1")
        return here.run(["sh", "-c", _STATIC_PODS, "sh", data, PLAN, *given], timeout_s=60.0)

    def before(self):
        """Where the data of before are, seen from the root."""
        beside = self.data / ".before" if self.mount else self.data.with_name(f"{self.data.name}.before")
        return f"{beside.relative_to(self.root)}-{PLAN}"

    def db(self):
        return (self.data / "member/snap/db").read_text()


@pytest.fixture(params=["swap", "mount", "moved"])
def host(request, tmp_path):
    return Host(tmp_path, mount=request.param == "mount", moved=request.param == "moved")


def test_manifests_and_data_are_those_of_before_and_what_was_there_is_kept(host):
    done = host.back()

    assert done.rc == 0, done.stderr
    assert host.db() == "copy"
    assert "3.6.8" in (host.manifests / "etcd.yaml").read_text()
    assert (host.manifests / "kube-apiserver.yaml").read_text() == "older"
    assert [name for name, held in host.tree().items() if held == "old"] == [f"{host.before()}/member/snap/db"]
    assert not [name for name in host.tree() if ".new-" in name]


def test_without_a_copy_the_data_stay(host):
    assert host.back(data="").rc == 0

    assert host.db() == "old"
    assert "3.6.8" in (host.manifests / "etcd.yaml").read_text()


def test_manifests_of_two_runs_go_back_and_one_that_was_only_stopped_is_as_it_was(tmp_path):
    host = Host(tmp_path)
    (host.root / f"{BACKUP[1:]}-2").mkdir()
    (host.root / f"{BACKUP[1:]}-2" / "kube-scheduler.yaml").write_text("older, too")

    server = (host.manifests / "kube-apiserver.yaml").read_text()

    assert host.back(given=(GIVEN[0], f"{BACKUP}-2")).rc == 0

    assert "3.6.8" in (host.manifests / "etcd.yaml").read_text()
    assert (host.manifests / "kube-scheduler.yaml").read_text() == "older, too"
    assert (host.manifests / "kube-apiserver.yaml").read_text() == server


def test_a_second_time_changes_nothing(host):
    assert host.back().rc == 0
    once = host.tree()
    assert host.back().rc == 0

    assert host.tree() == once


@pytest.mark.parametrize("data", [COPY, ""])
def test_while_static_pods_change_no_kubelet_starts_the_old_ones_again(host, data):
    """One that was started while its API server was away would, and ends none by itself."""
    done = host.back(data)

    assert done.rc == 0, done.stderr
    assert {*host.told[:-1]} == {"stop kubelet"}
    assert host.told[-1] == "start kubelet"


def test_a_kubelet_is_started_where_the_rest_fails(tmp_path):
    host = Host(tmp_path)
    host.fail("mv", "*etcd.before-*")

    assert host.back().rc != 0

    assert host.told == ["stop kubelet", "start kubelet"]


@pytest.mark.matrix
def test_killed_at_every_call_it_comes_to_the_same_end(tmp_path):
    for mount in (False, True):
        host = Host(tmp_path / str(mount), mount=mount)
        for call in host.again_and_again():
            host.kill_at(call)
            host.back()
            ended = host.heal() < call
            assert host.back().rc == 0
            assert host.db() == "copy", call
            assert "old" in host.tree().values()
            assert "3.6.8" in (host.manifests / "etcd.yaml").read_text()
            assert (host.manifests / "kube-apiserver.yaml").read_text() == "older"
            assert host.told[-1] == "start kubelet"
            if ended:
                break
        assert 5 < call < MOST - 1


def test_a_copy_that_is_gone_stops_it_before_anything_unless_it_was_taken_before(tmp_path):
    host = Host(tmp_path)
    kept = host.root / BACKUP[1:] / "kube-apiserver.yaml"
    text = kept.read_text()
    kept.unlink()
    before = host.tree()["etc/kubernetes/manifests/kube-apiserver.yaml"]

    gone = host.back()
    assert gone.rc == 7
    assert f"{GIVEN[1]} is gone".encode() in gone.stderr
    assert host.tree()["etc/kubernetes/manifests/kube-apiserver.yaml"] == before
    kept.write_text(text)
    assert host.back().rc == 0
    kept.unlink()
    assert host.back().rc == 0


def test_a_manifest_that_does_not_say_where_data_are_stops_it_before_anything(tmp_path):
    host = Host(tmp_path)
    (host.root / BACKUP[1:] / "etcd.yaml").write_text("image: registry.k8s.io/etcd:3.6.8-0\n")

    done = host.back()
    assert done.rc == 6
    assert b"does not say where" in done.stderr
    assert host.db() == "old"
    assert "3.7.0" in (host.manifests / "etcd.yaml").read_text()
