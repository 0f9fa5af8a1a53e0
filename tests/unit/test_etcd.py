"""What etcd's members tell, out of captured answers, and whether one may be stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster import etcd
from orchestrator.cluster.etcd import Member, may_stop_one, quorum, troubles
from orchestrator.errors import FactUnreadable

FACTS = Path(__file__).parent / "facts" / "etcd"
THREE = [
    "https://198.18.0.4:2379",
    "https://198.18.0.5:2379",
    "https://198.18.0.6:2379",
]


def captured(name):
    return (FACTS / f"{name}.json").read_text()


@pytest.fixture
def members():
    return etcd.parse_members(captured("members.three"))


@pytest.fixture
def statuses():
    return etcd.parse_status(captured("status.three"))


@pytest.fixture
def health():
    return etcd.parse_health(captured("health.three"))


# ---- reading ----------------------------------------------------------------------------------------------------


def test_members_come_by_name_whatever_order_etcd_lists_them_in(members):
    restored = etcd.parse_members(captured("members.after-restore"))

    assert [m.name for m in members] == ["ha-control-plane", "ha-control-plane2", "ha-control-plane3"]
    assert [m.name for m in restored] == [m.name for m in members]
    assert {m.id for m in restored}.isdisjoint(m.id for m in members)


def test_a_member_has_its_urls_and_votes_unless_it_says_otherwise(members):
    assert members[0].client_urls == ("https://198.18.0.6:2379",)
    assert members[0].peer_urls == ("https://198.18.0.6:2380",)
    assert not any(m.learner for m in members)


def test_ids_are_read_whole(members):
    assert max(m.id for m in members) > 2**63


def test_a_member_that_was_added_and_has_not_joined_has_no_name():
    (member,) = etcd.parse_members('{"members":[{"ID":7,"peerURLs":["https://a:2380"],"isLearner":true}]}')

    assert not member.started
    assert member.learner


def test_a_status_tells_version_size_and_place_in_the_log(statuses):
    one = statuses[0]

    assert one.version == "3.6.8"
    assert one.storage_version == "3.6.0"
    assert one.db_size_bytes >= one.in_use_bytes > 0
    assert one.raft_index == one.raft_applied > 0
    assert {s.leader for s in statuses} <= {s.id for s in statuses}


def test_those_that_answer_are_read_though_one_does_not():
    found = etcd.parse_status(captured("status.one-down"))

    assert [s.endpoint for s in found] == ["https://198.18.0.6:2379", "https://198.18.0.4:2379"]
    assert {s.version for s in found} == {"3.7.0"}


def test_health_says_why_a_member_is_not(health):
    down = etcd.parse_health(captured("health.one-down"))

    assert sorted(health) == THREE
    assert set(health.values()) == {""}
    assert down["https://198.18.0.5:2379"] == "context deadline exceeded"


def test_hashes_are_those_of_a_revision():
    found = etcd.parse_hashes(captured("hashes.three"))

    assert len(found) == 3
    assert len({(h.hash, h.revision) for h in found}) == 1


@pytest.mark.parametrize(
    ("answer", "alarms"),
    [
        ('{"header":{"member_id":7}}', ()),
        ('{"alarms":[]}', ()),
        ('{"alarms":[{"memberID":12928076962249821583,"alarm":1}]}', ("NOSPACE on member b369c18053cfcd8f",)),
        ('{"alarms":[{"memberID":1,"alarm":2},{"alarm":9}]}', ("CORRUPT on member 1", "9 on member 0")),
    ],
)
def test_alarms_are_told_in_words_with_their_member(answer, alarms):
    assert etcd.parse_alarms(answer) == alarms


@pytest.mark.parametrize("text", ["", "[", "null", '{"alarms":{}}', "Error: context deadline exceeded"])
def test_alarms_that_cannot_be_read_are_an_error_and_not_none(text):
    with pytest.raises(FactUnreadable, match="alarm list"):
        etcd.parse_alarms(text)


@pytest.mark.parametrize("parse", [etcd.parse_status, etcd.parse_hashes])
def test_where_no_member_answered_etcdctl_says_null_and_that_is_nobody(parse):
    assert parse("null\n") == ()


@pytest.mark.parametrize("parse", [etcd.parse_members, etcd.parse_status, etcd.parse_health, etcd.parse_hashes])
@pytest.mark.parametrize("text", ["", "[", '{"error":"x"}', "Error: context deadline exceeded"])
def test_an_answer_of_another_form_is_an_error_and_not_an_empty_cluster(parse, text):
    with pytest.raises(FactUnreadable, match="the answer of `etcdctl") as caught:
        parse(text)

    assert caught.value.exit_code == 10


@pytest.mark.parametrize("parse", [etcd.parse_members, etcd.parse_health])
def test_null_is_no_list_of_members_and_no_health(parse):
    with pytest.raises(FactUnreadable, match="the answer of `etcdctl"):
        parse("null")


def test_a_list_without_members_is_an_error_and_not_an_empty_cluster():
    with pytest.raises(FactUnreadable, match="names no member"):
        etcd.parse_members('{"members":[]}')


# ---- judging ----------------------------------------------------------------------------------------------------


def test_a_healthy_cluster_has_no_troubles(members, statuses, health):
    assert troubles(members, statuses, health) == ()


def test_a_dead_member_is_named_by_what_lists_it_and_by_what_asked_it():
    found = troubles(
        etcd.parse_members(captured("members.one-down")),
        etcd.parse_status(captured("status.one-down")),
        etcd.parse_health(captured("health.one-down")),
    )

    assert found == (
        "member ha-control-plane3 does not answer",
        "https://198.18.0.5:2379 is not healthy: context deadline exceeded",
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"leader": 0}, "there is no leader"),
        ({"leader": 5}, "members name different leaders: 5, "),
        ({"raft_term": 999}, "members are in different terms: "),
        ({"raft_applied": 1}, "entries behind"),
        ({"errors": ("memberID:1 alarm:NOSPACE",)}, "reports: memberID:1 alarm:NOSPACE"),
    ],
)
def test_members_that_disagree_or_complain_are_in_trouble(members, statuses, health, change, why):
    statuses = (replace(statuses[0], **change), *statuses[1:])

    (found,) = troubles(members, statuses, health)

    assert why in found


def test_a_member_that_never_started_is_in_trouble(members, statuses, health):
    (found,) = troubles([*members, Member(255, "", (), ())], statuses, health)

    assert found == "member ff has never started"


def test_without_any_answer_every_member_is_in_trouble(members):
    assert len(troubles(members, (), {})) == 3


@pytest.mark.parametrize(
    ("voters", "learners", "healthy", "allowed"),
    [
        (1, 0, 1, False),
        (3, 0, 3, True),
        (3, 0, 2, False),
        (5, 0, 4, True),
        (5, 0, 3, False),
        (3, 1, 3, True),
        (2, 0, 2, False),
    ],
)
def test_one_may_be_stopped_only_while_a_majority_stays(voters, learners, healthy, allowed):
    members = [Member(i, f"m{i}", (), (), learner=i >= voters) for i in range(voters + learners)]

    found = may_stop_one(members, range(healthy))

    assert (found == "") is allowed


def test_what_forbids_to_stop_one_has_the_numbers():
    members = [Member(i, f"m{i}", (), ()) for i in range(3)]

    assert may_stop_one(members, [0, 1]) == (
        "2 of 3 etcd members healthy; stopping one more would lose quorum (needs 2)"
    )
    assert "the only member" in may_stop_one(members[:1], [0])


@given(st.integers(1, 9))
def test_two_majorities_always_share_a_member(voters):
    assert 2 * quorum(voters) > voters
    assert quorum(voters) <= voters
