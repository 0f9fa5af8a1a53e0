"""What is made of what was seen of an upgrade: gaps, quorum, budgets, kubeadm's own steps, tables."""

import json
from dataclasses import asdict, replace

import pytest

from lab.bench import upgrade_report, upgrades
from lab.bench.upgrades import OURS, TEXTBOOK, Upgraded
from lab.upgrades import asking
from lab.upgrades.answers import Answer, Answers, parse
from lab.upgrades.askers import health
from lab.upgrades.budgets import needed
from lab.upgrades.textbook import Step, part, parts

NODE = "x-control-plane"


def answers(*each):
    """Of a client that asks once a second; x for a failure."""
    return Answers(
        tuple(Answer(float(at), 0.5, "no" if said == "x" else asking.RIGHT) for at, said in enumerate(*each))
    )


@pytest.mark.parametrize(
    ("seen", "failed", "gap_s", "outage_s"),
    [("......", 0, 1, 0), ("..x...", 1, 2, 1), (".xxx..", 3, 4, 3), ("x....x", 2, 1, 1), ("....xx", 2, 2, 1.5)],
)
def test_gaps_and_outages_are_told_apart(seen, failed, gap_s, outage_s):
    found = answers(seen)

    assert (len(found.failures), found.longest_gap_s, found.longest_outage_s) == (failed, gap_s, outage_s)


@pytest.mark.parametrize(
    ("members", "lowest", "lost"),
    [(["......"] * 3, 3, False), (["..x...", "......", "......"], 2, False), (["..xx..", "..xx..", "......"], 1, True)],
)
def test_a_quorum_is_more_than_half(members, lowest, lost):
    alive = [answers(each) for each in members]

    seen = health(alive, alive, until=5.0)

    assert (seen.members, seen.lowest, bool(seen.without_quorum)) == (3, lowest, lost)
    assert seen.longest_unable_s == 0


def test_a_member_whose_node_is_off_counts_as_gone():
    silent = Answers(tuple(one for one in answers("." * 12).each if one.asked_at < 3 or one.asked_at > 9))

    seen = health([silent], [silent], until=12.0)

    assert seen.lowest == 0
    assert seen.longest_unable_s > 3


def test_a_log_that_ends_in_the_middle_of_a_line_gives_what_is_whole():
    log = "web 12.500 0.010 ok\napi 12.600 1.000 TimeoutError: timed out\nweb 12.4"

    found = parse(log)

    assert found["web"].each == (Answer(12.5, 0.01, asking.RIGHT),)
    assert found["api"].failures[0].said == "TimeoutError: timed out"


def test_failures_are_told_with_their_times():
    assert str(answers(".xx..")) == "2 of 5 requests failed, longest gap 3.0 s: 2 times no from 1.0 s"
    assert str(answers("...")) == "3 requests, none failed; longest gap 1.0 s"


@pytest.mark.parametrize(
    ("spec", "status", "wanted"),
    [({"minAvailable": 3}, {}, 3), ({"minAvailable": "50%"}, {"desiredHealthy": 2}, 2), ({"maxUnavailable": 1}, {}, 0)],
)
def test_what_a_budget_wants(spec, status, wanted):
    assert needed({"spec": spec, "status": status}) == wanted


def test_kubeadm_tells_by_its_lines_what_took_how_long():
    lines = [
        (0.0, ""),
        (2.0, '[upgrade/staticpods] Preparing for "etcd" upgrade'),
        (60.0, '[upgrade/staticpods] Preparing for "kube-apiserver" upgrade'),
        (61.0, "[upgrade/staticpods] Renewing apiserver certificate"),
        (100.0, "[upgrade/control-plane] The control plane instance for this node was successfully upgraded!"),
        (103.0, ""),
    ]

    found = parts(NODE, lines)

    assert [(step.what, step.took_s) for step in found] == [
        ("kubeadm: before the components", 2.0),
        ("kubeadm: etcd", 58.0),
        ("kubeadm: kube-apiserver", 40.0),
        ("kubeadm: after the components", 3.0),
    ]
    assert all(part(step) for step in found)
    assert parts(NODE, [(0.0, ""), (1.0, "[upgrade/kubelet-config] upgraded"), (2.0, "")]) == []


def test_a_step_is_read_from_its_event_and_other_lines_are_none():
    event = {
        "event": "step.finished",
        "node": NODE,
        "action": "node.drain",
        "took_s": 2.5,
        "at": "1970-01-01T00:01:00Z",
    }

    found = [upgrades.heard(line) for line in (json.dumps(event), json.dumps({"event": "run.started"}), "words\n")]

    assert found == [[Step(NODE, "node.drain", 60.0, 2.5)], [], []]


def run(tool, took_s, out_s):
    steps = (
        Step(NODE, "upgrade", 9.0, 100.0),
        Step(NODE, "kubeadm: etcd", 5.0, 60.0),
        Step("x-worker", "drain", 20.0, 4.0),
    )
    return Upgraded(tool, "1+2", 1, took_s, steps, {"x-worker": out_s, "x-worker2": out_s}, 1000, 0, 0.1, 0, 70.0, 0)


def test_both_tools_are_compared_and_what_was_to_be_reached_is_judged():
    table = upgrade_report.compared([run(TEXTBOOK, 200.0, 40.0), run(OURS, 180.0, 30.0)])

    assert "| 1+2 | whole time, s | 200.0 | 180.0 | **0.90** | <= 1: reached |" in table
    assert "| 1+2 | control plane, s | 100.0 | 100.0 | **1.00** |  |" in table
    assert "| 1+2 | worker out of service, s, median | 40.0 | 30.0 | **0.75** | <= 0.6: **missed** |" in table
    assert "| 1+2 | failed requests to the application | 0 of 1000 | 0 of 1000 |  |  |" in table


def test_one_tool_is_shown_alone_and_its_steps_by_kind_of_node():
    alone = run(TEXTBOOK, 200.0, 40.0)

    assert "| 1+2 | whole time, s | 200.0 |  |  | <= 1 |" in upgrade_report.compared([alone])
    assert "| 1+2 | textbook | kubeadm: etcd | 60.0 |  |  |" in upgrade_report.steps([alone])
    assert "| 1+2 | textbook | drain |  | 4.0 |  |" in upgrade_report.steps([alone])


def test_runs_are_kept_in_a_file():
    before = run(TEXTBOOK, 200.0, 40.0)

    after = Upgraded.from_json(json.loads(json.dumps(asdict(before))))

    assert after == before
    assert replace(after, tool=OURS).kind == (OURS, "1+2", 1)


def test_what_kubeadm_says_through_our_events_is_split_into_its_components():
    said = [
        json.dumps({"event": "kubeadm.said", "node": "cp", "at": f"2026-11-24T10:00:{second:02}+00:00", "line": line})
        for second, line in ((10, 'Preparing for "etcd" upgrade'), (30, 'Preparing for "kube-apiserver" upgrade'))
    ]
    lines = [each for line in (*said, "words\n") for each in upgrades.kubeadm_line(line)]
    whole = Step("cp", "kubeadm.upgrade", lines[0][1] + 50, 60)

    found = {step.what: step.took_s for step in upgrades._parts([whole], lines)}
    assert found == {"kubeadm: before the components": 10, "kubeadm: etcd": 20, "kubeadm: kube-apiserver": 30}
