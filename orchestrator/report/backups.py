"""Snapshots, for people and programs: what was taken, what there is, what was proven, what goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster.situation import size
from orchestrator.report import API_VERSION, etcdshapes
from orchestrator.report.bodies import iso
from orchestrator.report.text import ago, bullets, columns, count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.backup.catalogue import Catalogue
    from orchestrator.backup.drilled import ApiServer, Drilled
    from orchestrator.backup.records import Record
    from orchestrator.backup.retention import Judged
    from orchestrator.backup.snapshot import Snapshot

#: Prefixes of keys that a table shows.
_PREFIXES = 12


# ---- taken ------------------------------------------------------------------------------------------------------


def taken(record: Record, urls: Sequence[str]) -> str:
    """A line of a snapshot that was just taken."""
    kind = "encrypted" if record.encrypted else "not encrypted"
    more = ", with what new machines need" if record.recovery else ""
    return (
        f"{record.name}: revision {record.revision}, {record.keys} keys, {size(record.size_bytes)} "
        f"({size(record.data.size_bytes)} stored, {kind}{more}), verified; at {', '.join(urls)}"
    )


# ---- listed -----------------------------------------------------------------------------------------------------


def merged(catalogues: Sequence[Catalogue]) -> list[tuple[Record, dict[str, str]]]:
    """Each snapshot once, newest first, with its destinations and what is wrong at each."""
    found: dict[tuple[str, str], tuple[Record, dict[str, str]]] = {}
    for catalogue in catalogues:
        for held in catalogue.held:
            known = found.setdefault((held.record.name, held.record.sha256), (held.record, {}))
            known[1][held.url] = held.wrong
    return sorted(found.values(), key=lambda each: (-each[0].at, each[0].name))


def listing(catalogues: Sequence[Catalogue], failed: Sequence[tuple[str, str]], now: float) -> str:
    """Snapshots of all destinations; then what could not be read."""
    rows = [_row(record, urls, now) for record, urls in merged(catalogues)]
    lines = columns(_HEAD, rows) if rows else ["no snapshots"]
    wrong = [f"{url}: {why}" for _, urls in merged(catalogues) for url, why in urls.items() if why]
    wrong += [f"{c.url}/{name} is no record: {why}" for c in catalogues for name, why in c.unread]
    wrong += [f"{c.url}: {name} belongs to no record" for c in catalogues for name in c.strays]
    wrong += [f"{url} could not be read: {why}" for url, why in failed]
    return "\n".join([*lines, *(["", "ATTENTION", *bullets(wrong)] if wrong else [])])


_HEAD = ("NAME", "AGE", "REVISION", "SIZE", "ETCD", "REASON", "SECRET", "PIN", "DRILL", "AT")


def _row(record: Record, urls: Mapping[str, str], now: float) -> tuple[str, ...]:
    drill = "-" if record.drill is None else f"{'ok' if record.drill.ok else 'FAILED'} {ago(now - record.drill.at)} ago"
    return (
        record.name,
        ago(now - record.at),
        str(record.revision),
        size(record.size_bytes),
        record.etcd,
        record.reason,
        "yes" if record.encrypted else "no",
        record.pin[:20] or "-",
        drill,
        ", ".join(f"{url}{' (DAMAGED)' if wrong else ''}" for url, wrong in urls.items()),
    )


def list_document(
    catalogues: Sequence[Catalogue], failed: Sequence[tuple[str, str]], now: float
) -> etcdshapes.SnapshotList:
    """The result of `etcd list`."""
    return etcdshapes.SnapshotList(
        api_version=API_VERSION,
        kind="SnapshotList",
        read_at=iso(now) or "",
        snapshots=[_shape(record, urls) for record, urls in merged(catalogues)],
        unreadable=[etcdshapes.UnreadableShape(url, why) for url, why in failed]
        + [etcdshapes.UnreadableShape(f"{c.url}/{name}", why) for c in catalogues for name, why in c.unread],
        strays=[f"{c.url}/{name}" for c in catalogues for name in c.strays],
    )


def _shape(record: Record, urls: Mapping[str, str]) -> etcdshapes.SnapshotShape:
    return etcdshapes.SnapshotShape(
        name=record.name,
        at=iso(record.at) or "",
        reason=record.reason,
        run=record.run or None,
        cluster=record.cluster,
        authority=record.authority,
        node=record.node,
        etcd_version=record.etcd,
        kubernetes_version=record.kubernetes,
        revision=record.revision,
        keys=record.keys,
        size_bytes=record.size_bytes,
        stored_size_bytes=record.data.size_bytes,
        sha256=record.sha256,
        encrypted=record.encrypted,
        recovery_set=record.recovery is not None,
        members=[peer.name for peer in record.members],
        pin=record.pin,
        drill=None if record.drill is None else _drill(record),
        places=[etcdshapes.PlaceShape(url, wrong) for url, wrong in urls.items()],
    )


def _drill(record: Record) -> etcdshapes.DrillShape | None:
    drill = record.drill
    return etcdshapes.DrillShape(iso(drill.at) or "", drill.ok, drill.where, drill.text) if drill else None


# ---- proven -----------------------------------------------------------------------------------------------------


def verified(where: str, found: Snapshot) -> str:
    """A snapshot that was read whole."""
    names = ", ".join(m.name or m.id for m in found.members) or "none known"
    lines = [
        f"{where}: whole",
        f"  size          {size(found.size_bytes)}, sha256 {found.sha256}",
        f"  revision      {found.revision}, compacted at {found.compact_revision or 'none'}",
        f"  keys          {found.keys} live, {found.leases} leases",
        f"  data of       etcd {found.storage or 'before 3.6'}",
        f"  members       {names}",
    ]
    lines += [f"  ALARM         {alarm}" for alarm in found.alarms]
    largest = sorted(found.prefixes.items(), key=lambda each: (-each[1], each[0]))
    lines += ["", *columns(("KEYS UNDER", "LIVE"), [(name, str(count)) for name, count in largest[:_PREFIXES]])]
    if len(largest) > _PREFIXES:
        lines.append(f"... and {len(largest) - _PREFIXES} more (-o json has them all)")
    return "\n".join(lines)


def verified_document(where: str, found: Snapshot) -> etcdshapes.SnapshotVerified:
    """The result of `etcd verify`."""
    return etcdshapes.SnapshotVerified(
        api_version=API_VERSION,
        kind="SnapshotVerified",
        where=where,
        size_bytes=found.size_bytes,
        sha256=found.sha256,
        revision=found.revision,
        compact_revision=found.compact_revision,
        keys=found.keys,
        leases=found.leases,
        storage_version=found.storage,
        members=[m.name or m.id for m in found.members],
        alarms=list(found.alarms),
        prefixes=dict(sorted(found.prefixes.items())),
    )


# ---- pruned -----------------------------------------------------------------------------------------------------


def pruned(url: str, judged: Sequence[Judged], now: float, *, dry_run: bool) -> str:
    """Which rule keeps what, and what goes."""
    verb = "would go" if dry_run else "removed"
    rows = [(j.record.name, ago(now - j.record.at), "stays" if j.keep else verb, "; ".join(j.rules)) for j in judged]
    return "\n".join([url, *columns(("NAME", "AGE", "", "WHY"), rows)] if rows else [url, "no snapshots"])


def pruned_document(found: Sequence[tuple[str, Sequence[Judged]]], *, dry_run: bool) -> etcdshapes.SnapshotsPruned:
    """The result of `etcd prune`."""
    return etcdshapes.SnapshotsPruned(
        api_version=API_VERSION,
        kind="SnapshotsPruned",
        dry_run=dry_run,
        snapshots=[
            etcdshapes.JudgedShape(url, j.record.name, iso(j.record.at) or "", j.keep, list(j.rules))
            for url, judged in found
            for j in judged
        ],
    )


# ---- rehearsed --------------------------------------------------------------------------------------------------


def drill(found: Drilled) -> str:
    """What became of a drill."""
    counts = [(name, str(number)) for name, number in found.counts.items()]
    lines = [
        f"{found.name}: {'FAILED' if found.wrong else 'it restores'}, tried on {found.where}",
        f"  restored in   {found.restore_s:.1f} s, etcd {found.etcd} answered after {found.start_s:.1f} s more",
        f"  revision      {found.revision}, hash {found.hash:x}{_hash_of(found)}",
        *(_api_server(found.server) if found.server else ()),
        *(f"  WRONG         {text}" for text in found.wrong),
    ]
    return "\n".join([*lines, "", *columns(("KEYS UNDER", "LIVE"), counts)] if counts else lines)


def _hash_of(found: Drilled) -> str:
    if found.member_hash is None or not found.incomparable:
        return f" ({found.incomparable or f'{found.member_hash:x} in the member'})"
    return f" ({found.member_hash:x} in the member, not comparable: {found.incomparable})"


def _api_server(server: ApiServer) -> list[str]:
    objects = sum(server.counts.values())
    return [
        f"  API server    {server.version} answered after {server.start_s:.1f} s",
        f"  all read      {objects} objects of {count(len(server.counts), 'kind')} in {server.read_s:.1f} s",
        *(f"  not read      {name}, {why}" for name, why in server.unread.items()),
    ]


def drill_document(found: Drilled) -> etcdshapes.DrillResult:
    """The result of `etcd drill`."""
    return etcdshapes.DrillResult(
        api_version=API_VERSION,
        kind="DrillResult",
        snapshot=found.name,
        where=found.where,
        etcd_version=found.etcd,
        ok=not found.wrong,
        wrong=list(found.wrong),
        restore_s=found.restore_s,
        start_s=found.start_s,
        revision=found.revision,
        hash=found.hash,
        member_hash=found.member_hash,
        incomparable=found.incomparable,
        counts=dict(found.counts),
        api_server=None if found.server is None else _api_server_shape(found.server),
    )


def _api_server_shape(server: ApiServer) -> etcdshapes.ApiServerShape:
    return etcdshapes.ApiServerShape(
        version=server.version,
        start_s=server.start_s,
        read_s=server.read_s,
        objects=sum(server.counts.values()),
        counts=dict(server.counts),
        unread=dict(server.unread),
    )
