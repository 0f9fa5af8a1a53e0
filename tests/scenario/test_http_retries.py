"""An API server under maintenance: what is tried again, how often, and what ends at once."""

import pytest

from orchestrator.engine.clock import SystemClock
from orchestrator.errors import (
    ApiConflict,
    ApiError,
    ApiForbidden,
    ApiNotFound,
    ApiThrottled,
    ApiUnauthorized,
    ApiUnreachable,
    FactUnreadable,
)
from orchestrator.kube.cluster import KubeView
from tests.fakes import wire
from tests.fakes.server import HangUp, Silence, ok, page, said
from tests.fakes.sink import Recorder
from tests.fakes.time import FakeClock

NODE = "/api/v1/nodes/n1"


@pytest.fixture
def sink():
    return Recorder()


@pytest.fixture
def view(server, clock, sink, tmp_path):
    return KubeView(server.session(tmp_path), clock, sink, patience_s=60.0)


@pytest.mark.parametrize(
    "passing",
    [
        said(409, "the object has been modified", reason="Conflict"),
        said(429, "too many requests"),
        said(500, "etcdserver: leader changed"),
        page(502, "bad gateway"),
        said(503, "apiserver is shutting down"),
        page(504, "gateway timeout"),
        HangUp(),
    ],
    ids=["409", "429", "500", "502", "503", "504", "EOF"],
)
def test_a_failure_that_passes_is_tried_again_and_told(server, view, sink, passing):
    server.on("GET", NODE, passing, passing, ok(wire.node()))

    found = view.node("n1")

    assert found.name == "n1"
    assert server.order() == [f"GET {NODE}"] * 3
    assert sink.names() == ["retry.scheduled", "retry.scheduled"]
    assert all(e.level == "warning" and e.fields["in_s"] >= 0 and e.fields["why"] for e in sink.events)


def test_a_server_that_refuses_connections_is_waited_for(server, view, clock):
    server.on("GET", NODE, ok(wire.node()))
    server.down()

    class UpAfter(FakeClock):
        def sleep(self, seconds):
            super().sleep(seconds)
            if len(self.slept) == 3:
                server.up()

    view._clock = UpAfter()

    assert view.node("n1").name == "n1"
    assert len(view._clock.slept) == 3


@pytest.mark.parametrize(
    ("answer", "least_s"),
    [(said(429, "busy", Retry_After=7), 7.0), (said(503, "starting", Retry_After=3), 3.0)],
    ids=["429", "503"],
)
def test_a_pause_that_the_server_asks_for_is_kept(server, view, clock, answer, least_s):
    server.on("GET", NODE, answer, ok(wire.node()))

    view.node("n1")

    assert len(clock.slept) == 1
    assert least_s <= clock.slept[0] <= least_s * 1.2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (said(409, "modified"), ApiConflict),
        (said(429, "busy"), ApiThrottled),
        (said(500, "etcd"), ApiUnreachable),
        (page(503, "down"), ApiUnreachable),
        (HangUp(), ApiUnreachable),
    ],
    ids=["409", "429", "500", "503", "EOF"],
)
def test_a_failure_that_stays_ends_with_the_patience_and_says_how_often_it_was_tried(server, view, clock, answer, kind):
    server.on("GET", NODE, answer)

    with pytest.raises(kind) as caught:
        view.node("n1")

    assert clock.now() <= 60.0
    assert len(server.requests) > 5
    assert caught.value.__notes__ == [f"tried {len(server.requests)} times in {clock.now():.0f} s"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (said(400, "bad field selector"), ApiError),
        (said(401, "Unauthorized"), ApiUnauthorized),
        (said(404, 'nodes "n1" not found', kind="nodes"), ApiNotFound),
        (said(405, "not allowed"), ApiError),
        (said(422, "invalid"), ApiError),
    ],
    ids=["400", "401", "404", "405", "422"],
)
def test_what_will_not_pass_ends_at_once(server, view, clock, answer, kind):
    server.on("GET", NODE, answer)

    with pytest.raises(kind) as caught:
        view.node("n1")

    assert server.order() == [f"GET {NODE}"]
    assert clock.slept == []
    assert caught.value.remedy


def test_a_403_of_a_server_that_has_just_started_is_tried_again(server, view, sink):
    forbidden = said(403, "nodes is forbidden")
    server.on("GET", NODE, forbidden, forbidden, ok(wire.node()))
    server.on("GET", "/readyz", said(403, "/readyz is forbidden"))

    found = view.node("n1")

    assert found.name == "n1"
    assert server.order() == [f"GET {NODE}", "GET /readyz", f"GET {NODE}", "GET /readyz", f"GET {NODE}"]
    assert "has not loaded its permissions yet" in sink.events[0].fields["why"]


def test_a_403_of_a_server_whose_readyz_does_not_answer_is_tried_again(server, view):
    server.on("GET", NODE, said(403, "nodes is forbidden"), ok(wire.node()))
    server.on("GET", "/readyz", HangUp())

    assert view.node("n1").name == "n1"


def test_a_403_that_is_meant_ends_at_once(server, view, clock):
    server.on("GET", NODE, said(403, 'nodes "n1" is forbidden: User "jo" cannot get resource "nodes"'))
    server.on("GET", "/readyz", page(200, "ok", "text/plain"))

    with pytest.raises(ApiForbidden, match='User "jo" cannot get') as caught:
        view.node("n1")

    assert server.order() == [f"GET {NODE}", "GET /readyz"]
    assert clock.slept == []
    assert "docs/rbac.md" in caught.value.remedy


def test_a_cluster_that_hides_readyz_costs_20_seconds_not_a_minute(server, view, clock):
    server.on("GET", NODE, said(403, "forbidden"))
    server.on("GET", "/readyz", said(403, "forbidden"))

    with pytest.raises(ApiForbidden):
        view.node("n1")

    assert 20 <= clock.now() < 30


def test_after_a_success_a_new_start_is_waited_for_as_long_again(server, view, clock):
    forbidden = said(403, "forbidden")
    server.on("GET", NODE, forbidden, ok(wire.node()), forbidden, ok(wire.node(version="11")))
    server.on("GET", "/readyz", said(403, "forbidden"))

    view.node("n1")
    clock.pass_to(1000.0)

    assert view.node("n1").resource_version == "11"


def test_a_server_that_takes_requests_and_never_answers_does_not_hang_it(server, clock, sink, tmp_path):
    server.on("GET", NODE, Silence())
    view = KubeView(server.session(tmp_path), clock, sink, patience_s=0.15)

    with pytest.raises(ApiUnreachable, match="does not answer") as caught:
        view.node("n1")

    assert "no answer within" in str(caught.value)


def test_one_of_several_servers_that_never_answers_leaves_time_to_ask_another(server, sink, tmp_path):
    """As behind a load balancer that has not seen yet that the etcd of one is gone."""
    server.on("GET", NODE, Silence(), ok(wire.node()))
    view = KubeView(server.session(tmp_path), SystemClock(), sink, patience_s=2.0)

    assert view.node("n1").name == "n1"


def test_a_200_that_is_no_node_is_not_taken_for_one(server, view):
    server.on("GET", NODE, page(200, "<html>please log in: token=hunter2</html>"))

    with pytest.raises(FactUnreadable, match="cannot read node n1: the answer is not") as caught:
        view.node("n1")

    assert "hunter2" not in str(caught.value)
    assert server.url in caught.value.remedy


def test_a_reading_of_this_second_is_given_again_and_an_older_one_is_not(server, view, clock):
    server.on("GET", NODE, ok(wire.node(version="1")), ok(wire.node(version="2")))

    first, again = view.node("n1"), view.node("n1")
    clock.pass_to(1.5)
    later = view.node("n1")

    assert (first.resource_version, again.resource_version, later.resource_version) == ("1", "1", "2")
    assert len(server.requests) == 2
