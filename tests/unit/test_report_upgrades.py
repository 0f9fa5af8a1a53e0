"""An upgrade before it starts, as people and programs are shown it."""

import json

import pytest

from orchestrator.cluster.situation import Finding, Severity
from orchestrator.cluster.versions import Hop, parse
from orchestrator.engine.plan import Lane, Plan, Step, Wave
from orchestrator.planners.upgrade import Hook, Request, Target, upgrade
from orchestrator.report import bodies
from orchestrator.report import upgrades as report

NOW, NEXT = parse("1.36.3"), parse("1.37.2")
HOPS = (Hop(NEXT, workers=True),)
BAD = Finding("SystemVerification", Severity.ERROR, "node-1", "cgroups v1", "accept it: --accept SystemVerification")
DIFF = Finding("EditedManifests", Severity.ERROR, "node-1", "edited", "put it into kubeadm's settings", "--- a\n+++ b")
MILD = Finding("Containerd", Severity.WARNING, "node-2", "it is old", "upgrade it")


def plan(workers=2, at_once=1):
    names = [Target("cp-1", control_plane=True), *(Target(f"w-{n}", control_plane=False) for n in range(workers))]
    request = Request("upgrade-1", "ann@laptop", {}, 60.0, max_unavailable=at_once)
    return upgrade(names, HOPS, request)


def table(findings=(), accepted=(), took=None, hops=HOPS, made=None, behind=()):
    return report.table(NOW, hops, findings, accepted, ("rolling", ""), made or plan(), took or {}, behind)


def test_it_begins_with_the_way_and_ends_with_what_speaks_against_it():
    lines = table([BAD, MILD]).splitlines()

    assert lines[0] == "Kubernetes v1.36.3 → v1.37.2; strategy rolling"
    assert "1 error, 1 warning" in lines
    assert any(line.startswith("ERROR  SystemVerification (node-1): cgroups v1") for line in lines)


def test_nothing_to_do_is_one_line():
    assert table(hops=()) == "the cluster is at v1.36.3 already: nothing to do"


def test_nothing_to_do_is_not_said_where_that_is_not_known():
    hidden = Finding("Repository", Severity.ERROR, "node-1", "cannot be used", "see the network")

    text = table([hidden, MILD], hops=())

    assert text.startswith("the cluster is at v1.36.3; whether there is something to do is not known:\n")
    assert "Repository (node-1)" in text
    assert "Containerd" not in text


def test_nodes_that_were_not_asked_for_and_are_behind_are_named():
    assert table(hops=(), behind=("node-2 (v1.35.4)",)) == (
        "the nodes asked for are at v1.36.3 already: nothing to do there; behind are node-2 (v1.35.4)"
    )


def test_an_upgrade_that_nothing_speaks_against_says_so():
    assert "nothing speaks against it" in table()


def test_control_planes_only_is_said_of_a_hop_without_workers():
    hops = (Hop(NEXT, workers=False), Hop(parse("1.38.0"), workers=True))

    assert table(hops=hops).startswith("Kubernetes v1.36.3 → v1.37.2 (control planes only) → v1.38.0;")


def test_nodes_that_go_through_the_same_steps_share_a_line():
    lines = table(made=plan(workers=3, at_once=3)).splitlines()

    assert sum("w-0, w-1, w-2: note what runs" in line for line in lines) == 1


def test_steps_that_differ_by_node_are_told_apart():
    hook = Hook(("true",), 60.0)
    request = Request("upgrade-1", "ann@laptop", {}, 60.0, before=hook, after=hook)
    nodes = [Target(name, control_plane=name != "w") for name in ("cp-1", "cp-2", "w")]

    text = " ".join(table(made=upgrade(nodes, HOPS, request)).split())

    assert "w: fetch packages " in text
    assert "cp-2: fetch packages and images " in text
    assert "kubeadm upgrade apply" in text
    assert "kubeadm upgrade node" in text
    assert "hook before" in text
    assert "hook after" in text


def test_an_accepted_finding_has_no_remedy_and_is_counted_as_such():
    text = table([BAD], ["SystemVerification"])

    assert "SystemVerification, accepted" in text
    assert "remedy" not in text
    assert "1 accepted" in text


def test_equal_findings_of_several_nodes_are_one():
    other = Finding(BAD.check, BAD.severity, "node-3", BAD.text, BAD.remedy)

    assert report.findings_text([BAD, MILD, other], ()).count("SystemVerification (node-1, node-3)") == 1


def test_a_diff_is_shown_with_its_finding():
    assert "    | --- a\n    | +++ b" in report.findings_text([DIFF], ())


def test_a_refusal_names_what_can_be_accepted_and_not_what_cannot():
    forbidden = Finding("EtcdQuorum", Severity.FORBIDDEN, "cluster", "one is down", "bring it back")

    why, remedy = report.refusal([forbidden, BAD])
    assert "nothing was changed" in why
    assert "--accept SystemVerification" in remedy
    assert "--accept EtcdQuorum" not in remedy
    assert "--accept" not in report.refusal([forbidden])[1]


def test_times_are_those_of_the_node_or_else_of_another_of_its_kind():
    steps = list(plan().steps())
    took = {step.id: 7.0 for step in steps if step.node in ("cp-1", "w-0") and step.action == "kubelet.upgrade"}
    known = report.durations([(plan(), took)])

    found = {
        (step.node): known.get((report.what(step), report.kind(step, plan())))
        for step in steps
        if step.action == "kubelet.upgrade"
    }
    assert found == {"cp-1": 7.0, "w-0": 7.0, "w-1": 7.0}
    assert "about" in table(took=known)
    assert "kubelet and kubectl (7 s)" in " ".join(table(took=known).split())


def test_a_plan_without_control_planes_has_only_workers():
    step = Step("0/a/node.cordon", "node.cordon", "a", {}, None)

    assert report.kind(step, Plan("x", "x", (Wave((Lane("a", (step,)),)),))) == "worker"


@pytest.mark.parametrize("accepted", [(), ("SystemVerification",)])
def test_the_document_has_it_all(accepted):
    body = bodies.body(report.document(NOW, HOPS, [BAD], accepted, ("rolling", ""), plan(), {}))

    assert json.loads(json.dumps(body)) == body
    assert (body["current"], body["hops"]) == ("v1.36.3", [{"to": "v1.37.2", "workers": True}])
    assert body["findings"][0]["accepted"] is bool(accepted)
    assert [s["id"] for s in body["steps"]] == [s.id for s in plan().steps()]
    assert {s["lastTookS"] for s in body["steps"]} == {None}
