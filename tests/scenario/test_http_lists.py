"""Lists, page by page, and what is asked for them."""

import pytest

from orchestrator.cluster.model import Budget, Selector
from orchestrator.errors import ApiError, ApiForbidden, FactUnreadable
from orchestrator.kube.cluster import KubeView
from tests.fakes import wire
from tests.fakes.server import ok, page, said
from tests.fakes.sink import Recorder

NODES, PODS = "/api/v1/nodes", "/api/v1/pods"
BUDGETS = "/apis/policy/v1/poddisruptionbudgets"
DAEMON_SET = "/apis/apps/v1/namespaces/kube-system/daemonsets/agent"


@pytest.fixture
def reading(server, clock, tmp_path):
    def view(**settings):
        return KubeView(server.session(tmp_path), clock, Recorder(), **settings)

    return view


def names(items):
    return [item.name for item in items]


def test_nodes_come_sorted_and_from_all_pages(server, reading):
    server.on(
        "GET",
        NODES,
        ok(wire.listed(wire.node("n3"), wire.node("n1"), more="token-1")),
        ok(wire.listed(wire.node("n2"))),
    )

    assert names(reading(chunk_size=2).nodes()) == ["n1", "n2", "n3"]
    assert [r.query for r in server.requests] == [{"limit": "2"}, {"limit": "2", "continue": "token-1"}]


def test_a_chunk_size_of_zero_asks_for_all_at_once(server, reading):
    server.on("GET", NODES, ok(wire.listed(wire.node())))

    reading(chunk_size=0).nodes()

    assert server.requests[0].query == {}


def test_a_place_that_the_server_forgot_starts_the_list_again_unpaged(server, reading):
    server.on(
        "GET",
        NODES,
        ok(wire.listed(wire.node("n1"), more="token-1")),
        said(410, "The provided continue parameter is too old", reason="Expired"),
        ok(wire.listed(wire.node("n1"), wire.node("n2"))),
    )

    assert names(reading().nodes()) == ["n1", "n2"]
    assert [sorted(r.query) for r in server.requests] == [["limit"], ["continue", "limit"], []]


def test_a_410_where_no_page_was_asked_for_is_an_error(server, reading):
    server.on("GET", NODES, said(410, "too old"))

    with pytest.raises(ApiError, match="cannot list nodes: too old"):
        reading().nodes()

    assert len(server.requests) == 1


def test_a_page_that_fails_is_asked_for_again_and_the_others_are_not(server, reading):
    server.on(
        "GET",
        NODES,
        ok(wire.listed(wire.node("n1"), more="token-1")),
        said(503, "starting"),
        ok(wire.listed(wire.node("n2"))),
    )

    assert names(reading().nodes()) == ["n1", "n2"]
    assert [r.query.get("continue") for r in server.requests] == [None, "token-1", "token-1"]


def test_a_list_without_items_is_empty(server, reading):
    server.on("GET", NODES, ok({"kind": "NodeList", "metadata": {"resourceVersion": "1"}, "items": None}))

    assert reading().nodes() == ()


def test_a_list_that_is_a_page_of_a_proxy_is_unreadable_and_not_empty(server, reading):
    server.on("GET", NODES, page(200, "<html>sign in</html>"))

    with pytest.raises(FactUnreadable, match="cannot list nodes"):
        reading().nodes()


def test_selectors_are_left_to_the_server(server, reading):
    server.on("GET", NODES, ok(wire.listed()))
    server.on("GET", PODS, ok(wire.listed(wire.pod(), version="77")))
    view = reading()

    view.nodes("role=web,zone!=a")
    found = view.pods_on("n1", "app in (a,b)")

    assert server.requests[0].query["labelSelector"] == "role=web,zone!=a"
    assert server.requests[1].query["fieldSelector"] == "spec.nodeName=n1"
    assert server.requests[1].query["labelSelector"] == "app in (a,b)"
    assert (names(found.pods), found.resource_version) == (["web-1"], "77")


def test_the_pods_of_this_second_are_given_again_for_the_same_node_and_selector_only(server, reading, clock):
    server.on("GET", PODS, ok(wire.listed()))
    view = reading()

    view.pods_on("n1")
    view.pods_on("n1")
    view.pods_on("n2")
    view.pods_on("n1", "app=web")
    clock.pass_to(1.1)
    view.pods_on("n1")

    assert len(server.requests) == 4


def test_all_pods_are_one_list(server, reading):
    server.on("GET", PODS, ok(wire.listed(wire.pod("a"), wire.pod("b", on="n2"))))

    assert [p.node for p in reading().pods()] == ["n1", "n2"]
    assert server.requests[0].query == {"limit": "500"}


def test_budgets_are_read_once_in_five_seconds(server, reading, clock):
    server.on("GET", BUDGETS, ok(wire.listed(wire.budget())), ok(wire.listed()))
    view = reading()

    first = view.budgets()
    clock.pass_to(4.9)
    again = view.budgets()
    clock.pass_to(5.1)
    later = view.budgets()

    assert names(first) == names(again) == ["web"]
    assert later == ()


def test_a_cluster_without_budgets_is_asked_once_as_well(server, reading):
    server.on("GET", BUDGETS, ok(wire.listed()))
    view = reading()

    assert view.budgets() == view.budgets() == ()
    assert len(server.requests) == 1


def test_controllers_are_read_kind_by_kind_and_carry_their_kind(server, reading):
    kinds = (
        "apps/v1/deployments",
        "apps/v1/statefulsets",
        "apps/v1/daemonsets",
        "apps/v1/replicasets",
        "batch/v1/jobs",
    )
    for path in (*(f"/apis/{k}" for k in kinds), "/api/v1/replicationcontrollers"):
        server.on("GET", path, ok(wire.listed({"metadata": {"name": path.rpartition("/")[2], "namespace": "shop"}})))

    found = reading().workloads()

    assert [(w.kind, w.name) for w in found] == [
        ("Deployment", "deployments"),
        ("StatefulSet", "statefulsets"),
        ("DaemonSet", "daemonsets"),
        ("ReplicaSet", "replicasets"),
        ("Job", "jobs"),
        ("ReplicationController", "replicationcontrollers"),
    ]


def test_a_daemon_set_that_is_there_is_not_missing(server, reading):
    server.on("GET", DAEMON_SET, ok({"metadata": {"name": "agent"}}))

    assert reading().daemon_set_missing("kube-system", "agent") == ""


def test_a_daemon_set_that_is_not_there_is_missing_in_the_servers_words(server, reading):
    server.on("GET", DAEMON_SET, said(404, 'daemonsets.apps "agent" not found', kind="daemonsets"))

    assert reading().daemon_set_missing("kube-system", "agent") == 'daemonsets.apps "agent" not found'


def test_a_daemon_set_that_may_not_be_read_is_not_taken_for_a_missing_one(server, reading):
    server.on("GET", DAEMON_SET, said(403, "forbidden"))
    server.on("GET", "/readyz", page(200, "ok", "text/plain"))

    with pytest.raises(ApiForbidden):
        reading().daemon_set_missing("kube-system", "agent")


def test_the_pods_of_a_budget_are_selected_by_the_server(server, reading):
    path = "/api/v1/namespaces/shop/pods"
    server.on("GET", path, ok(wire.listed(wire.pod())))
    budget = Budget("shop", "web", Selector({"app": "web"}), allowed=0, healthy=1, needed=1, expected=1)

    assert names(reading().pods_of(budget)) == ["web-1"]
    assert server.requests[0].query["labelSelector"] == "app=web"


def test_a_budget_without_a_selector_covers_nothing_and_nothing_is_asked(server, reading):
    budget = Budget("shop", "web", None, allowed=0, healthy=0, needed=0, expected=0)

    assert reading().pods_of(budget) == ()
    assert server.requests == []
