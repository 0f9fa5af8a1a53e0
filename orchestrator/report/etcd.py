"""etcd's members and their hosts, for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster.situation import size
from orchestrator.report import API_VERSION, etcdshapes
from orchestrator.report.bodies import iso
from orchestrator.report.text import ago, bullets, columns, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.cluster.etcd import Member
    from orchestrator.cluster.etcdhosts import Etcd, EtcdHost

_LABEL = 14


def table(found: Etcd) -> str:
    """Members, then where everything is on each host."""
    lines = [f"{'cluster':<{_LABEL}}{found.cluster or 'its name is not known'}"]
    if found.external:
        through = f"; asked from {found.through}" if found.through else ""
        lines += wrapped(f"{'etcd':<{_LABEL}}on other machines: {found.external}{through}", _LABEL)
    if not found.facts.members:
        lines.append(f"{'members':<{_LABEL}}{_silent(found)}")
    else:
        lines += ["", "MEMBERS", *columns(_HEAD, (_row(found, m) for m in found.facts.members))]
    attention = [f"{node} could not be asked: {why}" for node, why in found.unreached.items()]
    attention += [f"alarm {alarm}" for alarm in found.facts.alarms] + list(found.troubles)
    if attention:
        lines += ["", "ATTENTION", *bullets(attention)]
    for host in found.hosts.values():
        if host.how:
            lines += ["", *_host(host, found.at)]
    return "\n".join(lines)


def _silent(found: Etcd) -> str:
    """Where etcd is, when none of its members tells."""
    if found.unreached and not found.hosts:
        return "no host could be asked"
    states = (
        ("runs on", [name for name, _ in found.running]),
        ("stopped on", [name for name, host in found.hosts.items() if host.how == "stopped"]),
    )
    told = [f"{what} {', '.join(names)}" for what, names in states if names]
    return "; ".join(["no member answers", *told]) if told else "no member on these hosts"


_HEAD = ("NODE", "MEMBER", "ROLE", "VERSION", "HEALTH", "SIZE", "IN USE", "QUOTA", "RAFT INDEX")


def _row(found: Etcd, member: Member) -> tuple[str, ...]:
    status = found.status_of(member)
    name = f"{member.name or '(never started)'} {member.id:x}"
    health = found.health_of(member) or "well"
    if status is None:
        return (found.node_of(member) or "-", name, "-", "-", health[:60], "-", "-", "-", "-")
    role = "learner" if status.learner else "leader" if status.leader == status.id else "follower"
    quota = size(status.limit_bytes)
    sizes = (size(status.db_size_bytes), size(status.in_use_bytes), quota)
    return (found.node_of(member) or "-", name, role, status.version, health[:60], *sizes, str(status.raft_index))


def _host(host: EtcdHost, at: float) -> Iterator[str]:
    flags, place, manifest = host.flags, host.place, host.manifest
    yield f"{host.node}  ({host.how}{', etcd ' + host.version if host.version else ''})"
    rows = [
        ("process", "none; its manifest is there" if host.how == "stopped" else ""),
        ("image", manifest.image if manifest and host.how == "stopped" else ""),
        ("clients", flags.get("listen-client-urls", "")),
        ("peers", flags.get("listen-peer-urls", "")),
        ("certificate", flags.get("cert-file", "")),
        ("key", flags.get("key-file", "")),
        ("authority", flags.get("trusted-ca-file", "")),
        ("peer's", " ".join(filter(None, (flags.get(f"peer-{n}", "") for n in _PEER_FILES)))),
        ("data", _place(host)),
        ("log", flags.get("wal-dir", "")),
        ("programs", ", ".join(sorted(host.tools)) or ("none: neither etcdctl nor etcdutl" if host.runs else "")),
        ("latency", _latency(host)),
        ("defragmented", _defragmented(host, at)),
    ]
    if place is None and host.how != "stopped":
        rows.append(("", "the data directory cannot be seen"))
    for label, text in rows:
        if text:
            yield from wrapped(f"  {label:<{_LABEL}}{text}", _LABEL + 2)


_PEER_FILES = ("cert-file", "key-file", "trusted-ca-file")


def _place(host: EtcdHost) -> str:
    place = host.place
    if place is None:
        return ""
    mount = "a mount point" if place.mount else f"on {place.disk.mount}"
    free = f"{size(place.disk.free_bytes)} of {size(place.disk.size_bytes)} free"
    return f"{place.path} ({size(place.size_bytes)}, {mount}, {free}; owner {place.owner}, mode {place.mode})"


def _latency(host: EtcdHost) -> str:
    parts = [("an answer", host.took_s), ("a write to the log", host.sync_s), ("a commit", host.commit_s)]
    return ", ".join(f"{what} {value * 1000:.1f} ms" for what, value in parts if value is not None)


def _defragmented(host: EtcdHost, at: float) -> str:
    if host.defragmented_at is not None:
        return f"{ago(at - host.defragmented_at)} ago"
    if not host.runs:
        return ""
    return f"{host.defragmented} times since it started" if host.defragmented else "not known: not since it started"


def document(found: Etcd) -> etcdshapes.EtcdStatus:
    """The result of `etcd status`."""
    return etcdshapes.EtcdStatus(
        api_version=API_VERSION,
        kind="EtcdStatus",
        read_at=iso(found.at) or "",
        cluster=found.cluster,
        external=found.external,
        alarms=list(found.facts.alarms),
        troubles=[f"{node} could not be asked: {why}" for node, why in found.unreached.items()] + list(found.troubles),
        members=[_member(found, m) for m in found.facts.members],
        hosts=[_host_shape(host) for host in found.hosts.values() if host.how],
    )


def _member(found: Etcd, member: Member) -> etcdshapes.EtcdMemberShape:
    status = found.status_of(member)
    return etcdshapes.EtcdMemberShape(
        id=f"{member.id:x}",
        name=member.name,
        node=found.node_of(member),
        health=found.health_of(member),
        learner=member.learner,
        leader=status is not None and status.leader == status.id,
        version=status.version if status else "",
        storage_version=status.storage_version if status else "",
        peer_urls=list(member.peer_urls),
        client_urls=list(member.client_urls),
        db_size_bytes=status.db_size_bytes if status else None,
        in_use_bytes=status.in_use_bytes if status else None,
        quota_bytes=status.limit_bytes if status else None,
        revision=status.revision if status else None,
        raft_index=status.raft_index if status else None,
        raft_term=status.raft_term if status else None,
    )


def _host_shape(host: EtcdHost) -> etcdshapes.EtcdHostShape:
    flags, place = host.flags, host.place
    return etcdshapes.EtcdHostShape(
        node=host.node,
        how=host.how,
        listen_client_urls=_urls(flags.get("listen-client-urls", "")),
        listen_peer_urls=_urls(flags.get("listen-peer-urls", "")),
        cert_file=flags.get("cert-file", ""),
        key_file=flags.get("key-file", ""),
        ca_file=flags.get("trusted-ca-file", ""),
        peer_cert_file=flags.get("peer-cert-file", ""),
        peer_key_file=flags.get("peer-key-file", ""),
        peer_ca_file=flags.get("peer-trusted-ca-file", ""),
        data_dir=place.path if place else flags.get("data-dir", ""),
        wal_dir=flags.get("wal-dir", ""),
        mount=bool(place and place.mount),
        free_bytes=place.disk.free_bytes if place else None,
        size_bytes=place.size_bytes if place else None,
        tools=sorted(host.tools),
        latency_s=host.took_s,
        sync_s=host.sync_s,
        commit_s=host.commit_s,
        defragmented=iso(host.defragmented_at),
    )


def _urls(text: str) -> list[str]:
    return [url for url in text.split(",") if url]
