"""What a restore lost and what it brought back: the state before against the restored one, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import FactUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.backup.contents import Change

#: What became of objects: only the old state has them, only the restored one, both with other contents.
LOST, BACK, DIFFERENT = "lost", "back", "different"
_FATES = {"deleted": LOST, "created": BACK, "changed": DIFFERENT}
#: Names that are kept of each kind in each namespace.
FIRST = 5
#: Names that are kept of nodes and volumes, which are looked at one by one.
MOST = 200
#: Kinds of which only that they came or went is worth telling: kubelets and controllers write them all the time.
_RESTLESS = frozenset({"Node", "Pod", "Endpoints", "EndpointSlice"})


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Objects of one kind in one namespace that became the same.

    Attributes:
        fate: `LOST`, `BACK` or `DIFFERENT`.
        kind: `Pod`; `RESOURCE.GROUP` of a custom resource.
        namespace: "" without one.
        objects: How many.
        names: Of the first few.
    """

    fate: str
    kind: str
    namespace: str
    objects: int
    names: tuple[str, ...]


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison.

    Attributes:
        before: The name of the snapshot of the old state; "" where there is none.
        before_revision: Of it.
        unknown: Why the old state is not known; "" where it is.
        groups: By fate, kind and namespace.
        routine: Differences that come by themselves and are in no group.
        nodes: Nodes that only one of both has, by fate; `volumes`: PersistentVolumes likewise.
    """

    before: str = ""
    before_revision: int = 0
    unknown: str = ""
    groups: tuple[Group, ...] = ()
    routine: int = 0
    nodes: dict[str, tuple[str, ...]] = {}
    volumes: dict[str, tuple[str, ...]] = {}

    def total(self, fate: str) -> int:
        """How many objects became that."""
        return sum(each.objects for each in self.groups if each.fate == fate)


def told(changes: Iterable[Change], before: str, revision: int) -> Losses:
    """Differences, counted as they come; no more than the first names are kept.

    Args:
        changes: From the old state to the restored one.
        before: The name of the old state's snapshot.
        revision: Its.
    """
    counts: dict[tuple[str, str, str], int] = {}
    first: dict[tuple[str, str, str], list[str]] = {}
    apart: dict[str, dict[str, list[str]]] = {"Node": {}, "PersistentVolume": {}}
    routine = 0
    for each in changes:
        kind, fate = each.key.kind, _FATES[each.what]
        if each.routine or kind == "Lease" or (fate == DIFFERENT and kind in _RESTLESS):
            routine += 1
            continue
        group = (fate, kind, each.key.namespace)
        counts[group] = counts.get(group, 0) + 1
        if counts[group] <= FIRST:
            first.setdefault(group, []).append(each.key.name)
        if kind in apart and fate != DIFFERENT and len(apart[kind].setdefault(fate, [])) < MOST:
            apart[kind][fate].append(each.key.name)
    order = (LOST, BACK, DIFFERENT)
    groups = sorted(counts, key=lambda g: (order.index(g[0]), g[1:]))
    return Losses(
        before=before,
        before_revision=revision,
        groups=tuple(
            Group(fate=g[0], kind=g[1], namespace=g[2], objects=counts[g], names=tuple(first[g])) for g in groups
        ),
        routine=routine,
        nodes={fate: tuple(names) for fate, names in apart["Node"].items()},
        volumes={fate: tuple(names) for fate, names in apart["PersistentVolume"].items()},
    )


def encode(found: Losses) -> bytes:
    """As a file."""
    return msgspec.json.encode(found)


def decode(text: bytes, where: str) -> Losses:
    """Out of a file.

    Raises:
        FactUnreadable: It is damaged.
    """
    try:
        return msgspec.json.decode(text, type=Losses)
    except msgspec.MsgspecError as err:
        raise FactUnreadable(f"{where} cannot be read: {err}", remedy=f"rm {where}; orchestrator etcd diff") from err
