"""The command line from its arguments to its exit code, against an API server on loopback."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest
import yaml

from orchestrator.app import App, Settings
from orchestrator.cli.main import main
from orchestrator.cluster.model import Node
from orchestrator.engine import runs
from orchestrator.engine.events import Silent
from orchestrator.engine.journal import Journal, read
from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.errors import Refused
from orchestrator.kube.lease import NAME
from orchestrator.planners import nodes as planners
from orchestrator.report import shapes
from tests.fakes import wire
from tests.fakes.api import LEASES, Api
from tests.fakes.server import HangUp, Silence, page, said
from tests.fakes.sink import Recorder

RUN = re.compile(r"(?:drain|cordon)-\d{8}-\d{4}-[0-9a-f]{4}")


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    """Nothing of the machine that the tests run on."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """Starts a cluster that is the one that commands use."""
    started = []

    def start(**content):
        api = Api(**content)
        api.__enter__()
        started.append(api)
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
        return api

    yield start
    for api in started:
        api.__exit__(None, None, None)


@pytest.fixture
def run(capsys):
    """Runs a command line; gives exit code, stdout and stderr."""

    def command(*words):
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=out, err=err)

    return command


def fails(result, code, error, remedy):
    """It ended so, in the form in which every error ends."""
    assert result.code == code
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    remedies = [line for line in result.err.splitlines() if line.startswith("remedy: ")]
    assert len(errors) == 1, result.err
    assert error in result.err
    assert remedies, result.err
    assert remedy in "\n".join(remedies)
    assert "Traceback" not in result.err
    assert result.out == ""


def two_nodes():
    return [wire.node("n1", labels={"role": "web"}), wire.node("n2", labels={"role": "web"})]


# ---- arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "error", "remedy"),
    [
        (["drain", "n1", "--foo"], "no such option: --foo (Possible options: --force)", "orchestrator drain --help"),
        (["drian"], "no such command 'drian'. Did you mean 'drain'?", "orchestrator --help"),
        (["--foo"], "no such option: --foo", "orchestrator --help"),
        (["drain"], "no node is named", "-l LABEL=VALUE"),
        (["cordon", "n1", "-l", "role=web"], "not both", "leave one of them out"),
        (["drain", "n1", "--timeout", "5"], "--timeout=5 is not a duration", "--timeout=90s"),
        (["drain", "n1", "--timeout", "5 m"], "--timeout=5 m is not a duration", "--timeout=90s"),
        (["drain", "n1", "--timeout", "-5s"], "--timeout=-5s is not a duration", "--timeout=90s"),
        (["drain", "-l", "role web"], "--selector=role web is not a label selector", "--selector=role=web"),
        (["drain", "n1", "--pod-selector", "=x"], "--pod-selector==x is not a label selector", "--pod-selector=role"),
        (["drain", "n1", "--parallel", "0"], "'--parallel': 0 is not in the range", "orchestrator drain --help"),
        (["drain", "n1", "--chunk-size", "-1"], "'--chunk-size': -1 is not in the range", "orchestrator drain --help"),
        (["drain", "n1", "--dry-run=maybe"], "'maybe' is not one of", "orchestrator drain --help"),
        (["status", "-o", "xml"], "'xml' is not one of 'table', 'json', 'yaml'", "orchestrator status --help"),
        (["resume"], "missing argument 'RUN'", "orchestrator resume --help"),
        (["doctor", "--for", "dance"], "--for=dance", "drain"),
        (["status", "--kubeconfig", "/no/such"], "there is no kubeconfig /no/such", "--kubeconfig"),
        (["resume", "drain-x"], "there is no run 'drain-x'", "orchestrator --help"),
        (["release", "last"], "there is no run 'last'", "orchestrator --help"),
    ],
)
def test_arguments_that_cannot_be_meant_end_with_2_before_anything_is_sent(run, cluster, words, error, remedy):
    api = cluster()

    fails(run(*words), 2, error, remedy)

    assert api.requests == []


def test_without_arguments_the_help_is_shown_and_the_code_is_not_0(run):
    result = run()

    assert result.code == 2
    assert "Commands:" in result.out


@pytest.mark.parametrize(
    "command", ["status", "unmanaged", "doctor", "cordon", "uncordon", "drain", "runs", "resume", "release"]
)
def test_every_command_shows_an_example(run, command):
    result = run(command, "--help")

    assert result.code == 0
    assert re.search(rf"^ *Example: +orchestrator {command}\b", result.out, re.MULTILINE)


def test_the_version_is_told(run):
    assert re.fullmatch(r"orchestrator \d+\.\d+\.\d+\n", run("--version").out)


# ---- cluster and credentials ----------------------------------------------------------------------------------


def test_no_kubeconfig_is_said_with_where_it_was_looked_for(run, tmp_path):
    fails(run("status"), 12, f"no cluster: there is no kubeconfig ({tmp_path}/.kube/config)", "KUBECONFIG")


def test_a_context_that_is_not_there_is_answered_with_the_likely_one(run, cluster):
    cluster()

    fails(run("status", "--context", "stud"), 2, "there is no context 'stud'", "did you mean stub?")


def test_a_server_that_is_down_is_one_error_with_how_often_it_was_tried(run, cluster):
    cluster().down()

    result = run("drain", "n1", "--timeout", "300ms")

    fails(result, 12, "does not answer (GET /api/v1/nodes/n1): Failed to establish", "is its API server up?")
    assert re.search(r"^  tried \d+ times in \d+ s$", result.err, re.MULTILINE)
    assert "trying again in" in result.err


def test_wrong_credentials_are_said_at_once(run, cluster):
    api = cluster()
    api.on("GET", "/api/v1/nodes", said(401, "Unauthorized"))

    fails(run("status"), 12, "does not accept the credentials of context stub", "log in again")
    assert len(api.requests) == 1


def test_a_missing_permission_is_said_at_once_in_the_servers_words(run, cluster):
    api = cluster()
    api.on("GET", "/api/v1/nodes/*", said(403, 'User "jo" cannot get resource "nodes"'))

    fails(run("drain", "n1"), 12, 'cannot read node n1: User "jo" cannot get resource "nodes"', "docs/rbac.md")


def test_something_that_is_no_api_server_is_10(run, cluster):
    api = cluster()
    api.on("GET", "/api/v1/nodes/*", page(200, "<html>Sign in</html>"))

    fails(run("cordon", "n1"), 10, "is not what an API server says", "really a Kubernetes API server?")


# ---- which nodes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wroker-1", "node/wroker-1", "nodes/wroker-1"])
def test_a_node_that_is_not_there_is_answered_with_the_likely_one(run, cluster, name):
    api = cluster(nodes=[wire.node("worker-1"), wire.node("db-1")])

    fails(run("drain", name), 2, "there is no node 'wroker-1'; nothing was changed", "did you mean worker-1?")
    assert api.changes() == []


def test_a_node_like_no_other_is_answered_with_those_that_there_are(run, cluster):
    cluster(nodes=two_nodes())

    fails(run("uncordon", "database"), 2, "there is no node 'database'", "known nodes: n1, n2")


def test_a_selector_that_matches_nothing_is_an_error_unless_that_is_allowed(run, cluster):
    api = cluster(nodes=two_nodes())

    fails(run("drain", "-l", "role=db"), 2, "no node matches the selector role=db", "--allow-empty")
    allowed = run("drain", "-l", "role=db", "--allow-empty")

    assert (allowed.code, allowed.out) == (0, "")
    assert "no node matches role=db: nothing to do" in allowed.err
    assert api.changes() == []


# ---- what changes ---------------------------------------------------------------------------------------------


def test_a_drain_cordons_evicts_and_gives_the_lock_back(run, cluster):
    api = cluster(pods=[wire.pod("a"), wire.pod("b"), wire.pod("other", on="n2")])

    result = run("drain", "n1", "--reason", "disk", "--owner", "jo@desk", "--grace-period", "3")

    assert (result.code, result.out) == (0, "node/n1 drained\n")
    assert sorted(api.pods) == ["other"]
    assert json.loads(api.nodes["n1"]["metadata"]["annotations"]["kube-orchestrator.io/cordon"])["owner"] == "jo@desk"
    assert [r.body["deleteOptions"]["gracePeriodSeconds"] for r in api.asked("POST") if "eviction" in r.path] == [3, 3]
    assert api.lease is None
    assert "n1: cordon: done in" in result.err
    assert "n1: 2 of 2 pods gone" in result.err


def test_a_drain_that_finds_nothing_to_do_changes_nothing(run, cluster):
    api = cluster(nodes=[wire.node(unschedulable=True)])

    result = run("drain", "n1", "-o", "json")

    assert result.code == 0
    assert json.loads(result.out)["run"] is None
    assert api.changes() == []
    assert run("drain", "node/n1").out == "node/n1 already drained\n"


def test_deletion_instead_of_eviction_is_asked_of_the_pods_themselves(run, cluster):
    api = cluster(pods=[wire.pod("a")], budgets=[wire.budget()])

    assert run("drain", "n1", "--disable-eviction").code == 0
    assert next(r.path for r in api.asked("DELETE")) == "/api/v1/namespaces/shop/pods/a"


@pytest.mark.parametrize("words", [["--dry-run"], ["--dry-run=client"], ["--dry-run=server"]])
def test_a_dry_run_finds_work_and_changes_nothing(run, cluster, words):
    api = cluster(pods=[wire.pod("a")])

    result = run("drain", "n1", *words)

    assert result.code == 3
    assert result.out == f"node/n1 drained ({'server ' if 'server' in words[0] else ''}dry run)\n"
    assert "plan:\n  n1: cordon: takes new pods\n  n1: drain: 1 pod to evict\n" in result.err
    assert all("dryRun" in json.dumps([r.query, r.body]) for r in api.changes())
    assert ("the API server says:\n  would go: shop/a\n" in result.err) == ("server" in words[0])
    assert list(api.pods) == ["a"]
    assert run("runs").out == "no runs yet\n"


def test_a_dry_run_of_a_drained_node_ends_with_0(run, cluster):
    cluster(nodes=[wire.node(unschedulable=True)])

    assert run("drain", "n1", "--dry-run").code == 0


def test_a_server_dry_run_with_an_exhausted_budget_says_so_once_and_ends(run, cluster):
    api = cluster(pods=[wire.pod("a"), wire.pod("b")])
    api.full = True

    result = run("drain", "n1", "--dry-run=server")

    assert result.code == 3
    assert "would have to wait: The disruption budget web needs 2 pods: shop/a, shop/b" in result.err


def test_a_server_dry_run_of_deletions_asks_for_deletions(run, cluster):
    api = cluster(pods=[wire.pod("a")])

    run("drain", "n1", "--dry-run=server", "--disable-eviction")

    assert [r.path for r in api.asked("DELETE")] == ["/api/v1/namespaces/shop/pods/a"]


def test_a_drain_that_is_forbidden_names_every_reason_of_all_nodes_and_changes_nothing(run, cluster):
    api = cluster(
        nodes=two_nodes(),
        pods=[
            wire.pod("naked", owner=None),
            wire.pod("cache", volumes=[{"name": "v", "emptyDir": {}}]),
            wire.pod("both", on="n2", owner=None, volumes=[{"name": "v", "emptyDir": {}}]),
        ],
    )

    result = run("drain", "n1", "n2", "--yes")

    fails(result, 20, "n1 cannot be drained: 2 pods forbid it", "--delete-emptydir-data --force")
    assert "shop/naked: no controller would bring it back" in result.err
    assert "shop/cache: has emptyDir volumes, whose contents are lost" in result.err
    assert "n2 cannot be drained: 1 pod forbid" in result.err
    assert re.search("shop/both: .*emptyDir.*; .*no controller", result.err)
    assert api.changes() == []
    assert not any(n["spec"] for n in api.nodes.values())


def test_several_nodes_are_not_started_without_being_confirmed(run, cluster):
    api = cluster(nodes=two_nodes())

    result = run("drain", "-l", "role=web")

    fails(result, 20, "drain 2 nodes: a plan of several nodes has to be confirmed", "--yes")
    assert api.changes() == []
    assert "plan:\n  n1: cordon: takes new pods\n  n2: cordon" in result.err


def test_several_nodes_with_yes_are_done_in_order(run, cluster):
    api = cluster(nodes=two_nodes(), pods=[wire.pod("a"), wire.pod("b", on="n2")])

    result = run("drain", "n2", "n1", "-y")

    assert result.out == "node/n2 drained\nnode/n1 drained\n"
    assert api.pods == {}


def test_somebody_elses_cordon_is_not_undone(run, cluster):
    record = json.dumps({"owner": "sam", "reason": "fan", "run": "x", "at": 1.0})
    api = cluster(nodes=[wire.node(unschedulable=True, cordon=record)])

    fails(run("uncordon", "n1", "--owner", "jo"), 20, "n1 is cordoned by sam (fan)", "--force-owner")
    assert api.changes() == []
    assert run("uncordon", "n1", "--owner", "jo", "--force-owner").out == "node/n1 uncordoned\n"


def test_a_lock_that_another_run_holds_is_21_and_says_whose(run, cluster):
    api = cluster()
    api.lease = {
        "metadata": {"name": "kube-orchestrator", "annotations": {"kube-orchestrator.io/run": "drain-9"}},
        "spec": {
            "holderIdentity": "sam@desk",
            "acquireTime": "2099-01-01T00:00:00.000000Z",
            "renewTime": "2099-01-01T00:00:00.000000Z",
            "leaseDurationSeconds": 15,
        },
    }

    fails(run("cordon", "n1"), 21, "sam@desk holds the cluster with run drain-9", "ask sam@desk")
    assert api.asked("PATCH") == []


# ---- runs -----------------------------------------------------------------------------------------------------


def failed_drain(run, api):
    """A drain that does not reach its goal in time; gives its result."""
    api.full = True
    return run("drain", "n1", "--timeout", "200ms")


def test_a_drain_that_is_late_ends_with_30_and_how_to_go_on_and_back(run, cluster):
    result = failed_drain(run, cluster(pods=[wire.pod("a")]))

    fails(result, 30, "n1: 1 of 1 pod left after 0.2 s", "longer --timeout")
    name = RUN.search(result.err)[0]
    assert result.err.endswith(f"go on:   orchestrator resume {name}\ngo back: orchestrator release {name}\n")
    assert "budget web" in result.err


def test_a_run_that_failed_is_resumed_and_then_there_is_nothing_left_to_do(run, cluster):
    api = cluster(pods=[wire.pod("a")])
    failed_drain(run, api)
    api.full = False

    resumed, again = run("resume", "last"), run("resume", "last", "-o", "json")

    assert resumed.code == again.code == 0
    assert re.fullmatch(rf"run {RUN.pattern}: drain n1: finished\n", resumed.out)
    assert json.loads(again.out)["outcome"] == "finished"
    assert api.pods == {}
    assert "finished" in run("runs").out


def test_a_run_that_failed_is_released_and_cannot_be_resumed_then(run, cluster):
    api = cluster(pods=[wire.pod("a")])
    failed_drain(run, api)

    preview, released, again = run("release", "last", "--dry-run"), run("release", "drain"), run("resume", "drain")

    assert (preview.code, preview.out) == (3, "node/n1 as it was found (dry run)\n")
    assert (released.code, released.out) == (0, "node/n1 as it was found\n")
    fails(again, 20, "was released", "start a new run")
    assert not api.nodes["n1"]["spec"]


def test_a_run_of_another_cluster_is_not_continued_on_this_one(run, cluster, tmp_path):
    first = cluster(pods=[wire.pod("a")])
    failed_drain(run, first)
    second = cluster()

    resumed, released = run("resume", "last"), run("release", "last")

    for result in (resumed, released):
        file = first.kubeconfig(tmp_path)
        fails(result, 2, f"is of the cluster at {first.url}, this context is {second.url}", "--context stub")
        assert f"--kubeconfig {file}" in result.err
    assert second.changes() == []


def test_who_holds_the_cluster_is_asked_again_where_one_of_its_api_servers_hangs_up(cluster, tmp_path):
    """As while one of several restarts, behind a load balancer."""
    api = cluster()
    api.on("GET", f"{LEASES}/{NAME}", HangUp(), HangUp(), said(404, "there is none"))
    sink = Recorder()
    app = App(Settings(str(api.kubeconfig(tmp_path))), sink)

    app.refuse_if_held()

    assert [event.name for event in sink.events] == ["retry.scheduled"] * 2
    assert len([each for each in api.requests if each.path == f"{LEASES}/{NAME}"]) == 3


@pytest.mark.parametrize(
    ("kind", "words"), [("restore", ["etcd", "restore"]), ("replace-member", ["etcd", "replace-member"])]
)
def test_old_data_of_another_cluster_are_not_deleted_on_this_one(run, cluster, kind, words):
    here = cluster()
    meta = {"server": "https://elsewhere:6443", "context": "prod", "kubeconfig": ["/prod.conf"]}
    with Journal.create(runs.directory(f"{kind}-1"), f"{kind}-1", Plan(kind, "", ()), meta=meta) as journal:
        journal.mark("ended")

    said = f"is of the cluster at https://elsewhere:6443, this context is {here.url}"
    fails(run(*words, "--confirm", f"{kind}-1"), 2, said, "--context prod")
    assert here.changes() == []


@pytest.mark.parametrize("ssh", [True, False])
def test_who_follows_a_run_reaches_hosts_as_it_did(cluster, tmp_path, ssh):
    api = cluster()
    app = App(Settings(str(api.kubeconfig(tmp_path))), Silent())
    meta = {"server": api.url, "ssh": ssh}
    with Journal.create(tmp_path / "restore-1", "restore-1", Plan("restore", "", ()), meta=meta):
        pass

    app.follow(read(tmp_path / "restore-1"))

    assert app.settings.ssh is ssh


def test_who_goes_on_with_a_run_that_does_without_the_api_needs_no_credentials(cluster, tmp_path):
    api = cluster()
    path = api.kubeconfig(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["users"][0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "false"}}
    path.write_text(yaml.safe_dump(content))
    step = Step("0", "etcd.snapshot", "n1", {"without_api": True, "lock": "n1"}, 5.0)
    plan = Plan("backup", "backup", (Wave((Lane("n1", (step,)),)),))
    meta = {"server": api.url, "hosts": {"n1": ("198.18.0.11", "")}}
    with Journal.create(tmp_path / "r", "r", plan, meta=meta):
        pass
    app = App(Settings(str(path)), Silent())

    app.follow(read(tmp_path / "r"))

    assert app.machines.places() == {"n1": ("198.18.0.11", "")}


def test_a_run_notes_where_hosts_are_and_who_goes_on_without_an_api_server_finds_them(cluster, tmp_path):
    api = cluster(nodes=two_nodes())
    app, later = (App(Settings(str(api.kubeconfig(tmp_path))), Silent()) for _ in range(2))
    app.machines.know([Node.at("n1", "198.18.0.11", "kind://docker/k/n1")])
    step = Step("n1/cordon", "node.cordon", "n1", {"owner": "ann", "reason": "", "without_api": True}, 5.0)
    plan = Plan("rollback", "back", (Wave((Lane("n1", (step,)),)),))
    with Journal.create(tmp_path / "r", "r", plan, meta={"server": api.url, "hosts": app.machines.places()}):
        pass

    later.follow(read(tmp_path / "r"))
    plan = planners.cordon(["n1"], owner="ann", reason="")
    cordon = app.perform(plan, shown=lambda _: None, noted={runs.METRICS: "/srv/etcd.prom"})

    assert later.machines.places() == {"n1": ("198.18.0.11", "kind://docker/k/n1")}
    meta = read(runs.directory(cordon.run)).meta
    assert {name: tuple(place) for name, place in meta["hosts"].items()} == app.machines.places()
    assert meta[runs.METRICS] == "/srv/etcd.prom"
    assert runs.unattended(cordon.run)


def test_runs_are_listed_for_people_and_for_programs(run, cluster):
    failed_drain(run, cluster(pods=[wire.pod("a")]))

    table, document = run("runs").out, json.loads(run("runs", "-o", "json").out)

    assert re.match(r"RUN +STATE +STARTED +WHAT\n", table)
    assert document["kind"] == "RunList"
    assert [(r["state"], r["title"]) for r in document["runs"]] == [("failed", "drain n1")]
    assert document["runs"][0]["id"] in table


# ---- forms of the output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["drain", "n1"], "RunResult"),
        (["cordon", "n1", "--dry-run"], "RunResult"),
        (["status"], "ClusterStatus"),
        (["unmanaged"], "UnmanagedPods"),
        (["unmanaged", "n1"], "UnmanagedPods"),
        (["doctor", "--for", "drain"], "DoctorReport"),
        (["runs"], "RunList"),
    ],
)
def test_every_result_is_a_document_of_its_shape(run, cluster, words, kind, form):
    cluster(pods=[wire.pod("a")])

    out = run(*words, "-o", form).out
    document = json.loads(out) if form == "json" else yaml.safe_load(out)

    assert (document["apiVersion"], document["kind"]) == ("kube-orchestrator.io/v1", kind)
    assert msgspec.convert(document, type=shapes.KINDS[kind]).kind == kind


def test_progress_for_programs_is_one_json_object_a_line(run, cluster):
    cluster(pods=[wire.pod("a")])

    result = run("drain", "n1", "--log-format", "json")
    events = [json.loads(line) for line in result.err.splitlines()]

    assert result.out == "node/n1 drained\n"
    assert [e["event"] for e in events if e["event"].startswith("run.")] == ["run.started", "run.finished"]
    assert {"step.started", "step.finished", "drain.progress", "pod.evicting", "pod.gone"} <= {
        e["event"] for e in events
    }
    assert all(e["level"] in ("debug", "info", "warning", "error") and e["at"].endswith("Z") for e in events)


def test_the_status_of_etcd_without_an_api_and_without_anything_known_says_how_to_name_hosts(run, cluster):
    cluster().on("GET", "/api/v1/nodes", said(401, "Unauthorized"))

    result = run("etcd", "status")

    assert result.code == 12
    assert (
        "remedy: or name control planes, which are asked over SSH: orchestrator etcd status --node NAME" in result.err
    )


def test_status_for_people_names_cluster_nodes_and_etcd(run, cluster):
    api = cluster(nodes=two_nodes(), pods=[wire.pod("a")], budgets=[wire.budget()])

    out = run("status").out

    assert f"{api.url} (context stub)" in out
    assert "2: 2 ready, 2 can take workloads" in out
    assert "v1.37.2" in out
    assert "NODES" in out


def test_unmanaged_for_people_says_what_becomes_of_each_pod(run, cluster):
    cluster(pods=[wire.pod("naked", owner=None)])

    assert re.search(r"n1 +shop/naked +no controller +refused +deleted +lost +--force", run("unmanaged", "n1").out)
    fails(run("unmanaged", "n7"), 2, "there is no node 'n7'", "n1")


def process(*words, **streams):
    """The command line as a process of its own, with this test's surroundings."""
    return subprocess.Popen([sys.executable, "-m", "orchestrator", *words], text=True, **streams)


def test_on_a_terminal_several_nodes_are_asked_for_and_the_cursor_comes_back(cluster, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    api = cluster(nodes=two_nodes(), pods=[wire.pod("a"), wire.pod("b", on="n2")])
    screen, terminal = pty.openpty()
    os.write(screen, b"y\n")

    with process("drain", "n1", "n2", stdin=terminal, stderr=terminal, stdout=subprocess.PIPE) as command:
        out, _ = command.communicate(timeout=20)
    shown = b""
    while select.select([screen], [], [], 0)[0]:
        shown += os.read(screen, 1 << 16)
    shown = shown.decode()
    os.close(screen)
    os.close(terminal)

    assert (command.returncode, out) == (0, "node/n1 drained\nnode/n2 drained\n")
    assert "drain 2 nodes (n1, n2): go on? [y/N]" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert api.pods == {}


def test_an_answer_that_is_not_yes_starts_nothing(cluster, capsys):
    api = cluster(nodes=two_nodes())
    app = App(Settings(), Silent(), confirm=lambda plan: False)
    plan = planners.cordon(["n1", "n2"], owner="jo", reason="")

    with pytest.raises(Refused, match="not confirmed; nothing was changed"):
        app.perform(plan, shown=lambda previews: None)

    assert api.changes() == []


def test_the_reader_of_the_result_may_leave_early(cluster):
    cluster()
    reading, writing = os.pipe()
    os.close(reading)

    with process("runs", stdout=writing, stderr=subprocess.PIPE) as command:
        os.close(writing)
        _, err = command.communicate(timeout=20)

    assert (command.returncode, err) == (141, "")


def test_ctrl_c_while_the_cluster_is_read_ends_with_130_in_one_word(cluster):
    api = cluster()
    api.on("GET", "/api/v1/nodes", Silence())

    with process("status", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        api.wait_for("GET", "/api/v1/nodes")
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=20)

    assert (command.returncode, out, err) == (130, "", "stopped\n")


# ---- doctor ---------------------------------------------------------------------------------------------------


def test_a_doctor_that_finds_nothing_wrong_ends_with_0(run, cluster):
    cluster()

    result = run("doctor", "--for", "drain", "--for", "status")

    assert result.code == 0
    assert re.search(r"ok +permissions: drain +all that it needs", result.out)
    assert re.search(r"ok +run lock +nobody holds it", result.out)


def test_a_doctor_that_finds_a_missing_permission_ends_with_20_and_says_what_to_do(run, cluster):
    api = cluster()
    api.denied = ("nodes",)

    result = run("doctor", "--for", "cordon")

    assert result.code == 20
    assert re.search(r"failed +permissions: cordon +this user may not: list nodes; get nodes; patch nodes", result.out)
    assert "docs/rbac.md has the role for `cordon`" in result.out


# ---- completion -----------------------------------------------------------------------------------------------


def complete(capsys, monkeypatch, line):
    words = line.split(" ")
    monkeypatch.setenv("_ORCHESTRATOR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit):
        main([])
    return capsys.readouterr().out.split()


def test_nodes_contexts_and_runs_are_completed(run, cluster, capsys, monkeypatch):
    api = cluster(nodes=[*two_nodes(), wire.node("db-1")], pods=[wire.pod("a")])
    failed_drain(run, api)

    assert complete(capsys, monkeypatch, "orchestrator drain n") == ["n1", "n2"]
    assert complete(capsys, monkeypatch, "orchestrator cordon node/") == ["node/db-1", "node/n1", "node/n2"]
    assert complete(capsys, monkeypatch, "orchestrator status --context s") == ["stub"]
    assert RUN.fullmatch(complete(capsys, monkeypatch, "orchestrator resume dr")[0])


def test_a_completion_that_fails_is_silent(cluster, capsys, monkeypatch, tmp_path):
    api = cluster()
    api.on("GET", "/api/v1/nodes", said(401, "Unauthorized"), HangUp())
    broken = tmp_path / "broken"
    broken.write_text("][")

    assert complete(capsys, monkeypatch, "orchestrator drain n") == []
    assert complete(capsys, monkeypatch, f"orchestrator status --kubeconfig {broken} --context s") == []
    assert capsys.readouterr().err == ""
