"""Plans that give etcd back its space: defragmentation, and the way out of the alarm NOSPACE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.engine.plan import Lane, Plan, Step, Wave

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Seconds. A member rewrites some 100 MB a second, and answers nothing meanwhile.
DEFRAGMENT_S = 900.0
COMPACT_S = 600.0
DISARM_S = 60.0
DISARM = "disarm"


def defragment(nodes: Sequence[str], *, share: float, least_bytes: int) -> Plan:
    """One member after another.

    Args:
        nodes: Of the members, in their order: the leader's last.
        share: Of a file that may stay unused.
        least_bytes: Unused ones that are too few to matter.
    """
    waves = _waves(nodes, 0, share=share, least_bytes=least_bytes)
    return Plan("defrag", f"defragment etcd on {', '.join(nodes)}", waves)


def disarm(nodes: Sequence[str], *, revision: int) -> Plan:
    """Old revisions dropped, each member defragmented, then the alarm cleared.

    Source: etcd's documentation, "Maintenance", space quota.
    """
    first = nodes[0]
    compact = Wave((Lane(first, (_step(0, first, "etcd.compact", {"revision": revision}, COMPACT_S),)),))
    care = _waves(nodes, 1, always=True)
    params = {"members": list(nodes), "after": care[-1].lanes[0].steps[-1].id}
    last = Wave((Lane(first, (_step(len(nodes) + 1, first, "etcd.disarm", params, DISARM_S),)),))
    return Plan(DISARM, "bring etcd out of its alarm", (compact, *care, last))


def _waves(
    nodes: Sequence[str], first: int, *, share: float = 0.0, least_bytes: int = 0, always: bool = False
) -> tuple[Wave, ...]:
    params: dict[str, Any] = {"share": share, "bytes": least_bytes, "always": always, "members": list(nodes)}
    return tuple(
        Wave((Lane(node, (_step(number, node, "etcd.defragment", params, DEFRAGMENT_S),)),))
        for number, node in enumerate(nodes, start=first)
    )


def _step(wave: int, node: str, action: str, params: Mapping[str, Any], timeout_s: float) -> Step:
    return Step(f"{wave}/{node}/{action}", action, node, dict(params), timeout_s)
