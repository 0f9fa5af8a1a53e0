"""`hosts check` and `hosts trust`, from their arguments to their exit codes."""

import json
import socket
from types import SimpleNamespace

import paramiko
import pytest

from orchestrator import reach
from orchestrator.app import App, Settings
from orchestrator.cli.main import main
from orchestrator.cluster.model import Node
from orchestrator.engine.clock import SystemClock
from orchestrator.errors import ApiUnreachable, BadUsage, HostKeyChanged, HostKeyUnknown, HostUnreachable
from orchestrator.hosts import known
from orchestrator.hosts.config import SshConfig
from orchestrator.hosts.locate import BySsh, InContainer
from orchestrator.hosts.pool import Pool
from orchestrator.hosts.secrets import Secrets
from tests.fakes.hosts import settings
from tests.fakes.sink import Recorder
from tests.fakes.sshd import FakeSshd


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def key(home):
    made = paramiko.ECDSAKey.generate()
    made.write_private_key_file(home / ".ssh" / "id_ecdsa")
    return made


@pytest.fixture
def server(home, key):
    with FakeSshd(accepts={key.asbytes()}) as made:
        (home / ".ssh/config").write_text(settings("node-1", made.port))
        yield made


@pytest.fixture
def known_hosts(home):
    return home / ".ssh" / "known_hosts"


def orchestrator(capsys, *words):
    """The exit code, and what was said on both streams."""
    with pytest.raises(SystemExit) as ended:
        main(["hosts", *words])
    return ended.value.code, *capsys.readouterr()


def test_an_unknown_host_is_trusted_and_then_checked(server, known_hosts, capsys):
    code, out, _ = orchestrator(capsys, "check", "node-1")
    assert (code, "orchestrator hosts trust node-1" in out) == (11, True)

    code, out, err = orchestrator(capsys, "trust", "node-1", "--yes")
    assert (code, "trusted from now on" in out) == (0, True)
    assert "new     ecdsa-sha2-nistp256  SHA256:" in err
    assert known_hosts.read_text() == server.known
    assert known_hosts.stat().st_mode & 0o777 == 0o600

    code, out, _ = orchestrator(capsys, "check", "node-1", "-o", "json")
    (host,) = json.loads(out)["hosts"]
    assert (code, host["reached"], host["root"], host["error"]) == (0, True, "is root", "")
    assert host["latencyS"] > 0


def test_nothing_is_trusted_without_somebody_who_says_so(server, known_hosts, capsys):
    code, _, err = orchestrator(capsys, "trust", "node-1")

    assert code == 20
    assert "SHA256:" in err
    assert "--yes" in err
    assert not known_hosts.exists()
    assert server.commands == []


def test_a_known_key_stays_and_needs_no_answer(server, known_hosts, capsys):
    known_hosts.write_text(server.known)

    code, out, _ = orchestrator(capsys, "trust", "node-1")

    assert (code, out) == (0, "all of these are known already\n")
    assert known_hosts.read_text() == server.known


def test_a_changed_key_is_replaced_only_when_that_is_asked_for(server, known_hosts, capsys):
    known_hosts.write_text(f"# mine\n{server.known}")
    server.keys = [paramiko.ECDSAKey.generate()]

    code, _, err = orchestrator(capsys, "trust", "node-1", "--yes")
    assert (code, "hosts trust --replace node-1" in err) == (11, True)

    code, out, _ = orchestrator(capsys, "trust", "node-1", "--yes", "--replace", "-o", "json")
    assert (code, json.loads(out)["keys"][0]["state"]) == (0, "changed")
    assert known_hosts.read_text() == f"# mine\n{server.known}"


def test_a_revoked_key_is_trusted_by_no_flag(server, known_hosts, capsys):
    known_hosts.write_text(f"@revoked * {server.known.split(' ', 1)[1]}")

    code, _, err = orchestrator(capsys, "trust", "node-1", "--yes", "--replace")

    assert (code, "revoked" in err) == (11, True)


@pytest.mark.parametrize("words", [[], ["node-1", "--all"]])
def test_hosts_are_named_or_all_are_meant(words, capsys):
    assert orchestrator(capsys, "trust", *words)[0] == 2


# ---- the use cases ----------------------------------------------------------------------------------------------


def app(*nodes, error=None, ssh=False):
    def listed():
        if error:
            raise error
        return nodes

    return SimpleNamespace(view=SimpleNamespace(nodes=listed), clock=SystemClock(), settings=Settings(ssh=ssh))


def node(name, **what):
    return Node(name, "uid", "1", unschedulable=False, ready=True, **what)


def test_without_names_every_node_is_meant_and_names_may_be_others_than_nodes():
    cluster = app(node("n1", addresses={"InternalIP": "10.0.0.1"}), node("k", provider_id="kind://docker/kind/k"))

    assert reach.places(cluster, (), say=print) == (BySsh("n1", "10.0.0.1"), InContainer("docker", "k"))
    assert reach.places(cluster, ("node/n1", "bastion", "n1"), say=print) == (
        BySsh("n1", "10.0.0.1"),
        BySsh("bastion", ""),
    )


def test_nodes_of_kind_are_reached_by_ssh_where_that_is_asked_for():
    kind = node("k", provider_id="kind://docker/kind/k", addresses={"InternalIP": "10.0.0.2"})

    assert reach.places(app(kind, ssh=True), (), say=print) == (BySsh("k", "10.0.0.2"),)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, ""),
        ({"ssh": True}, "--ssh"),
        ({"kubeconfig": "/a b", "context": "x", "ssh": True}, "--kubeconfig '/a b' --context x --ssh"),
    ],
)
def test_who_is_told_to_trust_a_host_is_told_with_which_options(given, words):
    assert App(Settings(**given), Recorder()).trusting == words


def test_the_command_that_accepts_a_key_has_the_options_with_which_the_host_is_found(server, known_hosts, home):
    hosts = Pool(SshConfig(home / ".ssh/config", None), Secrets(), SystemClock(), patience_s=0.0, trusting="--ssh")

    with pytest.raises(HostKeyUnknown) as caught:
        hosts.host(BySsh("node-1", "")).run(["true"], timeout_s=20.0)

    assert caught.value.remedy.endswith("orchestrator hosts trust node-1 --ssh")


def test_a_host_that_is_away_keeps_nobody_from_trusting_the_others(server, known_hosts, home, nobody, capsys):
    (home / ".ssh/config").write_text(settings("node-1", server.port) + settings("node-2", nobody))

    code, out, err = orchestrator(capsys, "trust", "node-1", "node-2", "--yes")

    assert (code, "trusted from now on" in out, "node-2" in err) == (11, True, True)
    assert known_hosts.read_text() == server.known


def test_where_no_host_answers_nothing_is_trusted(home, known_hosts, nobody, capsys):
    (home / ".ssh/config").write_text(settings("node-1", nobody) + settings("node-2", nobody))

    code, out, err = orchestrator(capsys, "trust", "node-1", "node-2", "--yes")

    assert (code, out) == (11, "")
    assert "node-1" in err
    assert "node-2" in err


def test_a_cluster_that_does_not_answer_is_no_obstacle_to_named_hosts():
    said = []
    gone = app(error=ApiUnreachable("the API is away", remedy="wait"))

    assert reach.places(gone, ("n1",), say=said.append) == (BySsh("n1", ""),)
    assert "an address can be named, too): the API is away" in said[0]
    with pytest.raises(ApiUnreachable):
        reach.places(gone, (), say=said.append)


@pytest.fixture
def pool(home):
    with Pool(SshConfig(home / ".ssh/config", None), Secrets(), SystemClock(), patience_s=0.0) as made:
        yield made


@pytest.fixture
def nobody():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return closed.getsockname()[1]


def test_a_host_that_is_away_is_a_row_and_the_others_are_looked_at(server, known_hosts, home, pool, nobody):
    known_hosts.write_text(server.known)
    (home / ".ssh/config").write_text(settings("node-1", server.port) + settings("node-2", nobody))
    with Pool(SshConfig(home / ".ssh/config", None), Secrets(), SystemClock(), patience_s=0.0) as hosts:
        found = reach.check(hosts, [BySsh("node-2", ""), BySsh("node-1", "")], at_once=2)

        assert [(h.name, bool(h.error)) for h in found] == [("node-2", True), ("node-1", False)]
        assert found[0].latency_s is None
        shown, away = reach.keys(hosts, [BySsh("node-1", ""), BySsh("node-2", "")], replacing=False)
        assert [place.alias for place, _, _ in shown] == ["node-1"]
        assert isinstance(away, HostUnreachable)


def test_a_host_without_a_way_to_root_is_reached_and_cannot_be_worked_on(server, known_hosts, home):
    known_hosts.write_text(server.known)
    (home / ".ssh/config").write_text(settings("node-1", server.port).replace("User root", "User ann"))
    (home / "id").write_text("#!/bin/sh\necho ann\n")
    (home / "id").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{home}:/usr/bin:/bin")
        (home / "sudo").write_text("#!/bin/sh\nexit 1\n")
        (home / "sudo").chmod(0o755)
        with Pool(SshConfig(home / ".ssh/config", None), Secrets(), SystemClock(), patience_s=0.0) as hosts:
            (found,) = reach.check(hosts, [BySsh("node-1", "")], at_once=1)

    assert (found.user, found.root) == ("ann", "")
    assert found.latency_s is not None
    assert "sudo wants the password" in found.error


def test_containers_have_no_keys(pool):
    with pytest.raises(BadUsage, match="no host key"):
        reach.keys(pool, [InContainer("docker", "kind-worker")], replacing=False)


def test_failures_of_several_hosts_are_all_named(server, known_hosts, home):
    known_hosts.write_text(server.known.replace("[127.0.0.1]", "[127.0.0.*]"))
    server.keys = [paramiko.ECDSAKey.generate()]
    (home / ".ssh/config").write_text(settings("node-*", server.port))
    hosts = Pool(SshConfig(home / ".ssh/config", None), Secrets(), SystemClock(), patience_s=0.0)

    with pytest.raises(HostKeyChanged, match="node-1") as caught:
        reach.keys(hosts, [BySsh("node-1", ""), BySsh("node-2", "")], replacing=False)

    assert "node-2" in caught.value.__notes__[0]


def test_without_a_file_to_put_them_into_keys_are_refused(server, home):
    (home / ".ssh/config").write_text(settings("node-1", server.port, UserKnownHostsFile="none"))
    with Pool(SshConfig(home / ".ssh/config", None), Secrets(), SystemClock(), patience_s=0.0) as hosts:
        where = BySsh("node-1", "")
        [(_, keys, vouched)], away = reach.keys(hosts, [where], replacing=False)

        assert (vouched[0].file, away) == ("", None)
        with pytest.raises(BadUsage, match="UserKnownHostsFile is none"):
            reach.trust(hosts, where, keys, replacing=False)


def test_a_kind_that_is_not_known_yet_is_new_beside_one_that_is():
    ed, rsa, other = (known.HostKey(k, b) for k, b in (("a", b"1"), ("b", b"2"), ("a", b"3")))
    entries = known.parse("h a MQ==\n", "kh")

    assert known.states(entries, "h", "h", [ed, rsa], replace=False) == {ed: "known", rsa: "new"}
    assert known.states(entries, "h", "h", [other, rsa], replace=True) == {other: "changed", rsa: "changed"}
    with pytest.raises(HostKeyChanged):
        known.states(entries, "h", "h", [rsa], replace=False)


# ---- the status of etcd, which knows hosts without the API -------------------------------------------------------


def etcd_status(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["etcd", "status", *words])
    return ended.value.code, *capsys.readouterr()


def test_control_planes_that_are_named_are_asked_without_any_kubeconfig(server, capsys):
    code, out, err = etcd_status(capsys, "--node", "node-1", "--ssh")

    assert code == 11
    assert "members       no host could be asked" in out
    assert f"([127.0.0.1]:{server.port}) is not known" in out
    assert "there is no kubeconfig" not in err


def test_of_none_named_and_no_kubeconfig_the_error_is_the_kubeconfig_s(server, capsys):
    code, out, err = etcd_status(capsys)

    assert (code, out) == (12, "")
    assert "error: no cluster: there is no kubeconfig" in err
    assert "orchestrator etcd status --node NAME" in err


def test_a_context_that_is_not_there_is_not_passed_over(server, home, capsys):
    (home / "no-kubeconfig").write_text("current-context: a\ncontexts: [{name: a, context: {cluster: a}}]\n")

    code, out, err = etcd_status(capsys, "--node", "node-1", "--context", "b")

    assert (code, out) == (2, "")
    assert "there is no context 'b'" in err


def test_no_credentials_are_looked_for_where_hosts_are_named(server, home, capsys):
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": [str(home / "called")]}
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": {"exec": plugin}}],
    }
    (home / "no-kubeconfig").write_text(json.dumps(config))

    code, out, _ = etcd_status(capsys, "--node", "node-1")

    assert (code, "node-1 could not be asked" in out) == (11, True)
    assert not (home / "called").exists()
