"""A process that dies at a chosen effect, lease request or journal write, and the time before."""

import os
import threading
from collections import Counter
from typing import NamedTuple


class Crash(BaseException):
    """`kill -9`: nothing of the program runs after it."""


class Death(NamedTuple):
    """Where a process dies.

    `kind` is effect, lease or write; `number` counts from 1 within it; `how` is `before` it took place, `after`, or,
    for writes only, `torn`: half of its bytes are on disk.
    """

    kind: str
    number: int
    how: str


class Life:
    """One process, from its start to its death.

    Args:
        death: Where it dies; None: it lives.
        then: What happens in the world right after the effect of that number.

    Attributes:
        effects: Every change of the cluster that took place, in order.
        counts: How many of each kind were attempted.
    """

    def __init__(self, death=None, *, then=None):
        self._death = death
        self._then = then or {}
        self._lock = threading.RLock()
        self.effects = []
        self.counts = Counter()
        self.dead = False

    def check(self):
        """Raise Crash in whatever still runs of a dead process."""
        if self.dead:
            raise Crash

    def effect(self, what, change):
        def noted():
            self.effects.append(what)
            return change()

        result = self._reach("effect", noted)
        if then := self._then.get(len(self.effects)):
            then()
        return result

    def lease(self, change):
        return self._reach("lease", change)

    def write(self, fd, line):
        """As `journal.synced`, but for the sync: nobody pulls the plug here."""
        self._reach("write", lambda: os.write(fd, line), torn=lambda: os.write(fd, line[: len(line) // 2]))

    def points(self):
        """Every death that this process could have died."""
        hows = {"effect": ("before", "after"), "lease": ("before", "after"), "write": ("before", "torn", "after")}
        return [Death(kind, n, how) for kind in hows for n in range(1, self.counts[kind] + 1) for how in hows[kind]]

    def _reach(self, kind, change, torn=None):
        with self._lock:
            self.check()
            self.counts[kind] += 1
            dying = self._death is not None and (kind, self.counts[kind]) == self._death[:2]
            result = None
            if dying and self._death.how == "torn":
                torn()
            elif not dying or self._death.how == "after":
                result = change()
            if dying:
                self.dead = True
                raise Crash
            return result
