"""Clusters come, stay, are refused and go, also when the command is killed; what is not the lab's is left alone."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import count, takewhile

import pytest

from lab import docker, network, state
from tests.lab.real import WORKER, begin, guard, lab, until

pytestmark = pytest.mark.lab
CRASH = "crash"
SETTINGS = ("--version", "1.36.3", "--offer", "1.36.3", "1.37.2")


@pytest.fixture
def daemon(real):
    return docker.current()


@pytest.fixture
def crash(real, tmp_path):
    """Begins a cluster, beside the shared one; whatever is left of it goes with the test."""
    started = []

    def start():
        with (tmp_path / "said").open("wb") as said:
            started.append(begin("up", "--name", CRASH, "--shape", "1+1", *SETTINGS, stdout=said, stderr=said))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
    lab("down", "--name", CRASH)


@pytest.fixture
def stranger(daemon):
    """Someone else's container in the same daemon, with the name that a node could have."""
    name = "strange-worker"
    image = daemon.inspect(WORKER)[0]["Config"]["Image"]
    daemon.run("run", "--detach", "--network=none", f"--name={name}", "--entrypoint=sleep", image, "infinity")
    yield name
    daemon.run("rm", "--force", name)


def nodes(daemon):
    """Containers of the shared cluster."""
    return daemon.containers("test")


def recorded(daemon):
    return state.load(CRASH) is not None


def node_asked_for(daemon):
    return any(f"--name {CRASH}-" in line for line in processes_of(CRASH))


def first_node(daemon):
    return bool(daemon.containers(CRASH))


def kubeadm_at_work(daemon):
    return daemon.succeeds("exec", f"{CRASH}-control-plane", "test", "-e", "/etc/kubernetes/admin.conf")


def joined(daemon):
    return daemon.succeeds("exec", f"{CRASH}-worker", "test", "-e", "/etc/kubernetes/kubelet.conf")


def processes_of(name):
    """Command lines of living processes that work on a cluster."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if f"--name={name}" in line or f"--name {name}-" in line]


def free(daemon, name):
    """Whether a container can have a name: one that is being made has it before the daemon tells of it."""
    image = daemon.inspect(WORKER)[0]["Config"]["Image"]
    made = daemon.succeeds("create", f"--name={name}", "--network=none", image)
    return made and daemon.succeeds("rm", name)


def test_up_uses_the_cluster_that_is_there(real, daemon):
    before = nodes(daemon)

    done = lab("up", "--name", "test", "--shape", "1+2", *SETTINGS)

    assert nodes(daemon) == before
    assert done.stdout.decode().split()[:3] == ["kubectl", "--kubeconfig", str(real.cluster.kubeconfig)]
    assert "kind creates" not in done.stderr


@pytest.mark.parametrize(
    "other", [("--shape", "1+1"), ("--version", "1.37.2"), ("--offer", "1.36.3"), ("--image", "kindest/node:v1.36.0")]
)
def test_up_with_other_settings_is_refused(real, daemon, other):
    before = nodes(daemon)

    done = lab("up", "--name", "test", *SETTINGS, *other, code=1)

    assert "error: test is up with other settings: 1+2, 1.36.3, offering 1.36.3, 1.37.2" in done.stderr
    assert "remedy: python -m lab down --name test, or choose another --name" in done.stderr
    assert nodes(daemon) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("up", "--name", "Not a name"), "small letters, digits and hyphens"),
        (("up", "--name", "wrong", "--shape", "0+1"), "--shape 1+2"),
        (("up", "--name", "wrong", "--version", "1.2.3"), "choose one of 1.35.4, 1.36.3"),
        (("up", "--name", "wrong", "--offer", "1.2.3"), "choose one of 1.35.4, 1.36.3"),
        (("kubeconfig", "--name", "wrong"), "python -m lab up --name wrong"),
        (("demo", "--context", "production"), "begins with kind- or minikube"),
        (("clean",), "python -m lab down --all"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_remedy(real, words, said):
    done = lab(*words, code=1)

    error, _, remedy = done.stderr.partition("remedy: ")
    assert "error: " in error
    assert said in remedy
    assert state.load("wrong") is None


@pytest.mark.parametrize(
    "words", [("power", "wrong", "off"), ("network", "wrong", "cut"), ("ssh", "wrong", "--", "true")]
)
def test_of_a_node_that_is_not_there_those_that_are_there_are_told(real, words):
    done = lab(*words, code=1)

    error, _, remedy = done.stderr.partition("remedy: ")
    assert "error: " in error
    told = remedy.partition("nodes are: ")[2]  # of other clusters, too, which may stand beside
    assert {"test-control-plane", "test-worker", "test-worker2"} <= set(told.strip().split(", "))
    assert state.load("wrong") is None


@pytest.mark.parametrize("moment", [recorded, node_asked_for, first_node, kubeadm_at_work])
def test_down_clears_away_what_a_killed_up_left(crash, daemon, moment):
    rules = guard()
    process = crash()
    until("the moment", lambda: moment(daemon))

    process.kill()
    process.wait()
    lab("down", "--name", CRASH)

    assert guard() == rules
    assert daemon.containers(CRASH) == {}
    assert state.load(CRASH) is None
    assert not (state.run_directory() / "clusters" / CRASH).exists()
    assert processes_of(CRASH) == []
    assert [name for name in (f"{CRASH}-control-plane", f"{CRASH}-worker") if not free(daemon, name)] == []


def test_an_interrupted_up_leaves_at_once_and_says_what_next(crash, daemon, tmp_path):
    process = crash()
    until("the moment", lambda: first_node(daemon))

    os.killpg(process.pid, signal.SIGINT)

    assert process.wait(timeout=30) == 130
    assert "`python -m lab down` removes what was begun" in (tmp_path / "said").read_text()
    until("what it started to end", lambda: processes_of(CRASH) == [])  # kind's docker ends when its daemon answered
    assert f"{CRASH}: 1+1 nodes, 1.36.3, creating" in lab("status").stdout.decode()


def test_down_leaves_other_clusters_and_others_containers_alone(crash, daemon, stranger, real):
    before = nodes(daemon)
    process = crash()
    until("the moment", lambda: recorded(daemon))
    process.kill()
    process.wait()

    lab("down", "--name", CRASH)

    running = daemon.run("ps", "--format={{.Names}}").split()
    assert {*before, stranger} <= set(running)
    assert real.ready(WORKER) == "True"


def test_packets_are_guarded_at_every_moment_of_another_up(daemon):
    rules = guard()
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(lambda: [network.ensure(daemon, sealed=True) for _ in range(10)])

        seen = [guard() for _ in takewhile(lambda _: not others.done(), count())]

        others.result()
    assert len(seen) > 10
    assert [each for each in seen if each != rules] == []


def test_up_refuses_names_that_others_containers_have(daemon, stranger):
    done = lab("up", "--name", "strange", "--shape", "1+1", *SETTINGS, code=1)

    assert f"error: containers named {stranger} exist and are not the lab's" in done.stderr
    assert "remedy: choose another name" in done.stderr
    assert state.load("strange") is None
    assert stranger in daemon.run("ps", "--format={{.Names}}").split()


def test_down_of_what_is_not_there_says_so(real):
    done = lab("down", "--name", "nobody")

    assert "there is no cluster nobody" in done.stderr


def test_status_shows_every_node_with_address_role_and_condition(real):
    told = lab("status").stdout.decode()

    lines = [line.split() for line in told.splitlines() if line.startswith("  test-")]
    slot = real.cluster.slot
    assert f"test: 1+2 nodes, 1.36.3, up, {real.cluster.kubeconfig}" in told.splitlines()
    assert lines == [
        ["test-control-plane", f"198.18.{slot}.11", "control-plane", "on"],
        ["test-worker", f"198.18.{slot}.12", "worker", "on"],
        ["test-worker2", f"198.18.{slot}.13", "worker", "on"],
    ]


@pytest.mark.lab_full
def test_the_next_up_clears_away_what_a_killed_one_left_and_makes_it_whole(crash, daemon):
    process = crash()
    until("the moment", lambda: joined(daemon))
    process.kill()
    process.wait()

    again = lab("up", "--name", CRASH, "--shape", "1+1", *SETTINGS)

    assert f"{CRASH} was left half made: removing it first" in again.stderr
    assert state.load(CRASH).status == "up"
    assert len(daemon.containers(CRASH)) == 2
