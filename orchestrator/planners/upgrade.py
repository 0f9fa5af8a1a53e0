"""The plan of a Kubernetes upgrade: control planes one after another, then workers, from repository to uncordon.

One sequence for all nodes; what differs is parameters. What is done already of a node is not left out here: `decide`
sees it; only workers that are done altogether are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.versions import Workers, minor
from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.errors import BadUsage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.cluster.versions import Hop, Version

#: Seconds. kubeadm waits up to five minutes for each of four static pods by itself.
FETCH_S = 900.0
SNAPSHOT_S = 1800.0
FILE_S = 120.0
PACKAGE_S = 900.0
KUBEADM_S = 1800.0
BESIDE_S = 300.0
GATE_S = 600.0
PATCH_S = 60.0
#: How long every API server has to answer without a break before the next node is touched. A kubelet that starts with
#: a new minor restarts its static pods 2 to 5 s later: it has to be well above that.
LASTS_S = 15.0
KUBELET_PACKAGES = ("kubelet", "kubectl")
ALL_PACKAGES = ("kubeadm", *KUBELET_PACKAGES)


@dataclass(frozen=True, slots=True)
class Target:
    """One node to upgrade.

    Attributes:
        etcd: It has an etcd member of its own, of which a snapshot can be taken there.
        leads: Its etcd member leads.
        asks_itself: Its kubelet asks the API server of the same host only.
        upgrade: It is upgraded; else it is only known.
        at: The version of all of its Kubernetes, where that is one.
    """

    name: str
    control_plane: bool
    etcd: bool = True
    leads: bool = False
    asks_itself: bool = True
    upgrade: bool = True
    at: Version | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """A command of the operator's around each node.

    Attributes:
        on_node: It runs there, as root; else on the operator's machine.
    """

    argv: tuple[str, ...]
    timeout_s: float
    on_node: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        name: Of the plan: what it leaves on hosts is known by it.
        max_unavailable: Workers out of service at once.
        accept: Names of kubeadm's checks that may fail.
        options: Further ones for kubeadm.
        kubeadm_timeout_s: On each node, after which it is ended there.
        flags: The params of `node.drain`, but for `cordon`.
        pause_after: `first-control-plane`, `control-planes`, `first-worker` or "".
        configuration: kubeadm's ClusterConfiguration, as YAML.
        owner: Whose cordons they are.
        hasten: Spare kubelets of control planes a wait of half a minute that leads to nothing.
    """

    name: str
    owner: str
    flags: Mapping[str, Any]
    drain_timeout_s: float | None
    accept: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    kubeadm_timeout_s: float = KUBEADM_S
    max_unavailable: int = 1
    pause_after: str = ""
    configuration: str = ""
    before: Hook | None = None
    after: Hook | None = None
    lasts_s: float = LASTS_S
    gate_s: float = GATE_S
    hasten: bool = True


STRATEGIES = ("rolling", "all-at-once", "auto")
PAUSES = ("first-control-plane", "control-planes", "first-worker")


def upgrade(targets: Sequence[Target], hops: Sequence[Hop], request: Request) -> Plan:
    """Everything from a snapshot of etcd to the last worker, hop after hop.

    Args:
        targets: All nodes of the cluster, in the order in which workers are done.
        hops: As `versions.hops` gives them.
        request: How.

    Raises:
        BadUsage: No node is left to upgrade.
    """
    if not any(t.upgrade for t in targets):
        raise BadUsage("no node is to be upgraded", remedy="name nodes of the cluster with --nodes")
    build = _Build(request, tuple(targets))
    waves: list[Wave] = []
    for hop in hops:
        waves += build.hop(hop, len(waves))
    last = hops[-1].to if hops else None
    return Plan("upgrade", f"upgrade to {last}" if last else "upgrade", tuple(waves))


def behind(target: Target, to: Version) -> bool:
    """Whether its kubelet is older than `to`, or not whole."""
    return target.at is None or target.at < to


def order(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Control planes in the order in which they are done: the one whose etcd member leads comes last."""
    return tuple(sorted((t for t in targets if t.control_plane), key=lambda t: t.leads))


@dataclass(slots=True)
class _Build:
    """One plan under construction.

    Attributes:
        after: Control plane -> the step that upgrades it in this hop.
        kubeadms: Node -> the step that installs its kubeadm in this hop.
        settings: Workers that have a step for their settings in this hop.
    """

    request: Request
    targets: tuple[Target, ...]
    after: dict[str, str] = field(default_factory=dict)
    kubeadms: dict[str, str] = field(default_factory=dict)
    settings: set[str] = field(default_factory=set)
    wave: int = 0
    paused: bool = False

    def hop(self, hop: Hop, first: int) -> list[Wave]:
        """The waves of one hop, numbered from `first`."""
        self.wave = first
        self.after, self.kubeadms, self.settings = {}, {}, set()
        planes = [t for t in order(self.targets) if t.upgrade]
        workers = [t for t in self.targets if not t.control_plane and t.upgrade and hop.workers]
        # Who is there already, from a run before, is not drained for nothing.
        workers = [t for t in workers if behind(t, hop.to)]
        if not planes and not workers:
            return []
        waves = [self._prepare(hop.to, planes, workers)]
        # kubeadm's configuration tells whether one of them led already: in a later run the others follow.
        # A kubelet that may ask any API server has to wait for all of them. Source: "Version Skew Policy", kubelet.
        one_by_one = all(plane.asks_itself for plane in planes)
        size = self.request.max_unavailable
        early = self._early(workers[:size]) if planes else ()
        begun = self._configuration(hop.to) == self.request.configuration != ""
        for number, plane in enumerate(planes):
            mode = "node" if number or begun else "apply"
            beside = early if plane is planes[-1] else ()
            waves += self._control_plane(plane, hop.to, mode, first + len(waves), apart=not one_by_one, beside=beside)
            waves += self._pause("first-control-plane", plane.name, first + len(waves))
        for plane in () if one_by_one else [p for p in planes if behind(p, hop.to)]:
            self.wave = first + len(waves)
            waves.append(Wave((Lane(plane.name, tuple(self._own_kubelet(plane, hop.to, None))),)))
        if planes:
            waves += self._pause("control-planes", planes[-1].name, first + len(waves))
        for start in range(0, len(workers), size):
            self.wave = first + len(waves)
            some, following = workers[start : start + size], workers[start + size : start + 2 * size]
            lanes = [Lane(w.name, tuple(self._worker(w, hop.to))) for w in some]
            lanes += [Lane(w.name, tuple(self._prepared(w.name, hop.to))) for w in self._early(following)]
            waves.append(Wave(tuple(lanes)))
            waves += self._pause("first-worker", some[0].name, first + len(waves))
        return waves

    # ---- waves --------------------------------------------------------------------------------------------------

    def _prepare(self, to: Version, planes: list[Target], workers: list[Target]) -> Wave:
        """A snapshot of etcd where there is one, and everything fetched while all nodes serve."""
        lanes, member = [], next((plane for plane in planes if plane.etcd), None)
        for target in (*planes, *workers):
            steps = []
            if target is member:
                file = f"{self.request.name}-{to}.db"
                steps.append(
                    self._step(target.name, "etcd.snapshot", {"file": file, "reason": "pre-upgrade"}, SNAPSHOT_S)
                )
            params = {"version": str(to), "packages": list(ALL_PACKAGES), "images": target.control_plane}
            steps.append(self._step(target.name, "packages.prefetch", params, FETCH_S))
            lanes.append(Lane(target.name, tuple(steps)))
        return Wave(tuple(lanes))

    def _control_plane(
        self, plane: Target, to: Version, mode: str, wave: int, *, apart: bool, beside: Sequence[Target]
    ) -> Iterator[Wave]:
        """One control plane. While kubeadm waits there, those `beside` get theirs."""
        self.wave = wave
        steps = list(self._begun(plane, to))
        if beside:
            yield Wave((Lane(plane.name, tuple(steps)),))
            self.wave, steps = wave + 1, []
        steps += self._static_pods(plane, to, mode, wave, apart=apart)
        if not behind(plane, to):
            steps.append(self._step(plane.name, "host.tidy", {}, FILE_S))
        elif not apart:
            steps += self._own_kubelet(plane, to, wave)
        ready = (Lane(each.name, tuple(self._ready(each.name, to))) for each in beside)
        yield Wave((Lane(plane.name, tuple(steps)), *ready))

    def _early(self, workers: Sequence[Target]) -> Sequence[Target]:
        """Workers that are made ready while nodes before them are worked at; none where a pause or hook comes first."""
        pauses = bool(self.request.pause_after) and not self.paused
        return () if pauses or self.request.before else workers

    def _pause(self, after: str, node: str, wave: int) -> list[Wave]:
        if self.request.pause_after != after or self.paused:
            return []
        self.paused = True
        self.wave = wave
        return [
            Wave((Lane(node, (self._step(node, "run.pause", {"why": f"after the {after.replace('-', ' ')}"}, None),)),))
        ]

    # ---- lanes --------------------------------------------------------------------------------------------------

    def _begun(self, target: Target, to: Version) -> Iterator[Step]:
        """A control plane before kubeadm runs on it."""
        node = target.name
        yield self._gate(node, to, "before", ("api", "etcd"), 0.0)
        yield self._note(node)
        yield from self._hook(node, "before", self.request.before)
        yield from self._ready(node, to)

    def _static_pods(self, target: Target, to: Version, mode: str, wave: int, *, apart: bool) -> Iterator[Step]:
        """A control plane's static pods. The first one leads kubeadm's upgrade, the others follow it.

        Source: kubeadm's documentation, "Upgrading kubeadm clusters": apply, drain, kubelet, uncordon.
        """
        node, noted = target.name, self._noted(target.name, wave)
        yield self._upgrade(node, to, mode)
        if apart:
            proof = ("components", "api", "etcd")
            yield self._gate(node, to, "static-pods", proof, self.request.lasts_s, noted=noted)
        # Who lost its watch by the restart of an API server starts and ends no pods: a drain now would only wait.
        checks = ("leaders", "watches")
        yield self._gate(node, to, "followed", checks, 0.0, drain=self.request.flags, noted=noted)

    def _own_kubelet(self, target: Target, to: Version, wave: int | None) -> Iterator[Step]:
        """A control plane's kubelet, whose first start restarts its static pods once more.

        Args:
            target: The control plane.
            to: The version.
            wave: The one in which it was noted what runs; None to note it now.
        """
        node = target.name
        if wave is None:
            yield self._note(node)
        noted = self._noted(node, wave)
        drain = self._drain(node)
        yield from drain
        yield self._kubelet(node, to, drain)
        checks = ("node", "components", "daemons", "api", "etcd")
        yield self._gate(node, to, "upgraded", checks, self.request.lasts_s, noted=noted)
        yield from self._return(node, drain)
        yield from self._settled(node, to, noted)

    def _worker(self, target: Target, to: Version) -> Iterator[Step]:
        """One worker. All that its pods need not wait for comes before the cordon."""
        node = target.name
        yield self._note(node)
        yield from self._hook(node, "before", self.request.before)
        yield from self._prepared(node, to)
        drain = self._drain(node)
        yield from drain
        yield self._kubelet(node, to, drain)
        yield self._gate(node, to, "upgraded", ("node", "daemons"), 0.0)
        yield from self._return(node, drain)
        yield from self._settled(node, to)

    def _prepared(self, node: str, to: Version) -> Iterator[Step]:
        """A worker's kubeadm, and its settings by that, which its kubelet reads when it starts; what has no step yet.

        Should the old one start meanwhile, it passes over what it does not know. Source: Kubernetes 1.36,
        `pkg/kubelet/kubeletconfig/util/codec`: v1beta1 is read leniently where it cannot be strictly.
        """
        if node not in self.kubeadms:
            yield from self._ready(node, to)
        if node not in self.settings:
            self.settings.add(node)
            yield self._upgrade(node, to, "node")

    def _ready(self, node: str, to: Version) -> Iterator[Step]:
        """Its kubeadm, which runs nothing by itself: the node stays as it is."""
        yield self._step(node, "packages.repository", {"minor": minor(to)}, FILE_S)
        step = self._step(node, "packages.install", {"version": str(to), "packages": ["kubeadm"]}, PACKAGE_S)
        self.kubeadms[node] = step.id
        yield step

    def _upgrade(self, node: str, to: Version, mode: str) -> Step:
        params: dict[str, Any] = {
            "version": str(to),
            "mode": mode,
            "accept": list(self.request.accept),
            "options": list(self.request.options),
            "control_planes": self._planes,
            "after": dict(self.after),
            "kubeadm": self.kubeadms[node],
            "hasten": self.request.hasten,
            "limit_s": self.request.kubeadm_timeout_s,
            **({"takes_out": True} if node in self._planes else {}),
        }
        # What comes before and after it on that node has time of its own.
        step = self._step(node, "kubeadm.upgrade", params, self.request.kubeadm_timeout_s + BESIDE_S)
        if node in self._planes:
            self.after[node] = step.id
        return step

    def _drain(self, node: str) -> tuple[Step, Step]:
        marked = {"owner": self.request.owner, "reason": "Kubernetes upgrade", "takes_out": True}
        cordon = self._step(node, "node.cordon", marked, PATCH_S)
        params = {**self.request.flags, "cordon": cordon.id}
        return cordon, self._step(node, "node.drain", params, self.request.drain_timeout_s)

    def _kubelet(self, node: str, to: Version, drain: tuple[Step, Step]) -> Step:
        params = {
            "version": str(to),
            "packages": list(KUBELET_PACKAGES),
            "control_planes": self._planes,
            "after": dict(self.after),
            "drain": dict(drain[1].params),
            "drained": drain[1].id,
        }
        return self._step(node, "kubelet.upgrade", params, PACKAGE_S)

    def _return(self, node: str, drain: tuple[Step, Step]) -> Iterator[Step]:
        """Back into service."""
        yield self._step(node, "node.return", {"cordon": drain[0].id, "owner": self.request.owner}, PATCH_S)
        yield from self._hook(node, "after", self.request.after)

    def _settled(self, node: str, to: Version, noted: str = "") -> Iterator[Step]:
        """Well there, before another node is taken out."""
        checks = ("leaders", "owners", "budgets", "watches") if node in self._planes else ("owners", "budgets")
        yield self._gate(node, to, "settled", checks, 0.0, noted=noted or self._noted(node))
        yield self._step(node, "host.tidy", {}, FILE_S)

    def _hook(self, node: str, when: str, hook: Hook | None) -> Iterator[Step]:
        if hook:
            params = {"argv": list(hook.argv), "run_timeout_s": hook.timeout_s, "on_node": hook.on_node}
            yield self._step(node, "hook.run", params, hook.timeout_s + PATCH_S, f":{when}")

    def _note(self, node: str) -> Step:
        return self._step(node, "cluster.note", {"control_planes": self._planes}, PATCH_S)

    def _noted(self, node: str, wave: int | None = None) -> str:
        return f"{self.wave if wave is None else wave}/{node}/cluster.note"

    def _gate(self, node: str, to: Version, name: str, checks: tuple[str, ...], lasts_s: float, **more: Any) -> Step:
        params = {
            "checks": list(checks),
            "version": str(to),
            "control_planes": self._planes,
            "lasts_s": lasts_s,
            "noted": self._noted(node),
            **more,
        }
        return self._step(node, "cluster.gate", params, self.request.gate_s, f":{name}")

    # ---- parts --------------------------------------------------------------------------------------------------

    @property
    def _planes(self) -> list[str]:
        return [t.name for t in self.targets if t.control_plane]

    def _step(self, node: str, action: str, params: Mapping[str, Any], timeout_s: float | None, more: str = "") -> Step:
        own = {} if action.startswith(("node.", "run.", "hook.")) else {"plan": self.request.name}
        return Step(f"{self.wave}/{node}/{action}{more}", action, node, {**own, **params}, timeout_s)

    def _configuration(self, to: Version) -> str:
        """The configuration of kubeadm as it will be."""
        return re.sub(r"(?m)^kubernetesVersion:.*$", f"kubernetesVersion: {to}", self.request.configuration)


def check(strategy: str, pause_after: str) -> None:
    """Refuse what cannot be meant, before anything is asked.

    Raises:
        BadUsage: One of them is none.
    """
    if strategy not in STRATEGIES:
        raise BadUsage(f"--strategy={strategy} is none", remedy=f"one of {', '.join(STRATEGIES)}")
    if pause_after not in ("", *PAUSES):
        raise BadUsage(f"--pause-after={pause_after} is none", remedy=f"one of {', '.join(PAUSES)}")


def strategy(wanted: str, workers: int, schedulable: int) -> tuple[str, str]:
    """The strategy that `auto` stands for, and why; another one as it is.

    Args:
        wanted: `rolling`, `all-at-once` or `auto`.
        workers: How many are to be upgraded.
        schedulable: Nodes that take pods of applications.
    """
    if wanted != "auto":
        return wanted, ""
    if workers <= 1 and schedulable <= 1:
        return "all-at-once", "there is no other node that could take the pods of the only one that runs them"
    return "rolling", f"{schedulable} nodes take pods: those of one can move to the others"


def workers_mode(text: str) -> Workers:
    """`--workers`.

    Raises:
        BadUsage: It is none.
    """
    try:
        return Workers(text)
    except ValueError as err:
        raise BadUsage(f"--workers={text} is none", remedy="each-hop or last") from err
