"""The run lock as a Lease on the wire."""

import re

import pytest

from orchestrator.engine.lease import LeaseRecord
from orchestrator.errors import ApiConflict, ApiError, ApiForbidden, ApiNotFound, ApiUnreachable
from orchestrator.kube.lease import KubeLeases
from tests.fakes.server import Stream, ok, page, said

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
LEASE = f"{LEASES}/kube-orchestrator"
RECORD = LeaseRecord("jo@desk", "drain-1", 1_795_000_000.25, 1_795_000_005.5, 15, "7", "uid-7")
MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")


@pytest.fixture
def leases(server, tmp_path):
    return KubeLeases(server.session(tmp_path))


def stored(*, holder="jo@desk", run="drain-1", version="7"):
    return {
        "metadata": {
            "name": "kube-orchestrator",
            "namespace": "kube-system",
            "resourceVersion": version,
            "uid": "uid-7",
            "annotations": {"kube-orchestrator.io/run": run},
        },
        "spec": {
            "holderIdentity": holder,
            "acquireTime": "2026-11-18T10:26:40.250000Z",
            "renewTime": "2026-11-18T10:26:45.500000Z",
            "leaseDurationSeconds": 15,
        },
    }


def test_a_lease_is_read_with_its_run_and_its_times(server, leases):
    server.on("GET", LEASE, ok(stored()))

    found = leases.read()

    assert (found.holder, found.run, found.duration_s) == ("jo@desk", "drain-1", 15)
    assert found.renewed - found.acquired == 5.25
    assert (found.resource_version, found.uid) == ("7", "uid-7")


def test_a_lease_that_is_not_there_is_none(server, leases):
    server.on("GET", LEASE, said(404, "not found"))

    assert leases.read() is None


def test_a_lease_of_another_tool_without_times_or_annotation_can_be_read(server, leases):
    server.on("GET", LEASE, ok({"metadata": {"name": "kube-orchestrator"}, "spec": {"holderIdentity": "x"}}))

    assert leases.read() == LeaseRecord("x", "", 0.0, 0.0, 0)


def test_a_lease_is_created_with_micro_times_and_the_run_for_people_to_see(server, leases):
    server.on("POST", LEASES, ok(stored()))

    leases.create(LeaseRecord("jo@desk", "drain-1", 1_795_000_000.0, 1_795_000_000.0, 15))

    body = server.requests[0].body
    assert body["metadata"] == {
        "name": "kube-orchestrator",
        "namespace": "kube-system",
        "annotations": {"kube-orchestrator.io/run": "drain-1"},
    }
    assert MICRO_TIME.match(body["spec"]["acquireTime"])
    assert body["spec"]["renewTime"].endswith(".000000Z")
    assert (body["spec"]["holderIdentity"], body["spec"]["leaseDurationSeconds"]) == ("jo@desk", 15)


def test_a_renewal_names_the_version_and_the_uid_it_is_meant_for(server, leases):
    server.on("PUT", LEASE, ok(stored(version="8")))

    assert leases.replace(RECORD).resource_version == "8"
    assert server.requests[0].body["metadata"]["resourceVersion"] == "7"
    assert server.requests[0].body["metadata"]["uid"] == "uid-7"
    assert server.requests[0].body["spec"]["renewTime"].endswith(".500000Z")


def test_only_the_lease_that_was_read_is_deleted(server, leases):
    server.on("DELETE", LEASE, ok())

    leases.delete(RECORD)

    assert server.requests[0].body["preconditions"] == {"uid": "uid-7", "resourceVersion": "7"}


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("POST", LEASES, KubeLeases.create),
        ("PUT", LEASE, KubeLeases.replace),
        ("DELETE", LEASE, KubeLeases.delete),
    ],
)
@pytest.mark.parametrize(
    ("status", "kind"), [(403, ApiForbidden), (404, ApiNotFound), (409, ApiConflict), (503, ApiUnreachable)]
)
def test_each_refusal_has_its_class_and_is_not_repeated_here(server, leases, method, path, call, status, kind):
    server.on(method, path, said(status, "no"))
    server.on("GET", "/readyz", page(200, "ok", "text/plain"))

    with pytest.raises(kind, match="the run lock"):
        call(leases, RECORD)

    assert len(server.asked(method)) == 1


def test_a_refusal_of_a_server_that_is_loading_its_permissions_passes(server, leases):
    server.on("PUT", LEASE, said(403, "no"))
    server.on("GET", "/readyz", said(403, "no"))

    with pytest.raises(ApiUnreachable, match="loading its permissions"):
        leases.replace(RECORD)


def test_something_that_is_no_lease_is_no_answer_of_the_api_server(server, leases):
    server.on("GET", LEASE, page(200, "<html>"))

    with pytest.raises(ApiUnreachable, match="cannot read the run lock"):
        leases.read()


def test_a_watch_tells_of_changes_and_of_the_end(server, leases):
    stream = Stream(("MODIFIED", stored(holder="sam@desk", run="drain-2")), ("DELETED", stored())).end()
    server.on("WATCH", LEASES, stream)

    seen = list(leases.watch(RECORD, 3.2))

    assert [r and (r.holder, r.run) for r in seen] == [("sam@desk", "drain-2"), None]
    assert server.requests[0].query == {
        "watch": "1",
        "fieldSelector": "metadata.name=kube-orchestrator",
        "resourceVersion": "7",
        "timeoutSeconds": "3",
    }


@pytest.mark.parametrize(
    "answer",
    [
        said(410, "too old"),
        said(403, "forbidden"),
        Stream(("ERROR", {"kind": "Status", "code": 410})),
        Stream().cut(),
        Stream().push_raw(b"<html>\n"),
        Stream(("MODIFIED", {"metadata": 3})),
    ],
    ids=["410", "403", "error event", "cut", "html", "no lease"],
)
def test_a_watch_that_cannot_go_on_says_so(server, leases, answer):
    server.on("WATCH", LEASES, answer)

    with pytest.raises(ApiError):
        list(leases.watch(RECORD, 1.0))
