"""The documents of the `etcd` commands; see `report.shapes`."""

from __future__ import annotations

from orchestrator.report.shapes import Shape


class EtcdMemberShape(Shape):
    """A member, as the cluster lists it and as it answered."""

    id: str
    name: str
    node: str
    health: str
    learner: bool
    leader: bool
    version: str
    storage_version: str
    peer_urls: list[str]
    client_urls: list[str]
    db_size_bytes: int | None
    in_use_bytes: int | None
    quota_bytes: int | None
    revision: int | None
    raft_index: int | None
    raft_term: int | None


class EtcdHostShape(Shape):
    """A host with a member."""

    node: str
    how: str
    listen_client_urls: list[str]
    listen_peer_urls: list[str]
    cert_file: str
    key_file: str
    ca_file: str
    peer_cert_file: str
    peer_key_file: str
    peer_ca_file: str
    data_dir: str
    wal_dir: str
    mount: bool
    free_bytes: int | None
    size_bytes: int | None
    tools: list[str]
    latency_s: float | None
    sync_s: float | None
    commit_s: float | None
    defragmented: str | None


class EtcdStatus(Shape):
    """The result of `etcd status`."""

    api_version: str
    kind: str
    read_at: str
    cluster: str
    external: str
    alarms: list[str]
    troubles: list[str]
    members: list[EtcdMemberShape]
    hosts: list[EtcdHostShape]


class PlaceShape(Shape):
    """Where a snapshot is."""

    url: str
    wrong: str
    verified: str


class CopyShape(Shape):
    """A copy that was read whole, or should have been."""

    url: str
    there: bool
    wrong: str
    recovery_set: str | None


class DrillShape(Shape):
    """The last rehearsal of a restore."""

    at: str
    ok: bool
    where: str
    text: str


class SnapshotShape(Shape):
    """A snapshot."""

    name: str
    at: str
    reason: str
    run: str | None
    cluster: str
    authority: str
    node: str
    etcd_version: str
    kubernetes_version: str
    revision: int
    keys: int
    size_bytes: int
    stored_size_bytes: int
    sha256: str
    encrypted: bool
    recovery_set: bool
    members: list[str]
    pin: str
    verified: str
    drill: DrillShape | None
    places: list[PlaceShape]


class UnreadableShape(Shape):
    """A destination, or a record at one, that could not be read."""

    where: str
    why: str


class SnapshotList(Shape):
    """The result of `etcd list`, and of `etcd backup` for the one that was taken."""

    api_version: str
    kind: str
    read_at: str
    snapshots: list[SnapshotShape]
    unreadable: list[UnreadableShape]
    strays: list[str]


class SnapshotVerified(Shape):
    """The result of `etcd verify`."""

    api_version: str
    kind: str
    where: str
    size_bytes: int
    sha256: str
    revision: int
    compact_revision: int
    keys: int
    leases: int
    storage_version: str
    members: list[str]
    alarms: list[str]
    prefixes: dict[str, int]
    copies: list[CopyShape]


class JudgedShape(Shape):
    """A snapshot and what the policy says of it."""

    where: str
    name: str
    at: str
    keep: bool
    rules: list[str]


class SnapshotsPruned(Shape):
    """The result of `etcd prune`."""

    api_version: str
    kind: str
    dry_run: bool
    snapshots: list[JudgedShape]


class ApiServerShape(Shape):
    """What an API server that was started on a snapshot had."""

    version: str
    start_s: float
    read_s: float
    objects: int
    counts: dict[str, int]
    unread: dict[str, str]


class DrillResult(Shape):
    """The result of `etcd drill`."""

    api_version: str
    kind: str
    snapshot: str
    where: str
    etcd_version: str
    ok: bool
    wrong: list[str]
    restore_s: float
    start_s: float
    revision: int
    hash: int
    member_hash: int | None
    incomparable: str
    counts: dict[str, int]
    api_server: ApiServerShape | None
