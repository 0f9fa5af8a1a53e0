"""Cordon and uncordon as the server sees them, and conflicts on the node."""

import json

import pytest

from orchestrator.cluster.model import CordonRecord
from orchestrator.errors import ApiConflict, ApiError, ApiForbidden, ApiNotFound
from orchestrator.kube.cluster import KubeHands, KubeRehearsal
from tests.fakes import wire
from tests.fakes.server import HangUp, ok, page, said
from tests.fakes.sink import Recorder

NODE = "/api/v1/nodes/n1"
RECORD = CordonRecord("jo@desk", "disk", "drain-1", 1_795_000_000.0)
MINE = json.dumps({"owner": "jo@desk", "reason": "disk", "run": "drain-1", "at": 1_795_000_000.0})
THEIRS = json.dumps({"owner": "sam@desk", "reason": "fan", "run": "drain-2", "at": 1_795_000_000.0})
CONFLICT = said(409, "the object has been modified; please apply your changes to the latest version", reason="Conflict")


@pytest.fixture
def hands(server, clock, tmp_path):
    return KubeHands(server.session(tmp_path), clock, Recorder())


def test_a_cordon_names_the_version_it_is_meant_for_and_its_owner(server, hands):
    server.on("GET", NODE, ok(wire.node(version="10")))
    server.on("PATCH", NODE, ok(wire.node(version="11", unschedulable=True, cordon=MINE)))

    after = hands.cordon(hands.node("n1"), RECORD)

    patch = server.asked("PATCH")[0]
    assert (after.unschedulable, after.cordon) == (True, RECORD)
    assert patch.headers["Content-Type"] == "application/merge-patch+json"
    assert patch.query == {}
    assert patch.body["spec"] == {"unschedulable": True}
    assert patch.body["metadata"]["resourceVersion"] == "10"
    assert json.loads(patch.body["metadata"]["annotations"]["kube-orchestrator.io/cordon"]) == json.loads(MINE)


def test_an_uncordon_takes_the_field_and_the_record_away(server, hands):
    server.on("GET", NODE, ok(wire.node(unschedulable=True, cordon=MINE)))
    server.on("PATCH", NODE, ok(wire.node(version="11")))

    after = hands.uncordon(hands.node("n1"))

    assert (after.unschedulable, after.cordon) == (False, None)
    assert server.asked("PATCH")[0].body == {
        "metadata": {"resourceVersion": "10", "annotations": {"kube-orchestrator.io/cordon": None}},
        "spec": {"unschedulable": None},
    }


def test_the_answer_to_a_patch_serves_the_next_reading(server, hands):
    server.on("GET", NODE, ok(wire.node()))
    server.on("PATCH", NODE, ok(wire.node(version="11", unschedulable=True)))

    hands.cordon(hands.node("n1"), RECORD)

    assert hands.node("n1").unschedulable
    assert len(server.asked("GET")) == 1


def test_a_conflict_with_a_kubelet_is_read_again_and_patched_again(server, hands):
    server.on("GET", NODE, ok(wire.node(version="10")), ok(wire.node(version="12")))
    server.on("PATCH", NODE, CONFLICT, ok(wire.node(version="13", unschedulable=True, cordon=MINE)))

    after = hands.cordon(hands.node("n1"), RECORD)

    assert after.unschedulable
    assert [str(r) for r in server.requests] == [f"GET {NODE}", f"PATCH {NODE}", f"GET {NODE}", f"PATCH {NODE}"]
    assert [p.body["metadata"]["resourceVersion"] for p in server.asked("PATCH")] == ["10", "12"]


@pytest.mark.parametrize(
    "meanwhile",
    [
        wire.node(version="12", unschedulable=True, cordon=THEIRS),
        wire.node(version="12", unschedulable=True),
        {**wire.node(version="12"), "metadata": {**wire.node()["metadata"], "uid": "another"}},
    ],
    ids=["by a colleague", "by kubectl", "another node"],
)
def test_a_conflict_with_somebody_who_cordoned_meanwhile_is_left_to_the_caller(server, hands, meanwhile):
    server.on("GET", NODE, ok(wire.node(version="10")), ok(meanwhile))
    server.on("PATCH", NODE, CONFLICT)

    with pytest.raises(ApiConflict, match="cannot cordon node n1"):
        hands.cordon(hands.node("n1"), RECORD)

    assert len(server.asked("PATCH")) == 1


def test_a_conflict_that_never_ends_is_given_up_with_the_patience(server, hands, clock):
    server.on("GET", NODE, ok(wire.node()))
    server.on("PATCH", NODE, CONFLICT)

    with pytest.raises(ApiConflict):
        hands.cordon(hands.node("n1"), RECORD)

    assert 30 < clock.now() <= 60
    assert len(server.asked("PATCH")) < 50


@pytest.mark.parametrize("passing", [HangUp(), said(500, "etcd"), said(503, "starting"), said(429, "busy")])
def test_a_patch_is_repeated_with_the_same_version_so_it_cannot_take_effect_twice(server, hands, passing):
    server.on("GET", NODE, ok(wire.node(version="10")))
    server.on("PATCH", NODE, passing, ok(wire.node(version="11", unschedulable=True)))

    hands.cordon(hands.node("n1"), RECORD)

    assert [p.body["metadata"]["resourceVersion"] for p in server.asked("PATCH")] == ["10", "10"]


def test_a_cordon_whose_answer_was_lost_is_found_to_have_worked(server, hands):
    server.on("GET", NODE, ok(wire.node(version="10")), ok(wire.node(version="11", unschedulable=True, cordon=MINE)))
    server.on("PATCH", NODE, HangUp(), CONFLICT)

    after = hands.cordon(hands.node("n1"), RECORD)

    assert (after.unschedulable, after.cordon) == (True, RECORD)
    assert len(server.asked("PATCH")) == 2


def test_an_uncordon_whose_answer_was_lost_is_found_to_have_worked(server, hands):
    server.on("GET", NODE, ok(wire.node(version="10", unschedulable=True, cordon=MINE)), ok(wire.node(version="11")))
    server.on("PATCH", NODE, HangUp(), CONFLICT)

    assert not hands.uncordon(hands.node("n1")).unschedulable


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(said(403, "forbidden"), ApiForbidden), (said(404, "not found"), ApiNotFound), (said(422, "invalid"), ApiError)],
    ids=["403", "404", "422"],
)
def test_a_patch_that_is_refused_ends_at_once_and_says_what_was_meant(server, hands, clock, answer, kind):
    server.on("GET", NODE, ok(wire.node(unschedulable=True)))
    server.on("GET", "/readyz", page(200, "ok", "text/plain"))
    server.on("PATCH", NODE, answer)

    with pytest.raises(kind, match="cannot uncordon node n1"):
        hands.uncordon(hands.node("n1"))

    assert clock.slept == []


@pytest.mark.parametrize("verb", ["would_cordon", "would_uncordon"])
def test_a_rehearsed_cordon_and_its_undoing_are_dry_runs(server, clock, tmp_path, verb):
    server.on("GET", NODE, ok(wire.node()))
    server.on("PATCH", NODE, ok(wire.node(unschedulable=True)))
    rehearsal = KubeRehearsal(server.session(tmp_path), clock, Recorder())

    getattr(rehearsal, verb)(rehearsal.node("n1"))

    assert [r.query for r in server.changes()] == [{"dryRun": "All"}]


def test_names_are_quoted_in_paths(server, hands):
    server.on("GET", "/api/v1/nodes/a?b", said(404, 'nodes "a?b" not found'))

    with pytest.raises(ApiNotFound):
        hands.node("a?b")

    assert server.requests[0].query == {}
