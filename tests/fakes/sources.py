"""A file during whose reading something happens, so that what comes in the middle of a copy never comes after it."""

from pathlib import Path

from lab.processes import wait_for

ROUNDS = 100
LONG_S = 30.0


class Eventful(type(Path())):
    """A file that does something, once, before its byte number `after_bytes`, when `arrived` says that some is there.

    With `goes_on` it then has no end (but for a bound, that a test which fails ends), until what happened ends the
    reading.
    """

    def doing(self, act, arrived, *, after_bytes, goes_on=False):
        self.act, self.arrived = act, arrived
        self.after_bytes, self.rounds = after_bytes, ROUNDS if goes_on else 0
        return self

    def open(self, *how):
        return Reading(self, super().open(*how))


class Reading:
    def __init__(self, source, file):
        self._source = source
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def read(self, most_bytes):
        source = self._source
        if source.act and self._file.tell() >= source.after_bytes:
            act, source.act = source.act, None
            wait_for("the copy to begin", source.arrived, timeout_s=LONG_S, pause_s=0.01, remedy="")
            act()
        piece = self._file.read(most_bytes)
        if not piece and source.rounds:
            source.rounds -= 1
            self._file.seek(0)
            piece = self._file.read(most_bytes)
        return piece
