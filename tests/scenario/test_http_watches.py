"""Watches that go on whatever happens to their connection."""

import json
import threading

import msgspec
import pytest

from orchestrator.cluster.model import PodList
from orchestrator.errors import ApiError, ApiForbidden, FactUnreadable
from orchestrator.kube import watch
from orchestrator.kube.cluster import KubeView
from orchestrator.kube.wirepods import PodObject
from tests.fakes import wire
from tests.fakes.server import PATIENCE_S, HangUp, Stream, ok, page, said
from tests.fakes.sink import Recorder
from tests.fakes.time import FakeClock

PODS = "/api/v1/pods"
BUDGETS = "/apis/policy/v1/poddisruptionbudgets"
NOTHING = PodList((), "100")


@pytest.fixture
def view(server, tmp_path):
    return KubeView(server.session(tmp_path), FakeClock(), Recorder(), patience_s=1.0)


def listed(*objects):
    """Those pods as they were before."""
    pods = tuple(msgspec.json.decode(json.dumps(o).encode(), type=PodObject).fact() for o in objects)
    return PodList(pods, "100")


def taken(changes, count):
    """So many of them, as text."""
    return [said_of(next(changes)) for _ in range(count)]


def said_of(change):
    return f"{change.pod.name} {'gone' if change.gone else 'is ' + change.pod.phase}"


def test_changes_come_as_they_happen_and_the_watch_asks_for_what_it_needs(server, view):
    stream = Stream(("ADDED", wire.pod("a")), ("MODIFIED", wire.pod("a", phase="Failed")), ("DELETED", wire.pod("a")))
    server.on("WATCH", PODS, stream)

    with view.watch_pods("n1", NOTHING, "app=web") as changes:
        seen = taken(changes, 3)

    assert seen == ["a is Running", "a is Failed", "a gone"]
    assert server.requests[0].query == {
        "fieldSelector": "spec.nodeName=n1",
        "labelSelector": "app=web",
        "resourceVersion": "100",
        "watch": "1",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(watch.WATCH_S),
    }


@pytest.mark.parametrize("end", ["end", "cut"])
def test_a_watch_that_ends_or_breaks_goes_on_from_the_last_version_it_saw(server, view, end):
    first = Stream(("MODIFIED", wire.pod("a", version="105")))
    getattr(first, end)()
    server.on("WATCH", PODS, first, Stream(("DELETED", wire.pod("a", version="107"))))

    with view.watch_pods("n1", NOTHING) as changes:
        seen = taken(changes, 2)

    assert seen == ["a is Running", "a gone"]
    assert [r.query["resourceVersion"] for r in server.requests] == ["100", "105"]


def test_a_bookmark_moves_the_place_and_is_not_shown(server, view):
    first = Stream(("BOOKMARK", wire.bookmark("140"))).end()
    server.on("WATCH", PODS, first, Stream(("DELETED", wire.pod("a"))))

    with view.watch_pods("n1", NOTHING) as changes:
        seen = taken(changes, 1)

    assert seen == ["a gone"]
    assert [r.query["resourceVersion"] for r in server.requests] == ["100", "140"]


def test_an_event_that_comes_in_pieces_is_one_event_and_empty_lines_are_none(server, view):
    whole = b'{"type":"DELETED","object":{"metadata":{"name":"a"}}}\n'
    server.on("WATCH", PODS, Stream().push_raw(whole[:20]).push_raw(whole[20:40]).push_raw(whole[40:] + b"\n\n"))

    with view.watch_pods("n1", NOTHING) as changes:
        assert taken(changes, 1) == ["a gone"]


@pytest.mark.parametrize("forgotten", ["status", "event"])
def test_after_a_410_pods_that_went_meanwhile_are_told_as_gone(server, view, forgotten):
    event = Stream(("ERROR", wire.gone()))
    server.on("WATCH", PODS, said(410, "too old") if forgotten == "status" else event, Stream())
    server.on(
        "GET",
        PODS,
        ok(wire.listed(wire.pod("stays"), wire.pod("new"), wire.pod("ends", phase="Failed"), version="200")),
    )
    before = listed(wire.pod("stays"), wire.pod("went"), wire.pod("ends"))

    with view.watch_pods("n1", before) as changes:
        seen = taken(changes, 3)
        threading.Thread(target=lambda: next(changes, None), daemon=True).start()
        server.wait_for("WATCH", PODS, 2)

    assert sorted(seen) == ["ends is Failed", "new is Running", "went gone"]
    assert server.asked("WATCH")[1].query["resourceVersion"] == "200"


def test_after_a_410_a_list_that_fails_is_asked_for_again(server, view):
    server.on("WATCH", PODS, said(410, "too old"), Stream())
    server.on("GET", PODS, said(400, "not now"), ok(wire.listed(wire.pod("new"))))

    with view.watch_pods("n1", NOTHING) as changes:
        assert taken(changes, 1) == ["new is Running"]


@pytest.mark.parametrize(
    "failure",
    [HangUp(), said(503, "starting"), page(502, "<html>"), said(403, "loading")],
    ids=["EOF", "503", "502", "403"],
)
def test_a_watch_that_is_not_opened_is_tried_again(server, view, failure):
    server.on("WATCH", PODS, failure, Stream(("DELETED", wire.pod("a"))))

    with view.watch_pods("n1", NOTHING) as changes:
        assert taken(changes, 1) == ["a gone"]

    assert [r.query["resourceVersion"] for r in server.requests] == ["100", "100"]


def test_an_error_event_other_than_410_opens_the_watch_again(server, view):
    failed = {"kind": "Status", "code": 500, "message": "etcdserver: no leader"}
    server.on("WATCH", PODS, Stream(("ERROR", failed)), Stream(("DELETED", wire.pod("a"))))

    with view.watch_pods("n1", NOTHING) as changes:
        assert taken(changes, 1) == ["a gone"]


def test_leaving_the_context_from_another_thread_ends_the_iterator(server, view):
    stream = Stream()
    server.on("WATCH", PODS, stream)
    source, ended = view.watch_pods("n1", NOTHING), []

    def follow(changes):
        ended.extend(changes)
        ended.append("end")

    reader = threading.Thread(target=follow, args=(source.__enter__(),))
    reader.start()
    assert stream.opened.wait(PATIENCE_S)
    source.__exit__(None, None, None)
    reader.join(PATIENCE_S)

    assert not reader.is_alive()
    assert ended == ["end"]
    assert len(server.requests) == 1


def test_a_context_that_was_left_before_the_watch_opened_ends_at_once(server, view):
    server.on("WATCH", PODS, Stream())
    source = view.watch_pods("n1", NOTHING)
    changes = source.__enter__()

    source.__exit__(None, None, None)

    assert list(changes) == []


def test_leaving_the_context_while_it_is_opened_closes_what_was_opened(server, view):
    source = view.watch_pods("n1", NOTHING)
    server.on("WATCH", PODS, lambda _: source.__exit__(None, None, None) or Stream())

    with source as changes:
        assert list(changes) == []


def test_leaving_the_context_in_a_relist_that_fails_ends_it_with_that_failure(server, view):
    source = view.watch_pods("n1", NOTHING)
    server.on("WATCH", PODS, said(410, "too old"))
    server.on("GET", PODS, lambda _: source.__exit__(None, None, None) or said(400, "no"))

    with source as changes, pytest.raises(ApiError, match="no"):
        next(changes)


@pytest.mark.parametrize(
    "line", [b"<html>", b'{"type":"ADDED","object":{"metadata":7}}', b'{"type":"ERROR","object":3}']
)
def test_what_is_no_event_is_unreadable_and_not_read_as_silence(server, view, line):
    server.on("WATCH", PODS, Stream().push_raw(line + b"\n"))

    with view.watch_pods("n1", NOTHING) as changes, pytest.raises(FactUnreadable, match="is not what an API server"):
        next(changes)


class Pauses:
    """In place of a watch's end: remembers each pause, and ends the watch after so many."""

    def __init__(self, most):
        self.pauses = []
        self._most = most

    def is_set(self):
        return len(self.pauses) >= self._most

    def set(self):
        self._most = 0

    def wait(self, seconds):
        self.pauses.append(seconds)


@pytest.mark.parametrize(
    "answer", [said(410, "too old"), said(503, "down"), page(502, "x"), HangUp()], ids=["410", "503", "502", "EOF"]
)
def test_pauses_grow_while_a_watch_of_pods_cannot_be_opened(server, view, answer):
    server.on("WATCH", PODS, answer)
    server.on("GET", PODS, ok(wire.listed()))
    source = view.watch_pods("n1", NOTHING)
    source._closed = Pauses(8)

    with source as changes:
        assert list(changes) == []

    assert source._closed.pauses == [*watch.REOPEN_S, watch.REOPEN_S[-1], watch.REOPEN_S[-1]]


@pytest.mark.parametrize("answer", [said(410, "too old"), said(503, "down")], ids=["410", "503"])
def test_pauses_grow_while_a_watch_of_budgets_cannot_be_opened(server, view, answer):
    server.on("WATCH", BUDGETS, answer)
    source = view.watch_budgets()
    source._closed = Pauses(4)

    with source as budgets:
        assert list(budgets) == []

    assert source._closed.pauses == list(watch.REOPEN_S[:4])


def test_an_event_makes_the_pauses_short_again(server, view):
    event = Stream(("DELETED", wire.pod("a"))).end()
    server.on("WATCH", PODS, said(503, "x"), said(503, "x"), event, said(503, "x"))
    source = view.watch_pods("n1", NOTHING)
    source._closed = Pauses(4)

    with source as changes:
        list(changes)

    first, second = watch.REOPEN_S[:2]
    assert source._closed.pauses == [first, second, first, first]


@pytest.mark.parametrize("path", [PODS, BUDGETS])
def test_a_refusal_that_stays_is_raised(server, view, path):
    server.on("WATCH", path, said(403, "pods is forbidden"))
    source = view.watch_pods("n1", NOTHING) if path == PODS else view.watch_budgets()
    source._closed = Pauses(100)

    with source as changes, pytest.raises(ApiForbidden):
        next(changes)

    assert len(server.requests) == watch.REFUSALS + 1


def test_budgets_are_told_as_they_are_and_one_that_was_deleted_covers_nothing(server, view):
    server.on(
        "WATCH",
        BUDGETS,
        Stream(
            ("ADDED", wire.budget(allowed=0)),
            ("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
            ("MODIFIED", wire.budget(allowed=1)),
            ("DELETED", wire.budget(allowed=1)),
        ),
    )

    with view.watch_budgets() as budgets:
        seen = [next(budgets) for _ in range(3)]

    assert [b.allowed for b in seen] == [0, 1, 0]
    assert [b.selector is None for b in seen] == [False, False, True]
    assert {b.key for b in seen} == {"shop/web"}
    assert "resourceVersion" not in server.requests[0].query


@pytest.mark.parametrize(
    "first",
    [lambda: Stream().end(), lambda: Stream().cut(), lambda: said(410, "too old"), HangUp, lambda: said(503, "x")],
    ids=["end", "cut", "410", "EOF", "503"],
)
def test_a_watch_of_budgets_that_ends_begins_again(server, view, first):
    server.on("WATCH", BUDGETS, first(), Stream(("ADDED", wire.budget())))

    with view.watch_budgets() as budgets:
        assert next(budgets).name == "web"

    assert len(server.requests) == 2
