"""The retry policies: how often, how long, and what is said."""

import math

import pytest

from orchestrator.engine import retry
from orchestrator.engine.retry import API_READ, API_WRITE, LEASE_RENEW, SETTLE, Policy
from orchestrator.errors import ApiForbidden, ApiThrottled, ApiUnreachable
from tests.fakes.time import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


def failing(times, answer="yes", **how):
    """Work that fails so often; counts its attempts."""

    def work():
        work.tries += 1
        if work.tries <= times:
            raise ApiUnreachable("no answer", remedy="wait", **how)
        return answer

    work.tries = 0
    return work


def test_what_succeeds_at_once_is_tried_once_and_waits_for_nothing(clock):
    work = failing(0)

    assert retry.call(API_READ, work, clock=clock) == "yes"
    assert (work.tries, clock.slept) == (1, [])


def test_what_fails_for_a_while_succeeds_in_the_end(clock):
    work = failing(3)

    assert retry.call(API_READ, work, clock=clock) == "yes"
    assert work.tries == 4


def test_pauses_grow_to_their_longest_and_are_never_less_than_half(clock):
    retry.call(API_READ, failing(8), clock=clock)

    full = [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert len(clock.slept) == len(full)
    assert all(most / 2 <= pause <= most for pause, most in zip(clock.slept, full, strict=True))


@pytest.mark.parametrize("policy", [API_READ, API_WRITE, LEASE_RENEW], ids=lambda p: p.name)
def test_a_policy_gives_up_when_its_time_is_up_and_not_much_before(clock, policy):
    with pytest.raises(ApiUnreachable):
        retry.call(policy, failing(math.inf), clock=clock)

    assert policy.give_up_s - policy.most_s <= clock.now() < policy.give_up_s


def test_giving_up_says_how_often_and_how_long_it_was_tried(clock):
    work = failing(math.inf)

    with pytest.raises(ApiUnreachable) as raised:
        retry.call(API_READ, work, clock=clock)

    assert raised.value.__notes__ == [f"tried {work.tries} times in {clock.now():.0f} s"]
    assert 15 <= work.tries <= 30


def test_an_error_that_stays_is_not_tried_again_and_has_no_note(clock):
    def work():
        raise ApiForbidden("no", remedy="ask")

    with pytest.raises(ApiForbidden) as raised:
        retry.call(API_READ, work, clock=clock)

    assert clock.slept == []
    assert not hasattr(raised.value, "__notes__")


def test_a_bug_is_not_tried_again(clock):
    def work():
        raise KeyError("x")

    with pytest.raises(KeyError):
        retry.call(API_READ, work, clock=clock)

    assert clock.slept == []


def test_an_error_that_stays_after_some_that_passed_says_how_often_it_was_tried(clock):
    errors = [ApiUnreachable("no answer", remedy="wait"), ApiForbidden("no", remedy="ask")]

    def work():
        raise errors.pop(0)

    with pytest.raises(ApiForbidden) as raised:
        retry.call(API_READ, work, clock=clock)

    assert raised.value.__notes__ == ["tried 2 times in 0 s"]


def test_no_attempt_is_made_that_could_only_come_after_the_deadline(clock):
    clock.sleep(100)

    with pytest.raises(ApiUnreachable):
        retry.call(API_READ, failing(math.inf), clock=clock, deadline=110)

    assert 104 < clock.now() < 110


def test_a_deadline_that_has_passed_leaves_one_attempt(clock):
    clock.sleep(100)
    work = failing(math.inf)

    with pytest.raises(ApiUnreachable):
        retry.call(API_READ, work, clock=clock, deadline=50)

    assert (work.tries, clock.now()) == (1, 100)


@pytest.mark.parametrize("asked", [0.0, 1.0, 10.0])
def test_a_pause_that_the_server_asked_for_is_kept_and_hardly_exceeded(clock, asked):
    def work():
        if not clock.slept:
            raise ApiThrottled("busy", remedy="wait", retry_after_s=asked)

    retry.call(API_READ, work, clock=clock)

    assert asked <= clock.slept[0] <= asked * 1.1


def test_a_pause_that_the_server_asked_for_and_that_ends_after_the_deadline_is_not_begun(clock):
    with pytest.raises(ApiUnreachable):
        retry.call(API_READ, failing(math.inf, retry_after_s=30.0), clock=clock, deadline=20)

    assert clock.slept == []


def test_every_error_that_is_followed_by_an_attempt_is_told_with_its_pause(clock):
    told = []

    retry.call(API_READ, failing(2), clock=clock, scheduled=lambda err, pause: told.append((str(err), pause)))

    assert told == [("no answer", pause) for pause in clock.slept]
    assert len(told) == 2


def test_the_error_that_is_raised_is_not_told_as_well(clock):
    told = []

    with pytest.raises(ApiUnreachable):
        retry.call(API_READ, failing(math.inf), clock=clock, deadline=0.01, scheduled=lambda *what: told.append(what))

    assert told == []


def test_an_answer_that_is_not_good_is_asked_for_again(clock):
    answers = iter(range(10))

    found = retry.until(SETTLE, lambda: next(answers), lambda answer: answer == 4, clock=clock)

    assert (found, len(clock.slept)) == (4, 4)


def test_when_time_is_up_the_last_answer_is_given_good_or_not(clock):
    assert retry.until(SETTLE, lambda: "not yet", lambda _: False, clock=clock, deadline=60) == "not yet"
    assert clock.now() == pytest.approx(60)


def test_errors_and_answers_that_are_not_good_may_come_in_any_order(clock):
    said = ["not yet", ApiUnreachable("no answer", remedy="wait"), "not yet", "good"]

    def work():
        item = said.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    assert retry.until(SETTLE, work, lambda answer: answer == "good", clock=clock) == "good"


def test_waiting_for_hours_is_possible(clock):
    end = 2 * 3600.0

    assert retry.until(SETTLE, clock.now, lambda now: now >= end, clock=clock) >= end


def test_a_policy_without_growth_keeps_its_pause(clock):
    steady = Policy("steady", 2, 1, 5, 60)

    retry.call(steady, failing(5), clock=clock)

    assert all(1 <= pause <= 2 for pause in clock.slept)


def test_clients_that_failed_together_part(clock):
    retry.call(API_READ, failing(1), clock=clock)
    pauses = set(clock.slept)
    for _ in range(20):
        retry.call(API_READ, failing(1), clock=clock)
        pauses.add(clock.slept[-1])

    assert len(pauses) > 10
