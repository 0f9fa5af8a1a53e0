"""One action of an upgrade, outside of a run, on a cluster with hosts in memory."""

from dataclasses import dataclass, field, replace

from orchestrator.engine.plan import Plan
from orchestrator.engine.runner import Applying
from tests.fakes.crash import Life
from tests.fakes.site_machines import LIST, FakePackage
from tests.fakes.site_world import SiteWorld


@dataclass
class Stage:
    """One action of a plan, outside of a run.

    Attributes:
        plan: That of an upgrade, without one.
        past: What the journal has.
        life: The process; another one is a new process, with actions that remember nothing.
    """

    world: SiteWorld
    action: str
    node: str
    more: str = ""
    to: str = "1.37.2"
    request: dict = field(default_factory=dict)
    past: dict = field(default_factory=dict)
    plan: Plan | None = None

    def __post_init__(self):
        plan = self.plan or self.world.upgrade(self.to, new=True, **self.request)
        steps = plan.steps()
        wanted = self.action + (f":{self.more}" if self.more else "")
        self.step = next(s for s in steps if s.node == self.node and s.id.endswith(f"/{wanted}"))
        self.events = []
        self.restart()

    def restart(self):
        """A new process."""
        self.doing = self.world.actions[self.action]
        self.life = Life()
        self.hands = self.world.site.hands(self.life)

    def change(self, **params):
        self.step = replace(self.step, params={**self.step.params, **params})

    def facts(self):
        return self.doing.probe(self.world.site.view(), self.step)

    def decide(self):
        return self.doing.decide(self.facts(), self.step, self.past)

    def apply(self):
        now = self.facts()
        self.past.setdefault(self.step.id, now)
        clock = self.world.clock
        applying = Applying(
            "run-1",
            self.step,
            clock.now() + (self.step.timeout_s or 60.0),
            clock,
            lambda name, **fields: self.events.append((name, fields)),
            lambda: None,
            self.past[self.step.id],
        )
        self.doing.apply(self.hands, self.step, now, applying)
        return self.decide()


# ---- how a cluster may stand when an action comes to it -------------------------------------------------------------


def installed(world, node, version, *names):
    """Packages, as somebody else installed them; all when none is named."""
    packages = world.machine(node).packages
    for name in names or packages:
        packages[name] = FakePackage(version)


def upgraded(world, *nodes, to="1.37.2"):
    """Static pods of the version, kubeadm, and the cluster's settings."""
    world.site.kubernetes = to
    for node in nodes:
        machine = world.machine(node)
        machine.manifests = {name: "3.7.0-0" if name == "etcd" else to for name in machine.manifests}
        machine.components = dict(machine.manifests)
        installed(world, node, to, "kubeadm")


def moved(world, node):
    """Its repository is of the next minor."""
    files = world.machine(node).files
    files[LIST] = files[LIST].replace(b"v1.36", b"v1.37")


def drained(world, node):
    """Cordoned, and without pods that a drain moves."""
    world.site.change_node(node, unschedulable=True)
    for key in world.site.evictable(node):
        world.site.remove_pod(key)
    world.site.pass_time(10)


def lost(world, node):
    """Its API server does not run, and its manifest does not tell a version."""
    machine = world.machine(node)
    machine.components.pop("kube-apiserver")
    machine.manifests["kube-apiserver"] = "latest"
