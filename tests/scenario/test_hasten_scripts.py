"""What runs on a control plane's host beside kubeadm: which waits are ended, and which are nobody's to end."""

import os
import socket
import subprocess
import time

import pytest

from orchestrator.actions import hasten
from tests.fakes.scripthost import ScriptHost

#: What the parts are called with; seconds are the script's own.
BESIDE = "set -u\n{parts}\nport=6443\n{call} & beside=$!\nsleep {seconds}\nenough\n"
LISTENS = 'case "$*" in *" -l "*) echo LISTEN ;; esac'
RENEWED = "2026-11-29T09:00:00.123456Z"


@pytest.fixture
def host(tmp_path):
    made = ScriptHost(tmp_path)
    for name in ("ss", "pidof", "kubectl", "nft"):
        made.program(name)
    return made


@pytest.fixture
def process():
    """A process that has just begun."""
    with subprocess.Popen(["sleep", "60"]) as begun:
        yield begun.pid
        begun.kill()


def beside(host, call, seconds):
    manifests = host.directory / "manifests"
    script = BESIDE.format(parts=hasten._ALL, call=call, seconds=seconds)
    assert host.run(script.replace("/etc/kubernetes/manifests", str(manifests))) == 0


# ---- connections ------------------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize(("listens", "closes"), [("", True), (LISTENS, False)])
def test_connections_are_closed_of_an_api_server_that_ends_and_of_no_other(host, listens, closes):
    host.program("pidof", "echo 7")
    host.program("ss", listens)

    beside(host, "closing", 3.5)

    assert any("established" in line for line in host.did("ss")) is closes


@pytest.mark.parametrize(("written_ago_s", "closes"), [(-5.0, True), (100.0, False)])
def test_clients_of_a_member_whose_manifest_was_replaced_are_sent_away_once(host, process, written_ago_s, closes):
    manifests = host.directory / "manifests"
    manifests.mkdir()
    (manifests / "etcd.yaml").touch()
    written = time.time() - written_ago_s
    os.utime(manifests / "etcd.yaml", (written, written))
    host.program("pidof", f"echo {process}")
    host.program("ss", LISTENS)

    beside(host, "closing", 3.0)

    assert sum("sport = :2379" in line for line in host.did("ss")) == int(closes)


def test_an_api_server_that_just_closed_its_port_is_given_time_for_its_requests(host):
    host.program("pidof", "echo 7")

    beside(host, "closing", 1.2)

    assert host.did("ss")
    assert not any("established" in line for line in host.did("ss"))


# ---- static pods ------------------------------------------------------------------------------------------------


def told(host, seconds):
    """What the API server was told of static pods, two of which have a manifest, and one of these a process."""
    manifests = host.directory / "manifests"
    manifests.mkdir()
    for name in ("kube-scheduler", "kube-controller-manager"):
        (manifests / f"{name}.yaml").touch()
    host.program("pidof", '[ "$1" != kube-scheduler ]')
    beside(host, "telling cp-1", seconds)
    return host.did("kubectl")


def test_a_kubelet_hears_of_the_static_pod_that_it_waits_for_and_of_no_other(host):
    lines = told(host, 1.8)

    assert len(lines) >= 2
    assert all("annotate pod kube-scheduler-cp-1 kube-orchestrator.io/gone=" in line for line in lines)
    assert len({line.rpartition("=")[2] for line in lines}) == len(lines)  # else nothing would be news


# ---- leases -----------------------------------------------------------------------------------------------------


def renewed(ago_s):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - ago_s))


def released(host, processes, *, holder="", ago_s=20.0):
    """What became of a lease; its patches."""
    holder = holder or f"{socket.gethostname()}_0a1b"
    host.program("pidof", f"[ {processes!r} ] && echo {processes}")
    host.program("kubectl", f'case "$*" in *" get lease "*) echo "41 {renewed(ago_s)} {holder}" ;; esac')
    host.run(f"set -u\n{hasten._ALL}\nport=6443\nrelease kube-scheduler\n")
    return [line for line in host.log.read_text().splitlines() if " patch lease " in line]


def test_the_lease_of_a_process_that_is_gone_is_released_as_it_was_read(host, process):
    [patch] = released(host, process)

    assert "patch lease kube-scheduler" in patch
    assert '{"metadata":{"resourceVersion":"41"},"spec":{"holderIdentity":"","leaseDurationSeconds":1}}' in patch


@pytest.mark.parametrize("ago_s", [0.0, -3.0])
def test_a_lease_that_was_renewed_since_the_process_began_is_its_own(host, process, ago_s):
    time_passes_to_the_next_second()

    assert released(host, process, ago_s=ago_s) == []


def time_passes_to_the_next_second():
    """Leases and processes are told apart by seconds: a process of this one has not renewed before it."""
    end = int(time.time()) + 1
    while time.time() < end:
        time.sleep(0.02)


def test_a_lease_that_another_host_holds_is_nobodys_business(host, process):
    assert released(host, process, holder="cp-2_0a1b") == []


def test_where_two_processes_run_either_may_hold_it(host, process):
    assert released(host, f"{process} {os.getpid()}") == []


def test_without_a_process_there_is_none_to_lead(host):
    assert released(host, "") == []


def test_a_process_that_has_run_for_a_while_is_left_alone(host):
    assert released(host, 1, ago_s=5.0) == []


# ---- who waits for the API server -------------------------------------------------------------------------------


def held(host, *, kubelet="no", seconds=1.5, back_s=0.0):
    """What the kernel was told of the port, of an API server that is away, and is back after so long."""
    flag = host.directory / "listens"
    host.program("ss", f'case "$*" in *" -l "*) [ ! -e {flag} ] || echo LISTEN ;; esac')
    back = f"(sleep {back_s}; touch {flag}) &" if back_s else ""
    beside(host, f"{back} holding {kubelet}", seconds)
    return [line.removeprefix("nft ") for line in host.log.read_text().splitlines() if line.startswith("nft ")]


def test_who_wants_to_connect_waits_until_there_is_a_server_that_is_ready(host):
    made, *words, gone = held(host, back_s=0.7)

    assert made == "-f -"
    assert words == [
        "add element inet kube_orchestrator others { 6443 timeout 30s }",
        "delete element inet kube_orchestrator others { 6443  }",
        "delete element inet kube_orchestrator own { 6443  }",
    ]
    assert gone == "delete table inet kube_orchestrator"


def test_a_server_that_listens_and_is_not_ready_is_not_shown_to_others(host):
    host.program("kubectl", "exit 1")

    words = held(host, back_s=0.3)
    assert not any(word.startswith("delete element") for word in words)


def test_beside_kubeadm_the_hosts_own_kubelet_waits_too_and_is_refused_before_it_starts_the_new_one(host):
    host.program("pidof", "false")

    words = held(host, kubelet="yes", seconds=9.5)
    assert words[1:4] == [
        "add element inet kube_orchestrator others { 6443 timeout 30s }",
        "add element inet kube_orchestrator own { 6443 timeout 8s }",
        "delete element inet kube_orchestrator own { 6443  }",
    ]
    assert any("state syn-sent" in line for line in host.did("ss"))


def test_nothing_is_held_while_the_server_serves(host):
    (host.directory / "listens").touch()

    assert held(host, seconds=0.8) == ["-f -", "delete table inet kube_orchestrator"]


@pytest.mark.parametrize(
    ("nodes", "manifest", "holds"),
    [
        ("node/cp-1", "", True),
        ("node/cp-1\nnode/cp-2", "", False),
        ("", "", False),
        ("node/cp-1", "    - --bind-address=198.18.0.1\n", False),
    ],
)
def test_it_is_done_for_an_only_api_server_only(host, nodes, manifest, holds):
    manifests = host.directory / "manifests"
    manifests.mkdir()
    (manifests / "kube-apiserver.yaml").write_text(f"    - --secure-port=6443\n{manifest}")
    host.program("ss", LISTENS)
    host.program("kubectl", f'case "$*" in *" get nodes "*) printf "%s\\n" "{nodes}" ;; esac')

    script = hasten.HASTENED.replace("/etc/kubernetes/manifests", str(manifests))
    assert host.run(script, "cp-1", "sleep", "1") == 0

    assert bool(host.did("nft")) is holds


def test_without_the_kernels_help_nothing_is_held(host):
    host.program("nft", "exit 1")

    assert held(host) == ["-f -"]
