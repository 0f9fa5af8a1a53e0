"""A cluster with hosts, with all that an upgrade needs around it, and processes in whose middle something happens."""

from dataclasses import replace

from orchestrator.catalogue import actions
from orchestrator.cluster.versions import Hop, parse
from orchestrator.engine import runner
from orchestrator.planners.upgrade import Request, Target, upgrade
from tests.fakes.crash import Crash, Life
from tests.fakes.lease import FakeLeases
from tests.fakes.site import FakeSite
from tests.fakes.site_machines import LIST, minor_of
from tests.fakes.time import FakeCrew
from tests.fakes.world import FLAGS, World


class At(Life):
    """A process in whose middle something happens, right after an effect: its death, when nothing else is given.

    Args:
        what: The effect, or how it begins.
        then: What happens.
        time: After how many such effects.
    """

    def __init__(self, what, then=None, *, time=1):
        super().__init__()
        self._what = what
        self._change = then or self._die
        self._left = time

    def effect(self, what, change):
        result = super().effect(what, change)
        if what[: len(self._what)] == self._what:
            self._left -= 1
            if self._left == 0:
                self._change()
        return result

    def _die(self):
        self.dead = True
        raise Crash


class SiteLeases(FakeLeases):
    """The cluster's lease, which is away with the API."""

    def __init__(self, site):
        super().__init__(site.clock)
        self._site = site

    def _asked(self, what):
        self._site.catch_up()
        self.down = not self._site.serves()
        super()._asked(what)


class SiteWorld(World):
    """As `World`, on a `FakeSite` with applications.

    Args:
        root: A directory of its own.
        site: As for `FakeSite`.
    """

    def __init__(self, root, **site):
        (root / "runs").mkdir(parents=True)
        super().__init__(root / "runs")
        self.cluster = self.site = FakeSite(self.clock, root / "kept", **site)
        self.leases = SiteLeases(self.site)
        self.site.add_applications()

    @property
    def actions(self):
        """Those of one process: some remember."""

        def crew(size):
            self.crews.append(FakeCrew(self.clock, self.cluster.next_at))
            return self.crews[-1]

        return actions(self.clock, crew)

    def machine(self, node):
        return self.site.machines[node]

    def preview(self, plan):
        return runner.preview(plan, self.cluster.view(), self.actions)

    def targets(self, *, new=False):
        """As the use case finds them; `new`: as it found them before anything was done."""
        return [
            Target(
                m.name,
                m.plane,
                leads=m.name == self.site.leader,
                asks_itself=m.asks_itself or not m.plane,
                at=None if new else self.site.facts(m.name).at_one,
            )
            for m in self.site.machines.values()
        ]

    def upgrade(self, *versions, workers=True, new=False, **request):
        """The plan of an upgrade over some versions."""
        asked = Request(
            **{
                "name": "upgrade-1",
                "owner": self.site.rules.owner,
                "flags": FLAGS,
                "drain_timeout_s": 600.0,
                "max_unavailable": self.site.rules.max_unavailable,
                "configuration": self.site.view().configuration(),
                **request,
            }
        )
        hops = [Hop(parse(version), workers or version == versions[-1]) for version in versions]
        return upgrade(self.targets(new=new), hops, asked)

    def uncordon(self, node):
        """Somebody does."""
        self.site.change_node(node, unschedulable=False, cordon=None)

    def hand_over(self, node, owner="bob@desk"):
        """Somebody else takes a node's cordon."""
        there = self.site.nodes[node]
        self.site.change_node(node, cordon=replace(there.cordon, owner=owner, run=""))

    # ---- what became of it ------------------------------------------------------------------------------------------

    def started(self, node):
        """The commands that were started on a node, by step, in order."""
        return [of[2].rpartition("/")[2] for of in self.effects if of[:2] == ("start", node)]

    def order(self, *verbs):
        """The nodes in the order in which something was first done to them."""
        return list(dict.fromkeys(of[1] for of in self.effects if of[0] in verbs))

    def shortcomings(self, version, *, cordoned=()):
        """All that is not as an upgrade to a version has to leave it, some time after it; empty when nothing is."""
        self.cluster.pass_time(120)
        found = list(self.site.rules.broken)
        for name, machine in self.site.machines.items():
            found += [f"{name}: {text}" for text in _shortcomings(machine, version)]
            told = self.site.nodes[name].kubelet_version
            found += [f"{name}: kubelet {told} in the API"] if told != f"v{version}" else []
        out = {name for name, owner in self.site.cordons().items() if owner}
        ready = {c.owner.name: sum(p.ready for p in self.site.controlled(c)) for c in self.site.controllers()}
        wanted = {c.owner.name: c.replicas for c in self.site.controllers()}
        found += [f"configured for {self.site.kubernetes}"] if self.site.kubernetes != version else []
        found += [f"cordoned: {sorted(out)}"] if out != set(cordoned) else []
        found += [f"{name} has {ready[name]} of {wanted[name]}" for name in wanted if ready[name] < wanted[name]]
        return found + [f"budget {b.key}" for b in self.site.budgets.values() if b.healthy < b.needed]


def _shortcomings(machine, version):
    for name, package in machine.packages.items():
        if (package.version, package.held, package.state) != (version, True, "ok installed"):
            yield f"{name}: {package}"
    if (machine.running, machine.replaced, machine.settings) != (version, False, version):
        yield f"kubelet {machine.running}, replaced: {machine.replaced}, settings of {machine.settings}"
    if f"/v{minor_of(version)}/".encode() not in machine.files[LIST]:
        yield f"repository {machine.files[LIST]}"
    if machine.plane and (machine.components != machine.manifests or machine.server != version):
        yield f"runs {machine.components} of {machine.manifests}"
    if machine.left or machine.unfinished:
        yield f"left {machine.left}, unfinished: {machine.unfinished!r}"
