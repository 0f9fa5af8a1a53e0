"""A process that dies at a chosen effect or journal write, and the time before."""

import os
import threading

from orchestrator.engine.journal import synced


class Crash(BaseException):
    """`kill -9`: nothing of the program runs after it."""


class Life:
    """One process, from its start to its death.

    Args:
        at_effect: The number of the effect at which it dies, from 1; None: it lives.
        at_write: Likewise for writes of the journal.
        how: `before` it takes place, `torn` half-way (only writes), or `after` it.
    """

    def __init__(self, *, at_effect=None, at_write=None, how="before"):
        self._at_effect = at_effect
        self._at_write = at_write
        self._how = how
        self._lock = threading.RLock()
        self.effects = []
        self.writes = 0
        self.dead = False

    def check(self):
        """Raise Crash in whatever thread still runs of a dead process."""
        if self.dead:
            raise Crash

    def effect(self, what, change):
        with self._lock:
            self.check()
            dying = len(self.effects) + 1 == self._at_effect
            if dying and self._how == "before":
                self._die()
            self.effects.append(what)
            result = change()
            if dying:
                self._die()
            return result

    def write(self, fd, line):
        """As `journal.synced`."""
        with self._lock:
            self.check()
            self.writes += 1
            if self.writes == self._at_write:
                done = {"before": b"", "torn": line[: len(line) // 2], "after": line}[self._how]
                os.write(fd, done)
                self._die()
            synced(fd, line)

    def _die(self):
        self.dead = True
        raise Crash
