"""etcd's snapshots: whether one is whole, and what is in it. Needs neither etcd nor its tools.

A snapshot is a database of bbolt with its SHA-256 behind it. Source: etcd `client/v3/snapshot` (`snapshot save`): the
database is a multiple of 512 bytes, the sum is 32. `etcdutl snapshot status` does not look at the sum, `restore` does.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from orchestrator.backup import bolt, mvcc
from orchestrator.errors import SnapshotInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from orchestrator.backup.bolt import Bucket, Source, Walk
    from orchestrator.backup.mvcc import Entry

    #: Of the bucket `meta`: key -> the page that it is in, and the value.
    _Meta = Mapping[bytes, tuple[int, bytes]]

TRAILER_BYTES = 32
SECTOR_BYTES = 512
#: etcd has a few of each; a file with more was not written by it.
MAX_ROWS = 1024
MAX_ROW_BYTES = 1 << 16

_CHUNK_BYTES = 1 << 20
_ALARMS = {1: "NOSPACE", 2: "CORRUPT"}
_MEMBER_ID = re.compile(rb"[0-9a-f]{1,16}")
_ALARM_MEMBER, _ALARM_KIND = 0x08, 0x10  # tags of etcdserverpb.AlarmMember


@dataclass(frozen=True, slots=True)
class Member:
    """A member of etcd as the snapshot knows it.

    Attributes:
        id: In hex, as etcd prints it.
        name: "" of one that has not started yet.
        learner: It has no vote.
    """

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    learner: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is in a snapshot that was found to be whole.

    Attributes:
        size_bytes, sha256: Of the whole file, the sum at its end included.
        page_size_bytes: Of bbolt.
        revision: The one that etcd has when it starts from it.
        compact_revision: Earlier ones are gone; 0 when nothing was compacted.
        keys: Live ones.
        prefixes: `/registry/pods`, or `/registry/GROUP/RESOURCE` -> live keys; `mvcc.OTHER` for the rest.
        storage: The version of the data, such as `3.6.0`; "" of etcd before 3.6.
        term, consistent_index: raft's, of the last entry that was applied; `term` is 0 before etcd 3.5.
        members: By id.
        alarms: In words, such as `NOSPACE on member 8e9e05c52164694d`.
        leases: How many there are.
    """

    size_bytes: int
    sha256: str
    page_size_bytes: int
    revision: int
    compact_revision: int
    keys: int
    prefixes: Mapping[str, int]
    storage: str
    term: int
    consistent_index: int
    members: tuple[Member, ...]
    alarms: tuple[str, ...]
    leases: int


class _Attributes(msgspec.Struct, rename="camel"):
    """A row of the bucket `members`. Source: etcd `membership.Member`."""

    name: str = ""
    peer_urls: tuple[str, ...] | None = msgspec.field(default=None, name="peerURLs")
    client_urls: tuple[str, ...] | None = msgspec.field(default=None, name="clientURLs")
    is_learner: bool = False


def examine(file: Path | BinaryIO, *, trailer: bool = True) -> Snapshot:
    """What is in a snapshot, once every byte matches its sum and every page in use has been read.

    Args:
        file: A path, or a file object that can seek, the place of which is moved.
        trailer: False for a copy of `member/snap/db`, as kubeadm makes: it has no sum. It is weaker proof, and what
            is only in the write-ahead log is not in it.

    Raises:
        SnapshotInvalid: It is not whole.
    """
    with bolt.opened(file) as source:
        size_bytes = _database_bytes(source, trailer=trailer)
        sha256 = _sum(source, size_bytes)
        walk = bolt.Walk(source, size_bytes)
        buckets = _buckets(walk, source)
        census = mvcc.Census()
        for leaf in walk.leaves(buckets.pop(b"key")):
            census.add(walk, leaf)
        meta = {key: (page, value) for page, key, value in _rows(walk, buckets.pop(b"meta"))}
        members = _members(walk, buckets.pop(b"members", None))
        alarms = _alarms(walk, buckets.pop(b"alarm", None))
        counts = {name: sum(len(leaf.pairs) for leaf in walk.leaves(each)) for name, each in buckets.items()}
        finished, scheduled = (_compacted(walk, meta, key) for key in (b"finishedCompactRev", b"scheduledCompactRev"))
        prefixes = census.prefixes()
        return Snapshot(
            size_bytes=source.size_bytes,
            sha256=sha256,
            page_size_bytes=walk.meta.page_size_bytes,
            # Source: etcd `mvcc/kvstore.go`, `restore`: the last record may have been compacted away (#17780).
            revision=max(1, census.revision, finished, scheduled),
            compact_revision=max(finished, scheduled),  # etcd ends a scheduled compaction when it starts
            keys=sum(prefixes.values()),
            prefixes=MappingProxyType(prefixes),
            storage=meta.get(b"storageVersion", (0, b""))[1].decode(errors="backslashreplace"),
            term=_number(walk, meta, b"term"),
            consistent_index=_number(walk, meta, b"consistent_index"),
            members=members,
            alarms=alarms,
            leases=counts.get(b"lease", 0),
        )


def intact(file: Path | BinaryIO) -> bool:
    """Whether a snapshot that has a sum matches it. What is in it is not read: `examine` does that."""
    with contextlib.suppress(SnapshotInvalid), bolt.opened(file) as source:
        size_bytes = _database_bytes(source, trailer=True)
        _sum(source, size_bytes)
        return size_bytes > 0
    return False


def entries(file: Path | BinaryIO, *, trailer: bool = True, prefix: bytes = b"") -> Iterator[Entry]:
    """The live keys that begin with `prefix`, in the order in which they were last changed.

    Reads the bucket of keys twice, and holds one page at a time. Sums are not compared: `examine` does that.

    Args:
        file: As for `examine`; it is open until the last entry was taken or the iterator closed.
        trailer: As for `examine`.
        prefix: b"" for all.

    Raises:
        SnapshotInvalid: The bucket of keys is damaged.
    """
    with bolt.opened(file) as source:
        size_bytes = _database_bytes(source, trailer=trailer)
        first, second = bolt.Walk(source, size_bytes), bolt.Walk(source, size_bytes)
        last = mvcc.last_records(first, _buckets(first, source)[b"key"], prefix)
        yield from mvcc.live(second, _buckets(second, source)[b"key"], last)


# ---- the file -------------------------------------------------------------------------------------------------


def _database_bytes(source: Source, *, trailer: bool) -> int:
    """How many bytes of the file are the database."""
    rest = source.size_bytes % SECTOR_BYTES
    if rest == (TRAILER_BYTES if trailer else 0):
        return source.size_bytes - rest
    size = f"has {source.size_bytes} bytes"
    if rest == 0:
        raise SnapshotInvalid(
            f"{source.name} {size} and no SHA-256 at its end: it is a copy of a database, or it was cut",
            remedy="use a snapshot that `etcdctl snapshot save` made",
        )
    if rest == TRAILER_BYTES:
        raise SnapshotInvalid(
            f"{source.name} {size} and a SHA-256 at its end: it is a snapshot, not a copy of a database",
            remedy="treat it as a snapshot",
        )
    raise source.invalid(f"{size}, which no snapshot has: it was cut, or something was written behind it")


def _sum(source: Source, size_bytes: int) -> str:
    """SHA-256 of the file in hex, once that of the database is the one at the end."""
    total = hashlib.sha256()
    for at in range(0, size_bytes, _CHUNK_BYTES):
        total.update(source.read(at, min(_CHUNK_BYTES, size_bytes - at)))
    told = source.read(size_bytes, source.size_bytes - size_bytes)
    if told and told != total.digest():
        raise source.invalid(f"was changed: SHA-256 {total.hexdigest()}, and it says {told.hex()} at its end")
    total.update(told)
    return total.hexdigest()


def _buckets(walk: Walk, source: Source) -> dict[bytes, Bucket]:
    found = walk.buckets()
    missing = [name for name in ("key", "meta") if name.encode() not in found]
    if missing:
        raise source.invalid(f"is a database without bucket {' and '.join(missing)}: not etcd's")
    return found


# ---- buckets --------------------------------------------------------------------------------------------------


def _rows(walk: Walk, bucket: Bucket | None) -> Iterator[tuple[int, bytes, bytes]]:
    """The pairs of a small bucket, each with the page that it is in; none of a bucket that is not there."""
    if bucket is None:
        return
    rows = 0
    for leaf in walk.leaves(bucket):
        for _, key, start, stop in leaf.pairs:
            rows += 1
            if rows > MAX_ROWS or stop - start > MAX_ROW_BYTES:
                name = bucket.name.decode(errors="backslashreplace")
                raise walk.invalid(leaf.number, f"has row {rows} of bucket {name} with {stop - start} bytes: too much")
            yield leaf.number, key, leaf.body[start:stop]


def _members(walk: Walk, bucket: Bucket | None) -> tuple[Member, ...]:
    found = []
    for page, key, value in _rows(walk, bucket):
        try:
            told = msgspec.json.decode(value, type=_Attributes)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
            raise walk.invalid(page, f"has a damaged member {key[:32]!r}: {err}") from err
        if not _MEMBER_ID.fullmatch(key):
            raise walk.invalid(page, f"has a member with id {key[:32]!r}")
        found.append(
            Member(key.decode(), told.name, told.peer_urls or (), told.client_urls or (), learner=told.is_learner)
        )
    return tuple(sorted(found, key=lambda member: int(member.id, 16)))


def _alarms(walk: Walk, bucket: Bucket | None) -> tuple[str, ...]:
    """Alarms in words. Source: etcd `schema/alarm.go`: they are the keys of their bucket, the values are empty."""
    found = []
    for page, key, _ in _rows(walk, bucket):
        try:
            told = {tag: value for tag, value, _ in mvcc.fields(key, 0, len(key))}
        except ValueError as err:
            raise walk.invalid(page, f"has a damaged alarm {key[:32].hex()}: {err}") from err
        kind = told.get(_ALARM_KIND, 0)
        found.append(f"{_ALARMS.get(kind, f'alarm {kind}')} on member {told.get(_ALARM_MEMBER, 0):x}")
    return tuple(sorted(found))


def _compacted(walk: Walk, meta: _Meta, key: bytes) -> int:
    page, value = meta.get(key, (0, b""))
    try:
        return mvcc.main_revision(value) if value else 0
    except ValueError as err:
        raise walk.invalid(page, f"has a damaged {key.decode()}: {err}") from err


def _number(walk: Walk, meta: _Meta, key: bytes) -> int:
    page, value = meta.get(key, (0, bytes(8)))
    if len(value) != 8:
        raise walk.invalid(page, f"has {len(value)} bytes for {key.decode()} instead of 8")
    return int.from_bytes(value, "big")
