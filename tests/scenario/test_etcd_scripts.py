"""What hosts answer about etcd: the real scripts, asked of a process that was started as etcd is, however it is set."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.actions.snapshots import _SAVE
from orchestrator.cluster import queries
from orchestrator.cluster.etcdhosts import parse_host
from orchestrator.cluster.hostfacts import parse_etcd

FACTS = Path(__file__).parents[1] / "unit/facts/etcd"
#: As Kubespray sets it.
SERVICE = {
    "name": "etcd1",
    "data-dir": "/nowhere/etcd",
    "listen-client-urls": "https://198.18.0.11:2379,https://127.0.0.1:2379",
    "advertise-client-urls": "https://198.18.0.11:2379",
    "initial-advertise-peer-urls": "https://198.18.0.11:2380",
    "trusted-ca-file": "/etc/ssl/etcd/ssl/ca.pem",
    "cert-file": "/etc/ssl/etcd/ssl/member-1.pem",
    "key-file": "/etc/ssl/etcd/ssl/member-1-key.pem",
    "peer-cert-file": "/etc/ssl/etcd/ssl/peer-1.pem",
}
PKI = "/etc/kubernetes/pki/etcd"
KUBEADM = SERVICE | {
    "listen-client-urls": "https://127.0.0.1:2379,https://198.18.0.11:2379",
    "trusted-ca-file": f"{PKI}/ca.crt",
    "cert-file": f"{PKI}/server.crt",
    "key-file": f"{PKI}/server.key",
}
YAML = """# of etcd1
name: "etcd1"   # a name
data-dir: /nowhere/etcd
listen-client-urls: 'https://198.18.0.11:2379,https://127.0.0.1:2379'
advertise-client-urls: https://198.18.0.11:2379
initial-advertise-peer-urls: https://198.18.0.11:2380
client-transport-security: # TLS
  # cert-file: /old
  cert-file: /etc/ssl/etcd/ssl/member-1.pem
  key-file: /etc/ssl/etcd/ssl/member-1-key.pem
  trusted-ca-file: "/etc/ssl/etcd/ssl/ca.pem"
peer-transport-security:
  cert-file: /etc/ssl/etcd/ssl/peer-1.pem
"""
MEMBERS = {"members": [{"ID": 1, "name": "etcd1", "peerURLs": ["https://198.18.0.11:2380"],
                        "clientURLs": ["https://198.18.0.11:2379"]}]}  # fmt: skip


class Host:
    """A host on which a process runs that has etcd's flags, and a client that notes its words.

    What scripts look for in `/usr/local/bin` of the process is in a directory of its own.
    """

    def __init__(self, directory):
        self.directory, self.process = directory, None
        self.bin, self.log = directory / "bin", directory / "log"
        self.bin.mkdir()
        self.program("pidof", "exit 1")

    def program(self, name, text):
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def client(self):
        status = json.loads((FACTS / "status.three.json").read_text())[:1]
        health = [{"endpoint": "https://198.18.0.11:2379", "health": True, "took": "7ms"}]
        answers = {"member list": MEMBERS, "endpoint status": status, "endpoint health": health, "alarm list": {}}
        cases = "".join(f"*'{words}'*) echo '{json.dumps(said)}';;\n" for words, said in answers.items())
        self.program("etcdctl", f'echo "$*" >> {self.log}\ncase "$*" in\n{cases}*save*) : > "${{2:-}}";; esac')

    def start(self, flags=(), **environ):
        """Words of `sh -c` that are the process's own end up among its arguments, too."""
        argv = ["sh", "-c", "read -r _", "etcd", *flags]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, env={**os.environ, **environ})
        self.program("pidof", f"echo {self.process.pid}")

    def run(self, script, *words):
        script = script.replace('"$root/usr/local/bin"', f'"$root{self.bin}"').replace(
            "/etc/kubernetes", str(self.directory / "kubernetes")
        )
        argv = ["sh", "-c", script, "sh", *words]
        environ = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)

    def ask(self, query, *words):
        done = self.run(query.script, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def told(self):
        """The options of each call of the client that tell where and as whom, and its other words."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        own = f"/proc/{self.process.pid}/root" if self.process else "-"
        found = [{w.partition("=")[0]: w.partition("=")[2].removeprefix(own) for w in line} for line in lines]
        return [{key: of[key] for key in ("--endpoints", "--cacert", "--cert", "--key") if key in of} for of in found]


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path)
    made.client()
    yield made
    if made.process:
        made.process.stdin.close()
        made.process.wait(10)


def by_flags(host, flags=SERVICE):
    host.start([f"--{name}={value}" for name, value in flags.items()])


def by_words(host):
    host.start([word for name, value in SERVICE.items() for word in (f"--{name}", value)])


def by_environment(host):
    host.start(**{f"ETCD_{name.upper().replace('-', '_')}": value for name, value in SERVICE.items()})


def by_file(host, **environ):
    (host.directory / "etcd.yaml").write_text(YAML)
    host.start(["--config-file", str(host.directory / "etcd.yaml")], **environ)


def by_file_of_the_environment(host):
    (host.directory / "etcd.yaml").write_text(YAML)
    host.start(ETCD_CONFIG_FILE=str(host.directory / "etcd.yaml"))


WAYS = [by_flags, by_words, by_environment, by_file, by_file_of_the_environment]
THERE = {
    "--endpoints": "https://127.0.0.1:2379",
    "--cacert": SERVICE["trusted-ca-file"],
    "--cert": SERVICE["cert-file"],
    "--key": SERVICE["key-file"],
}


@pytest.mark.parametrize("start", WAYS)
def test_members_are_asked_where_and_as_the_process_says(host, start):
    start(host)

    found = parse_etcd(host.ask(queries.ETCD))

    assert [m.name for m in found.members] == ["etcd1"]
    assert found.statuses
    assert host.told() == [THERE] * 4


@pytest.mark.parametrize("start", WAYS)
def test_a_host_tells_the_same_of_its_member_however_that_was_set(host, start):
    start(host)

    found = parse_host("cp-1", host.ask(queries.ETCD_HOST))

    assert {name: value for name, value in found.flags.items() if value} == SERVICE
    assert found.tools["etcdctl"] == f"/proc/{host.process.pid}/root{host.bin}/etcdctl"
    assert (found.name, found.peer_urls) == ("etcd1", ("https://198.18.0.11:2380",))
    assert found.status
    assert not found.health


def test_a_file_of_settings_wins_over_all_else(host):
    by_file(host, ETCD_LISTEN_CLIENT_URLS="http://127.0.0.1:1", ETCD_NAME="other")

    assert parse_host("cp-1", host.ask(queries.ETCD_HOST)).name == "etcd1"
    assert host.told() == [THERE] * 2


def test_a_member_of_kubeadm_is_asked_as_ever(host):
    by_flags(host, KUBEADM)

    assert parse_etcd(host.ask(queries.ETCD)).members
    pki = {"--cacert": f"{PKI}/ca.crt", "--cert": f"{PKI}/server.crt", "--key": f"{PKI}/server.key"}
    assert host.told() == [{"--endpoints": "https://127.0.0.1:2379", **pki}] * 4


def test_without_a_listener_on_loopback_the_address_is_asked_that_clients_are_given(host):
    by_flags(host, SERVICE | {"listen-client-urls": "https://198.18.0.11:2379"})

    host.ask(queries.ETCD_HOST)

    assert host.told()[0]["--endpoints"] == "https://198.18.0.11:2379"


def test_a_member_that_was_told_nothing_is_asked_at_etcd_s_own_address(host):
    host.start()

    host.ask(queries.ETCD_HOST)

    assert host.told() == [{"--endpoints": "http://localhost:2379"}] * 2


def test_a_member_without_an_authority_of_clients_is_asked_without_one(host):
    by_flags(host, SERVICE | {"trusted-ca-file": ""})

    host.ask(queries.ETCD_HOST)

    assert host.told()[0].keys() == {"--endpoints", "--cert", "--key"}


def test_where_no_etcd_runs_nothing_is_asked(host):
    assert not parse_etcd(host.ask(queries.ETCD)).members
    assert parse_host("cp-1", host.ask(queries.ETCD_HOST)).how == ""
    assert not host.log.exists()


# ---- on other machines ------------------------------------------------------------------------------------------


def server(host, **flags):
    """A control plane's API server."""
    pods = host.directory / "kubernetes/manifests"
    pods.mkdir(parents=True)
    lines = [f"    - --{name.replace('_', '-')}={value}\n" for name, value in flags.items()]
    (pods / "kube-apiserver.yaml").write_text("".join(["spec:\n", *lines]))
    return pods


FLAGS = {
    "etcd_servers": "https://198.18.9.1:2379,https://198.18.9.2:2379",
    "etcd_cafile": "/pki/etcd-ca.crt",
    "etcd_certfile": "/pki/client.crt",
    "etcd_keyfile": "/pki/client.key",
}
AS_SERVER = {"--cacert": "/pki/etcd-ca.crt", "--cert": "/pki/client.crt", "--key": "/pki/client.key"}


def test_an_etcd_on_other_machines_is_asked_as_the_api_server_asks_it(host):
    server(host, **FLAGS)

    assert [m.name for m in parse_etcd(host.ask(queries.ETCD_ELSEWHERE)).members] == ["etcd1"]
    assert host.told() == [{"--endpoints": "https://198.18.9.1:2379", **AS_SERVER}] * 5


def test_a_snapshot_is_saved_of_the_first_that_is_well(host):
    server(host, **FLAGS)
    host.program("etcdctl", f'echo "$*" >> {host.log}\ncase "$*" in *9.1*) exit 1;; *health*) exit;; esac\n'
                            'for file; do :; done; echo saved > "$file"')  # fmt: skip
    target = host.directory / "made/snapshot.db"

    done = host.run(_SAVE, str(target), "5s", "1", "")

    assert done.returncode == 0, done.stderr
    assert target.read_text() == "saved\n"
    assert [of["--endpoints"][-6] for of in host.told()] == ["1", "2", "2"]


@pytest.mark.parametrize("why", ["local", "manifest", "process", "no client"])
def test_an_etcd_of_this_host_or_one_without_a_client_is_not_asked_elsewhere(host, why):
    pods = server(host, **FLAGS | ({"etcd_servers": "https://127.0.0.1:2379"} if why == "local" else {}))
    if why == "manifest":
        (pods / "etcd.yaml").touch()
    if why == "process":
        host.start()
    if why == "no client":
        (host.bin / "etcdctl").unlink()

    assert host.ask(queries.ETCD_ELSEWHERE) == ""
    assert not host.log.exists()


# ---- a snapshot -------------------------------------------------------------------------------------------------


def test_a_snapshot_that_fails_takes_nothing_away_but_itself(host):
    """The key of the member is a file, too."""
    key = host.directory / "key.pem"
    key.write_text("key")
    by_flags(host, SERVICE | {"key-file": str(key)})
    host.program("etcdctl", "exit 9")
    target = host.directory / "made/snapshot.db"

    done = host.run(_SAVE, str(target), "5s", "1", "")

    assert done.returncode == 9
    assert key.read_text() == "key"
    assert not Path(target).exists()
