"""What is in a snapshot and what differs between two, for people and programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.report import API_VERSION
from orchestrator.report.shapes import Shape
from orchestrator.report.text import bullets, columns, count, names, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.backup.contents import Census, Change, Key, Kind
    from orchestrator.backup.snapshot import Snapshot

#: Lines of a table before it says how many more there are.
MOST = 100
WHAT = ("created", "deleted", "changed")

# ---- documents ------------------------------------------------------------------------------------------------


class KindShape(Shape):
    """The objects of one kind. `group` is empty for the core group, `namespaces` has "" for those without one."""

    kind: str
    group: str
    resource: str
    objects: int
    size_bytes: int
    encrypted: int
    namespaces: dict[str, int]


class EncryptionShape(Shape):
    """With what values are encrypted at rest."""

    provider: str
    version: str
    key: str
    objects: int


class LargeShape(Shape):
    """A large object."""

    kind: str
    namespace: str | None
    name: str
    size_bytes: int


class SnapshotContents(Shape):
    """The result of `etcd verify --deep`."""

    api_version: str
    kind: str
    where: str
    size_bytes: int
    sha256: str
    revision: int
    compact_revision: int
    objects: int
    objects_size_bytes: int
    kinds: list[KindShape]
    forms: dict[str, int]
    encryption: list[EncryptionShape]
    custom_resources: dict[str, int]
    largest: list[LargeShape]


class SideShape(Shape):
    """One of the two that were compared; `live` is true for an etcd that runs."""

    where: str
    live: bool
    revision: int


class KindChangesShape(Shape):
    """How many objects of a kind differ."""

    kind: str
    created: int
    deleted: int
    changed: int


class ChangeShape(Shape):
    """An object that differs. A revision is null where the object is not."""

    change: str
    kind: str
    group: str
    resource: str
    namespace: str | None
    name: str
    before_revision: int | None
    after_revision: int | None


class SnapshotDiff(Shape):
    """The result of `etcd diff`."""

    api_version: str
    kind: str
    before: SideShape
    after: SideShape
    created: int
    deleted: int
    changed: int
    routine: int
    notes: list[str]
    kinds: list[KindChangesShape]
    changes: list[ChangeShape]


#: Every document of this module by its kind.
KINDS: dict[str, type[Shape]] = {"SnapshotContents": SnapshotContents, "SnapshotDiff": SnapshotDiff}


# ---- what is in it --------------------------------------------------------------------------------------------


def contents(where: str, found: Snapshot, census: Census) -> str:
    """A snapshot that was read whole, and all that is in it by kind, most objects first."""
    ordered = sorted(census.kinds, key=lambda kind: (-kind.objects, kind.kind))
    rows = [
        (each.kind, str(each.objects), _kb(each.size_bytes), _sealed(each), _places(each.namespaces))
        for each in ordered
    ]
    lines = [
        f"{where}: whole",
        f"  revision      {found.revision}, compacted at {found.compact_revision or 'none'}",
        f"  objects       {census.objects} of {count(len(census.kinds), 'kind')}, {_kb(census.size_bytes)}",
        *_encryption(census),
    ]
    if census.groups:
        groups = [f"{group} {number}" for group, number in census.groups.items()]
        lines += wrapped(f"  custom        {names(groups, 10)}", 16)
    lines += ["", *columns(("KIND", "OBJECTS", "SIZE", "ENCRYPTED", "NAMESPACES"), rows)]
    large = [(each.kind, each.namespace or "-", each.name, _kb(size)) for each, size in census.largest]
    return "\n".join([*lines, "", *columns(("LARGEST", "NAMESPACE", "NAME", "SIZE"), large)])


def _kb(size_bytes: int) -> str:
    """Of objects, which are small: `0.4 kB`, `12.0 MB`."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def _sealed(kind: Kind) -> str:
    if kind.encrypted in (0, kind.objects):
        return "all" if kind.encrypted else "no"
    return f"{kind.encrypted} of {kind.objects}"


def _places(namespaces: Mapping[str, int]) -> str:
    most = sorted(((name, number) for name, number in namespaces.items() if name), key=lambda e: (-e[1], e[0]))
    return names([f"{name} {number}" for name, number in most], 3) or "-"


def _encryption(census: Census) -> list[str]:
    """With what values are encrypted, and that Secrets are not where they are not all."""
    lines = [
        f"  encrypted     {count(number, 'value')} by {cipher.provider} {cipher.version}, key {cipher.key}"
        for cipher, number in census.ciphers.items()
    ]
    if not lines:
        return ["  encrypted     nothing: whoever has this file can read all of it"]
    lines += [
        f"  ATTENTION     {each.objects - each.encrypted} of {count(each.objects, 'Secret')} not encrypted"
        for each in census.kinds
        if each.kind == "Secret" and each.encrypted < each.objects
    ]
    return lines


def contents_document(where: str, found: Snapshot, census: Census) -> SnapshotContents:
    """The result of `etcd verify --deep`."""
    return SnapshotContents(
        api_version=API_VERSION,
        kind="SnapshotContents",
        where=where,
        size_bytes=found.size_bytes,
        sha256=found.sha256,
        revision=found.revision,
        compact_revision=found.compact_revision,
        objects=census.objects,
        objects_size_bytes=census.size_bytes,
        kinds=[
            KindShape(k.kind, k.group, k.resource, k.objects, k.size_bytes, k.encrypted, dict(k.namespaces))
            for k in census.kinds
        ],
        forms=dict(census.forms),
        encryption=[EncryptionShape(c.provider, c.version, c.key, number) for c, number in census.ciphers.items()],
        custom_resources=dict(census.groups),
        largest=[LargeShape(k.kind, k.namespace or None, k.name, size) for k, size in census.largest],
    )


# ---- what differs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that were compared.

    Attributes:
        where: A file, a name and its destination, or a node.
        live: It is an etcd that runs.
    """

    where: str
    revision: int
    live: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the differences is wanted.

    Attributes:
        namespace: Of objects; "" for any.
        kind: As `Pod`, `pods`, `widgets.example.com`, in any case; "" for any.
        routine: Those too that come by themselves all the time.
        most: How many are kept for a list; None for all.
    """

    namespace: str = ""
    kind: str = ""
    routine: bool = False
    most: int | None = MOST

    def takes(self, key: Key) -> bool:
        """The object is wanted."""
        known = {each.lower() for each in (key.kind, key.resource, f"{key.resource}.{key.group}")}
        return self.namespace in ("", key.namespace) and (not self.kind or self.kind.lower() in known)


@dataclass(frozen=True, slots=True)
class Differences:
    """Differences, counted.

    Attributes:
        listed: The first of them.
        kinds: Kind -> how many of each of `WHAT`.
        routine: How many came by themselves and are neither listed nor counted.
    """

    listed: tuple[Change, ...]
    kinds: Mapping[str, Counter[str]]
    routine: int

    def total(self, what: str) -> int:
        """How many of all kinds."""
        return sum(each[what] for each in self.kinds.values())


def counted(changes: Iterable[Change], wanted: Wanted) -> Differences:
    """Differences as they come; no more of them are kept than are listed."""
    listed: list[Change] = []
    kinds: dict[str, Counter[str]] = {}
    routine = 0
    for each in changes:
        if not wanted.takes(each.key):
            continue
        if each.routine and not wanted.routine:
            routine += 1
            continue
        kinds.setdefault(each.key.kind, Counter())[each.what] += 1
        if wanted.most is None or len(listed) < wanted.most:
            listed.append(each)
    return Differences(tuple(listed), kinds, routine)


def differences(before: Side, after: Side, found: Differences, notes: Sequence[str] = ()) -> str:
    """What differs: how many of each kind, then which."""
    lines = [f"before  {before.where}, revision {before.revision}", f"after   {after.where}, revision {after.revision}"]
    lines += ["", "ATTENTION", *bullets(notes)] if notes else []
    totals = [f"{found.total(what)} {what}" for what in WHAT]
    lines += ["", ", ".join(totals) if found.kinds else "nothing differs"]
    if found.kinds:
        kinds = [(kind, *(str(each[what] or "-") for what in WHAT)) for kind, each in found.kinds.items()]
        lines += ["", *columns(("KIND", *(what.upper() for what in WHAT)), kinds)]
        rows = columns(("CHANGE", "KIND", "NAMESPACE", "NAME", "REVISION"), [_row(each) for each in found.listed])
        more = sum(each.total() for each in found.kinds.values()) - len(found.listed)
        lines += ["", *rows, *([f"... and {more} more (--all shows them)"] if more else [])]
    if found.routine:
        why = "leases renewed, events that came or went"
        lines += ["", *wrapped(f"not shown: {count(found.routine, 'difference')} of routine, {why} (--all)", 2)]
    return "\n".join(lines)


def _row(change: Change) -> tuple[str, ...]:
    key = change.key
    revisions = f"{change.before or '-'} -> {change.after or '-'}"
    return change.what, key.kind, key.namespace or "-", key.name, revisions


def differences_document(before: Side, after: Side, found: Differences, notes: Sequence[str] = ()) -> SnapshotDiff:
    """The result of `etcd diff`."""
    return SnapshotDiff(
        api_version=API_VERSION,
        kind="SnapshotDiff",
        before=SideShape(before.where, before.live, before.revision),
        after=SideShape(after.where, after.live, after.revision),
        created=found.total("created"),
        deleted=found.total("deleted"),
        changed=found.total("changed"),
        routine=found.routine,
        notes=list(notes),
        kinds=[KindChangesShape(kind, *(each[what] for what in WHAT)) for kind, each in found.kinds.items()],
        changes=[_change(each) for each in found.listed],
    )


def _change(change: Change) -> ChangeShape:
    key = change.key
    return ChangeShape(
        change=change.what,
        kind=key.kind,
        group=key.group,
        resource=key.resource,
        namespace=key.namespace or None,
        name=key.name,
        before_revision=change.before or None,
        after_revision=change.after or None,
    )
