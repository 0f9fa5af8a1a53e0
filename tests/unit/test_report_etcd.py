"""etcd and its snapshots as people and programs get them, and a backup's progress."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from orchestrator.backup import records
from orchestrator.backup.catalogue import Catalogue, Checked, Held
from orchestrator.backup.drilled import ApiServer, Drilled
from orchestrator.backup.records import Drill, Part, Peer, Record
from orchestrator.backup.retention import Judged
from orchestrator.backup.snapshot import Member, Snapshot
from orchestrator.catalogue import actions
from orchestrator.cluster.etcdhosts import Etcd, parse_host
from orchestrator.cluster.hostfacts import EtcdFacts, parse_etcd
from orchestrator.engine.clock import SystemClock
from orchestrator.engine.events import Event
from orchestrator.report import backups, etcd, etcdshapes
from orchestrator.report.console import line_of, verb

FACTS = Path(__file__).parent / "facts" / "hosts"
NODES = ("dev-control-plane", "dev-control-plane2", "dev-worker")
NOW = 1800007200.0
HOUR, DAY = 3600.0, 86400.0
SHA = "9f2b6e0a" * 8


def seen(**changes):
    """A cluster as its hosts answered."""
    hosts = {node: parse_host(node, (FACTS / f"etcd-host.{node}.txt").read_text()) for node in NODES}
    whole = Etcd("dev", NOW, hosts, parse_etcd((FACTS / "etcd.txt").read_text()))
    return replace(whole, **changes)


def below(text, title):
    """The lines of a section."""
    lines = text.splitlines()
    start = lines.index(title) + 1
    return lines[start : lines.index("", start) if "" in lines[start:] else len(lines)]


def shaped(document):
    """A document that went out as JSON and was read back by its shape."""
    return msgspec.json.decode(msgspec.json.encode(document), type=type(document))


# ---- status ---------------------------------------------------------------------------------------------------


def test_a_member_is_a_line_with_all_that_tells_whether_it_is_well():
    head, row = below(etcd.table(seen()), "MEMBERS")

    assert head.split()[:5] == ["NODE", "MEMBER", "ROLE", "VERSION", "HEALTH"]
    assert row.split("  ")[0] == "dev-control-plane"
    assert "b369c18053cfcd8f" in row
    for word in ("leader", "3.6.8", "well", "2 MB", "2.1 GB", "1281"):
        assert word in row


def test_a_host_tells_where_everything_is_that_somebody_may_need_at_night():
    text = etcd.table(seen())

    assert "dev-control-plane2  (static pod, etcd 3.6.8)" in text
    for word in (
        "https://127.0.0.1:2379,https://198.18.1.12:2379",
        "https://198.18.1.12:2380",
        "/etc/kubernetes/pki/etcd/server.crt",
        "/etc/kubernetes/pki/etcd/server.key",
        "/etc/kubernetes/pki/etcd/peer.crt",
        "/etc/kubernetes/pki/etcd/ca.crt",
        "/var/lib/etcd (130 MB, on /var, 43.8 GB of 270.6 GB free; owner 0:0, mode 700)",
        "etcdctl, etcdutl",
        "an answer 7.4 ms, a write to the log 1.1 ms, a commit 1.7 ms",
        "not known: not since it started",
    ):
        assert word in text


def test_hosts_without_a_member_are_not_shown():
    assert "dev-worker" not in etcd.table(seen())
    assert [host.node for host in etcd.document(seen()).hosts] == ["dev-control-plane", "dev-control-plane2"]


def test_a_cluster_that_is_well_has_nothing_that_needs_attention():
    assert "ATTENTION" not in etcd.table(seen())


def test_alarms_and_troubles_need_attention():
    whole = seen()
    health = {"https://198.18.1.11:2379": "context deadline exceeded"}
    facts = replace(whole.facts, alarms=("NOSPACE on member b369c18053cfcd8f",), statuses=(), health=health)

    text = etcd.table(seen(facts=facts))

    attention = " ".join(below(text, "ATTENTION"))
    assert "alarm NOSPACE on member b369c18053cfcd8f" in attention
    assert "member dev-control-plane does not answer" in attention
    assert "https://198.18.1.11:2379 is not healthy: context deadline exceeded" in attention
    assert "context deadline exceeded" in below(text, "MEMBERS")[1]


def test_an_etcd_on_other_machines_is_told_with_where_it_is():
    found = seen(hosts={}, facts=EtcdFacts(), external="https://10.9.0.1:2379")

    text = etcd.table(found)

    assert "etcd          on other machines: https://10.9.0.1:2379" in text
    assert "no member on these hosts" in text
    assert etcd.document(found).external == "https://10.9.0.1:2379"


def test_members_that_are_stopped_are_told_by_their_hosts():
    manifest = (FACTS / "etcd-host.dev-control-plane.txt").read_text().partition("@@process")[0]

    text = etcd.table(seen(hosts={"cp-1": parse_host("cp-1", manifest)}, facts=EtcdFacts()))

    assert "no member answers; stopped on cp-1" in text
    assert "cp-1  (stopped)" in text


def test_a_data_directory_that_cannot_be_seen_is_told():
    host = replace(seen().hosts["dev-control-plane"], place=None)

    assert "the data directory cannot be seen" in etcd.table(seen(hosts={"dev-control-plane": host}))


def test_a_data_directory_that_is_a_mount_point_is_told_as_one():
    host = seen().hosts["dev-control-plane"]
    mounted = replace(host, place=replace(host.place, mount=True))

    assert "a mount point" in etcd.table(seen(hosts={"dev-control-plane": mounted}))


def test_a_host_without_programs_of_etcd_says_so():
    host = replace(seen().hosts["dev-control-plane"], tools={})

    assert "none: neither etcdctl nor etcdutl" in etcd.table(seen(hosts={"dev-control-plane": host}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"defragmented_at": NOW - 3 * DAY}, "3 d ago"), ({"defragmented": 2}, "2 times since it started")],
)
def test_when_it_was_defragmented_is_told_as_well_as_it_is_known(changes, said):
    host = replace(seen().hosts["dev-control-plane"], **changes)

    assert said in etcd.table(seen(hosts={"dev-control-plane": host}))


def test_programs_get_numbers_and_the_same_words_as_etcd():
    found = shaped(etcd.document(seen()))

    [member] = found.members
    assert (member.id, member.node, member.health, member.leader) == ("b369c18053cfcd8f", NODES[0], "", True)
    assert (member.db_size_bytes, member.quota_bytes, member.raft_term) == (1568768, 2147483648, 2)
    host = found.hosts[1]
    assert (host.node, host.how, host.data_dir, host.mount) == (NODES[1], "static pod", "/var/lib/etcd", False)
    assert (host.free_bytes, host.latency_s) == (43838791680, pytest.approx(0.007404757))
    assert host.listen_client_urls == ["https://127.0.0.1:2379", "https://198.18.1.12:2379"]


def test_what_a_member_did_not_tell_is_null_for_programs():
    facts = replace(seen().facts, statuses=(), health={})

    [member] = shaped(etcd.document(seen(facts=facts))).members

    assert member.health == "it does not answer"
    assert (member.db_size_bytes, member.quota_bytes, member.revision, member.raft_index) == (None, None, None, None)


# ---- snapshots ------------------------------------------------------------------------------------------------


def record(revision=4711, *, age_s=10 * HOUR, **changes):
    name = records.named("prod", NOW - age_s, revision)
    fields = {
        "name": name,
        "at": NOW - age_s,
        "reason": "scheduled",
        "run": "backup-1",
        "cluster": "prod",
        "cluster_id": "c1",
        "authority": "a1",
        "node": "cp-2",
        "etcd": "3.6.8",
        "kubernetes": "v1.36.3",
        "revision": revision,
        "keys": 312,
        "size_bytes": 21_000_000,
        "sha256": f"{revision:064x}",
        "data": Part(file=f"{name}.db.zst", size_bytes=4_000_000, sha256="aa"),
        "members": (Peer(id="1", name="cp-1", peer_urls=()), Peer(id="2", name="cp-2", peer_urls=())),
    }
    return Record(**(fields | changes))


def held(one, url, wrong=""):
    return Held(one, url, f"{one.name}.json", wrong)


def at(url, *every, unread=(), strays=()):
    return Catalogue(url, every, unread, strays)


def test_what_was_taken_is_one_line_with_what_matters():
    recovery = Part(file="x.recovery.tar.zst.age", size_bytes=9, sha256="dd")

    line = backups.taken(record(recipients=("age1a",), recovery=recovery), ("/srv", "s3://b"))

    assert line == (
        f"{record().name}: revision 4711, 312 keys, 21 MB (4 MB stored, encrypted, with what new machines need), "
        "verified; at /srv, s3://b"
    )


def test_what_was_taken_says_when_it_is_not_encrypted():
    assert "(4 MB stored, not encrypted), verified; at /srv" in backups.taken(record(), ("/srv",))


def test_a_snapshot_at_several_destinations_is_one_line_and_the_newest_comes_first():
    old, new = record(1, age_s=3 * DAY), record(2)
    catalogues = (at("/srv", held(new, "/srv"), held(old, "/srv")), at("s3://b", held(new, "s3://b")))

    head, *rows, between, first, second = backups.listing(catalogues, (), NOW).splitlines()

    words = ["NAME", "AGE", "CA", "SIZE", "ETCD", "REASON", "SECRET", "PIN", "VERIFIED", "DRILL", "AT"]
    assert head.split() == words
    assert [row.split()[0] for row in rows] == [new.name, old.name]
    assert "10 h" in rows[0]
    assert rows[0].endswith("  1, 2")
    assert "3 d" in rows[1]
    assert (between, first, second) == ("", "1  /srv", "2  s3://b")


def test_a_line_tells_the_authority_of_the_clusters_that_it_can_restore():
    assert f"  {'a1' * 4}  " in backups.listing((at("/srv", held(record(authority="a1" * 32), "/srv")),), (), NOW)


def test_a_line_tells_when_the_last_copy_was_proven():
    two_days, later = held(record(age_s=2 * DAY), "/srv"), record(age_s=2 * DAY, verified=NOW - 3 * HOUR)

    first = backups.listing((at("/srv", two_days),), (), NOW).splitlines()[1]
    then = backups.listing((at("/srv", two_days), at("s3://b", held(later, "s3://b"))), (), NOW).splitlines()[1]

    assert first.count("2 d") == 2
    assert (then.count("2 d"), then.count("3 h")) == (1, 1)
    found = shaped(backups.list_document((at("/srv", two_days), at("s3://b", held(later, "s3://b"))), (), NOW))
    assert found.snapshots[0].verified == "2027-01-15T07:00:00Z"
    assert [p.verified for p in found.snapshots[0].places] == ["2027-01-13T10:00:00Z", "2027-01-15T07:00:00Z"]


def test_a_line_with_all_that_there_is_fits_on_120_columns():
    failed = Drill(at=NOW - 400 * DAY, ok=False, where="cp-1", text="")
    one = record(
        recipients=("age1a",), pin="before the great migration", drill=failed, reason="pre-upgrade", age_s=400 * DAY,
        authority="a1" * 32, size_bytes=1_234_000_000,
    )  # fmt: skip
    long = "s3://backups/of/all/clusters/everywhere?endpoint=https://minio.example.org:9000"
    places = [at(f"{long}&region={n}", held(one, f"{long}&region={n}")) for n in range(2)]

    rows = backups.listing(places, (), NOW).splitlines()[:2]

    assert [len(row) for row in rows if len(row) > 120] == []


def test_a_damaged_copy_says_so_in_its_line_and_under_attention():
    one = record()
    catalogues = (at("/srv", held(one, "/srv", f"{one.data.file} is missing")), at("s3://b", held(one, "s3://b")))

    text = backups.listing(catalogues, (), NOW)

    assert "1 (DAMAGED), 2" in text
    assert f"/srv: {one.data.file} is missing" in " ".join(below(text, "ATTENTION"))


def test_what_could_not_be_read_and_what_belongs_to_nobody_need_attention():
    catalogues = (at("/srv", unread=(("notes.json", "not a record"),), strays=("left.db",)),)

    text = backups.listing(catalogues, (("s3://b", "no answer"),), NOW)

    attention = " ".join(below(text, "ATTENTION"))
    assert text.splitlines()[0] == "no snapshots"
    assert "/srv/notes.json is no record: not a record" in attention
    assert "/srv: left.db belongs to no record" in attention
    assert "s3://b could not be read: no answer" in attention


def test_destinations_without_anything_wrong_need_no_attention():
    assert "ATTENTION" not in backups.listing((at("/srv", held(record(), "/srv")),), (), NOW)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pin": "before the great migration of all"}, "  before t  "),
        ({"recipients": ("age1a",)}, " yes "),
        ({"drill": Drill(at=NOW - DAY * 3, ok=True, where="cp-1", text="")}, "ok 3 d"),
        ({"drill": Drill(at=NOW - HOUR * 3, ok=False, where="cp-1", text="")}, "FAILED 3 h"),
    ],
)
def test_a_line_tells_pins_encryption_and_the_last_drill(changes, said):
    assert said in backups.listing((at("/srv", held(record(**changes), "/srv")),), (), NOW)


def test_the_list_for_programs_has_every_place_with_what_is_wrong_there():
    one = record(drill=Drill(at=NOW, ok=True, where="cp-1", text="312 keys"), pin="kept")
    catalogues = (
        at("/srv", held(one, "/srv", "it is missing"), unread=(("n.json", "bad"),), strays=("left.db",)),
        at("s3://b", held(one, "s3://b")),
    )

    found = shaped(backups.list_document(catalogues, (("gs://c", "no answer"),), NOW))

    [snapshot] = found.snapshots
    assert [(p.url, p.wrong) for p in snapshot.places] == [("/srv", "it is missing"), ("s3://b", "")]
    assert (snapshot.at, snapshot.run, snapshot.members) == ("2027-01-15T00:00:00Z", "backup-1", ["cp-1", "cp-2"])
    assert (snapshot.drill.ok, snapshot.drill.at, snapshot.pin) == (True, "2027-01-15T10:00:00Z", "kept")
    assert (snapshot.encrypted, snapshot.recovery_set) == (False, False)
    assert [(u.where, u.why) for u in found.unreadable] == [("gs://c", "no answer"), ("/srv/n.json", "bad")]
    assert found.strays == ["/srv/left.db"]


def test_a_snapshot_that_no_run_took_has_no_run_for_programs():
    found = backups.list_document((at("/srv", held(record(run=""), "/srv")),), (), NOW)

    assert (found.snapshots[0].run, found.snapshots[0].drill) == (None, None)


# ---- proven, pruned, rehearsed --------------------------------------------------------------------------------


def snapshot(**changes):
    fields = {
        "size_bytes": 21_000_000,
        "sha256": SHA,
        "page_size_bytes": 4096,
        "revision": 4711,
        "compact_revision": 4002,
        "keys": 312,
        "prefixes": {"/registry/pods": 41, "/registry/apps/deployments": 7},
        "storage": "3.6.0",
        "term": 2,
        "consistent_index": 9000,
        "members": (Member("1", "cp-1", (), (), learner=False), Member("2", "", (), (), learner=True)),
        "alarms": (),
        "leases": 9,
    }
    return Snapshot(**(fields | changes))


def test_a_snapshot_that_is_whole_is_told_with_what_is_in_it():
    text = backups.verified("x.db", snapshot())

    assert text.splitlines()[0] == "x.db: whole"
    for word in (SHA, "21 MB", "4711, compacted at 4002", "312 live, 9 leases", "etcd 3.6.0", "cp-1, 2"):
        assert word in text
    assert [line.split() for line in text.splitlines()[-2:]] == [
        ["/registry/pods", "41"],
        ["/registry/apps/deployments", "7"],
    ]
    assert "ALARM" not in text


def test_an_alarm_in_a_snapshot_is_told_for_it_would_come_back_with_it():
    assert "ALARM         NOSPACE on member 1" in backups.verified("x.db", snapshot(alarms=("NOSPACE on member 1",)))


def test_a_snapshot_of_an_older_etcd_without_members_says_what_is_not_known():
    text = backups.verified("x.db", snapshot(storage="", members=(), compact_revision=0))

    assert "etcd before 3.6" in text
    assert "none known" in text
    assert "compacted at none" in text


def test_each_copy_of_a_snapshot_is_told_with_the_set_beside_it():
    copies = (
        Checked("/srv", recovery=""),
        Checked("s3://b", wrong="s3://b: x.db is missing"),
        Checked("gs://c", there=False),
        Checked("/old"),
        Checked("/few", recovery="the recovery set lacks x"),
    )

    told = [line.strip() for line in backups.verified("x", snapshot(), copies).splitlines() if "  at  " in line]

    assert told == [
        "at            /srv: whole; recovery set: whole",
        "at            s3://b: NOT WHOLE, s3://b: x.db is missing",
        "at            gs://c: no copy there",
        "at            /old: whole; recovery set: none",
        "at            /few: whole; recovery set: NOT ENOUGH FOR A REBUILD, the recovery set lacks x",
    ]
    found = shaped(backups.verified_document("x", snapshot(), copies)).copies
    assert [(c.there, bool(c.wrong), c.recovery_set) for c in found] == [
        (True, False, ""),
        (True, True, None),
        (False, False, None),
        (True, False, None),
        (True, False, "the recovery set lacks x"),
    ]


def test_of_an_only_copy_the_set_is_told():
    assert "  recovery set  whole\n" in backups.verified("x", snapshot(), (Checked("/srv", recovery=""),))


def test_many_prefixes_are_cut_to_the_largest_and_the_rest_is_counted():
    text = backups.verified("x.db", snapshot(prefixes={f"/registry/k{n:02}": n for n in range(20)}))

    assert "/registry/k19" in text
    assert "/registry/k07" not in text
    assert text.endswith("... and 8 more (-o json has them all)")


def test_programs_get_all_prefixes_in_order():
    found = shaped(backups.verified_document("x.db", snapshot(alarms=("NOSPACE on member 1",))))

    assert list(found.prefixes) == ["/registry/apps/deployments", "/registry/pods"]
    assert (found.where, found.members, found.alarms) == ("x.db", ["cp-1", "2"], ["NOSPACE on member 1"])


@pytest.mark.parametrize(("dry_run", "verb_"), [(True, "would go"), (False, "removed")])
def test_pruning_tells_of_each_snapshot_what_becomes_of_it_and_by_which_rule(dry_run, verb_):
    judged = (
        Judged(record(2), keep=True, rules=("the last good one", "daily 1 of 7: 2027-01-14")),
        Judged(record(1, age_s=90 * DAY), keep=False, rules=("no rule keeps it",)),
    )

    url, _, stays, goes = backups.pruned("/srv", judged, NOW, dry_run=dry_run).splitlines()

    assert url == "/srv"
    assert stays.endswith("  the last good one; daily 1 of 7: 2027-01-14")
    assert " stays " in stays
    assert f" {verb_} " in goes
    assert goes.endswith("no rule keeps it")


def test_pruning_nothing_says_so():
    assert backups.pruned("/srv", (), NOW, dry_run=False) == "/srv\nno snapshots"


def test_programs_get_every_verdict_with_its_destination():
    judged = (Judged(record(1), keep=False, rules=("no rule keeps it",)),)

    found = shaped(backups.pruned_document([("/srv", judged), ("s3://b", judged)], dry_run=True))

    assert [(j.where, j.keep, j.rules) for j in found.snapshots] == [
        ("/srv", False, ["no rule keeps it"]),
        ("s3://b", False, ["no rule keeps it"]),
    ]
    assert found.dry_run


DRILLED = Drilled("prod-x", "cp-2", "3.6.8", 0.31, 0.87, 4711, 0xABC, {"all": 312, "/registry/pods/": 41}, ())


@pytest.mark.parametrize(
    ("member", "why", "said"),
    [
        (0xABC, "", "revision      4711, hash abc (abc in the member)"),
        (None, "that of the member is not known", "hash abc (that of the member is not known)"),
        (0xDEF, "of etcd 3.6.6", "hash abc (def in the member, not comparable: of etcd 3.6.6)"),
    ],
)
def test_a_drill_tells_both_hashes_or_why_they_are_not_compared(member, why, said):
    found = replace(DRILLED, member_hash=member, incomparable=why)

    assert said in backups.drill(found)
    document = shaped(backups.drill_document(found))
    assert (document.hash, document.member_hash, document.incomparable) == (0xABC, member, why)


def test_a_drill_that_went_well_says_where_how_long_and_what_it_counted():
    lines = backups.drill(DRILLED).splitlines()

    assert lines[0] == "prod-x: it restores, tried on cp-2"
    assert "0.3 s, etcd 3.6.8 answered after 0.9 s more" in lines[1]
    assert "revision      4711, hash abc" in lines[2]
    assert lines[-1].split() == ["/registry/pods/", "41"]


def test_a_drill_that_failed_says_all_that_was_wrong():
    text = backups.drill(replace(DRILLED, wrong=("etcd has revision 3", "its keys could not be counted"), counts={}))

    assert text.splitlines()[0] == "prod-x: FAILED, tried on cp-2"
    assert text.count("WRONG") == 2
    found = shaped(backups.drill_document(replace(DRILLED, wrong=("x",))))
    assert (found.ok, found.wrong, found.counts["all"]) == (False, ["x"], 312)


SERVER = ApiServer("v1.36.3", 4.1, 5.2, {"pods": 41, "secrets": 1}, {"gadgets.example.com": "2 of them: why"})


def test_a_drill_with_an_api_server_says_what_that_read_and_what_it_did_not():
    text = backups.drill(replace(DRILLED, server=SERVER))

    assert "API server    v1.36.3 answered after 4.1 s" in text
    assert "all read      42 objects of 2 kinds in 5.2 s" in text
    assert "not read      gadgets.example.com, 2 of them: why" in text
    found = shaped(backups.drill_document(replace(DRILLED, server=SERVER)))
    assert (found.api_server.objects, found.api_server.counts["pods"]) == (42, 41)
    assert found.api_server.unread == {"gadgets.example.com": "2 of them: why"}
    assert shaped(backups.drill_document(DRILLED)).api_server is None


# ---- progress -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "line"),
    [
        (
            "etcd.recovery",
            {"file": "/s/b.recovery.tar", "size_bytes": 1_250_000},
            "cp-2: what new machines need, encrypted: /s/b.recovery.tar (1.2 MB)",
        ),
        ("etcd.reserved", {"why": "cp-2 has two addresses"}, "cp-2: WARNING: cp-2 has two addresses"),
        (
            "etcd.stored",
            {"file": "b.db.zst", "destination": "s3://b", "size_bytes": 4_000_000},
            "cp-2: stored and read back: b.db.zst at s3://b (4.0 MB)",
        ),
        (
            "etcd.removed",
            {"snapshot": "prod-1", "destination": "s3://b", "why": "older than 400 d"},
            "cp-2: removed prod-1 from s3://b: older than 400 d",
        ),
        (
            "etcd.defragmented",
            {"before_bytes": 2_000_000, "after_bytes": 500_000},
            "cp-2: database of 2.0 MB rewritten: 0.5 MB",
        ),
        (
            "etcd.defragmented",
            {"before_bytes": 2_000_000, "after_bytes": None},
            "cp-2: database of 2.0 MB rewritten: it does not answer yet",
        ),
        ("step.finished", {"action": "etcd.store", "took_s": 0.1}, "cp-2: store the snapshot: done in 0.1 s"),
        (
            "step.skipped",
            {"action": "etcd.retain", "why": "nothing to remove"},
            "cp-2: remove old snapshots: nothing to do, nothing to remove",
        ),
    ],
)
def test_progress_of_etcd_is_a_line_each(name, fields, line):
    assert line_of(Event(name, {"node": "cp-2", **fields})) == line


def test_every_action_of_a_plan_has_words_for_people():
    known = actions(SystemClock())

    assert [name for name in known if verb(name) == name] == []


def test_documents_are_named_by_what_they_are():
    named = {
        kind.__name__: json.loads(msgspec.json.encode(document))["kind"]
        for kind, document in (
            (etcdshapes.EtcdStatus, etcd.document(seen())),
            (etcdshapes.SnapshotList, backups.list_document((), (), NOW)),
            (etcdshapes.SnapshotVerified, backups.verified_document("x", snapshot())),
            (etcdshapes.SnapshotsPruned, backups.pruned_document((), dry_run=False)),
            (etcdshapes.DrillResult, backups.drill_document(DRILLED)),
        )
    }

    assert all(kind == name for kind, name in named.items())
