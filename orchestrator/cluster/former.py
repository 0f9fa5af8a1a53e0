"""What a control plane goes back to, out of what kubeadm kept of it. Pure.

An upgrade may have needed several runs of kubeadm: one that was cut short and started again keeps only what it replaced
itself. Source: kubeadm 1.36, `phases/upgrade/staticpods.go`: each run has a directory of its own, and leaves components
alone whose manifests are as it wants them; it copies the data of etcd at its start, also when etcd is the new one
already. Seen: killed after etcd and API server, run again, two directories with two manifests each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from orchestrator.cluster.hostfacts import CONTROL_PLANE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.cluster.hostfacts import Kept
    from orchestrator.cluster.versions import Version

ETCD = "etcd"


@dataclass(frozen=True, slots=True)
class Former:
    """What a control plane goes back to.

    Attributes:
        version: Of Kubernetes.
        files: Component -> its kept manifest, of those that were replaced.
        etcd: The version of the kept manifest of etcd; None where etcd stays.
        data: A copy of the member's data, of just before that one was replaced; "" without one.
    """

    version: Version
    files: Mapping[str, str]
    etcd: Version | None
    data: str


def former(kept: Iterable[Kept], now: Mapping[str, Version | None], kubeadm: Version | None) -> Former | None:
    """The state before the last upgrade; None where no manifest older than what is there was kept.

    Args:
        kept: Of each run of kubeadm, the latest first.
        now: Component -> the version of its manifest; like those kept without what a vendor adds.
        kubeadm: The installed one. Where it is newer than every manifest, its upgrade came no further than etcd, which
            is the first that it replaces: what was kept of Kubernetes is of an upgrade before that.
    """
    newest = max((v for name in CONTROL_PLANE if (v := now.get(name))), default=None)
    if newest is None:
        return None
    if kubeadm and kubeadm > newest:
        cut = list(takewhile(lambda each: each.version is None, kept))
        found = _merged(newest, cut, now)
        return found if found.etcd not in (None, now.get(ETCD)) else None
    runs: list[Kept] = []
    to = None
    for each in kept:
        version = each.version
        if to and version and version != to:
            break
        if not to and version and version >= newest:
            runs = []
            continue
        to = to or version
        runs.append(each)
    return _merged(to, runs, now) if to else None


def _merged(version: Version, runs: Sequence[Kept], now: Mapping[str, Version | None]) -> Former:
    """From the latest run that kept a manifest, where there is another version now; all that the very latest kept."""
    sources: dict[str, Kept] = {}
    for name in (ETCD, *CONTROL_PLANE):
        found = next((each for each in runs if name in each.versions), None)
        if found and (found is runs[0] or found.versions[name] != now.get(name)):
            sources[name] = found
    etcd = sources.get(ETCD)
    return Former(
        version,
        {name: f"{each.directory}/{name}.yaml" for name, each in sources.items()},
        etcd.versions[ETCD] if etcd else None,
        etcd.data if etcd else "",
    )
