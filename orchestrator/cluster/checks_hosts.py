"""Checks of hosts before an upgrade: packages, room on disks, certificates, clocks, what kubeadm itself says. Pure."""

from __future__ import annotations

from statistics import median_low
from typing import TYPE_CHECKING

from orchestrator.cluster import managed
from orchestrator.cluster.hostfacts import Offers
from orchestrator.cluster.kubeadm import BACKUPS
from orchestrator.cluster.packages import KUBERNETES
from orchestrator.cluster.situation import CLUSTER, Finding, Severity, named, size
from orchestrator.cluster.versions import minor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.cluster.hostfacts import HostFacts
    from orchestrator.cluster.kubeadm import Certificate
    from orchestrator.cluster.situation import Situation
    from orchestrator.cluster.versions import Hop

#: What kubeadm's copies take beside that of etcd's data: manifests, the kubelet's configuration.
COPIES_BYTES = 200_000_000
#: What packages take until they are unpacked, and again what is in them.
PACKAGES_BYTES = 500_000_000
#: What the images of a control plane take, packed and unpacked, for each version.
IMAGES_BYTES = 1_000_000_000
CONTAINERD_DATA = "/var/lib/containerd"
#: As many nodes are named in a remedy that is a flag.
NAMES = 20
#: Beyond these, of the clocks' median.
CLOCK_WARNING_S, CLOCK_ERROR_S = 3.0, 10.0
#: Certificates that end sooner, and authorities that do: those take their time to replace.
SOON_S, SOON_AUTHORITY_S = 30 * 86400.0, 365 * 86400.0


def known(situation: Situation) -> Iterator[Finding]:
    """Hosts that could not be looked at, or that this cannot upgrade. The others are judged all the same."""
    planes = {node.name for node in situation.nodes if node.control_plane}
    others = [name for name in situation.upgrading if name not in situation.unseen]
    for name, (why, way) in sorted(situation.unseen.items()):
        mine, remedy = name in situation.upgrading, way
        text = f"its host could not be looked at: {why}"
        severity = Severity.FORBIDDEN if mine or name in planes else Severity.WARNING
        if name in planes:
            text += "; every control plane has to be, for a kubelet may be no newer than any API server"
        elif mine:
            remedy += _leaving_out(others)
        else:
            text += "; it is not upgraded now"
        yield Finding("HostUnknown", severity, name, text, remedy)
    for host in situation.touched:
        if found := managed.aptless({host.node: host}):
            remedy = found.remedy + _leaving_out([h.node for h in situation.touched if h.apt])
            yield Finding("NoApt", Severity.FORBIDDEN, host.node, found.evidence, remedy)


def _leaving_out(others: list[str]) -> str:
    """The other way out: the upgrade of the rest, by its flag where that is not too long to read."""
    return f"\nor leave it out: --nodes {','.join(others)}" if 0 < len(others) <= NAMES else ""


# ---- packages ---------------------------------------------------------------------------------------------------


def repositories(situation: Situation) -> Iterator[Finding]:
    """Each hop's repository on each host that goes there: reachable, signed, with the very version."""
    for hop in situation.hops:
        lacking = []
        for host in situation.touched:
            if not host.apt or (not hop.workers and not host.control_plane):
                continue  # a finding of its own; or it skips this hop: its kubelet may stay behind
            offers = situation.offers.get(host.node, {}).get(minor(hop.to), _NO_OFFERS)
            if offers.error and offers is not _NO_OFFERS:
                yield _unreadable(host, hop, offers)
            if hop.to not in offers.versions:
                lacking.append(f"{host.node} ({_offered(offers)})")
        if lacking:
            text = f"Kubernetes {hop.to} is not offered to {len(lacking)} of the nodes that need it: {named(lacking)}"
            remedy = (
                f"make https://pkgs.k8s.io/core:/stable:/v{minor(hop.to)}/deb/ or a mirror of it that has {hop.to} "
                "reachable on each of them; /etc/apt/sources.list.d names it"
            )
            yield Finding("PackageVersion", Severity.FORBIDDEN, CLUSTER, text, remedy)
    yield from _sought(situation)


def _sought(situation: Situation) -> Iterator[Finding]:
    """Repositories that may have a newer minor, and that could not be asked: "nothing newer" would be a guess."""
    for host in situation.touched if situation.sought else ():
        offers = situation.offers.get(host.node, {}).get(situation.sought, _NO_OFFERS)
        if host.apt and offers.error and not offers.absent:
            severity = Severity.WARNING if situation.hops else Severity.ERROR
            text = f"{_unusable(situation.sought, offers)}; whether there is a newer version is not known"
            yield Finding("Repository", severity, host.node, text, _repair(situation.sought))


_NO_OFFERS = Offers({}, "no repository of Kubernetes in its apt sources")


def _offered(offers: Offers) -> str:
    if offers is _NO_OFFERS:
        return offers.error
    parts = [f"{version} without {' and '.join(names)}" for version, names in sorted(offers.lacking.items())[-3:]]
    return f"offered: {', '.join([*(str(v) for v in sorted(offers.versions)[-3:]), *parts]) or 'nothing'}"


def _unreadable(host: HostFacts, hop: Hop, offers: Offers) -> Finding:
    line = minor(hop.to)
    return Finding("Repository", Severity.ERROR, host.node, _unusable(line, offers), _repair(line))


def _unusable(line: str, offers: Offers) -> str:
    return f"its package repository of {line} cannot be used: {offers.error}"


def _repair(line: str) -> str:
    return (
        "see the network and the key in /etc/apt/keyrings; a key that ended is fetched anew: curl -fsSL "
        f"https://pkgs.k8s.io/core:/stable:/v{line}/deb/Release.key | gpg --dearmor "
        "-o /etc/apt/keyrings/kubernetes-apt-keyring.gpg"
    )


def installed(situation: Situation) -> Iterator[Finding]:
    """Packages that are held, half installed or none, and somebody else at work on them."""
    for host in situation.touched:
        if host.unfinished or not all(p.whole for p in host.packages.values()):
            broken = [p.name for p in host.packages.values() if not p.whole]
            first = host.unfinished.strip().split("\n")[0]
            text = f"dpkg has unfinished work: {first or named(broken)}"
            remedy = "dpkg --configure -a && apt-get --fix-broken install"
            yield Finding("UnfinishedPackages", Severity.ERROR, host.node, text, remedy, host.unfinished)
        for file, process in sorted(host.locks.items()):
            text = f"{file} is held by process {process}"
            remedy = "wait until it ends; unattended ones: systemctl stop unattended-upgrades apt-daily.timer"
            yield Finding("PackageLock", Severity.ERROR, host.node, text, remedy)
        missing = [name for name in KUBERNETES[:2] if name not in host.packages]
        if missing and host.apt:
            text = f"no package of {' and '.join(missing)} is installed: what runs there came another way"
            remedy = f"apt-get install {' '.join(missing)} of the version that runs, and remove what was put by hand"
            yield Finding("NotPackaged", Severity.ERROR, host.node, text, remedy)
        held = [p.name for p in host.packages.values() if p.held]
        if held:
            text = f"held packages: {', '.join(held)}; they are held again afterwards"
            yield Finding("HeldPackages", Severity.NOTE, host.node, text, "nothing to do")


def images(situation: Situation) -> Iterator[Finding]:
    """Images that are not on a control plane yet."""
    for name, wanted in sorted(situation.wanted.items()):
        missing = [image for image in wanted if image not in situation.hosts[name].images]
        if missing:
            text = f"to be pulled, before anything is cordoned: {', '.join(missing)}"
            if later := [str(hop.to) for hop in situation.hops[1:]]:
                text += f"; those of {', '.join(later)} are not looked at yet"
            yield Finding("ImagesToPull", Severity.NOTE, name, text, "see that it reaches its registry")
    for name, why in sorted(situation.unlisted.items()):
        text = f"which images it will need is not known: {why}"
        remedy = f"on {name}: kubeadm config images list; without them nothing is fetched, and the upgrade stops there"
        yield Finding("ImagesUnknown", Severity.ERROR, name, text, remedy)


# ---- disks ------------------------------------------------------------------------------------------------------


def disks(situation: Situation) -> Iterator[Finding]:
    """Free space for kubeadm's copies, which stay there, and for packages."""
    for host in situation.touched:
        needs = [("/", PACKAGES_BYTES, "packages"), ("/var/cache/apt/archives", PACKAGES_BYTES, "packages fetched")]
        if host.control_plane:
            # Source: kubeadm copies the whole data directory before each upgrade of etcd, and never removes a copy.
            data = sum(size for path, size in host.sizes_bytes.items() if path != BACKUPS)
            copies = COPIES_BYTES + data * max(1, len(situation.hops))
            place = BACKUPS if BACKUPS in host.disks else "/etc/kubernetes"  # made by the first upgrade
            needs.append((place, copies, f"kubeadm's copies in {BACKUPS}"))
            if any(image not in host.images for image in situation.wanted.get(host.node, ())):
                needs.append((CONTAINERD_DATA, IMAGES_BYTES * len(situation.hops), "images"))
        yield from _too_full(host, needs)


def _too_full(host: HostFacts, needs: list[tuple[str, int, str]]) -> Iterator[Finding]:
    """Directories of one file system share what is free there."""
    wanted: dict[str, list[tuple[int, str]]] = {}
    free: dict[str, int] = {}
    for path, need, what in needs:
        disk = host.disks.get(path) or host.disks.get("/")
        mount = disk.mount if disk else "/"
        free[mount] = disk.free_bytes if disk else 0
        wanted.setdefault(mount, []).append((need, what))
    for mount, each in wanted.items():
        total = sum(need for need, _ in each)
        if free[mount] < total:
            parts = ", ".join(f"{size(need)} for {what}" for need, what in each)
            text = f"{mount} has {size(free[mount])} free of {size(total)} needed: {parts}"
            remedy = f"make room: apt-get clean; journalctl --vacuum-size=200M; old copies in {BACKUPS}"
            yield Finding("DiskSpace", Severity.ERROR, host.node, text, remedy)


# ---- kubeadm ----------------------------------------------------------------------------------------------------


def kubeadm(situation: Situation) -> Iterator[Finding]:
    """What the new kubeadm's own checks say, and manifests that it would overwrite."""
    for name in [host.node for host in situation.touched if host.apt] if situation.hops else ():
        complaints, why = situation.checks.get(name, ((), "it was not asked"))
        for complaint in complaints:
            severity = Severity.ERROR if complaint.fatal else Severity.WARNING
            remedy = f"put it right, or accept it: --accept {complaint.check}" if complaint.fatal else "see to it"
            yield Finding(complaint.check, severity, name, complaint.text, remedy, kubeadm=True)
        if why:
            text = f"kubeadm's own checks could not be made: {why}"
            remedy = f"run them by hand on {name}: kubeadm upgrade node phase preflight"
            yield Finding("KubeadmPreflight", Severity.ERROR, name, text, remedy)
    yield from _uncompared(situation)
    for name, diff in sorted(situation.edited.items()):
        if diff and name in situation.upgrading:
            yield _edited(name, diff)


def _uncompared(situation: Situation) -> Iterator[Finding]:
    """Manifests that nobody held against what kubeadm would write: whether they were edited is not known."""
    for host in (h for h in situation.touched if h.control_plane and situation.hops):
        remedy = f"on {host.node}: kubeadm upgrade diff {host.server}; what is edited by hand there would be lost"
        if host.node in situation.uncompared:
            text = f"its manifests could not be compared with kubeadm's: {situation.uncompared[host.node]}"
            yield Finding("ManifestsNotCompared", Severity.ERROR, host.node, text, remedy)
        elif host.node not in situation.edited:
            text = f"its manifests are not compared: kubeadm is {host.kubeadm} there, its API server {host.server}"
            yield Finding("ManifestsNotCompared", Severity.WARNING, host.node, text, remedy)


def _edited(name: str, diff: str) -> Finding:
    lines = diff.splitlines()
    changed = sum(1 for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---"))
    text = f"manifests were edited by hand: {changed} lines differ, which kubeadm would overwrite"
    remedy = (
        "put it into extraArgs: kubectl edit configmap kubeadm-config -n kube-system; or into patches "
        "(--patches); or accept that it is lost: --accept EditedManifests"
    )
    return Finding("EditedManifests", Severity.ERROR, name, text, remedy, diff)


# ---- certificates and clocks ------------------------------------------------------------------------------------


def certificates(situation: Situation) -> Iterator[Finding]:
    """Certificates of control planes that ended, or end before long without being renewed."""
    for host in situation.planes:
        renewed = situation.renews and host.node in situation.upgrading and bool(situation.hops)
        if host.certificates_unread:
            text = f"when its certificates end is not known: {host.certificates_unread}"
            remedy = f"on {host.node}: kubeadm certs check-expiration"
            yield Finding("CertificatesUnread", Severity.ERROR, host.node, text, remedy)
        for certificate in host.certificates:
            # A certificate that is not there has no end; super-admin.conf is on the first control plane only.
            if not certificate.missing and certificate.ends is not None:
                left_s = certificate.ends - situation.now
                yield from _certificate(host.node, certificate, left_s, renewed=renewed)


def _certificate(node: str, found: Certificate, left: float, *, renewed: bool) -> Iterator[Finding]:
    """Source: kubeadm upgrades renew what kubeadm can renew, and never an authority."""
    what = f"the authority {found.name}" if found.authority else f"the certificate {found.name}"
    check = "Authority" if found.authority else "Certificate"
    remedy = f"kubeadm certs renew {found.name}, then restart the control plane of {node}"
    if found.authority:
        remedy = "https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/"
    elif found.external:
        remedy = f"kubeadm cannot renew it, its authority's key is elsewhere: have {found.name} of {node} signed anew"
    if left <= 0:
        yield Finding(f"{check}Ended", Severity.FORBIDDEN, node, f"{what} ended {-left / 86400:.0f} days ago", remedy)
    elif left < (SOON_AUTHORITY_S if found.authority else SOON_S) and (
        found.authority or found.external or not renewed
    ):
        text = f"{what} ends in {left / 86400:.0f} days, and this upgrade does not renew it"
        yield Finding(f"{check}Ends", Severity.WARNING, node, text, remedy)


def clocks(situation: Situation) -> Iterator[Finding]:
    """Clocks that are away from most: certificates, tokens and leases go by them. This machine's own is one of them."""
    away = situation.clocks
    middle = median_low([0.0, *away.values()])
    hosts = {name: (f"its clock is {_away(off - middle)} the others'", off - middle) for name, off in away.items()}
    here = f"the clock of the machine that this runs on is {_away(-middle)} that of most hosts"
    for where, (text, off) in [*sorted(hosts.items()), (CLUSTER, (here, -middle))]:
        if abs(off) > CLOCK_WARNING_S:
            severity = Severity.ERROR if abs(off) > CLOCK_ERROR_S else Severity.WARNING
            remedy = "set it: timedatectl set-ntp true, or chronyc makestep"
            yield Finding("ClockSkew", severity, where, text, remedy)


def _away(off: float) -> str:
    return f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'}"
