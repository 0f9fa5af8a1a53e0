"""What the hosts behind a cluster's nodes do, as actions see them. Imported whole by what has a `place` to hold to it.

`place` has `hands`, a SiteHands; `clock`, its time; `looks()`, how many questions came to the host of `node-1`;
`command`, one that notes each of its runs (`runs()`) and ends with `rc`, or not at all when it `hangs`; `another` one;
`lose(errand)`, as if the host had gone down under it; `file(contents)`, a file on the host.
"""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orchestrator.actions.site import Errand, Trace
from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import parse_look
from orchestrator.errors import BadUsage, CommandTimedOut, HostFileMissing, Refused, StoreError
from orchestrator.site import FRESH_S

LONG_S = 60.0
STEP = Errand("plan-1", "1/node-1/packages.install")


def finish(place, errand=STEP, argv=None, **how):
    return place.hands.finish("node-1", argv or place.command, errand, **{"timeout_s": LONG_S, **how})


# ---- questions --------------------------------------------------------------------------------------------------


def test_a_host_is_asked_nothing_but_the_questions_that_there_are(place):
    another = replace(queries.LOOK, script="reboot")

    with pytest.raises(ValueError, match="no question that a host may be asked"):
        place.hands.ask("node-1", another)

    assert place.looks() == 0


def test_an_answer_is_in_the_frame_that_is_read(place):
    assert parse_look("node-1", place.hands.ask("node-1", queries.LOOK)).boot


def test_an_answer_serves_again_while_it_is_fresh(place):
    first = place.hands.ask("node-1", queries.LOOK)
    place.clock.pass_to(place.clock.now() + FRESH_S * 0.9)

    assert place.hands.ask("node-1", queries.LOOK) == first
    assert place.looks() == 1


def test_an_answer_that_is_no_longer_fresh_is_asked_for_again(place):
    place.hands.ask("node-1", queries.LOOK)
    place.clock.pass_to(place.clock.now() + FRESH_S * 1.1)

    place.hands.ask("node-1", queries.LOOK)

    assert place.looks() == 2


def test_many_who_ask_the_same_at_once_are_told_by_one_answer(place):
    with ThreadPoolExecutor(8) as crew:
        answers = set(crew.map(lambda _: place.hands.ask("node-1", queries.LOOK), range(8)))

    assert len(answers) == 1
    assert place.looks() == 1


@pytest.mark.parametrize(("touched", "looks"), [("node-1", 2), ("node-2", 1)])
def test_who_may_do_something_to_a_host_has_its_answers_forgotten_and_no_others(place, touched, looks):
    place.hands.ask("node-1", queries.LOOK)
    place.hands.host(touched)

    place.hands.ask("node-1", queries.LOOK)

    assert place.looks() == looks


def test_after_a_command_nothing_counts_that_was_said_before(place):
    place.hands.ask("node-1", queries.LOOK)
    finish(place)

    assert STEP.plan in parse_look("node-1", place.hands.ask("node-1", queries.LOOK)).left
    assert place.looks() == 2


# ---- commands that outlast a process ----------------------------------------------------------------------------


def test_a_command_that_was_never_started_has_left_nothing(place):
    assert place.hands.trace("node-1", STEP) == Trace("absent")


@pytest.mark.parametrize("rc", [0, 7])
def test_a_command_is_carried_out_to_its_end_and_its_end_stays_known(place, rc):
    place.rc = rc

    done = finish(place)

    assert (done.rc, done.stdout, done.stderr) == (rc, b"out\n", b"err\n")
    assert place.hands.trace("node-1", STEP) == Trace("ended", rc)


def test_one_that_ended_well_is_found_again_and_not_run_again(place):
    first = finish(place)

    again = finish(place)

    assert (again.rc, again.stdout) == (first.rc, first.stdout)
    assert place.runs() == 1


def test_one_that_ended_well_is_run_again_when_that_counts_no_more(place):
    finish(place)

    finish(place, anew=True)

    assert place.runs() == 2


def test_one_that_failed_is_run_again(place):
    place.rc = 100
    finish(place)
    place.rc = 0

    assert finish(place).rc == 0
    assert place.runs() == 2


def test_two_who_start_it_at_once_see_one_run(place):
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(finish(place).rc)) for _ in range(3)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)

    assert seen == [0, 0, 0]
    assert place.runs() == 1


def test_commands_of_other_steps_and_plans_are_others(place):
    for errand in (STEP, Errand("plan-1", "2/node-1/packages.install"), Errand("plan-2", STEP.step)):
        finish(place, errand)

    assert place.runs() == 3


def test_a_result_of_another_command_is_not_taken_for_ones_own(place):
    finish(place)

    with pytest.raises(Refused, match="another command"):
        finish(place, argv=place.another)


def test_its_lines_are_told(place):
    told = []

    finish(place, on_line=told.append)

    assert sorted(told) == ["err", "out"]


def test_one_that_takes_too_long_is_ended_and_that_stays_known_until_it_is_run_again(place):
    place.hangs = True
    with pytest.raises(CommandTimedOut):
        finish(place, timeout_s=1.0)
    assert place.hands.trace("node-1", STEP).state == "late"
    place.hangs = False

    assert finish(place, timeout_s=1.0).rc == 0
    assert place.runs() == 2


def test_one_that_its_host_lost_is_run_again(place):
    finish(place)
    place.lose(STEP)
    assert place.hands.trace("node-1", STEP).state == "vanished"

    assert finish(place).rc == 0
    assert place.runs() == 2


# ---- files ------------------------------------------------------------------------------------------------------


def test_a_file_that_was_fetched_is_found_by_its_name(place):
    path = place.file(b"\x00snapshot\xff")
    assert place.hands.kept("cluster.db") is None

    local = place.hands.keep("node-1", path, "cluster.db", timeout_s=LONG_S)

    assert place.hands.kept("cluster.db") == local
    assert local.read_bytes() == b"\x00snapshot\xff"
    assert local.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_not_there_is_not_kept(place):
    missing = f"{place.file(b'x')}.missing"

    with pytest.raises(HostFileMissing):
        place.hands.keep("node-1", missing, "cluster.db", timeout_s=LONG_S)

    assert place.hands.kept("cluster.db") is None


def test_a_file_that_was_fetched_may_be_in_a_directory_that_nobody_else_enters(place):
    path = place.file(b"snapshot")

    local = place.hands.keep("node-1", path, "staging/plan-1.db", timeout_s=LONG_S)

    assert place.hands.kept("staging/plan-1.db") == local
    assert local.parent.name == "staging"
    assert [each.stat().st_mode & 0o777 for each in (local.parent, local.parent.parent)] == [0o700, 0o700]


def test_the_place_of_a_file_is_told_before_it_is_there_and_nothing_is_made(place):
    before = place.hands.place("staging/plan-1.db")
    assert not before.parent.parent.exists()
    assert place.hands.kept("staging/plan-1.db") is None

    local = place.hands.keep("node-1", place.file(b"snapshot"), "staging/plan-1.db", timeout_s=LONG_S)

    assert place.hands.place("staging/plan-1.db") == before == local


def test_a_directory_is_not_a_file_that_was_fetched(place):
    place.hands.keep("node-1", place.file(b"snapshot"), "staging/plan-1.db", timeout_s=LONG_S)

    assert place.hands.kept("staging") is None


# ---- destinations of backups ------------------------------------------------------------------------------------


def test_what_is_stored_is_on_the_shelf(place, tmp_path):
    (tmp_path / "local").write_bytes(b"snapshot")
    where = str(tmp_path / "new" / "backups")
    store = place.hands.store(where, "node-1")

    store.put(tmp_path / "local", "a.db", hashlib.sha256(b"snapshot").hexdigest())
    store.put_bytes(b"{}", "a.json")

    shelf = place.hands.shelf(where, "node-1")
    assert (store.url, shelf.url) == (where, where)
    assert [(file.name, file.size_bytes) for file in shelf.names()] == [("a.db", 8), ("a.json", 2)]
    assert shelf.get_bytes("a.json") == b"{}"
    shelf.get("a.db", tmp_path / "back", limit_bytes=8)
    assert (tmp_path / "back").read_bytes() == b"snapshot"


def test_a_store_takes_nothing_that_is_not_what_it_should_be_and_removes(place, tmp_path):
    (tmp_path / "local").write_bytes(b"snapshot")
    store = place.hands.store(str(tmp_path / "backups"), "node-1")

    with pytest.raises(StoreError, match=r"a\.db was read back"):
        store.put(tmp_path / "local", "a.db", hashlib.sha256(b"another").hexdigest())
    store.put_bytes(b"{}", "b.json")
    store.remove("b.json")
    store.remove("c.json")

    assert list((tmp_path / "backups").iterdir()) == []


def test_a_shelf_has_nothing_to_change_it_with(place, tmp_path):
    shelf = place.hands.shelf(str(tmp_path / "backups"), "node-1")

    assert [name for name in ("put", "put_bytes", "remove", "tidy") if hasattr(shelf, name)] == []
    assert list(shelf.names()) == []
    assert not (tmp_path / "backups").exists()


def test_a_destination_that_cannot_be_used_says_so(place, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    where = str(tmp_path / "file")

    with pytest.raises(StoreError, match=where):
        place.hands.shelf(where, "node-1").names()
    with pytest.raises(StoreError, match=where):
        place.hands.store(where, "node-1").put_bytes(b"", "a")
    with pytest.raises(StoreError, match="there is no a"):
        place.hands.shelf(str(tmp_path), "node-1").get_bytes("a")


def test_a_destination_on_the_node_is_the_one_of_its_host(place, tmp_path):
    directory = tmp_path / "on-node"

    place.hands.store(f"node:{directory}", "node-1").put_bytes(b"{}", "a.json")

    assert place.hands.shelf(f"node-1:{directory}", "node-2").get_bytes("a.json") == b"{}"
    assert place.hands.shelf(f"node:{directory}", "node-1").get_bytes("a.json") == b"{}"
    assert [place.hands.shelf(f"{name}:{directory}", "node-1").url for name in ("node", "node-1")] == [
        f"node:{directory}",
        f"node-1:{directory}",
    ]


@pytest.mark.parametrize("url", ["ftp://host/dir", "s3://user:secret@bucket/x"])
def test_what_is_no_destination_is_refused(place, url):
    with pytest.raises(BadUsage):
        place.hands.shelf(url, "node-1")
    with pytest.raises(BadUsage):
        place.hands.store(url, "node-1")


# ---- files on a host --------------------------------------------------------------------------------------------


def test_a_host_reads_what_was_written_and_sent_there(place, tmp_path):
    host, path = place.hands.host("node-1"), place.file(b"old")
    local = tmp_path / "local"
    local.write_bytes(b"sent")

    host.write(path, b"new", mode=0o644, owner="", timeout_s=LONG_S)
    digest = host.send(local, f"{path}.2", mode=0o600, owner="", timeout_s=LONG_S)

    assert host.read(path, timeout_s=LONG_S) == b"new"
    assert host.read(f"{path}.2", timeout_s=LONG_S) == b"sent"
    assert host.fetch(f"{path}.2", tmp_path / "back", timeout_s=LONG_S) == digest == hashlib.sha256(b"sent").hexdigest()
    with pytest.raises(HostFileMissing):
        host.read(f"{path}.3", timeout_s=LONG_S)
