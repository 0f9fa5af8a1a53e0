"""Which snapshots are whole, and what is in them."""

import hashlib
import os
import struct
import tracemalloc
from pathlib import Path

import pytest

from orchestrator.backup import bolt, mvcc
from orchestrator.backup.snapshot import Member, entries, examine, intact
from orchestrator.errors import SnapshotInvalid
from tests.fakes import boltfiles
from tests.fakes.boltfiles import LEAF, PAGE, Keys, Pages, field, opened, resealed, revision, sealed, varint

POD = b"/registry/pods/default/%d"


def pods(count=20, size_bytes=5):
    keys = Keys()
    for number in range(count):
        keys.put(POD % number, b"x" * size_bytes)
    return keys


# In WHOLE, pages 2 to 4 are the leaves of the bucket `key`, 5 is their branch page, 6 has the buckets.
WHOLE = boltfiles.snapshot(pods().pairs)
FIRST_LEAF, BRANCH, ROOT = 2 * PAGE, 5 * PAGE, 6 * PAGE


def seen(keys, **described):
    return examine(opened(boltfiles.snapshot(keys.pairs, **described)))


def refused(content, *, trailer=True):
    with pytest.raises(SnapshotInvalid) as caught:
        examine(opened(content), trailer=trailer)
    return str(caught.value)


# ---- what is in it --------------------------------------------------------------------------------------------


def test_a_whole_snapshot_tells_what_is_in_it():
    found = examine(opened(WHOLE))

    assert (found.size_bytes, found.page_size_bytes) == (len(WHOLE), 4096)
    assert found.sha256 == hashlib.sha256(WHOLE).hexdigest()
    assert (found.revision, found.compact_revision, found.keys) == (21, 0, 20)
    assert (found.storage, found.term, found.consistent_index, found.leases) == ("3.6.0", 3, 41, 1)
    assert found.members == (
        Member("8e9e05c52164694d", "cp-1", ("https://10.0.0.1:2380",), ("https://10.0.0.1:2379",), learner=False),
    )
    assert found.alarms == ()


def test_a_path_is_read_as_a_file_object_is(tmp_path):
    path = tmp_path / "s.db"
    path.write_bytes(WHOLE)
    path.chmod(0o400)

    assert examine(path) == examine(opened(WHOLE))
    assert list(entries(path)) == list(entries(opened(WHOLE)))


def test_only_the_last_record_of_a_key_counts():
    keys = pods(3).put(POD % 0, b"later").delete(POD % 1).delete(POD % 2).put(POD % 2, b"again")

    found = [(entry.key, entry.value) for entry in entries(opened(boltfiles.snapshot(keys.pairs)))]

    assert found == [(POD % 0, b"later"), (POD % 2, b"again")]
    assert seen(keys).prefixes == {"/registry/pods": 2}
    assert seen(keys).revision == 8


def test_an_entry_tells_its_revisions_its_version_and_its_lease():
    keys = Keys().put(b"a").put(b"a", lease=7).put(b"b", b"")
    keys.pairs.append((revision(9), field(1, b"c") + field(6, -2)))

    a, b, c = entries(opened(boltfiles.snapshot(keys.pairs)))

    assert (a.create_revision, a.mod_revision, a.version, a.lease) == (2, 3, 2, 7)
    assert (b.value, b.lease) == (b"", 0)
    assert (c.value, c.lease) == (b"", -2)


def test_entries_can_be_those_of_a_prefix():
    keys = pods(3).put(b"/registry/podtemplates/a").put(b"other")

    found = entries(opened(boltfiles.snapshot(keys.pairs)), prefix=b"/registry/pods/")

    assert [entry.key for entry in found] == [POD % 0, POD % 1, POD % 2]


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        (b"/registry/pods/default/a", "/registry/pods"),
        (b"/registry/services/specs/default/a", "/registry/services"),
        (b"/registry/health", "/registry/health"),
        (b"/registry/stable.example.com/widgets/ns/a", "/registry/stable.example.com/widgets"),
        (b"/registry/apiregistration.k8s.io/apiservices/v1.apps", "/registry/apiregistration.k8s.io/apiservices"),
        (b"/registry/a.b", "/registry/a.b"),
        (b"/registry/caf\xe9/a", "/registry/caf\\xe9"),
        (b"compact_rev_key", mvcc.OTHER),
        (b"registry/pods/a", mvcc.OTHER),
        (b"/registry", mvcc.OTHER),
        (b"/" + b"a" * 600 + b"/b", mvcc.OTHER),
        (b"\xff\x00", mvcc.OTHER),
    ],
)
def test_keys_are_counted_by_the_kind_that_their_path_names(key, prefix):
    assert seen(Keys().put(key)).prefixes == {prefix: 1}


def test_prefixes_are_counted_apart_up_to_a_number_that_no_cluster_has():
    keys = Keys()
    for number in range(mvcc.MAX_PREFIXES + 2):
        keys.put(b"/r/%05d/a" % number)
    keys.put(b"/r/00000/b")

    found = seen(keys, per_page=40)

    assert found.keys == mvcc.MAX_PREFIXES + 3
    assert len(found.prefixes) == mvcc.MAX_PREFIXES + 1
    assert (found.prefixes["/r/00000"], found.prefixes[mvcc.OTHER]) == (2, 2)


@pytest.mark.parametrize(
    ("finished", "scheduled", "expected"),
    [(None, None, (21, 0)), (5, 5, (21, 5)), (5, 9, (21, 9)), (30, 30, (30, 30)), (21, 31, (31, 31))],
)
def test_the_revision_is_the_one_that_etcd_starts_with(finished, scheduled, expected):
    meta = [(b"finishedCompactRev", finished), (b"scheduledCompactRev", scheduled)]

    found = seen(pods(), meta=[(key, revision(main)) for key, main in meta if main])

    assert (found.revision, found.compact_revision) == expected


def test_a_database_without_keys_has_revision_1():
    found = seen(Keys())

    assert (found.revision, found.keys, dict(found.prefixes)) == (1, 0, {})


def test_the_empty_record_of_a_bumped_revision_counts_as_revision_but_not_as_key():
    keys = pods()
    keys.pairs.append((revision(1000), b""))

    found = seen(keys)

    assert (found.revision, found.keys, dict(found.prefixes)) == (1000, 20, {"/registry/pods": 20})
    assert len(list(entries(opened(boltfiles.snapshot(keys.pairs))))) == 20


def test_an_etcd_before_3_6_tells_no_storage_version():
    found = seen(pods(), meta=[(b"consistent_index", struct.pack(">Q", 9))])

    assert (found.storage, found.term, found.consistent_index) == ("", 0, 9)


def test_members_are_ordered_by_id_and_learners_and_nameless_ones_told():
    members = [(b"1f", boltfiles.member(learner=True)), (b"9", b'{"id":9,"peerURLs":["http://a:2380"]}')]

    found = seen(pods(), members=members).members

    assert [(each.id, each.name, each.learner, each.client_urls) for each in found] == [
        ("9", "", False, ()),
        ("1f", "cp-1", True, ("https://10.0.0.1:2379",)),
    ]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (1, "NOSPACE on member 8e9e05c52164694d"),
        (2, "CORRUPT on member 8e9e05c52164694d"),
        (9, "alarm 9 on member 8e9e05c52164694d"),
    ],
)
def test_alarms_are_told_in_words(kind, words):
    alarm = field(1, boltfiles.MEMBER) + field(2, kind)

    assert seen(pods(), alarm=[(alarm, b"")]).alarms == (words,)


def test_missing_small_buckets_are_empty_ones():
    found = seen(pods(), members=None, alarm=None, lease=None, cluster=None)

    assert (found.members, found.alarms, found.leases, found.keys) == ((), (), 0, 20)


# ---- how it is written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", bolt.PAGE_SIZES)
def test_every_page_size_is_read(size):
    found = seen(pods(), size=size)

    assert (found.page_size_bytes, found.keys) == (size, 20)


def test_small_buckets_may_have_pages_of_their_own():
    found, inline = seen(pods(), inline=False), examine(opened(WHOLE))

    assert (found.members, found.leases, found.term) == (inline.members, inline.leases, inline.term)


def test_trees_of_many_levels_are_read_in_order():
    found = entries(opened(boltfiles.snapshot(pods(300).pairs, per_page=2)))

    assert [entry.key for entry in found] == [POD % number for number in range(300)]


def test_values_that_run_over_into_further_pages_are_read_whole():
    keys = Keys().put(b"/a/b", os.urandom(3 * PAGE)).put(b"/a/c", os.urandom(10 * PAGE))

    found = list(entries(opened(boltfiles.snapshot(keys.pairs, per_page=1))))

    assert [field(5, entry.value) in pair[1] for entry, pair in zip(found, keys.pairs, strict=True)] == [True, True]


def test_a_free_list_is_believed_where_nothing_contradicts_it():
    assert seen(pods(), freed=[]).keys == 20


def test_a_long_free_list_has_its_length_in_its_first_entry():
    pages = Pages()
    spare = [pages.add(LEAF, 0, b"") for _ in range(3)]
    root = pages.tree(boltfiles.buckets(pages, pods().pairs), per_page=64, flags=1)
    told = [len(spare), *spare]
    freelist = pages.add(boltfiles.FREELIST, 0xFFFF, struct.pack(f"<{len(told)}Q", *told))

    found = examine(opened(sealed(pages.database(root, freelist=freelist))))

    assert found.keys == 20


def test_the_meta_with_the_higher_transaction_counts():
    other = boltfiles.meta(1, 999, 7, 6)
    newer = boltfiles.meta(1, 999, 7, 8)

    assert examine(opened(resealed(WHOLE, PAGE, other))).keys == 20
    assert "page 999" in refused(resealed(WHOLE, PAGE, newer))


@pytest.mark.parametrize("size", bolt.PAGE_SIZES)
@pytest.mark.parametrize("number", [0, 1])
def test_one_valid_meta_is_enough(number, size):
    whole = boltfiles.snapshot(pods().pairs, size=size)

    found = examine(opened(resealed(whole, number * size + 40, b"\xff")))

    assert found.keys == 20


# ---- what is no snapshot --------------------------------------------------------------------------------------


def test_a_copy_of_a_database_is_accepted_only_when_that_is_what_it_is_said_to_be():
    copy = WHOLE[:-32]

    assert examine(opened(copy), trailer=False).sha256 == hashlib.sha256(copy).hexdigest()
    assert len(list(entries(opened(copy), trailer=False))) == 20
    assert "no SHA-256 at its end" in refused(copy)
    assert "it is a snapshot" in refused(WHOLE, trailer=False)


def test_room_behind_the_pages_of_a_copy_does_no_harm():
    assert examine(opened(WHOLE[:-32] + bytes(8 * PAGE)), trailer=False).keys == 20


def test_a_changed_byte_is_told_by_the_sum():
    changed = bytearray(WHOLE)
    changed[FIRST_LEAF + 3000] ^= 1

    assert "was changed: SHA-256" in refused(bytes(changed))


def test_intact_is_what_its_sum_says_and_nothing_that_was_changed_cut_or_is_not_there(tmp_path):
    changed = bytearray(WHOLE)
    changed[FIRST_LEAF + 3000] ^= 1

    assert intact(opened(WHOLE))
    assert not intact(opened(bytes(changed)))
    assert not intact(opened(WHOLE[:-1]))
    assert not intact(opened(WHOLE[:-512]))
    assert not intact(opened(hashlib.sha256().digest()))
    assert not intact(tmp_path / "missing")


@pytest.mark.parametrize("length", [0, 1, 32, 512, 544, 4096, 5000, 16384 + 31, len(WHOLE) - 1, len(WHOLE) - 512])
def test_a_cut_file_is_refused(length):
    assert refused(WHOLE[:length])


def test_a_cut_database_with_a_right_sum_is_refused_with_the_missing_pages():
    assert "speaks of 7 pages of 4096 bytes, and 24576 bytes are there" in refused(sealed(WHOLE[: 6 * PAGE]))


def test_what_is_not_there_or_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")

    for name in ("missing", "fifo", "."):
        with pytest.raises(SnapshotInvalid, match=r"cannot be read|no regular file") as caught:
            examine(tmp_path / name)
        assert caught.value.remedy.startswith("ls -l ")


def test_a_file_larger_than_any_database_is_not_begun(tmp_path):
    path = tmp_path / "s.db"
    path.touch()
    os.truncate(path, bolt.MAX_FILE_BYTES + 32)

    with pytest.raises(SnapshotInvalid, match="more than any database of etcd"):
        examine(path)


def test_a_file_that_shrinks_meanwhile_is_refused():
    class Shrinking(type(opened(b""))):
        def read(self, length=-1):
            return super().read(length) if self.tell() < FIRST_LEAF else b""

    with pytest.raises(SnapshotInvalid, match="ends at byte"):
        examine(Shrinking(WHOLE))


def test_a_disk_that_cannot_be_read_is_told():
    class Broken(type(opened(b""))):
        def read(self, length=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(SnapshotInvalid, match="cannot be read at byte 0: Input/output error"):
        examine(Broken(WHOLE))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"magic": 0xED0CDAEE}, "this is no bbolt file"),
        ({"version": 1}, "version 1 instead of 2"),
        ({"size": 1 << 31}, "page size of 2147483648 bytes"),
        ({"size": 0}, "page size of 0 bytes"),
    ],
)
def test_metas_of_something_else_are_refused(change, expected):
    metas = (boltfiles.meta(number, 6, 7, 7, **change).ljust(PAGE, b"\0") for number in (0, 1))

    assert expected in refused(sealed(b"".join(metas) + WHOLE[2 * PAGE : -32]))


def test_a_big_endian_file_is_refused_by_name():
    told = boltfiles.page(0, 4, 0, 0, struct.pack(">II", 0xED0CDAED, 2))

    assert "big-endian" in refused(sealed(told.ljust(7 * PAGE, b"\0")))


@pytest.mark.parametrize("name", ["key", "meta"])
def test_a_database_without_etcds_buckets_is_refused(name):
    described = {"keys": None} if name == "key" else {"keys": pods().pairs, "meta": None}

    assert f"without bucket {name}: not etcd's" in refused(boltfiles.snapshot(**described))


# ---- damaged pages --------------------------------------------------------------------------------------------


def header(number, flags, count, overflow=0):
    return boltfiles.page(number, flags, count, overflow)


def element(at, index, position, key_size, value_size, flags=0):
    return at + 16 + 16 * index, struct.pack("<IIII", flags, position, key_size, value_size)


def child(index, position, key_size, page):
    return BRANCH + 16 + 16 * index, struct.pack("<IIQ", position, key_size, page)


@pytest.mark.parametrize(
    ("at", "content", "expected"),
    [
        (*child(0, 48, 17, 1), "page 1 with 1 in all is not among the pages 2 to 6"),
        (*child(0, 48, 17, 7), "page 7 with 1 in all is not among"),
        (*child(0, 48, 17, 1 << 63), f"page {1 << 63} with 1 in all is not among"),
        (*child(0, 48, 17, 5), "page 5 with 1 in all is in use and met twice"),
        (*child(1, 49, 17, 2), "page 2 with 1 in all is in use and met twice"),
        (*child(1, 49, 17, 4), "page 4 ends with key"),
        (*child(0, 48, 4000, 2), "has child 1 at bytes"),
        (*child(0, 1 << 31, 17, 2), "has child 0 at bytes"),
        (*child(1, 49, 0, 3), "out of order"),
        (BRANCH, header(5, boltfiles.BRANCH, 0), "page 5 has 0 children"),
        (BRANCH, header(5, boltfiles.BRANCH, 0xFFFF), "page 5 has 65535 children"),
        (BRANCH, header(5, 0x03, 3), "page 5 has flags 0x3"),
        (BRANCH, header(6, boltfiles.BRANCH, 3), "page 5 says that it is page 6"),
        (BRANCH, header(5, boltfiles.BRANCH, 3, 1), "page 5 with 2 in all is in use and met twice"),
        (BRANCH, header(5, boltfiles.BRANCH, 3, 2), "page 5 with 3 in all is not among"),
        (BRANCH, header(5, boltfiles.BRANCH, 3, 1024), "page 5 has 4198400 bytes, more than"),
        (FIRST_LEAF, header(2, LEAF, 8, 0xFFFFFFFF), "page 2 has 17592186044416 bytes, more than"),
        (FIRST_LEAF, header(2, LEAF, 0xFFFF), "page 2 has 65535 pairs, too many"),
        (FIRST_LEAF, header(2, LEAF, 9), "page 2 has pair 0 at bytes"),
        (*element(FIRST_LEAF, 7, 0, 17, 60), "page 2 has pair 7 at bytes"),
        (*element(FIRST_LEAF, 7, 4000, 17, 60), "page 2 has pair 7 at bytes"),
        (*element(FIRST_LEAF, 7, 600, 0, 60), "out of order"),
        (*element(FIRST_LEAF, 0, 128, 17, 39, flags=1), "flags 0x1 for"),
        (*element(FIRST_LEAF, 0, 128, 17, 1 << 31), "page 2 has pair 0 at bytes"),
        (FIRST_LEAF + 16 + 128, revision(5), "out of order"),
        (FIRST_LEAF + 16 + 128, revision(1 << 63), "out of order"),
        (FIRST_LEAF + 16 + 128, revision(1), "page 2 begins with key"),
        (3 * PAGE + 16 + 128 + 8, b"!", "page 3 begins with key"),
        (FIRST_LEAF + 16 + 128 + 17, b"\x0b", "damaged record"),
        (FIRST_LEAF + 16 + 128 + 18, b"\x7f", "damaged record"),
        (ROOT, header(6, LEAF, 0), "without bucket key and meta"),
        (*element(ROOT, 0, 112, 5, 16, flags=0), "has to be a bucket"),
        (*element(ROOT, 0, 112, 5, 15, flags=1), "15 bytes for bucket b'alarm'"),
        (*element(ROOT, 0, 112, 5, 20, flags=1), "4 bytes for the pairs of bucket b'alarm'"),
        (ROOT + 16 + 112 + 5, struct.pack("<Q", 2), "page 2 with 1 in all is in use and met twice"),
        (ROOT + 16 + 112 + 5 + 16 + 8, b"\x01", "flags 0x1 for the pairs of bucket b'alarm'"),
        (ROOT + 16 + 112 + 5 + 16 + 10, b"\x01", "has 1 pairs, too many for its 16 bytes"),
    ],
)
def test_a_damaged_page_is_refused_by_its_number_though_the_sum_is_right(at, content, expected):
    assert expected in refused(resealed(WHOLE, at, content))


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((revision(99)[:16], field(1, b"a")), "is no revision"),
        ((revision(99).replace(b"_", b"-"), field(1, b"a")), "is no revision"),
        ((revision(1 << 63), field(1, b"a")), "is no revision"),
        ((revision(99, 1 << 63), field(1, b"a")), "is no revision"),
        ((revision(99) + b"u", field(1, b"a")), "unknown mark"),
        ((revision(99), b"\x0a\x05a"), "goes beyond its end"),
        ((revision(99), b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "goes beyond its end"),
        ((revision(99), field(1, b"a") + b"\x10" + b"\xff" * 11), "more than ten bytes"),
        ((revision(99), field(1, b"a") + b"\x10"), "goes beyond its end"),
        ((revision(99), field(1, b"a") + b"\x0b"), "a field of kind 3"),
        ((revision(99), b"\x20\x01" * 100_000), "more than 64 fields"),
        ((revision(99), field(1, b"a") + b"\x39\x00"), "goes beyond its end"),
    ],
)
def test_a_damaged_record_is_refused_by_its_revision(pair, expected):
    content = boltfiles.snapshot([*pods(2).pairs, pair])

    assert expected in refused(content)
    with pytest.raises(SnapshotInvalid, match=pair[0][:18].hex()):
        list(entries(opened(content)))


def test_fields_that_later_versions_of_etcd_may_add_are_passed_over():
    later = varint(100 << 3 | 2) + b"\x03new" + b"\x39" + bytes(8) + b"\x3d" + bytes(4) + field(300, 7)

    (entry,) = entries(opened(boltfiles.snapshot([(revision(2), field(1, b"a") + later + field(5, b"v"))])))

    assert (entry.key, entry.value) == (b"a", b"v")


@pytest.mark.parametrize(
    ("bucket", "pairs", "expected"),
    [
        ("meta", [(b"term", b"123")], "3 bytes for term instead of 8"),
        ("meta", [(b"finishedCompactRev", b"x" * 17)], "damaged finishedCompactRev"),
        ("meta", [(b"a", bytes(70_000))], "70000 bytes: too much"),
        ("meta", [(b"%02d" % number, bytes(100)) for number in range(40)], "bytes for bucket b'meta'"),
        ("meta", [(b"%05d" % number, b"") for number in range(1025)], "row 1025 of bucket meta"),
        ("members", [(b"1f", b"{")], "damaged member b'1f'"),
        ("members", [(b"1f", b'{"name":"\xff"}')], "damaged member b'1f'"),
        ("members", [(b"1f", b'{"x":' + b"[" * 50_000)], "damaged member b'1f'"),
        ("members", [(b"1f", b'{"peerURLs":[1]}')], "damaged member b'1f'"),
        ("members", [(b"cp-1", b"{}")], "member with id b'cp-1'"),
        ("alarm", [(b"\x08", b"")], "damaged alarm 08"),
    ],
)
def test_damaged_small_buckets_are_refused(bucket, pairs, expected):
    assert expected in refused(boltfiles.snapshot(pods().pairs, inline=len(pairs) == 40, **{bucket: pairs}))


@pytest.mark.parametrize("freed", [[2], [3, 3], [0], [99], [1 << 63]])
def test_a_free_list_with_pages_in_use_is_refused(freed):
    assert "free" in refused(boltfiles.snapshot(pods().pairs, freed=freed))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (header(7, LEAF, 0), "has to be the free list"),
        (header(7, boltfiles.FREELIST, 600), "lists 600 free pages, too many"),
        (header(7, boltfiles.FREELIST, 0xFFFF) + b"\xff" * 8, f"lists {2**64 - 1} free pages, too many"),
        (header(7, boltfiles.FREELIST, 0, 9), "page 7 with 10 in all is not among"),
    ],
)
def test_a_damaged_free_list_is_refused(content, expected):
    whole = boltfiles.snapshot(pods().pairs, freed=[])

    assert expected in refused(resealed(whole, 7 * PAGE, content))


def test_a_tree_that_is_too_deep_is_refused():
    pages = Pages()
    number = pages.tree(pods(1).pairs)
    for _ in range(bolt.MAX_DEPTH):
        number = pages.add(boltfiles.BRANCH, 1, boltfiles.branch_content([(revision(1), number)]))
    root = pages.tree([(b"key", boltfiles.bucket_value(number)), (b"meta", boltfiles.inline_value([]))], flags=1)

    assert "more than 32 levels down" in refused(sealed(pages.database(root)))


def test_more_buckets_than_etcd_has_are_refused():
    pages = Pages()
    root = pages.tree([(b"%04d" % number, boltfiles.inline_value([])) for number in range(300)], flags=1)

    assert "more than 256 buckets" in refused(sealed(pages.database(root)))


def test_a_page_in_two_buckets_is_refused():
    pages = Pages()
    shared = boltfiles.bucket_value(pages.tree(pods(1).pairs))
    root = pages.tree([(b"key", shared), (b"meta", shared)], flags=1)

    assert "met twice" in refused(sealed(pages.database(root)))


@pytest.mark.parametrize(
    ("records", "expected"),
    [(pods(4).pairs, "changed meanwhile"), ([*pods(2).pairs, (revision(9), b"\x0b")], "a field of kind 3")],
)
def test_a_file_that_changes_between_the_passes_is_refused(records, expected):
    with bolt.opened(opened(boltfiles.database(records))) as file:
        walk = bolt.Walk(file, file.size_bytes)

        with pytest.raises(SnapshotInvalid, match=expected):
            list(mvcc.live(walk, walk.buckets()[b"key"], bytearray(b"\x01\x01\x01")))


def test_values_are_never_all_in_memory_at_once():
    content = opened(boltfiles.snapshot(pods(200, 20_000).pairs))
    tracemalloc.start()

    examine(content)
    counted = sum(1 for _ in entries(content))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert counted == 200
    assert peak_bytes < 2_000_000 < len(content.getvalue())


def test_the_file_is_closed_when_entries_are_left_off(tmp_path):
    path = tmp_path / "s.db"
    path.write_bytes(WHOLE)
    before = len(list(Path("/proc/self/fd").iterdir()))

    left = entries(path)
    next(left)
    left.close()

    assert len(list(Path("/proc/self/fd").iterdir())) == before
