"""What forbids a restore to a path of its own, and by which words its snapshot is found again."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import restores
from orchestrator.backup.catalogue import Held
from orchestrator.backup.records import Part, Record
from orchestrator.cluster.etcdhosts import EtcdHost, Place
from orchestrator.cluster.hostfacts import Disk
from orchestrator.errors import BadUsage, Refused
from orchestrator.library import Proven, home
from orchestrator.restores import Wish

PLACE = Place("/var/lib/etcd", "0:0", "700", "", mount=False, disk=Disk("/", 1, 1), size_bytes=1, entries=())
HOST = EtcdHost("cp-1", "static pod", flags={"data-dir": "/var/lib/etcd"}, place=PLACE)


class View:
    """A host that tells whether something is at a path."""

    def __init__(self, *, occupied=False):
        self.answer = "@@occupied\n@@end\n" if occupied else "@@end\n"

    def ask(self, node, query, *words):
        assert (node, query.name, words[:2]) == ("cp-1", "restore", ("plan-1", "/var/lib/etcd"))
        return self.answer


def refuse(target, *, host=HOST, occupied=False):
    restores._refuse_path(View(occupied=occupied), "plan-1", {"cp-1": host}, target)


def test_a_path_where_nothing_is_is_one():
    refuse("/var/lib/etcd-from-backup")


@pytest.mark.parametrize("target", ["/var/lib/etcd", "/var/lib/etcd/new", "/var/lib"])
def test_neither_the_old_data_nor_what_is_in_or_around_them(target):
    with pytest.raises(Refused, match="its data are at /var/lib/etcd"):
        refuse(target)


def test_a_path_where_something_is_is_left_alone_with_another_one_offered():
    with pytest.raises(Refused, match="something already") as caught:
        refuse("/var/lib/new", occupied=True)

    assert caught.value.remedy == "--data-dir /var/lib/new-2"


def test_a_manifest_that_shows_the_data_elsewhere_is_not_kubeadm_s():
    host = replace(HOST, flags={"data-dir": "/data"})

    with pytest.raises(Refused, match="kubeadm made no such manifest") as caught:
        refuse("/var/lib/new", host=host)

    assert "leave --data-dir-mode out" in caught.value.remedy


@pytest.mark.parametrize("target", ["new", "/", "/etcd", "/var/lib/../etcd", "/var/lib/x y", "/var/lib/x/", "/a/$(b)"])
def test_what_is_no_path_for_data_is_refused_before_anything_is_read(target):
    class Nothing:
        pass

    app = Nothing()
    app.clock = Nothing()
    app.clock.wall = lambda: 0.0
    with pytest.raises(BadUsage, match="is no path for data"):
        restores.prepare(app, None, Wish("last", target=target), print, rehearse=False)


# ---- the words of `etcd diff` -----------------------------------------------------------------------------------


def held(url, *, encrypted=False):
    record = Record(
        name="prod-20261124T010203Z-r70", at=1.0, reason="manual", run="", cluster="prod", cluster_id="1",
        authority="a", node="cp-1", etcd="3.6.8", storage="3.6.0", kubernetes="", revision=70, compact_revision=1,
        raft_index=1, raft_term=1, keys=1, prefixes={}, alarms=(), size_bytes=1, sha256="x",
        data=Part(file="x.db.zst.age" if encrypted else "x.db", size_bytes=1, sha256="x"), members=(), tool="1",
        recipients=("age1",) if encrypted else (),
    )  # fmt: skip
    return Held(record, url, "x.json")


def shown(found, **wish):
    return restores._shown(found, Wish("x.db", **wish))


def proven(held=None, *, trailer=True):
    return Proven(Path("x.db"), "", None, held.record if held else None, held, trailer=trailer)


def test_one_of_this_user_is_found_by_its_name():
    assert shown(proven(held(str(home())))) == ("prod-20261124T010203Z-r70",)


def test_one_that_is_elsewhere_and_encrypted_needs_places_and_identity(tmp_path):
    key = tmp_path / "key"

    words = shown(proven(held("s3://b/p", encrypted=True)), identities=(key,))

    assert words == ("prod-20261124T010203Z-r70", "--from", str(home()), "--from", "s3://b/p", "-i", str(key))


def test_a_file_is_found_by_its_path_wherever_the_command_is_typed():
    assert shown(proven()) == (str(Path("x.db").absolute()),)


def test_a_copy_of_a_database_is_nothing_that_diff_reads():
    assert shown(proven(trailer=False)) == ()
