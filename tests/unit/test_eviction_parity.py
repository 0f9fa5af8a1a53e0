"""The verdict on any pod under any flags, against kubectl's chain of filters written down a second time."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.eviction import Outcome, Rules, judge
from orchestrator.cluster.model import OwnerRef, Pod

NOW = 1_000_000.0
OWNERS = (
    None,
    OwnerRef("ReplicaSet", "web", "apps/v1"),
    OwnerRef("DaemonSet", "agent", "apps/v1"),
    OwnerRef("DaemonSet", "agent", "apps.example.org/v1"),
    OwnerRef("Node", "n1", "v1"),
)
PODS = st.builds(
    Pod,
    namespace=st.just("default"),
    name=st.just("p"),
    uid=st.just("u"),
    node=st.just("n1"),
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    ready=st.booleans(),
    controller=st.sampled_from(OWNERS),
    deleting_since=st.sampled_from([None, NOW - 10, NOW - 100]),
    deletion_grace_s=st.sampled_from([0.0, 30.0]),
    mirror=st.booleans(),
    empty_dir=st.booleans(),
)
RULES = st.builds(
    Rules,
    force=st.booleans(),
    ignore_daemonsets=st.booleans(),
    delete_emptydir_data=st.booleans(),
    skip_wait_for_delete_timeout_s=st.sampled_from([0, 20]),
    disable_eviction=st.booleans(),
)
MISSING = st.sampled_from(["", 'daemonsets.apps "agent" not found'])


def kubectl(pod, rules, missing):
    """Source: k8s.io/kubectl 1.37 `pkg/drain/filters.go`, filter by filter."""
    ended = pod.phase in ("Succeeded", "Failed")
    skip_s = rules.skip_wait_for_delete_timeout_s
    if skip_s > 0 and pod.deleting_since is not None:
        timestamp = pod.deleting_since + pod.deletion_grace_s
        if int(NOW - timestamp) > skip_s:
            return Outcome.LEAVE
    owner = pod.controller
    if owner and (owner.kind, owner.api_version) == ("DaemonSet", "apps/v1") and not ended:
        if not missing:
            return Outcome.LEAVE if rules.ignore_daemonsets else Outcome.REFUSE
        if not rules.force:
            return Outcome.REFUSE
    if pod.mirror:
        return Outcome.LEAVE
    local = pod.empty_dir and not ended and not rules.delete_emptydir_data
    alone = owner is None and not ended and not rules.force
    return Outcome.REFUSE if local or alone else Outcome.EVICT


@given(PODS, RULES, MISSING)
def test_every_pod_gets_kubectls_outcome(pod, rules, missing):
    found = judge(pod, rules, missing={("default", "agent"): missing}, budgets=(), now=NOW)

    assert found.outcome is kubectl(pod, rules, missing)


@given(PODS, RULES, MISSING)
def test_a_refusal_has_a_reason_and_the_flags_that_it_names_lift_it(pod, rules, missing):
    found = judge(pod, rules, missing={("default", "agent"): missing}, budgets=(), now=NOW)
    named = {r.flag.removeprefix("--").replace("-", "_"): True for r in found.reasons if r.flag}
    lifted = Rules(**{**{f: getattr(rules, f) for f in Rules.__slots__}, **named})

    again = judge(pod, lifted, missing={("default", "agent"): missing}, budgets=(), now=NOW)

    assert (found.outcome is Outcome.REFUSE) is bool(named)
    assert again.outcome is not Outcome.REFUSE
