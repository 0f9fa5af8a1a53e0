"""Time that passes when somebody sleeps, and a crew that works in the caller's thread."""

import threading
from collections import deque

from orchestrator.engine.crew import Raised

#: No scenario lasts this long: a test that gets here waits for something that will never happen.
LONGEST_S = 7 * 86400.0


class FakeClock:
    """A clock on which `sleep` is instant. Threads that sleep together see the latest time of all."""

    def __init__(self, wall=1_795_000_000.0):
        self._wall = wall
        self._now = 0.0
        self._lock = threading.Lock()
        self.slept = []

    def now(self):
        return self._now

    def wall(self):
        return self._wall + self._now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.pass_to(self._now + max(0.0, seconds))

    def pass_to(self, moment):
        with self._lock:
            self._now = max(self._now, moment)
        if self._now > LONGEST_S:
            raise AssertionError("fake time ran away: this test waits for something that never happens")

    def step_wall(self, seconds):
        """Somebody sets the wall clock, or the machine was suspended."""
        self._wall += seconds


class FakeCrew:
    """A crew that does one thing after another when something is taken, and lets time pass only when nothing is left.

    Args:
        clock: A FakeClock.
        next_at: The wall-clock time at which something happens by itself in the fake world, or None.
    """

    def __init__(self, clock, next_at=lambda: None):
        self._clock = clock
        self._next_at = next_at
        self._work = deque()
        self._sources = []
        self.most_submitted = 0

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        for _, source, _ in self._sources:
            source.__exit__(*raised)

    def submit(self, name, work):
        self._work.append((name, work))
        self.most_submitted = max(self.most_submitted, len(self._work))

    def follow(self, name, source):
        self._sources.append((name, source, source.__enter__()))

    def take(self, timeout_s):
        end = self._clock.now() + max(0.0, timeout_s)
        while True:
            if (item := self._ready()) is not None or self._clock.now() >= end:
                return item
            self._wait(end)

    def _ready(self):
        if self._work:
            name, work = self._work.popleft()
            try:
                return work()
            except Exception as err:  # noqa: BLE001  as the real crew does
                return Raised(name, err)
        for source in tuple(self._sources):
            name, _, items = source
            try:
                if (item := items.poll()) is not None:
                    return item
            except Exception as err:  # noqa: BLE001
                self._sources.remove(source)
                return Raised(name, err)
        return None

    def _wait(self, end):
        """To the end, or to the next thing that happens by itself before it."""
        happens = self._next_at()
        if happens is not None:
            end = min(end, self._clock.now() + max(0.0, happens - self._clock.wall()))
        self._clock.pass_to(end)
