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
    from collections.abc import Mapping, Sequence

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
        alone: A run of kubeadm replaced etcd and no more: one that was cut short there, or moved the rest back. Source:
            kubeadm 1.36, `rollbackOldManifests`: where a component after it fails, the new etcd stays.
    """

    version: Version
    files: Mapping[str, str]
    etcd: Version | None
    data: str
    alone: bool = False

    def without_etcd(self) -> Former | None:
        """The same, and etcd stays; None when nothing is left."""
        files = {name: path for name, path in self.files.items() if name != ETCD}
        return Former(self.version, files, None, "") if files else None


def latest(now: Mapping[str, Version | None]) -> Version | None:
    """The latest version of Kubernetes among a control plane's manifests."""
    return max((v for name in CONTROL_PLANE if (v := now.get(name))), default=None)


def former(kept: Sequence[Kept], now: Mapping[str, Version | None], kubeadm: Version | None) -> Former | None:
    """The state before the last upgrade; None where what was kept does not make a whole one.

    It is of the latest version older than what is there of which every component was kept, or is there still: runs with
    other options, or to another patch, may have kept some of a version that was never whole.

    Args:
        kept: Of each run of kubeadm, the latest first.
        now: Component -> the version of its manifest; like those kept without what a vendor adds.
        kubeadm: The installed one. Where it is newer than every manifest, its upgrade has replaced none but etcd's, or
            moved them back: what was kept of Kubernetes is of an upgrade before that.
    """
    newest = latest(now)
    if newest is None:
        return None
    if kubeadm and kubeadm > newest:
        return _with_etcd(newest, {}, kept, now)
    versions = {v for each in kept for name in CONTROL_PLANE if (v := each.versions.get(name)) and v < newest}
    for version in sorted(versions, reverse=True):
        replaced = [name for name in CONTROL_PLANE if now.get(name) != version]
        sources = {name: each for name in replaced for each in reversed(kept) if each.versions.get(name) == version}
        if len(sources) == len(replaced):
            return _with_etcd(version, sources, kept, now)
    return None


def _with_etcd(
    version: Version, sources: Mapping[str, Kept], kept: Sequence[Kept], now: Mapping[str, Version | None]
) -> Former | None:
    """With the etcd of the run that replaced the API server, or of runs just before it that replaced etcd alone."""
    files = {name: f"{each.directory}/{name}.yaml" for name, each in sources.items()}
    server = sources.get(CONTROL_PLANE[0])
    if server and ETCD in server.versions:
        return Former(version, {ETCD: _path(server), **files}, server.versions[ETCD], server.data)
    before = kept[kept.index(server) + 1 :] if server else kept
    alone = [each for each in takewhile(lambda each: each.version is None, before) if ETCD in each.versions]
    own = next((each for each in alone if each.versions[ETCD] != now.get(ETCD)), None)
    if own is None:
        return Former(version, files, None, "") if files else None
    return Former(version, {ETCD: _path(own), **files}, own.versions[ETCD], own.data, alone=True)


def _path(run: Kept) -> str:
    return f"{run.directory}/{ETCD}.yaml"
