"""Gates: steps without an effect, which let a run pass only on evidence that what was done is well.

A kubelet that starts for the first time with a new minor restarts all static pods of its node two to five seconds
later (seen on three of three control planes), so one good look proves nothing: what a gate wants of API servers has to
last.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.actions.drain import survey
from orchestrator.actions.kubeadm import advice, state_of, unmatched
from orchestrator.actions.members import members
from orchestrator.actions.packages import looked, target
from orchestrator.cluster import queries
from orchestrator.cluster.etcd import troubles
from orchestrator.cluster.eviction import Outcome
from orchestrator.cluster.hostfacts import (
    CONTROL_PLANE,
    parse_api,
    parse_endpoint,
    parse_watches,
)
from orchestrator.cluster.versions import parse
from orchestrator.engine.plan import Done, Needed
from orchestrator.errors import FactUnreadable, GoalNotReached, HostError, OrchestratorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.cluster.hostfacts import EtcdFacts
    from orchestrator.cluster.model import Pod, Renewal, Workload
    from orchestrator.cluster.versions import Version
    from orchestrator.engine.clock import Clock
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

T = TypeVar("T")

#: Source: a kubelet renews its lease every 10 s, and counts as away after 40.
FRESH_S = 20.0
#: Between two looks while a gate waits.
PAUSE_S = 1.0
#: Source: leader election renews every 2 s, and gives up after 10.
LEADS_S = 10.0
LEADERS = ("kube-controller-manager", "kube-scheduler")
#: Clients of a restarted API server come back within so long.
DEAF_S = 75.0
#: How many of a kind a message names.
NAMES = 5


class Gate:
    """`cluster.gate`: all that its checks ask for holds, API servers for `lasts_s` without a break.

    Params: `checks`, some of
    - `node`: Ready, its kubelet of `version`, its lease fresh;
    - `components`: its static pods of `version`, and those that its kubelet is to run now;
    - `daemons`: its DaemonSets' pods ready;
    - `api`: every API server ready and answering reads;
    - `etcd`: every member well, and of its manifest's version;
    - `leaders`: a controller manager and a scheduler lead;
    - `watches`: as many watches on pods and Services as the step `noted` found;
    - `owners`: as many pods ready as it found;
    - `budgets`: none below what it needs, or has had;
    and `version`; `control_planes`; `lasts_s`; `noted`, the id of a `cluster.note`; `drain`, where the gate is for a
    drain only: flags of it, with which pods are looked for that would move; without any there is nothing to wait for;
    `rollback`, where it is one on the way back.
    What was not well when it was noted is not waited for.

    Args:
        clock: For how long something lasts.
    """

    only_waits = True

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._pulse = _Pulse(clock)
        self._mutex = threading.Lock()

    def probe(self, view: Site, step: Step) -> Facts:
        """What is not well, and for how long all of it has been."""
        if "drain" in step.params and not _to_drain(view, step, self._clock):
            return {"wrong": [], **_UNASKED, "well_s": 0.0, "waited_s": 0.0}
        checks = step.params["checks"]
        wrong = [text for check in checks for text in _passing(partial(_CHECKS[check], view, step, self._pulse))]
        judged = dict(_UNASKED)
        try:
            judged |= {check: look(view, step) for check, look in _JUDGED.items() if check in checks}
        except OrchestratorError as err:
            wrong += _passes(err)
        now = self._clock.now()
        with self._mutex:
            if wrong:
                self._since.pop(step.id, None)
            well_s, waited_s = (now - since.get(step.id, now) for since in (self._since, self._began))
        return {"wrong": wrong, **judged, "well_s": well_s, "waited_s": waited_s}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when all is well, and has been for long enough."""
        if not past:  # nothing of the run has begun: what it will wait for is what people want to know
            lasting = f", for {step.params['lasts_s']:g} s" if step.params["lasts_s"] else ""
            return Needed(f"waits until all is well: {', '.join(step.params['checks'])}{lasting}")
        noted = past.get(step.params["noted"], {})
        wrong, passed_over = _unready(noted.get("unready", ()), now["daemons"])
        wrong = [*now["wrong"], *_short(noted.get("owners", {}), now["owners"]), *wrong]
        wrong += [*_lacking(noted.get("budgets"), now["budgets"])]
        wrong += _deaf(noted.get("watches"), now["watches"], now["waited_s"])
        if wrong:
            return Needed("; ".join(wrong[:NAMES]), again=step.params["lasts_s"] > 0)
        if now["well_s"] < step.params["lasts_s"]:
            return Needed(f"well for {now['well_s']:.0f} s of {step.params['lasts_s']:g}", again=True)
        well = f"well for {now['well_s']:.0f} s" if step.params["lasts_s"] else "all is well"
        return Done(f"{well}, but for what was not before: {', '.join(passed_over)}" if passed_over else well)

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Look until it lasted; nothing is changed.

        API servers are each asked by their own host, twice a second, and the whole cluster through the operator's
        own way in.

        Raises:
            GoalNotReached: A control plane was not well when time was up; it says what runs there, and the ways on.
        """
        del now
        lasts_s, wrong = step.params["lasts_s"], ["nothing was seen yet"]
        with self._mutex:
            self._began.setdefault(step.id, self._clock.now())
        while lasts_s and (run.deadline is None or self._clock.now() < run.deadline):
            run.guard()
            wrong = self.probe(hands, step)["wrong"] or _broken(hands, step, lasts_s, self._clock)
            if not wrong:
                with self._mutex:
                    self._since[step.id] = self._clock.now() - lasts_s
                return
            run.emit("gate.waiting", why="; ".join(wrong[:NAMES]))
            self._clock.sleep(PAUSE_S)
        if lasts_s:
            raise GoalNotReached(
                f"{step.node}: not well after {step.timeout_s:g} s: {'; '.join(wrong[:NAMES])}\n"
                + state_of(hands, step.node, ""),
                remedy=advice(step, run.run, control_plane=True),
            )


class Note:
    """`cluster.note`: how things are before: a gate waits for no more.

    Of the node: how many pods of each owner on it are ready, and which DaemonSets' pods are not; of the cluster: how
    many pods each budget has, and how many clients follow pods.

    Params: `control_planes`.
    """

    def __init__(self) -> None:
        self._noted: set[str] = set()

    def probe(self, view: Site, step: Step) -> Facts:
        """Owner -> pods ready; DaemonSets whose pods are not; budget -> pods ready; clients that watch pods."""
        mine = {key for pod in view.pods_on(step.node).pods if (key := _owner_key(pod))}
        return {
            "owners": {key: ready for key, (ready, _) in _wanted(view, step).items() if key in mine},
            "unready": sorted({owner for owner, _ in _daemons(view, step)}),
            "budgets": {key: healthy for key, (healthy, _) in _budgets(view, step).items()},
            "watches": watching(view, step),
        }

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done once it is in the journal."""
        del past
        count = len(now["owners"])
        return Done(f"{count} owners noted") if step.id in self._noted else Needed(f"{count} owners to note")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Nothing: the journal has the facts by now."""
        del hands, now, run
        self._noted.add(step.id)


def _to_drain(view: Site, step: Step, clock: Clock) -> bool:
    """Whether the drain would move a pod that runs. While that cannot be told, it may be.

    One that has ended is gone at once, without its kubelet: that of kubeadm's own health check is often there.
    Source: Kubernetes 1.36, `pkg/registry/core/pod/strategy.go`, `CheckGracefulDelete`.
    """
    flags = {**step.params["drain"], "cordon": ""}

    def moving() -> list[str]:
        judged = survey(view, step.node, flags, clock.wall()).having(Outcome.EVICT)
        return [v.pod.key for v in judged if not v.pod.finished]

    return bool(_passing(moving))


def watching(view: Site, step: Step) -> int | None:
    """How many clients watch pods at all API servers together; None where one does not tell."""
    counts = [parse_watches(view.ask(name, queries.WATCHES)) for name in step.params["control_planes"]]
    return None if None in counts else sum(filter(None, counts))


def _deaf(found: int | None, now: int | None, waited_s: float) -> list[str]:
    """Clients that followed pods before an API server restarted, and do not yet: their next attempt may be a while off.

    A kubelet that does not follow its pods starts and ends none: a drain now would only wait, with its node out of
    service. Source: client-go's reflectors try again after up to 30 s, doubled by their jitter; seen: 55 s. Who has
    not come back by then had other reasons to go.
    """
    if found is None or now is None or now >= found or waited_s > DEAF_S:
        return []
    return [f"{now} of {found} watches on pods and Services are back"]


def _wanted(view: Site, step: Step) -> dict[str, list[int]]:
    """Owner -> pods ready, and how many are wanted now: somebody may have scaled it down meanwhile.

    Of owners that bring pods back one by one.
    """
    del step
    found = (w for w in view.workloads() if w.kind not in ("DaemonSet", "Job"))
    return {_key(w): [w.ready, w.ready if w.wanted is None else w.wanted] for w in found}


def _key(workload: Workload) -> str:
    return f"{workload.kind} {workload.namespace}/{workload.name}"


def _owner_key(pod: Pod) -> str:
    owner = pod.controller
    return f"{owner.kind} {pod.namespace}/{owner.name}" if owner else ""


def _short(found: Mapping[str, int], now: Mapping[str, list[int]]) -> Iterator[str]:
    """Owners with fewer ready pods than were found; one that is gone, or smaller, was somebody's decision."""
    for key, ready in found.items():
        now_ready, wanted = now.get(key, [ready, ready])
        if now_ready < min(ready, wanted):
            yield f"{key} has {now_ready} pods ready, had {ready}"


def _unready(found: Sequence[str], now: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """DaemonSets' pods that are not ready, and owners of those that were not before, either: they hold nobody up."""
    known = sorted({owner for owner, _ in now if owner in found})
    return [said for owner, said in now if owner not in known], known


def _lacking(found: Mapping[str, int] | None, now: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Budgets with fewer ready pods than they need, and than they had: one may have been short for weeks.

    Args:
        found: None in the journal of a version that noted none: then all have to have what they need.
        now: Ready, needed.
    """
    for key, (healthy, needed) in now.items():
        had = needed if found is None else found.get(key, 0)
        if healthy < min(had, needed):
            text = f"needs {needed}" if had >= needed else f"had {had} of {needed} needed"
            yield f"budget {key}: {healthy} ready, {text}"


def _broken(view: Site, step: Step, lasts_s: float, clock: Clock) -> list[str]:
    """What broke within `lasts_s` of every API server's answers, seen from each host, and through the endpoints.

    Those are the cluster's own, as the node asks it, and the operator's.
    """
    names = step.params["control_planes"]

    def here() -> list[str]:
        end = clock.now() + lasts_s
        while clock.now() < end:
            view.glance()
            clock.sleep(PAUSE_S)
        return []

    with ThreadPoolExecutor(len(names) + 2, "gate") as crew:
        work = [crew.submit(_passing, partial(_server, view, name, lasts_s)) for name in names]
        work.append(crew.submit(_passing, partial(_endpoint, view, step.node, lasts_s)))
        work.append(crew.submit(_passing, here))
    return [said for each in work for said in each.result()]


def _server(view: Site, name: str, lasts_s: float) -> list[str]:
    """What is wrong with a control plane's API server, asked by its own host for so long."""
    said, _ = parse_api(view.ask(name, queries.API, f"{lasts_s:g}"))
    return [f"API server of {name}: {said}"] if said else []


def _endpoint(view: Site, node: str, lasts_s: float) -> list[str]:
    """What broke at the cluster's endpoint, asked by a node for so long."""
    said = parse_endpoint(view.ask(node, queries.ENDPOINT, f"{lasts_s:g}"))
    return [f"as {node} asks it, {said}"] if said else []


def _passing(look: Callable[[], list[str]]) -> list[str]:
    """What a look found, or the error that it met, where that may pass: it is said when the gate's time is up.

    Seen: a kubelet's first start with a new minor restarted etcd between two of the questions to its member.
    """
    try:
        return look()
    except OrchestratorError as err:
        return _passes(err)


def _passes(err: OrchestratorError) -> list[str]:
    """An error as something that is not well yet: a host, or an etcd, that just restarts answers half or not at all.

    Raises:
        OrchestratorError: It is one that waiting does not mend.
    """
    if err.retryable or isinstance(err, FactUnreadable | HostError):
        return [str(err)]
    raise err


# ---- the checks -----------------------------------------------------------------------------------------------------


class _Pulse:
    """Whether leases are kept, by the cluster's own clocks, and where one of those is off, by seeing a lease change.

    The operator's clock is not asked: it may be off, and is nobody's business here.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[float, float]] = {}
        self._mutex = threading.Lock()

    def age_s(self, name: str, lease: Renewal | None, fresh_s: float) -> float:
        """How long ago the lease was renewed; 0 where that is not to be told by a clock, but it was seen to change."""
        if lease is None:
            return math.inf
        if abs(lease.age_s) <= fresh_s:
            return max(0.0, lease.age_s)
        now = self._clock.now()
        with self._mutex:
            at, changed = self._seen.get(name, (lease.at, -math.inf))
            changed = now if lease.at != at else changed
            self._seen[name] = (lease.at, changed)
        return 0.0 if now - changed <= fresh_s else abs(lease.age_s)


def _node(view: Site, step: Step, pulse: _Pulse) -> list[str]:
    node, wanted = view.node(step.node), str(target(step))
    if not node.ready:
        return [f"{step.node} is not Ready ({node.ready_reason})"]
    if node.kubelet_version != wanted:
        return [f"the API has kubelet {node.kubelet_version} of {step.node}, not {wanted} yet"]
    age_s = pulse.age_s(step.node, view.heartbeat(step.node), FRESH_S)
    return [f"{step.node} has not renewed its lease {_ago(age_s)}"] if age_s > FRESH_S else []


def _ago(age_s: float) -> str:
    return f"for {age_s:.0f} s" if age_s < math.inf else "yet"


def _components(view: Site, step: Step, pulse: _Pulse) -> list[str]:
    del pulse
    found, wanted = looked(view, step.node), target(step)
    wrong = [
        f"{name} of {step.node} is {found.components.get(name) or 'not running'}, not {wanted}"
        for name in CONTROL_PLANE
        if found.components.get(name) != wanted
    ]
    if "etcd" in found.manifests and "etcd" not in found.components:
        wrong.append(f"etcd of {step.node} does not run")
    stale = () if wrong else unmatched(view, step.node)
    return wrong + [f"{name} of {step.node} is not of its manifest yet, here or in the API" for name in stale]


def _api(view: Site, step: Step, pulse: _Pulse) -> list[str]:
    """One look; that it lasts is seen to by `apply`."""
    del pulse
    return [
        text for said in _each(step.params["control_planes"], lambda name: _server(view, name, 0.0)) for text in said
    ]


def _each(names: Sequence[str], work: Callable[[str], T]) -> list[T]:
    """What `work` gives for each host, all asked at once: a gate is short where nothing is wrong."""
    with ThreadPoolExecutor(max(1, len(names)), "gate") as crew:
        return list(crew.map(work, names))


def _leaders(view: Site, step: Step, pulse: _Pulse) -> list[str]:
    """Nobody brings pods back, or takes them out of their Services, while no controller manager leads.

    Seen: 55 requests of 3,026 went to pods that had gone, in a drain that began before one did.
    """
    del step
    ages = {name: pulse.age_s(name, view.leads(name), LEADS_S) for name in LEADERS}
    return [
        f"no {name} leads: {f'its lease is {age:.0f} s old' if age < math.inf else 'it has no lease'}"
        for name, age in ages.items()
        if age > LEADS_S
    ]


def _etcd(view: Site, step: Step, pulse: _Pulse) -> list[str]:
    """Every member, asked directly."""
    del pulse
    found = members(view, step.params["control_planes"])
    if not found.members:
        return ["no member of etcd tells how it is"] if found.stacked else []
    return [*troubles(found.members, found.statuses, found.health), *found.alarms, *_versions(view, step, found)]


def _versions(view: Site, step: Step, found: EtcdFacts) -> Iterator[str]:
    """Members that are not of their manifests' versions; and more than one version, where all control planes are done.

    Where all are of one version, the node's own manifest is enough to look at.
    """
    names = {member.id: member.name for member in found.members}
    told = {names.get(status.id, ""): status.version for status in found.statuses}
    mixed = len(set(told.values())) > 1
    hosts = _each(step.params["control_planes"] if mixed else [step.node], lambda name: looked(view, name))
    for host in hosts:
        manifest = host.manifests.get("etcd")
        version = told.get(manifest.flag("name") or host.node, "") if manifest else ""
        if manifest and version and not _same(manifest.version, parse(version)):
            yield f"etcd of {host.node} is {version}, and its manifest's is {manifest.version}"
    ready = (m.version == target(step) for host in hosts if (m := host.manifests.get("kube-apiserver")))
    if mixed and all(ready):
        yield f"every control plane is at {target(step)}, and members of etcd are {', '.join(sorted(told.values()))}"


def _same(manifest: Version | None, running: Version | None) -> bool:
    """Whether an image's tag tells that version; a tag of somebody's own, which is no version of etcd's, tells none."""
    if manifest is None or running is None or manifest.major != running.major:
        return True
    return (manifest.minor, manifest.patch) == (running.minor, running.patch)


def _noted(view: Site, step: Step, pulse: _Pulse) -> list[str]:
    """Judged by `decide`, which has the journal."""
    del view, step, pulse
    return []


_CHECKS: dict[str, Any] = {
    "node": _node,
    "components": _components,
    "daemons": _noted,
    "api": _api,
    "etcd": _etcd,
    "leaders": _leaders,
    "owners": _noted,
    "budgets": _noted,
    "watches": _noted,
}


# ---- what is judged by what was noted -------------------------------------------------------------------------------


def _daemons(view: Site, step: Step) -> list[list[str]]:
    """Owner and words for each pod of a DaemonSet on the node that is not ready."""
    pods = view.pods_on(step.node).pods
    mine = [p for p in pods if p.controller and p.controller.kind == "DaemonSet" and p.deleting_since is None]
    return [
        [_owner_key(p), f"{p.key} is not ready{p.waiting_reason and f' ({p.waiting_reason})'}"]
        for p in mine
        if not p.ready
    ]


def _budgets(view: Site, step: Step) -> dict[str, list[int]]:
    """Budget -> pods ready, and needed."""
    del step
    return {b.key: [b.healthy, b.needed] for b in view.budgets()}


_JUDGED: Mapping[str, Callable[[Site, Step], Any]] = {
    "daemons": _daemons,
    "owners": _wanted,
    "budgets": _budgets,
    "watches": watching,
}
_UNASKED: Facts = {"daemons": [], "owners": {}, "budgets": {}, "watches": None}
