"""What monitoring is told of backups, and what a failure leaves of it."""

import os
import re
import stat

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backup import metrics
from orchestrator.backup.metrics import Copy, Metrics
from orchestrator.errors import StoreError

AT = 1795521600.0
SUCCESS = Metrics(
    cluster="prod",
    attempt_at=AT,
    attempt_ok=True,
    success_at=AT,
    size_bytes=52_428_832,
    stored_size_bytes=9_000_123,
    duration_s=12.25,
    revision=4711,
    verified=True,
    keys=200,
    drill_at=AT - 3600,
    drill_ok=False,
    copies=(
        Copy(destination="/var/backups/etcd", ok=True, success_at=AT),
        Copy(destination="s3://backups/prod", ok=False, success_at=AT - 86400),
    ),
)
FAILURE = Metrics(
    cluster="prod",
    attempt_at=AT + 3600,
    attempt_ok=False,
    copies=(Copy(destination="/var/backups/etcd", ok=False),),
)

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABELS = r'\{([a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*")*)\}'


def samples(text):
    """Of a text in Prometheus' format, strictly read: (metric, labels as they stand there) -> value."""
    found, told, typed = {}, [], []
    assert not text or text.endswith("\n")
    for line in text.split("\n")[:-1]:
        if help_line := re.fullmatch(rf"# HELP ({NAME}) (.+)", line):
            assert help_line[1] not in told, f"two helps: {line}"
            assert told == typed
            told.append(help_line[1])
        elif type_line := re.fullmatch(rf"# TYPE ({NAME}) gauge", line):
            typed.append(type_line[1])
            assert told == typed, f"a type without a help before it: {line}"
        else:
            sample = re.fullmatch(rf"({NAME}){LABELS} (\S+)", line)
            assert sample, f"no sample: {line!r}"
            assert told == typed
            assert sample[1] == typed[-1], f"apart from the others of its metric: {line}"
            assert (sample[1], sample[2]) not in found, f"twice: {line}"
            found[sample[1], sample[2]] = float(sample[3])
    assert {name for name, _ in found} == set(typed), "a metric without a sample"
    return found


def values(text):
    """The same without the prefix, and without the label of the cluster prod."""
    return {
        name.removeprefix("orchestrator_etcd_backup_") + labels.removeprefix('cluster="prod"').replace(",", " "): value
        for (name, labels), value in samples(text).items()
    }


# ---- text -----------------------------------------------------------------------------------------------------


def test_all_that_is_known_is_told():
    text = metrics.render(SUCCESS)

    assert values(text) == {
        "last_success_timestamp_seconds": AT,
        "last_attempt_timestamp_seconds": AT,
        "last_attempt_success": 1,
        "size_bytes": 52_428_832,
        "stored_size_bytes": 9_000_123,
        "duration_seconds": 12.25,
        "revision": 4711,
        "verified": 1,
        "keys": 200,
        "drill_timestamp_seconds": AT - 3600,
        "drill_success": 0,
        'destination_success destination="/var/backups/etcd"': 1,
        'destination_success destination="s3://backups/prod"': 0,
        'destination_last_success_timestamp_seconds destination="/var/backups/etcd"': AT,
        'destination_last_success_timestamp_seconds destination="s3://backups/prod"': AT - 86400,
    }


def test_a_metric_stands_with_its_help_and_its_type_as_prometheus_wants_it():
    text = metrics.render(Metrics(cluster="prod", revision=4711))

    assert text == (
        "# HELP orchestrator_etcd_backup_revision Revision of etcd in the last good snapshot.\n"
        "# TYPE orchestrator_etcd_backup_revision gauge\n"
        'orchestrator_etcd_backup_revision{cluster="prod"} 4711\n'
    )


def test_what_is_not_known_is_not_told_and_not_zero():
    assert metrics.render(Metrics(cluster="prod")) == ""
    assert values(metrics.render(Metrics(cluster="prod", keys=0))) == {"keys": 0}


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), -1.0])
def test_a_number_that_cannot_be_is_not_told(nonsense):
    assert metrics.render(Metrics(cluster="prod", duration_s=nonsense)) == ""


def test_large_revisions_are_told_to_the_last_digit():
    text = metrics.render(Metrics(cluster="prod", revision=2**63 - 1))

    assert text.endswith(" 9223372036854775807\n")
    assert metrics.parse(text)[0].revision == 2**63 - 1


def test_names_are_escaped():
    text = metrics.render(Metrics(cluster='a"b\\c\nd', keys=1))

    assert text.split("\n")[2] == r'orchestrator_etcd_backup_keys{cluster="a\"b\\c\nd"} 1'


def test_a_path_that_is_no_text_is_told_nevertheless():
    copy = Copy(destination=os.fsdecode(b"/backups/\xff"), ok=True)

    text = metrics.render(Metrics(cluster="prod", copies=(copy,)))

    assert text.encode().endswith(b'destination="/backups/?"} 1\n')


# ---- destinations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "shown"),
    [
        ("/var/backups/etcd", "/var/backups/etcd"),
        ("/var/a@b/c:d?e", "/var/a@b/c:d?e"),
        ("backups", "backups"),
        ("s3://backups/prod", "s3://backups/prod"),
        ("s3://backups/a@b", "s3://backups/a@b"),
        ("s3://key:secret@backups/prod", "s3://backups/prod"),
        ("s3://key@backups/prod", "s3://backups/prod"),
        ("sftp://me@nas:2222/etcd", "sftp://nas:2222/etcd"),
        ("sftp://me@nas/a@b", "sftp://nas/a@b"),
        ("https://minio:9000/backups", "https://minio:9000/backups"),
        ("https://[::1]:9000/backups", "https://[::1]:9000/backups"),
        ("s3://backups/prod?X-Amz-Signature=secret", "s3://backups/prod"),
        ("s3://backups?key=secret#secret", "s3://backups"),
        ("s3://key:secret@backups?sig=secret@x", "s3://x"),
        ("s3://key:sec/ret@backups/prod", "s3://backups/prod"),
        ("s3://key:12/secret@backups/prod", "s3://backups/prod"),
        ("s3://key:secret@secret/secret@backups/prod", "s3://backups/prod"),
        ("s3://key:se?c#ret@backups", "s3://backups"),
        ("https://me:secret://secret@nas/x", "https://nas/x"),
        ("simplecache::s3://key:secret@backups", "simplecache::s3://backups"),
        ("me@nas:/etcd", "nas:/etcd"),
        ("sftp:me:secret@nas:/etcd", "nas:/etcd"),
    ],
)
def test_a_destination_is_shown_without_what_may_be_secret(destination, shown):
    assert metrics.label(destination) == shown
    assert metrics.label(shown) == shown


SECRET = st.text(st.sampled_from("qQ/@:?#%+7"), min_size=1).map(lambda text: f"{text}SECRET{text}")


@given(SECRET, SECRET, st.sampled_from(["s3", "sftp", "https"]))
def test_no_password_is_shown_whatever_is_in_it(before, after, scheme):
    copy = Copy(destination=f"{scheme}://key:{before}{after}@backups/prod", ok=True, success_at=AT)

    text = metrics.render(Metrics(cluster="prod", copies=(copy,)))

    assert "SECRET" not in text
    assert f'destination="{scheme}://backups/prod"' in text


def test_destinations_that_look_alike_are_told_once_by_the_worst_of_them():
    copies = (
        Copy(destination="s3://a:1@backups", ok=True, success_at=AT),
        Copy(destination="s3://b:2@backups", ok=False, success_at=AT - 60),
        Copy(destination="s3://c:3@backups"),
    )

    two = values(metrics.render(Metrics(cluster="prod", copies=copies[:2])))
    three = values(metrics.render(Metrics(cluster="prod", copies=copies)))

    assert two == {
        'destination_success destination="s3://backups"': 0,
        'destination_last_success_timestamp_seconds destination="s3://backups"': AT - 60,
    }
    assert three == {'destination_success destination="s3://backups"': 0}


# ---- what was there before ------------------------------------------------------------------------------------


def test_a_failure_leaves_the_last_success_with_its_snapshot():
    before = metrics.render(SUCCESS)

    after = metrics.merge(before, FAILURE)

    assert values(after) == values(before) | {
        "last_attempt_timestamp_seconds": AT + 3600,
        "last_attempt_success": 0,
        'destination_success destination="/var/backups/etcd"': 0,
    }


def test_a_success_renews_its_snapshot_as_a_whole():
    new = Metrics(cluster="prod", attempt_at=AT + 60, attempt_ok=True, success_at=AT + 60, size_bytes=7)

    after = values(metrics.merge(metrics.render(SUCCESS), new))

    assert after["last_success_timestamp_seconds"] == AT + 60
    assert after["size_bytes"] == 7
    assert not {"keys", "revision", "verified", "duration_seconds", "stored_size_bytes"} & after.keys()
    assert after["drill_success"] == 0


def test_a_success_by_a_clock_that_went_back_is_the_last_one():
    new = msgspec.structs.replace(SUCCESS, attempt_at=AT - 999, success_at=AT - 999)

    after = values(metrics.merge(metrics.render(SUCCESS), new))

    assert after["last_success_timestamp_seconds"] == AT - 999


def test_a_drill_changes_nothing_but_the_drill():
    before = metrics.render(SUCCESS)

    after = metrics.merge(before, Metrics(cluster="prod", drill_at=AT + 9, drill_ok=True))

    assert values(after) == values(before) | {"drill_timestamp_seconds": AT + 9, "drill_success": 1}


def test_a_destination_with_other_credentials_is_the_same_destination():
    before = metrics.render(Metrics(cluster="prod", copies=(Copy(destination="s3://a:1@b/c", ok=True, success_at=AT),)))

    after = metrics.merge(before, Metrics(cluster="prod", copies=(Copy(destination="s3://a:2@b/c", ok=False),)))

    assert values(after) == {
        'destination_success destination="s3://b/c"': 0,
        'destination_last_success_timestamp_seconds destination="s3://b/c"': AT,
    }


def test_other_clusters_of_the_file_stay():
    other = msgspec.structs.replace(SUCCESS, cluster="stage")

    after = metrics.merge(metrics.render(other), SUCCESS)

    assert after == metrics.render(SUCCESS, other)
    assert len(samples(after)) == 2 * len(samples(metrics.render(other)))


@pytest.mark.parametrize(
    "previous", ["", "\n", "rubbish", "\x00\xff\n" * 3, "# HELP\n", "orchestrator_etcd_backup_keys 3\n", "{}\n"]
)
def test_a_file_that_cannot_be_read_is_as_none(previous):
    assert metrics.merge(previous, SUCCESS) == metrics.render(SUCCESS)


@pytest.mark.parametrize(
    "line",
    [
        'keys{cluster="prod"} NaN\n',
        'keys{cluster="prod"} 1e3\n',
        'keys{cluster="prod"} 1.5\n',
        'keys{cluster="prod"} 99999999999999999999\n',
        'keys{cluster="prod"} 7 1795521600000\n',
        'keys{cluster="prod",node="cp-1"} 7\n',
        'keys{cluster="prod",destination="/x"} 7\n',
        'keys{cluster="pr\\od"} 7\n',
        'keys{cluster="prod"} 7',
        'nonsense{cluster="prod"} 7\n',
        'verified{cluster="prod"} 2\n',
        'duration_seconds{cluster="prod"} 1e999\n',
        'destination_success{cluster="prod"} 1\n',
    ],
)
def test_a_line_that_we_did_not_write_whole_is_passed_over_and_the_others_are_not(line):
    good = 'orchestrator_etcd_backup_revision{cluster="prod"} 5\n'

    read = metrics.parse(good + "orchestrator_etcd_backup_" + line)

    assert read == (Metrics(cluster="prod", revision=5),)


def test_a_number_that_was_cut_off_is_not_read_as_a_smaller_one():
    cut = metrics.render(Metrics(cluster="prod", success_at=AT))[:-4]

    assert metrics.parse(cut) == ()


TIMES = st.none() | st.floats(0, 1e11) | st.integers(0, 10**10).map(float)
NUMBERS = st.none() | st.integers(0, 2**63 - 1)
FLAGS = st.none() | st.booleans()
NAMES = st.text(st.characters(exclude_categories=["Cs"]))
COPIES = st.lists(st.builds(Copy, destination=NAMES, ok=FLAGS, success_at=TIMES), max_size=3).map(tuple)
KNOWN = st.builds(
    Metrics,
    cluster=NAMES,
    attempt_at=TIMES,
    attempt_ok=FLAGS,
    success_at=TIMES,
    size_bytes=NUMBERS,
    stored_size_bytes=NUMBERS,
    duration_s=TIMES,
    revision=NUMBERS,
    verified=FLAGS,
    keys=NUMBERS,
    drill_at=TIMES,
    drill_ok=FLAGS,
    copies=COPIES,
)


@given(KNOWN)
def test_every_text_is_as_prometheus_wants_it_and_reads_as_it_was_written(known):
    text = metrics.render(known)

    samples(text)
    assert metrics.render(*metrics.parse(text)) == text
    for each in metrics.parse(text):
        assert msgspec.structs.replace(each, copies=()) == msgspec.structs.replace(known, copies=())


@given(KNOWN, KNOWN)
def test_no_news_but_a_success_makes_a_metric_go_away(before, new):
    new = msgspec.structs.replace(new, attempt_ok=False)

    merged = samples(metrics.merge(metrics.render(before), new))

    assert merged.keys() >= samples(metrics.render(before)).keys()
    assert merged.items() >= samples(metrics.render(new)).items()


@given(st.text(), KNOWN)
def test_whatever_the_file_held_the_news_are_told(previous, new):
    merged = samples(metrics.merge(previous, new))

    assert merged.items() >= samples(metrics.render(new)).items()


# ---- the file -------------------------------------------------------------------------------------------------


def test_the_file_is_for_all_to_read_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "etcd.prom"
    path.write_text("before\n")
    path.chmod(0o600)
    before = os.umask(0o077)

    try:
        metrics.write(path, "after\n")
    finally:
        os.umask(before)

    assert path.read_text() == "after\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_that_has_the_file_open_sees_the_old_text_whole(tmp_path):
    path = tmp_path / "etcd.prom"
    metrics.write(path, "before\n")

    with path.open() as reader:
        metrics.write(path, "after\n")
        seen = reader.read()

    assert seen == "before\n"


def test_a_file_that_cannot_be_written_is_told_with_its_place_and_leaves_nothing(tmp_path):
    (tmp_path / "taken.prom").mkdir()

    with pytest.raises(StoreError, match=r"could not be written to .*/taken\.prom: Is a directory"):
        metrics.write(tmp_path / "taken.prom", "x\n")
    with pytest.raises(StoreError, match="No such file or directory") as missing:
        metrics.write(tmp_path / "no such" / "etcd.prom", "x\n")

    assert f"ls -ld '{tmp_path}/no such'" in missing.value.remedy
    assert list(tmp_path.iterdir()) == [tmp_path / "taken.prom"]


def test_news_are_merged_into_the_file(tmp_path):
    path = tmp_path / "etcd.prom"

    metrics.update(path, SUCCESS)
    metrics.update(path, FAILURE)

    assert path.read_text() == metrics.merge(metrics.render(SUCCESS), FAILURE)


def test_a_file_that_is_no_text_is_replaced(tmp_path):
    path = tmp_path / "etcd.prom"
    path.write_bytes(b"\xff\xfe\x00" * 100)

    metrics.update(path, SUCCESS)

    assert path.read_text() == metrics.render(SUCCESS)


def test_names_with_other_ends_of_lines_survive_the_file(tmp_path):
    path = tmp_path / "etcd.prom"
    odd = msgspec.structs.replace(SUCCESS, cluster="a\rb\u2028c\x0bd")

    metrics.update(path, odd)
    metrics.update(path, msgspec.structs.replace(FAILURE, cluster=odd.cluster))

    (read,) = metrics.parse(path.read_bytes().decode())
    assert (read.cluster, read.success_at) == (odd.cluster, AT)
