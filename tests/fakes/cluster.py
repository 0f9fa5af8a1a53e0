"""A cluster in memory: nodes, pods with controllers and kubelets, disruption budgets, watches. On a fake clock.

What it does is what a real API server, its controllers and kubelets do, as `tests/contract` holds it to; where they
have a delay, it has one. `view` gives somebody who reads, `hands` somebody who changes.
"""

import heapq
import threading
from collections import deque
from dataclasses import dataclass, replace

from orchestrator.cluster.model import Budget, Node, OwnerRef, Pod, PodChange, PodList, Selector, Workload
from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, Gone
from orchestrator.errors import ApiConflict, ApiNotFound, ApiUnreachable
from tests.fakes.crash import Life

#: Between a change and what a controller does about it.
REACTION_S = 0.05


@dataclass
class _Controller:
    """What brings pods back, and what they are like."""

    owner: OwnerRef
    namespace: str
    replicas: int
    pod: dict
    ready_after_s: float
    made: int = 0


@dataclass
class _Rule:
    """A budget's spec."""

    selector: Selector
    min_available: int | None
    max_unavailable: int | None
    processed: bool = True
    always_allow_unhealthy: bool = False

    def __str__(self):
        if self.min_available is not None:
            return f"minAvailable: {self.min_available}"
        return f"maxUnavailable: {self.max_unavailable}"


@dataclass
class _Kubelet:
    """How a pod stops: after so many seconds (None: with its grace), at the latest with its grace; `stuck`: never."""

    stops_after_s: float | None = 1.0
    stuck: bool = False


class FakeCluster:
    """The world. Its own methods are what administrators, controllers and kubelets do.

    Attributes:
        answers: Pod key -> answers to the next removals of it, instead of the server's own.
        down: While true, nobody is answered.
    """

    def __init__(self, clock):
        self.clock = clock
        self.lock = threading.RLock()
        self.answers = {}
        self.down = False
        self.nodes = {}
        self.pods = {}
        self.budgets = {}
        self.log = []
        self._rules = {}
        self._controllers = {}
        self._kubelets = {}
        self._agenda = []
        self._order = 0
        self._version = 1000
        self._happening = None

    # ---- who uses it --------------------------------------------------------------------------------------------

    def view(self):
        return FakeView(self)

    def hands(self, life=None):
        return FakeHands(self, life or Life())

    # ---- time ---------------------------------------------------------------------------------------------------

    def wall(self):
        return self.clock.wall() if self._happening is None else self._happening

    def next_at(self):
        """The wall-clock time of the next thing that happens by itself, or None."""
        with self.lock:
            return self._agenda[0][0] if self._agenda else None

    def after(self, seconds, change):
        """Have `change` happen in so many seconds."""
        with self.lock:
            self._order += 1
            heapq.heappush(self._agenda, (self.wall() + seconds, self._order, change))

    def catch_up(self):
        """Let happen what was due until now, each at its own time."""
        with self.lock:
            while self._happening is None and self._agenda and self._agenda[0][0] <= self.clock.wall():
                self._happening, _, change = heapq.heappop(self._agenda)
                try:
                    change()
                finally:
                    self._happening = None

    def pass_time(self, seconds):
        """Nobody does anything for so long."""
        self.clock.pass_to(self.clock.now() + seconds)
        self.catch_up()

    # ---- what administrators do ---------------------------------------------------------------------------------

    def add_node(self, name, **facts):
        self._put_node(
            Node(name, f"uid-{name}", "", **{"unschedulable": False, "ready": True, "created": self.wall()} | facts)
        )
        return self.nodes[name]

    def change_node(self, name, **facts):
        """Somebody else changes it."""
        self._put_node(replace(self.nodes[name], **facts))

    def remove_node(self, name):
        del self.nodes[name]

    def add_pod(self, namespace, name, node, *, stops_after_s=1.0, stuck=False, **facts):
        """A pod that nobody would bring back, unless `controller` says so; running and ready unless told otherwise."""
        with self.lock:
            uid = f"uid-{self._version}-{name}"
            known = {"phase": "Running", "ready": True, "ready_since": self.wall(), "created": self.wall()} | facts
            self._kubelets[uid] = _Kubelet(stops_after_s, stuck)
            self._put_pod(Pod(namespace, name, uid, node, **known))
            return self.pods[f"{namespace}/{name}"]

    def change_pod(self, key, **facts):
        with self.lock:
            self._put_pod(replace(self.pods[key], **facts))

    def remove_pod(self, key):
        """It is gone from one moment to the next."""
        with self.lock:
            pod = self.pods.pop(key)
            self._record(PodChange(pod, gone=True))
            self._react()

    def add_controller(self, kind, namespace, name, replicas, *, on=(), ready_after_s=2.0, labels=None, **pod):
        """A ReplicaSet, StatefulSet or DaemonSet, with its pods ready: in turn on the nodes `on`."""
        owner = OwnerRef(kind, name, "apps/v1", f"uid-{kind}-{name}")
        template = {"labels": {"app": name} if labels is None else labels, **pod}
        controller = _Controller(owner, namespace, replicas, template, ready_after_s)
        with self.lock:
            self._controllers[kind, namespace, name] = controller
            places = on or tuple(self.nodes) if kind == "DaemonSet" else on
            for i in range(len(places) if kind == "DaemonSet" else replicas):
                self._make(controller, self._name(controller), places[i % len(places)], ready=True)
        return controller

    def remove_controller(self, kind, namespace, name):
        """Its pods stay, as orphans."""
        del self._controllers[kind, namespace, name]

    def add_budget(
        self, namespace, name, *, min_available=None, max_unavailable=None, processed=True, always=False, **labels
    ):
        """A budget, which its controller has counted already unless `processed` is false."""
        selector = Selector(labels)
        self._rules[f"{namespace}/{name}"] = _Rule(selector, min_available, max_unavailable, processed, always)
        with self.lock:
            self._count()

    def change_budget(self, key, **spec):
        for name, value in spec.items():
            setattr(self._rules[key], name, value)
        self._react()

    def remove_budget(self, key):
        with self.lock:
            del self._rules[key]
            gone = self.budgets.pop(key)
            self._record(Budget(gone.namespace, gone.name, None, allowed=0, healthy=0, needed=0, expected=0))

    def break_watches(self, *kinds):
        """The watches of `pods` or `budgets` that are open fail for good."""
        with self.lock:
            self.log.extend((self._next_version(), f"broken {kind}") for kind in kinds)

    # ---- what one asks ------------------------------------------------------------------------------------------

    @property
    def version(self):
        return self._version

    def controllers(self):
        return tuple(self._controllers.values())

    def has_controller(self, kind, namespace, name):
        return (kind, namespace, name) in self._controllers

    def controlled(self, controller):
        """Its pods that are not finished."""
        return [p for p in self.pods.values() if p.controller == controller.owner and not p.finished]

    def cordons(self):
        """Node -> None, or whose cordon it is."""
        return {
            n.name: (n.cordon.owner if n.cordon else "somebody") if n.unschedulable else None
            for n in self.nodes.values()
        }

    def state(self):
        """Everything that a run is about, without names and times that depend on when something happened."""
        pods = sorted((p.node, p.controller.name if p.controller else p.name, p.ready) for p in self.pods.values())
        return self.cordons(), pods

    # ---- the server ---------------------------------------------------------------------------------------------

    def set_scheduling(self, node, *, unschedulable, record):
        there = self.nodes.get(node.name)
        if there is None:
            raise ApiNotFound(f'nodes "{node.name}" not found', remedy="see `kubectl get nodes`", status=404)
        if (there.uid, there.resource_version) != (node.uid, node.resource_version):
            raise ApiConflict(f"node {node.name} was changed", remedy="look again", status=409)
        self._put_node(replace(there, unschedulable=unschedulable, cordon=record))
        return self.nodes[node.name]

    def judge(self, pod, *, evict):
        """What the server would answer to the removal of `pod`.

        Source: `pkg/registry/core/pod/storage/eviction.go`.
        """
        there = self.pods.get(pod.key)
        if there is None or there.uid != pod.uid:
            return Gone()
        if answers := self.answers.get(pod.key):
            return answers.pop(0)
        if not evict or there.finished or there.phase == "Pending" or there.deleting_since is not None:
            return Evicted()
        covering = [b for b in self.budgets.values() if b.covers(there)]
        if len(covering) > 1:
            text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            return Denied(text, f"leave {pod.key} in one budget only, or use --disable-eviction")
        return self._judge_by(covering[0], there) if covering else Evicted()

    def remove(self, pod, *, evict, grace_s):
        """The server accepted it."""
        there = self.pods[pod.key]
        budget = next((b for b in self.budgets.values() if b.covers(there)), None)
        if evict and budget and self._counted(there):
            taken = replace(budget, allowed=budget.allowed - 1, disrupted=budget.disrupted | {there.name})
            self.budgets[budget.key] = taken
            self._record(taken)
        grace = there.grace_s if grace_s is None else grace_s
        kubelet = self._kubelets[there.uid]
        if not grace or not there.node or there.finished:
            if kubelet.stuck:
                self._leave(there, 0)
            else:
                self.remove_pod(there.key)
        elif there.deleting_since is None or grace < there.deletion_grace_s:
            self._leave(there, grace)

    def _judge_by(self, budget, pod):
        if not pod.ready and (budget.always_allow_unhealthy or budget.healthy >= budget.needed > 0):
            return Evicted()
        if not budget.observed:
            return BudgetExhausted(
                f"The disruption budget {budget.name} is still being processed by the server.", budget.name, 10
            )
        if budget.allowed > 0:
            return Evicted()
        return BudgetExhausted(
            f"The disruption budget {budget.name} needs {budget.needed} healthy pods and has {budget.healthy} "
            "currently",
            budget.name,
            None,
        )

    def _counted(self, pod):
        return pod.ready and not pod.finished and pod.phase != "Pending" and pod.deleting_since is None

    # ---- kubelets -----------------------------------------------------------------------------------------------

    def _leave(self, pod, grace):
        since = self.wall() if pod.deleting_since is None else pod.deleting_since
        self._put_pod(replace(pod, deleting_since=since, deletion_grace_s=float(grace)))
        kubelet = self._kubelets[pod.uid]
        stops = grace if kubelet.stops_after_s is None else min(grace, kubelet.stops_after_s)
        if not kubelet.stuck:
            self.after(stops, lambda: self._stop(pod))

    def _stop(self, pod):
        if (there := self.pods.get(pod.key)) and there.uid == pod.uid:
            self.remove_pod(pod.key)

    # ---- controllers --------------------------------------------------------------------------------------------

    def _react(self):
        self.after(REACTION_S, self._reconcile)

    def _reconcile(self):
        for controller in tuple(self._controllers.values()):
            if controller.owner.kind == "DaemonSet":
                continue
            there = self.controlled(controller)
            if controller.owner.kind == "ReplicaSet":
                there = [p for p in there if p.deleting_since is None]
            for _ in range(controller.replicas - len(there)):
                self._make(controller, self._name(controller), "", ready=False)
        for pod in [p for p in self.pods.values() if not p.node and p.deleting_since is None]:
            self._schedule(pod)
        self._count()

    def _name(self, controller):
        base = controller.owner.name
        if controller.owner.kind != "StatefulSet":
            controller.made += 1
            return f"{base}-{controller.made}"
        return next(n for i in range(99) if f"{controller.namespace}/{(n := f'{base}-{i}')}" not in self.pods)

    def _make(self, controller, name, node, *, ready):
        phase = "Running" if ready else "Pending"
        self.add_pod(
            controller.namespace,
            name,
            node,
            controller=controller.owner,
            phase=phase,
            ready=ready,
            ready_since=self.wall() if ready else None,
            **controller.pod,
        )

    def _schedule(self, pod):
        """On the node that has fewest pods; on one with the label `preferred` if there is any."""
        loads = {n.name: 0 for n in self.nodes.values() if not n.unschedulable}
        for other in self.pods.values():
            if other.node in loads:
                loads[other.node] += 1
        if loads:
            best = min(loads, key=lambda n: ("preferred" not in self.nodes[n].labels, loads[n], n))
            self._put_pod(replace(pod, node=best, phase="Running"))
            controller = next(c for c in self._controllers.values() if c.owner == pod.controller)
            self.after(controller.ready_after_s, lambda: self._become_ready(pod))

    def _become_ready(self, pod):
        there = self.pods.get(pod.key)
        if there and there.uid == pod.uid and there.deleting_since is None:
            self._put_pod(replace(there, ready=True, ready_since=self.wall()))

    def _count(self):
        """The disruption controller."""
        for key, rule in self._rules.items():
            namespace, name = key.split("/")
            known = self.budgets.get(key)
            if known and not rule.processed:
                self._keep_budget(replace(known, observed=False))
                continue
            budget = Budget(namespace, name, rule.selector, allowed=0, healthy=0, needed=0, expected=0)
            pods = [p for p in self.pods.values() if budget.covers(p) and not p.finished]
            leaving = {p.name for p in pods if p.deleting_since is not None}
            disrupted = (known.disrupted if known else frozenset()) & {p.name for p in pods} - leaving
            healthy = sum(p.ready and p.name not in leaving | disrupted for p in pods)
            expected = self._expected(pods) if rule.min_available is None else len(pods)
            needed = rule.min_available if rule.min_available is not None else max(0, expected - rule.max_unavailable)
            self._keep_budget(
                replace(
                    budget,
                    allowed=max(0, healthy - needed) if rule.processed else 0,
                    healthy=healthy,
                    needed=needed,
                    expected=expected,
                    observed=rule.processed,
                    rule=str(rule),
                    always_allow_unhealthy=rule.always_allow_unhealthy,
                    disrupted=disrupted,
                )
            )

    def _expected(self, pods):
        owners = {p.controller for p in pods}
        return sum(c.replicas for c in self._controllers.values() if c.owner in owners)

    def _keep_budget(self, budget):
        if self.budgets.get(budget.key) != budget:
            self.budgets[budget.key] = budget
            self._record(budget)

    # ---- storage ------------------------------------------------------------------------------------------------

    def _next_version(self):
        self._version += 1
        return self._version

    def _put_node(self, node):
        with self.lock:
            self.nodes[node.name] = replace(node, resource_version=str(self._next_version()))
            self._react()

    def _put_pod(self, pod):
        with self.lock:
            self.pods[pod.key] = pod
            self._record(PodChange(pod, gone=False))
            self._react()

    def _record(self, change):
        self.log.append((self._next_version(), change))


class FakeView:
    """Reads. `requests` has what was asked for, in order."""

    def __init__(self, cluster):
        self._cluster = cluster
        self.requests = []

    def node(self, name):
        with self._asked("node", name):
            if name not in self._cluster.nodes:
                raise ApiNotFound(f'cannot read node {name}: nodes "{name}" not found', remedy="which?", status=404)
            return self._cluster.nodes[name]

    def nodes(self, selector=""):
        with self._asked("nodes", selector):
            return tuple(n for _, n in sorted(self._cluster.nodes.items()) if _selected(selector, n.labels))

    def pods_on(self, node, selector=""):
        with self._asked("pods_on", node):
            pods = (p for p in self._cluster.pods.values() if p.node == node and _selected(selector, p.labels))
            return PodList(tuple(sorted(pods, key=lambda p: p.key)), str(self._cluster.version))

    def pods(self):
        with self._asked("pods"):
            return tuple(sorted(self._cluster.pods.values(), key=lambda p: p.key))

    def budgets(self):
        with self._asked("budgets"):
            return tuple(b for _, b in sorted(self._cluster.budgets.items()))

    def workloads(self):
        with self._asked("workloads"):
            return tuple(self._workload(c) for c in self._cluster.controllers())

    def _workload(self, controller):
        owner = controller.owner
        ready = sum(p.ready for p in self._cluster.controlled(controller))
        return Workload(owner.kind, controller.namespace, owner.name, owner.uid, None, controller.replicas, ready)

    def daemon_set_missing(self, namespace, name):
        with self._asked("daemon_set_missing", f"{namespace}/{name}"):
            if self._cluster.has_controller("DaemonSet", namespace, name):
                return ""
            return f'daemonsets.apps "{name}" not found'

    def pods_of(self, budget):
        with self._asked("pods_of", budget.key):
            return tuple(p for _, p in sorted(self._cluster.pods.items()) if budget.covers(p))

    def watch_pods(self, node, since, selector=""):
        def wanted(change):
            on_node = isinstance(change, PodChange) and change.pod.node == node
            return on_node and _selected(selector, change.pod.labels)

        with self._asked("watch_pods", node):
            return FakeWatch(self._cluster, wanted, "pods", int(since.resource_version))

    def watch_budgets(self):
        with self._asked("watch_budgets"):
            now = tuple(b for _, b in sorted(self._cluster.budgets.items()))
            return FakeWatch(self._cluster, lambda c: isinstance(c, Budget), "budgets", self._cluster.version, now)

    def _asked(self, what, of=""):
        self.requests.append((what, of))
        self._cluster.catch_up()
        if self._cluster.down:
            raise ApiUnreachable("no answer", remedy="wait")
        return self._cluster.lock


class FakeHands(FakeView):
    """Reads and changes, in the `life` of one process."""

    def __init__(self, cluster, life):
        super().__init__(cluster)
        self._life = life

    def cordon(self, node, record):
        with self._asked("cordon", node.name):
            return self._scheduled(node, unschedulable=True, record=record)

    def uncordon(self, node):
        with self._asked("uncordon", node.name):
            return self._scheduled(node, unschedulable=False, record=None)

    def _scheduled(self, node, *, unschedulable, record):
        """As the real one: after a conflict, again, unless it is about scheduling."""
        there = self._cluster.nodes.get(node.name, node)
        if (there.uid, there.unschedulable, there.cordon) == (node.uid, node.unschedulable, node.cordon):
            node = replace(node, resource_version=there.resource_version)
        return self._life.effect(
            ("cordon" if unschedulable else "uncordon", node.name),
            lambda: self._cluster.set_scheduling(node, unschedulable=unschedulable, record=record),
        )

    def evict(self, pod, *, grace_s, timeout_s):
        return self._removal("evict", pod, grace_s)

    def delete(self, pod, *, grace_s, timeout_s):
        return self._removal("delete", pod, grace_s)

    def _removal(self, verb, pod, grace_s):
        evict = verb == "evict"
        with self._asked(verb, pod.key):
            answer = self._cluster.judge(pod, evict=evict)
            if isinstance(answer, Evicted):
                self._life.effect((verb, pod.key), lambda: self._cluster.remove(pod, evict=evict, grace_s=grace_s))
            return answer

    def _asked(self, what, of=""):
        self._life.check()
        return super()._asked(what, of)


class FakeWatch:
    """A watch, as a context manager and as what it gives: `poll` does not wait, iterating lets time pass."""

    def __init__(self, cluster, wanted, kind, since, first=()):
        self._cluster = cluster
        self._wanted = wanted
        self._kind = kind
        self._first = deque(first)
        self._at = sum(version <= since for version, _ in cluster.log)
        self.closed = False

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.closed = True

    def __iter__(self):
        return self

    def __next__(self):
        while not self.closed:
            if (item := self.poll()) is not None:
                return item
            happens = self._cluster.next_at()
            if happens is None:
                raise AssertionError("this watch would wait for ever")
            self._cluster.pass_time(max(0.0, happens - self._cluster.clock.wall()))
        raise StopIteration

    def poll(self):
        """The next change that is there, or None."""
        self._cluster.catch_up()
        with self._cluster.lock:
            if self._first:
                return self._first.popleft()
            while self._at < len(self._cluster.log):
                _, change = self._cluster.log[self._at]
                self._at += 1
                if change == f"broken {self._kind}":
                    raise ApiUnreachable(f"the watch of {self._kind} broke", remedy="it is opened again")
                if self._wanted(change):
                    return change
        return None


def _selected(selector, labels):
    """Whether `key=value,…` holds; the fake knows no other form."""
    return all(labels.get(k) == v for k, _, v in (part.partition("=") for part in selector.split(",") if part))
