"""Who counts when a member of etcd is replaced, and what its manifest is made to say."""

import pytest

from orchestrator.cluster.etcd import Member, Status
from orchestrator.cluster.membership import (
    data_directory,
    initial_cluster,
    joins,
    lacking,
    of_node,
    rejoining,
    serves,
    spare,
    spared,
)
from orchestrator.errors import Refused

NAMES = {1: "cp-1", 2: "cp-2", 3: "cp-3"}


def peer(number):
    return f"https://198.18.0.{number}:2380"


def client(number):
    return f"https://198.18.0.{number}:2379"


def member(number, **changes):
    given = {"name": NAMES.get(number, ""), "peer_urls": (peer(number),), "client_urls": (client(number),), **changes}
    return Member(number, **given)


def status(number, *, leader=1, **changes):
    given = {
        "endpoint": client(number), "id": number, "version": "3.6.8", "storage_version": "3.6.0", "db_size_bytes": 1,
        "in_use_bytes": 1, "quota_bytes": 0, "leader": leader, "raft_term": 2, "raft_index": 9, "raft_applied": 9,
        "learner": False, "errors": (), "revision": 7, "cluster": 77,
    }  # fmt: skip
    return Status(**{**given, **changes})


THREE = (member(1), member(2), member(3))
WELL = {client(1): "", client(2): "", client(3): "context deadline exceeded"}


def test_a_member_is_a_nodes_by_its_name_or_by_its_address_and_never_by_its_place_in_the_list():
    nameless = member(9, name="", peer_urls=(peer(3),), learner=True)
    moved = member(8, name="cp-3", peer_urls=("https://198.18.9.9:2380",))

    assert of_node((*THREE, nameless, moved), "cp-3", (peer(3),)) == (member(3), nameless, moved)
    assert of_node(THREE, "cp-4", (peer(4),)) == ()


@pytest.mark.parametrize(
    ("why", "does"),
    [
        ("", True),
        ("Active Alarm(s): NOSPACE", True),
        ("memberID:3 alarm:CORRUPT", True),
        ("context deadline exceeded", False),
    ],
)
def test_an_alarm_is_told_by_every_member_whoever_raised_it(why, does):
    assert serves(why) is does


def test_with_two_of_three_well_the_third_may_be_taken_out():
    assert lacking(THREE, [status(1), status(2)], WELL, ["3"]) == ()


@pytest.mark.parametrize(
    ("members", "statuses", "health", "said"),
    [
        (THREE, [status(1)], WELL, "member cp-2 does not answer"),
        (THREE, [status(1), status(2)], {**WELL, client(2): "timed out"}, "member cp-2 is not healthy: timed out"),
        (THREE, [status(1), status(2)], {client(1): ""}, "member cp-2 is not healthy: it does not answer"),
        (
            (*THREE, member(4)), [status(1), status(2)], WELL,
            "member 4 (https://198.18.0.4:2380) has never started",
        ),
        (
            (*THREE, member(4, name="cp-4", learner=True)), [status(1), status(2)], WELL,
            "member cp-4 is a learner: somebody else changes members",
        ),
        (THREE, [status(1), status(2, leader=0)], WELL, "the others do not agree on a leader"),
        (THREE, [status(1), status(2, leader=2)], WELL, "the others do not agree on a leader"),
        ((member(3),), [], WELL, "no other member votes"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_with_one_of_the_others_is_said(members, statuses, health, said):
    assert lacking(members, statuses, health, ["3"]) == (said,)


def test_what_the_lost_one_says_does_not_count():
    strange = status(3, leader=3)  # wiped, and a cluster of its own

    assert lacking(THREE, [status(1), status(2), strange], WELL, ["3"]) == ()


@pytest.mark.parametrize(("voters", "enough"), [(1, False), (2, True), (3, True), (4, True)])
def test_a_new_member_is_spare_where_the_others_are_a_quorum_without_it(voters, enough):
    assert spare(voters) is enough


def test_a_joining_member_is_told_all_that_are_listed_and_itself_by_its_name():
    listed = (
        member(2),
        member(1, peer_urls=(peer(1), "https://[fd00::1]:2380")),
        member(9, name="", peer_urls=(peer(3),)),
    )

    assert initial_cluster(listed, "cp-3", (peer(3),)) == (
        f"cp-1={peer(1)},cp-1=https://[fd00::1]:2380,cp-2={peer(2)},cp-3={peer(3)}"
    )


HEAD = """apiVersion: v1
kind: Pod
spec:
  containers:
  - command:
    - etcd
    - --initial-advertise-peer-urls=https://198.18.0.3:2380
"""
TAIL = """    - --name=cp-3
    image: registry.k8s.io/etcd:3.6.8-0   # ours
  volumes:
  - hostPath:
      path: /etc/kubernetes/pki/etcd
      type: DirectoryOrCreate
    name: etcd-certs
  - hostPath:
      path: /var/lib/etcd
      type: DirectoryOrCreate
    name: etcd-data
status: {}
"""
ALL = "cp-1=https://198.18.0.1:2380,cp-3=https://198.18.0.3:2380"


@pytest.mark.parametrize(
    "lines",
    [
        "    - --initial-cluster=cp-3=https://198.18.0.3:2380\n",
        "    - --initial-cluster=\n    - --initial-cluster-state=new\n",
        "    - --initial-cluster=x\n    - --initial-cluster-state=existing\n",
    ],
)
def test_only_two_flags_of_a_manifest_change_and_the_rest_stays_to_the_byte(lines):
    wanted = f"{HEAD}    - --initial-cluster={ALL}\n    - --initial-cluster-state=existing\n{TAIL}"

    assert rejoining(HEAD + lines + TAIL, ALL) == wanted
    assert rejoining(wanted, ALL) == wanted
    assert joins(wanted, ALL)
    assert not joins(HEAD + lines + TAIL, ALL)


def test_quotes_and_line_ends_stay_as_they_were():
    text = '  - "--initial-cluster=x"\r\n  - --name=y\r\n'

    assert rejoining(text, ALL) == (
        f'  - "--initial-cluster={ALL}"\r\n  - "--initial-cluster-state=existing"\r\n  - --name=y\r\n'
    )


def test_a_manifest_whose_flag_is_not_in_a_line_of_its_own_is_refused():
    with pytest.raises(Refused, match="no line --initial-cluster=") as caught:
        rejoining(HEAD + "    - --initial-cluster\n    - x\n" + TAIL, ALL)

    assert "one in a line" in caught.value.remedy


def test_the_data_directory_is_the_one_of_its_volume_though_it_is_not_there():
    assert data_directory(HEAD + TAIL) == "/var/lib/etcd"
    assert data_directory(HEAD + TAIL.replace("name: etcd-data", "name: other")) == ""
    assert data_directory("") == ""


FIVE = tuple(member(number, name=f"cp-{number}") for number in range(1, 6))


@pytest.mark.parametrize(
    ("members", "well", "mine", "may"),
    [
        (THREE, [1, 2, 3], [1], True),
        (THREE, [1, 2], [1], False),
        (THREE, [1], [1], False),
        (THREE, [1, 2], [], False),  # which one is the node's is not known
        (THREE, [1, 2], [3], True),  # it does not run: nothing is lost
        (FIVE, [1, 2, 3, 4], [1], True),
        (FIVE, [1, 2, 3], [1], False),
        ((*THREE, member(9, learner=True)), [1, 2, 9], [1], False),  # a learner has no vote
        (THREE[:2], [1, 2], [1], True),  # never a quorum, and told before the start
        (THREE[:1], [1], [1], True),
    ],
)
def test_the_member_that_a_quorum_needs_must_not_restart(members, well, mine, may):
    health = {client(m.id): "" if m.id in well else "context deadline exceeded" for m in members}

    why = spared(members, [status(number) for number in well], health, mine)

    assert (why == "") is may
    if why and members == THREE and mine == [1]:
        assert why.endswith(f"{len(well) - 1} of 3 members of etcd would be left, and 2 are needed")
        assert "member cp-3 does not answer" in why


def test_a_member_that_answers_and_is_not_healthy_counts_for_no_quorum():
    health = {client(1): "", client(2): "", client(3): "context deadline exceeded"}

    why = spared(THREE, [status(number) for number in (1, 2, 3)], health, [1])

    assert why.startswith("member cp-3 is not healthy: context deadline exceeded: 1 of 3 ")
