"""Writes small files as bbolt and etcd do, and damages them in ways that keep every sum right."""

import hashlib
import io
import json
import struct

from orchestrator.backup.bolt import fnv1a

PAGE = 4096
MEMBER = 0x8E9E05C52164694D
NO_FREELIST = 0xFFFFFFFFFFFFFFFF
BRANCH, LEAF, META, FREELIST = 0x01, 0x02, 0x04, 0x10


# ---- pages ----------------------------------------------------------------------------------------------------


def page(number, flags, count, overflow=0, content=b""):
    return struct.pack("<QHHI", number, flags, count, overflow) + content


def leaf_content(pairs, flags=0):
    """Table and content of a leaf page."""
    table, content, end = b"", b"", 16 * len(pairs)
    for key, value in pairs:
        table += struct.pack("<IIII", flags, end + len(content) - len(table), len(key), len(value))
        content += key + value
    return table + content


def branch_content(children):
    table, content, end = b"", b"", 16 * len(children)
    for key, number in children:
        table += struct.pack("<IIQ", end + len(content) - len(table), len(key), number)
        content += key
    return table + content


def meta(number, root, high_water, txid, *, freelist=NO_FREELIST, size=PAGE, magic=0xED0CDAED, version=2):
    told = struct.pack("<IIIIQQQQQ", magic, version, size, 0, root, 0, freelist, high_water, txid)
    return page(number, META, 0, 0, told + struct.pack("<Q", fnv1a(told)))


class Pages:
    """The pages of a file that is being written."""

    def __init__(self, size=PAGE):
        self.size = size
        self._pages = {}
        self.next = 2

    def add(self, flags, count, content):
        """The number of a new page."""
        number, self.next = self.next, self.next + (16 + len(content) - 1) // self.size + 1
        self._pages[number] = page(number, flags, count, self.next - number - 1, content)
        return number

    def tree(self, pairs, per_page=8, flags=0):
        """The root of a tree."""
        if not pairs:
            return self.add(LEAF, 0, b"")
        level = []
        for at in range(0, len(pairs), per_page):
            some = pairs[at : at + per_page]
            level.append((some[0][0], self.add(LEAF, len(some), leaf_content(some, flags))))
        while len(level) > 1:
            width = max(2, per_page)
            groups = [level[at : at + width] for at in range(0, len(level), width)]
            level = [(some[0][0], self.add(BRANCH, len(some), branch_content(some))) for some in groups]
        return level[0][1]

    def database(self, root, *, freelist=NO_FREELIST, txid=7, high_water=None):
        top = high_water or self.next
        content = bytearray(self.next * self.size)
        for number in (0, 1):
            told = meta(number, root, top, txid - number, freelist=freelist, size=self.size)
            content[number * self.size : number * self.size + len(told)] = told
        for number, each in self._pages.items():
            content[number * self.size : number * self.size + len(each)] = each
        return bytes(content)


def bucket_value(root):
    return struct.pack("<QQ", root, 0)


def inline_value(pairs):
    return bucket_value(0) + page(0, LEAF, len(pairs), 0, leaf_content(pairs))


def sealed(database):
    """A snapshot of a database."""
    return database + hashlib.sha256(database).digest()


def resealed(snapshot, at, content):
    """The snapshot with other content at a place, and the sum of that."""
    return sealed(snapshot[:at] + content + snapshot[at + len(content) : -32])


def opened(content):
    return io.BytesIO(content)


# ---- etcd -----------------------------------------------------------------------------------------------------


def varint(number):
    number &= NO_FREELIST
    content = b""
    while number > 0x7F:
        content += bytes([number & 0x7F | 0x80])
        number >>= 7
    return content + bytes([number])


def field(number, value):
    """A field of a protobuf message; numbers that are 0 are left out."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def revision(main, sub=0, *, tombstone=False):
    return struct.pack(">QcQ", main, b"_", sub) + (b"t" if tombstone else b"")


class Keys:
    """What etcd's bucket `key` has after some changes."""

    def __init__(self):
        self.main = 1
        self.pairs = []
        self._versions = {}

    def put(self, key, value=b"value", lease=0):
        self.main += 1
        created, version = self._versions.get(key, (self.main, 0))
        self._versions[key] = (created, version + 1)
        numbers = field(2, created) + field(3, self.main) + field(4, version + 1)
        told = field(1, key) + numbers + field(5, value) + field(6, lease)
        self.pairs.append((revision(self.main), told))
        return self

    def delete(self, key):
        self.main += 1
        del self._versions[key]
        self.pairs.append((revision(self.main, tombstone=True), field(1, key)))
        return self


def config_map(**data):
    """A ConfigMap as an API server stores it."""
    pairs = b"".join(field(2, field(1, name.encode()) + field(2, text.encode())) for name, text in data.items())
    of_kind = field(1, field(1, b"v1") + field(2, b"ConfigMap"))
    return b"k8s\x00" + of_kind + field(2, field(1, field(1, b"a")) + pairs)


def member(*, name="cp-1", learner=False):
    urls = {"peerURLs": ["https://10.0.0.1:2380"], "clientURLs": ["https://10.0.0.1:2379"]}
    return json.dumps({"id": MEMBER, "name": name, **urls, **({"isLearner": True} if learner else {})}).encode()


def rows(**changes):
    """The small buckets of etcd, as pairs by name; a bucket that is None is left out."""
    found = {
        "alarm": [],
        "cluster": [(b"clusterVersion", b"3.6.0")],
        "lease": [(struct.pack(">Q", 7), b"")],
        "members": [(b"8e9e05c52164694d", member())],
        "members_removed": [],
        "meta": [
            (b"consistent_index", struct.pack(">Q", 41)),
            (b"storageVersion", b"3.6.0"),
            (b"term", struct.pack(">Q", 3)),
        ],
    } | changes
    return {name: pairs for name, pairs in found.items() if pairs is not None}


def buckets(pages, keys, *, per_page=8, inline=True, **changes):
    """The pairs of the bucket of buckets, the trees of which are put into the pages."""
    found = {
        name: inline_value(pairs) if inline else bucket_value(pages.tree(pairs))
        for name, pairs in rows(**changes).items()
    }
    if keys is not None:
        found["key"] = bucket_value(pages.tree(keys, per_page))
    return sorted((name.encode(), value) for name, value in found.items())


def database(keys, *, size=PAGE, freed=None, **described):
    """A database of etcd.

    Args:
        keys: Pairs of the bucket `key`; None leaves it out.
        size: Of a page.
        freed: Pages that are listed as free; None writes no list.
        described: `per_page`: pairs and children of a page; `inline`: small buckets stand in their parent; the rest
            goes to `rows`.
    """
    pages = Pages(size)
    root = pages.tree(buckets(pages, keys, **described), per_page=64, flags=1)
    freelist = NO_FREELIST
    if freed is not None:
        freelist = pages.add(FREELIST, len(freed), struct.pack(f"<{len(freed)}Q", *freed))
    return pages.database(root, freelist=freelist)


def snapshot(keys, **described):
    """A snapshot of such a database."""
    return sealed(database(keys, **described))
