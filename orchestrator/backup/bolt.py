"""bbolt's file format: buckets of sorted pairs in a tree of pages. Reads a page at a time and believes none of it.

A file may be damaged or made by an enemy. Every page is met at most once, pairs of one page may not overlap, and no
page is read that is larger than etcd's can be: time is bounded by the size of the file, memory by that of a page.

Source: bbolt 1.4 and 1.5, `internal/common` (meta, page, bucket) and `tx_check.go`. Numbers are in the byte order of
the machine that wrote the file; big-endian ones (s390x) are refused by name.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import SnapshotInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

#: Source: bbolt takes the page size of the machine; Go's ports to Linux know these.
PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)
#: etcd advises 8 GiB; what is larger than this is something else.
MAX_FILE_BYTES = 128 << 30
#: A leaf page has room for a few values. Source: etcd warns of `--max-request-bytes` above 10 MiB.
MAX_LEAF_BYTES = 64 << 20
#: 65535 entries, the most that are counted, with keys as long as etcd's.
MAX_BRANCH_BYTES = 4 << 20
#: bbolt's limit. Source: bbolt `bucket.go`, `MaxKeySize`.
MAX_KEY_BYTES = 32768
#: Levels of a tree; a branch page has two children at least.
MAX_DEPTH = 32
#: etcd has ten.
MAX_BUCKETS = 256

_MAGIC = 0xED0CDAED
_VERSION = 2
_NO_FREELIST = 0xFFFFFFFFFFFFFFFF
_BRANCH, _LEAF, _FREELIST = 0x01, 0x02, 0x10
_BUCKET = 0x01
_HEADER = struct.Struct("<QHHI")  # number, flags, count, overflow
_META = struct.Struct(
    "<IIIIQQQQQQ"
)  # magic, version, page size, flags, root, sequence, freelist, high water, txid, sum
_LEAF_ELEMENT = struct.Struct("<IIII")  # flags, position, key size, value size
_BRANCH_ELEMENT = struct.Struct("<IIQ")  # position, key size, page
_ELEMENT_BYTES = 16
_MET, _FREE = 1, 2
_CHUNK_BYTES = 1 << 16


# ---- files ----------------------------------------------------------------------------------------------------


class Source:
    """A file that is read at places, never written.

    Attributes:
        name: For messages.
        size_bytes: When it was opened.
    """

    def __init__(self, name: str, size_bytes: int, pread: Callable[[int, int], bytes]) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._pread = pread

    def read(self, at: int, length: int) -> bytes:
        """`length` bytes from the place `at`.

        Raises:
            SnapshotInvalid: The file ends before, or cannot be read there.
        """
        parts = []
        missing = length
        while missing:
            try:
                part = self._pread(missing, at + length - missing)
            except OSError as err:
                raise self.invalid(f"cannot be read at byte {at}: {err.strerror or err}") from err
            if not part:
                raise self.invalid(f"ends at byte {at + length - missing}, before byte {at + length} that it must have")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def invalid(self, what: str) -> SnapshotInvalid:
        """The error that says `what` of this file."""
        return SnapshotInvalid(f"{self.name} {what}", remedy="use another snapshot: etcd may not start from this one")


@contextmanager
def opened(file: Path | BinaryIO) -> Iterator[Source]:
    """A path, or a file object that can seek, opened for reading. The place of a file object is moved.

    Raises:
        SnapshotInvalid: It cannot be opened, is no regular file, or is larger than any database of etcd.
    """
    if not isinstance(file, Path):
        yield _bounded(Source(str(getattr(file, "name", "the file")), file.seek(0, os.SEEK_END), _seeking(file)))
        return
    try:
        # Without O_NONBLOCK a FIFO would hold us until somebody writes to it.
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        raise SnapshotInvalid(f"{file} cannot be read: {err.strerror}", remedy=f"ls -l {file}") from err
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise SnapshotInvalid(f"{file} is no regular file", remedy=f"ls -l {file}")
        yield _bounded(Source(str(file), status.st_size, partial(os.pread, handle)))
    finally:
        os.close(handle)


def _bounded(source: Source) -> Source:
    if source.size_bytes > MAX_FILE_BYTES:
        raise source.invalid(f"has {source.size_bytes} bytes, more than any database of etcd ({MAX_FILE_BYTES})")
    return source


def _seeking(file: BinaryIO) -> Callable[[int, int], bytes]:
    def pread(length: int, at: int) -> bytes:
        file.seek(at)
        return file.read(length)

    return pread


# ---- metas ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Meta:
    """What one of the two meta pages says.

    Attributes:
        root: The page of the bucket that holds the buckets.
        freelist: The page of the list of free pages; None when it is not written, as by etcd since 3.3.
        high_water: One more than the highest page in use.
        txid: Of the transaction that wrote it.
    """

    page_size_bytes: int
    root: int
    freelist: int | None
    high_water: int
    txid: int


def newest(source: Source, size_bytes: int) -> Meta:
    """The valid meta with the higher transaction id.

    Args:
        source: The file.
        size_bytes: Of the database in it.

    Raises:
        SnapshotInvalid: Neither is valid, or the file is shorter than it says.

    Source: bbolt `db.go`: when the first is damaged, the second is looked for behind pages of each usual size.
    """
    if size_bytes < 3 * PAGE_SIZES[0]:
        raise source.invalid(f"has {size_bytes} bytes of a database, less than two meta pages and one of buckets")
    first = _meta(source.read(0, _HEADER.size + _META.size))
    sizes = (first.page_size_bytes,) if isinstance(first, Meta) else PAGE_SIZES
    found = [first] if isinstance(first, Meta) else []
    for size in sizes:
        if size + _HEADER.size + _META.size > size_bytes:
            continue
        second = _meta(source.read(size, _HEADER.size + _META.size))
        if isinstance(second, Meta) and second.page_size_bytes == size:
            found.append(second)
    if not found:
        raise source.invalid(f"has no valid meta page; the one at byte 0 {first}")
    best = max(found, key=lambda meta: meta.txid)
    if best.high_water * best.page_size_bytes > size_bytes:
        raise source.invalid(
            f"is cut: its meta page speaks of {best.high_water} pages of {best.page_size_bytes} bytes,"
            f" and {size_bytes} bytes are there"
        )
    return best


def _meta(page: bytes) -> Meta | str:
    """The meta, or what is wrong with it."""
    magic, version, size, _, root, _, freelist, high_water, txid, checksum = _META.unpack_from(page, _HEADER.size)
    if magic == int.from_bytes(_MAGIC.to_bytes(4, "little"), "big"):
        return "was written on a big-endian machine, which is not supported"
    if magic != _MAGIC:
        return f"has magic {magic:08x} instead of {_MAGIC:08x}: this is no bbolt file"
    if version != _VERSION:
        return f"has version {version} instead of {_VERSION}"
    if checksum != fnv1a(page[_HEADER.size : _HEADER.size + _META.size - 8]):
        return f"does not match its checksum {checksum:016x}"
    if size not in PAGE_SIZES:
        return f"tells a page size of {size} bytes, which no machine has"
    return Meta(size, root, None if freelist == _NO_FREELIST else freelist, high_water, txid)


def fnv1a(content: bytes) -> int:
    """The 64-bit FNV-1a sum."""
    total = 0xCBF29CE484222325
    for byte in content:
        total = (total ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return total


# ---- pages ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where the pairs of a bucket are.

    Attributes:
        page: The page in which the bucket is named.
        root: The root of its tree; 0 when the bucket is so small that its only page stands in `inline`.
    """

    name: bytes
    page: int
    root: int
    inline: bytes


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf page: its pairs, in the order of their keys.

    Attributes:
        number: Of the page.
        body: All of it.
        pairs: Flags, key, and where in the body the value begins and ends.
    """

    number: int
    body: bytes
    pairs: list[tuple[int, bytes, int, int]]


class Walk:
    """One walk through a database, on which each page may be met once."""

    def __init__(self, source: Source, size_bytes: int) -> None:
        self.meta = newest(source, size_bytes)
        self._source = source
        self._seen = bytearray(self.meta.high_water)  # a byte a page: 512 KiB for 2 GiB
        self._seen[:2] = bytes((_MET, _MET))[: len(self._seen)]
        if self.meta.freelist is not None:
            self._mark_free(self.meta.freelist)

    def invalid(self, number: int, what: str) -> SnapshotInvalid:
        """The error that says `what` of a page."""
        return self._source.invalid(f"is damaged: page {number} {what}")

    def buckets(self) -> dict[bytes, Bucket]:
        """All buckets by name.

        Raises:
            SnapshotInvalid: The tree of buckets is damaged, or holds something else.
        """
        found: dict[bytes, Bucket] = {}
        for leaf in self._tree(self.meta.root):
            for flags, name, start, stop in leaf.pairs:
                if flags != _BUCKET:
                    raise self.invalid(leaf.number, f"has flags {flags:#x} for {name[:32]!r}, which has to be a bucket")
                if not 16 <= stop - start <= self.meta.page_size_bytes:  # inline ones are a quarter of a page at most
                    raise self.invalid(leaf.number, f"has {stop - start} bytes for bucket {name[:32]!r}")
                if len(found) >= MAX_BUCKETS:
                    raise self.invalid(leaf.number, f"has more than {MAX_BUCKETS} buckets; etcd has ten")
                (root,) = struct.unpack_from("<Q", leaf.body, start)
                inline = b"" if root else leaf.body[start + 16 : stop]
                found[name] = Bucket(name, leaf.number, root, inline)
        return found

    def leaves(self, bucket: Bucket) -> Iterator[Leaf]:
        """The leaf pages of a bucket, in the order of their keys.

        Raises:
            SnapshotInvalid: A page is damaged, or holds a bucket in the bucket, which etcd has not.
        """
        for leaf in self._tree(bucket.root) if bucket.root else self._inline(bucket):
            if any(pair[0] for pair in leaf.pairs):
                flags, key, *_ = next(pair for pair in leaf.pairs if pair[0])
                raise self.invalid(leaf.number, f"has flags {flags:#x} for {key[:32]!r} in bucket {bucket.name[:32]!r}")
            yield leaf

    def _inline(self, bucket: Bucket) -> Iterator[Leaf]:
        body = bucket.inline
        if len(body) < _HEADER.size:
            raise self.invalid(bucket.page, f"has {len(body)} bytes for the pairs of bucket {bucket.name[:32]!r}")
        _, flags, count, _ = _HEADER.unpack_from(body)
        if flags != _LEAF:
            raise self.invalid(bucket.page, f"has flags {flags:#x} for the pairs of bucket {bucket.name[:32]!r}")
        yield Leaf(bucket.page, body, self._pairs(bucket.page, body, count))

    def _tree(self, root: int) -> Iterator[Leaf]:
        """Leaf pages below `root`. The keys of each lie within what its parents say, so all of them are in order."""
        stack: list[tuple[int, bytes, bytes | None, int]] = [(root, b"", None, 1)]
        while stack:
            number, low, high, depth = stack.pop()
            flags, count, body = self._page(number)
            if depth > MAX_DEPTH:
                raise self.invalid(number, f"is more than {MAX_DEPTH} levels down")
            if flags == _LEAF:
                leaf = Leaf(number, body, self._pairs(number, body, count))
                if leaf.pairs:
                    self._check_range(number, leaf.pairs[0][1], leaf.pairs[-1][1], low, high)
                yield leaf
                continue
            children = self._children(number, body, count)
            self._check_range(number, children[0][0], children[-1][0], low, high)
            ends = [*(key for key, _ in children[1:]), high]
            below = [(page, key, end, depth + 1) for (key, page), end in zip(children, ends, strict=True)]
            stack.extend(reversed(below))

    def _check_range(self, number: int, first: bytes, last: bytes, low: bytes, high: bytes | None) -> None:
        if first < low:
            raise self.invalid(number, f"begins with key {first[:32].hex()}, below its parent's {low[:32].hex()}")
        if high is not None and last >= high:
            raise self.invalid(number, f"ends with key {last[:32].hex()}, not below the next page's {high[:32].hex()}")

    def _page(self, number: int) -> tuple[int, int, bytes]:
        """Flags, count and content of a branch or leaf page with what it runs over into."""
        size = self.meta.page_size_bytes
        self._check_unmet(number, 1)
        body = self._source.read(number * size, size)
        told, flags, count, overflow = _HEADER.unpack_from(body)
        if told != number:
            raise self.invalid(number, f"says that it is page {told}")
        if flags not in (_BRANCH, _LEAF):
            raise self.invalid(number, f"has flags {flags:#x}, neither those of a branch nor of a leaf")
        if overflow:
            whole = (overflow + 1) * size
            if whole > (MAX_LEAF_BYTES if flags == _LEAF else MAX_BRANCH_BYTES):
                raise self.invalid(number, f"has {whole} bytes, more than a page of etcd can have")
            self._check_unmet(number, overflow + 1)
            body = self._source.read(number * size, whole)
        self._seen[number : number + overflow + 1] = b"\x01" * (overflow + 1)
        return flags, count, body

    def _check_unmet(self, number: int, pages: int) -> None:
        top = self.meta.high_water
        if number < 2 or number + pages > top:
            raise self.invalid(number, f"with {pages} in all is not among the pages 2 to {top - 1} of this file")
        if self._seen.count(0, number, number + pages) != pages:
            state = "free" if _FREE in self._seen[number : number + pages] else "met twice"
            raise self.invalid(number, f"with {pages} in all is in use and {state}")

    def _pairs(self, number: int, body: bytes, count: int) -> list[tuple[int, bytes, int, int]]:
        """Pairs of a leaf page, checked: strictly ascending keys; no pair overlaps another or leaves the page."""
        table, size = _HEADER.size, len(body)
        end = table + _ELEMENT_BYTES * count
        if end > size:
            raise self.invalid(number, f"has {count} pairs, too many for its {size} bytes")
        last = b""
        found: list[tuple[int, bytes, int, int]] = []
        for flags, position, key_size, value_size in _LEAF_ELEMENT.iter_unpack(memoryview(body)[table:end]):
            start = table + position
            middle = start + key_size
            stop = middle + value_size
            if start < end or stop > size or key_size > MAX_KEY_BYTES:
                raise self.invalid(number, f"has pair {len(found)} at bytes {start} to {stop}, not in {end} to {size}")
            key = body[start:middle]
            if key <= last:
                raise self.invalid(number, f"has key {key[:32].hex()} after {last[:32].hex()}: out of order")
            found.append((flags, key, middle, stop))
            last, end = key, stop
            table += _ELEMENT_BYTES
        return found

    def _children(self, number: int, body: bytes, count: int) -> list[tuple[bytes, int]]:
        """First keys and pages of what is below a branch page, checked as pairs are."""
        table, size = _HEADER.size, len(body)
        end = table + _ELEMENT_BYTES * count
        if not count or end > size:
            raise self.invalid(number, f"has {count} children in {size} bytes")
        last = b""
        found: list[tuple[bytes, int]] = []
        for position, key_size, page in _BRANCH_ELEMENT.iter_unpack(memoryview(body)[table:end]):
            start = table + position
            stop = start + key_size
            if start < end or stop > size or key_size > MAX_KEY_BYTES:
                raise self.invalid(number, f"has child {len(found)} at bytes {start} to {stop}, not in {end} to {size}")
            key = body[start:stop]
            if key <= last:
                raise self.invalid(number, f"has key {key[:32].hex()} after {last[:32].hex()}: out of order")
            found.append((key, page))
            last, end = key, stop
            table += _ELEMENT_BYTES
        return found

    def _mark_free(self, number: int) -> None:
        """Remember which pages may not be in use. Source: bbolt: a count of 65535 stands for one in the first entry."""
        size = self.meta.page_size_bytes
        self._check_unmet(number, 1)
        told, flags, count, overflow = _HEADER.unpack(self._source.read(number * size, _HEADER.size))
        if told != number or flags != _FREELIST:
            raise self.invalid(number, f"has flags {flags:#x} and says it is page {told}; it has to be the free list")
        self._check_unmet(number, overflow + 1)
        at, stop = number * size + _HEADER.size, (number + overflow + 1) * size
        if count == 0xFFFF:
            (count,) = struct.unpack("<Q", self._source.read(at, 8))
            at += 8
        if count * 8 > stop - at:
            raise self.invalid(number, f"lists {count} free pages, too many for its {overflow + 1} pages")
        self._seen[number : number + overflow + 1] = bytes([_MET]) * (overflow + 1)
        stop = at + count * 8
        for begin in range(at, stop, _CHUNK_BYTES):
            for (page,) in struct.iter_unpack("<Q", self._source.read(begin, min(_CHUNK_BYTES, stop - begin))):
                if page >= len(self._seen) or self._seen[page]:
                    raise self.invalid(number, f"lists page {page} as free, which it cannot be")
                self._seen[page] = _FREE
