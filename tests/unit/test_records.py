"""Records of snapshots: their names, and what is refused of their files."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backup import records
from orchestrator.backup.records import Drill, Hashed, Part, Peer, Record
from orchestrator.errors import SnapshotInvalid

AT = 1795521600.0
NAME = "prod-20261124T120000Z-r4711"
FILE = f"{NAME}.json"
DATA = Part(file=f"{NAME}.db.zst.age", size_bytes=1000, sha256="aa")


def record(**changes):
    fields = {
        "name": NAME,
        "at": AT,
        "reason": "pre-upgrade",
        "run": "upgrade-20261124-115900-ab12",
        "cluster": "prod",
        "cluster_id": "cdf818194e3a8c32",
        "authority": "bb",
        "node": "cp-1",
        "etcd": "3.6.5",
        "kubernetes": "v1.34.2",
        "revision": 4711,
        "keys": 200,
        "size_bytes": 5000,
        "sha256": "cc",
        "data": DATA,
        "members": (Peer(id="8e9e05c52164694d", name="cp-1", peer_urls=("https://10.0.0.1:2380",)),),
    }
    return Record(**(fields | changes))


def test_a_record_reads_as_it_was_written():
    whole = record(
        storage="3.6.0",
        compact_revision=4000,
        raft_index=9000,
        raft_term=3,
        prefixes={"/registry/pods": 17},
        alarms=("NOSPACE on cp-1",),
        recovery=Part(file=f"{NAME}.recovery.tar.age", size_bytes=90, sha256="dd"),
        recipients=("age1abc",),
        tool="0.1.0",
        pin="before the migration",
        drill=Drill(at=AT + 60, ok=True, where="cp-1", text="200 keys"),
        hashed=Hashed(value=0xABC, compact_revision=-1),
    )

    read = records.decode(records.encode(whole), FILE, "there")

    assert read == whole


def test_a_record_of_few_words_reads_with_the_rest_left_empty():
    read = records.decode(records.encode(record()), FILE, "there")

    assert read == record()
    assert (read.shape, read.pin, read.drill, read.recovery, read.alarms) == (records.SHAPE, "", None, None, ())


def test_a_record_is_text_for_people_with_a_line_for_each_field():
    lines = records.encode(record()).decode().split("\n")

    assert f'  "name": "{NAME}",' in lines
    assert lines[-1] == ""


def test_words_that_a_record_does_not_know_are_passed_over():
    content = msgspec.json.encode(msgspec.to_builtins(record()) | {"colour": "blue"})

    assert records.decode(content, FILE, "there") == record()


def test_its_files_are_the_data_and_what_new_machines_need():
    recovery = Part(file=f"{NAME}.recovery.tar", size_bytes=90, sha256="dd")

    assert record().files == (DATA,)
    assert record(recovery=recovery).files == (DATA, recovery)


def test_it_is_encrypted_when_it_has_a_recipient():
    assert not record().encrypted
    assert record(recipients=("age1abc",)).encrypted


# ---- names ----------------------------------------------------------------------------------------------------


def test_a_name_tells_cluster_time_and_revision():
    assert records.named("prod", AT, 4711) == NAME


@pytest.mark.parametrize(
    ("cluster", "start"),
    [
        ("Prod EU/1", "prod-eu-1"),
        ("../../etc/passwd", "etc-passwd"),
        (".hidden", "hidden"),
        ("кластер", "cluster"),
        ("", "cluster"),
        ("a" * 200, "a" * 80),
        ("a" * 79 + "--b", "a" * 79),
        ("prod\n", "prod"),
    ],
)
def test_a_name_is_a_file_name_whatever_the_cluster_is_called(cluster, start):
    assert records.named(cluster, AT, 1) == f"{start}-20261124T120000Z-r1"


@given(st.text(max_size=120), st.integers(0, 250_000_000_000), st.integers(0, 2**63 - 1))
def test_every_name_that_is_given_is_one_that_may_be_read(cluster, at, revision):
    name = records.named(cluster, float(at), revision)
    data = Part(file=f"{name}.db.zst", size_bytes=1, sha256="aa")

    read = records.decode(records.encode(record(name=name, data=data)), f"{name}.json", "there")

    assert read.name == name
    assert len(f"{name}.recovery.tar.zst.age") < 255


@given(st.text(max_size=20), st.sets(st.integers(0, 250_000_000_000), min_size=2, max_size=9), st.data())
def test_names_of_a_cluster_sort_by_time_whatever_the_revisions(cluster, times, draws):
    revisions = {at: draws.draw(st.integers(0, 2**63 - 1)) for at in times}

    names = [records.named(cluster, float(at), revisions[at]) for at in sorted(times)]

    assert names == sorted(names)


# ---- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["/etc/shadow", "../prod.db", "..", ".ssh", "a/b.db", "deep/../../x", f"./{NAME}.db", "/"]
)
@pytest.mark.parametrize("field", ["data", "recovery"])
def test_a_file_that_is_not_in_the_destination_itself_is_refused(field, file):
    content = records.encode(record(**{field: Part(file=file, size_bytes=1, sha256="aa")}))

    with pytest.raises(SnapshotInvalid, match=rf"there/{re.escape(FILE)} names files that it may not"):
        records.decode(content, FILE, "there")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "prod",
        f"../{NAME}",
        f"/{NAME}",
        f".{NAME}",
        f"-{NAME}",
        f"{NAME}\n",
        f"{NAME}/..",
        f"{NAME};rm",
        f"$(x){NAME}",
        "Prod-20261124T120000Z-r1",
        "-20261124T120000Z-r1",
        "prod-20261124T120000-r1",
        "prod-20261124T120000Z-r",
        "a" * 83 + "-20261124T120000Z-r1",
    ],
)
def test_a_name_that_this_tool_would_not_give_is_refused(name):
    content = records.encode(record(name=name))

    with pytest.raises(SnapshotInvalid, match="names files that it may not"):
        records.decode(content, FILE, "there")


@pytest.mark.parametrize("ending", records.ENDINGS)
def test_files_of_a_record_begin_with_the_name_of_its_own_file(ending):
    """So it is of one plain file, too, which has the name that a person gave it."""
    content = records.encode(record(data=Part(file=f"mine.db{ending}", size_bytes=1, sha256="aa")))

    assert records.decode(content, "mine.json", "there").data.file == f"mine.db{ending}"


@pytest.mark.parametrize(
    ("field", "file"),
    [
        ("data", "prod-20261123T120000Z-r4000.db.zst.age"),
        ("data", f"{NAME}.recovery.tar.age"),
        ("data", f"{NAME}.db.gz"),
        ("data", f"{NAME}.json"),
        ("recovery", f"{NAME}.db"),
        ("recovery", f"{NAME}.recovery.tar.zst.age.exe"),
    ],
)
def test_a_record_cannot_speak_of_another_s_files_nor_of_other_kinds(field, file):
    """Else a record that somebody wrote could have another snapshot removed with it."""
    content = records.encode(record(**{field: Part(file=file, size_bytes=1, sha256="aa")}))

    with pytest.raises(SnapshotInvalid, match="names files that it may not"):
        records.decode(content, FILE, "there")


def test_a_file_of_less_than_nothing_is_refused():
    content = records.encode(record(data=Part(file=DATA.file, size_bytes=-1, sha256="aa")))

    with pytest.raises(SnapshotInvalid, match="names files that it may not"):
        records.decode(content, FILE, "there")


def test_a_record_of_a_version_that_knew_no_hash_is_read():
    content = msgspec.json.decode(records.encode(record()))
    del content["hashed"]

    assert records.decode(msgspec.json.encode(content), FILE, "there") == record()


def test_a_later_shape_is_refused_with_the_version_that_wrote_it():
    content = records.encode(record(shape=records.SHAPE + 1, tool="9.0.0"))

    with pytest.raises(
        SnapshotInvalid, match=rf"there/{FILE} was written by a later version of orchestrator \(9\.0\.0\)"
    ) as err:
        records.decode(content, FILE, "there")

    assert err.value.remedy == "upgrade orchestrator"


def test_a_later_shape_is_told_as_such_though_its_fields_are_not_known():
    content = msgspec.json.encode({"shape": records.SHAPE + 1, "tool": "9.0.0", "name": ["a list, now"]})

    with pytest.raises(SnapshotInvalid, match="later version"):
        records.decode(content, FILE, "there")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"name": "prod', records.encode(record())[:-9]]
)
def test_what_is_no_record_is_refused_with_its_place(content):
    with pytest.raises(SnapshotInvalid, match=f"there/{FILE} is no record of a snapshot"):
        records.decode(content, FILE, "there")


@pytest.mark.parametrize("field", ["name", "at", "authority", "revision", "data", "sha256"])
def test_a_record_without_what_it_is_about_is_refused(field):
    whole = msgspec.to_builtins(record())
    del whole[field]

    with pytest.raises(SnapshotInvalid, match=f"missing required field `{field}`"):
        records.decode(msgspec.json.encode(whole), FILE, "there")
