"""The verdicts on pods."""

import pytest

from orchestrator.cluster.eviction import (
    DAEMON_SET,
    DAEMON_SET_LEFT,
    EMPTY_DIR,
    EMPTY_DIR_LOST,
    LEAVING,
    MIRROR,
    NO_CONTROLLER,
    NO_CONTROLLER_LOST,
    Outcome,
    Rules,
    daemon_sets,
    judge,
)
from orchestrator.cluster.model import Budget, OwnerRef, Pod, Selector

REPLICA_SET = OwnerRef("ReplicaSet", "web", "apps/v1")
AGENT = OwnerRef("DaemonSet", "agent", "apps/v1")
NOW = 1_000_000.0


def pod(**fields):
    known = {"namespace": "default", "name": "web-1", "uid": "u1", "node": "n1", "phase": "Running", "ready": True}
    return Pod(**{**known, "controller": REPLICA_SET, **fields})


def budget(name, **labels):
    return Budget("default", name, Selector(labels), allowed=1, healthy=3, needed=2, expected=3)


def verdict(subject, *, missing="", budgets=(), now=NOW, **flags):
    return judge(subject, Rules(**flags), missing={("default", "agent"): missing}, budgets=budgets, now=now)


def test_a_pod_of_a_replica_set_is_evicted_without_a_word():
    assert verdict(pod()) == (verdict(pod()).__class__)(pod(), Outcome.EVICT, ())


@pytest.mark.parametrize(
    ("subject", "flags", "outcome", "reasons"),
    [
        (pod(controller=None), {}, Outcome.REFUSE, (NO_CONTROLLER,)),
        (pod(controller=None), {"force": True}, Outcome.EVICT, (NO_CONTROLLER_LOST,)),
        (pod(empty_dir=True), {}, Outcome.REFUSE, (EMPTY_DIR,)),
        (pod(empty_dir=True), {"delete_emptydir_data": True}, Outcome.EVICT, (EMPTY_DIR_LOST,)),
        (pod(controller=None, empty_dir=True), {}, Outcome.REFUSE, (EMPTY_DIR, NO_CONTROLLER)),
        (pod(controller=None, empty_dir=True), {"force": True}, Outcome.REFUSE, (EMPTY_DIR,)),
        (pod(controller=None, empty_dir=True, phase="Succeeded"), {}, Outcome.EVICT, ()),
        (pod(controller=None, empty_dir=True, phase="Failed"), {}, Outcome.EVICT, ()),
        (pod(controller=AGENT), {}, Outcome.REFUSE, (DAEMON_SET,)),
        (pod(controller=AGENT, empty_dir=True), {"ignore_daemonsets": True}, Outcome.LEAVE, (DAEMON_SET_LEFT,)),
        (pod(controller=AGENT, phase="Failed"), {}, Outcome.EVICT, ()),
        (pod(controller=OwnerRef("DaemonSet", "agent", "example.org/v1")), {}, Outcome.EVICT, ()),
        (pod(controller=OwnerRef("Widget", "w", "example.org/v1")), {}, Outcome.EVICT, ()),
        (pod(mirror=True, controller=None, empty_dir=True), {}, Outcome.LEAVE, (MIRROR,)),
    ],
)
def test_each_kind_of_pod_gets_kubectls_outcome_and_every_reason(subject, flags, outcome, reasons):
    found = verdict(subject, **flags)

    assert (found.outcome, found.reasons) == (outcome, reasons)


def test_a_pod_whose_daemon_set_is_missing_needs_force_and_says_what_the_api_said():
    refused = verdict(pod(controller=AGENT), missing='daemonsets.apps "agent" not found')
    forced = verdict(pod(controller=AGENT), missing='daemonsets.apps "agent" not found', force=True)

    assert (refused.outcome, forced.outcome) == (Outcome.REFUSE, Outcome.EVICT)
    assert 'daemonsets.apps "agent" not found' in refused.reasons[0].text
    assert refused.reasons[0].flag == "--force"


def test_an_orphan_with_local_data_is_refused_for_both_reasons():
    found = verdict(pod(controller=AGENT, empty_dir=True), missing="not found")

    assert [r.flag for r in found.reasons] == ["--force", "--delete-emptydir-data"]


@pytest.mark.parametrize(
    ("skip_s", "overdue_s", "outcome"),
    [(20, 21.5, Outcome.LEAVE), (20, 20.9, Outcome.EVICT), (20, 1, Outcome.EVICT), (0, 500, Outcome.EVICT)],
)
def test_a_pod_that_should_have_been_gone_is_skipped_after_whole_seconds(skip_s, overdue_s, outcome):
    leaving = pod(deleting_since=NOW - 30 - overdue_s, deletion_grace_s=30.0)

    found = verdict(leaving, skip_wait_for_delete_timeout_s=skip_s)

    assert found.outcome is outcome
    assert found.reasons == ((LEAVING,) if outcome is Outcome.LEAVE else ())


def test_a_pod_under_two_budgets_is_refused_before_the_api_refuses_it():
    both = (budget("a", app="web"), budget("b"))
    covered = pod(labels={"app": "web"})

    assert verdict(covered, budgets=both).outcome is Outcome.REFUSE
    assert "a, b" in verdict(covered, budgets=both).reasons[0].text
    assert verdict(covered, budgets=both[:1]).outcome is Outcome.EVICT
    assert verdict(covered, budgets=both, disable_eviction=True).outcome is Outcome.EVICT
    assert verdict(pod(labels={"app": "web"}, phase="Pending"), budgets=both).outcome is Outcome.EVICT


def test_daemon_sets_are_asked_about_once_each_and_not_for_finished_pods():
    pods = [pod(controller=AGENT), pod(controller=AGENT), pod(controller=AGENT, phase="Failed"), pod()]

    assert daemon_sets(pods) == (("default", "agent"),)
    assert daemon_sets(pods[2:]) == ()
