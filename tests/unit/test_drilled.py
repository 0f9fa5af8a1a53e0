"""What programs that were started on a snapshot answered, held against what is in it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.backup.contents import Kind
from orchestrator.backup.drilled import counted, judged, keyless, with_api_server
from orchestrator.backup.records import Hashed
from orchestrator.cluster.frame import sections
from orchestrator.errors import BackupError, BadUsage

STATUS = (Path(__file__).parent / "facts" / "etcd" / "status.three.json").read_text()
REVISION = min(each["Status"]["header"]["revision"] for each in json.loads(STATUS))
EXPECTED = SimpleNamespace(revision=REVISION, keys=3, prefixes={"/registry/pods": 2}, storage="3.6.0")


#: At its revision, and after the last compaction.
HASH = {"hash": 0xABC, "compact_revision": 7, "hash_revision": REVISION}


def hashes(**changes):
    return json.dumps([{"Endpoint": "unix://127.0.0.1:1", "HashKV": HASH | changes}])


def recorded(value=0xABC, compact_revision=7, etcd="3.6.8"):
    hashed = Hashed(value=value, compact_revision=compact_revision)
    return SimpleNamespace(node="cp-2", etcd=etcd, hashed=hashed)


def kind(name, resource, objects, group=""):
    return Kind(name, group, resource, objects, 100, 0, {"": objects})


KINDS = (
    kind("Pod", "pods", 2),
    kind("Deployment", "deployments", 1, "apps"),
    kind("Lease", "leases", 5, "coordination.k8s.io"),
    kind("widgets.example.com", "widgets", 1, "example.com"),
    kind("MasterLease", "masterleases", 1),
    kind("(other)", "", 1),
)
SERVED = (
    "pods po v1 true Pod",
    "deployments deploy apps/v1 true Deployment",
    "leases coordination.k8s.io/v1 true Lease",
    "widgets wi,wis example.com/v1 true Widget",
)


def etcds(**changes):
    """What etcd answered."""
    sections = {
        "version": "etcd Version: 3.6.8",
        "began": "100.0",
        "restored": "100.5",
        "started": "101.5",
        "status": STATUS,
        "count all": "3",
        "count /registry/pods/": "2",
        "ended": "102",
        **changes,
    }
    return "".join(f"@@{name}\n {text}\n" for name, text in sections.items() if text is not None)


def servers(read, *more, served=SERVED):
    lines = ["@@server-began", " 110.0", "@@ready", " 112.5", "@@kubernetes", '   "gitVersion": "v1.36.3",', "@@served"]
    lines += [f" {line}" for line in served]
    lines += [f"@@read {name} {number}" for name, number in read.items()]
    return "\n".join([*lines, *more, "@@listed", " 114.0", ""])


READ = {"pods": 2, "deployments.apps": 1, "leases.coordination.k8s.io": 5, "widgets.example.com": 1}


def both(answer):
    return with_api_server(judged("s", "cp-1", etcds(), EXPECTED, None), answer, KINDS)


KEYLESS = "@@failed keys\n cp: cannot stat '/etc/kubernetes/enc/config.yaml'\n"


def test_keys_of_an_api_server_that_are_away_are_no_matter_of_the_snapshot():
    found = judged("s", "", etcds() + KEYLESS, EXPECTED, None)

    assert found.wrong == ()
    with pytest.raises(BackupError, match="on cp-1: reading the keys of encryption at rest failed: cp: ") as caught:
        keyless(sections(etcds() + KEYLESS), "cp-1")
    assert "--encryption-config FILE" in caught.value.remedy


def test_what_is_wrong_with_a_snapshot_is_told_though_keys_are_away():
    found = judged("s", "", etcds(**{"count all": "2"}) + KEYLESS, EXPECTED, None)

    assert found.wrong == ("all: 2 keys, 3 in the snapshot",)


def test_where_nothing_is_locked_nothing_is_told_of_keys():
    keyless(sections(etcds()), "cp-1")
    keyless(sections(etcds() + "@@failed server\n no\n"), "cp-1")


DENIED = 'Internal error occurred: unable to transform key "/registry/secrets/a/b": no matching prefix found'


@pytest.mark.parametrize(
    ("said", "pods", "sealed"),
    [
        (DENIED, 2, True), (DENIED, 1, False), ("deadline exceeded", 2, False),
        ("conversion webhook for v1 failed", 2, False),
    ],
)  # fmt: skip
def test_it_is_known_whether_nothing_is_wrong_but_what_was_not_decrypted(said, pods, sealed):
    kinds = (kind("Secret", "secrets", 2), kind("Pod", "pods", 2))
    served = ("pods po v1 true Pod", "secrets v1 true Secret")
    answer = servers({"pods": pods}, "@@unread secrets", f" {said}", served=served)

    assert with_api_server(judged("s", "cp-1", etcds(), EXPECTED, None), answer, kinds).sealed == sealed


# ---- etcd -----------------------------------------------------------------------------------------------------


def test_an_etcd_that_has_all_of_it_is_well():
    found = judged("s", "", etcds(), EXPECTED, None)

    assert found.wrong == ()
    assert (found.where, found.etcd, found.restore_s, found.start_s) == ("this machine", "3.6.8", 0.5, 1.0)
    assert found.text == f"etcd 3.6.8 has revision {found.revision} and 3 keys after 1.5 s"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count all": "2"}, "all: 2 keys, 3 in the snapshot"),
        ({"count all": None}, "its keys could not be counted"),
        ({"count /registry/pods/": "1"}, "/registry/pods/: 1 keys, 2 in the snapshot"),
        ({"ended": None}, "it did not come to its end"),
        ({"failed start": "no\n room"}, "start failed: no room"),
        ({"status": None}, f"etcd has revision 0, the snapshot {REVISION}"),
        ({"version": "etcd Version: 3.5.9"}, "etcd 3.5.9 is older than the data, which are of 3.6.0"),
    ],
)
def test_what_is_not_as_it_was_is_told(changes, said):
    found = judged("s", "cp-1", etcds(**changes), EXPECTED, None)

    assert said in found.wrong
    assert said in found.text


def test_keys_with_the_hash_that_they_had_in_the_member_are_well():
    found = judged("s", "", etcds(hash=hashes()), EXPECTED, recorded())

    assert (found.wrong, found.incomparable, found.hash, found.member_hash) == ((), "", 0xABC, 0xABC)
    assert found.text == (
        f"etcd 3.6.8 has revision {found.revision} and 3 keys after 1.5 s, with the hash that they had in the member"
    )


def test_keys_with_another_hash_than_in_the_member_fail_the_drill_with_both():
    found = judged("s", "", etcds(hash=hashes()), EXPECTED, recorded(value=0xDEF))

    assert found.wrong == (f"at revision {REVISION} its keys have the hash abc, in the member of cp-2 they had def",)


@pytest.mark.parametrize(
    ("answer", "record", "why"),
    [
        (hashes(), None, "that of the member is not known"),
        (hashes(), SimpleNamespace(hashed=None), "that of the member is not known"),
        (None, recorded(), "etcd did not tell it"),
        (hashes(hash_revision=REVISION + 1), recorded(), "etcd did not tell it"),
        (hashes(), recorded(1, compact_revision=9), "the member had compacted up to 9 when it was asked for its own"),
        (hashes(), recorded(1, etcd="3.6.6"), "that of the member is of etcd 3.6.6"),
    ],
)
def test_hashes_that_do_not_count_the_same_are_not_compared(answer, record, why):
    found = judged("s", "", etcds(hash=answer), EXPECTED, record)

    assert (found.wrong, found.incomparable) == ((), why)
    assert "hash" not in found.text


def test_a_program_that_is_not_there_is_no_failed_drill():
    with pytest.raises(BadUsage, match="there is no etcdutl on cp-1"):
        judged("s", "cp-1", "@@missing etcdutl\n", EXPECTED, None)


# ---- an API server --------------------------------------------------------------------------------------------


def test_only_kinds_that_clients_see_are_counted():
    assert counted(KINDS) == READ


def test_a_server_that_has_all_of_it_is_well():
    found = both(servers(READ))

    assert found.wrong == ()
    server = found.server
    assert (server.version, server.start_s, server.read_s, server.counts, server.unread) == (
        "v1.36.3",
        2.5,
        1.5,
        READ,
        {},
    )
    assert "kube-apiserver v1.36.3 read 9 objects of 4 kinds in 4.0 s more" in found.text


def test_fewer_objects_than_the_snapshot_has_are_wrong_and_more_are_not():
    assert both(servers(READ | {"pods": 1})).wrong == ("pods: 1 objects, 2 in the snapshot",)
    assert both(servers(READ | {"pods": 3})).wrong == ()


def test_what_a_server_clears_away_by_itself_may_be_fewer():
    assert both(servers(READ | {"leases.coordination.k8s.io": 1})).wrong == ()


def test_what_could_not_be_read_is_wrong_with_what_was_said():
    less = {name: number for name, number in READ.items() if name != "pods"}

    found = both(servers(less, "@@unread pods", " Error: no matching prefix found"))

    assert found.wrong == ("pods could not be read: Error: no matching prefix found",)


def test_a_kind_that_was_passed_over_is_wrong():
    less = {name: number for name, number in READ.items() if name != "pods"}

    assert both(servers(less)).wrong == ("pods: not read",)


def test_a_kind_whose_api_is_not_served_is_told_and_not_wrong():
    less = {name: number for name, number in READ.items() if name != "widgets.example.com"}

    found = both(servers(less, served=SERVED[:3]))

    assert found.wrong == ()
    assert found.server.unread == {"widgets.example.com": "1 of them: their API is not served"}


def test_a_kind_that_needs_its_conversion_webhook_is_told_and_not_wrong():
    less = {name: number for name, number in READ.items() if name != "widgets.example.com"}
    said = " Error from server: conversion webhook for example.com/v1, Kind=Widget failed: no"

    found = both(servers(less, "@@unread widgets.example.com", said))

    assert found.wrong == ()
    assert "webhook" in found.server.unread["widgets.example.com"]


def test_a_server_that_was_cut_short_is_wrong():
    answer = servers(READ).partition("@@listed")[0]

    assert both(answer).wrong == ("the API server did not come to its end",)


def test_a_server_that_did_not_start_is_what_is_wrong():
    answer = etcds(**{"failed server": "x"})

    found = with_api_server(judged("s", "cp-1", answer, EXPECTED, None), answer, KINDS)

    assert "kube-apiserver failed: x" in found.text
    assert found.server is None
