"""What is in a snapshot, and how two of them differ."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backup import contents
from orchestrator.backup.contents import (
    OTHER,
    Cipher,
    LiveKey,
    census,
    cipher_of,
    diff,
    diff_keys,
    form_of,
    parse_key,
    parse_live,
)
from orchestrator.errors import BackupError, FactUnreadable, SnapshotInvalid
from tests.fakes.boltfiles import Keys, database, snapshot

POD = b"/registry/pods/default/"
SECRET = b"/registry/secrets/default/"
WIDGET = b"/registry/stable.example.com/widgets/default/"
LEASE = b"/registry/leases/kube-node-lease/n1"
EVENT = b"/registry/events/default/e1"
SEALED = b"k8s:enc:aescbc:v1:key1:\x8f\x00"


@pytest.fixture
def saved(tmp_path):
    """Writes keys as a snapshot; gives its path."""

    def write(keys, name="s.db"):
        path = tmp_path / name
        path.write_bytes(snapshot(keys.pairs))
        return path

    return write


def filled():
    keys = Keys()
    for number in range(40):
        keys.put(POD + b"p%02d" % number, b"k8s\x00one")
    return keys.put(LEASE).put(EVENT).put(b"compact_rev_key", b"9")


def told(changes):
    return [(c.what, c.key.kind, c.key.name, c.before, c.after) for c in changes]


# ---- keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("pods/default/a", ("Pod", "", "pods", "default", "a")),
        ("namespaces/default", ("Namespace", "", "namespaces", "", "default")),
        ("services/specs/default/a", ("Service", "", "services", "default", "a")),
        ("services/endpoints/default/a", ("Endpoints", "", "endpoints", "default", "a")),
        ("minions/n1", ("Node", "", "nodes", "", "n1")),
        ("controllers/default/a", ("ReplicationController", "", "replicationcontrollers", "default", "a")),
        ("leases/kube-node-lease/n1", ("Lease", "coordination.k8s.io", "leases", "kube-node-lease", "n1")),
        ("ingress/default/a", ("Ingress", "networking.k8s.io", "ingresses", "default", "a")),
        ("deployments/default/a", ("Deployment", "apps", "deployments", "default", "a")),
        ("csistoragecapacities/a/b", ("CSIStorageCapacity", "storage.k8s.io", "csistoragecapacities", "a", "b")),
        ("apiregistration.k8s.io/apiservices/v1.", ("APIService", "apiregistration.k8s.io", "apiservices", "", "v1.")),
        ("clusterroles/system:node", ("ClusterRole", "rbac.authorization.k8s.io", "clusterroles", "", "system:node")),
        ("masterleases/10.0.0.1", ("MasterLease", "", "masterleases", "", "10.0.0.1")),
        ("ranges/serviceips", ("RangeAllocation", "", "ranges", "", "serviceips")),
        ("example.com/widgets/a/b", ("widgets.example.com", "example.com", "widgets", "a", "b")),
        ("example.com/gauges/b", ("gauges.example.com", "example.com", "gauges", "", "b")),
        ("novelties/a/b", ("novelties", "", "novelties", "a", "b")),
    ],
)
def test_a_key_tells_kind_group_resource_namespace_and_name(key, expected):
    found = parse_key(f"/registry/{key}".encode())

    assert (found.kind, found.group, found.resource, found.namespace, found.name) == expected
    assert found.custom == key.startswith("example.com/")


@pytest.mark.parametrize(
    "key", ["compact_rev_key", "/registry", "/registry/", "/registry/pods", "/registry/pods//a", "/calico/v1/ipam/a",
            "/registry/pods/a/b/c", "/registry/example.com/widgets", "/registry/services/specs", ""],
)  # fmt: skip
def test_what_is_not_kubernetes_stays_whole_under_no_kind(key):
    found = parse_key(key.encode())

    assert (found.kind, found.name) == (OTHER, key)


def test_what_a_terminal_would_obey_is_told_as_an_escape():
    found = parse_key(b"/registry/pods/default/a\x1b[2J\xff")

    assert found.name == "a\\x1b[2J\\\\xff"


@given(st.binary(max_size=60))
def test_every_key_has_a_printable_name(key):
    found = parse_key(b"/registry/" + key)

    assert all(part.isprintable() for part in (found.kind, found.namespace, found.name))


# ---- values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "form"),
    [(b"k8s\x00\n", "protobuf"), (b'{"kind":', "json"), (SEALED, "encrypted"), (b"9", "other"), (b"", "other"),
     (b"k8s:enc:", "other")],
)  # fmt: skip
def test_a_value_tells_how_it_is_written(value, form):
    assert form_of(value) == form


@pytest.mark.parametrize(
    ("value", "cipher"),
    [
        (SEALED, Cipher("aescbc", "v1", "key1")),
        (b"k8s:enc:kms:v2:vault-1:\n\x00", Cipher("kms", "v2", "vault-1")),
        (b"k8s\x00k8s:enc:aescbc:v1:key1:", None),
        (b"k8s:enc:aescbc:v1:", None),
    ],
)
def test_an_encrypted_value_tells_its_provider_and_key(value, cipher):
    assert cipher_of(value) == cipher


# ---- counted --------------------------------------------------------------------------------------------------


def test_live_objects_are_counted_by_kind_and_namespace(saved):
    keys = filled().put(b"/registry/pods/web/x", b"k8s\x00long").put(WIDGET + b"w", b"{}").delete(POD + b"p00")
    keys.put(SECRET + b"a", SEALED).put(SECRET + b"b", SEALED).put(SECRET + b"c", b"k8s\x00")

    found = census(saved(keys))

    kinds = {each.kind: each for each in found.kinds}
    assert list(kinds) == [OTHER, "Event", "Lease", "Pod", "Secret", "widgets.stable.example.com"]
    assert (kinds["Pod"].objects, kinds["Pod"].namespaces) == (40, {"default": 39, "web": 1})
    assert kinds["Pod"].size_bytes == 39 * len(POD + b"p00k8s\x00one") + len(b"/registry/pods/web/xk8s\x00long")
    assert (kinds["Secret"].objects, kinds["Secret"].encrypted) == (3, 2)
    assert found.objects == sum(each.objects for each in found.kinds) == 47
    assert found.size_bytes == sum(each.size_bytes for each in found.kinds)
    assert found.forms == {"encrypted": 2, "json": 1, "other": 3, "protobuf": 41}
    assert found.ciphers == {Cipher("aescbc", "v1", "key1"): 2}
    assert found.groups == {"stable.example.com": 1}


def test_the_ten_largest_come_largest_first(saved):
    keys = Keys()
    for number in range(30):
        keys.put(POD + b"p%02d" % number, b"x" * 10 * (number % 15))

    found = census(saved(keys)).largest

    assert [key.name for key, _ in found] == ["p14", "p29", "p13", "p28", "p12", "p27", "p11", "p26", "p10", "p25"]
    assert found[0][1] == len(POD) + 3 + 140


def test_more_kinds_namespaces_and_ciphers_than_any_cluster_has_are_counted_together(saved, monkeypatch):
    for limit in ("MAX_KINDS", "MAX_PLACES", "MAX_CIPHERS"):
        monkeypatch.setattr(contents, limit, 2)
    keys = Keys()
    for number in range(5):
        keys.put(b"/registry/kind-%d/a/b" % number, b"k8s:enc:kms:v1:key-%d:x" % number)
        keys.put(b"/registry/pods/ns-%d/b" % number)

    found = census(saved(keys))

    assert {each.kind: each.objects for each in found.kinds} == {"kind-0": 1, "Pod": 5, OTHER: 4}
    assert {each.kind: dict(each.namespaces) for each in found.kinds}["Pod"] == {"ns-0": 1, OTHER: 4}
    assert sorted((each.provider, number) for each, number in found.ciphers.items()) == [
        (OTHER, 3), ("kms", 1), ("kms", 1),
    ]  # fmt: skip


def test_an_empty_database_has_nothing_in_it(saved):
    found = census(saved(Keys()))

    assert (found.objects, found.kinds, found.largest, found.groups) == (0, (), (), {})


# ---- compared -------------------------------------------------------------------------------------------------


def test_a_snapshot_does_not_differ_from_itself(saved):
    path = saved(filled())

    assert list(diff(path, path)) == []


def test_what_was_created_deleted_and_changed_is_told_with_both_revisions(saved):
    keys = filled()
    before = saved(keys, "before.db")
    keys.put(WIDGET + b"w", b"{}").put(POD + b"p01", b"k8s\x00two").delete(POD + b"p02").put(POD + b"new")
    after = saved(keys, "after.db")

    found = told(diff(before, after))

    assert found == [
        ("created", "Pod", "new", 0, 48),
        ("changed", "Pod", "p01", 3, 46),
        ("deleted", "Pod", "p02", 4, 0),
        ("created", "widgets.stable.example.com", "w", 0, 45),
    ]
    backwards = [(what, name) for what, _, name, _, _ in told(diff(after, before))]
    assert backwards == [("deleted", "new"), ("changed", "p01"), ("created", "p02"), ("deleted", "w")]


def test_what_was_written_again_as_it_was_is_not_told(saved):
    keys = filled()
    before = saved(keys, "before.db")

    found = list(diff(before, saved(keys.put(POD + b"p01", b"k8s\x00one"), "after.db")))

    assert found == []


def test_histories_that_parted_differ_even_at_one_revision(saved):
    one, two = filled().put(POD + b"p01", b"here"), filled().put(POD + b"p01", b"there")

    found = told(diff(saved(one, "one.db"), saved(two, "two.db")))

    assert found == [("changed", "Pod", "p01", 45, 45)]


def test_differences_come_by_kind_then_namespace_then_name(saved):
    keys = Keys()
    for key in ("pods/b/a", "pods/a/z", "minions/n2", "pods/a/b", "minions/n1", "example.com/x/a/a", "pods/b/0"):
        keys.put(f"/registry/{key}".encode())

    found = [(c.key.kind, c.key.namespace, c.key.name) for c in diff(saved(Keys(), "none.db"), saved(keys))]

    assert found == sorted(found)
    assert len(found) == 7


@pytest.mark.parametrize(
    ("key", "routine"),
    [(LEASE, True), (EVENT, True), (b"compact_rev_key", True), (b"/registry/masterleases/10.0.0.1", True),
     (POD + b"p01", False)],
)  # fmt: skip
def test_what_a_cluster_renews_by_itself_is_marked(saved, key, routine):
    keys = filled().put(b"/registry/masterleases/10.0.0.1")
    before = saved(keys, "before.db")

    (found,) = diff(before, saved(keys.put(key, b"renewed"), "after.db"))

    assert (found.what, found.routine) == ("changed", routine)


def test_a_lease_that_goes_is_worth_telling_and_an_event_is_not(saved):
    keys = filled()
    before = saved(keys, "before.db")
    after = saved(keys.delete(LEASE).delete(EVENT), "after.db")

    found = {change.key.kind: change.routine for change in diff(before, after)}

    assert found == {"Event": True, "Lease": False}


def test_copies_without_a_sum_are_compared_when_it_is_said(tmp_path):
    keys = filled()
    (tmp_path / "one.db").write_bytes(database(keys.pairs))
    (tmp_path / "two.db").write_bytes(database(keys.put(POD + b"new").pairs))
    sides = (tmp_path / "one.db", tmp_path / "two.db")

    assert [change.key.name for change in diff(*sides, trailer=False)] == ["new"]
    assert [change.key.name for change in diff_keys(sides[1], [], trailer=False)][-1] == "p39"
    with pytest.raises(SnapshotInvalid, match="no SHA-256"):
        next(diff(*sides))


def test_no_room_to_sort_is_an_error_with_a_remedy(saved, monkeypatch):
    monkeypatch.setattr(contents, "_SORT_KIB", "none")

    with pytest.raises(BackupError, match="could not be sorted on disk"):
        next(diff(saved(filled(), "one.db"), saved(Keys(), "two.db")))


@pytest.mark.parametrize("count", [0, 5, 50])
def test_a_file_that_changes_between_two_readings_is_refused(count):
    keys = [(b"a", 1)] * count

    with pytest.raises(SnapshotInvalid, match="was changed while it was read"):
        list(contents._marked(bytearray(20), keys))


small = st.dictionaries(
    st.sampled_from([POD + b"%d" % n for n in range(6)]), st.sampled_from([b"a", b"b"]), max_size=6
)  # fmt: skip


@given(small, small)
def test_two_sets_of_keys_differ_as_dictionaries_do(tmp_path_factory, one, two):
    directory, paths = tmp_path_factory.mktemp("pair"), []
    for name, values in (("one", one), ("two", two)):
        keys = Keys()
        for key, value in values.items():
            keys.put(key, b"old").put(key, value)
        paths.append(directory / name)
        paths[-1].write_bytes(snapshot(keys.pairs))

    found = {POD + c.key.name.encode(): c.what for c in diff(*paths)}

    one_sided = dict.fromkeys(two.keys() - one.keys(), "created") | dict.fromkeys(one.keys() - two.keys(), "deleted")
    assert found == one_sided | {key: "changed" for key in one.keys() & two.keys() if one[key] != two[key]}


# ---- live -----------------------------------------------------------------------------------------------------


def answer(*keys, **more):
    kvs = [
        {"key": base64.b64encode(k).decode(), "create_revision": 2, "mod_revision": r, "version": 1} for k, r in keys
    ]
    header = {"cluster_id": 7089079278313558743, "member_id": 2366075558647270523, "revision": 60, "raft_term": 2}
    return json.dumps({"header": header, **({"kvs": kvs} if kvs else {}), "count": len(kvs), **more})


def test_etcds_answer_is_read():
    found = parse_live([answer((POD + b"p01", 7), (LEASE, 9))])

    assert (found.revision, found.cluster) == (60, "6261780b487652d7")
    assert found.keys == (LiveKey(POD + b"p01", 2, 7), LiveKey(LEASE, 2, 9))


def test_an_etcd_without_keys_answers_none():
    assert parse_live([answer()]).keys == ()


@pytest.mark.parametrize("lines", [[], [""], ["{}"], ["Error: x"], [answer((POD, 1))[:-9]]])
def test_another_answer_is_an_error_not_an_empty_etcd(lines):
    with pytest.raises(FactUnreadable, match="cannot be read"):
        parse_live(lines)


def test_half_an_answer_is_an_error():
    with pytest.raises(FactUnreadable, match="told 1 of its keys, and has more"):
        parse_live([answer((POD, 1), more=True)])


def test_a_live_key_differs_when_its_revision_is_newer(saved):
    keys = Keys().put(POD + b"same").put(POD + b"written").put(POD + b"gone").put(b"compact_rev_key")
    live = parse_live([answer((POD + b"same", 2), (POD + b"written", 50), (POD + b"new", 51))])

    found = told(diff_keys(saved(keys), live.keys))

    assert found == [
        ("deleted", "Pod", "gone", 4, 0),
        ("created", "Pod", "new", 0, 51),
        ("changed", "Pod", "written", 3, 50),
    ]
    older = parse_live([answer((POD + b"same", 1), (POD + b"written", 1), (POD + b"gone", 1))])
    assert list(diff_keys(saved(keys), older.keys)) == []
