"""Kubernetes versions: how they compare, how far apart the parts of a cluster may be, and the way to a newer one. Pure.

Source of all rules on skew: Kubernetes "Version Skew Policy" (https://kubernetes.io/releases/version-skew-policy/).
Minor versions count; patches never do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

POLICY = "https://kubernetes.io/releases/version-skew-policy/"
#: Minor versions that a kubelet or a kube-proxy may be older than its API server.
KUBELET_MAY_LAG = 3
#: Before this minor of the kubelet (or kube-proxy), one less.
LAG_SINCE_MINOR = 25
#: Minor versions that a controller manager or a scheduler may be older than its API server.
MANAGER_MAY_LAG = 1

_VERSION = re.compile(r"^v?(\d+)\.(\d+)(?:\.(\d+))?(?:-(alpha|beta|rc)\.(\d+))?([-+].+)?")
#: Pre-releases in the order in which they come; a release comes after all of them.
_STAGES = ("alpha", "beta", "rc", "")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version. `stage` and `number` are those of a pre-release; a release has the last stage and 0.

    Attributes:
        vendor: What a provider adds, such as `-eks-1a2b` or `+k3s1`; it does not count when versions are compared.
    """

    major: int
    minor: int
    patch: int
    stage: int = len(_STAGES) - 1
    number: int = 0
    vendor: str = field(default="", compare=False)

    @property
    def line(self) -> tuple[int, int]:
        """Major and minor: what the skew policy looks at."""
        return self.major, self.minor

    @property
    def released(self) -> bool:
        """It is no pre-release."""
        return self.stage == len(_STAGES) - 1

    def __str__(self) -> str:
        pre = "" if self.released else f"-{_STAGES[self.stage]}.{self.number}"
        return f"v{self.major}.{self.minor}.{self.patch}{pre}{self.vendor}"


def minor(version: Version) -> str:
    """`1.37`."""
    return f"{version.major}.{version.minor}"


class Skew(StrEnum):
    """How a kubelet's version stands to its API server's."""

    WITHIN = "within"
    NEWER = "newer"
    TOO_OLD = "too-old"
    UNKNOWN = "unknown"


def parse(text: str) -> Version | None:
    """The version in a text such as `v1.36.3`, `1.37`, `v1.37.0-rc.1` or `v1.35.4-eks-1a2b`; None without one."""
    match = _VERSION.match(text)
    if match is None:
        return None
    stage = _STAGES.index(match[4] or "")
    return Version(int(match[1]), int(match[2]), int(match[3] or 0), stage, int(match[5] or 0), match[6] or "")


def kubelet_skew(kubelet: str, server: str) -> Skew:
    """Whether a kubelet of version `kubelet` may be used with an API server of version `server`.

    Not newer than the API server, up to three minor versions older, up to two where the kubelet is older than 1.25.
    """
    mine, theirs = parse(kubelet), parse(server)
    if mine is None or theirs is None:
        return Skew.UNKNOWN
    if mine.line > theirs.line:
        return Skew.NEWER
    return Skew.TOO_OLD if _lags(mine, theirs, _kubelet_lag(mine)) else Skew.WITHIN


# ---- the whole policy -------------------------------------------------------------------------------------------


#: What kubeadm upgrades, and from which version to which.
KUBEADM_UPGRADE = "https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-upgrade/"


@dataclass(frozen=True, slots=True)
class Part:
    """One running component.

    Attributes:
        component: `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`, `kubelet`, `kube-proxy`, `kubectl`.
        node: Where it runs; "" for a kubectl.
    """

    component: str
    node: str
    version: Version

    def __str__(self) -> str:
        where = f" of {self.node}" if self.node else ""
        return f"{self.component}{where} ({self.version})"


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule of the policy that does not hold.

    Attributes:
        part: Which component.
        rule: The rule, in words.
        allowed: The minor versions that would be allowed, such as `1.34 to 1.36`.
    """

    part: Part
    rule: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.part}: {self.rule}; allowed: {self.allowed}"


def violations(parts: Iterable[Part]) -> tuple[Violation, ...]:
    """Where the parts of one cluster are further apart than the policy allows, in the order of `parts`.

    Without an API server among them nothing can be said. API servers of two minors narrow what others may be: nobody
    may be newer than the oldest of them, nor too old for the newest.
    """
    everything = tuple(parts)
    servers = [part.version for part in everything if part.component == "kube-apiserver"]
    if not servers:
        return ()
    oldest, newest = min(servers), max(servers)
    found = (_violation(part, oldest, newest) for part in everything)
    proxies = (_proxy_beside_kubelet(part, everything) for part in everything if part.component == "kube-proxy")
    return tuple(v for v in (*found, *proxies) if v is not None)


def _violation(part: Part, oldest: Version, newest: Version) -> Violation | None:
    low, high, rule = _limits(part, oldest, newest)
    if low <= part.version.line <= high:
        return None
    return Violation(part, rule, _range(low, high))


def _limits(part: Part, oldest: Version, newest: Version) -> tuple[tuple[int, int], tuple[int, int], str]:
    """The oldest and newest minor that a part may be, and the rule that says so."""
    match part.component:
        case "kube-apiserver":
            return _older(newest, 1), newest.line, "API servers of one cluster are within one minor version"
        case "kubectl":
            return _older(newest, 1), _older(oldest, -1), "kubectl is within one minor version of the API server"
        case "kubelet" | "kube-proxy":
            lag = _kubelet_lag(part.version)
            rule = f"{part.component} is not newer than the oldest API server, and at most {lag} minors older"
            return _older(newest, lag), oldest.line, rule
        case _:
            rule = f"{part.component} is not newer than the oldest API server, and at most one minor older"
            return _older(newest, MANAGER_MAY_LAG), oldest.line, rule


def _proxy_beside_kubelet(proxy: Part, parts: Iterable[Part]) -> Violation | None:
    kubelet = next((p.version for p in parts if p.component == "kubelet" and p.node == proxy.node), None)
    if kubelet is None:
        return None
    lag = _kubelet_lag(min(kubelet, proxy.version))
    low, high = _older(kubelet, lag), _older(kubelet, -lag)
    if low <= proxy.version.line <= high:
        return None
    return Violation(proxy, f"kube-proxy is within {lag} minors of the kubelet beside it", _range(low, high))


def _kubelet_lag(version: Version) -> int:
    return KUBELET_MAY_LAG if version.minor >= LAG_SINCE_MINOR else KUBELET_MAY_LAG - 1


def _lags(mine: Version, theirs: Version, allowed: int) -> bool:
    return mine.major < theirs.major or theirs.minor - mine.minor > allowed


def _older(version: Version, minors: int) -> tuple[int, int]:
    return version.major, version.minor - minors


def _range(low: tuple[int, int], high: tuple[int, int]) -> str:
    first, last = (f"{major}.{minor}" for major, minor in (low, high))
    return first if low == high else f"{first} to {last}"


# ---- the way to a newer version ---------------------------------------------------------------------------------


class Workers(StrEnum):
    """When workers follow their control planes in an upgrade over several minors."""

    EACH_HOP = "each-hop"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Hop:
    """One minor version, or one patch, of an upgrade.

    Attributes:
        to: The version that it leads to.
        workers: Workers follow in this hop.
    """

    to: Version
    workers: bool


def target(wanted: str, offered: Iterable[Version]) -> Version:
    """The version that is meant: a patch as it is named, of a minor the newest release that is offered.

    Args:
        wanted: `1.37` or `1.37.2`.
        offered: What the nodes' package repositories have: what can be installed.

    Raises:
        Refused: It is no version, or not offered.
    """
    known = sorted(set(offered))
    named = parse(wanted)
    if named is None:
        raise Refused(
            f"{wanted!r} is no version of Kubernetes", remedy="name a minor or a patch, such as 1.37 or 1.37.2"
        )
    exact = re.fullmatch(r"v?\d+\.\d+", wanted) is None
    fitting = [v for v in known if (v == named if exact else v.line == named.line and v.released)]
    if not fitting:
        raise Refused(
            f"no package repository of the nodes offers Kubernetes {wanted.removeprefix('v')}",
            remedy=f"offered: {', '.join(map(str, known)) or 'nothing'}; see that the nodes reach that repository",
        )
    return fitting[-1]


def downgrade(current: Version, to: Version) -> Refused:
    """The refusal of a version that is older than the API server's.

    Source: kubeadm's documentation, "Upgrading kubeadm clusters"; etcd does not read data of a newer minor.
    """
    return Refused(
        f"Kubernetes {to} is older than the cluster's {current}: kubeadm does not downgrade",
        remedy=f"stay at {current} or newer; a control plane that was upgraded last goes back by"
        f" `orchestrator upgrade rollback`\nthe rule: {KUBEADM_UPGRADE}",
    )


def hops(
    current: Version, to: Version, offered: Iterable[Version], *, workers: Workers, kubelet: Version
) -> tuple[Hop, ...]:
    """The way from the API server's version to `to`: each minor once, each at its newest release that is offered.

    Args:
        current: Of the oldest API server.
        to: As `target` gives it.
        offered: What the nodes' package repositories have.
        workers: Whether workers follow in each hop, or only where they have to: in the last one, and before they
            would be too old for the API server.
        kubelet: Of the oldest worker.

    Returns:
        The hops in order; none when `to` is reached already.

    Raises:
        Refused: It would lead back, or over a minor that nobody offers. kubeadm goes one minor at a time.
    """
    if to < current:
        raise downgrade(current, to)
    if to.major != current.major:
        raise Refused(f"from {current} to {to}: there is no way from one major version to another", remedy=POLICY)
    if to == current and kubelet == current:
        return ()
    newest = _newest(v for v in offered if v.released)
    stops = [_stop(minor, to, newest) for minor in range(current.minor + 1, to.minor)]
    stops += [to]
    if _lags(kubelet, stops[0], _kubelet_lag(kubelet)):
        stops = [current, *stops]  # workers catch up before the API servers leave them behind too far
    return tuple(_with_workers(stops, kubelet, workers))


def _newest(offered: Iterable[Version]) -> Mapping[tuple[int, int], Version]:
    """The newest of each minor."""
    return {v.line: v for v in sorted(offered)}


def _stop(minor: int, to: Version, newest: Mapping[tuple[int, int], Version]) -> Version:
    found = newest.get((to.major, minor))
    if found is None:
        raise Refused(
            f"the way to {to} leads over 1.{minor}, which no package repository of the nodes offers; no minor may be"
            " skipped",
            remedy=f"make packages of 1.{minor} reachable on every node ({POLICY})",
        )
    return found


def _with_workers(stops: list[Version], kubelet: Version, workers: Workers) -> Iterator[Hop]:
    """Workers follow where they are asked to, and before the next hop would leave them behind too far."""
    for stop, following in zip(stops, [*stops[1:], None], strict=True):
        follow = workers is Workers.EACH_HOP or following is None or _lags(kubelet, following, _kubelet_lag(kubelet))
        if follow:
            kubelet = stop
        yield Hop(stop, follow)
