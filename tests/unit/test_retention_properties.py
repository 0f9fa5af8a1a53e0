"""What holds of retention for any records, any policy, and clocks that jump."""

from datetime import UTC, datetime

from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.backup.records import Drill, Part, Record
from orchestrator.backup.retention import Judged, Policy, judge, parse, stored_bytes

HOUR = 3600.0
DAY = 86400.0
START = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
NOW = START + 30 * DAY


def record(name, at, **changes):
    fields = {
        "name": name,
        "at": at,
        "reason": "scheduled",
        "cluster": "prod",
        "cluster_id": "c1",
        "authority": "a1",
        "node": "cp-1",
        "etcd": "3.6.5",
        "kubernetes": "v1.34.2",
        "revision": 1,
        "keys": 10,
        "size_bytes": 100,
        "sha256": "00",
        "data": Part(file=f"{name}.db", size_bytes=changes.pop("stored", 100), sha256="00"),
        "members": (),
    }
    return Record(**(fields | changes))


@st.composite
def records(draw):
    """Few distinct times, so that instants are shared; some of them ahead of the clock."""
    times = st.one_of(
        st.integers(-72, 10).map(lambda n: NOW + n * HOUR / 2),
        st.integers(0, 800).map(lambda n: NOW - n * DAY),
        st.sampled_from([0.0, -1e300, NOW, 1e300]),
    )
    return [
        record(
            f"s{n}", draw(times),
            revision=draw(st.integers(1, 9)),
            cluster=draw(st.sampled_from(["prod", "prod", "prod", "stage"])),
            authority=draw(st.sampled_from(["a1", "a1", "a1", "a2"])),
            cluster_id=draw(st.sampled_from(["c1", "c2"])),
            pin=draw(st.sampled_from(["", "", "", "audit"])),
            reason=draw(st.sampled_from(["scheduled", "pre-upgrade", "pre-restore"])),
            run=draw(st.sampled_from(["", "r1", "r2"])),
            drill=draw(st.sampled_from([None, None, None, False, True]).map(
                lambda ok: None if ok is None else Drill(at=NOW, ok=ok, where="cp-1", text="")
            )),
            stored=draw(st.integers(0, 300)),
        )
        for n in range(draw(st.integers(0, 15)))
    ]  # fmt: skip


COUNTS = st.sampled_from([0, 0, 1, 2, 5])
POLICIES = st.builds(
    Policy,
    last=COUNTS,
    hourly=COUNTS,
    daily=COUNTS,
    weekly=COUNTS,
    monthly=COUNTS,
    yearly=COUNTS,
    minimum=st.integers(0, 4),
    max_age_s=st.sampled_from([None, HOUR, 3 * DAY, 400 * DAY]),
    max_total_bytes=st.sampled_from([None, 0, 250, 1000]),
)
#: Mostly all but a few, sometimes few or none.
GOOD = st.tuples(st.sets(st.integers(0, 14), max_size=5), st.sampled_from([True, True, True, False])).map(
    lambda drawn: {f"s{n}" for n in range(15) if (n in drawn[0]) is not drawn[1]}
)
UNFINISHED = {"r1"}


def verdicts(subjects, policy, good, now=NOW):
    return judge(subjects, policy, now, unfinished=UNFINISHED, good=good)


def kept(subjects, policy, good, now=NOW):
    return [each.record for each in verdicts(subjects, policy, good, now) if each.keep]


def sound(subjects, good):
    return [r for r in subjects if r.name in good and (r.drill is None or r.drill.ok)]


def clusters(subjects):
    groups = {}
    for each in subjects:
        groups.setdefault((each.cluster, each.authority), []).append(each)
    return groups.values()


def protected(subject):
    return subject.pin or (subject.reason != "scheduled" and subject.run in UNFINISHED) or subject.at > NOW


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD)
def test_every_record_has_one_verdict_with_a_reason_and_newest_come_first(subjects, policy, good):
    judged = verdicts(subjects, policy, good)

    assert sorted(each.record.name for each in judged) == sorted(r.name for r in subjects)
    assert [each.record.at for each in judged] == sorted((r.at for r in subjects), reverse=True)
    assert all(each.rules and all(each.rules) for each in judged)
    assert all(len(each.rules) == 1 for each in judged if not each.keep)


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD)
def test_the_last_good_one_of_each_cluster_stays(subjects, policy, good):
    stays = kept(subjects, policy, good)

    for group in clusters(subjects):
        due = [r for r in sound(group, good) if r.at <= NOW]
        if due:
            assert max(due, key=lambda r: (r.at, r.revision, r.name)) in stays
        else:
            assert all(r in stays for r in group)


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD)
def test_pinned_ones_those_of_unfinished_runs_and_those_ahead_of_the_clock_stay(subjects, policy, good):
    stays = kept(subjects, policy, good)

    assert [r for r in subjects if protected(r) and r not in stays] == []


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD)
def test_no_fewer_good_ones_than_the_minimum_remain(subjects, policy, good):
    stays = kept(subjects, policy, good)

    for group in clusters(subjects):
        due = [r for r in sound(group, good) if r.at <= NOW]
        assert sum(r in stays for r in due) >= min(policy.minimum, len(due))


@settings(max_examples=150, deadline=None)
@given(records(), POLICIES, GOOD)
def test_what_stayed_stays_when_it_is_judged_again(subjects, policy, good):
    stays = kept(subjects, policy, good)

    again = kept(stays, policy, good)

    assert again == stays


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD, st.floats(0, 100 * DAY))
def test_a_newer_one_makes_no_older_pinned_one_go(subjects, policy, good, later_s):
    now = NOW + later_s
    newer = record("newer", now, revision=10, stored=10**6)

    stays = kept([newer, *subjects], policy, good | {"newer"}, now)

    assert [r for r in subjects if r.pin and r not in stays] == []
    assert newer in stays


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD, st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(subjects, policy, good, random):
    shuffled = random.sample(subjects, len(subjects))

    assert verdicts(shuffled, policy, good) == verdicts(subjects, policy, good)


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD)
def test_names_and_a_question_are_two_ways_to_say_what_is_good(subjects, policy, good):
    assert verdicts(subjects, policy, lambda r: r.name in good) == verdicts(subjects, policy, good)


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD)
def test_clusters_do_not_matter_to_each_other(subjects, policy, good):
    apart = [each for group in clusters(subjects) for each in verdicts(group, policy, good)]

    together = verdicts(subjects, policy, good)

    assert {each.record.name: each for each in apart} == {each.record.name: each for each in together}


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD)
def test_limits_hold_but_for_what_is_protected_and_the_minimum(subjects, policy, good):
    judged = verdicts(subjects, policy, good)

    for group in clusters(subjects):
        due = [each for each in judged if each.keep and each.record in group and each.record.at <= NOW]
        over = policy.max_total_bytes is not None and sum(stored_bytes(e.record) for e in due) > policy.max_total_bytes
        for each in due:
            old = policy.max_age_s is not None and NOW - each.record.at > policy.max_age_s
            assert not (old or over) or spoken_for(each, policy)


def spoken_for(each: Judged, policy):
    return protected(each.record) or any(
        words.startswith(("the last good one", "its cluster has no good one")) or words == f"minimum {policy.minimum}"
        for words in each.rules
    )


@settings(max_examples=60, deadline=None)
@given(records(), POLICIES, GOOD)
def test_without_limits_each_rule_keeps_as_many_good_periods_as_there_are(subjects, policy, good):
    policy = Policy(last=policy.last, daily=policy.daily, monthly=policy.monthly)
    stays = kept(subjects, policy, good)

    for group in clusters(subjects):
        assert_satisfied([r for r in sound(group, good) if r.at <= NOW], stays, policy)


def assert_satisfied(due, stays, policy):
    """Of the newest so many periods that have a record, the newest record is there."""
    newest_first = sorted(due, key=lambda r: (r.at, r.revision, r.name), reverse=True)
    assert all(r in stays for r in newest_first[: policy.last])
    for count, length in ((policy.daily, 10), (policy.monthly, 7)):
        seen = {}
        for each in newest_first:
            seen.setdefault(datetime.fromtimestamp(max(each.at, 0), UTC).isoformat()[:length], each)
        assert all(r in stays for r in list(seen.values())[:count])


@given(POLICIES.filter(lambda policy: policy.max_total_bytes != 0))
def test_a_setting_that_was_written_reads_as_the_same_policy(policy):
    written = str(policy)

    assert parse(written) == policy


# ---- a month --------------------------------------------------------------------------------------------------


class Month:
    """A snapshot an hour, and a prune at the end of a day, by a clock that somebody sets."""

    def __init__(self, policy):
        self.policy = policy
        self.clock = START
        self.there = []
        self.taken = []
        self.bad = set()

    def hour(self, number, *, good):
        self.clock += HOUR
        new = record(f"h{number:04}", self.clock, revision=100 + number)
        self.there.append(new)
        self.taken.append(new)
        if not good:
            self.bad.add(new.name)

    def prune(self):
        good = {r.name for r in self.there} - self.bad
        before = self.there
        self.there = [e.record for e in judge(before, self.policy, self.clock, good=good) if e.keep]
        return before


JUMPS = st.dictionaries(
    st.integers(1, 719),
    st.one_of(st.integers(-60 * 24, 60 * 24), st.sampled_from([-500 * 24, 500 * 24, -1, 1])),
    max_size=4,
)


@settings(max_examples=20, deadline=None)
@given(JUMPS, st.sets(st.integers(1, 720), max_size=60))
@example({43: -10}, set(range(44, 73)))  # the last good one is dated before others that are older
@example({100: 500 * 24, 124: -500 * 24}, set())
@example({100: -500 * 24}, set(range(101, 200)))
def test_in_a_month_of_snapshots_nothing_good_and_newest_is_lost_however_the_clock_is_set(jumps, failed):
    month = Month(Policy(last=3, hourly=6, daily=7, monthly=2, minimum=2, max_age_s=40 * DAY, max_total_bytes=2500))

    for number in range(1, 721):
        month.clock += jumps.get(number, 0) * HOUR
        month.hour(number, good=number not in failed)
        if number % 24 and number not in jumps:
            continue
        before = month.prune()

        good = [r for r in month.there if r.name not in month.bad]
        there_before = [r for r in before if r.name not in month.bad]
        newest = next((r for r in reversed(month.taken) if r.name not in month.bad), None)
        assert newest is None or newest in month.there
        assert len(good) >= min(2, len(there_before))
        assert all(r in month.there for r in before if r.at > month.clock)


def test_in_a_month_by_a_steady_clock_all_rules_are_met_each_day_and_the_rest_goes():
    policy = Policy(last=3, daily=7, monthly=2, hourly=24, minimum=2)
    month = Month(policy)

    for number in range(1, 721):
        month.hour(number, good=True)
        if number % 24 == 0:
            month.prune()
            assert_satisfied(month.taken, month.there, policy)

    # The last hour of each day that is not among the newest hours, and those; the last day has one hour only.
    assert [r.name for r in month.there[24:]] == ["h0695", "h0671", "h0647", "h0623", "h0599"]
