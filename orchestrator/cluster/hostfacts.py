"""What a host says of itself, read into facts. Pure. `cluster.queries` has the questions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.cluster import etcd, kubeadm, packages
from orchestrator.cluster.frame import sections
from orchestrator.cluster.versions import Version, parse
from orchestrator.errors import FactUnreadable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.cluster.etcd import Member, Status
    from orchestrator.cluster.frame import Section
    from orchestrator.cluster.kubeadm import Certificate, Complaint
    from orchestrator.cluster.packages import Package, Source

#: Components of a control plane that kubeadm runs as static pods, etcd included.
STATIC = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
#: Those of Kubernetes' own version.
CONTROL_PLANE = STATIC[1:]

_NAME = re.compile(r"([^/]+)\.yaml$")
_IMAGE = re.compile(r"^\s*(?:- )?image: \"?([^\s\"]+)", re.MULTILINE)
_APT_FAILED = ("E:", "W:", "Err:", "Error:", "Warning:")
#: Warnings of what will be wrong one day. Source: apt-key(8), apt-secure(8).
_APT_HARMLESS = ("legacy trusted.gpg", "Policy will reject signature")
_NO_RELEASE = "does not have a Release file"
_SERVER_TROUBLE = re.compile(r"\s+(?:5\d\d|Could not|Connection|Temporary)\b")
_URL_HOST = re.compile(r"https://\[?([^]/]+?)\]?(?::\d+)?(?:/|$)")
_SOME_VERSION = re.compile(r"v?(\d+\.\d+\.\d+\S*)")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A static pod's manifest.

    Attributes:
        name: Of its file, without its end: `kube-apiserver`.
        image: Of its first container.
    """

    name: str
    image: str
    text: str

    @property
    def version(self) -> Version | None:
        """By its image's tag; None where that is none."""
        return parse(self.image.rpartition(":")[2])

    def flag(self, name: str) -> str:
        """The value of a flag of its command, "" without it."""
        match = re.search(rf"^\s*- \"?--{re.escape(name)}=([^\s\"]*)", self.text, re.MULTILINE)
        return match[1] if match else ""


@dataclass(frozen=True, slots=True)
class Disk:
    """A directory's file system.

    Attributes:
        mount: Where that is mounted.
    """

    mount: str
    size_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host. What it was not asked, or does not have, is empty.

    Attributes:
        os: As /etc/os-release calls it.
        apt: It has apt.
        kubeadm: Version of the installed program.
        kubelet: Version of the installed program.
        running: Version of the kubelet that runs; None when none does.
        replaced: The kubelet that runs is not the installed file any more.
        arguments: The running kubelet's.
        packages: Of Kubernetes, by name.
        unfinished: What dpkg left half done, in its words.
        sources: Files that name repositories of Kubernetes.
        manifests: By name.
        components: Static pods' processes: name -> version, None where it does not tell.
        locks: Locks of apt and dpkg that somebody holds: file -> the process.
        disks: By directory.
        sizes_bytes: Directory -> what it takes up.
        swap: Swap is on.
        cgroup: `v1` or `v2`.
        files: Path -> text of the kubelet's settings.
        images: In the runtime's store.
        certificates: Of a control plane.
        proxy: Version of the kube-proxy that runs; None when none does.
        certificates_unread: Why they could not be looked at, "" when they were.
        asks: The API server that its kubelet asks, as a URL.
        left: What commands of plans left there (`/var/lib/orchestrator`), by plan.
    """

    node: str
    boot: str = ""
    os: str = ""
    apt: bool = False
    kubeadm: Version | None = None
    kubelet: Version | None = None
    running: Version | None = None
    replaced: bool = False
    arguments: tuple[str, ...] = ()
    packages: Mapping[str, Package] = field(default_factory=dict)
    unfinished: str = ""
    sources: tuple[Source, ...] = ()
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    components: Mapping[str, Version | None] = field(default_factory=dict)
    locks: Mapping[str, str] = field(default_factory=dict)
    disks: Mapping[str, Disk] = field(default_factory=dict)
    sizes_bytes: Mapping[str, int] = field(default_factory=dict)
    swap: bool = False
    cgroup: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    certificates: tuple[Certificate, ...] = ()
    certificates_unread: str = ""
    proxy: Version | None = None
    asks: str = ""
    left: frozenset[str] = frozenset()

    @property
    def control_plane(self) -> bool:
        """It has an API server, or its manifest."""
        return "kube-apiserver" in self.manifests or "kube-apiserver" in self.components

    @property
    def asks_itself(self) -> bool:
        """Its kubelet asks the API server of the same host, and no other.

        Source: kubeadm's feature ControlPlaneKubeletLocalMode, on since 1.33; before, it was the cluster's endpoint.
        """
        manifest, host = self.manifests.get("kube-apiserver"), _URL_HOST.match(self.asks)
        return manifest is not None and host is not None and host[1] == manifest.flag("advertise-address")

    @property
    def at_one(self) -> Version | None:
        """The version of the kubelet that runs, where all that is installed of Kubernetes is of it; else None."""
        mine = [p.version for p in self.packages.values() if p.name in packages.KUBERNETES]
        parts = {version and replace(version, vendor="") for version in mine}
        whole = not self.replaced and all(p.whole for p in self.packages.values())
        return self.running if whole and parts == {self.running} else None

    @property
    def server(self) -> Version | None:
        """The older one of the API server's manifest and process; None where there is no API server."""
        manifest = self.manifests.get("kube-apiserver")
        both = [manifest.version if manifest else None, self.components.get("kube-apiserver")]
        return min((v for v in both if v), default=None)


@dataclass(frozen=True, slots=True)
class EtcdFacts:
    """The members, as one of them lists them, and what each said.

    Attributes:
        members: None without an etcd on the host that was asked.
        stacked: There should be one: its manifest is there, or the API server looks for it there.
        health: Endpoint -> "" where it is healthy, else why not.
        alarms: In etcd's words, empty when there is none.
    """

    members: tuple[Member, ...] = ()
    statuses: tuple[Status, ...] = ()
    health: Mapping[str, str] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """What one run of kubeadm kept on a control plane; an upgrade may have needed several.

    Attributes:
        directory: Of the manifests.
        versions: Component -> version of the kept manifest; etcd's is etcd's own.
        data: A copy of the etcd member's data, made at its start; "" without one.
    """

    directory: str
    versions: Mapping[str, Version]
    data: str

    @property
    def version(self) -> Version | None:
        """Of Kubernetes, by its API server, or else another component."""
        return next((self.versions[name] for name in CONTROL_PLANE if name in self.versions), None)


@dataclass(frozen=True, slots=True)
class Offers:
    """What a repository offers a host.

    Attributes:
        versions: Version -> package revision of kubeadm, where all of `packages.KUBERNETES` are offered.
        error: apt's words when it could not be read or its signature did not hold; "" otherwise.
        absent: It answered that there is no such repository: nothing of that minor was released there.
        lacking: Version -> packages that are not offered of it, though others are.
    """

    versions: Mapping[Version, str]
    error: str
    absent: bool = False
    lacking: Mapping[Version, tuple[str, ...]] = field(default_factory=dict)


def parse_look(node: str, answer: str) -> HostFacts:
    """The answer of `queries.LOOK` or `queries.EXAMINE`.

    Raises:
        FactUnreadable: A part of it is not of the form that is known.
    """
    found = sections(answer)

    def text(name: str) -> str:
        return "\n".join(section.text for section in found.get(name, ())).strip()

    running = found.get("running", [])
    failed = any(section.words not in ((), ("0",)) for section in found.get("certificates", ()))
    unread = (text("unread") or "kubeadm failed without a word") if failed else ""
    return HostFacts(
        node,
        boot=text("boot"),
        os=text("os").split("\n")[0],
        apt="/apt-get" in text("os"),
        kubeadm=_version(text("kubeadm")),
        kubelet=_version(text("kubelet")),
        running=_version(running[0].text) if running else None,
        replaced=any("(deleted)" in section.words for section in running),
        arguments=tuple(text("arguments").split("\n")[1:]),
        packages=packages.parse_installed(text("installed")),
        unfinished=text("unfinished"),
        sources=tuple(s for each in found.get("source", ()) if (s := packages.source(each.words[0], each.text + "\n"))),
        manifests={m.name: m for each in found.get("manifest", ()) if (m := manifest(each))},
        components={each.words[0]: _version(each.text) for each in found.get("component", ())},
        locks={each.words[0]: each.text.strip() for each in found.get("lock", ())},
        disks=_disks(node, found.get("disk", ())),
        sizes_bytes=_sizes(node, text("sizes")),
        swap=bool(text("swap")),
        cgroup={"cgroup2fs": "v2", "": ""}.get(text("cgroup"), "v1"),
        files={each.words[0]: each.text for each in found.get("file", ())},
        images=frozenset(text("images").split()),
        asks=text("server"),
        left=frozenset(text("left").split()),
        certificates=kubeadm.parse_certificates(text("certificates")) if text("certificates") and not unread else (),
        certificates_unread=unread,
        proxy=_version(text("proxy")),
    )


def parse_clock(node: str, answer: str, between: tuple[float, float]) -> float:
    """How many seconds a host's clock is ahead of this machine's, at least; out of `queries.CLOCK`.

    Args:
        node: The host.
        answer: What it said.
        between: This machine's clock before the question and after the answer.

    Returns:
        0 where its time is between the two: it cannot be told any closer.

    Raises:
        FactUnreadable: It told no time.
    """
    said = sections(answer).get("clock", [])
    at, (before, after) = _number(node, "its clock", said[0].text.strip() if said else ""), between
    return min(0.0, at - before) + max(0.0, at - after)


def parse_etcd(answer: str) -> EtcdFacts:
    """The answer of `queries.ETCD`; without members where no etcd runs on that host.

    Raises:
        FactUnreadable: etcd answered in a form that is not known.
    """
    found = {name: each[0].text for name, each in sections(answer).items()}
    stacked = "stacked" in found
    if not found.get("members"):
        return EtcdFacts(stacked=stacked)
    alarms = etcd.parse_alarms(found.get("alarms", ""))
    return EtcdFacts(
        etcd.parse_members(found["members"]),
        etcd.parse_status(found["status"]) if found.get("status") else (),
        etcd.parse_health(found["health"]) if found.get("health") else {},
        alarms,
        stacked,
    )


def parse_api(answer: str) -> tuple[str, Version | None]:
    """What is wrong with a host's own API server ("" when nothing is), and its version, out of `queries.API`."""
    found = sections(answer)
    if broken := found.get("broken"):
        return f"{broken[0].words[0]}: {broken[0].text.strip() or 'no answer'}", None
    said = found.get("version", [])
    match = re.search(r'"gitVersion":\s*"([^"]+)"', said[0].text) if said else None
    return ("", parse(match[1])) if match else ("no answer to /version", None)


def parse_endpoint(answer: str) -> str:
    """What broke at the cluster's endpoint, "" when nothing did, out of `queries.ENDPOINT`."""
    broken = sections(answer).get("broken")
    return f"{' '.join(broken[0].words)}: {broken[0].text.strip() or 'no answer'}" if broken else ""


def parse_static_pods(answer: str) -> tuple[str, ...]:
    """Components that run as another pod than the kubelet is to run now, or than the API has as its mirror.

    None where the kubelet, the API or the process does not tell: versions are looked at all the same.

    Args:
        answer: Of `queries.STATIC_PODS`.
    """
    found = sections(answer)
    hashes = ({hash_ for each in found.get(name, ()) for hash_ in each.text.split()} for name in ("wanted", "mirror"))
    told = [each for each in hashes if each]
    running = [(each.words[0], each.text.strip()) for each in found.get("pod", ())]
    return tuple(name for name, pod in running if pod and not all(pod in each for each in told))


def parse_kept(answer: str) -> tuple[Kept, ...]:
    """What is kept of each run of kubeadm, the latest first, out of `queries.KEPT`."""
    found = sections(answer)
    directories: dict[str, dict[str, Version]] = {}
    for section in found.get("manifest", ()):
        path, directory = section.words
        name, image = _NAME.search(path), _IMAGE.search(section.text)
        version = parse(image[1].rpartition(":")[2]) if image else None
        if name and version:
            directories.setdefault(directory, {})[name[1]] = replace(version, vendor="")
    data = {each.words[1].rpartition("kubeadm-backup-etcd-")[2]: each.words[0] for each in found.get("data", ())}
    return tuple(
        Kept(directory, directories[directory], data.get(directory.rpartition("kubeadm-backup-manifests-")[2], ""))
        for directory in sorted(directories, reverse=True)
    )


def parse_at_work(answer: str) -> tuple[str, ...]:
    """kubeadm, and commands of plans (`PLAN/STEP`), that run on a host, out of `queries.KEPT`; in words for people."""
    return tuple(f"{section.words[0]} (process {section.words[1]})" for section in sections(answer).get("work", ()))


def parse_watches(answer: str) -> int | None:
    """How many watches there are on pods and Services, out of `queries.WATCHES`; None when it cannot be told."""
    said = sections(answer).get("watches", [])
    text = said[0].text.strip() if said else ""
    return int(float(text)) if re.fullmatch(r"\d+(\.\d+)?(e\+?\d+)?", text) and float(text) else None


def parse_offers(answer: str) -> Offers:
    """The answer of `queries.OFFERS`.

    Raises:
        FactUnreadable: It is not of that form.
    """
    found = sections(answer)
    update, listed = found.get("update", []), found.get("madison", [])
    if not update or not listed:
        raise FactUnreadable("apt said nothing of a repository", remedy="run `apt-get update` by hand on that host")
    said = update[0].text.strip().splitlines()
    # apt-get update ends well though a repository is not there: only its words tell. Source: apt 2.6, seen; apt 3
    # writes the words out.
    failed = [line for line in said if line.startswith(_APT_FAILED) and not any(w in line for w in _APT_HARMLESS)]
    if update[0].words != ("0",) and not failed:
        failed = said[-1:] or [f"apt-get update ended with {' '.join(update[0].words) or 'no code'}"]
    error = "; ".join(failed)
    offered = {
        name: {replace(version, vendor=""): r for version, r in packages.parse_offered(listed[0].text, name).items()}
        for name in packages.KUBERNETES
    }
    lacking = {
        version: tuple(name for name in packages.KUBERNETES if version not in offered[name])
        for version in set().union(*offered.values())
    }
    whole = {version: r for version, r in offered[packages.KUBERNETES[0]].items() if not lacking[version]}
    return Offers(whole, error, _absent(said, failed), {v: names for v, names in lacking.items() if names})


def _absent(said: Sequence[str], failed: Sequence[str]) -> bool:
    """Whether a server answered that it has no such repository; one that has trouble, or is not reached, tells nothing.

    Source: apt 2.6, seen: after a 404 or 403, `E: The repository … does not have a Release file.`, whose reason stands
    below `Err:`; of one that is not reached, `W: Failed to fetch …`.
    """
    trouble = any(_SERVER_TROUBLE.match(line) for line in said)
    return bool(failed) and not trouble and all(line.startswith("Err") or _NO_RELEASE in line for line in failed)


def parse_preflight(answer: str) -> tuple[tuple[Complaint, ...], str]:
    """Complaints of kubeadm, and why it did not come to its checks at all ("" when it did), out of `PREFLIGHT`."""
    found = sections(answer)
    if failed := found.get("failed"):
        return (), failed[0].text.strip()[-512:]
    checked = found.get("preflight", [])
    if not checked:
        return (), "no answer"
    complaints = kubeadm.parse_complaints(checked[0].text)
    ended = checked[0].words == ("0",)
    if not ended and not any(c.fatal for c in complaints):
        return complaints, found["end"][0].text.strip() if "end" in found else "it failed without a word"
    return complaints, ""


def parse_wanted(answer: str) -> tuple[str, ...]:
    """The images that the new version needs on a control plane, out of `queries.PREFLIGHT`; none for a worker."""
    return tuple(image for each in sections(answer).get("wanted", ()) for image in each.text.split())


def parse_unlisted(answer: str) -> str:
    """Why the images of the new version could not be listed, "" when they were; out of `queries.PREFLIGHT`."""
    found = sections(answer)
    if all(each.words in ((), ("0",)) for each in found.get("wanted", ())):
        return ""
    return "\n".join(each.text for each in found.get("unlisted", ())).strip() or "kubeadm failed without a word"


def parse_edited(answer: str) -> tuple[str, str]:
    """A diff of manifests that were edited by hand, "" when none was, and why it is not all; out of `EDITED`.

    Source: `kubeadm upgrade diff` 1.36 and 1.37 ends with 0 whether manifests differ or not.
    """
    found = sections(answer)
    said = found.get("diff", [])
    lines = said[0].text.splitlines() if said else []
    start = next((i for i, line in enumerate(lines) if line.startswith("--- ")), len(lines))
    why = "\n".join(each.text for each in found.get("why", ())).strip()
    failed = not said or said[0].words != ("0",)
    return "\n".join(lines[start:]), (why or "it failed without a word") if failed else ""


def _version(text: str) -> Version | None:
    match = _SOME_VERSION.search(text)
    return parse(match[1]) if match else None


def manifest(section: Section) -> Manifest | None:
    """A static pod's manifest, of a section with its path; None where that is no manifest's."""
    name, image = _NAME.search(section.words[0]), _IMAGE.search(section.text)
    return Manifest(name[1], image[1] if image else "", section.text) if name else None


def _number(node: str, what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as err:
        raise FactUnreadable(f"{node}: {what} reads {text[:80]!r}", remedy=f"look at {node} by hand") from err


def _disks(node: str, found: Sequence[Section]) -> Mapping[str, Disk]:
    disks: dict[str, Disk] = {}
    for section in found:
        fields = section.text.split(None, 5)
        if len(fields) != 6:
            raise FactUnreadable(f"{node}: df printed {section.text[:80]!r}", remedy=f"run df by hand on {node}")
        size, free = (int(_number(node, "df", fields[n])) for n in (1, 3))
        disks[section.words[0]] = Disk(fields[5].strip(), size, free)
    return disks


def _sizes(node: str, text: str) -> Mapping[str, int]:
    pairs = (line.split("\t", 1) for line in text.splitlines())
    return {path: int(_number(node, "du", size)) for size, path in (p for p in pairs if len(p) == 2)}
