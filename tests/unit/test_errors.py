"""The errors that are raised on purpose."""

import pickle
import re
from collections import defaultdict
from pathlib import Path

import pytest

from orchestrator import errors
from orchestrator.errors import ApiConflict, ApiError, BadUsage, OrchestratorError, Refused


def below(kind):
    return [kind, *(each for child in kind.__subclasses__() for each in below(child))]


RAISED = below(OrchestratorError)[1:]
#: Failures that a script need not tell apart.
ALIKE = (
    set(below(ApiError)),
    set(below(errors.HostError)),
    set(below(errors.BackupError)),
    {errors.Locked, errors.LeaseLost},
)


@pytest.mark.parametrize("kind", RAISED)
def test_an_error_survives_a_trip_between_processes(kind):
    known = kind("what failed", remedy="do this")
    known.run = "run-7"
    known.add_note("wave 2")

    again = pickle.loads(pickle.dumps(known))

    assert type(again) is kind
    assert (str(again), again.remedy, again.run, again.__notes__) == ("what failed", "do this", "run-7", ["wave 2"])


def test_what_the_api_answered_survives_it_too():
    known = ApiConflict("changed", remedy="again", status=409, reason="Conflict", retry_after_s=2.0)

    again = pickle.loads(pickle.dumps(known))

    assert (again.status, again.reason, again.retry_after_s) == (409, "Conflict", 2.0)


def test_no_error_can_be_raised_without_saying_what_to_do():
    with pytest.raises(TypeError, match="remedy"):
        Refused("no")


def test_codes_are_shared_only_where_a_script_need_not_tell_the_failures_apart():
    by_code = defaultdict(set)
    for kind in RAISED:
        by_code[kind.exit_code].add(kind)

    shared = [kinds for kinds in by_code.values() if len(kinds) > 1]

    assert all(kinds in ALIKE for kinds in shared)


def test_every_code_is_explained_to_operators():
    page = (Path(__file__).parents[2] / "docs/exit-codes.md").read_text()

    assert {kind.exit_code for kind in RAISED} <= {
        int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)
    }


def test_no_failure_ends_as_success_or_as_a_bug():
    assert {0, 1}.isdisjoint(kind.exit_code for kind in RAISED)


def test_only_failures_of_api_and_network_are_tried_again_and_refusals_never_are():
    retryable = {kind for kind in RAISED if kind.retryable}

    assert retryable
    assert all(issubclass(kind, ApiError) for kind in retryable - {errors.HostUnreachable})
    assert retryable.isdisjoint({errors.ApiForbidden, errors.ApiUnauthorized, errors.ApiNotFound, ApiError, BadUsage})


def test_the_tree_at_the_top_of_the_module_is_the_tree_in_it():
    drawn = re.findall(r"^[│├└─ ]*(\w+) +(\d+) ", errors.__doc__, re.MULTILINE)

    assert {(name, int(code)) for name, code in drawn} == {
        (kind.__name__, kind.exit_code) for kind in below(OrchestratorError)
    }
