"""A restore that fails on the command line, begun or resumed: what is taken back by itself, and what is not."""

import json
from types import SimpleNamespace

import pytest

from orchestrator.app import App, Outcome
from orchestrator.cli.main import main
from orchestrator.engine import runs
from orchestrator.engine.journal import Journal
from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.errors import CommandFailed, HostUnreachable, Interrupted, Locked
from orchestrator.planners import restore
from orchestrator.planners.restore import Plane, Request

PLANES = [Plane("cp-1", "cp-1", "https://198.18.0.11:2380", "/var/lib/etcd")]
PLAN = restore.restore(PLANES, Request("restore-1", "prod", "staging/x.db", "prod-1", 1, 2, "t"))
DRAIN = Plan("drain", "drain n1", (Wave((Lane("n1", (Step("0/n1/node.drain", "node.drain", "n1", {}, None),)),)),))
RUN = "restore-20261124-0102-7f3a"


class Desk:
    """A run that stopped, and what becomes of it when it is resumed and fails."""

    def __init__(self, monkeypatch, capsys):
        self._capsys = capsys
        self.released, self.unreleased = [], None
        self.fails = CommandFailed("cp-1: no", remedy="mend cp-1, then resume")
        monkeypatch.setattr(App, "resume", lambda app, name: self._resume())
        monkeypatch.setattr(App, "release", lambda app, name, shown: self._release(app, name))

    def _resume(self):
        self.fails.run = RUN
        raise self.fails

    def _release(self, app, name):
        self.released.append((name, app.settings.yes))
        if self.unreleased:
            raise self.unreleased
        return Outcome(0, PLAN, "release-1", ())

    def resume(self, *, plan=PLAN, until=""):
        """`resume` of a run that had begun all steps up to the first of that action."""
        with Journal.create(runs.directory(RUN), RUN, plan, meta={}) as journal:
            for step in plan.steps():
                journal.started(step.id, {})
                if step.action == until:
                    break
        with pytest.raises(SystemExit) as end:
            main(["resume", RUN])
        return SimpleNamespace(code=end.value.code, err=self._capsys.readouterr().err)


@pytest.fixture
def desk(tmp_path, monkeypatch, capsys):
    path = tmp_path / "config"
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    user = {"name": "u", "user": {"token": "t"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "c"}
    path.write_text(json.dumps({**config, "clusters": [cluster], "contexts": [context], "users": [user]}))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Desk(monkeypatch, capsys)


@pytest.mark.parametrize("until", ["restore.stage", "restore.stop", "restore.swap"])
def test_a_restore_that_was_resumed_and_fails_before_etcd_is_started_is_swung_back(desk, until):
    found = desk.resume(until=until)

    assert desk.released == [(RUN, True)]
    assert found.code == CommandFailed.exit_code
    assert "everything was swung back: the cluster has its old data" in found.err
    assert "resume" not in found.err
    assert "remedy: mend cp-1, then restore again" in found.err


@pytest.mark.parametrize(
    "remedy",
    ["go on: orchestrator resume last", "resume, which stops it first", f"`orchestrator resume {RUN}`, which goes on"],
)
def test_a_remedy_that_is_to_go_on_and_no_more_is_another_when_it_is_swung_back(desk, remedy):
    desk.fails = CommandFailed("cp-1: etcd runs", remedy=remedy)

    assert "remedy: see to it, then restore again" in desk.resume(until="restore.swap").err


def test_a_remedy_that_is_none_of_going_on_stays_when_it_is_swung_back(desk):
    desk.fails = CommandFailed("cp-1: its disk is full", remedy="make room on cp-1")

    assert "make room on cp-1" in desk.resume(until="restore.swap").err


def test_one_that_fails_once_etcd_was_started_stops_there(desk):
    found = desk.resume(until="restore.quorum")

    assert desk.released == []
    assert "swung back" not in found.err
    assert f"orchestrator resume {RUN}" in found.err
    assert "mend cp-1, then resume" in found.err


@pytest.mark.parametrize(
    "err", [Interrupted("stopped as asked", remedy="resume"), Locked("bo holds the cluster", remedy="wait for it")]
)
def test_what_a_person_stopped_or_somebody_else_is_at_work_on_is_left(desk, err):
    desk.fails = err

    assert desk.resume(until="restore.swap").code == err.exit_code
    assert desk.released == []


def test_another_run_that_fails_is_not_taken_back(desk):
    desk.resume(plan=DRAIN)

    assert desk.released == []


def test_what_cannot_be_swung_back_is_told_with_the_ways_on(desk):
    desk.unreleased = HostUnreachable("cp-1: no connection", remedy="see that it is up")

    found = desk.resume(until="restore.swap")

    assert found.code == CommandFailed.exit_code
    assert "it could not be swung back: cp-1: no connection" in found.err
    assert f"orchestrator release {RUN}" in found.err
