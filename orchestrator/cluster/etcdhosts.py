"""What a host tells of the member of etcd on it: how it runs, where its data are, with which files, how fast. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.cluster import etcd, hostfacts
from orchestrator.cluster.frame import sections
from orchestrator.cluster.hostfacts import Disk
from orchestrator.cluster.versions import Version, parse

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestrator.cluster.etcd import Hash, Member, Status
    from orchestrator.cluster.frame import Section
    from orchestrator.cluster.hostfacts import EtcdFacts, Manifest

_VERSION = re.compile(r"etcd Version: (\S+)")
_METRIC = re.compile(r"^(\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)
_LOCAL = re.compile(r"//(127\.|localhost|\[::1\])")


@dataclass(frozen=True, slots=True)
class Place:
    """A member's data directory, as the host has it.

    Attributes:
        path: Of the host: what a container sees elsewhere is told as the host has it.
        owner: `uid:gid`.
        mode: In octal digits.
        label: SELinux's, "" without it.
        mount: It is a mount point itself, and cannot be renamed.
        size_bytes: What it takes up.
        entries: Names in it.
    """

    path: str
    owner: str
    mode: str
    label: str
    mount: bool
    disk: Disk
    size_bytes: int
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EtcdHost:
    """One host.

    Attributes:
        how: `static pod`, `service`, `process`; `stopped` when only its manifest is there, "" when there is none.
        version: Of the program that runs.
        flags: Name -> value, of those that matter; the environment's where the command line has none.
        manifest: Of its static pod, None without one.
        servers: What the API server of this host is told to use.
        kubernetes: The version of its API server, by the manifest; None without one.
        authority: SHA-256 of the certificate of the cluster's authority, "" without that file.
        tools: `etcdctl`, `etcdutl` -> path, of those that are there.
        place: Its data directory, None where that is not there.
        status: As it answers itself, None when it does not.
        health: "" when it is well, else why not.
        took_s: The answer to that question.
        sync_s: Mean time of a write to the log since it started, None where it does not tell; `commit_s` of a commit.
        defragmented_at: When this tool last did that, in seconds since the epoch; None when it never did.
        defragmented: How often anybody did since it started.
    """

    node: str
    how: str = ""
    version: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    manifest: Manifest | None = None
    servers: str = ""
    kubernetes: Version | None = None
    authority: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    place: Place | None = None
    status: Status | None = None
    health: str = "it was not asked"
    took_s: float | None = None
    sync_s: float | None = None
    commit_s: float | None = None
    defragmented_at: float | None = None
    defragmented: int = 0

    @property
    def runs(self) -> bool:
        """There is a process."""
        return self.how not in ("", "stopped")

    @property
    def name(self) -> str:
        """The member's own name."""
        return self.flags.get("name", "")

    @property
    def program(self) -> Version | None:
        """The version of the program that runs, of its manifest where none does; None where nothing tells."""
        return parse(self.version) or (self.manifest.version if self.manifest else None)

    @property
    def listed(self) -> tuple[tuple[str, str], ...]:
        """Name and peer URL of each member that its manifest names: those that there were when it joined, itself too.

        Source: kubeadm 1.36 and 1.37, `phases/etcd/local.go`: `--initial-cluster` is written when it joins, and stays.
        """
        text = self.manifest.flag("initial-cluster") if self.manifest else ""
        pairs = (each.partition("=") for each in text.split(",") if "=" in each)
        return tuple((name, url) for name, _, url in pairs)

    @property
    def peer_urls(self) -> tuple[str, ...]:
        """Where other members find it."""
        return tuple(filter(None, self.flags.get("initial-advertise-peer-urls", "").split(",")))

    def foreign(self, ours: Collection[str]) -> bool:
        """Its cluster's authority is none of these, of which there is one at least, and is known."""
        return bool(ours) and self.authority not in ("", *ours)

    @property
    def external(self) -> bool:
        """The API server here uses an etcd that is on other machines."""
        return bool(self.servers) and not _LOCAL.search(self.servers) and not self.runs and self.manifest is None


@dataclass(frozen=True, slots=True)
class Etcd:
    """A cluster's etcd.

    Attributes:
        cluster: The cluster's name, of kubeadm's configuration; "" where that is not known.
        at: Seconds since the epoch.
        hosts: By node, of the control planes, and of whoever else has a member.
        facts: The members, asked directly.
        external: What API servers use where etcd is on other machines: their `--etcd-servers`.
        through: The control plane from whose host that one was asked; "" when it was not.
        unreached: Node -> why its host could not be asked.
    """

    cluster: str
    at: float
    hosts: Mapping[str, EtcdHost]
    facts: EtcdFacts
    external: str = ""
    through: str = ""
    unreached: Mapping[str, str] = field(default_factory=dict)

    def node_of(self, member: Member) -> str:
        """The node on which a member is; "" when it is on none."""
        for name, host in self.hosts.items():
            if set(host.peer_urls) & set(member.peer_urls) or (host.name and host.name == member.name):
                return name
        return ""

    def status_of(self, member: Member) -> Status | None:
        """What the member answered."""
        return next((s for s in self.facts.statuses if s.id == member.id), None)

    def health_of(self, member: Member) -> str:
        """Why a member is not well; "" when it is."""
        answers = [self.facts.health[url] for url in member.client_urls if url in self.facts.health]
        return answers[0] if answers else "it does not answer"

    @property
    def troubles(self) -> tuple[str, ...]:
        """All that is not as it should be."""
        facts = self.facts
        if facts.members:
            return etcd.troubles(facts.members, facts.statuses, facts.health)
        # Without a quorum no member lists the members, though each tells how it is itself.
        ill = [f"{name}: etcd runs, but {host.health or 'lists no members'}" for name, host in self.running]
        bare = () if self.external else (name for name, host in self.hosts.items() if not host.how)
        return (*ill, *(f"{name}: there is neither a process of etcd nor its manifest" for name in bare))

    @property
    def running(self) -> tuple[tuple[str, EtcdHost], ...]:
        """Hosts on which there is a process."""
        return tuple((name, host) for name, host in self.hosts.items() if host.runs)


def parse_host(node: str, answer: str) -> EtcdHost:
    """The answer of `queries.ETCD_HOST`.

    Raises:
        FactUnreadable: etcd answered in a form that is not known.
    """
    everything = sections(answer)
    found = {name: each[0] for name, each in everything.items()}
    manifest = hostfacts.manifest(found["manifest"]) if "manifest" in found else None
    servers = _text(found, "servers")
    kubernetes = parse(_text(found, "apiserver").rpartition(":")[2])
    authority = (_text(found, "authority").split() or [""])[0]
    place = _place(found["data"]) if "data" in found else None
    if "process" not in found:
        flags = _declared(manifest) if manifest else {}
        how = "stopped" if manifest else ""
        known = EtcdHost(node, how, "", flags, manifest, servers, kubernetes, authority)
        return replace(known, place=place, health="it does not run")
    flags = dict(line.split("=", 1) for line in found["process"].text.splitlines() if "=" in line)
    health, took_s = _health(_text(found, "health"))
    metrics = {name: float(value) for name, value in _METRIC.findall(_text(found, "metrics"))}
    statuses = etcd.parse_status(_text(found, "status")) if _text(found, "status") else ()
    stamp = _text(found, "defragmented")
    return EtcdHost(
        node=node,
        how=_how(_text(found, "cgroup"), manifest),
        version=(_VERSION.search(_text(found, "version")) or ["", ""])[1],
        flags=flags,
        manifest=manifest,
        servers=servers,
        kubernetes=kubernetes,
        authority=authority,
        tools={each.words[0]: each.words[1] for each in everything.get("tool", ())},
        place=place,
        status=statuses[0] if statuses else None,
        health=health,
        took_s=took_s,
        sync_s=_mean(metrics, "etcd_disk_wal_fsync_duration_seconds"),
        commit_s=_mean(metrics, "etcd_disk_backend_commit_duration_seconds"),
        defragmented_at=float(stamp) if stamp.isdigit() else None,
        defragmented=int(metrics.get("etcd_disk_backend_defrag_duration_seconds_count", 0)),
    )


def parse_hash(answer: str) -> Hash | None:
    """The answer of `queries.ETCD_HASH`; None when the member did not tell.

    Raises:
        FactUnreadable: It answered in a form that is not known.
    """
    text = "".join(each.text for each in sections(answer).get("hash", ()))
    found = etcd.parse_hashes(text) if text.strip() else ()
    return found[0] if found else None


def _text(found: Mapping[str, Section], name: str) -> str:
    return found[name].text.strip() if name in found else ""


def _declared(manifest: Manifest) -> dict[str, str]:
    """The flags of a member that does not run."""
    return dict(re.findall(r"^\s*- \"?--([a-z-]+)=([^\s\"]*)", manifest.text, re.MULTILINE))


def _how(cgroup: str, manifest: Manifest | None) -> str:
    """Source: cgroups(7): the path in a unit's or a pod's process names the unit or the pod."""
    if "kubepods" in cgroup or "kubelet" in cgroup:
        return "static pod"
    if ".service" in cgroup and manifest is None:
        return "service"
    return "static pod" if manifest else "process"


def _health(text: str) -> tuple[str, float | None]:
    if not text:
        return "it does not answer", None
    health = next(iter(etcd.parse_health(text).values()), "it does not answer")
    match = re.search(r'"took":"([0-9.]+)(µs|ms|s)"', text)
    return health, float(match[1]) * {"µs": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]] if match else None


def _mean(metrics: Mapping[str, float], name: str) -> float | None:
    count = metrics.get(f"{name}_count", 0.0)
    return metrics.get(f"{name}_sum", 0.0) / count if count else None


def _place(section: Section) -> Place | None:
    """Lines: `uid gid mode label`, `yes` when it is a mount point, a line of df, what it takes up, and its entries."""
    lines = section.text.splitlines()
    if len(lines) < 4:
        return None
    uid, gid, mode, label = [*lines[0].split(), ""][:4]
    _, size, _, free, _, mount = lines[2].split(None, 5)
    return Place(
        path=section.words[0],
        owner=f"{uid}:{gid}",
        mode=mode,
        label="" if label == "?" else label,
        mount=lines[1] == "yes",
        disk=Disk(mount, int(size), int(free)),
        size_bytes=int(lines[3]),
        entries=tuple(lines[4:]),
    )
