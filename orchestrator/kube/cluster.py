"""A real cluster behind the ports `View` and `Hands`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from orchestrator.cluster.model import CORDON_ANNOTATION, PodList
from orchestrator.cluster.ports import Denied, TryLater
from orchestrator.engine import retry
from orchestrator.engine.events import retrying
from orchestrator.errors import (
    ApiConflict,
    ApiError,
    ApiForbidden,
    ApiNotFound,
    ApiUnreachable,
    FactUnreadable,
)
from orchestrator.kube import evictions, watch
from orchestrator.kube.loading import Loading
from orchestrator.kube.wire import (
    BudgetObject,
    ListObject,
    NodeObject,
    WorkloadObject,
    read_cordon,
    write_cordon,
)
from orchestrator.kube.wirepods import PodObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from orchestrator.cluster.model import Budget, CordonRecord, Node, Pod, PodChange, Workload
    from orchestrator.cluster.ports import EvictionAnswer
    from orchestrator.engine.clock import Clock
    from orchestrator.engine.events import Sink
    from orchestrator.kube.session import Response, Session

T = TypeVar("T")

#: For one request. Evictions are slow where many share a budget (up to 11 s seen, docs/performance.md).
REQUEST_TIMEOUT_S = 30.0
#: The part of what is spent on a failure in all that one attempt may take.
ATTEMPT = 0.8
#: A reading this fresh, with no change by this process since, is given again instead of asked again.
FRESH_S = 1.0
#: As above for budgets, which nothing here changes; their numbers come from a watch where they matter.
FRESH_BUDGETS_S = 5.0
#: kubectl's `--chunk-size`.
CHUNK_SIZE = 500

MERGE_PATCH = "application/merge-patch+json"

_NODE = msgspec.json.Decoder(NodeObject)

_WORKLOADS = (
    ("Deployment", "/apis/apps/v1/deployments"),
    ("StatefulSet", "/apis/apps/v1/statefulsets"),
    ("DaemonSet", "/apis/apps/v1/daemonsets"),
    ("ReplicaSet", "/apis/apps/v1/replicasets"),
    ("Job", "/apis/batch/v1/jobs"),
    ("ReplicationController", "/api/v1/replicationcontrollers"),
)


class KubeView:
    """Reads a cluster. There is no way from here to a change.

    Args:
        session: The connection.
        clock: For pauses and deadlines.
        sink: Is told of retries.
        patience_s: How long a failure that passes is retried.
        chunk_size: Objects a page; 0 asks for all at once.
    """

    def __init__(
        self,
        session: Session,
        clock: Clock,
        sink: Sink,
        *,
        patience_s: float = retry.API_READ.give_up_s,
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        self._session = session
        self._clock = clock
        self._sink = sink
        self._patience_s = patience_s
        self._chunk_size = chunk_size
        self._readings: dict[str, tuple[float, Node | PodList]] = {}
        self._budgets: tuple[float, tuple[Budget, ...] | None] = (0.0, None)
        self._loading = Loading(session, clock)

    def node(self, name: str) -> Node:
        """The node; see `cluster.ports`."""
        if isinstance(fresh := self._fresh(f"node/{name}"), PodList) or fresh is None:
            what = f"read node {name}"
            answer = self._get(f"/api/v1/nodes/{quote(name)}", {}, what)
            return self._remember(f"node/{name}", self._parse(_NODE, answer, what).fact())
        return fresh

    def nodes(self, selector: str = "") -> tuple[Node, ...]:
        """All nodes by name; see `cluster.ports`."""
        items, _ = self._list("/api/v1/nodes", NodeObject, _selecting(selector), "list nodes")
        return tuple(sorted((n.fact() for n in items), key=lambda n: n.name))

    def pods_on(self, node: str, selector: str = "") -> PodList:
        """The pods bound to `node`; see `cluster.ports`.

        Source: a field selector on `spec.nodeName` is answered from the server's index: 10 ms among 30,000 pods.
        """
        key = f"pods/{node}/{selector}"
        if isinstance(fresh := self._fresh(key), PodList):
            return fresh
        items, version = self._list("/api/v1/pods", PodObject, _on_node(node, selector), f"list the pods of {node}")
        return self._remember(key, PodList(tuple(p.fact() for p in items), version))

    def pods(self) -> tuple[Pod, ...]:
        """All pods; see `cluster.ports`."""
        return tuple(p.fact() for p in self._list("/api/v1/pods", PodObject, {}, "list pods")[0])

    def budgets(self) -> tuple[Budget, ...]:
        """All disruption budgets; see `cluster.ports`."""
        at, known = self._budgets
        if known is not None and self._clock.now() - at < FRESH_BUDGETS_S:
            return known
        path = "/apis/policy/v1/poddisruptionbudgets"
        found = tuple(b.fact() for b in self._list(path, BudgetObject, {}, "list disruption budgets")[0])
        self._budgets = (self._clock.now(), found)
        return found

    def workloads(self) -> tuple[Workload, ...]:
        """All controllers of pods; see `cluster.ports`."""
        return tuple(
            item.fact(kind)
            for kind, path in _WORKLOADS
            for item in self._list(path, WorkloadObject, {}, f"list {kind.lower()}s")[0]
        )

    def daemon_set_missing(self, namespace: str, name: str) -> str:
        """Why there is no such DaemonSet, or an empty text; see `cluster.ports`."""
        path = f"/apis/apps/v1/namespaces/{quote(namespace)}/daemonsets/{quote(name)}"
        try:
            self._get(path, {}, f"read daemonset {namespace}/{name}")
        except ApiNotFound as err:
            return str(err).partition(": ")[2] or str(err)
        return ""

    def pods_of(self, budget: Budget) -> tuple[Pod, ...]:
        """The pods that `budget` covers; see `cluster.ports`."""
        if budget.selector is None:
            return ()
        path = f"/api/v1/namespaces/{quote(budget.namespace)}/pods"
        query = _selecting(str(budget.selector))
        return tuple(p.fact() for p in self._list(path, PodObject, query, f"list the pods of budget {budget.key}")[0])

    def watch_pods(self, node: str, since: PodList, selector: str = "") -> AbstractContextManager[Iterator[PodChange]]:
        """Changes of the pods on `node`; see `cluster.ports`."""
        query = _on_node(node, selector)

        def relist() -> PodList:
            items, version = self._list("/api/v1/pods", PodObject, query, f"list the pods of {node}")
            return PodList(tuple(p.fact() for p in items), version)

        return watch.pods(self._session, since, query, relist)

    def watch_budgets(self) -> AbstractContextManager[Iterator[Budget]]:
        """Budgets as they are and change; see `cluster.ports`."""
        return watch.budgets(self._session)

    def _fresh(self, key: str) -> Node | PodList | None:
        at, value = self._readings.get(key, (0.0, None))
        return value if value is not None and self._clock.now() - at < FRESH_S else None

    def _remember(self, key: str, value: T) -> T:
        self._readings[key] = (self._clock.now(), value)  # type: ignore[assignment]
        return value

    def _get(self, path: str, query: dict[str, str], what: str, **request: Any) -> Response:
        return self._retried(retry.API_READ, lambda: self._attempt("GET", path, what, query=query, **request))

    def _list(self, path: str, kind: type[T], query: dict[str, str], what: str, **request: Any) -> tuple[list[T], str]:
        """All items, page by page, and the resource version of the list.

        Source: API concepts, "Retrieving large results sets in chunks": 410 on a later page means the place is
        forgotten; the list then starts again, unpaged.
        """
        decoder = msgspec.json.Decoder(ListObject[kind])  # type: ignore[valid-type]
        items: list[T] = []
        paging = {"limit": str(self._chunk_size)} if self._chunk_size else {}
        while True:
            try:
                page = self._parse(decoder, self._get(path, {**query, **paging}, what, **request), what)
            except ApiError as err:
                if err.status != watch.GONE or "continue" not in paging:
                    raise
                items, paging = [], {}
                continue
            items += page.items or ()
            if not page.metadata.continue_:
                return items, page.metadata.resource_version
            paging["continue"] = page.metadata.continue_

    def _retried(self, policy: retry.Policy, attempt: Callable[[], T]) -> T:
        deadline = self._clock.now() + self._patience_s
        return retry.call(policy, attempt, clock=self._clock, deadline=deadline, scheduled=retrying(self._sink))

    def _attempt(self, method: str, path: str, what: str, **request: Any) -> Response:
        """One request; anything but a success is raised."""
        # One of several API servers that hangs, with its etcd for one, leaves time to ask another one.
        timeout_s = min(request.pop("timeout_s", REQUEST_TIMEOUT_S), ATTEMPT * self._patience_s)
        answer = self._session.send(method, path, timeout_s=timeout_s, **request)
        if answer.status < 300:
            self._loading.over()
            return answer
        err = self._session.failure(answer, what)
        if isinstance(err, ApiForbidden) and self._loading.goes_on():
            raise ApiUnreachable(
                f"cannot {what}: the API server has just started and has not loaded its permissions yet",
                remedy="wait until it is up",
                status=403,
            )
        raise err

    def _parse(self, decoder: msgspec.json.Decoder[T], answer: Response, what: str) -> T:
        try:
            return decoder.decode(answer.body)
        except msgspec.MsgspecError as err:
            raise FactUnreadable(
                f"cannot {what}: the answer is not what an API server says ({err})",
                remedy=f"is {self._session.server} really a Kubernetes API server?",
            ) from err


class _Asking(KubeView):
    """The requests that change something, for those who change and those who ask what would be answered."""

    def _removal(
        self, pod: Pod, *, grace_s: int | None, timeout_s: float, evict: bool, dry_run: bool
    ) -> EvictionAnswer:
        """Ask once for a pod to go, or, in a dry run, what would be answered."""
        self._readings.clear()
        method, path, body = evictions.request(pod, grace_s=grace_s, evict=evict, dry_run=dry_run)
        try:
            answer = self._session.send(method, path, body=body, timeout_s=min(timeout_s, REQUEST_TIMEOUT_S))
        except ApiError as err:
            return TryLater(str(err)) if err.retryable else Denied(str(err), err.remedy)
        said = evictions.read(answer.status, answer.headers, answer.body, pod)
        if answer.status == 403 and isinstance(said, Denied) and self._loading.goes_on():
            return TryLater("the API server has just started and has not loaded its permissions yet")
        return said

    def _patch_node(self, node: Node, spec: dict[str, Any], record: str | None, *, dry_run: bool) -> Response:
        """Change the scheduling of the node as it was read.

        Raises:
            ApiConflict: It was changed since; not retried, for the caller has to look again.
        """
        metadata = {"resourceVersion": node.resource_version, "annotations": {CORDON_ANNOTATION: record}}
        request: dict[str, Any] = {"body": {"metadata": metadata, "spec": spec}, "content_type": MERGE_PATCH}
        if dry_run:
            request["query"] = {"dryRun": "All"}
        path = f"/api/v1/nodes/{quote(node.name)}"
        verb = "cordon" if spec["unschedulable"] else "uncordon"

        def attempt() -> Response | ApiConflict:
            try:
                return self._attempt("PATCH", path, f"{verb} node {node.name}", **request)
            except ApiConflict as err:
                return err

        answer = self._retried(retry.API_WRITE, attempt)
        if isinstance(answer, ApiConflict):
            raise answer
        return answer


class KubeHands(_Asking):
    """Reads and changes a cluster."""

    def cordon(self, node: Node, record: CordonRecord) -> Node:
        """Make `node` unschedulable; see `cluster.ports`."""
        return self._schedule(node, {"unschedulable": True}, write_cordon(record))

    def uncordon(self, node: Node) -> Node:
        """Make `node` schedulable; see `cluster.ports`."""
        return self._schedule(node, {"unschedulable": None}, None)

    def _schedule(self, node: Node, spec: dict[str, Any], record: str | None) -> Node:
        """One patch, on the resource version that was read.

        A kubelet changes its node every few minutes: after a conflict the node is read again, and the patch goes out
        again while nobody else has cordoned or uncordoned it. A conflict with a patch of our own, whose answer was
        lost, is a success.
        """
        found, aim = node, (node.uid, spec["unschedulable"] is True, read_cordon(record))

        def attempt() -> Node | ApiConflict:
            nonlocal found
            try:
                answer = self._patch_node(found, spec, record, dry_run=False)
            except ApiConflict as err:
                self._readings.clear()
                now = self.node(node.name)
                if (now.uid, now.unschedulable, now.cordon) == aim:
                    return now
                if (now.uid, now.unschedulable, now.cordon) != (node.uid, node.unschedulable, node.cordon):
                    return err
                found = now
                raise
            self._readings.clear()
            return self._parse(_NODE, answer, f"patch node {node.name}").fact()

        after = self._retried(retry.API_WRITE, attempt)
        if isinstance(after, ApiConflict):
            raise after
        return self._remember(f"node/{node.name}", after)

    def evict(self, pod: Pod, *, grace_s: int | None, timeout_s: float) -> EvictionAnswer:
        """Ask once for the eviction of `pod`; see `cluster.ports`."""
        return self._removal(pod, grace_s=grace_s, timeout_s=timeout_s, evict=True, dry_run=False)

    def delete(self, pod: Pod, *, grace_s: int | None, timeout_s: float) -> EvictionAnswer:
        """Delete `pod`; see `cluster.ports`."""
        return self._removal(pod, grace_s=grace_s, timeout_s=timeout_s, evict=False, dry_run=False)


class KubeRehearsal(_Asking):
    """Reads a cluster, and asks it what it would answer to a change; see `cluster.ports`."""

    def would_cordon(self, node: Node) -> None:
        """Have the server check the cordon."""
        self._patch_node(node, {"unschedulable": True}, None, dry_run=True)

    def would_uncordon(self, node: Node) -> None:
        """Have the server check the undoing of a cordon."""
        self._patch_node(node, {"unschedulable": None}, None, dry_run=True)

    def would_evict(self, pod: Pod, *, grace_s: int | None, timeout_s: float) -> EvictionAnswer:
        """What an eviction would be answered."""
        return self._removal(pod, grace_s=grace_s, timeout_s=timeout_s, evict=True, dry_run=True)

    def would_delete(self, pod: Pod, *, grace_s: int | None, timeout_s: float) -> EvictionAnswer:
        """What a deletion would be answered."""
        return self._removal(pod, grace_s=grace_s, timeout_s=timeout_s, evict=False, dry_run=True)


def _selecting(selector: str) -> dict[str, str]:
    return {"labelSelector": selector} if selector else {}


def _on_node(node: str, selector: str) -> dict[str, str]:
    return {"fieldSelector": f"spec.nodeName={node}", **_selecting(selector)}
