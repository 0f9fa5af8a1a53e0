"""`etcd` on the command line: what cannot be meant, and what needs no cluster: lists, proofs, policies, pins."""

import hashlib
import json
import os
import re
import signal
import time
from types import SimpleNamespace

import msgspec
import pytest

from orchestrator import backups, monitoring
from orchestrator.backup import metrics, records
from orchestrator.backup.records import Part, Record
from orchestrator.cli import perform
from orchestrator.cli.main import main
from orchestrator.errors import Refused
from orchestrator.planners.backup import Request, backup
from tests.fakes import boltfiles

COMMANDS = ("backup", "list", "verify", "prune", "pin", "drill", "extract", "status")
DAY = 86400.0
#: The start of a day long ago: all that is taken then is old.
AT = 1795521600.0
SNAPSHOT = boltfiles.snapshot(boltfiles.Keys().put(b"/registry/pods/shop/web-1").put(b"/registry/secrets/a/b").pairs)
VARIABLES = ("ORCHESTRATOR_BACKUP_TO", "ORCHESTRATOR_BACKUP_RECIPIENTS", "ORCHESTRATOR_BACKUP_KEEP")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command, with a user's directories of its own and a kubeconfig that is not there: nothing may be asked."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def called(*words, command=("etcd",)):
        with pytest.raises(SystemExit) as end:
            main([*command, *map(str, words)])
        said = capsys.readouterr()
        return SimpleNamespace(code=end.value.code, out=said.out, err=said.err)

    return called


def keep(directory, revision, *, at=AT, content=SNAPSHOT, **changes):
    """A snapshot at a destination, with its record."""
    directory.mkdir(exist_ok=True)
    name = records.named("prod", at, revision)
    sha256 = hashlib.sha256(content).hexdigest()
    fields = {
        "name": name,
        "at": at,
        "reason": "manual",
        "run": f"backup-{revision}",
        "cluster": "prod",
        "cluster_id": "c1",
        "authority": "a1",
        "node": "cp-1",
        "etcd": "3.6.8",
        "kubernetes": "v1.36.3",
        "revision": revision,
        "keys": 2,
        "size_bytes": len(content),
        "sha256": sha256,
        "data": Part(file=f"{name}.db", size_bytes=len(content), sha256=sha256),
        "members": (),
    }
    record = Record(**(fields | changes))
    (directory / record.data.file).write_bytes(content)
    (directory / f"{name}.json").write_bytes(records.encode(record))
    return record


@pytest.fixture
def place(tmp_path):
    return tmp_path / "backups"


# ---- what cannot be meant -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_names_every_command(run, command):
    found = run("--help")

    assert found.code == 0
    assert re.search(rf"^  {command}\s", found.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "missing command"),
        (("save",), "no such command 'save'"),
        (("status", "--bogus"), "no such option: --bogus"),
        (("status", "-o", "xml"), "'xml' is not one of"),
        (("backup", "cp-1"), "unexpected extra argument"),
        (("backup", "--dry-run=maybe"), "'maybe' is not one of"),
        (("backup", "--to", ""), "a destination without a name"),
        (("backup", "--to", "ftp://host/dir"), "of the kind ftp:// are not known"),
        (("backup", "--to", "sftp://host"), "names no directory of a host"),
        (("backup", "--to", "s3://"), "names no bucket"),
        (("backup", "--to", "s3://b/prod?colour=blue"), "settings that are not known: colour"),
        (("backup", "--to", "s3://b?endpoint=http://minio.lan:9000"), "in the clear"),
        (("backup", "--to", "node-1:backups"), "neither a directory of a node nor a URL"),
        (("backup", "--to", "/srv/a", "--to", "gs://"), "names no bucket"),
        (("backup", "--recipient", "age1nonsense"), "is no recipient"),
        (("backup", "--recipient", "@/nonexistent"), "cannot be read"),
        (("backup", "--keep", "dayly=7"), "no rule 'dayly'"),
        (("backup", "--keep", "daily"), "daily has no number"),
        (("backup", "--keep", "daily=0"), "would keep nothing"),
        (("list", "--max-age", "1d"), "--max-age=1d is not a duration"),
        (("list", "--max-age", "26"), "--max-age=26 is not a duration"),
        (("list", "--from", "ftp://host/dir"), "of the kind ftp:// are not known"),
        (("verify",), "missing argument"),
        (("verify", "./nothing.db"), "there is no file ./nothing.db"),
        (("verify", "prod-2"), "there is no snapshot 'prod-2'"),
        (("verify", "last"), "there is no snapshot 'last'"),
        (("prune",), "missing option '--keep'"),
        (("prune", "--keep", ""), "--keep is empty"),
        (("prune", "--keep", "last=x"), "not a whole number"),
        (("prune", "--keep", "max-age=400"), "not a whole number with a unit"),
        (("pin", "last"), "missing option '--reason'"),
        (("pin", "last", "--reason", "x"), "there is no snapshot 'last'"),
        (("drill", "--here", "--node", "cp-1"), "--here and --node are two places"),
        (("drill", "--programs", "/opt"), "--programs is for --here"),
        (("drill", "--encryption-config", "/x"), "--encryption-config is for --api-server"),
        (("extract",), "missing argument"),
        (("extract", "last", "deploy"), "missing argument"),
        (("extract", "last", "deploy", "shop/web", "--here", "--node", "cp-1"), "--here and --node are two places"),
        (("extract", "last", "deploy", "shop/web", "--programs", "/opt"), "--programs is for --here"),
        (("extract", "last", "deploy", "a/b/c"), "names no object"),
        (("extract", "last", "deploy,svc", "shop/web"), "names no object"),
        (("extract", "last", "deploy", "shop/web", "-o", "table"), "'table' is not one of"),
        (("extract", "last", "deploy", "shop/web"), "there is no snapshot 'last'"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_a_remedy(run, words, said):
    found = run(*words)

    errors = [line for line in found.err.splitlines() if line.startswith("error: ")]
    assert (found.code, found.out) == (2, "")
    assert len(errors) == 1
    assert said in errors[0]
    assert "\nremedy: " in found.err
    assert "Traceback" not in found.err


def test_credentials_in_a_destination_are_refused_and_not_repeated(run):
    found = run("backup", "--to", "s3://AKIA:hunter2@bucket/prod")

    assert found.code == 2
    assert "hunter2" not in found.err
    assert "AWS_SECRET_ACCESS_KEY" in found.err


def test_a_rule_that_is_nearly_one_is_offered(run):
    assert "did you mean daily?" in run("backup", "--keep", "dayly=7").err


def test_a_name_of_several_snapshots_is_refused_with_their_names(run, place):
    first, second = keep(place, 1), keep(place, 2, at=AT + DAY)

    found = run("verify", "prod-", "--from", place)

    assert found.code == 2
    assert f"one of: {first.name}, {second.name}" in found.err


# ---- the words of a backup ------------------------------------------------------------------------------------


@pytest.fixture
def wishes(monkeypatch):
    """What the command asks for; it is refused then."""
    asked = []

    def prepare(app, wish, say):
        asked.append((app, wish))
        say("a note")
        raise Refused("no member is well", remedy="look")

    monkeypatch.setattr(backups, "prepare", prepare)
    return asked


def test_the_words_of_the_command_line_arrive(run, wishes):
    words = ["--to", "/srv", "--to", "s3://b", "--recipient", "age1a", "--keep", "daily=7", "--node", "node/cp-1"]
    found = run("backup", *words, "--no-recovery-set", "--no-compress", "--pin", "why", "--scheduled", "--ssh")

    [(app, wish)] = wishes
    assert (wish.destinations, wish.recipients, wish.keep) == (("/srv", "s3://b"), ("age1a",), "daily=7")
    assert (wish.node, wish.pin, wish.reason) == ("cp-1", "why", "scheduled")
    assert (wish.recovery, wish.compress, app.settings.ssh) == (False, False, True)
    assert (found.code, found.out) == (20, "")
    assert "a note" in found.err


def test_without_words_it_is_a_manual_one_that_removes_nothing(run, wishes):
    run("backup")

    [(_, wish)] = wishes
    assert (wish.destinations, wish.recipients, wish.keep, wish.pin) == ((), (), "", "")
    assert (wish.reason, wish.recovery, wish.compress, wish.node) == ("manual", True, True, "")


def test_the_environment_has_destinations_and_recipients_between_spaces(run, wishes, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_BACKUP_TO", "/srv/a s3://b/prod")
    monkeypatch.setenv("ORCHESTRATOR_BACKUP_RECIPIENTS", "age1a @/etc/keys")
    monkeypatch.setenv("ORCHESTRATOR_BACKUP_KEEP", "daily=7,weekly=4")

    run("backup")

    [(_, wish)] = wishes
    assert wish.destinations == ("/srv/a", "s3://b/prod")
    assert wish.recipients == ("age1a", "@/etc/keys")
    assert wish.keep == "daily=7,weekly=4"


def test_flags_come_before_the_environment(run, wishes, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_BACKUP_TO", "/srv/a")

    run("backup", "--to", "/srv/b")

    assert wishes[0][1].destinations == ("/srv/b",)


def test_quiet_says_nothing_but_the_error(run, wishes):
    found = run("backup", "--quiet")

    assert found.out == ""
    assert found.err == "error: no member is well\nremedy: look\n"


def test_a_backup_that_failed_is_in_the_file_of_metrics(run, wishes, tmp_path):
    path = tmp_path / "etcd.prom"

    found = run("backup", "--to", "/srv", "--metrics-file", path)

    [told] = metrics.parse(path.read_text())
    assert found.code == 20
    assert (told.attempt_ok, told.success_at) == (False, None)
    assert [(copy.destination, copy.ok) for copy in told.copies] == [("/srv", False)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_backup_that_is_ended_before_its_run_began_is_a_failed_try(run, monkeypatch, tmp_path, number):
    path, before = tmp_path / "etcd.prom", signal.signal(signal.SIGTERM, lambda *_: None)

    def prepare(app, wish, say):
        os.kill(os.getpid(), number)
        raise Refused("nobody ended it", remedy="look")

    monkeypatch.setattr(backups, "prepare", prepare)
    try:
        found = run("backup", "--to", "/srv", "--metrics-file", path)
        after = signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    [told] = metrics.parse(path.read_text())
    assert (found.code, found.err, told.attempt_ok) == (130, "stopped\n", False)
    assert "<lambda>" in repr(after), "as it was before"


def test_metrics_that_cannot_be_written_do_not_hide_why_a_backup_failed(run, wishes, tmp_path):
    found = run("backup", "--metrics-file", tmp_path / "nowhere" / "etcd.prom")

    assert found.code == 20
    assert "error: no member is well\n  metrics could not be written to " in found.err


def test_where_a_run_is_told_of_is_known_to_who_resumes_it(run, monkeypatch, tmp_path):
    noted = []

    def performed(app, plan, **how):
        noted.append(how["noted"])
        raise Refused("as far as this goes", remedy="look")

    monkeypatch.setattr(backups, "prepare", lambda *_: backup(Request("backup-1", "cp-1", ("/srv",))))
    monkeypatch.setattr(perform, "performed", performed)
    monkeypatch.chdir(tmp_path)

    run("backup", "--metrics-file", "etcd.prom")
    run("backup")

    assert noted == [{"metrics_file": str(tmp_path / "etcd.prom")}, {}]


def test_resume_tells_of_a_backup(run, monkeypatch):
    def resume(app, name):
        raise Refused(f"{name} was asked for", remedy="look")

    monkeypatch.setattr(monitoring, "resume", resume)

    assert run("resume", "last", command=()).err.startswith("error: last was asked for\n")


# ---- lists ----------------------------------------------------------------------------------------------------


def test_a_list_of_nothing_says_so(run):
    found = run("list")

    assert (found.code, found.out, found.err) == (0, "no snapshots\n", "")


def test_snapshots_of_several_destinations_are_listed_each_once(run, tmp_path):
    for name in ("a", "b"):
        keep(tmp_path / name, 1)

    document = json.loads(run("list", "--from", tmp_path / "a", "--from", tmp_path / "b", "-o", "json").out)

    [snapshot] = document["snapshots"]
    assert (document["kind"], snapshot["revision"]) == ("SnapshotList", 1)
    assert [p["url"] for p in snapshot["places"]] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_only_the_snapshots_of_one_cluster_are_listed_where_it_is_named(run, place):
    keep(place, 1)

    assert "no snapshots" in run("list", "--from", place, "--cluster", "other").out
    assert "prod-" in run("list", "--from", place, "--cluster", "prod").out


def test_snapshots_that_are_too_old_exit_with_40_and_are_listed_all_the_same(run, place):
    one = keep(place, 1, at=AT - 900 * DAY)

    found = run("list", "--from", place, "--max-age", "26h")

    assert found.code == 40
    assert one.name in found.out
    assert "it may be 26.0 h" in found.err
    assert "remedy: orchestrator etcd backup" in found.err


def test_a_damaged_snapshot_does_not_count_as_a_young_one(run, place):
    one = keep(place, 1, at=time.time() - 60)
    whole = run("list", "--from", place, "--max-age", "1h")
    (place / one.data.file).write_bytes(b"")

    found = run("list", "--from", place, "--max-age", "1h")

    assert (whole.code, found.code) == (0, 40)
    assert "(DAMAGED)" in found.out


def test_a_destination_that_cannot_be_read_is_told_beside_what_could_be(run, place, tmp_path):
    one = keep(place, 1)
    (tmp_path / "file").write_text("")

    found = run("list", "--from", place, "--from", tmp_path / "file")

    assert found.code == 40
    assert one.name in found.out
    assert "could not be read" in found.out
    assert "error: " in found.err


# ---- proofs ---------------------------------------------------------------------------------------------------


def test_a_file_that_is_whole_is_proven_whoever_made_it(run, tmp_path):
    path = tmp_path / "any.db"
    path.write_bytes(SNAPSHOT)

    found = run("verify", path)

    assert (found.code, found.err) == (0, "")
    assert found.out.startswith(f"{path}: whole\n")
    assert "2 live" in found.out


def test_a_snapshot_is_proven_by_its_name_or_as_the_last(run, place):
    keep(place, 1)
    last = keep(place, 2, at=AT + 60)

    by_name, newest = (run("verify", name, "--from", place) for name in (last.name[:-1], "last"))

    assert (by_name.code, newest.code) == (0, 0)
    assert by_name.out == newest.out
    assert newest.out.startswith(f"{last.name} at {place}: whole")


@pytest.mark.parametrize("at", [0, 5000, -1])
def test_a_byte_that_changed_exits_with_40(run, place, at):
    one = keep(place, 1)
    content = bytearray(SNAPSHOT)
    content[at] ^= 1
    (place / one.data.file).write_bytes(bytes(content))

    found, as_file = run("verify", "last", "--from", place), run("verify", place / one.data.file)

    assert (found.code, found.out, as_file.code) == (40, "", 40)
    assert "was recorded" in found.err
    assert "remedy: " in found.err


def test_a_bad_copy_exits_with_40_beside_one_that_is_whole(run, place, tmp_path):
    one = keep(place, 1)
    keep(tmp_path / "b", 1)
    (tmp_path / "b" / one.data.file).write_bytes(SNAPSHOT[:-1] + bytes([SNAPSHOT[-1] ^ 1]))

    found = run("verify", "last", "--from", place, "--from", tmp_path / "b")

    assert found.code == 40
    assert f"  at            {place}: whole; recovery set: none\n" in found.out
    assert f"  at            {tmp_path / 'b'}: NOT WHOLE, " in found.out
    assert "error: " in found.err


def test_a_proof_is_in_the_list_afterwards(run, place):
    keep(place, 1, at=AT - 900 * DAY)

    def proven():
        return json.loads(run("list", "--from", place, "-o", "json").out)["snapshots"][0]["verified"]

    before = proven()
    run("verify", "last", "--from", place)

    assert before < proven()


def test_a_copy_of_a_database_has_no_sum_and_is_proven_only_when_that_is_said(run, tmp_path):
    path = tmp_path / "db"
    path.write_bytes(SNAPSHOT[:-32])

    assert run("verify", path).code == 40
    assert run("verify", "--no-trailer", path).code == 0


def test_another_snapshot_beside_a_record_is_not_the_one_recorded(run, place):
    one = keep(place, 1)
    other = boltfiles.snapshot(boltfiles.Keys().put(b"/registry/pods/x/y").pairs)
    (place / one.data.file).write_bytes(other)

    found = run("verify", place / one.data.file)

    assert found.code == 40
    assert "is not the one that" in found.err


def test_what_is_encrypted_asks_for_an_identity(run, place):
    keep(place, 1, recipients=("age1abc",))

    found = run("verify", "last", "--from", place)

    assert found.code == 2
    assert "remedy: give the file of an identity: --identity FILE" in found.err


def test_nothing_of_a_proof_is_left_behind(run, place, tmp_path):
    keep(place, 1)

    run("verify", "last", "--from", place)

    assert list((tmp_path / "state" / "orchestrator" / "snapshots" / "staging").iterdir()) == []


# ---- policies and pins ----------------------------------------------------------------------------------------


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_dry_run_tells_what_would_go_and_removes_nothing(run, place):
    old, new = keep(place, 1, at=AT - 900 * DAY), keep(place, 2, at=AT - 800 * DAY)
    before = names_in(place)

    found = run("prune", "--keep", "last=1", "--from", place, "--dry-run")

    assert (found.code, names_in(place)) == (0, before)
    assert re.search(rf"{old.name} .* would go .* no rule keeps it", found.out)
    assert re.search(rf"{new.name} .* stays .* last 1 of 1", found.out)


def test_what_no_rule_keeps_is_removed_with_its_record(run, place):
    keep(place, 1, at=AT - 900 * DAY)
    new = keep(place, 2, at=AT - 800 * DAY)

    document = json.loads(run("prune", "--keep", "last=1", "--from", place, "-o", "json").out)

    assert (document["kind"], document["dryRun"]) == ("SnapshotsPruned", False)
    assert [snapshot["keep"] for snapshot in document["snapshots"]] == [True, False]
    assert names_in(place) == [new.data.file, f"{new.name}.json"]


def test_the_last_good_one_stays_whatever_its_age(run, place):
    one = keep(place, 1, at=AT - 900 * DAY)

    run("prune", "--keep", "max-age=1d", "--from", place)

    assert names_in(place) == [one.data.file, f"{one.name}.json"]


def test_the_policy_may_come_from_the_environment(run, place, monkeypatch):
    keep(place, 1, at=AT - 900 * DAY)
    monkeypatch.setenv("ORCHESTRATOR_BACKUP_KEEP", "last=1")
    monkeypatch.setenv("ORCHESTRATOR_BACKUP_TO", str(place))

    assert "last 1 of 1" in run("prune").out


def test_a_pin_that_a_destination_was_away_for_fails_and_says_how_to_repeat_it(run, tmp_path):
    one = keep(tmp_path / "a", 1)
    (tmp_path / "b").write_text("")

    found = run("pin", "last", "--reason", "why", "--from", tmp_path / "a", "--from", tmp_path / "b")

    assert (found.code, found.out) == (40, "")
    assert f"  pinned at {tmp_path / 'a'}\n" in found.err
    assert f"etcd pin {one.name} --reason why --from {tmp_path / 'b'}\n" in found.err


def test_a_pin_is_put_everywhere_keeps_it_and_can_be_taken_back(run, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        keep(directory, 1, at=AT - 900 * DAY)
        keep(directory, 2, at=AT - 800 * DAY)
    name, where = records.named("prod", AT - 900 * DAY, 1), ("--from", first, "--from", second)

    pinned = run("pin", name, "--reason", "before the migration", *where)
    judged = run("prune", "--keep", "last=1", *where)
    loose = run("pin", name, "--reason", "", *where)

    assert pinned.out == f"pinned at {first}\npinned at {second}\n"
    assert judged.out.count("pinned: before the migration") == 2
    assert loose.out == f"no longer pinned at {first}\nno longer pinned at {second}\n"
    assert {msgspec.json.decode((d / f"{name}.json").read_bytes())["pin"] for d in (first, second)} == {""}
