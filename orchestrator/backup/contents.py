"""What is in a snapshot: Kubernetes' objects, by the keys of its API server, and how two snapshots differ.

Values are looked at for how they are written, and hashed; their content is neither kept nor told.
"""

from __future__ import annotations

import contextlib
import heapq
import operator
import re
import secrets
import sqlite3
from array import array
from collections import Counter
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from orchestrator.backup.snapshot import entries
from orchestrator.errors import BackupError, FactUnreadable, SnapshotInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    #: Of each live key: itself, its revision, and a number that tells whether it changed.
    _Rows = Iterable[tuple[bytes, int, int]]
    #: Reads live keys and their revisions, in the order of those.
    _Names = Callable[[], Iterable[tuple[bytes, int]]]

#: The kind of what is not Kubernetes', or not in a form that is known.
OTHER = "(other)"
#: Where the API server keeps its objects. Source: its flag `--etcd-prefix`; kubeadm leaves it as it is.
ROOT = "/registry/"
#: What comes after that many is counted as other. A cluster has some hundred kinds.
MAX_KINDS = 8192
MAX_PLACES = 1 << 17
MAX_CIPHERS = 1024
LARGEST = 10

_ROUTINE = frozenset({"Event", "MasterLease", "PeerServerLease"})
_PARTS = 256
_NEW = -1
_ENCRYPTED = re.compile(rb"k8s:enc:([a-z0-9]{1,32}):(v[0-9]{1,3}):([^:]{1,253}):")
_SORT_KIB = 16384

# ---- keys -----------------------------------------------------------------------------------------------------

# Source: Kubernetes 1.37, `pkg/kubeapiserver/default_storage_factory_builder.go` and k8s.io/apiserver
# `DefaultStorageFactory.ResourcePrefix`: built-in resources are stored by their name alone, whatever their group.
_BUILT_IN = {
    # The last two say which API servers there are: `Endpoints` that no client sees.
    "": "ConfigMap Endpoints:endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod "
    "PodTemplate RangeAllocation:ranges ReplicationController ResourceQuota Secret Service ServiceAccount "
    "MasterLease PeerServerLease",
    "admissionregistration.k8s.io": "MutatingAdmissionPolicy MutatingAdmissionPolicyBinding "
    "MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding "
    "ValidatingWebhookConfiguration",
    "apiextensions.k8s.io": "CustomResourceDefinition",
    "apiregistration.k8s.io": "APIService",
    "apps": "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet",
    "autoscaling": "HorizontalPodAutoscaler",
    "batch": "CronJob Job",
    "certificates.k8s.io": "CertificateSigningRequest ClusterTrustBundle PodCertificateRequest",
    "coordination.k8s.io": "Lease LeaseCandidate",
    "discovery.k8s.io": "EndpointSlice",
    "flowcontrol.apiserver.k8s.io": "FlowSchema PriorityLevelConfiguration",
    "internal.apiserver.k8s.io": "StorageVersion",
    "networking.k8s.io": "IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR",
    "node.k8s.io": "RuntimeClass",
    "policy": "PodDisruptionBudget PodSecurityPolicy",
    "rbac.authorization.k8s.io": "ClusterRole ClusterRoleBinding Role RoleBinding",
    "resource.k8s.io": "DeviceClass DeviceTaintRule PodSchedulingContext ResourceClaim ResourceClaimTemplate "
    "ResourceSlice",
    "scheduling.k8s.io": "PriorityClass",
    "storage.k8s.io": "CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass",
    "storagemigration.k8s.io": "StorageVersionMigration",
}  # fmt: skip
#: Stored under another name than their own.
_SPECIAL = {
    "controllers": "replicationcontrollers", "ingress": "ingresses", "minions": "nodes",
    "podsecuritypolicy": "podsecuritypolicies", "services/endpoints": "endpoints", "services/specs": "services",
}  # fmt: skip
#: Stored under their group, as custom resources are: those of servers that are built into the API server.
_GROUPED = frozenset({"apiextensions.k8s.io", "apiregistration.k8s.io"})


def _plural(kind: str) -> str:
    name = kind.lower()
    return f"{name}es" if name.endswith("s") else f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


def _table() -> dict[str, tuple[str, str, str]]:
    """Where a resource is stored, below the root -> its kind, group and resource."""
    table = {}
    for group, listed in _BUILT_IN.items():
        for kind, _, plural in (each.partition(":") for each in listed.split()):
            resource = plural or _plural(kind)
            table[f"{group}/{resource}" if group in _GROUPED else resource] = (kind, group, resource)
    return table | {stored: table.pop(resource) for stored, resource in _SPECIAL.items()}


_STORED = _table()


class Key(msgspec.Struct, frozen=True, gc=False):
    """An object, by its key.

    Attributes:
        kind: `Pod`; `RESOURCE.GROUP` of a custom resource, the path of its storage for what is not known, or `OTHER`.
        group: "" of the core group, and of what is not known.
        resource: In the plural, as in the API's paths; "" of `OTHER`.
        namespace: "" without one.
        name: Of `OTHER` the whole key.
    """

    kind: str
    group: str
    resource: str
    namespace: str
    name: str

    @property
    def custom(self) -> bool:
        """It is a custom resource, or of an API server that stores its own as those are stored."""
        return bool(self.group) and self.kind == f"{self.resource}.{self.group}"


def parse_key(key: bytes) -> Key:
    """The object that a key is of. What a terminal would not print stands in it as an escape.

    Source: Kubernetes' storage: `/registry/RESOURCE/[NAMESPACE/]NAME`, with the group before the resource for custom
    ones, whose group has a dot (validation of CustomResourceDefinitions), which no name of a resource has.
    """
    text = key.decode(errors="backslashreplace")
    if not text.isprintable():
        text = text.encode("unicode_escape").decode()
    parts = text[len(ROOT) :].split("/")
    depth = 2 if "." in parts[0] or parts[0] == "services" else 1
    names = parts[depth:]
    if not text.startswith(ROOT) or not all(parts) or len(names) not in (1, 2):
        return Key(OTHER, "", "", "", text)
    stored = "/".join(parts[:depth])
    if stored in _STORED:
        kind, group, resource = _STORED[stored]
    elif "." in parts[0]:
        kind, group, resource = f"{parts[1]}.{parts[0]}", parts[0], parts[1]
    else:
        kind, group, resource = stored, "", stored
    return Key(kind, group, resource, "" if len(names) == 1 else names[0], names[-1])


# ---- values ---------------------------------------------------------------------------------------------------


class Cipher(msgspec.Struct, frozen=True, order=True):
    """With what values are encrypted at rest.

    Attributes:
        provider: `aescbc`, `aesgcm`, `secretbox`, `kms`; `OTHER` for those after `MAX_CIPHERS`.
        version: `v1`, of KMS `v2` as well.
        key: The name of the key, of KMS that of the plugin, in the API server's EncryptionConfiguration.
    """

    provider: str
    version: str = ""
    key: str = ""


def cipher_of(value: bytes) -> Cipher | None:
    """With what a value is encrypted; None when it is not.

    Source: k8s.io/apiserver `storage/value/encrypt`, prefix `k8s:enc:PROVIDER:VERSION:NAME:`.
    """
    found = _ENCRYPTED.match(value)
    return Cipher(*(each.decode(errors="backslashreplace") for each in found.groups())) if found else None


def form_of(value: bytes) -> str:
    """How a value is written: `protobuf`, `json` (custom resources), `encrypted`, or `other`.

    Source: k8s.io/apimachinery `runtime/serializer/protobuf`: its objects begin with `k8s` and a zero byte.
    """
    if value.startswith(b"k8s\x00"):
        return "protobuf"
    return "json" if value.startswith(b"{") else "encrypted" if _ENCRYPTED.match(value) else "other"


# ---- counted --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """The objects of one kind.

    Attributes:
        size_bytes: Of keys and values.
        encrypted: How many of them are encrypted at rest.
        namespaces: Namespace -> objects, by namespace; "" for those without one.
    """

    kind: str
    group: str
    resource: str
    objects: int
    size_bytes: int
    encrypted: int
    namespaces: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Census:
    """The live keys of a snapshot.

    Attributes:
        objects: How many there are.
        size_bytes: Of their keys and values.
        kinds: By name.
        forms: `form_of` -> values.
        ciphers: With what values are encrypted at rest -> how many.
        largest: The largest objects with their sizes in bytes, largest first.
        groups: Group of custom resources -> objects.
    """

    objects: int
    size_bytes: int
    kinds: tuple[Kind, ...]
    forms: Mapping[str, int]
    ciphers: Mapping[Cipher, int]
    largest: tuple[tuple[Key, int], ...]
    groups: Mapping[str, int]


class _Counts:
    """What is counted while keys go by; it cannot grow beyond its limits, whoever wrote the file."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str, str], list[int]] = {}  # objects, bytes, encrypted
        self.places: Counter[tuple[tuple[str, str, str], str]] = Counter()  # kind and namespace
        self.forms: Counter[str] = Counter()
        self.ciphers: Counter[Cipher] = Counter()
        self.largest: list[tuple[int, bytes]] = []

    def add(self, key: bytes, value: bytes) -> None:
        """Count one."""
        seen, size, form, cipher = parse_key(key), len(key) + len(value), form_of(value), cipher_of(value)
        kind = (seen.kind, seen.group, seen.resource)
        if kind not in self.kinds and len(self.kinds) >= MAX_KINDS:
            kind = (OTHER, "", "")
        known = self.kinds.setdefault(kind, [0, 0, 0])
        for at, more in enumerate((1, size, cipher is not None)):
            known[at] += more
        place = (kind, seen.namespace)
        self.places[place if place in self.places or len(self.places) < MAX_PLACES else (kind, OTHER)] += 1
        self.forms[form] += 1
        if cipher:
            self.ciphers[cipher if cipher in self.ciphers or len(self.ciphers) < MAX_CIPHERS else Cipher(OTHER)] += 1
        heapq.heappush(self.largest, (size, key))
        if len(self.largest) > LARGEST:
            heapq.heappop(self.largest)


def census(path: Path, *, trailer: bool = True) -> Census:
    """The live keys of a snapshot, counted.

    Sums are not compared: `snapshot.examine` does that, and `trailer` is as there.

    Raises:
        SnapshotInvalid: The bucket of keys is damaged.
    """
    counts = _Counts()
    for entry in entries(path, trailer=trailer):
        counts.add(entry.key, entry.value)
    places: dict[tuple[str, str, str], dict[str, int]] = {}
    for (kind, namespace), number in sorted(counts.places.items()):
        places.setdefault(kind, {})[namespace] = number
    groups: Counter[str] = Counter()
    for kind, (objects, _, _) in sorted(counts.kinds.items()):
        groups.update({kind[1]: objects} if Key(*kind, "", "").custom else {})
    return Census(
        objects=sum(objects for objects, _, _ in counts.kinds.values()),
        size_bytes=sum(size for _, size, _ in counts.kinds.values()),
        kinds=tuple(
            Kind(*kind, objects, size, encrypted, places[kind])
            for kind, (objects, size, encrypted) in sorted(counts.kinds.items())
        ),
        forms=dict(sorted(counts.forms.items())),
        ciphers=dict(sorted(counts.ciphers.items())),
        largest=tuple((parse_key(key), size) for size, key in sorted(counts.largest, key=lambda e: (-e[0], e[1]))),
        groups=dict(groups),
    )


# ---- compared -------------------------------------------------------------------------------------------------


class Change(msgspec.Struct, frozen=True, gc=False):
    """An object that differs, and its revisions; 0 where it is not."""

    key: Key
    before: int
    after: int

    @property
    def what(self) -> str:
        """`created`, `deleted` or `changed`."""
        if not self.before:
            return "created"
        return "changed" if self.after else "deleted"

    @property
    def routine(self) -> bool:
        """It is what a cluster that nobody touches does all the time: leases renewed, events that come and go.

        Source: the API server keeps events for an hour (`--event-ttl`), and `compact_rev_key` says how far its
        compaction got. A Lease that came or went is worth telling: a node or a leader did.
        """
        if self.key.kind == "Lease":
            return self.what == "changed"
        return self.key.kind in _ROUTINE or (self.key.kind, self.key.name) == (OTHER, "compact_rev_key")


class LiveKey(msgspec.Struct, frozen=True, gc=False):
    """A key that etcd has now."""

    key: bytes
    create_revision: int = 0
    mod_revision: int = 0


class Live(msgspec.Struct, frozen=True):
    """The keys that etcd has at a revision. `cluster` is its id, in hex."""

    revision: int
    cluster: str
    keys: tuple[LiveKey, ...]


class _Header(msgspec.Struct):
    revision: int
    cluster_id: int = 0


class _Answer(msgspec.Struct):
    header: _Header
    kvs: tuple[LiveKey, ...] = ()
    more: bool = False


def parse_live(lines: Iterable[str]) -> Live:
    """What etcd answers to `etcdctl get / --prefix --keys-only -w json`.

    Raises:
        FactUnreadable: It is no such answer, or not all of it.

    Source: etcd 3.6 and 3.7 (`RangeResponse`): one line; keys in base64, values left out by the server.
    """
    try:
        found = msgspec.json.decode("".join(lines), type=_Answer)
    except (msgspec.MsgspecError, UnicodeError) as err:
        raise FactUnreadable(
            f"etcd's answer about its keys cannot be read: {err}",
            remedy="see whether it is well: orchestrator etcd status",
        ) from err
    if found.more:
        raise FactUnreadable(
            f"etcd told {len(found.kvs)} of its keys, and has more",
            remedy="compare with a snapshot of now: orchestrator etcd backup; orchestrator etcd diff BEFORE last",
        )
    return Live(found.header.revision, f"{found.header.cluster_id:x}", found.kvs)


def diff(before: Path, after: Path, *, trailer: bool = True, after_trailer: bool | None = None) -> Iterator[Change]:
    """What was created, deleted and changed between two snapshots, by kind, namespace and name.

    An object is changed when its value is another one: one that was written again as it was is not, and after a
    restore two values may have the same revision. Memory is some 65 bytes a key; differences are sorted on disk. Sums
    are not compared: `snapshot.examine` does that, and `trailer` is as there: of both, unless `after_trailer` differs.

    Keys and values are compared by 64-bit hashes under a key of this process's own, so that nobody can make two of
    them alike. Of n keys on both sides together two are taken for one with a probability of n²/2⁶⁵: one in two
    million for four million keys; that a changed value looks unchanged, n/2⁶⁴, is less likely by far.

    Raises:
        SnapshotInvalid: One is damaged, or was changed meanwhile.
        BackupError: There is no room to sort what differs.
    """
    secret = secrets.token_bytes(16)

    sides = ((before, trailer), (after, trailer if after_trailer is None else after_trailer))
    found = (((e.key, e.mod_revision, _hash(e.value, secret)) for e in entries(f, trailer=t)) for f, t in sides)
    one, two = (_Index(rows, secret) for rows in found)
    gone, was = _compare(one, two, operator.ne)
    first, second = (partial(_names, path, trailer=summed) for path, summed in sides)
    yield from _sorted(_told(gone, was, first, second))


def diff_keys(before: Path, live: Iterable[LiveKey], *, trailer: bool = True) -> Iterator[Change]:
    """What was created, deleted and changed since a snapshot, by kind, namespace and name.

    Values of a live etcd are not read: a key is changed when its revision is newer than that of the snapshot. Only
    keys that begin with `/` are compared; the rest is as for `diff`.
    """
    secret, kept = secrets.token_bytes(16), [(each.key, each.mod_revision) for each in live]
    names = partial(_names, before, trailer=trailer, prefix=b"/")
    first, second = (_Index(((key, at, at) for key, at in each), secret) for each in (names(), kept))
    gone, was = _compare(first, second, operator.lt)
    yield from _sorted(_told(gone, was, names, lambda: kept))


def _names(path: Path, *, trailer: bool, prefix: bytes = b"") -> Iterator[tuple[bytes, int]]:
    return ((entry.key, entry.mod_revision) for entry in entries(path, trailer=trailer, prefix=prefix))


def _hash(content: bytes, secret: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8, key=secret).digest(), "little", signed=True)


class _Index:
    """Keys as numbers, in parts, so that no more than one part has to be a dictionary at a time."""

    def __init__(self, rows: _Rows, secret: bytes) -> None:
        self.marks, self.revisions, self.values = ([array("q") for _ in range(_PARTS)] for _ in range(3))
        self.places = [array("I") for _ in range(_PARTS)]
        self.count = 0
        for key, revision, value in rows:
            mark = _hash(key, secret)
            part = mark & (_PARTS - 1)
            self.marks[part].append(mark)
            self.revisions[part].append(revision)
            self.values[part].append(value)
            self.places[part].append(self.count)
            self.count += 1


def _compare(before: _Index, after: _Index, differ: Callable[[int, int], bool]) -> tuple[bytearray, array[int]]:
    """What differs, by the places of keys.

    Returns:
        For each key before 1 when it is gone; for each one after its revision before when it differs, `_NEW` when
        there was none, 0 when it is the same.
    """
    gone, was = bytearray(before.count), array("q", bytes(8 * after.count))
    for part in range(_PARTS):
        known = {mark: at for at, mark in enumerate(before.marks[part])}
        values, revisions = before.values[part], before.revisions[part]
        for mark, value, place in zip(after.marks[part], after.values[part], after.places[part], strict=True):
            at = known.pop(mark, None)
            if at is None:
                was[place] = _NEW
            elif differ(values[at], value):
                was[place] = max(1, revisions[at])
        for at in known.values():
            gone[before.places[part][at]] = 1
    return gone, was


def _told(gone: bytearray, was: array[int], before: _Names, after: _Names) -> Iterator[tuple[bytes, int, int]]:
    """Key, revision before and after of each that differs; a side of which nothing has to be told is not read again."""
    if any(gone):
        yield from ((key, max(1, revision), 0) for key, revision, _ in _marked(gone, before()))
    if any(was):
        yield from ((key, max(0, old), max(1, revision)) for key, revision, old in _marked(was, after()))


def _marked(marks: bytearray | array[int], keys: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int, int]]:
    try:
        for (key, revision), mark in zip(keys, marks, strict=True):
            if mark:
                yield key, revision, mark
    except ValueError as err:
        raise SnapshotInvalid("a snapshot was changed while it was read", remedy="compare again") from err


def _sorted(rows: Iterator[tuple[bytes, int, int]]) -> Iterator[Change]:
    """Differences by kind, namespace and name. They are on disk meanwhile, for nobody knows how many there are.

    Source: SQLite: a database without a name is a file in `$TMPDIR` or `/var/tmp` once it outgrows its cache, which
    nobody else can open.
    """
    try:
        with contextlib.closing(sqlite3.connect("")) as store:
            store.execute(f"PRAGMA cache_size = -{_SORT_KIB}")
            store.execute("CREATE TABLE difference (kind, namespace, name, key BLOB, before, after)")
            named = ((parse_key(key), key, before, after) for key, before, after in rows)
            store.executemany(
                "INSERT INTO difference VALUES (?, ?, ?, ?, ?, ?)",
                ((k.kind, k.namespace, k.name, key, before, after) for k, key, before, after in named),
            )
            ordered = "SELECT key, before, after FROM difference ORDER BY kind, namespace, name, key"
            for key, before, after in store.execute(ordered):
                yield Change(parse_key(key), before, after)
    except sqlite3.Error as err:
        raise BackupError(
            f"what differs could not be sorted on disk: {err}", remedy="make room in /var/tmp, or set TMPDIR elsewhere"
        ) from err
