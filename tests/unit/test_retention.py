"""Which snapshots stay, and the words that say why."""

from datetime import UTC, datetime

import pytest

from orchestrator.backup import retention
from orchestrator.backup.records import Drill, Part, Record, named
from orchestrator.backup.retention import DEFAULT, Policy
from orchestrator.errors import BadUsage

HOUR = 3600.0
DAY = 86400.0


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOW = at("2026-11-24T12:00")


def taken(when, revision=None, size_bytes=1000, **changes):
    moment = at(when) if isinstance(when, str) else when
    number = int(moment) if revision is None else revision
    name = named(changes.get("cluster", "prod"), moment, number)
    fields = {
        "name": name,
        "at": moment,
        "reason": "scheduled",
        "cluster": "prod",
        "cluster_id": "c1",
        "authority": "a1",
        "node": "cp-1",
        "etcd": "3.6.5",
        "kubernetes": "v1.34.2",
        "revision": number,
        "keys": 10,
        "size_bytes": 5000,
        "sha256": "00",
        "data": Part(file=f"{name}.db", size_bytes=size_bytes, sha256="00"),
        "members": (),
    }
    return Record(**(fields | changes))


def judged(records, policy, now=NOW, good=lambda _: True, unfinished=()):
    return retention.judge(records, policy, now, good=good, unfinished=unfinished)


def kept(records, policy, **how):
    return [each.record for each in judged(records, policy, **how) if each.keep]


def rules(records, policy, **how):
    """For each record in the order given, what is said of it."""
    said = {each.record.name: each.rules for each in judged(records, policy, **how)}
    return [said[r.name] for r in records]


def hourly(count, end=NOW):
    """Newest first."""
    return [taken(end - n * HOUR) for n in range(count)]


# ---- rules that count -----------------------------------------------------------------------------------------


def test_the_last_ones_stay_and_the_rest_goes_for_want_of_a_rule():
    records = hourly(4)

    verdicts = judged(records[::-1], Policy(last=2))

    assert [each.record for each in verdicts] == records
    assert [each.keep for each in verdicts] == [True, True, False, False]
    assert [each.rules[-1] for each in verdicts] == ["last 1 of 2", "last 2 of 2"] + ["no rule keeps it"] * 2


def test_of_each_period_the_newest_stays():
    records = [taken(f"2026-11-{day}T{hour}") for day in (24, 23, 22) for hour in ("11:00", "10:59", "00:00")]

    stays = kept(records, Policy(daily=2))

    assert stays == [taken("2026-11-24T11:00"), taken("2026-11-23T11:00")]


def test_periods_without_a_snapshot_are_not_counted():
    records = [taken("2026-11-24T01:00"), taken("2026-11-03T01:00"), taken("2026-09-01T01:00"), taken("2025-01-01")]

    stays = kept(records, Policy(daily=3))

    assert stays == records[:3]


@pytest.mark.parametrize(
    ("word", "older", "newer", "label"),
    [
        ("hourly", "2026-11-24T08:59:59", "2026-11-24T09:00:00", "2026-11-24 08:00"),
        ("daily", "2026-11-22T23:59:59", "2026-11-23T00:00:00", "2026-11-22"),
        ("weekly", "2026-11-22T23:59:59", "2026-11-23T00:00:00", "2026-W47"),
        ("weekly", "2025-12-28T23:59:59", "2025-12-29T00:00:00", "2025-W52"),
        ("monthly", "2026-02-28T23:59:59", "2026-03-01T00:00:00", "2026-02"),
        ("yearly", "2025-12-31T23:59:59", "2026-01-01T00:00:00", "2025"),
    ],
)
def test_a_period_ends_where_the_calendar_in_utc_says(word, older, newer, label):
    records = [taken(newer), taken(older)]

    said = rules(records, Policy(**{word: 2}))

    assert f"{word} 1 of 2: " in said[0][1]
    assert said[1] == (f"{word} 2 of 2: {label}",)


def test_a_week_that_spans_two_years_is_one_week():
    records = [taken("2026-01-02T00:00"), taken("2025-12-30T00:00")]

    assert kept(records, Policy(weekly=5)) == records[:1]
    assert kept(records, Policy(yearly=5)) == records


def test_one_snapshot_may_serve_several_rules_and_all_are_told():
    records = hourly(3)

    said = rules(records, Policy(last=1, hourly=2, daily=7, weekly=4, monthly=12, yearly=3))

    assert said[0] == (
        "the last good one",
        "last 1 of 1",
        "hourly 1 of 2: 2026-11-24 12:00",
        "daily 1 of 7: 2026-11-24",
        "weekly 1 of 4: 2026-W48",
        "monthly 1 of 12: 2026-11",
        "yearly 1 of 3: 2026",
    )
    assert said[1:] == [("hourly 2 of 2: 2026-11-24 11:00",), ("no rule keeps it",)]


def test_of_two_of_one_instant_the_one_with_the_higher_revision_is_newer():
    records = [taken(NOW, revision=9), taken(NOW, revision=10)]

    stays = kept(records, Policy(last=1, hourly=1))

    assert stays == records[1:]


def test_without_a_rule_that_counts_all_stay_until_a_limit():
    records = hourly(30)

    assert kept(records, Policy()) == records
    assert kept(records, Policy(max_age_s=5 * HOUR)) == records[:6]
    assert rules(records, Policy(max_age_s=5 * HOUR))[1] == ("no rule counts: all stay",)


def test_times_that_no_calendar_has_are_judged_like_others():
    records = [taken(NOW), taken(NOW - DAY, at=-1e300), taken(NOW + DAY, at=1e300)]

    said = rules(records, Policy(daily=2))

    assert said[1:] == [("daily 2 of 2: 1970-01-01",), ("its time is 2.78e+296 h ahead: a clock was wrong",)]


# ---- what stays whatever the rules say ------------------------------------------------------------------------


def test_a_pinned_one_stays_whatever_its_age_and_size():
    pinned = taken("2020-01-01", size_bytes=10**12, pin="before the migration")

    said = rules([*hourly(2), pinned], Policy(last=1, max_age_s=DAY, max_total_bytes=1))

    assert said[2] == ("pinned: before the migration",)


@pytest.mark.parametrize("reason", ["pre-upgrade", "pre-restore", "pre-replace"])
def test_one_taken_before_a_run_stays_until_the_run_has_ended_well(reason):
    run = "upgrade-20261124-101500-ab12"
    records = [taken(NOW), taken(NOW - 9 * DAY, reason=reason, run=run)]
    policy = Policy(last=1, max_age_s=DAY, max_total_bytes=1)

    assert rules(records, policy, unfinished={run})[1] == (f"{reason}: run {run} has not ended well",)
    assert kept(records, policy, unfinished={"another"}) == records[:1]


def test_a_scheduled_one_of_an_unfinished_run_goes_as_usual():
    records = [taken(NOW), taken(NOW - HOUR, run="backup-1")]

    assert kept(records, Policy(last=1), unfinished={"backup-1"}) == records[:1]


def test_the_last_good_one_stays_when_all_that_is_newer_is_not_good():
    records = hourly(5)
    policy = Policy(last=2, max_age_s=HOUR, max_total_bytes=1)

    said = rules(records, policy, good={records[3].name, records[4].name})

    assert said[3] == ("the last good one", "last 1 of 2")
    assert said[4] == ("older than 1 h",)


def test_of_a_cluster_without_a_good_one_nothing_goes():
    records = hourly(5)

    said = rules(records, Policy(last=1, max_age_s=1.0, max_total_bytes=1), good=())

    assert said[4] == ("its cluster has no good one: none goes",)
    assert kept(records, Policy(last=1, max_age_s=1.0, max_total_bytes=1), good=()) == records


def test_a_minimum_is_filled_up_with_the_newest_good_ones():
    records = hourly(6)

    said = rules(records, Policy(last=2, minimum=3), good={r.name for r in records[:1] + records[3:]})

    assert said[1:3] == [("last 2 of 2",), ("no rule keeps it",)]
    assert said[3:] == [("last 2 of 2",), ("minimum 3",), ("no rule keeps it",)]


def test_what_other_rules_keep_counts_for_the_minimum():
    records = [*hourly(2), taken("2026-01-01", pin="new year")]

    assert kept(records, Policy(last=1, minimum=2)) == [records[0], records[2]]


# ---- limits ---------------------------------------------------------------------------------------------------


def test_what_is_too_old_goes_though_a_rule_keeps_it():
    records = [taken(NOW - n * 100 * DAY) for n in range(6)]

    said = rules(records, Policy(monthly=12, max_age_s=400 * DAY))

    assert said[4] == ("monthly 5 of 12: 2025-10",)
    assert said[5] == ("older than 400 d",)


def test_the_oldest_go_until_what_is_stored_fits():
    recovery = Part(file="r", size_bytes=15 * 10**9, sha256="00")
    records = [taken(NOW - n * HOUR, size_bytes=5 * 10**9, recovery=recovery) for n in range(5)]

    said = rules(records, Policy(last=7, max_total_bytes=50 * 10**9))

    assert said[1] == ("last 2 of 7",)
    assert said[2:] == [("total size over 50 GB",)] * 3


def test_limits_stop_at_the_minimum_and_say_so():
    records = hourly(5)

    said = rules(records, Policy(last=7, minimum=3, max_age_s=60.0, max_total_bytes=1))

    assert said[2] == ("last 3 of 7", "minimum 3")
    assert said[3:] == [("older than 60 s",)] * 2


def test_ones_that_are_not_good_do_not_count_for_the_minimum():
    records = hourly(4)

    said = rules(records, Policy(last=7, minimum=2, max_total_bytes=1), good={records[2].name, records[3].name})

    assert said[:2] == [("total size over 1 B",)] * 2
    assert said[2:] == [("the last good one", "last 1 of 7"), ("last 2 of 7", "minimum 2")]


def test_a_limit_is_not_asked_of_what_no_rule_keeps():
    records = hourly(2)

    assert rules(records, Policy(last=1, max_age_s=60.0))[1] == ("no rule keeps it",)


def test_a_minimum_of_none_leaves_the_last_good_one():
    records = hourly(3)

    assert kept(records, Policy(last=3, minimum=0, max_total_bytes=0)) == records[:1]


# ---- those that are not good ----------------------------------------------------------------------------------


def test_one_that_is_not_good_takes_no_good_ones_place_and_keeps_its_own():
    records = hourly(4)

    said = rules(records, Policy(last=2), good={r.name for r in records[1:]})

    assert said == [("last 1 of 2",), ("the last good one", "last 1 of 2"), ("last 2 of 2",), ("no rule keeps it",)]


def test_one_whose_drill_failed_is_not_good_whatever_is_said_of_its_files():
    failed = Drill(at=NOW, ok=False, where="cp-1", text="etcd did not start")
    passed = Drill(at=NOW, ok=True, where="cp-1", text="10 keys")
    records = [taken(NOW, drill=failed), taken(NOW - HOUR, drill=passed), taken(NOW - 2 * HOUR)]

    said = rules(records, Policy(last=1))

    assert said == [("last 1 of 1",), ("the last good one", "last 1 of 1"), ("no rule keeps it",)]


# ---- several clusters -----------------------------------------------------------------------------------------


def test_each_cluster_has_its_own_counts_limits_and_last_good_one():
    mine = hourly(3)
    other = [taken(NOW - n * DAY - 1, cluster="stage", authority="a2") for n in range(3)]
    policy = Policy(last=2, max_total_bytes=2000)

    stays = kept(mine + other, policy)

    assert stays == sorted(mine[:2] + other[:2], key=lambda r: -r.at)


def test_two_clusters_of_one_name_are_told_apart_by_their_authority():
    mine = hourly(2)
    other = [taken(r.at - 60, authority="a2") for r in mine]

    stays = kept(mine + other, Policy(last=1))

    assert stays == [mine[0], other[0]]


def test_a_restored_cluster_is_the_same_cluster_though_etcd_gave_it_another_id():
    records = [taken(NOW, cluster_id="c2"), *hourly(3, NOW - HOUR)]

    assert kept(records, Policy(last=2)) == records[:2]


# ---- clocks that jump -----------------------------------------------------------------------------------------


def test_one_from_the_future_takes_no_place_and_stays_until_its_time_has_come():
    ahead = [taken(NOW + DAY + n * HOUR, size_bytes=10**12) for n in range(9)]
    records = hourly(3)
    policy = Policy(last=2, hourly=2, max_total_bytes=2000)

    early = kept([*ahead, *records], policy)
    late = kept([*ahead, *records], Policy(last=2), now=NOW + 3 * DAY)

    assert early == ahead[::-1] + records[:2]
    assert late == ahead[:-3:-1]
    assert rules([ahead[0], *records], policy)[0] == ("its time is 24 h ahead: a clock was wrong",)


def test_a_clock_that_went_back_to_the_epoch_removes_nothing():
    records = hourly(9)

    assert kept(records, Policy(last=1, max_age_s=1.0, max_total_bytes=1), now=0.0) == records


def test_what_etcds_revision_shows_to_be_newest_stays_when_a_clock_went_back():
    before = taken("2026-11-24T11:00", revision=100)
    newest = taken("2026-11-24T10:30", revision=150)

    said = rules([before, newest], Policy(last=1))

    assert said[1] == ("the last good one by revision: a clock went back",)


def test_revisions_of_another_life_of_etcd_tell_nothing():
    before = taken("2026-11-24T10:00", revision=9000, cluster_id="c0")
    restored = taken("2026-11-24T11:00", revision=100)

    assert kept([before, restored], Policy(last=1)) == [restored]


# ---- settings -------------------------------------------------------------------------------------------------


def test_a_setting_names_all_rules():
    text = "last=7,hourly=24,daily=7,weekly=4,monthly=12,yearly=3,min=3,max-age=400d,max-size=50GB"

    policy = retention.parse(text)

    assert policy == Policy(
        last=7, hourly=24, daily=7, weekly=4, monthly=12, yearly=3, minimum=3,
        max_age_s=400 * DAY, max_total_bytes=50 * 10**9,
    )  # fmt: skip
    assert str(policy) == text


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("last=3", Policy(last=3)),
        (" last = 3 , min = 2 ", Policy(last=3, minimum=2)),
        ("last=0,daily=1", Policy(daily=1)),
        ("max-age=36h", Policy(max_age_s=36 * HOUR)),
        ("max-age=2w", Policy(max_age_s=14 * DAY)),
        ("max-age=1Y", Policy(max_age_s=365 * DAY)),
        ("max-size=50GiB", Policy(max_total_bytes=50 * 1024**3)),
        ("max-size=1500 mb", Policy(max_total_bytes=1500 * 10**6)),
        ("max-size=7B", Policy(max_total_bytes=7)),
        (str(DEFAULT), DEFAULT),
    ],
)
def test_what_a_setting_means(text, policy):
    assert retention.parse(text) == policy
    assert retention.parse(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "says", "remedy"),
    [
        ("", "is empty", "last=7"),
        ("  ", "is empty", "last=7"),
        ("last=3,", "no rule ''", "last=7"),
        ("dayly=3", "no rule 'dayly'", "did you mean daily?"),
        ("minimum=3", "no rule 'minimum'", "did you mean min?"),
        ("last", "last has no number", "last=7"),
        ("last=", "last has no number", "last=7"),
        ("last=1,last=2", "last is given twice, as 1 and 2", "leave out one"),
        ("last=-1", "last=-1 is negative", "leave last out"),
        ("last=many", "last=many is not a whole number", "last=7"),
        ("last=1.5", "last=1.5 is not a whole number", "last=7"),
        ("last=٣", "last=٣ is not a whole number", "last=7"),
        ("last=9999999999", "not a whole number of up to 9 digits", "last=7"),
        ("last=0,daily=0", "last, daily of 0 would keep nothing", "last=7"),
        ("max-age=400", "max-age=400 is not a whole number with a unit", "max-age=400d"),
        ("max-age=4m", "max-age=4m is not a whole number with a unit", "s, h, d, w, y"),
        ("max-age=-4d", "max-age=-4 is negative", "leave max-age out"),
        ("max-age=0d", "max-age=0d would leave no more than the minimum", "leave max-age out"),
        ("max-size=50G", "max-size=50G is not a whole number with a unit", "max-size=50GB"),
        ("max-size=1.5GB", "max-size=1.5GB is not a whole number with a unit", "max-size=50GB"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_with_a_remedy(text, says, remedy):
    with pytest.raises(BadUsage) as refused:
        retention.parse(text)

    assert str(refused.value).startswith("--keep")
    assert says in str(refused.value)
    assert remedy in refused.value.remedy
