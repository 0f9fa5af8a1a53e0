"""`kill -9` in the middle of drains, at random moments, and what `resume` makes of it. No fakes anywhere."""

import random
import subprocess
import time
from collections import Counter

import pytest

pytestmark = pytest.mark.api

TIMES = 20
PODS = 12
SEED = 7
#: An eviction that dies inside the server leaves its pod counted as gone for 2 minutes. Where as many are under way as
#: the budget has room for, no other pod may go meanwhile; with fewer at once, one after the other still does.
CUT_SHORT_S = 240


@pytest.fixture(scope="module")
def moments():
    """When to kill, as parts of the time that an undisturbed drain takes; the same ones every time."""
    chance = random.Random(SEED)
    return [chance.uniform(0.15, 1.05) for _ in range(TIMES)]


@pytest.mark.parametrize("parallel", ["2", pytest.param("16", marks=pytest.mark.lab_full)])
def test_a_drain_that_was_killed_is_resumed_to_its_end_wherever_it_was(
    world, orchestrator, requests, moments, parallel
):
    world.deploy("web", PODS, budget={"maxUnavailable": 3})
    drain = ("drain", "--parallel", parallel)
    whole_s = _undisturbed(world, orchestrator, drain)
    stages = Counter()

    for number, moment in enumerate(moments):
        source, target = ("n1", "n2") if number % 2 else ("n2", "n1")
        before = requests()
        run = orchestrator.start(*drain, source)
        allowed_s = moment * whole_s
        how = _killed(run, allowed_s)
        stages[how] += 1
        if how == "ended":
            whole_s = min(whole_s, allowed_s)  # it was measured when the machine had more to do
        _go_on(orchestrator, (*drain, source))

        assert world.pods(source) == []
        assert world.cordoned(source)
        assert world.lease() is None
        assert _repeated(requests()[len(before) :]) <= 1
        world.until("all pods to be ready again", lambda t=target: world.ready(t, "web") == PODS)
        world.until("the budget to know", lambda: world.healthy("web") == PODS)
        orchestrator("uncordon", source)

    assert stages["killed"] > TIMES / 2, stages


def _undisturbed(world, orchestrator, drain):
    """How long a drain takes here, in seconds; its pods end on n2."""
    began = time.monotonic()
    orchestrator(*drain, "n1")
    took_s = time.monotonic() - began
    world.until("all pods to be ready again", lambda: world.ready("n2", "web") == PODS)
    orchestrator("uncordon", "n1")
    return took_s


def _killed(run, after_s):
    """`killed`, or `ended` when it was faster."""
    try:
        run.wait(after_s)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
        return "killed"
    return "ended"


def _go_on(orchestrator, drain):
    """As an operator would: resume the run; where it died before it wrote one down, drain again."""
    unfinished = [r for r in orchestrator.json("runs")["runs"] if r["state"] not in ("finished", "released")]
    if unfinished:
        orchestrator("resume", unfinished[0]["id"], timeout_s=CUT_SHORT_S)
    else:
        orchestrator(*drain)


def _repeated(asked):
    """How many changes were accepted a second time."""
    accepted = Counter(
        uri for verb, uri, status in asked if verb in ("create", "patch") and status < 300 and "/leases" not in uri
    )
    return sum(count - 1 for count in accepted.values())
