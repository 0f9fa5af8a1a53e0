"""What a destination holds: snapshots by their records, and what is not as recorded."""

import pytest

from orchestrator.backup import catalogue, records
from orchestrator.backup.catalogue import ReadOnly
from orchestrator.backup.records import Part, Record
from orchestrator.backup.stores import Stored
from orchestrator.errors import SnapshotInvalid, StoreError

AT = 1795521600.0


def record(revision=1, *, at=AT, recovery=False, **changes):
    name = records.named("prod", at, revision)
    fields = {
        "name": name,
        "at": at,
        "reason": "manual",
        "cluster": "prod",
        "cluster_id": "c1",
        "authority": "a1",
        "node": "cp-1",
        "etcd": "3.6.8",
        "kubernetes": "v1.36.3",
        "revision": revision,
        "keys": 10,
        "size_bytes": 500,
        "sha256": "00",
        "data": Part(file=f"{name}.db.zst.age", size_bytes=100, sha256="aa"),
        "members": (),
        "recovery": Part(file=f"{name}.recovery.tar.zst.age", size_bytes=40, sha256="bb") if recovery else None,
    }
    return Record(**(fields | changes))


class Shelf:
    """A destination in memory: file -> contents, or only a size."""

    url = "mem://backups"

    def __init__(self, *held, **files):
        self.files = {}
        for each in held:
            self.files |= {part.file: part.size_bytes for part in each.files}
            self.files[f"{each.name}.json"] = records.encode(each)
        self.files |= files
        self.read = []

    def names(self):
        sizes = {name: each if isinstance(each, int) else len(each) for name, each in self.files.items()}
        return tuple(Stored(name, size, AT) for name, size in sizes.items())

    def get(self, name, target, *, limit_bytes=None):
        raise AssertionError(f"the contents of {name} were fetched to be listed")

    def get_bytes(self, name, limit_bytes=catalogue.RECORD_BYTES):
        self.read.append((name, limit_bytes))
        return self.files[name]


def test_there_is_nothing_at_a_destination_that_was_never_used():
    found = catalogue.read(Shelf())

    assert (found.url, found.held, found.unread, found.strays) == ("mem://backups", (), (), ())


def test_a_snapshot_whose_files_are_there_in_their_sizes_is_held_and_nothing_is_wrong():
    one = record(recovery=True)

    [held] = catalogue.read(Shelf(one)).held

    assert (held.record, held.url, held.file, held.wrong) == (one, "mem://backups", f"{one.name}.json", "")


def test_the_record_is_the_last_of_its_files():
    """They are removed in this order: what is left of a half removed one is still seen, and removed the next time."""
    one = record(recovery=True)

    [held] = catalogue.read(Shelf(one)).held

    assert held.files == (one.data.file, one.recovery.file, f"{one.name}.json")


def test_only_records_are_read_to_know_what_is_there():
    shelf = Shelf(record(1), record(2))

    catalogue.read(shelf)

    assert {name for name, _ in shelf.read} == {f"{record(n).name}.json" for n in (1, 2)}


@pytest.mark.parametrize("part", ["data", "recovery"])
def test_a_file_that_is_missing_is_what_is_wrong(part):
    one = record(recovery=True)
    shelf = Shelf(one)
    name = getattr(one, part).file
    del shelf.files[name]

    [held] = catalogue.read(shelf).held

    assert held.wrong == f"{name} is missing"


@pytest.mark.parametrize("size_bytes", [0, 99, 101])
def test_a_file_of_another_size_is_what_is_wrong(size_bytes):
    one = record()
    shelf = Shelf(one, **{one.data.file: size_bytes})

    [held] = catalogue.read(shelf).held

    assert held.wrong == f"{one.data.file} has {size_bytes} bytes, not 100"


def test_snapshots_come_newest_first_and_of_one_time_by_name():
    oldest, older, newest = record(5, at=AT - 100), record(1, at=AT), record(2, at=AT)

    found = catalogue.read(Shelf(newest, oldest, older))

    assert [held.record for held in found.held] == [older, newest, oldest]


def test_a_record_that_cannot_be_read_is_named_and_hides_none_of_the_others():
    one = record()
    shelf = Shelf(one, **{"broken.json": b'{"name": "br', "notes.json": b"{}"})

    found = catalogue.read(shelf)

    assert [held.record for held in found.held] == [one]
    assert [name for name, _ in found.unread] == ["broken.json", "notes.json"]
    assert all("mem://backups" in why and "is no record of a snapshot" in why for _, why in found.unread)


def test_a_record_under_the_name_of_another_is_no_record():
    """It would speak of files that are not its own, and pruning would remove them."""
    one = record()
    shelf = Shelf(one, **{"other-20261124T120000Z-r9.json": records.encode(one)})

    found = catalogue.read(shelf)

    assert [held.file for held in found.held] == [f"{one.name}.json"]
    assert [name for name, _ in found.unread] == ["other-20261124T120000Z-r9.json"]


def test_data_that_no_record_names_are_strays_in_order_of_their_names():
    left = {"b-20261124T120000Z-r9.db.zst": 5, "a-20261124T120000Z-r9.recovery.tar.zst.age": 5, "README.txt": 5}

    found = catalogue.read(Shelf(record(), **left))

    assert found.strays == ("a-20261124T120000Z-r9.recovery.tar.zst.age", "b-20261124T120000Z-r9.db.zst")


def test_the_data_of_a_record_that_cannot_be_read_are_strays():
    one = record()
    shelf = Shelf(one, **{f"{one.name}.json": b"{"})

    found = catalogue.read(shelf)

    assert (found.held, found.strays) == ((), (one.data.file,))


def test_one_plain_file_is_held_by_the_name_that_a_person_gave_it():
    one = record(data=Part(file="mine.db", size_bytes=500, sha256="00"))
    shelf = Shelf(**{"mine.db": 500, "mine.json": records.encode(one)})

    found = catalogue.read(shelf)

    assert [(held.record, held.file, held.wrong) for held in found.held] == [(one, "mine.json", "")]
    assert found.strays == ()


def test_many_records_are_all_read_each_once():
    every = [record(n, at=AT - n) for n in range(3 * catalogue.AT_ONCE)]
    shelf = Shelf(*every)

    found = catalogue.read(shelf)

    assert [held.record for held in found.held] == every
    assert len(shelf.read) == len(every)


def test_a_destination_that_fails_is_an_error_and_not_an_empty_one():
    class Away(Shelf):
        def get_bytes(self, name, limit_bytes=0):
            raise StoreError("no answer", remedy="look")

    with pytest.raises(StoreError, match="no answer"):
        catalogue.read(Away(record()))


# ---- read only ------------------------------------------------------------------------------------------------


def test_what_is_only_read_has_no_way_to_change_the_destination():
    shelf = ReadOnly(Shelf(record()))

    assert not {"put", "put_bytes", "remove", "tidy"} & set(dir(shelf))
    assert [held.record for held in catalogue.read(shelf).held] == [record()]


def test_what_is_only_read_asks_for_small_files_within_a_limit():
    behind = Shelf(record())

    catalogue.read(ReadOnly(behind))

    assert behind.read == [(f"{record().name}.json", catalogue.RECORD_BYTES)]


def test_a_record_of_a_later_version_is_told_as_such():
    one = record(shape=records.SHAPE + 1, tool="9.0.0")

    [(_, why)] = catalogue.read(Shelf(one)).unread

    assert "later version of orchestrator (9.0.0)" in why
    with pytest.raises(SnapshotInvalid):
        records.decode(records.encode(one), f"{one.name}.json", "there")
