"""`upgrade` on the command line: what cannot be meant is refused before anything is asked."""

import json
from types import SimpleNamespace

import pytest

from orchestrator import rollbacks, upgrades
from orchestrator.app import App, Settings
from orchestrator.cli.main import main
from orchestrator.cluster.situation import Finding, Severity
from orchestrator.cluster.versions import Hop, parse
from orchestrator.planners.upgrade import Request, Target, upgrade

NOW, NEXT = parse("1.36.3"), parse("1.37.2")
BAD = Finding("SystemVerification", Severity.ERROR, "cp-1", "cgroups v1", "accept it")


@pytest.fixture
def kubeconfig(tmp_path, monkeypatch):
    """One that leads nowhere: nothing may be asked."""
    path = tmp_path / "config"
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    user = {"name": "u", "user": {"token": "t"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "c"}
    path.write_text(json.dumps({**config, "clusters": [cluster], "contexts": [context], "users": [user]}))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return path


@pytest.fixture
def run(kubeconfig, capsys):
    def called(*words):
        with pytest.raises(SystemExit) as end:
            main(["upgrade", *words])
        said = capsys.readouterr()
        return SimpleNamespace(code=end.value.code, out=said.out, err=said.err)

    return called


@pytest.fixture
def wishes(monkeypatch):
    """What the command asks for; it gets an upgrade of two nodes that one finding speaks against."""
    asked = []

    def prepare(app, wish, say):
        asked.append((app, wish))
        say("reading the cluster")
        targets = [Target("cp-1", control_plane=True), Target("node-1", control_plane=False)]
        plan = upgrade(targets, (Hop(NEXT, workers=True),), Request("u", "ann", {}, None))
        left = () if BAD.check in wish.accept else (BAD,)
        return upgrades.Prepared(
            NOW, (Hop(NEXT, workers=True),), (BAD,), left, wish.accept, wish.strategy, "", plan
        )  # fmt: skip

    monkeypatch.setattr(upgrades, "prepare", prepare)
    return asked


@pytest.mark.parametrize("command", ["plan", "apply"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--accept", "ALL"), "one by one"),
        (("--accept", "Swap,all"), "one by one"),
        (("--strategy", "yolo"), "--strategy=yolo is none"),
        (("--pause-after", "lunch"), "--pause-after=lunch is none"),
        (("--workers", "never"), "--workers=never is none"),
        (("--drain-timeout", "5"), "is not a duration"),
        (("--max-unavailable", "0"), "max-unavailable"),
        (("--bogus",), "no such option"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(run, command, words, said):
    found = run(command, *words)

    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert "remedy:" in found.err


@pytest.mark.parametrize(
    "words",
    [
        ("--before-node", "'"),
        ("--before-node", "x", "--hook-timeout", "soon"),
        ("--kubeadm-timeout", "10"),
        ("--kubeadm-timeout", "0"),
        ("--kubeadm-timeout", "10s"),
    ],
)
def test_a_hook_or_a_limit_that_cannot_be_meant_is_refused(run, words):
    assert (run("apply", *words).code, run("plan", *words).code) == (2, 2)


def test_the_plan_exits_with_20_until_its_findings_are_accepted(run, wishes):
    refused, accepted = run("plan"), run("plan", "--accept", BAD.check)

    assert (refused.code, accepted.code) == (20, 0)
    assert "v1.36.3 → v1.37.2" in refused.out
    assert json.loads(run("plan", "-o", "json").out)["findings"][0]["check"] == BAD.check


def test_apply_does_not_start_with_a_finding_that_nobody_accepted(run, wishes):
    found = run("apply")

    assert (found.code, found.out) == (20, "")
    assert "--accept SystemVerification" in found.err


def test_the_words_of_the_command_line_arrive(run, wishes):
    words = ["--to", "1.37", "--nodes", "cp-1, node/node-1,", "--accept", "A,B", "--accept", "A", "--workers", "last"]
    words += ["--max-unavailable", "3", "--pause-after", "first-worker", "--force", "--delete-emptydir-data"]
    words += ["--grace-period", "5", "--drain-timeout", "2m", "--no-certificate-renewal", "--patches", "/etc/p"]
    words += ["--kubeadm-timeout", "7m"]
    run("apply", *words, "--before-node", "notify 'a b'", "--hook-timeout", "1m", "--hooks-on-node", "--ssh")

    [(app, wish)] = wishes
    assert (wish.to, wish.nodes, wish.accept, wish.workers) == ("1.37", ("cp-1", "node-1"), ("A", "B"), "last")
    assert (wish.max_unavailable, wish.pause_after, wish.drain_timeout_s) == (3, "first-worker", 120.0)
    assert wish.options == ("--certificate-renewal=false", "--patches=/etc/p")
    assert wish.kubeadm_timeout_s == 420.0
    assert (wish.flags["force"], wish.flags["delete_emptydir_data"], wish.flags["grace_period_s"]) == (True, True, 5)
    assert wish.flags["ignore_daemonsets"]
    assert not wish.renews
    assert (wish.before.argv, wish.before.timeout_s, wish.before.on_node) == (("notify", "a b"), 60.0, True)
    assert wish.after is None
    assert app.settings.ssh


@pytest.mark.parametrize(("asks_budgets", "asked"), [(True, False), (False, True)])
def test_an_upgrade_that_takes_workloads_down_is_asked_about_though_it_is_of_one_node(asks_budgets, asked):
    request = Request("u", "ann", {"disable_eviction": not asks_budgets}, None)
    plan = upgrade([Target("cp-1", control_plane=True)], (Hop(NEXT, workers=True),), request)
    shown = []
    app = App(Settings(), None, confirm=lambda found: shown.append(found) or True)

    app._ask(plan)

    assert shown == ([plan] if asked else [])


def test_what_will_be_lost_is_said_before_it_is_asked(run, monkeypatch):
    def prepare(app, node, **how):
        del app, how
        return SimpleNamespace(to=NOW, losses=("what was written since",), plan=plan_of(node))

    def plan_of(node):
        return upgrade([Target(node, control_plane=True)], (), Request("r", "ann", {}, None))

    monkeypatch.setattr(rollbacks, "prepare", prepare)
    found = run("rollback", "cp-1", "--dry-run")

    assert "this will be lost: what was written since" in found.err
    assert found.code in (0, 12)
