"""Actions without a cluster: deeds that are done or not yet, on nodes that are only names."""

import threading
from collections import Counter

from orchestrator.engine.plan import Blocked, Done, Lane, Needed, Plan, Step, Wave

#: More than any test needs.
LOOKS = 10_000


class Room:
    """What is done on which node, and what goes wrong. Keys are step ids, as `node/deed`.

    Attributes:
        changes: The deeds that were done, in order.
        looks: How often each step was probed.
        shows_after_s: How long after a deed it can be seen.
        wont: Deeds that have no effect this many times.
        forbidden: Step -> why it may not start.
        clears: Step -> the step whose deed has to be there for it.
        fails, looking_fails: Step -> errors that its next applications (probes) raise.
        then: Step -> what happens when it is applied.
    """

    def __init__(self, clock, done=()):
        self.clock = clock
        self.done = dict.fromkeys(done, 0.0)
        self.changes = []
        self.looks = Counter()
        self.shows_after_s = {}
        self.wont = Counter()
        self.forbidden = {}
        self.clears = {}
        self.fails = {}
        self.looking_fails = {}
        self.then = {}
        self.again = False
        self._lock = threading.Lock()


class RoomView:
    """Only looks."""

    def __init__(self, room):
        self._room = room

    def look(self, step):
        room = self._room
        with room._lock:
            room.looks[step] += 1
            if room.looks[step] > LOOKS:
                raise AssertionError(f"{step} is looked at for ever")
            if errors := room.looking_fails.get(step):
                raise errors.pop(0)
            done = step in room.done and room.done[step] <= room.clock.now()
            cleared = room.clears.get(step)
            why = room.forbidden.get(step, "")
            if cleared and cleared not in room.done:
                why = f"{cleared} is not done"
            return {"done": done, "why": why, "until": cleared or "", "again": room.again}


class RoomHands(RoomView):
    def do(self, step):
        room = self._room
        if then := room.then.get(step):
            then()
        with room._lock:
            if errors := room.fails.get(step):
                raise errors.pop(0)
            room.changes.append(step)
            if room.wont[step] > 0:
                room.wont[step] -= 1
                return
            room.done[step] = room.clock.now() + room.shows_after_s.get(step, 0.0)


class Deed:
    """Any deed."""

    def probe(self, view, step):
        return view.look(step.id)

    def decide(self, now, step, past):
        if now["done"]:
            return Done("done")
        if now["why"]:
            return Blocked(now["why"], "mend it", until=now["until"], then="to do")
        return Needed("not done", again=now["again"])

    def apply(self, hands, step, now, run):
        run.guard()
        hands.do(step.id)


DEEDS = {"deed.do": Deed()}


def plan(*waves, timeout_s=60.0):
    """A plan: each wave is lanes such as `a: !sweep dust`, the node and its deeds; one with a `!` takes it out."""
    return Plan("chores", "chores", tuple(Wave(tuple(_lane(lane, timeout_s) for lane in wave)) for wave in waves))


def _lane(text, timeout_s):
    node, _, deeds = text.partition(":")
    return Lane(node, tuple(_step(node, deed, timeout_s) for deed in deeds.split()))


def _step(node, deed, timeout_s):
    params = {"takes_out": True} if deed.startswith("!") else {}
    return Step(f"{node}/{deed.removeprefix('!')}", "deed.do", node, params, timeout_s)
