"""The cluster's lease in memory, with versions as the API has them."""

import threading
from dataclasses import replace

from orchestrator.errors import ApiConflict, ApiNotFound, ApiUnreachable


def unkept(keeper):
    """For `beside`: no keeper, so that nothing in a test depends on how fast it runs. Steps and guards renew."""


class FakeLeases:
    """One lease. `requests` has what was asked for, in order.

    Attributes:
        down: While true, nobody is answered.
        deaf: A write takes effect, and its answer is lost; counts down.
        life: The process that asks; each write is a place to die at, and when it is dead, nothing is answered.
    """

    def __init__(self, clock, life=None):
        self.clock = clock
        self.life = life
        self.record = None
        self.requests = []
        self.down = False
        self.deaf = 0
        self.watch_fails = None
        self.changes = []
        self._version = 100
        self._home = threading.get_ident()
        self._changed = threading.Condition()

    def read(self):
        self._asked("read")
        return self.record

    def create(self, record):
        self._asked("create")
        if self.record is not None:
            raise ApiConflict("there is a lease", remedy="wait", status=409)
        return self._stored(replace(record, uid=f"lease-{self._version}"))

    def replace(self, record):
        self._asked("replace")
        self._check(record)
        return self._stored(record)

    def delete(self, record):
        self._asked("delete")
        self._check(record)
        self._change(None)
        self._lose_answer()

    def watch(self, since, timeout_s):
        """In the test's own thread, time passes on the fake clock; beside it, waits for a change, or in vain."""
        self._asked("watch")
        if self.watch_fails:
            raise self.watch_fails
        if threading.get_ident() == self._home:
            yield from self._watch_here(since, timeout_s)
        else:
            with self._changed:
                self._changed.wait_for(lambda: self.record != since, timeout_s)
            if self.record != since:
                yield self.record

    def _watch_here(self, since, timeout_s):
        end = self.clock.now() + timeout_s
        while self.clock.now() < end:
            if self.record != since:
                since = self.record
                yield since
            elif self.changes and self.changes[0][0] < end:
                at, change = self.changes.pop(0)
                self.clock.pass_to(at)
                change()
            else:
                self.clock.pass_to(end)

    # ---- what others do -----------------------------------------------------------------------------------------

    def put(self, record):
        """Somebody writes the lease, or deletes it with None; no request of ours."""
        with self._changed:
            self._version += 1
            self.record = record and replace(
                record, resource_version=str(self._version), uid=record.uid or f"lease-{self._version}"
            )
            self._changed.notify_all()
        return self.record

    def later(self, after_s, change):
        """Have `change` happen when time gets there during a watch in the test's thread."""
        self.changes.append((self.clock.now() + after_s, change))

    def _asked(self, what):
        if self.life:
            self.life.check()
        self.requests.append(what)
        if self.down:
            raise ApiUnreachable("no answer", remedy="wait")

    def _check(self, record):
        if self.record is None:
            raise ApiNotFound("no lease", remedy="none", status=404)
        if (record.resource_version, record.uid) != (self.record.resource_version, self.record.uid):
            raise ApiConflict("the lease was changed", remedy="read it again", status=409)

    def _stored(self, record):
        stored = self._change(record)
        self._lose_answer()
        return stored

    def _change(self, record):
        return self.life.lease(lambda: self.put(record)) if self.life else self.put(record)

    def _lose_answer(self):
        if self.deaf:
            self.deaf -= 1
            raise ApiUnreachable("the answer was lost", remedy="wait")
