"""Snapshots, for people and programs: what was taken, what there is, what was proven, what goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cluster.situation import size
from orchestrator.report import API_VERSION, etcdshapes
from orchestrator.report.bodies import iso
from orchestrator.report.text import ago, bullets, columns, count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.backup.catalogue import Catalogue, Checked, Held
    from orchestrator.backup.drilled import ApiServer, Drilled
    from orchestrator.backup.records import Record
    from orchestrator.backup.retention import Judged
    from orchestrator.backup.snapshot import Snapshot

#: Letters that a table shows of an authority's sum, and of a pin.
_CA, _PIN = 8, 8
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


def merged(catalogues: Sequence[Catalogue]) -> list[tuple[Record, dict[str, Held]]]:
    """Each snapshot once, newest first, with its copies by their destinations."""
    found: dict[tuple[str, str], tuple[Record, dict[str, Held]]] = {}
    for catalogue in catalogues:
        for held in catalogue.held:
            known = found.setdefault((held.record.name, held.record.sha256), (held.record, {}))
            known[1][held.url] = held
    return sorted(found.values(), key=lambda each: (-each[0].at, each[0].name))


def listing(catalogues: Sequence[Catalogue], failed: Sequence[tuple[str, str]], now: float) -> str:
    """Snapshots of all destinations; then what could not be read."""
    every = merged(catalogues)
    places = {url: str(number) for number, url in enumerate(dict.fromkeys(u for _, held in every for u in held), 1)}
    lines = columns(_HEAD, [_row(record, held, places, now) for record, held in every]) if every else ["no snapshots"]
    lines += ["", *(f"{number}  {url}" for url, number in places.items())] if places else []
    wrong = [f"{h.url}: {h.wrong}" for _, held in every for h in held.values() if h.wrong]
    wrong += [f"{c.url}/{name} is no record: {why}" for c in catalogues for name, why in c.unread]
    wrong += [f"{c.url}: {name} belongs to no record" for c in catalogues for name in c.strays]
    wrong += [f"{url} could not be read: {why}" for url, why in failed]
    return "\n".join([*lines, *(["", "ATTENTION", *bullets(wrong)] if wrong else [])])


_HEAD = ("NAME", "AGE", "CA", "SIZE", "ETCD", "REASON", "SECRET", "PIN", "VERIFIED", "DRILL", "AT")


def _row(record: Record, held: Mapping[str, Held], places: Mapping[str, str], now: float) -> tuple[str, ...]:
    """One line; destinations are told by their numbers, for their names would make it too wide."""
    drill = "-" if record.drill is None else f"{'ok' if record.drill.ok else 'FAILED'} {ago(now - record.drill.at)}"
    return (
        record.name,
        ago(now - record.at),
        record.authority[:_CA] or "-",
        size(record.size_bytes),
        record.etcd,
        record.reason,
        "yes" if record.encrypted else "no",
        record.pin[:_PIN] or "-",
        ago(now - _proven_at(held)),
        drill,
        ", ".join(f"{places[url]}{' (DAMAGED)' if each.wrong else ''}" for url, each in held.items()),
    )


def _proven_at(held: Mapping[str, Held]) -> float:
    """When a copy was last known to be whole."""
    return max(each.record.proven_at for each in held.values())


def list_document(
    catalogues: Sequence[Catalogue], failed: Sequence[tuple[str, str]], now: float
) -> etcdshapes.SnapshotList:
    """The result of `etcd list`."""
    return etcdshapes.SnapshotList(
        api_version=API_VERSION,
        kind="SnapshotList",
        read_at=iso(now) or "",
        snapshots=[_shape(record, held) for record, held in merged(catalogues)],
        unreadable=[etcdshapes.UnreadableShape(url, why) for url, why in failed]
        + [etcdshapes.UnreadableShape(f"{c.url}/{name}", why) for c in catalogues for name, why in c.unread],
        strays=[f"{c.url}/{name}" for c in catalogues for name in c.strays],
    )


def _shape(record: Record, held: Mapping[str, Held]) -> etcdshapes.SnapshotShape:
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
        verified=iso(_proven_at(held)) or "",
        drill=None if record.drill is None else _drill(record),
        places=[etcdshapes.PlaceShape(url, h.wrong, iso(h.record.proven_at) or "") for url, h in held.items()],
    )


def _drill(record: Record) -> etcdshapes.DrillShape | None:
    drill = record.drill
    return etcdshapes.DrillShape(iso(drill.at) or "", drill.ok, drill.where, drill.text) if drill else None


# ---- proven -----------------------------------------------------------------------------------------------------


def verified(where: str, found: Snapshot, copies: Sequence[Checked] = ()) -> str:
    """A snapshot that was read whole, and each of its copies."""
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
    lines += [f"  {'at' if len(copies) > 1 else 'recovery set':12}  {text}" for text in _copies(copies)]
    largest = sorted(found.prefixes.items(), key=lambda each: (-each[1], each[0]))
    lines += ["", *columns(("KEYS UNDER", "LIVE"), [(name, str(count)) for name, count in largest[:_PREFIXES]])]
    if len(largest) > _PREFIXES:
        lines.append(f"... and {len(largest) - _PREFIXES} more (-o json has them all)")
    return "\n".join(lines)


def _copies(copies: Sequence[Checked]) -> list[str]:
    """A line for each destination; of an only one what the line above does not tell."""
    told = []
    for copy in copies:
        if not copy.whole:
            told.append(f"{copy.url}: {f'NOT WHOLE, {copy.wrong}' if copy.there else 'no copy there'}")
            continue
        recovery = {None: "none", "": "whole"}.get(copy.recovery, f"NOT ENOUGH FOR A REBUILD, {copy.recovery}")
        told.append(recovery if len(copies) == 1 else f"{copy.url}: whole; recovery set: {recovery}")
    return told


def verified_document(where: str, found: Snapshot, copies: Sequence[Checked] = ()) -> etcdshapes.SnapshotVerified:
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
        copies=[etcdshapes.CopyShape(c.url, c.there, c.wrong, c.recovery) for c in copies],
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
