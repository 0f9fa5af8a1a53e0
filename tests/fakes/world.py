"""A cluster with all that a run needs around it: time, lease, journals on disk, and processes that can die."""

from collections.abc import Mapping

from orchestrator.actions.drain import Drain
from orchestrator.actions.nodes import Cordon, RestoreScheduling, Uncordon
from orchestrator.engine import journal, runner
from orchestrator.engine.journal import Journal
from orchestrator.errors import Refused
from orchestrator.planners import nodes as planners
from tests.fakes.cluster import FakeCluster
from tests.fakes.crash import Life
from tests.fakes.lease import FakeLeases, unkept
from tests.fakes.sink import Recorder
from tests.fakes.time import FakeClock, FakeCrew

FLAGS: Mapping[str, object] = {
    "force": False,
    "ignore_daemonsets": True,
    "delete_emptydir_data": False,
    "disable_eviction": False,
    "skip_wait_for_delete_timeout_s": 0,
    "pod_selector": "",
    "grace_period_s": None,
    "parallel": 10,
}


class World:
    """Each of `start`, `resume` and `release` is a process of its own.

    Args:
        root: The directory of the runs.

    Attributes:
        hands: Those of the last process.
        crews: Of all drains, in order.
        effects: Of all processes, in order.
        meta: Of the runs that are started.
    """

    def __init__(self, root):
        self.root = root
        self.clock = FakeClock()
        self.cluster = FakeCluster(self.clock)
        self.leases = FakeLeases(self.clock)
        self.sink = Recorder()
        self.effects = []
        self.crews = []
        self.hands = None
        self.meta = {}

    @property
    def actions(self):
        def crew(size):
            self.crews.append(FakeCrew(self.clock, self.cluster.next_at))
            return self.crews[-1]

        return {
            "node.cordon": Cordon(),
            "node.uncordon": Uncordon(),
            "node.restore_scheduling": RestoreScheduling(),
            "node.drain": Drain(crew, self.clock),
        }

    def place(self, run):
        return self.root / run

    def read(self, run="run-1"):
        return journal.read(self.place(run))

    def preview(self, plan):
        return runner.preview(plan, self.cluster.view(), self.actions)

    def start(self, plan, *, run="run-1", life=None, **how):
        """A new run."""
        life = life or Life()
        place = self.place(run)
        with Journal.create(place, run, plan, meta=self.meta, wall=self.clock.wall, write=life.write) as record:
            self._execute(record, life, **how)

    def resume(self, run="run-1", *, life=None, **how):
        """As `App.resume`."""
        life = life or Life()
        known = self.read(run)
        if known.last == "released":
            raise Refused(f"run {run} was released", remedy="start a new run")
        if not known.ended:
            with Journal.open(self.place(run), self.clock.wall, life.write) as record:
                self._execute(record, life, resumed=True, **how)

    def release(self, run="run-1", *, life=None, by="release-1", **how):
        """As `App.release`."""
        life = life or Life()
        known = self.read(run)
        with Journal.open(self.place(run), self.clock.wall, life.write) as record:
            plan = planners.release(run, known.plan, known.past)
            if any(not isinstance(p.decision, runner.Done) for p in self.preview(plan)):
                self.start(plan, run=by, life=life, **how)
            record.mark("released")

    def _execute(
        self, record, life, *, resumed=False, stop=None, sink=None, holder="ann@laptop", leases=None, actions=None
    ):
        self.leases.life = life
        self.hands = self.cluster.hands(life)
        try:
            runner.execute(
                record.plan,
                self.hands,
                actions or self.actions,
                journal=record,
                leases=leases or self.leases,
                holder=holder,
                clock=self.clock,
                sink=sink or self.sink,
                stop=stop or runner.Stop(),
                resumed=resumed,
                beside=unkept,
            )
        finally:
            self.effects += life.effects


def drain(*nodes, owner="ann@laptop", timeout_s=600.0, **flags):
    """The plan of `orchestrator drain`."""
    return planners.drain(nodes, owner=owner, reason="kernel", flags={**FLAGS, **flags}, timeout_s=timeout_s)


def cordon(*nodes, owner="ann@laptop"):
    return planners.cordon(nodes, owner=owner, reason="kernel")
