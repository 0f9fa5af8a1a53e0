"""What a server and a kubeconfig tell of themselves."""

import base64
import json
import time

import pytest

from orchestrator.cluster.checkup import Credentials
from orchestrator.errors import ApiError, ApiUnreachable, FactUnreadable
from orchestrator.kube.about import KubeAbout
from orchestrator.kube.permissions import Rule
from tests.fakes.certificates import Certificates
from tests.fakes.server import ApiServer, HangUp, Silence, ok, page, said
from tests.fakes.time import FakeClock

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
DATE = "Sat, 01 Aug 2026 12:00:00 GMT"
NOON = 1_785_585_600.0


@pytest.fixture
def about(server, tmp_path):
    return KubeAbout(server.session(tmp_path), FakeClock(NOON), patience_s=2.0)


def dated(answer, date):
    """That answer with another Date than the server's own."""
    return type(answer)(answer.status, answer.body, {**answer.headers, "Date": date})


def jwt(**claims):
    return f"x.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.y"


def test_the_version_and_the_clock_of_the_server_are_read(server, about):
    server.on("GET", "/version", dated(ok({"gitVersion": "v1.37.2"}), DATE))

    found = about.server()

    assert (found.version, found.took_s) == ("v1.37.2", 0.0)
    assert abs(found.ahead_s) <= 1.0


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_server_without_a_date_leaves_its_clock_unknown(server, about, date):
    server.on("GET", "/version", dated(ok({"gitVersion": "v1.37.2"}), date))

    assert about.server().ahead_s is None


def test_a_server_that_says_something_else_is_not_taken_for_kubernetes(server, about):
    server.on("GET", "/version", page(200, "<html>"))

    with pytest.raises(FactUnreadable, match=r"cannot read the server's version"):
        about.server()


def test_a_version_that_is_hidden_is_unknown_and_one_that_fails_is_an_error(server, about):
    server.on("GET", "/version", said(403, "forbidden"), page(404, "no"), HangUp())

    assert (about.version(), about.version()) == ("", "")
    with pytest.raises(ApiUnreachable):
        about.version()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (page(200, "[+]ping ok\n[+]etcd ok\n[+]etcd-readiness ok\nreadyz check passed\n", "text/plain"), True),
        (page(500, "[+]ping ok\n[-]etcd failed: reason withheld\n[+]etcd-readiness ok\n", "text/plain"), False),
        (page(200, "[+]ping ok\n", "text/plain"), None),
        (page(200, "<html>etcd</html>"), None),
        (said(403, "forbidden"), None),
        (HangUp(), None),
    ],
    ids=["healthy", "failing", "not told", "html", "forbidden", "EOF"],
)
def test_etcd_is_judged_by_the_servers_own_check_and_unknown_where_there_is_none(server, about, answer, found):
    server.on("GET", "/readyz", answer)

    assert about.etcd_answers() is found


def test_a_server_that_never_answers_is_given_up_with_the_patience(server, tmp_path):
    server.on("GET", "/version", Silence())

    with pytest.raises(ApiUnreachable, match=r"no answer within 0\.15 s"):
        KubeAbout(server.session(tmp_path), FakeClock(), patience_s=0.15).server()


def test_the_end_of_a_serving_certificate_is_read_even_when_it_has_ended(tmp_path):
    with ApiServer(tls=Certificates(tmp_path, valid_s=-3600.0)) as server:
        found = KubeAbout(server.session(tmp_path), FakeClock()).serving_certificate_end()

    assert found == pytest.approx(time.time() - 3600.0, abs=60)


def test_the_end_of_a_serving_certificate_is_unknown_without_tls_or_without_a_server(server, about, tmp_path):
    with ApiServer(tls=Certificates(tmp_path)) as other:
        session = other.session(tmp_path, context="other")
        other.down()

        assert KubeAbout(session, FakeClock()).serving_certificate_end() is None

    assert about.serving_certificate_end() is None


@pytest.mark.parametrize(
    ("token", "end"),
    [(jwt(exp=1234), 1234.0), (jwt(), None), ("opaque", None), ("a.%%%.c", None), ("a.bm90IGpzb24.c", None)],
)
def test_a_token_ends_where_it_says_so_and_is_unknown_else(server, tmp_path, token, end):
    session = server.session(tmp_path, user={"token": token})

    assert KubeAbout(session, FakeClock()).credentials() == Credentials("token", end)


def test_a_user_without_credentials_has_none(server, tmp_path):
    assert KubeAbout(server.session(tmp_path, user={}), FakeClock()).credentials() == Credentials("none", None)


def test_a_client_certificate_ends_where_it_says_so(tmp_path):
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("jo", valid_s=7200.0)
    with ApiServer(tls=certificates) as server:
        session = server.session(tmp_path, user={"client-certificate": str(certificate), "client-key": str(key)})

        found = KubeAbout(session, FakeClock()).credentials()

    assert found.kind == "client certificate"
    assert found.end == pytest.approx(time.time() + 7200.0, abs=60)


def test_a_client_certificate_that_is_gone_or_none_has_no_known_end(tmp_path):
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("jo")
    with ApiServer(tls=certificates) as server:
        session = server.session(tmp_path, user={"client-certificate": str(certificate), "client-key": str(key)})

        certificate.write_text("junk")
        junk = KubeAbout(session, FakeClock()).credentials()
        certificate.unlink()
        gone = KubeAbout(session, FakeClock()).credentials()

    assert junk == gone == Credentials("client certificate", None)


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"allowed": True}, ""),
        ({"allowed": False}, "no role grants it"),
        ({"allowed": False, "reason": "a policy"}, "a policy"),
        ({"allowed": False, "reason": "a policy", "evaluationError": "no such role"}, "no such role"),
        ({}, "no role grants it"),
    ],
)
def test_a_permission_is_asked_for_as_it_will_be_used(server, about, status, why):
    server.on("POST", REVIEWS, ok({"status": status}))

    assert about.denied(Rule("", "pods/eviction", "create", namespace="shop")) == why
    assert server.requests[0].body["spec"]["resourceAttributes"] == {
        "resource": "pods",
        "subresource": "eviction",
        "verb": "create",
        "namespace": "shop",
    }


def test_a_permission_that_cannot_be_asked_for_is_an_error_and_not_a_denial(server, about):
    server.on("POST", REVIEWS, said(403, "may not ask"))

    with pytest.raises(ApiError, match="ask whether this user may create pods/eviction"):
        about.denied(Rule("", "pods/eviction", "create"))


def test_an_answer_about_a_permission_that_cannot_be_read_is_an_error_and_not_a_denial(server, about):
    server.on("POST", REVIEWS, page(200, "<html>"))

    with pytest.raises(FactUnreadable, match="ask whether this user may"):
        about.denied(Rule("", "pods/eviction", "create"))
