"""What hosts tell of their members of etcd, and what is made of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cluster.etcd import Member
from orchestrator.cluster.etcdhosts import Etcd, EtcdHost, parse_hash, parse_host
from orchestrator.cluster.hostfacts import Disk, EtcdFacts, parse_etcd
from orchestrator.errors import FactUnreadable

FACTS = Path(__file__).parent / "facts" / "hosts"
PLANES = ("dev-control-plane", "dev-control-plane2")
PKI = "/etc/kubernetes/pki/etcd"

#: An etcd that systemd runs, told everything by its environment.
SERVICE = """\
@@servers
 https://127.0.0.1:2379
@@authority
 aa  /etc/kubernetes/pki/ca.crt
@@process 812
 name=etcd-1
 data-dir=/srv/etcd
 wal-dir=/srv/wal
 cert-file=/etc/etcd/server.crt
 listen-client-urls=https://10.0.0.1:2379
 initial-advertise-peer-urls=https://10.0.0.1:2380,https://[fd00::1]:2380
@@cgroup
 0::/system.slice/etcd.service
@@version
 etcd Version: 3.5.21
@@tool etcdctl /usr/local/bin/etcdctl
@@status
 [{"Endpoint":"https://10.0.0.1:2379","Status":{"header":{"member_id":7,"revision":5},"version":"3.5.21","leader":7}}]
@@health
 [{"endpoint":"https://10.0.0.1:2379","health":true,"took":"850µs"}]
@@metrics
@@data /srv/etcd
 998 998 750 system_u:object_r:var_lib_t:s0
 yes
 /dev/sdb1 1000 400 600 40% /srv/etcd
 123
 lost+found
 member
@@defragmented
 1800000000
@@end
"""
MANIFEST = f"""\
@@manifest /etc/kubernetes/manifests/etcd.yaml
 spec:
   containers:
   - command:
     - etcd
     - --name=cp-1
     - --initial-advertise-peer-urls=https://10.0.0.1:2380
     - --cert-file={PKI}/server.crt
     image: registry.k8s.io/etcd:3.6.8-0
@@servers
 https://127.0.0.1:2379
@@authority
 aa  /etc/kubernetes/pki/ca.crt
"""
PLACE = """\
@@data /var/lib/etcd
 0 0 700 ?
 no
 /dev/sda1 1000 400 600 40% /
 123
 member
@@end
"""
RUNS = MANIFEST + "@@process 9\n name=cp-1\n data-dir=/var/lib/etcd\n@@cgroup\n 0::/\n@@version\n etcd Version: 3.6.8\n"


def captured(node):
    return parse_host(node, (FACTS / f"etcd-host.{node}.txt").read_text())


# ---- hosts as they answered -----------------------------------------------------------------------------------


@pytest.mark.parametrize("node", PLANES)
def test_a_control_plane_of_kubeadm_tells_how_its_member_runs_and_where_its_files_are(node):
    found = captured(node)

    assert (found.node, found.how, found.version, found.name) == (node, "static pod", "3.6.8", node)
    assert found.flags["cert-file"] == f"{PKI}/server.crt"
    assert found.flags["peer-trusted-ca-file"] == f"{PKI}/ca.crt"
    assert sorted(found.tools) == ["etcdctl", "etcdutl"]
    assert found.manifest.image == "registry.k8s.io/etcd:3.6.8-0"
    assert len(found.authority) == 64
    assert (found.runs, found.external) == (True, False)


def test_it_tells_where_its_data_are_and_how_much_room_there_is():
    place = captured("dev-control-plane").place

    assert (place.path, place.owner, place.mode, place.label, place.mount) == ("/var/lib/etcd", "0:0", "700", "", False)
    assert place.disk == Disk("/var", 270553174016, 43838808064)
    assert (place.size_bytes, place.entries) == (129916928, ("member",))


def test_it_tells_how_fast_it_is_in_seconds():
    found = captured("dev-control-plane")

    assert (found.health, found.took_s) == ("", pytest.approx(0.007902542))
    assert found.sync_s == pytest.approx(1.9409306750000004 / 1800)
    assert found.commit_s == pytest.approx(1.7647397019999986 / 1011)
    assert (found.defragmented, found.defragmented_at) == (0, None)


def test_it_tells_its_own_status():
    status = captured("dev-control-plane").status

    assert (status.id, status.leader == status.id, status.revision) == (12928076962249821583, True, 1366)
    assert (status.db_size_bytes, status.in_use_bytes, status.quota_bytes) == (1900544, 1888256, 2147483648)


@pytest.mark.parametrize(("quota_bytes", "share"), [(2147483648, 0.5), (8589934592, 0.125), (0, 0.5)])
def test_how_full_a_database_is_goes_by_its_quota_and_by_2_gib_where_it_does_not_tell(quota_bytes, share):
    status = replace(captured("dev-control-plane").status, in_use_bytes=1073741824, quota_bytes=quota_bytes)

    assert status.full == share


def test_a_worker_has_no_etcd():
    found = captured("dev-worker")

    assert (found.how, found.runs, found.manifest, found.place, found.status) == ("", False, None, None, None)
    assert not found.external


# ---- hosts of other kinds -------------------------------------------------------------------------------------


def test_a_member_that_systemd_runs_is_a_service():
    found = parse_host("n1", SERVICE)

    assert (found.how, found.runs, found.manifest, found.version) == ("service", True, None, "3.5.21")
    assert found.peer_urls == ("https://10.0.0.1:2380", "https://[fd00::1]:2380")
    assert found.tools == {"etcdctl": "/usr/local/bin/etcdctl"}
    assert found.took_s == pytest.approx(0.00085)
    assert found.defragmented_at == 1800000000.0


def test_a_data_directory_that_is_a_mount_point_is_told_as_one():
    """It cannot be renamed, which a restore would do with it."""
    place = parse_host("n1", SERVICE).place

    assert (place.mount, place.owner, place.disk.mount) == (True, "998:998", "/srv/etcd")
    assert place.label == "system_u:object_r:var_lib_t:s0"
    assert place.entries == ("lost+found", "member")


def test_without_metrics_latencies_are_not_known_rather_than_nothing():
    found = parse_host("n1", SERVICE)

    assert (found.sync_s, found.commit_s, found.defragmented) == (None, None, 0)


def test_metrics_of_a_member_that_has_written_nothing_yet_are_no_latency():
    metrics = "".join(f" etcd_disk_wal_fsync_duration_seconds_{end} 0\n" for end in ("sum", "count"))

    assert parse_host("n1", SERVICE.replace("@@metrics\n", f"@@metrics\n{metrics}")).sync_s is None


def test_metrics_with_labels_and_exponents_are_read():
    metrics = " etcd_disk_wal_fsync_duration_seconds_sum 5e-03\n etcd_disk_wal_fsync_duration_seconds_count{} 10\n"

    found = parse_host("n1", SERVICE.replace("@@metrics\n", f"@@metrics\n{metrics}"))

    assert found.sync_s == pytest.approx(0.0005)


def test_a_manifest_without_a_process_is_a_member_that_is_stopped():
    found = parse_host("cp-1", MANIFEST + PLACE)

    assert (found.how, found.runs, found.external) == ("stopped", False, False)
    assert (found.name, found.peer_urls) == ("cp-1", ("https://10.0.0.1:2380",))
    assert found.flags["cert-file"] == f"{PKI}/server.crt"
    assert (found.health, found.place.path) == ("it does not run", "/var/lib/etcd")


@pytest.mark.parametrize(
    ("servers", "external"),
    [
        ("https://10.9.0.1:2379,https://10.9.0.2:2379", True),
        ("https://127.0.0.1:2379", False),
        ("https://localhost:2379", False),
        ("https://[::1]:2379", False),
        ("", False),
    ],
)
def test_etcd_is_elsewhere_where_the_api_server_says_so_and_nothing_of_it_is_here(servers, external):
    assert parse_host("cp-1", f"@@servers\n {servers}\n@@end\n").external is external


def test_a_member_that_does_not_answer_is_not_well():
    found = parse_host("cp-1", f"{RUNS}@@status\n@@health\n@@metrics\n{PLACE}")

    assert (found.how, found.runs) == ("static pod", True)
    assert (found.health, found.took_s, found.status) == ("it does not answer", None, None)


def test_a_member_that_says_why_it_is_not_well_is_quoted():
    health = (
        '[{"endpoint":"https://127.0.0.1:2379","health":false,"took":"5.0012s","error":"context deadline exceeded"}]'
    )

    found = parse_host("cp-1", f"{RUNS}@@health\n {health}\n{PLACE}")

    assert (found.health, found.took_s) == ("context deadline exceeded", 5.0012)


@pytest.mark.parametrize("section", ["status", "health"])
def test_an_answer_in_another_form_is_an_error_and_not_a_member_without_one(section):
    with pytest.raises(FactUnreadable, match="cannot be read"):
        parse_host("cp-1", f"{RUNS}@@{section}\n Error: unknown flag\n{PLACE}")


def test_a_process_of_no_pod_and_no_unit_is_just_that():
    answer = SERVICE.replace("0::/system.slice/etcd.service", "0::/user.slice/session-2.scope")

    assert parse_host("n1", answer).how == "process"


def test_a_data_directory_that_went_away_while_it_was_looked_at_is_not_known():
    assert parse_host("n1", SERVICE.partition(" yes\n")[0]).place is None


# ---- hashes ---------------------------------------------------------------------------------------------------


def test_the_hash_of_a_member_is_read_with_its_revision():
    found = parse_hash(
        '@@hash\n [{"Endpoint":"x","HashKV":{"hash":77,"hash_revision":5,"compact_revision":2}}]\n@@end\n'
    )

    assert (found.hash, found.revision, found.compact_revision) == (77, 5, 2)


@pytest.mark.parametrize("answer", ["", "@@end\n", "@@hash\n@@end\n"])
def test_a_member_that_does_not_tell_its_hash_has_none(answer):
    assert parse_hash(answer) is None


# ---- a cluster ------------------------------------------------------------------------------------------------


def member(number, *, name=None, client=None):
    host = f"https://10.0.0.{number}"
    return Member(number, f"m{number}" if name is None else name, (f"{host}:2380",), (client or f"{host}:2379",))


def host(node, **flags):
    return EtcdHost(node, "static pod", flags={key.replace("_", "-"): value for key, value in flags.items()})


def cluster(hosts, members, health=None):
    facts = EtcdFacts(tuple(members), (), health or {})
    return Etcd("prod", 0.0, {each.node: each for each in hosts}, facts)


def test_the_member_of_a_real_cluster_is_on_the_node_that_it_is_named_after_and_is_well():
    facts = parse_etcd((FACTS / "etcd.txt").read_text())
    found = Etcd("dev", 0.0, {node: captured(node) for node in reversed(PLANES)}, facts)

    [only] = facts.members
    assert found.node_of(only) == "dev-control-plane"
    assert found.status_of(only).id == only.id
    assert (found.health_of(only), found.troubles) == ("", ())


def test_a_member_is_where_its_peer_url_is_whatever_it_is_called():
    found = cluster([host("cp-1", name="other", initial_advertise_peer_urls="https://10.0.0.1:2380")], [])

    assert found.node_of(member(1)) == "cp-1"


def test_a_member_is_where_its_name_is_when_its_address_has_changed():
    found = cluster([host("cp-1", name="m1", initial_advertise_peer_urls="https://10.9.9.9:2380")], [])

    assert found.node_of(member(1)) == "cp-1"


def test_a_member_that_never_started_has_no_name_by_which_a_host_without_one_is_found():
    found = cluster([host("cp-1"), host("cp-2", name="")], [])

    assert found.node_of(member(1, name="")) == ""


def test_a_member_that_gave_no_answer_is_not_well():
    found = cluster(
        [], [member(1), member(2), member(3)], {"https://10.0.0.1:2379": "", "https://10.0.0.2:2379": "slow"}
    )

    assert [found.health_of(member(n)) for n in (1, 2, 3)] == ["", "slow", "it does not answer"]
    assert found.status_of(member(1)) is None


def test_troubles_name_every_member_that_is_away_and_every_endpoint_that_is_not_well():
    found = cluster([], [member(1), member(2, name="")], {"https://10.0.0.1:2379": "slow"})

    told = found.troubles

    assert "member 2 has never started" in told
    assert "member m1 does not answer" in told
    assert "https://10.0.0.1:2379 is not healthy: slow" in told


def test_without_members_there_is_nothing_that_could_be_in_trouble():
    """The report says that no member answers; that is enough."""
    assert cluster([], []).troubles == ()


def test_a_manifest_names_the_members_that_there_were_when_it_was_written():
    first, second = captured("dev-control-plane"), captured("dev-control-plane2")

    assert first.listed == ((first.name, first.peer_urls[0]),)
    assert second.listed == (*first.listed, (second.name, second.peer_urls[0]))
    assert captured("dev-worker").listed == ()


def test_the_version_of_the_program_is_that_of_the_manifest_where_none_runs():
    manifest = "@@manifest /etc/kubernetes/manifests/etcd.yaml\n image: registry.k8s.io/etcd:3.6.8-0\n@@end\n"

    assert str(parse_host("cp-1", manifest).program) == "v3.6.8-0"
    assert parse_host("cp-1", "@@end\n").program is None


def test_the_version_of_the_api_server_is_that_of_its_manifest():
    image = "registry.k8s.io/kube-apiserver:v1.36.3"

    assert str(parse_host("cp-1", f"@@apiserver\n {image}\n@@end\n").kubernetes) == "v1.36.3"
    assert parse_host("cp-1", "@@end\n").kubernetes is None
