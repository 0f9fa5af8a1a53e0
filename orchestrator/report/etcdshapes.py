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
