"""How etcd keeps keys: one record a change, under its revision. Which of them are the live ones is found out here.

A record's key in the bucket `key` is its revision; the key that a client knows is within the record. A 64-bit hash
stands for that key while the last record of each is looked for, so that memory is some ten bytes a record: two live
keys are taken for one in about one of ten million databases of two million keys.

Source: etcd 3.5 to 3.7, `server/storage/mvcc`: `revision.go`, `kvstore.go` (`restore`); `api/mvccpb/kv.proto`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.backup.bolt import Bucket, Leaf, Walk
    from orchestrator.errors import SnapshotInvalid

OTHER = "(other)"
#: What comes after that many prefixes is counted as other; Kubernetes has one for each kind.
MAX_PREFIXES = 8192
MAX_PREFIX_BYTES = 512
#: Of a message; etcd's have six at most. What claims more would fill the memory with them.
MAX_FIELDS = 64

_REVISION_BYTES = 17
_TOMBSTONE_BYTES = 18
_PARTS = 256
_GONE, _OTHER = 0, 1
_KEY, _CREATED, _CHANGED, _VERSION, _VALUE, _LEASE = 0x0A, 0x10, 0x18, 0x20, 0x2A, 0x30  # tags of mvccpb.KeyValue
_NUMBER, _CONTENT, _FIXED = 0, 2, {1: 8, 5: 4}  # kinds of protobuf fields, and how long the fixed ones are


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A live key. `lease` is 0 without one."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


def main_revision(key: bytes) -> int:
    """The main part of a revision as etcd writes it: 8 bytes, `_`, 8 bytes of the sub part.

    Raises:
        ValueError: It is none.
    """
    if len(key) not in {_REVISION_BYTES, _TOMBSTONE_BYTES} or key[8] != 0x5F or key[0] > 0x7F or key[9] > 0x7F:
        raise ValueError(f"{key[:32].hex()} is no revision")
    if len(key) == _TOMBSTONE_BYTES and key[17] != 0x74:
        raise ValueError(f"{key.hex()} is a revision with an unknown mark")
    return int.from_bytes(key[:8], "big")


def fields(body: bytes, at: int, stop: int) -> list[tuple[int, int, int]]:
    """The fields of a protobuf message.

    Returns:
        For each its tag, which is its number and its kind, and its value, twice; of fields with a length, where their
        content begins and ends. Those of fixed length are left out.

    Raises:
        ValueError: It is none.
    """
    found: list[tuple[int, int, int]] = []
    try:
        while at < stop and len(found) <= MAX_FIELDS:
            tag, at = _varint(body, at) if body[at] > 0x7F else (body[at], at + 1)
            kind = tag & 7
            if kind in _FIXED:
                at += _FIXED[kind]
                continue
            if kind not in {_NUMBER, _CONTENT}:
                raise ValueError(f"a field of kind {kind}")
            value, at = _varint(body, at) if body[at] > 0x7F else (body[at], at + 1)
            if kind == _CONTENT:
                found.append((tag, at, at + value))
                at += value
            else:
                found.append((tag, value, value))
    except IndexError:
        at = stop + 1
    if at > stop:
        raise ValueError("a field that goes beyond its end")
    if len(found) > MAX_FIELDS:
        raise ValueError(f"more than {MAX_FIELDS} fields")
    return found


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def _key(body: bytes, at: int, stop: int) -> bytes:
    """The client's key of a record, all fields of which are gone through.

    It is b"" in the record that a bumped revision rests on, which stays for ever and is no key that a client can see.
    Source: etcd `etcdutl/snapshot/v3_snapshot.go`, `unsafeBumpBucketsRevision`: an empty value.
    """
    for tag, start, end in fields(body, at, stop):
        if tag == _KEY:
            return body[start:end]
    return b""


def _damaged(walk: Walk, leaf: Leaf, revision: bytes, why: ValueError) -> SnapshotInvalid:
    return walk.invalid(leaf.number, f"has a damaged record {revision[:_TOMBSTONE_BYTES].hex()}: {why}")


class Census:
    """Counts the live keys of the records that it is shown, oldest first.

    Attributes:
        revision: The highest that was seen.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._ids: dict[bytes, int] = {}
        self._hashes = [array("q") for _ in range(_PARTS)]
        self._kinds = [array("H") for _ in range(_PARTS)]

    def add(self, walk: Walk, leaf: Leaf) -> None:
        """Take in the records of a page.

        Raises:
            SnapshotInvalid: One is none.
        """
        hashes, kinds, ids, body = self._hashes, self._kinds, self._ids, leaf.body
        revision = b""
        for _, revision, start, stop in leaf.pairs:
            try:
                self.revision = main_revision(revision)
                key = _key(body, start, stop)
            except ValueError as err:
                raise _damaged(walk, leaf, revision, err) from err
            if not key:
                continue
            mark = hash(key)
            part = mark & (_PARTS - 1)
            hashes[part].append(mark)
            if len(revision) == _TOMBSTONE_BYTES:
                kinds[part].append(_GONE)
                continue
            prefix = prefix_of(key)
            kinds[part].append(ids.get(prefix) or self._id(prefix))

    def prefixes(self) -> dict[str, int]:
        """Prefix -> live keys, by prefix. Those under no prefix are `OTHER`."""
        totals: Counter[int] = Counter()
        for part in range(_PARTS):
            totals.update(dict(zip(self._hashes[part], self._kinds[part], strict=True)).values())  # the last one stays
        names = {_OTHER: OTHER} | {
            number: prefix.decode(errors="backslashreplace") for prefix, number in self._ids.items()
        }
        live: Counter[str] = Counter()
        for number, count in totals.items():
            if number != _GONE:
                live[names[number]] += count
        return dict(sorted(live.items()))

    def _id(self, prefix: bytes) -> int:
        if not prefix or len(self._ids) >= MAX_PREFIXES:
            return _OTHER
        return self._ids.setdefault(prefix, len(self._ids) + _OTHER + 1)


def prefix_of(key: bytes) -> bytes:
    """`/registry/pods` or `/registry/GROUP/RESOURCE` of a key; b"" of one that has no such beginning."""
    parts = key.split(b"/", 4)
    if len(parts) < 3 or parts[0]:
        return b""
    prefix = b"/".join(parts[: 4 if b"." in parts[2] else 3])
    return prefix if len(prefix) <= MAX_PREFIX_BYTES else b""


def last_records(walk: Walk, bucket: Bucket, prefix: bytes) -> bytearray:
    """A byte for each record, 1 for the last one of each key that begins with `prefix`.

    Raises:
        SnapshotInvalid: The bucket is damaged.
    """
    hashes = [array("q") for _ in range(_PARTS)]
    places = [array("I") for _ in range(_PARTS)]
    place = 0
    for leaf in walk.leaves(bucket):
        for _, revision, start, stop in leaf.pairs:
            try:
                main_revision(revision)
                key = _key(leaf.body, start, stop)
            except ValueError as err:
                raise _damaged(walk, leaf, revision, err) from err
            if key and key.startswith(prefix):
                mark = hash(key)
                hashes[mark & (_PARTS - 1)].append(mark)
                places[mark & (_PARTS - 1)].append(place)
            place += 1
    last = bytearray(place)
    for part in range(_PARTS):
        for each in dict(zip(hashes[part], places[part], strict=True)).values():
            last[each] = 1
    return last


def live(walk: Walk, bucket: Bucket, last: bytearray) -> Iterator[Entry]:
    """The records that `last` marks, but for those that say that a key was deleted.

    Raises:
        SnapshotInvalid: The bucket is damaged, or not the one that `last` is of.
    """
    place = 0
    for leaf in walk.leaves(bucket):
        if place + len(leaf.pairs) > len(last):
            raise walk.invalid(leaf.number, "has records that were not there before: the file was changed meanwhile")
        for _, revision, start, stop in leaf.pairs:
            if last[place] and len(revision) == _REVISION_BYTES:
                try:
                    yield _entry(leaf.body, start, stop)
                except ValueError as err:
                    raise _damaged(walk, leaf, revision, err) from err
            place += 1


def _entry(body: bytes, at: int, stop: int) -> Entry:
    found = {tag: (start, end) for tag, start, end in fields(body, at, stop)}
    nothing = (0, 0)
    key, value = (body[slice(*found.get(tag, nothing))] for tag in (_KEY, _VALUE))
    numbers = (signed(found.get(tag, nothing)[0]) for tag in (_CREATED, _CHANGED, _VERSION, _LEASE))
    created, changed, version, lease = numbers
    return Entry(key, value, created, changed, version, lease)


def signed(number: int) -> int:
    """The int64 that protobuf writes as this uint64."""
    return number - (1 << 64) if number >> 63 else number
