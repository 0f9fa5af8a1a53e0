"""What is known of a snapshot beside the snapshot: its record, a JSON file of the same name. Pure.

A destination holds `NAME.db` (with `.zst` when it is compressed, then `.age` when it is encrypted), `NAME.json`, which
is this record, and, where it was wanted, `NAME.recovery.tar` with the same endings: what new machines need.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime

import msgspec

from orchestrator.errors import SnapshotInvalid

#: The shape of the record; one with a higher number is not read.
SHAPE = 1
RECORD = ".json"
DATA = ".db"
RECOVERY = ".recovery.tar"
#: How a file was stored: plain, compressed, encrypted.
ENDINGS = ("", ".zst", ".age", ".zst.age")
#: Why a snapshot was taken: those before an upgrade stay until their run has ended well.
REASONS = ("manual", "scheduled", "pre-upgrade", "pre-restore", "pre-replace")

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,80}[a-z0-9])?-[0-9]{8}T[0-9]{6}Z-r[0-9]+")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One file as it is stored.

    Attributes:
        file: Its name.
        size_bytes: Of it.
        sha256: Of it, in hex.
    """

    file: str
    size_bytes: int
    sha256: str


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A member of etcd when the snapshot was taken. `id` in hex, as etcd prints it."""

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...] = ()


class Hashed(msgspec.Struct, frozen=True, kw_only=True):
    """What the member that a snapshot was taken of had for the hash of its keys, at the snapshot's revision.

    Attributes:
        value: As etcd tells it.
        compact_revision: What it had compacted by then: keys are hashed from there on.
    """

    value: int
    compact_revision: int


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """The last rehearsal of a restore.

    Attributes:
        at: Seconds since the epoch.
        ok: It went well.
        where: The machine.
        text: What was seen.
    """

    at: float
    ok: bool
    where: str
    text: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot.

    Attributes:
        name: `CLUSTER-TIME-rREVISION`; files are named by it.
        at: When it was taken, in seconds since the epoch.
        reason: One of `REASONS`.
        run: The run that took it; "" without one.
        cluster: The cluster's name, of kubeadm's configuration.
        cluster_id: etcd's, in hex.
        authority: SHA-256 of the certificate of the cluster's authority, in hex.
        node: Where it was taken.
        etcd: The version of that member; `storage` of its data, "" where it does not tell.
        kubernetes: The version of the API server there.
        revision, raft_index, raft_term: etcd's, then; `compact_revision` is 0 when nothing was compacted.
        keys: Live ones.
        prefixes: `/registry/pods` -> live keys under it.
        alarms: In words; they survive a restore.
        size_bytes, sha256: Of the plain snapshot.
        data: As it is stored.
        recovery: What new machines need; None without it.
        recipients: age's, public; none when it is not encrypted.
        tool: The version of this tool.
        pin: Why it is kept for ever; "" when it is not.
        drill: The last one; None without one.
        verified: When the copy beside this record was last read whole since it was stored; 0.0 when it was not.
        hashed: None where the member did not tell it of this revision.
    """

    name: str
    at: float
    reason: str
    cluster: str
    cluster_id: str
    authority: str
    node: str
    etcd: str
    kubernetes: str
    revision: int
    keys: int
    size_bytes: int
    sha256: str
    data: Part
    members: tuple[Peer, ...]
    shape: int = SHAPE
    run: str = ""
    storage: str = ""
    compact_revision: int = 0
    raft_index: int = 0
    raft_term: int = 0
    prefixes: dict[str, int] = {}
    alarms: tuple[str, ...] = ()
    recovery: Part | None = None
    recipients: tuple[str, ...] = ()
    tool: str = ""
    pin: str = ""
    drill: Drill | None = None
    hashed: Hashed | None = None
    verified: float = 0.0

    @property
    def encrypted(self) -> bool:
        """Nobody reads it without an identity."""
        return bool(self.recipients)

    @property
    def proven_at(self) -> float:
        """When this copy was last known to be whole: each is read whole when it is taken, and as it is stored."""
        return max(self.at, self.verified)

    @property
    def files(self) -> tuple[Part, ...]:
        """All that is stored of it, but for the record."""
        return (self.data, self.recovery) if self.recovery else (self.data,)


def named(cluster: str, at: float, revision: int) -> str:
    """The name of a snapshot: what sorts by time within a cluster, and is a file name everywhere."""
    safe = re.sub(r"[^a-z0-9.-]+", "-", cluster.lower()).strip(".-")[:80].strip(".-") or "cluster"
    return f"{safe}-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}-r{revision}"


def encode(record: Record) -> bytes:
    """The record as JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


class _Shape(msgspec.Struct):
    """What every version of a record has."""

    shape: int = SHAPE
    tool: str = ""


def decode(content: bytes, file: str, where: str) -> Record:
    """A record.

    Args:
        content: Of its file.
        file: The name of that file: those that it speaks of begin with it, so that none can speak of another's.
        where: The destination, for people.

    Raises:
        SnapshotInvalid: It is none, or of a later version of this tool.
    """
    where = f"{where}/{file}"
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        seen = msgspec.json.decode(content, type=_Shape)
        if seen.shape > SHAPE:
            raise SnapshotInvalid(
                f"{where} was written by a later version of orchestrator ({seen.tool})", remedy="upgrade orchestrator"
            )
    try:
        record = msgspec.json.decode(content, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise SnapshotInvalid(f"{where} is no record of a snapshot: {err}", remedy="see what wrote that file") from err
    stem = file.removesuffix(RECORD)
    if not _NAME.fullmatch(record.name) or any(
        part.file not in {stem + kind + end for end in ENDINGS} or part.size_bytes < 0
        for part, kind in zip(record.files, (DATA, RECOVERY), strict=False)
    ):
        raise SnapshotInvalid(f"{where} names files that it may not", remedy="see what wrote that file")
    return record
