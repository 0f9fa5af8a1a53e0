"""Evictions and deletions as the server sees them."""

import json

import msgspec
import pytest

from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, Gone, TryLater
from orchestrator.kube.cluster import KubeHands, KubeRehearsal
from orchestrator.kube.wirepods import PodObject
from tests.fakes import wire
from tests.fakes.certificates import Certificates
from tests.fakes.server import ApiServer, HangUp, Silence, ok, page, said
from tests.fakes.sink import Recorder
from tests.fakes.time import FakeClock

POD = "/api/v1/namespaces/shop/pods/web-1"
EVICTION = f"{POD}/eviction"
EMPTY = wire.listed()


@pytest.fixture
def hands(server, tmp_path):
    return KubeHands(server.session(tmp_path), FakeClock(), Recorder())


@pytest.fixture
def rehearsal(server, tmp_path):
    return KubeRehearsal(server.session(tmp_path), FakeClock(), Recorder())


def a_pod():
    return msgspec.json.decode(json.dumps(wire.pod()).encode(), type=PodObject).fact()


def evict(hands, *, grace_s=None, timeout_s=5.0):
    return hands.evict(a_pod(), grace_s=grace_s, timeout_s=timeout_s)


def test_an_eviction_is_asked_for_once_and_carries_the_uid(server, hands):
    server.on("POST", EVICTION, ok())

    assert evict(hands, grace_s=7) == Evicted()
    assert server.order() == [f"POST {EVICTION}"]
    assert server.requests[0].body["deleteOptions"] == {
        "preconditions": {"uid": "uid-web-1"},
        "gracePeriodSeconds": 7,
    }


def test_a_deletion_is_asked_for_once_and_carries_the_uid(server, hands):
    server.on("DELETE", POD, ok())

    assert hands.delete(a_pod(), grace_s=0, timeout_s=5.0) == Evicted()
    assert server.requests[0].body["preconditions"] == {"uid": "uid-web-1"}
    assert server.requests[0].body["gracePeriodSeconds"] == 0


def test_a_rehearsal_asks_for_both_as_a_dry_run(server, rehearsal):
    server.on("POST", EVICTION, ok())
    server.on("DELETE", POD, ok())

    rehearsal.would_evict(a_pod(), grace_s=None, timeout_s=5.0)
    rehearsal.would_delete(a_pod(), grace_s=None, timeout_s=5.0)

    assert [r.body.get("deleteOptions", r.body)["dryRun"] for r in server.requests] == [["All"], ["All"]]


@pytest.mark.parametrize("failure", [HangUp(), said(503, "starting"), page(502, "<html>")], ids=["EOF", "503", "502"])
def test_an_answer_that_passes_is_left_to_the_drain_to_ask_again(server, hands, failure):
    server.on("POST", EVICTION, failure)

    assert isinstance(evict(hands), TryLater)
    assert len(server.requests) == 1


def test_a_server_that_never_answers_an_eviction_does_not_hang_it(server, hands):
    server.on("POST", EVICTION, Silence())

    answer = evict(hands, timeout_s=0.15)

    assert isinstance(answer, TryLater)
    assert "no answer within 0.15 s" in answer.why


def test_a_full_budget_and_a_pod_that_is_gone_are_told_apart(server, hands):
    full = said(429, "Cannot evict", causes=[("DisruptionBudget", "The disruption budget web needs 2 healthy pods")])
    server.on("POST", EVICTION, full, said(404, 'pods "web-1" not found', kind="pods"))

    first, second = evict(hands), evict(hands)

    assert isinstance(first, BudgetExhausted)
    assert first.budget == "web"
    assert second == Gone()


def test_a_403_is_denied_where_the_server_knows_its_permissions_and_passes_where_it_does_not(server, hands):
    server.on("POST", EVICTION, said(403, "forbidden"))
    server.on("GET", "/readyz", said(403, "forbidden"), page(200, "ok", "text/plain"))

    first, second = evict(hands), evict(hands)

    assert first == TryLater("the API server has just started and has not loaded its permissions yet")
    assert isinstance(second, Denied)
    assert "docs/rbac.md" in second.remedy


def test_a_terminating_namespace_is_not_taken_for_a_missing_permission(server, hands):
    causes = [("NamespaceTerminating", "namespace shop is being terminated")]
    server.on("POST", EVICTION, said(403, "forbidden", causes=causes))

    assert evict(hands) == TryLater("namespace shop is terminating")
    assert server.order() == [f"POST {EVICTION}"]


def test_a_server_that_is_not_trusted_is_denied_and_not_asked_again(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    with ApiServer(tls=Certificates(tmp_path / "there")) as server:
        server._tls.authority = Certificates(tmp_path / "here").authority
        hands = KubeHands(server.session(tmp_path), FakeClock(), Recorder())

        answer = evict(hands)

    assert isinstance(answer, Denied)
    assert "cannot be trusted" in answer.why
    assert "fetch a fresh kubeconfig" in answer.remedy


def test_after_an_eviction_the_pods_are_read_again(server, hands):
    server.on("GET", "/api/v1/pods", ok(wire.listed(wire.pod())), ok(EMPTY))
    server.on("POST", EVICTION, ok())

    before = hands.pods_on("n1").pods
    evict(hands)
    after = hands.pods_on("n1").pods

    assert [len(before), len(after)] == [1, 0]
