"""What each action of a backup finds, decides and does, on a cluster with hosts in memory."""

import hashlib
import json
import tarfile
from dataclasses import replace

import pyrage
import pytest
from msgspec import structs

from orchestrator.actions.snapshots import recorded
from orchestrator.backup import catalogue
from orchestrator.backup.directory import DirectoryStore
from orchestrator.backup.records import Hashed
from orchestrator.backup.recovery import read
from orchestrator.backup.seal import unseal
from orchestrator.cluster import queries
from orchestrator.cluster.etcdhosts import parse_hash
from orchestrator.cluster.model import Node
from orchestrator.cluster.recovery import CONFIGMAPS, PKI, TOOL
from orchestrator.engine.plan import Done, Needed
from orchestrator.errors import BackupError, CommandFailed, FactUnreadable, HostUnreachable, SnapshotInvalid, StoreError
from orchestrator.planners import nodes
from tests.fakes import boltfiles
from tests.fakes.crash import Life
from tests.fakes.site_machines import SECRET, snapshot_of
from tests.fakes.site_world import SiteWorld, good
from tests.fakes.stage import Stage

DAY_S = 86400.0


@pytest.fixture
def world(tmp_path):
    made = SiteWorld(tmp_path / "world")
    yield made
    assert made.site.rules.broken == []


@pytest.fixture(scope="module")
def identity():
    return pyrage.x25519.Identity.generate()


@pytest.fixture
def key(identity, tmp_path):
    """The file of the identity."""
    path = tmp_path / "key"
    path.write_text(f"{identity}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def recipients(identity):
    return (str(identity.to_public()),)


def stage_of(world, action, *names, life=None, **request):
    stage = Stage(world, action, "cp-1", plan=world.backup(*names, **request))
    if life:
        stage.hands = world.site.hands(life)
    return stage


def staged(world, name="backup-1.db"):
    return world.site.kept / "staging" / name


def taken(world, **request):
    """There is a new snapshot; its record."""
    stage_of(world, "etcd.snapshot", **request).apply()
    return recorded(staged(world))


def stored(world, *names):
    """There is a new snapshot, and it is stored."""
    record = taken(world)
    stage_of(world, "etcd.store", *names).apply()
    return record


def held(world, name="a"):
    """What a destination holds."""
    return catalogue.read(DirectoryStore(world.destination(name))).held


def names_in(world, name="a"):
    there = world.destination(name)
    return sorted(path.name for path in there.iterdir()) if there.is_dir() else []


# ---- etcd.snapshot ----------------------------------------------------------------------------------------------


def test_a_snapshot_is_here_with_a_record_of_the_cluster_that_it_is_of(world):
    stage = stage_of(world, "etcd.snapshot", reason="scheduled")
    assert stage.decide() == Needed("none of this plan yet")

    found = stage.apply()

    path, content = staged(world), snapshot_of("cp-1", world.site.revision)
    record = recorded(path)
    assert found == Done(f"verified: {path}")
    assert path.read_bytes() == content
    assert record.name == "kubernetes-20261118T110641Z-r4"
    assert (record.reason, record.run, record.node, record.cluster) == ("scheduled", "run-1", "cp-1", "kubernetes")
    assert (record.cluster_id, record.authority) == ("1bb1b1d9c4e2e6d0", world.site.authority)
    assert (record.etcd, record.storage, record.kubernetes) == ("3.6.8", "3.6.0", "v1.36.3")
    assert (record.revision, record.keys, record.prefixes) == (4, 3, {"/registry/pods": 3})
    assert (record.size_bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert [(m.id, m.name, m.peer_urls) for m in record.members] == [("1", "cp-1", ("https://198.18.0.11:2380",))]
    told = {"file": str(path), "size_bytes": len(content), "keys": 3, "revision": 4}
    assert stage.events == [("etcd.snapshot", told)]


def test_a_snapshot_is_recorded_with_the_hash_that_its_member_had_at_its_revision(world):
    told = parse_hash(world.site.view().ask("cp-1", queries.ETCD_HASH, "4"))

    assert taken(world).hashed == Hashed(value=told.hash, compact_revision=1)


@pytest.mark.parametrize("revision", [None, 5, 0])
def test_a_hash_of_another_revision_or_none_at_all_is_not_recorded(world, revision):
    world.machine("cp-1").faults["hash"] = revision

    assert taken(world).hashed is None


def test_nobody_else_reads_a_snapshot_that_is_here_and_none_is_left_on_its_host(world):
    taken(world)

    here = staged(world).parent
    assert here.stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o777 for path in here.iterdir()} == {0o600}
    assert [path for path in world.machine("cp-1").files if path.endswith(".db")] == []


@pytest.mark.parametrize("fault", ["truncated", "damaged"])
def test_a_snapshot_that_is_not_whole_is_removed_here_and_taken_again(world, fault):
    stage = stage_of(world, "etcd.snapshot")
    world.machine("cp-1").faults["snapshot"] = fault
    with pytest.raises(SnapshotInvalid):
        stage.apply()
    assert list(staged(world).parent.iterdir()) == []
    world.machine("cp-1").faults.clear()
    stage.restart()

    assert stage.apply() == Done(f"verified: {staged(world)}")


def test_a_snapshot_without_keys_is_none(world):
    world.machine("cp-1").faults["snapshot"] = "empty"

    with pytest.raises(FactUnreadable, match="the snapshot of cp-1 has no keys"):
        taken(world)

    assert not staged(world).exists()


def test_a_host_without_etcd_gives_none(world):
    world.machine("cp-1").gone(["etcd"], 0.0, 3600.0)

    with pytest.raises(CommandFailed, match="no etcd runs on this host") as caught:
        taken(world)

    assert "see that etcd runs on cp-1" in caught.value.remedy


def test_a_host_without_room_is_not_filled(world):
    world.machine("cp-1").free_bytes = 1000

    with pytest.raises(CommandFailed, match=r"/var/lib/orchestrator/backup-1 has 1000 bytes free; .* needs \d+"):
        taken(world)

    assert [path for path in world.machine("cp-1").files if path.endswith(".db")] == []


def test_a_snapshot_without_its_record_is_taken_again(world):
    taken(world)
    staged(world, "backup-1.json").unlink()

    assert stage_of(world, "etcd.snapshot").decide() == Needed("none of this plan yet")


def test_a_snapshot_that_was_cut_after_it_was_proven_is_taken_again(world):
    taken(world)
    staged(world).write_bytes(staged(world).read_bytes()[:-512])

    assert stage_of(world, "etcd.snapshot").decide() == Needed("none of this plan yet")


def test_one_that_was_changed_under_the_process_that_proved_it_is_taken_again(world):
    stage = stage_of(world, "etcd.snapshot")
    stage.apply()
    changed = bytearray(staged(world).read_bytes())
    changed[100] ^= 1
    staged(world).write_bytes(changed)

    assert stage.decide() == Needed("none of this plan yet")


def test_alarms_of_etcd_do_not_spoil_a_snapshot(world):
    world.site.alarms = [{"memberID": 1, "alarm": 1}]

    assert taken(world).keys == 3


# ---- etcd.recovery ----------------------------------------------------------------------------------------------


def test_what_new_machines_need_is_here_encrypted_and_never_was_plain(world, recipients, key, tmp_path):
    plain_files = []

    def look():
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path != key]
        plain_files.extend(path for path in files if SECRET in path.read_bytes())

    life = Life(then=dict.fromkeys(range(1, 10), look))
    stage = stage_of(world, "etcd.recovery", recipients=recipients, life=life)
    assert stage.decide() == Needed("certificates, keys, manifests and settings to collect")

    assert stage.apply() == Done("collected")

    look()
    path = staged(world, "backup-1.recovery.tar")
    assert plain_files == []
    assert path.read_bytes().startswith(b"age-encryption.org/v1\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert world.machine("cp-1").private == ["collect"]
    assert stage.events == [("etcd.recovery", {"file": str(path), "size_bytes": path.stat().st_size})]
    unseal(path, tmp_path / "tar", compressed=True, identities=[key])
    with tarfile.open(tmp_path / "tar") as tar:
        assert tar.extractfile("etc/kubernetes/pki/ca.key").read() == SECRET


def test_files_that_the_api_server_is_given_are_asked_for(world, recipients):
    flags = ("--audit-policy-file=/etc/audit.yaml", "--audit-log-path=/var/log/audit.log", "--secure-port=6443")
    world.machine("cp-1").server_flags = flags

    stage_of(world, "etcd.recovery", recipients=recipients).apply()

    assert world.machine("cp-1").collected == ["/etc/audit.yaml"]


def test_a_host_that_cannot_pack_it_leaves_nothing_here(world, recipients):
    world.machine("cp-1").faults["collect"] = "refuses"
    stage = stage_of(world, "etcd.recovery", recipients=recipients)

    with pytest.raises(CommandFailed, match="Input/output error") as caught:
        stage.apply()

    assert "--no-recovery-set" in caught.value.remedy
    assert list(world.site.kept.rglob("*")) == []


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        (CONFIGMAPS, "see that the API server answers, or install kubectl on cp-1; or leave"),
        (TOOL, "put the etcdutl of its etcd's version into /usr/local/bin on cp-1; or leave"),
        (f"{PKI}/sa.key", "see why cp-1 has not all of these files; or leave"),
    ],
)
def test_a_set_of_which_no_machine_could_be_rebuilt_is_stored_and_the_backup_fails(world, recipients, path, remedy):
    world.machine("cp-1").faults["collect"] = path
    world.site.configured = False
    taken(world)
    assert stage_of(world, "etcd.recovery", recipients=recipients).apply() == Done("collected")
    stage_of(world, "etcd.store", recipients=recipients).apply()

    stage_of(world, "etcd.unstage", recipients=recipients).apply()
    said = f"^the snapshot is stored, but .* what cp-1 did not give .*: {path}$"
    complete = stage_of(world, "etcd.complete", recipients=recipients)
    with pytest.raises(BackupError, match=said) as caught:
        complete.apply()

    assert (
        caught.value.remedy == f"{remedy} the set out: --no-recovery-set; then take another: orchestrator etcd backup"
    )
    assert len(good(world.destination("a"))) == 1
    assert list((world.site.kept / "staging").iterdir()) == []
    again = complete.decide()  # a run that is gone on with ends
    assert isinstance(again, Done)
    assert again.why.startswith("told before: ")
    assert path in again.why


def test_what_a_set_lacks_is_gone_with_a_run_that_is_given_up(world, recipients):
    world.machine("cp-1").faults["collect"] = TOOL
    stage_of(world, "etcd.recovery", recipients=recipients).apply()
    plan = world.backup(recipients=recipients)

    given_up = Stage(world, "etcd.unstage", "cp-1", plan=nodes.release("run-1", plan, {"0/cp-1/etcd.snapshot": {}}))

    given_up.apply()
    assert list((world.site.kept / "staging").iterdir()) == []


def test_for_one_whose_set_is_not_whole_nothing_goes(world, recipients):
    """Those of the others may be."""
    world.hold(world.destination("a"), 9 * DAY_S)
    world.machine("cp-1").faults["collect"] = TOOL
    stored(world)
    stage_of(world, "etcd.recovery", recipients=recipients).apply()

    stage = stage_of(world, "etcd.retain", keep="last=1", recipients=recipients)

    assert stage.decide() == Done("the new recovery set is not whole")


def test_once_it_is_whole_the_backup_does_not_fail(world, recipients):
    world.machine("cp-1").faults["collect"] = TOOL
    stage_of(world, "etcd.recovery", recipients=recipients).apply()
    staged(world, "backup-1.recovery.tar").unlink()
    world.machine("cp-1").faults.clear()
    stage_of(world, "etcd.recovery", recipients=recipients).apply()

    assert stage_of(world, "etcd.complete", recipients=recipients).apply() == Done("a rebuild has all it needs")


def test_what_a_host_without_kubectl_does_not_tell_is_asked_of_the_api(world, recipients, key, tmp_path):
    world.machine("cp-1").faults["collect"] = CONFIGMAPS

    assert stage_of(world, "etcd.recovery", recipients=recipients).apply() == Done("collected")

    unseal(staged(world, "backup-1.recovery.tar"), tmp_path / "set", compressed=True, identities=[key])
    with (tmp_path / "set").open("rb") as archive:
        assert read(archive, "it").told.configuration == world.site.view().configuration()


def test_while_the_api_is_away_the_snapshot_tells_it(world, recipients, key, tmp_path):
    world.machine("cp-1").faults["collect"] = CONFIGMAPS
    world.machine("cp-1").components.pop("kube-apiserver")
    stage = stage_of(world, "etcd.recovery", recipients=recipients, lock="cp-1")
    stage.hands.machines.know([Node.at("cp-1", "198.18.0.11")])
    told = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n"
    kept = boltfiles.Keys().put(
        b"/registry/configmaps/kube-system/kubeadm-config", boltfiles.config_map(ClusterConfiguration=told)
    )
    staged(world).parent.mkdir(parents=True)
    staged(world).write_bytes(boltfiles.snapshot(kept.pairs))

    stage.apply()

    unseal(staged(world, "backup-1.recovery.tar"), tmp_path / "set", compressed=True, identities=[key])
    with (tmp_path / "set").open("rb") as archive:
        assert read(archive, "it").told.configuration == told


def test_what_a_cluster_is_made_without_is_said_and_the_set_is_kept(world, recipients):
    world.machine("cp-1").faults["collect"] = f"{PKI}/front-proxy-ca.key"
    stage = stage_of(world, "etcd.recovery", recipients=recipients)

    assert stage.apply() == Done("collected")

    _, (name, told) = stage.events
    assert (name, told["level"]) == ("etcd.reserved", "warning")
    assert told["why"].startswith(f"cp-1 has no {PKI}/front-proxy-ca.key: `etcd restore --onto` refuses")


def test_what_a_process_left_half_written_of_it_is_replaced(world, recipients):
    part = staged(world, ".backup-1.recovery.tar.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")

    assert stage_of(world, "etcd.recovery", recipients=recipients).apply() == Done("collected")

    assert [path.name for path in part.parent.iterdir()] == ["backup-1.recovery.tar"]


# ---- etcd.store -------------------------------------------------------------------------------------------------


def test_a_snapshot_is_stored_at_every_destination_with_its_record(world):
    record = taken(world)
    stage = stage_of(world, "etcd.store", "a", "b")
    assert stage.decide() == Needed(f"to {world.destination('a')}, {world.destination('b')}")

    assert stage.apply() == Done("at every destination")

    for name in ("a", "b"):
        [found] = held(world, name)
        assert names_in(world, name) == [f"{record.name}.db", f"{record.name}.json"]
        data = structs.replace(record.data, file=f"{record.name}.db")
        assert found.record == structs.replace(record, data=data)
        assert (world.destination(name) / f"{record.name}.db").read_bytes() == staged(world).read_bytes()
    told = {"file": f"{record.name}.db", "size_bytes": record.size_bytes}
    assert stage.events == [
        ("etcd.stored", {"destination": str(world.destination(name)), **told}) for name in ("a", "b")
    ]


@pytest.mark.parametrize(
    ("level", "encrypted", "ending"),
    [(None, False, ""), (3, False, ".zst"), (None, True, ".age"), (3, True, ".zst.age")],
)
def test_what_is_read_back_is_the_snapshot(world, recipients, key, tmp_path, level, encrypted, ending):
    record = taken(world)
    stage = stage_of(world, "etcd.store", level=level, recipients=recipients if encrypted else ())

    stage.apply()

    [found] = held(world)
    file = world.destination("a") / f"{record.name}.db{ending}"
    assert (found.record.data.file, found.record.encrypted) == (file.name, encrypted)
    assert found.record.data.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    opened = unseal(file, tmp_path / "plain", compressed=level is not None, identities=[key])
    assert (opened.size_bytes, opened.sha256) == (record.size_bytes, record.sha256)


def test_what_new_machines_need_is_beside_it(world, recipients):
    record = taken(world)
    stage_of(world, "etcd.recovery", recipients=recipients).apply()

    stage_of(world, "etcd.store", recipients=recipients).apply()

    [found] = held(world)
    assert found.record.recovery.file == f"{record.name}.recovery.tar.zst.age"
    assert found.wrong == ""
    assert names_in(world) == [f"{record.name}.db.age", f"{record.name}.json", found.record.recovery.file]


@pytest.mark.parametrize("away", [("b",), ("a",), ("a", "c")])
def test_a_destination_that_is_away_is_named_and_the_others_have_it(world, away):
    taken(world)
    for name in away:
        world.take_away(name)
    stage = stage_of(world, "etcd.store", "a", "b", "c")

    with pytest.raises(StoreError, match=str(world.destination(away[0]))) as caught:
        stage.apply()

    there = [name for name in ("a", "b", "c") if name not in away]
    assert caught.value.__notes__[-1] == f"stored at {', '.join(str(world.destination(n)) for n in there)}"
    assert [n for n in caught.value.__notes__[:-1] if str(world.destination(away[-1])) in n] or len(away) == 1
    assert all(len(good(world.destination(name))) == 1 for name in there)


def test_a_resumed_run_writes_only_where_it_is_missing(world):
    taken(world)
    world.take_away("b")
    stage = stage_of(world, "etcd.store", "a", "b", "c")
    with pytest.raises(StoreError):
        stage.apply()
    world.bring_back("b")
    stage.restart()

    assert stage.decide() == Needed(f"to {world.destination('b')}")
    assert stage.apply() == Done("at every destination")

    assert {of[1] for of in stage.life.effects if of[0] == "store"} == {str(world.destination("b"))}


def test_when_no_destination_takes_it_that_is_said_with_where_it_is(world):
    taken(world)
    world.site.full |= {str(world.destination("a")), str(world.destination("b"))}

    with pytest.raises(StoreError, match="0 are free") as caught:
        stage_of(world, "etcd.store", "a", "b").apply()

    assert "it is stored nowhere; the snapshot is here yet" in caught.value.__notes__
    assert staged(world).is_file()


def test_the_disk_of_a_node_may_be_a_destination_and_is_away_with_it(world):
    taken(world)
    plan = world.backup(destinations=("node-1:/srv/backups", "node:/srv/backups"))
    world.machine("node-1").cut = True
    stage = Stage(world, "etcd.store", "cp-1", plan=plan)

    with pytest.raises(HostUnreachable, match="node-1") as caught:
        stage.apply()

    assert caught.value.__notes__ == ["stored at node:/srv/backups"]
    world.machine("node-1").cut = False
    assert stage.apply() == Done("at every destination")
    assert [of[1] for of in stage.life.effects if of[0] == "store"] == [
        *["node:/srv/backups"] * 2,
        *["node-1:/srv/backups"] * 2,
    ]


def test_a_destination_that_is_a_file_gets_it_plain_with_its_record(world, recipients):
    record = taken(world)
    file = world.destination("a") / "before.db"
    plan = world.backup(destinations=(str(file),), recipients=recipients, level=3, pin="before the move")

    found = Stage(world, "etcd.store", "cp-1", plan=plan).apply()

    there = json.loads(file.with_suffix(".json").read_bytes())
    assert found == Done("at every destination")
    assert file.read_bytes() == staged(world).read_bytes()
    assert (there["name"], there["data"]["file"], there["pin"]) == (record.name, "before.db", "before the move")
    assert (there["recipients"], there["recovery"]) == ([], None)


def test_a_file_that_has_another_snapshot_is_replaced(world):
    file = world.destination("a") / "before.db"
    plan = world.backup(destinations=(str(file),))
    taken(world)
    Stage(world, "etcd.store", "cp-1", plan=plan).apply()
    staged(world).unlink()
    world.site.revision += 1
    taken(world)

    stage = Stage(world, "etcd.store", "cp-1", plan=plan)

    assert stage.decide() == Needed(f"to {file}")
    assert stage.apply() == Done("at every destination")
    assert [h.record.revision for h in held(world)] == [5]


def test_another_snapshot_of_the_same_name_is_not_taken_for_it(world):
    record = taken(world)
    content = snapshot_of("cp-2", 4)
    digest = hashlib.sha256(content).hexdigest()
    world.hold(world.destination("a"), 0.0, name=record.name, sha256=digest)
    stage = stage_of(world, "etcd.store")

    assert isinstance(stage.decide(), Needed)
    assert stage.apply() == Done("at every destination")

    assert [h.record.sha256 for h in held(world)] == [record.sha256]


def test_one_that_was_cut_where_it_is_stored_is_stored_again(world):
    record = stored(world, "a", "b")
    file = world.destination("a") / f"{record.name}.db"
    file.write_bytes(file.read_bytes()[:-1])
    stage = stage_of(world, "etcd.store", "a", "b")

    assert stage.decide() == Needed(f"to {world.destination('a')}")
    assert stage.apply() == Done("at every destination")

    assert good(world.destination("a")) == [record.name]


@pytest.mark.parametrize(("level", "encrypted"), [(None, False), (3, False), (None, True), (3, True)])
def test_one_that_was_changed_before_it_is_stored_is_stored_nowhere(world, recipients, level, encrypted):
    """By a disk, or by memory."""
    taken(world)
    changed = bytearray(staged(world).read_bytes())
    changed[100] ^= 1
    staged(world).write_bytes(changed)

    with pytest.raises((StoreError, SnapshotInvalid), match=r"was (changed|read back)"):
        stage_of(world, "etcd.store", level=level, recipients=recipients if encrypted else []).apply()

    assert names_in(world) == []


def test_data_without_their_record_are_not_taken_for_a_stored_snapshot(world):
    record = taken(world)
    world.destination("a").mkdir(parents=True)
    (world.destination("a") / f"{record.name}.db").write_bytes(staged(world).read_bytes())

    assert isinstance(stage_of(world, "etcd.store").decide(), Needed)


def test_what_an_earlier_process_sealed_is_sealed_again(world, recipients):
    """It may have died in the middle of that."""
    taken(world)
    staged(world, "backup-1.db.zst.age").write_bytes(b"half of it")

    stage_of(world, "etcd.store", level=3, recipients=recipients).apply()

    assert len(good(world.destination("a"))) == 1


def test_without_the_snapshot_here_nothing_can_be_stored(world):
    stage = stage_of(world, "etcd.store")
    assert stage.decide() == Needed(f"to {world.destination('a')}")

    with pytest.raises(FactUnreadable, match="not here any more"):
        stage.apply()


def test_a_pin_is_in_the_record(world):
    taken(world)

    stage_of(world, "etcd.store", pin="before the migration").apply()

    assert [h.record.pin for h in held(world)] == ["before the migration"]


# ---- etcd.retain ------------------------------------------------------------------------------------------------


def test_what_the_policy_does_not_keep_goes_at_every_destination(world):
    old = [world.hold(world.destination(name), 9 * DAY_S) for name in ("a", "b")]
    record = stored(world, "a", "b")
    stage = stage_of(world, "etcd.retain", "a", "b", keep="last=1")
    assert stage.decide() == Needed(f"2 to remove: {old[0].name}, {old[0].name}")

    assert stage.apply() == Done("nothing to remove")

    assert [good(world.destination(name)) for name in ("a", "b")] == [[record.name]] * 2
    assert [(name, of["snapshot"]) for name, of in stage.events] == [("etcd.removed", old[0].name)] * 2


def test_the_record_of_a_snapshot_goes_last(world):
    old = world.hold(world.destination("a"), 9 * DAY_S)
    stored(world)
    stage = stage_of(world, "etcd.retain", keep="last=1")

    stage.apply()

    where = str(world.destination("a"))
    assert stage.life.effects == [("remove", where, f"{old.name}.db"), ("remove", where, f"{old.name}.json")]


@pytest.mark.parametrize("changes", [{"cluster": "another"}, {"authority": "0" * 64}])
def test_snapshots_of_other_clusters_stay(world, changes):
    for days in range(5, 9):
        world.hold(world.destination("a"), days * DAY_S, **changes)
    stored(world)

    assert stage_of(world, "etcd.retain", keep="last=1").decide() == Done("nothing to remove")


def test_a_pinned_one_stays(world):
    world.hold(world.destination("a"), 9 * DAY_S, pin="before the migration")
    stored(world)

    assert stage_of(world, "etcd.retain", keep="last=1").decide() == Done("nothing to remove")


@pytest.mark.parametrize(("unfinished", "goes"), [(("upgrade-1",), 0), (("upgrade-2",), 1)])
def test_the_one_before_an_upgrade_stays_until_that_has_ended_well(world, unfinished, goes):
    world.hold(world.destination("a"), 9 * DAY_S, reason="pre-upgrade", run="upgrade-1")
    stored(world)
    stage = stage_of(world, "etcd.retain", keep="last=1", unfinished=unfinished)

    assert sum(len(going) for going in stage.facts()["going"].values()) == goes


def test_destinations_are_not_asked_before_there_is_a_new_snapshot(world):
    world.hold(world.destination("a"), 9 * DAY_S)
    world.take_away("a")

    assert stage_of(world, "etcd.retain", keep="last=1").decide() == Needed("what last=1 does not keep")


def test_strays_and_records_that_cannot_be_read_stay_and_stop_nothing(world):
    old = world.hold(world.destination("a"), 9 * DAY_S)
    for name, content in (("stray.db", b"x"), ("broken.json", b"{"), ("later.json", b'{"shape": 99}'), ("note", b"")):
        (world.destination("a") / name).write_bytes(content)
    record = stored(world)

    assert stage_of(world, "etcd.retain", keep="last=1").apply() == Done("nothing to remove")

    assert old.name not in [h.record.name for h in held(world)]
    assert {"stray.db", "broken.json", "later.json", "note", f"{record.name}.db"} <= set(names_in(world))


def test_one_that_is_not_whole_takes_no_place_of_a_good_one(world):
    older, newer = (world.hold(world.destination("a"), days * DAY_S) for days in (9, 2))
    (world.destination("a") / newer.data.file).write_bytes(b"cut")
    record = stored(world)

    stage_of(world, "etcd.retain", keep="last=2").apply()

    assert set(good(world.destination("a"))) == {older.name, record.name}


def test_one_that_was_half_removed_is_removed_the_next_time(world):
    old = world.hold(world.destination("a"), 9 * DAY_S)
    (world.destination("a") / old.data.file).unlink()
    record = stored(world)

    stage_of(world, "etcd.retain", keep="last=1").apply()

    assert names_in(world) == [f"{record.name}.db", f"{record.name}.json"]


def test_a_destination_that_is_one_file_is_not_judged(world):
    taken(world)
    plan = world.backup(destinations=(str(world.destination("a") / "x.db"),), keep="last=1")

    assert Stage(world, "etcd.retain", "cp-1", plan=plan).facts() == {"going": {}}


# ---- etcd.supersede ---------------------------------------------------------------------------------------------


def test_what_earlier_plans_left_here_is_removed_and_nothing_else(world):
    taken(world)
    for name in ("backup-0.db", ".backup-0.recovery.tar.part", "backup-9.db.zst", "backup-1.db", "backup-91.db"):
        staged(world, name).write_bytes(b"x")
    plan = world.backup(superseded=("backup-0", "backup-9"))
    stage = Stage(world, "etcd.supersede", "cp-1", plan=plan)
    assert stage.decide() == Needed("what runs that failed left here: backup-0, backup-9")

    assert stage.apply() == Done("nothing of earlier runs is left here")

    assert {path.name for path in staged(world).parent.iterdir()} == {"backup-1.db", "backup-1.json", "backup-91.db"}


# ---- etcd.unstage -----------------------------------------------------------------------------------------------


def test_what_a_backup_made_here_is_removed_and_nothing_else(world, recipients):
    taken(world)
    stage_of(world, "etcd.recovery", recipients=recipients).apply()
    stage_of(world, "etcd.store", level=3, recipients=recipients).apply()
    for name in (".backup-1.json.part", "backup-2.db", "backup-12.db"):
        staged(world, name).write_bytes(b"x")
    world.hold(world.site.kept, DAY_S)
    before = {path.name for path in world.site.kept.iterdir()}
    stage = stage_of(world, "etcd.unstage")
    assert stage.decide() == Needed("what was made here on the way")

    stage.past["0/cp-1/etcd.snapshot"] = {}

    assert stage.apply() == Done("nothing is left here")
    assert {path.name for path in staged(world).parent.iterdir()} == {"backup-2.db", "backup-12.db"}
    assert {path.name for path in world.site.kept.iterdir()} == before


def test_before_anything_was_made_there_is_something_to_remove_in_the_end(world):
    stage = stage_of(world, "etcd.unstage")
    assert isinstance(stage.decide(), Needed)

    assert replace(stage, past={"0/cp-1/etcd.snapshot": {}}).decide() == Done("nothing is left here")
