"""The crew of threads: work beside, sources followed, everything in one place."""

import queue
import threading
from contextlib import contextmanager

import pytest

from orchestrator.engine.crew import Raised, Threads

#: Far more than anything here takes: only a test that fails waits for it.
PATIENCE_S = 10.0


@pytest.fixture
def crew():
    with Threads(3) as crew:
        yield crew


def taken(crew, count):
    return [crew.take(PATIENCE_S) for _ in range(count)]


class Source:
    """Items until it is left; `error` is raised by the next."""

    def __init__(self):
        self.items = queue.SimpleQueue()
        self.left = threading.Event()
        self.thread = None

    @contextmanager
    def open(self):
        try:
            yield self._read()
        finally:
            self.left.set()
            self.items.put(StopIteration())

    def _read(self):
        self.thread = threading.current_thread()
        while not isinstance(item := self.items.get(), StopIteration):
            if isinstance(item, Exception):
                raise item
            yield item


def test_what_work_returns_arrives(crew):
    for i in range(10):
        crew.submit(str(i), lambda i=i: i * i)

    assert sorted(taken(crew, 10)) == [i * i for i in range(10)]


def test_what_work_raises_arrives_with_its_name(crew):
    crew.submit("web-1", lambda: 1 / 0)

    (found,) = taken(crew, 1)
    assert isinstance(found, Raised)
    assert found.name == "web-1"
    assert isinstance(found.error, ZeroDivisionError)


def test_a_thread_goes_on_after_work_that_failed():
    with Threads(1) as crew:
        crew.submit("bad", lambda: 1 / 0)
        crew.submit("good", lambda: "done")

        assert taken(crew, 2)[1] == "done"


def test_as_much_work_as_the_crew_is_big_runs_at_once(crew):
    together = threading.Barrier(3)
    for i in range(3):
        crew.submit(str(i), lambda: together.wait(PATIENCE_S))

    assert sorted(taken(crew, 3)) == [0, 1, 2]


def test_no_more_work_runs_at_once_than_the_crew_is_big(crew):
    lock, running, most = threading.Lock(), [], []
    full = threading.Barrier(3)

    def work():
        with lock:
            running.append(1)
            most.append(len(running))
        full.wait(PATIENCE_S)
        with lock:
            running.pop()
        return "done"

    for i in range(12):
        crew.submit(str(i), work)

    assert taken(crew, 12) == ["done"] * 12
    assert max(most) == 3


def test_threads_are_started_only_for_work_that_is_there():
    workers = set()
    with Threads(50) as crew:
        for _ in range(20):
            crew.submit("who", threading.current_thread)
            workers.add(crew.take(PATIENCE_S))

    assert len(workers) == 1


def test_items_of_a_source_arrive_in_their_order(crew):
    source = Source()
    crew.follow("watch", source.open())
    for i in range(5):
        source.items.put(i)

    assert taken(crew, 5) == [0, 1, 2, 3, 4]


def test_a_source_that_breaks_arrives_as_such_with_its_name(crew):
    source = Source()
    crew.follow("watch.pods", source.open())
    source.items.put("first")
    source.items.put(ValueError("broken"))

    first, found = taken(crew, 2)
    assert first == "first"
    assert (found.name, str(found.error)) == ("watch.pods", "broken")


def test_taking_without_time_does_not_wait(crew):
    assert crew.take(0) is None
    assert crew.take(-1) is None


def test_taking_waits_no_longer_than_it_was_told(crew):
    assert crew.take(0.001) is None


def test_leaving_the_crew_leaves_its_sources_and_ends_its_threads():
    source = Source()
    with Threads(2) as crew:
        crew.follow("watch", source.open())
        source.items.put("first")
        crew.submit("who", threading.current_thread)
        found = taken(crew, 2)

    worker = next(item for item in found if isinstance(item, threading.Thread))
    worker.join(PATIENCE_S)
    source.thread.join(PATIENCE_S)
    assert source.left.is_set()
    assert not worker.is_alive()
    assert not source.thread.is_alive()


def test_a_request_that_hangs_keeps_nobody_from_leaving():
    hangs = threading.Event()
    with Threads(1) as crew:
        crew.submit("hangs", hangs.wait)
        threads = [t for t in threading.enumerate() if t.name.startswith("crew-")]

    assert threads
    assert all(t.daemon for t in threads)
    hangs.set()
