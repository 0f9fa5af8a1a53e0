"""The plan of a backup, step by step."""

import pytest

from orchestrator.planners import nodes
from orchestrator.planners.backup import KIND, Request, backup

RECIPIENTS = ("age1abc", "age1def")
NAME = "backup-20270115-0200"


def steps(**changes):
    wish = {"name": NAME, "node": "cp-2", "destinations": ("s3://b/prod", "/srv"), "recipients": RECIPIENTS}
    return list(backup(Request(**(wish | changes))).steps())


def actions(**changes):
    return [step.action for step in steps(**changes)]


def params(action, **changes):
    [step] = [step for step in steps(**changes) if step.action == action]
    return step.params


def test_the_whole_of_a_backup_in_its_order():
    """Proven before it is stored, stored everywhere before anything is removed, cleared away at the end."""
    assert actions(keep="daily=7") == [
        "etcd.snapshot", "etcd.recovery", "etcd.store", "etcd.retain", "etcd.unstage", "host.tidy", "etcd.complete",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "missing"), [({"keep": ""}, "etcd.retain"), ({"recovery": False}, "etcd.recovery")]
)
def test_what_is_not_asked_for_is_left_out(changes, missing):
    assert missing in actions(keep="daily=7")
    assert missing not in actions(**({"keep": "daily=7"} | changes))


def test_what_runs_that_failed_left_goes_first():
    found = steps(superseded=("backup-1", "backup-2"))

    assert [step.action for step in found][:2] == ["etcd.supersede", "etcd.snapshot"]
    assert found[0].params == {"plans": ["backup-1", "backup-2"]}
    assert "etcd.supersede" not in actions()


def test_every_step_is_on_the_host_of_the_member_with_an_id_of_its_own():
    found = steps(keep="daily=7")

    assert {step.node for step in found} == {"cp-2"}
    assert [step.id for step in found] == [f"0/cp-2/{step.action}" for step in found]


def test_it_is_one_lane_that_names_the_member():
    plan = backup(Request(NAME, "cp-2", ("/srv",)))

    assert (plan.kind, plan.title, plan.nodes()) == (KIND, "back up etcd of cp-2", ("cp-2",))
    assert [len(wave.lanes) for wave in plan.waves] == [1]


def test_the_snapshot_is_made_under_the_plan_s_name_and_says_why():
    found = params("etcd.snapshot", reason="scheduled")

    assert found == {"plan": NAME, "file": f"staging/{NAME}.db", "reason": "scheduled"}


def test_while_the_api_takes_no_writes_its_steps_wait_for_none_and_one_host_has_the_lock():
    for action in ("etcd.snapshot", "etcd.recovery"):
        found = params(action, lock="cp-1")
        assert (found["without_api"], found["lock"]) == (True, "cp-1")


def test_keys_are_collected_for_the_recipients_only():
    assert params("etcd.recovery") == {
        "plan": NAME, "file": f"staging/{NAME}.recovery.tar", "recipients": ["age1abc", "age1def"],
        "snapshot": f"staging/{NAME}.db",
    }  # fmt: skip


def test_destinations_are_written_in_their_order_with_all_that_was_wished():
    assert params("etcd.store", level=None, pin="before the migration") == {
        "plan": NAME,
        "file": f"staging/{NAME}.db",
        "recovery": f"staging/{NAME}.recovery.tar",
        "destinations": ["s3://b/prod", "/srv"],
        "recipients": ["age1abc", "age1def"],
        "level": None,
        "pin": "before the migration",
    }


def test_without_what_new_machines_need_the_store_is_told_of_none():
    assert params("etcd.store", recovery=False)["recovery"] == ""


def test_what_goes_is_judged_by_the_policy_where_the_snapshot_was_stored():
    assert params("etcd.retain", keep="daily=7", unfinished=("upgrade-1",)) == {
        "file": f"staging/{NAME}.db",
        "destinations": ["s3://b/prod", "/srv"],
        "keep": "daily=7",
        "unfinished": ["upgrade-1"],
        "recovery": f"staging/{NAME}.recovery.tar",
    }


def test_every_step_has_an_end():
    assert all(step.timeout_s for step in steps(keep="daily=7"))


def test_a_plan_is_made_of_values_that_a_journal_keeps():
    values = [value for step in steps(keep="daily=7") for value in step.params.values()]

    assert {type(value) for value in values} <= {str, int, list, type(None)}


def test_a_backup_that_is_given_up_is_cleared_away_here_and_on_its_host():
    plan = backup(Request("backup-1", "cp-2", ("/backups",)))
    begun = {next(iter(plan.steps())).id: {}}

    released = nodes.release("run-1", plan, begun)

    assert [(s.node, s.action, s.params["plan"]) for s in released.steps()] == [
        ("cp-2", "etcd.unstage", "backup-1"),
        ("cp-2", "host.tidy", "backup-1"),
    ]
    assert nodes.released_run(released) == "run-1"
    assert nodes.release("run-1", plan, {}).waves == ()


def test_one_that_is_given_up_has_its_lock_where_the_run_had_it():
    plan = backup(Request("backup-1", "cp-2", ("/backups",), lock="cp-1"))

    released = nodes.release("run-1", plan, {next(iter(plan.steps())).id: {}})

    assert [(s.params["without_api"], s.params["lock"]) for s in released.steps()] == [(True, "cp-1")] * 2
