"""What runs on hosts is in the run's record; work on many hosts at once."""

import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest

from orchestrator.cluster.model import Node
from orchestrator.engine.clock import SystemClock
from orchestrator.engine.together import each
from orchestrator.errors import BadUsage, CommandTimedOut, HostError
from orchestrator.hosts.config import SshConfig
from orchestrator.hosts.locate import BySsh, InContainer
from orchestrator.hosts.pool import Pool
from orchestrator.hosts.recorded import Recorded
from orchestrator.hosts.secrets import Secrets
from orchestrator.site import Machines, SiteHands
from tests.fakes.hosts import local
from tests.fakes.sink import Recorder

LONG_S = 30.0


@pytest.fixture
def events():
    return []


@pytest.fixture
def host(tmp_path, events):
    def emit(name, *, level="info", **fields):
        events.append((name, level, fields))

    return Recorded(local(name="node-1"), tmp_path / "run-1", emit, SystemClock())


def record(tmp_path, number):
    return tmp_path / "run-1" / "hosts" / "node-1" / f"{number:04d}.log"


def test_a_command_is_an_event_and_a_file_that_only_its_owner_reads(host, tmp_path, events):
    done = host.run(["sh", "-c", "echo out; printf '\\377' >&2; exit 3"], timeout_s=LONG_S)

    [(name, level, fields)] = events
    assert (name, level, fields["host"], fields["rc"]) == ("host.command", "debug", "node-1", 3)
    assert fields["argv"] == list(done.argv)
    assert fields["took_s"] == round(done.took_s, 3)
    path = tmp_path / "run-1" / fields["output"].removeprefix("run-1/")
    lines = path.read_text().splitlines()
    assert lines[0].startswith("$ sh -c ")
    assert sorted(lines[1:-1]) == ["\\xff", "out"]
    assert lines[-1].startswith("# rc=3 after ")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_runs_after_a_run_is_no_part_of_it(tmp_path):
    machines = Machines(lambda node: local(name=node.name), SystemClock(), tmp_path / "kept")
    machines.know([Node.at("node-1", "198.18.0.11")])
    hands, written = SiteHands(None, SystemClock(), Recorder(), machines=machines), []
    journal = SimpleNamespace(run="run-1", command=lambda **fields: written.append(fields["argv"]))

    with suppress(ZeroDivisionError), hands.recording(tmp_path / "run-1", journal, Recorder()):
        hands.host("node-1").run(["true"], timeout_s=LONG_S)
        raise ZeroDivisionError
    hands.host("node-1").run(["false"], timeout_s=LONG_S)

    assert written == [["true"]]


def test_a_command_that_failed_to_end_is_recorded_with_why(host, tmp_path, events):
    with pytest.raises(CommandTimedOut):
        host.run(["sleep", "5"], timeout_s=0.2)

    assert events[0][2]["rc"] is None
    assert "CommandTimedOut" in record(tmp_path, 1).read_text()


def test_lines_are_still_told_to_whoever_watches(host):
    told = []

    host.run(["echo", "hello"], timeout_s=LONG_S, on_line=told.append)

    assert told == ["hello"]


def test_what_a_private_command_says_is_in_no_record(host, tmp_path):
    told = []

    done = host.run(["echo", "a-join-token"], timeout_s=LONG_S, private=True, on_line=told.append)

    assert done.text == "a-join-token"
    assert "a-join-token" not in record(tmp_path, 1).read_text().split("\n", 1)[1]


def test_contents_of_files_are_in_no_record(host, tmp_path, events):
    (tmp_path / "there").mkdir()
    path, copy = f"{tmp_path}/there/file", tmp_path / "copy"

    host.write(path, b"s3cret", mode=0o600, owner="", timeout_s=LONG_S)
    assert host.read(path, timeout_s=LONG_S) == b"s3cret"
    host.fetch(path, copy, timeout_s=LONG_S)
    host.send(copy, path, mode=0o600, owner="", timeout_s=LONG_S)
    host.close()

    assert [(n, f["what"], f["path"], f["size_bytes"]) for n, _, f in events] == [
        ("host.file", what, path, 6) for what in ("write", "read", "fetch", "send")
    ]
    assert "s3cret" not in str(events)
    assert not (tmp_path / "run-1").exists()


def test_records_of_a_resumed_run_follow_those_before(host, tmp_path, events):
    host.run(["true"], timeout_s=LONG_S)

    Recorded(local(name="node-1"), tmp_path / "run-1", lambda *_, **__: None, SystemClock()).run(
        ["true"], timeout_s=LONG_S
    )

    assert record(tmp_path, 2).exists()


# ---- many -------------------------------------------------------------------------------------------------------


def test_a_pool_gives_the_same_host_to_all_and_lets_go_of_it_at_its_end(tmp_path):
    with Pool(SshConfig(tmp_path / "none", None), Secrets(), SystemClock(), patience_s=0) as pool:
        one = pool.host(BySsh("node-1", "10.0.0.1"))

        assert pool.host(BySsh("node-1", "10.0.0.1")) is one
        assert pool.host(InContainer("docker", "kind-worker")).name == "kind-worker"
        with pytest.raises(BadUsage, match="no name"):
            pool.host(BySsh("node 1", ""))


def test_work_on_many_goes_on_when_one_fails_and_keeps_their_order():
    def work(item):
        if item == 3:
            raise HostError("3 is broken", remedy="mend it")
        return item * 10

    outcomes = each(range(6), work, at_once=2)

    assert [o.item for o in outcomes] == list(range(6))
    assert [o.value for o in outcomes] == [0, 10, 20, None, 40, 50]
    assert [str(o.error) for o in outcomes if o.error] == ["3 is broken"]
    assert each([], work) == ()


def test_no_more_than_so_many_are_worked_on_at_once():
    lock, gate = threading.Lock(), threading.Barrier(3, timeout=30)
    now = most = 0

    def work(_):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        gate.wait()
        with lock:
            now -= 1

    each(range(9), work, at_once=3)

    assert most == 3


def test_a_bug_is_not_taken_for_the_failure_of_a_host():
    with pytest.raises(ZeroDivisionError):
        each([1], lambda n: n // 0)
