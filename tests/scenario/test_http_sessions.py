"""Which cluster is meant, with which credentials, and what is said when that does not work."""

import base64
import hashlib
import json
import os
import sys

import pytest

from orchestrator.errors import ApiError, ApiUnauthorized, ApiUnreachable, BadUsage
from orchestrator.kube import kubeconfig
from orchestrator.kube.failures import MESSAGE_LIMIT
from orchestrator.kube.session import connect, unconnected
from tests.fakes import wire
from tests.fakes.certificates import Certificates
from tests.fakes.server import ApiServer, ok, page, said

NODE = "/api/v1/nodes/n1"


@pytest.fixture(autouse=True)
def _no_cluster_of_ours(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def certificates(tmp_path):
    (tmp_path / "pki").mkdir()
    return Certificates(tmp_path / "pki")


def written(path, *, server="http://127.0.0.1:1", cluster=None, user=None, **top):
    """A kubeconfig with the context `a`."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "east", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "jo", "user": user or {}}],
        "contexts": [{"name": "a", "context": {"cluster": "east", "user": "jo"}}],
        **top,
    }
    path.write_text(json.dumps(content))
    return str(path)


def plugin(code):
    """A user whose credentials come from a program."""
    program = {"command": sys.executable, "args": ["-c", code], "interactiveMode": "Never"}
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", **program}}


def asked(server, session):
    """Sends a request and closes the connection."""
    server._sessions.append(session)
    return session.send("GET", NODE, timeout_s=5.0)


# ---- which cluster --------------------------------------------------------------------------------------------


def test_the_current_context_is_meant_unless_another_is_named(tmp_path):
    contexts = [{"name": n, "context": {"cluster": f"{n}-c", "user": f"{n}-u"}} for n in ("a", "b")]
    path = written(tmp_path / "k", contexts=contexts)

    assert kubeconfig.choose(path, None).context == "a"
    assert kubeconfig.choose(path, "b").cluster == "b-c"


def test_of_several_files_the_first_that_says_it_wins(tmp_path, monkeypatch):
    one = written(tmp_path / "one", **{"current-context": ""})
    two = written(tmp_path / "two", **{"current-context": "b", "contexts": [{"name": "b", "context": {"user": "x"}}]})
    three = written(
        tmp_path / "three", **{"current-context": "a", "contexts": [{"name": "b", "context": {"user": "y"}}]}
    )
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join([one, "", str(tmp_path / "none"), two, three]))

    choice = kubeconfig.choose(None, None)

    assert (choice.context, choice.user) == ("b", "x")
    assert [p.name for p in choice.files] == ["one", "two", "three"]
    assert kubeconfig.contexts(None) == ("a", "b")


def test_a_session_of_several_files_talks_to_the_cluster_of_the_context(server, tmp_path, monkeypatch):
    server.on("GET", NODE, ok(wire.node()))
    one = written(tmp_path / "one", **{"current-context": "stub"})
    monkeypatch.setenv("KUBECONFIG", f"{one}:{server.kubeconfig(tmp_path)}")

    session = connect(None, None)

    assert asked(server, session).status == 200
    assert session.server == server.url


def test_without_anything_the_file_in_the_home_directory_is_meant(tmp_path):
    (tmp_path / ".kube").mkdir()
    written(tmp_path / ".kube" / "config")

    assert kubeconfig.choose(None, None).files == (tmp_path / ".kube" / "config",)


def test_a_file_that_was_named_and_is_not_there_is_an_error_of_the_argument(tmp_path):
    with pytest.raises(BadUsage, match=r"there is no kubeconfig .*/none"):
        kubeconfig.choose(str(tmp_path / "none"), None)


def test_no_kubeconfig_at_all_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(ApiUnreachable, match="no cluster") as caught:
        connect(None, None)

    assert str(tmp_path / ".kube" / "config") in str(caught.value)
    assert "KUBECONFIG" in caught.value.remedy


def test_a_context_that_is_not_there_is_answered_with_the_likely_one(tmp_path):
    contexts = [{"name": n, "context": {}} for n in ("prod-east", "staging")]
    path = written(tmp_path / "k", contexts=contexts)

    with pytest.raises(BadUsage, match=r"there is no context 'prod-eats' in .*/k") as caught:
        kubeconfig.choose(path, "prod-eats")

    assert caught.value.remedy.startswith("did you mean prod-east?")
    assert "staging" in caught.value.remedy


@pytest.mark.parametrize(
    ("top", "remedy"), [({}, "one of: a"), ({"contexts": None}, "one of: none")], ids=["one", "none"]
)
def test_a_kubeconfig_without_a_current_context_needs_one_named(tmp_path, top, remedy):
    path = written(tmp_path / "k", **{"current-context": None, **top})

    with pytest.raises(BadUsage, match="no current context") as caught:
        kubeconfig.choose(path, None)

    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("contexts: [", "it is not YAML: .* in line 1"),
        ("\x00", "it is not a kubeconfig"),
        ("- a\n- b\n", "it is not a kubeconfig"),
        ('{"contexts": [{"context": {}}]}', "it is not a kubeconfig"),
        ('{"contexts": [3]}', "it is not a kubeconfig"),
        ("just words", "it is not a kubeconfig"),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_named(tmp_path, text, why):
    path = tmp_path / "k"
    path.write_text(text)

    with pytest.raises(BadUsage, match=f"cannot read the kubeconfig {path}: {why}"):
        kubeconfig.choose(str(path), None)


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "k"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BadUsage, match=f"cannot read the kubeconfig {path}"):
        kubeconfig.choose(str(path), None)


# ---- what a kubeconfig lacks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lacks", "why"),
    [
        ({"clusters": []}, "east"),
        ({"clusters": None}, "east"),
        ({"contexts": [{"name": "a", "context": None}]}, "Expected key context"),
        ({"users": [{"name": "jo", "token": "hunter2"}]}, "Expected key user"),
    ],
    ids=["cluster", "clusters", "context", "user"],
)
def test_an_incomplete_kubeconfig_is_an_error_of_the_file_and_shows_no_secret(tmp_path, lacks, why):
    path = written(tmp_path / "k", **lacks)

    with pytest.raises(BadUsage, match=why) as caught:
        connect(path, None)

    assert "hunter2" not in str(caught.value)
    assert path in caught.value.remedy


@pytest.mark.parametrize("server", ["", "10.0.0.1:6443", "ftp://somewhere"])
def test_a_cluster_without_a_url_ends_at_once_and_not_after_a_minute(tmp_path, server):
    path = written(tmp_path / "k", server=server)

    with pytest.raises(BadUsage, match="cluster east has no server that is a URL") as caught:
        connect(path, None)

    assert "kubectl config set-cluster east --server=" in caught.value.remedy


@pytest.mark.parametrize(
    ("user", "why"),
    [
        ({"tokenFile": "/no/such/token"}, "/no/such/token"),
        ({"client-certificate": "/no/such/cert", "client-key": "/no/such/key"}, "/no/such/cert"),
        ({"auth-provider": {"name": "gcp", "config": {}}}, "cannot load its credentials"),
    ],
    ids=["token", "certificate", "provider"],
)
def test_credentials_that_cannot_be_loaded_are_named(tmp_path, user, why):
    path = written(tmp_path / "k", server="https://127.0.0.1:1", user=user)

    with pytest.raises(ApiUnauthorized, match="context a: cannot load its credentials") as caught:
        connect(path, None)

    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.exit('session expired: run `cloud login`')", "session expired: run `cloud login`"),
        ("print('{}')", "malformed response"),
        ("print('<html>')", "failed to decode"),
    ],
    ids=["fails", "empty", "html"],
)
def test_a_credential_plugin_that_fails_is_quoted(tmp_path, code, why):
    path = written(tmp_path / "k", user=plugin(code))

    with pytest.raises(ApiUnauthorized, match="its credential plugin failed") as caught:
        connect(path, None)

    assert why in str(caught.value)
    assert "log in again" in caught.value.remedy


def test_the_token_of_a_plugin_is_sent(server, tmp_path):
    server.on("GET", NODE, ok(wire.node()))
    status = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t1"}}
    path = written(tmp_path / "k", server=server.url, user=plugin(f"print({json.dumps(json.dumps(status))})"))

    session = connect(path, None)
    asked(server, session)

    assert server.requests[0].headers["authorization"] == "Bearer t1"
    assert session.bearer_token == "t1"
    assert session.token_renews


def test_in_a_pod_the_service_account_is_used_and_a_missing_one_is_named(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")

    with pytest.raises(ApiUnauthorized, match="in-cluster: cannot load its credentials"):
        connect(None, None)


# ---- the connection -------------------------------------------------------------------------------------------


def test_the_token_and_the_name_of_this_tool_are_sent(server, tmp_path):
    server.on("GET", NODE, ok(wire.node()))

    server.session(tmp_path).send("GET", NODE, query={"a": "b c"}, timeout_s=5.0)

    request = server.requests[0]
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["User-Agent"] == "orchestrator"
    assert request.headers["Accept"] == "application/json"
    assert request.query == {"a": "b c"}


def test_a_token_of_the_kubeconfig_is_not_renewed_by_anybody(server, tmp_path):
    assert not server.session(tmp_path).token_renews


def test_one_connection_serves_many_requests(server, tmp_path):
    server.on("GET", NODE, ok(wire.node()))
    session = server.session(tmp_path)

    for _ in range(5):
        session.send("GET", NODE, timeout_s=5.0)

    assert len(server._http._connections) == 1


def test_a_server_that_refuses_the_connection_is_named_in_plain_words(server, tmp_path):
    session = server.session(tmp_path)
    server.down()

    with pytest.raises(ApiUnreachable) as caught:
        session.send("GET", NODE, query={"x": "y"}, timeout_s=1.0)

    assert str(caught.value) == (
        f"{session.server} does not answer (GET {NODE}): Failed to establish a new connection: "
        "[Errno 111] Connection refused"
    )
    assert "context stub" in caught.value.remedy


def test_http_to_a_port_of_https_is_no_answer(tmp_path, certificates):
    with ApiServer(tls=certificates) as server:
        session = connect(written(tmp_path / "k", server=server.url.replace("https", "http")), None)

        with pytest.raises(ApiUnreachable):
            asked(server, session)


def test_a_server_with_a_certificate_of_the_authority_is_trusted(tmp_path, certificates):
    with ApiServer(tls=certificates) as server:
        server.on("GET", NODE, ok(wire.node()))

        answer = server.session(tmp_path).send("GET", NODE, timeout_s=5.0)

    assert answer.status == 200


def test_the_authority_of_a_kubeconfig_is_known_by_the_sum_of_its_certificate(tmp_path):
    (tmp_path / "ca.crt").write_bytes(b"ca.crt")
    held = {"certificate-authority-data": base64.b64encode(b"ca.crt").decode()}
    wanted = hashlib.sha256(b"ca.crt").hexdigest()

    for cluster, sum_ in [(held, wanted), ({"certificate-authority": str(tmp_path / "ca.crt")}, wanted), ({}, "")]:
        path = written(tmp_path / "k", server="https://127.0.0.1:1", cluster=cluster)
        assert connect(path, None).authority == sum_


def test_of_a_cluster_that_is_not_connected_to_server_and_authority_are_known(tmp_path):
    (tmp_path / "ca.crt").write_bytes(b"ca.crt")
    wanted = hashlib.sha256(b"ca.crt").hexdigest()
    held = {"certificate-authority-data": base64.b64encode(b"ca.crt").decode()}
    called = tmp_path / "called"
    user = plugin(f"open({str(called)!r}, 'w')")

    for cluster, sum_ in [
        (held, wanted), ({"certificate-authority": "ca.crt"}, wanted), ({"certificate-authority": "none"}, ""), ({}, "")
    ]:  # fmt: skip
        path = written(tmp_path / "k", server="https://127.0.0.1:1/", cluster=cluster, user=user)
        session = unconnected(path, None, ApiUnauthorized("no credentials", remedy="log in"))
        assert (session.server, session.authority) == ("https://127.0.0.1:1", sum_)
        with pytest.raises(ApiUnauthorized, match="no credentials"):
            session.send("GET", NODE, timeout_s=5.0)
    assert not called.exists()


def test_where_there_is_no_kubeconfig_no_cluster_is_meant():
    session = unconnected(None, None, ApiUnauthorized("no credentials", remedy="log in"))

    assert (session.server, session.authority) == ("", "")
    with pytest.raises(ApiUnreachable, match="there is no kubeconfig"):
        session.send("GET", NODE, timeout_s=5.0)


def test_an_authority_whose_file_is_gone_is_none(tmp_path):
    (tmp_path / "ca.crt").write_bytes(b"ca.crt")
    held = {"certificate-authority": str(tmp_path / "ca.crt")}
    session = connect(written(tmp_path / "k", server="https://127.0.0.1:1", cluster=held), None)
    (tmp_path / "ca.crt").unlink()

    assert session.authority == ""


def test_a_server_of_another_authority_is_not_trusted(tmp_path, certificates):
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    with ApiServer(tls=certificates) as server:
        cluster = {"certificate-authority": str(other.authority)}
        session = connect(written(tmp_path / "k", server=server.url, cluster=cluster), None)

        with pytest.raises(ApiUnauthorized, match=r"cannot be trusted: .*issuer certificate$") as caught:
            asked(server, session)

    assert "certificate-authority is not that server's" in caught.value.remedy


def test_a_server_certificate_that_has_ended_is_the_servers_fault_not_the_kubeconfigs(tmp_path):
    with ApiServer(tls=Certificates(tmp_path, valid_s=-60.0)) as server:
        session = server.session(tmp_path)

        with pytest.raises(ApiUnauthorized, match="cannot be trusted: certificate has expired") as caught:
            session.send("GET", NODE, timeout_s=5.0)

    assert "kubeadm certs renew apiserver" in caught.value.remedy
    assert "kubeconfig" not in caught.value.remedy


def test_a_certificate_of_another_name_is_told_from_one_of_another_authority(tmp_path, certificates):
    with ApiServer(tls=certificates) as server:
        cluster = {"certificate-authority": str(certificates.authority), "tls-server-name": "other"}
        session = connect(written(tmp_path / "k", server=server.url, cluster=cluster), None)

        with pytest.raises(ApiUnauthorized, match="not valid for 'other'") as caught:
            asked(server, session)

    assert "tls-server-name" in caught.value.remedy
    assert session.tls_name == "other"


def test_files_that_are_no_certificates_are_no_matter_of_the_server(tmp_path, certificates):
    junk = base64.b64encode(b"no certificate").decode()
    with ApiServer(tls=certificates) as server:
        session = connect(
            written(tmp_path / "k", server=server.url, cluster={"certificate-authority-data": junk}), None
        )

        with pytest.raises(ApiUnauthorized, match="its certificates or key cannot be used"):
            asked(server, session)


def test_a_key_of_another_certificate_is_no_matter_of_the_server(tmp_path, certificates):
    certificate, _ = certificates.issue("jo")
    _, key = certificates.issue("sam")
    with ApiServer(tls=certificates) as server:
        user = {"client-certificate": str(certificate), "client-key": str(key)}
        session = server.session(tmp_path, user=user)

        with pytest.raises(ApiUnauthorized, match=r"its certificates or key cannot be used: .*mismatch") as caught:
            session.send("GET", NODE, timeout_s=5.0)

    assert "client-key" in caught.value.remedy


@pytest.mark.parametrize(("valid_s", "note"), [(-3600.0, "ended 20"), (3600.0, "is valid until 20")])
def test_a_401_says_when_the_client_certificate_ends(tmp_path, certificates, valid_s, note):
    certificate, key = certificates.issue("jo", valid_s=valid_s)
    with ApiServer(tls=certificates) as server:
        session = server.session(tmp_path, user={"client-certificate": str(certificate), "client-key": str(key)})
        server.on("GET", NODE, said(401, "Unauthorized"))

        err = session.failure(session.send("GET", NODE, timeout_s=5.0), "read node n1")

    assert isinstance(err, ApiUnauthorized)
    assert str(err) == "the cluster does not accept the credentials of context stub"
    assert err.__notes__[0].startswith(f"the client certificate {note}")
    assert "log in again" in err.remedy


def test_a_401_without_a_certificate_has_no_note(server, tmp_path):
    server.on("GET", NODE, said(401, "Unauthorized"))
    session = server.session(tmp_path)

    err = session.failure(session.send("GET", NODE, timeout_s=5.0), "read node n1")

    assert not hasattr(err, "__notes__")


# ---- what is shown of answers ---------------------------------------------------------------------------------


def test_a_page_of_a_proxy_is_not_shown(server, tmp_path):
    server.on("GET", NODE, page(502, "<html>password: hunter2</html>"))
    session = server.session(tmp_path)

    err = session.failure(session.send("GET", NODE, timeout_s=5.0), "read node n1")

    assert str(err) == "cannot read node n1: HTTP 502"


def test_a_long_message_is_cut_and_made_one_line(server, tmp_path):
    server.on("GET", NODE, said(400, "first\nsecond " + "x" * 2000))
    session = server.session(tmp_path)

    err = session.failure(session.send("GET", NODE, timeout_s=5.0), "read node n1")

    assert str(err).startswith("cannot read node n1: first second x")
    assert len(str(err)) == len("cannot read node n1: ") + MESSAGE_LIMIT


def test_a_refused_watch_is_the_servers_error_with_its_status(server, tmp_path):
    server.on("WATCH", "/api/v1/pods", said(410, "too old resource version", reason="Expired"))
    session = server.session(tmp_path)

    with pytest.raises(ApiError, match="too old resource version") as caught:
        session.stream("/api/v1/pods", query={"watch": "1"}, read_timeout_s=5.0)

    assert (caught.value.status, caught.value.reason) == (410, "Expired")
