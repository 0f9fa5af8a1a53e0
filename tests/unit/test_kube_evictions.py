"""What an eviction asks for, and what its answer means."""

import json

import pytest

from orchestrator.cluster.model import Pod
from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, Gone, TryLater
from orchestrator.kube.evictions import read, request
from orchestrator.kube.failures import MESSAGE_LIMIT

POD = Pod("shop", "web-1", "uid-1", "n1", "Running", ready=True)
PATH = "/api/v1/namespaces/shop/pods/web-1"
BUDGET = "The disruption budget web needs 2 healthy pods and has 2 currently"
NOT_YET = "The disruption budget web is still being processed by the server."
CONFLICT = 'Operation cannot be fulfilled on poddisruptionbudgets.policy "web": the object has been modified'
OTHER_POD = "Precondition failed: UID in precondition: uid-1, UID in object meta: uid-2"
SEVERAL = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."


def body(message="", *, kind="pods", cause=(), after=None):
    details = {"kind": kind, "causes": [{"reason": r, "message": m} for r, m in cause]}
    if after:
        details["retryAfterSeconds"] = after
    return json.dumps({"kind": "Status", "status": "Failure", "message": message, "details": details}).encode()


def meaning(status, sent=b"", **headers):
    return read(status, {k.replace("_", "-"): v for k, v in headers.items()}, sent, POD)


def test_an_eviction_names_the_pod_by_its_uid():
    assert request(POD, grace_s=None, evict=True, dry_run=False) == (
        "POST",
        f"{PATH}/eviction",
        {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": "web-1", "namespace": "shop"},
            "deleteOptions": {"preconditions": {"uid": "uid-1"}},
        },
    )


def test_a_deletion_names_the_pod_by_its_uid():
    assert request(POD, grace_s=None, evict=False, dry_run=False) == (
        "DELETE",
        PATH,
        {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "uid-1"}},
    )


@pytest.mark.parametrize("grace_s", [0, 30])
def test_a_grace_period_is_sent_even_when_it_is_zero(grace_s):
    _, _, eviction = request(POD, grace_s=grace_s, evict=True, dry_run=False)
    _, _, deletion = request(POD, grace_s=grace_s, evict=False, dry_run=False)

    assert eviction["deleteOptions"]["gracePeriodSeconds"] == grace_s
    assert deletion["gracePeriodSeconds"] == grace_s


def test_a_dry_run_is_in_the_options_and_not_in_the_query():
    _, path, eviction = request(POD, grace_s=None, evict=True, dry_run=True)
    _, _, deletion = request(POD, grace_s=None, evict=False, dry_run=True)

    assert "?" not in path
    assert eviction["deleteOptions"]["dryRun"] == deletion["dryRun"] == ["All"]


@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_success_means_that_it_is_on_its_way(status):
    assert meaning(status) == Evicted()


@pytest.mark.parametrize(
    ("status", "sent", "answer"),
    [
        (404, body('pods "web-1" not found'), Gone()),
        (409, body(OTHER_POD), Gone()),
        (409, body(CONFLICT, kind="poddisruptionbudgets"), TryLater(CONFLICT)),
        (429, body("Cannot evict", cause=[("DisruptionBudget", BUDGET)]), BudgetExhausted(BUDGET, "web", None)),
        (429, body("x", cause=[("DisruptionBudget", NOT_YET)], after=10), BudgetExhausted(NOT_YET, "web", 10.0)),
        (429, body("x", cause=[("DisruptionBudget", "?")]), BudgetExhausted("?", "", None)),
        (429, body("Too many requests"), TryLater("the API server asks for less load", None, overloaded=True)),
        (429, b"", TryLater("the API server asks for less load", None, overloaded=True)),
        (403, body("x", cause=[("NamespaceTerminating", "y")]), TryLater("namespace shop is terminating", None)),
        (500, body("etcdserver: request timed out"), TryLater("etcdserver: request timed out")),
        (502, b"<html>", TryLater("HTTP 502")),
        (503, body("shutting down"), TryLater("shutting down")),
        (504, b"", TryLater("HTTP 504")),
    ],
)
def test_each_answer_has_its_meaning(status, sent, answer):
    assert meaning(status, sent) == answer


@pytest.mark.parametrize(
    ("status", "sent", "why", "remedy"),
    [
        (404, b"404 page not found", "HTTP 404", "--disable-eviction"),
        (404, body("could not find the requested resource", kind=""), "could not find", "--disable-eviction"),
        (403, body('pods "web-1" is forbidden'), "is forbidden", "docs/rbac.md"),
        (401, body("Unauthorized"), "Unauthorized", "log in again"),
        (500, body(SEVERAL), "more than one PodDisruptionBudget", "in one budget only"),
        (400, body("the name does not match"), "does not match", "kubectl get pod -n shop web-1"),
        (422, body("grace period must not be negative"), "negative", "kubectl get pod -n shop web-1"),
        (302, b"", "HTTP 302", "kubectl get pod"),
    ],
)  # fmt: skip
def test_what_will_never_work_is_denied_with_a_remedy(status, sent, why, remedy):
    answer = meaning(status, sent)

    assert isinstance(answer, Denied)
    assert why in answer.why
    assert remedy in answer.remedy


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_the_pause_that_the_server_asks_for_is_kept(status):
    assert meaning(status, body("busy"), Retry_After="4").retry_after_s == 4.0


def test_the_header_wins_over_the_details_and_nonsense_counts_for_nothing():
    sent = body("busy", after=9)

    assert meaning(503, sent, Retry_After="4").retry_after_s == 4.0
    assert meaning(503, sent, Retry_After="soon").retry_after_s == 9.0
    assert meaning(503, sent, Retry_After="-4").retry_after_s == 0.0
    assert meaning(503, body("busy"), Retry_After="soon").retry_after_s is None


def test_a_long_answer_is_cut_to_one_line():
    answer = meaning(500, body("a\nb " + "x" * 1000))

    assert answer.why.startswith("a b xxx")
    assert len(answer.why) == MESSAGE_LIMIT
