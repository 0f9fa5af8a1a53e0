"""What the server's answer to an eviction or a deletion means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, Gone, TryLater
from orchestrator.kube.failures import message, retry_after
from orchestrator.kube.wire import read_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.cluster.model import Pod
    from orchestrator.cluster.ports import EvictionAnswer
    from orchestrator.kube.wire import Status

BUDGET_CAUSE = "DisruptionBudget"
NAMESPACE_CAUSE = "NamespaceTerminating"
_BUDGET_NAME = re.compile(r"disruption budget (\S+) ")


def request(pod: Pod, *, grace_s: int | None, evict: bool, dry_run: bool) -> tuple[str, str, dict[str, Any]]:
    """Method, path and body that ask for `pod` to go: never another pod of the same name.

    Source: policy/v1 Eviction; the dry run goes into its deleteOptions, not into the query.
    """
    path = f"/api/v1/namespaces/{quote(pod.namespace)}/pods/{quote(pod.name)}"
    options: dict[str, Any] = {"preconditions": {"uid": pod.uid}}
    if grace_s is not None:
        options["gracePeriodSeconds"] = grace_s
    if dry_run:
        options["dryRun"] = ["All"]
    if not evict:
        return "DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", **options}
    metadata = {"name": pod.name, "namespace": pod.namespace}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata, "deleteOptions": options}
    return "POST", f"{path}/eviction", body


def read(  # noqa: C901, PLR0911  a table, one row a meaning
    status: int, headers: Mapping[str, str], body: bytes, pod: Pod
) -> EvictionAnswer:
    """The meaning of an answer to an eviction or a deletion of `pod`.

    Source: `pkg/registry/core/pod/storage/eviction.go` of Kubernetes 1.37: an exhausted budget is 429 with a cause
    `DisruptionBudget`; so is one that its controller has not processed, with `Retry-After: 10`. A 429 without that
    cause comes from priority and fairness. A conflict on the budget object inside the server comes out as 409.
    """
    if status < 300:
        return Evicted()
    said = read_status(body)
    text = message(said, status)
    after = retry_after(headers, said)
    causes = {c.reason: c.message for c in (said.details.causes or ())} if said and said.details else {}
    match status:
        case 404:
            return _missing(said, text)
        case 409:
            return Gone() if "precondition" in text.lower() and "uid" in text.lower() else TryLater(text, after)
        case 429 if BUDGET_CAUSE in causes:
            name = _BUDGET_NAME.search(causes[BUDGET_CAUSE])
            return BudgetExhausted(causes[BUDGET_CAUSE], name[1] if name else "", after)
        case 429:
            return TryLater("the API server asks for less load", after, overloaded=True)
        case 403 if NAMESPACE_CAUSE in causes:
            return TryLater(f"namespace {pod.namespace} is terminating", after)
        case 500 if "more than one PodDisruptionBudget" in text:
            return Denied(text, f"leave {pod.key} in one budget only, or use --disable-eviction")
        case 500 | 502 | 503 | 504:
            return TryLater(text, after)
        case 401:
            return Denied(
                text, "the credentials are wrong, revoked or expired: log in again, then `orchestrator resume last`"
            )
        case 403:
            return Denied(text, "ask for the permission; docs/rbac.md has what each command needs")
        case _:
            return Denied(
                text, f"see why the server refuses it: `kubectl get pod -n {pod.namespace} {pod.name} -o yaml`"
            )


def _missing(said: Status | None, text: str) -> EvictionAnswer:
    """404 of the pod is what was wanted; 404 of the eviction API itself is not."""
    if said and said.details and said.details.kind == "pods":
        return Gone()
    return Denied(text, "the server has no eviction API: use --disable-eviction")
