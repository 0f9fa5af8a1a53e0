"""What is in a snapshot and what differs, as people and programs are shown it; and the command, on files."""

import base64
import json
from types import SimpleNamespace

import pytest
import typer

from orchestrator import etcds
from orchestrator.backup import records
from orchestrator.backup.contents import Change, census, parse_key
from orchestrator.backup.snapshot import examine
from orchestrator.cli import contents as command
from orchestrator.cli.context import application
from orchestrator.cluster import queries
from orchestrator.cluster.etcd import Member, Status
from orchestrator.cluster.etcdhosts import Etcd, EtcdHost
from orchestrator.cluster.frame import Query
from orchestrator.cluster.hostfacts import EtcdFacts
from orchestrator.errors import BadUsage, Refused, SnapshotInvalid
from orchestrator.library import Library
from orchestrator.report import bodies
from orchestrator.report import contents as report
from orchestrator.report.contents import KINDS, Side, Wanted
from tests.fakes.boltfiles import Keys, snapshot

BEFORE, AFTER = Side("prod-1 at /backups", 100), Side("cp-1, now", 140, live=True)
SEALED = b"k8s:enc:aescbc:v1:key1:\x8f\x00"


def change(path, before, after):
    return Change(parse_key(f"/registry/{path}".encode()), before, after)


CHANGES = (
    change("events/web/e1", 0, 130),
    change("leases/kube-node-lease/n1", 99, 140),
    change("pods/web/a", 0, 120),
    change("pods/web/b", 50, 0),
    change("pods/db/a", 50, 130),
    change("example.com/widgets/web/w", 40, 135),
    change("minions/n1", 41, 136),
)


def table(changes=CHANGES, notes=(), **wanted):
    return report.differences(BEFORE, AFTER, report.counted(changes, Wanted(**wanted)), notes)


def document(changes=CHANGES, **wanted):
    return report.differences_document(BEFORE, AFTER, report.counted(changes, Wanted(**wanted)))


# ---- what differs ---------------------------------------------------------------------------------------------


def test_differences_are_counted_by_kind_and_then_listed():
    assert table(CHANGES[1:4]).splitlines() == [
        "before  prod-1 at /backups, revision 100",
        "after   cp-1, now, revision 140",
        "",
        "1 created, 1 deleted, 0 changed",
        "",
        "KIND  CREATED  DELETED  CHANGED",
        "Pod   1        1        -",
        "",
        "CHANGE   KIND  NAMESPACE  NAME  REVISION",
        "created  Pod   web        a     - -> 120",
        "deleted  Pod   web        b     50 -> -",
        "",
        "not shown: 1 difference of routine, leases renewed, events that came or went (--all)",
    ]


def test_nothing_that_differs_is_said():
    assert "nothing differs" in table(())
    assert "KIND" not in table(CHANGES[:2])


def test_routine_is_listed_when_it_is_asked_for():
    shown = table(routine=True)

    assert "of routine" not in shown
    assert [line.split()[1] for line in shown.splitlines() if "e1" in line or " n1 " in line] == [
        "Event",
        "Lease",
        "Node",
    ]


def test_a_long_list_ends_with_how_many_more_there_are():
    shown = table(most=2)

    assert "... and 3 more (--all shows them)" in shown
    assert "1 created, 1 deleted, 3 changed" in shown
    assert "... and" not in table(most=5)


def test_what_makes_a_comparison_doubtful_comes_first():
    assert table(notes=["they are of two clusters"]).splitlines()[3:5] == ["ATTENTION", "  they are of two clusters"]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"namespace": "web"}, ["a", "b", "w"]),
        ({"kind": "Pod"}, ["a", "b", "a"]),
        ({"kind": "pods"}, ["a", "b", "a"]),
        ({"kind": "NODES"}, ["n1"]),
        ({"kind": "widgets.example.com"}, ["w"]),
        ({"kind": "widgets", "namespace": "db"}, []),
        ({"kind": "event", "routine": True}, ["e1"]),
    ],
)
def test_only_the_wanted_namespace_and_kind_are_shown(wanted, names):
    assert [each.name for each in document(**wanted).changes] == names


def test_the_document_has_every_field_of_a_difference():
    found = bodies.body(document(CHANGES[2:5]))

    assert found["before"] == {"where": "prod-1 at /backups", "live": False, "revision": 100}
    assert found["after"] == {"where": "cp-1, now", "live": True, "revision": 140}
    assert (found["created"], found["deleted"], found["changed"], found["routine"]) == (1, 1, 1, 0)
    assert found["kinds"] == [{"kind": "Pod", "created": 1, "deleted": 1, "changed": 1}]
    assert found["changes"][0] == {
        "change": "created", "kind": "Pod", "group": "", "resource": "pods", "namespace": "web", "name": "a",
        "beforeRevision": None, "afterRevision": 120,
    }  # fmt: skip
    assert document(CHANGES[-1:]).changes[0].namespace is None


def test_documents_are_known_by_their_kind():
    assert {name: kind.__name__ for name, kind in KINDS.items()} == {name: name for name in KINDS}


# ---- what is in it --------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
    """Writes keys as a snapshot; gives its path."""

    def written(keys, name="s.db"):
        path = tmp_path / name
        path.write_bytes(snapshot(keys.pairs))
        return path

    return written


def filled():
    keys = Keys().put(b"/registry/secrets/web/a", SEALED).put(b"/registry/secrets/web/b", b"k8s\x00" + b"x" * 2000)
    keys.put(b"/registry/configmaps/web/a", SEALED).put(b"/registry/minions/n1", b"k8s\x00")
    return keys.put(b"/registry/example.com/widgets/db/w", b"{" + b"x" * 2_000_000 + b"}")


def shown(path):
    return report.contents("s.db", examine(path), census(path))


def test_contents_are_shown_by_kind_and_by_size(write):
    text = shown(write(filled()))

    assert "  objects       5 of 4 kinds, 2.0 MB" in text
    assert "  encrypted     2 values by aescbc v1, key key1" in text
    assert "  ATTENTION     1 of 2 Secrets not encrypted" in text
    assert "  custom        example.com 1" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["Secret", "2", "2.1", "kB", "1", "of", "2", "web", "2"] in rows
    assert ["ConfigMap", "1", "0.1", "kB", "all", "web", "1"] in rows
    assert ["Node", "1", "0.0", "kB", "no", "-"] in rows
    assert ["widgets.example.com", "db", "w", "2.0", "MB"] in rows


def test_that_nothing_is_encrypted_at_rest_is_said(write):
    text = shown(write(Keys().put(b"/registry/secrets/web/b", b"k8s\x00")))

    assert "encrypted     nothing: whoever has this file can read all of it" in text
    assert "ATTENTION" not in text
    assert "custom " not in text


def test_secrets_that_are_all_encrypted_are_no_reason_for_attention(write):
    assert "ATTENTION" not in shown(write(Keys().put(b"/registry/secrets/web/a", SEALED)))


def test_the_document_of_contents_counts_every_namespace(write):
    path = write(filled())

    found = bodies.body(report.contents_document("s.db", examine(path), census(path)))

    assert (found["revision"], found["objects"]) == (6, 5)
    assert found["kinds"][2] == {
        "kind": "Secret", "group": "", "resource": "secrets", "objects": 2, "sizeBytes": 2075, "encrypted": 1,
        "namespaces": {"web": 2},
    }  # fmt: skip
    assert found["encryption"] == [{"provider": "aescbc", "version": "v1", "key": "key1", "objects": 2}]
    assert found["customResources"] == {"example.com": 1}
    assert found["largest"][-1]["name"] in {"n1", "a"}


# ---- the command ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("ORCHESTRATOR_BACKUP_TO", raising=False)
    return tmp_path


def run(*words):
    """Runs the command without the root that turns errors into text."""
    app = typer.Typer()
    command.register(app)
    app.command("other")(lambda: None)
    app(args=["diff", *map(str, words)], standalone_mode=False)


@pytest.fixture
def pair(write):
    keys = filled()
    return write(keys, "before.db"), write(
        keys.put(b"/registry/pods/web/a").delete(b"/registry/minions/n1"), "after.db"
    )


def test_two_files_are_compared(pair, capsys):
    run(*pair, "-o", "json")

    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["before"]["where"]) == ("SnapshotDiff", str(pair[0]))
    assert [(each["change"], each["kind"], each["name"]) for each in found["changes"]] == [
        ("deleted", "Node", "n1"),
        ("created", "Pod", "a"),
    ]


def test_flags_choose_what_is_shown(pair, capsys):
    run(*pair, "--kind", "node", "--all")

    shown = capsys.readouterr().out
    assert "0 created, 1 deleted, 0 changed" in shown


@pytest.mark.parametrize("words", [["a.db"], ["a.db", "b.db", "--live"]])
def test_one_side_or_three_are_refused(words):
    with pytest.raises(BadUsage, match="it takes two to compare"):
        run(*words)


def test_a_file_that_is_not_there_is_refused(pair):
    with pytest.raises(BadUsage, match="there is no file"):
        run(pair[0], "/nowhere/a.db")


def test_a_damaged_file_is_not_compared(pair):
    pair[1].write_bytes(pair[1].read_bytes()[:-1] + b"x")

    with pytest.raises(SnapshotInvalid):
        run(*pair)


def recorded(path, directory, name, **changes):
    """Puts a snapshot into a directory of snapshots, with its record."""
    directory.mkdir(exist_ok=True)
    found, content = examine(path), path.read_bytes()
    (directory / f"{name}.db").write_bytes(content)
    known = {
        "at": 1.0, "reason": "manual", "cluster": "prod", "cluster_id": "1", "authority": "aa", "node": "cp-1",
        "etcd": "3.6.0", "kubernetes": "v1.37.2", "members": (),
    } | changes  # fmt: skip
    record = records.Record(
        name=name, revision=found.revision, keys=found.keys, size_bytes=len(content), sha256=found.sha256,
        data=records.Part(file=f"{name}.db", size_bytes=len(content), sha256=found.sha256), **known,
    )  # fmt: skip
    (directory / f"{name}.json").write_bytes(records.encode(record))


ONE, TWO = "prod-20260101T000000Z-r6", "prod-20260102T000000Z-r8"


def test_recorded_snapshots_are_fetched_compared_and_gone_again(pair, home, capsys):
    recorded(pair[0], home / "kept", ONE)
    recorded(pair[1], home / "kept", TWO, at=2.0)

    run(ONE, "last", "--from", home / "kept", "-o", "json")

    found = json.loads(capsys.readouterr().out)
    assert (found["before"]["revision"], found["after"]["revision"]) == (6, 8)
    assert (found["created"], found["deleted"], found["notes"]) == (1, 1, [])
    assert [each for each in (home / "state").rglob("*") if each.is_file()] == []


def test_snapshots_of_two_clusters_are_compared_with_a_warning(pair, home, capsys):
    recorded(pair[0], home / "kept", ONE)
    recorded(pair[1], home / "kept", TWO, authority="bb", cluster="other")

    run(ONE, TWO, "--from", home / "kept")

    assert f"{TWO} of cluster other" in capsys.readouterr().out


def test_a_recorded_snapshot_that_is_damaged_is_not_compared(pair, home):
    recorded(pair[0], home / "kept", ONE)
    (home / "kept" / f"{ONE}.db").write_bytes(b"short")

    with pytest.raises(SnapshotInvalid):
        run(ONE, pair[1], "--from", home / "kept")


# ---- live -----------------------------------------------------------------------------------------------------


def member(number, *, learner=False):
    urls = ([f"https://10.0.0.{number}:2380"], [f"https://10.0.0.{number}:2379"])
    return Member(number, f"cp-{number}", *map(tuple, urls), learner=learner)


def status(number, leader):
    return Status(f"cp-{number}", number, "3.6.0", "3.6.0", 1, 1, 0, leader, 1, 1, 1, learner=False, errors=())


def surveyed(*members, leader=1, well=(1, 2, 3), external=""):
    hosts = {m.name: EtcdHost(m.name, "static pod", flags={"name": m.name}, authority="aa") for m in members}
    facts = EtcdFacts(
        members=tuple(members),
        statuses=tuple(status(m.id, leader) for m in members),
        health={url: "" if m.id in well else "slow" for m in members for url in m.client_urls},
    )
    return Etcd("prod", 1.0, hosts, facts, external)


@pytest.mark.parametrize(
    ("found", "node"),
    [
        (surveyed(member(1), member(2), member(3)), "cp-2"),
        (surveyed(member(1)), "cp-1"),
        (surveyed(member(1), member(2), well=(1,)), "cp-1"),
        (surveyed(member(1), member(2, learner=True)), "cp-1"),
    ],
)
def test_a_healthy_follower_is_asked_and_else_the_leader(found, node):
    assert command.healthy(found) == node


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (surveyed(member(1), well=()), "no member of etcd is well"),
        (surveyed(external="https://e:2379"), "https://e:2379"),
    ],
)
def test_an_etcd_that_cannot_be_asked_is_refused(found, why):
    with pytest.raises(Refused, match=why):
        command.healthy(found)


@pytest.fixture
def live(monkeypatch):
    """Has an etcd answer with these keys at a revision."""

    def answers(keys, revision):
        kvs = [{"key": base64.b64encode(key).decode(), "mod_revision": at} for key, at in keys]
        said = json.dumps({"header": {"revision": revision}, "kvs": kvs})
        query = Query("etcd-keys", "", 1.0)
        reader = SimpleNamespace(ask=lambda node, asked: f"@@keys\n {said}\n@@end\n" if asked is query else "")
        monkeypatch.setattr(queries, "ETCD_KEYS", query, raising=False)
        monkeypatch.setattr(etcds, "survey", lambda app: surveyed(member(1)))
        monkeypatch.setattr("orchestrator.app.App.reader", reader)

    return answers


def test_a_snapshot_is_compared_with_what_etcd_has_now(pair, live, capsys):
    live([(b"/registry/secrets/web/a", 2), (b"/registry/secrets/web/b", 9)], 10)

    run(pair[0], "--live", "-o", "json")

    found = json.loads(capsys.readouterr().out)
    assert found["after"] == {"where": "cp-1, now, cluster prod", "live": True, "revision": 10}
    assert (found["created"], found["deleted"], found["changed"], found["notes"]) == (0, 3, 1, [])


def test_an_etcd_that_is_behind_the_snapshot_or_another_is_told(pair, home, live, capsys):
    recorded(pair[0], home / "kept", ONE, authority="bb")
    live([], 3)

    run(ONE, "--live", "--from", home / "kept")

    text = " ".join(capsys.readouterr().out.split())
    assert f"{ONE} is of cluster prod, not of this one" in text
    assert "etcd is at revision 3, the snapshot at 6" in text


def test_a_deep_look_shows_the_contents_of_a_proven_file(pair, capsys):
    library = Library(application(kubeconfig=None, context=None), ())

    command.deep(library, str(pair[0]), (), command.Output.JSON)

    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["objects"], found["where"]) == ("SnapshotContents", 5, str(pair[0]))
