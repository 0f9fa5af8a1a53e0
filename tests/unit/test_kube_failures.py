"""Answers that are not what was asked for, as errors with a remedy; and the permissions that commands need."""

import json
from pathlib import Path

import pytest

from orchestrator.app import default_owner
from orchestrator.errors import (
    ApiConflict,
    ApiError,
    ApiForbidden,
    ApiNotFound,
    ApiThrottled,
    ApiUnauthorized,
    ApiUnreachable,
)
from orchestrator.kube import permissions
from orchestrator.kube.failures import certificate_end, distrust_remedy, from_response
from orchestrator.kube.kubeconfig import Choice, reaching
from orchestrator.kube.permissions import COMMANDS, Rule

CHOICE = Choice((Path("k"),), "prod", "c", "u")


def failure(status, message="", **headers):
    body = json.dumps({"kind": "Status", "message": message, "reason": "Because"}).encode() if message else b""
    return from_response(status, headers, body, "read node n1", CHOICE)


@pytest.mark.parametrize(
    ("status", "kind", "remedy"),
    [
        (400, ApiError, "see the API server's message"),
        (401, ApiUnauthorized, "log in again"),
        (403, ApiForbidden, "docs/rbac.md"),
        (404, ApiNotFound, "check the name and the context"),
        (409, ApiConflict, "repeat the command"),
        (410, ApiError, "see the API server's message"),
        (429, ApiThrottled, "try later"),
        (500, ApiUnreachable, "control plane"),
        (502, ApiUnreachable, "control plane"),
        (503, ApiUnreachable, "control plane"),
        (504, ApiUnreachable, "control plane"),
        (505, ApiError, "see the API server's message"),
    ],
)
def test_each_status_has_its_class_and_its_remedy(status, kind, remedy):
    err = failure(status, "what the server said")

    assert type(err) is kind
    assert remedy in err.remedy
    assert (err.status, err.reason) == (status, "Because")
    assert status == 401 or str(err) == "cannot read node n1: what the server said"


def test_that_etcd_has_no_space_is_no_fault_that_passes():
    err = failure(500, "etcdserver: mvcc: database space exceeded")

    assert type(err) is ApiError
    assert not err.retryable
    assert "orchestrator etcd disarm" in err.remedy


def test_without_a_message_the_status_is_shown():
    assert str(failure(503)) == "cannot read node n1: HTTP 503"


def test_a_pause_is_kept_only_where_trying_again_helps():
    assert failure(503, **{"Retry-After": "3"}).retry_after_s == 3.0
    assert failure(403, **{"Retry-After": "3"}).retry_after_s is None


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        ("certificate has expired", "kubeadm certs renew apiserver"),
        ("certificate is not yet valid", "this machine's clock"),
        ("Hostname mismatch, certificate is not valid for 'x'.", "tls-server-name"),
        ("IP address mismatch, certificate is not valid for '10.0.0.1'.", "tls-server-name"),
        ("self-signed certificate in certificate chain", "certificate-authority"),
        ("unable to get local issuer certificate", "certificate-authority"),
    ],
)
def test_what_openssl_says_of_a_certificate_has_the_remedy_that_helps(why, remedy):
    assert remedy in distrust_remedy(why)


def test_a_certificate_that_cannot_be_read_has_no_known_end(tmp_path):
    (tmp_path / "junk").write_text("junk")

    assert certificate_end(None) is None
    assert certificate_end(str(tmp_path / "none")) is None
    assert certificate_end(str(tmp_path / "junk")) is None


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule("", "nodes", "list"), "list nodes"),
        (Rule("policy", "poddisruptionbudgets", "watch"), "watch poddisruptionbudgets.policy"),
        (Rule("", "pods/eviction", "create", namespace="shop"), "create pods/eviction in shop"),
        (Rule("x.io", "leases", "get", "kube-system", "lock"), "get leases.x.io lock in kube-system"),
    ],
)
def test_a_permission_is_told_as_people_say_it(rule, text):
    assert str(rule) == text


def test_what_several_commands_need_is_named_once():
    found = permissions.of(["cordon", "drain", "cordon"])

    assert len(found) == len(set(found))
    assert set(found) == {*COMMANDS["cordon"], *COMMANDS["drain"]}


@pytest.mark.parametrize(
    ("files", "context", "remedy"),
    [
        (["/a"], "prod", "pass --kubeconfig /a --context prod"),
        (["/a", "/b"], "prod", "set KUBECONFIG=/a:/b and pass --context prod"),
        ([], "", "do it where the run was started, in a pod of that cluster"),
    ],
)
def test_how_a_cluster_is_reached_again_is_told_as_it_was_reached(files, context, remedy):
    assert reaching(files, context) == remedy


def test_an_owner_is_a_user_at_a_host(monkeypatch):
    monkeypatch.setenv("LOGNAME", "jo")

    assert default_owner().startswith("jo@")
