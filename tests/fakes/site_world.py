"""A cluster with hosts, with all that an upgrade needs around it, and processes in whose middle something happens."""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

from orchestrator import backups, library, monitoring
from orchestrator.app import Outcome, Settings
from orchestrator.backup import metrics, records
from orchestrator.backup.records import Part, Peer, Record
from orchestrator.catalogue import actions
from orchestrator.cluster.versions import Hop, parse
from orchestrator.engine import runner, runs
from orchestrator.errors import OrchestratorError
from orchestrator.planners import backup as planner
from orchestrator.planners.upgrade import Request, Target, upgrade
from tests.fakes.crash import Crash, Life
from tests.fakes.lease import FakeLeases
from tests.fakes.site import FakeSite
from tests.fakes.site_machines import LIST, minor_of, snapshot_of
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

    #: What the cluster is.
    site_of = FakeSite

    def __init__(self, root, **site):
        (root / "runs").mkdir(parents=True)
        super().__init__(root / "runs")
        self.cluster = self.site = self.site_of(self.clock, root / "snapshots", **site)
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

    # ---- backups ----------------------------------------------------------------------------------------------------

    def destination(self, name):
        """A directory of its own, as it is named."""
        return self.root.parent / "at" / name

    def backup(self, *names, **request):
        """The plan of a backup to destinations of these names; `a` without one."""
        where = tuple(str(self.destination(name)) for name in names or ("a",))
        return planner.backup(
            planner.Request(**{"name": "backup-1", "node": "cp-1", "destinations": where, "level": None, **request})
        )

    def hold(self, directory, ago_s, **changes):
        """A destination has had a snapshot for a while: its record."""
        at, revision = self.clock.wall() - ago_s, changes.pop("revision", 3)
        content = snapshot_of("cp-1", revision)
        digest = hashlib.sha256(content).hexdigest()
        cluster = changes.get("cluster", "kubernetes")
        name = changes.get("name", records.named(cluster, at, revision))
        told = {
            "name": name,
            "at": at,
            "reason": "scheduled",
            "cluster": cluster,
            "cluster_id": "1bb1b1d9c4e2e6d0",
            "authority": self.site.authority,
            "node": "cp-1",
            "etcd": "3.6.8",
            "kubernetes": "v1.36.3",
            "revision": revision,
            "keys": 3,
            "size_bytes": len(content),
            "sha256": digest,
            "data": Part(file=f"{name}.db", size_bytes=len(content), sha256=digest),
            "members": (),
        }
        record = Record(**(told | changes))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / record.data.file).write_bytes(content)
        (directory / f"{name}.json").write_bytes(records.encode(record))
        return record

    def take_away(self, name):
        """A destination is away: something else is in its place."""
        there = self.destination(name)
        there.parent.mkdir(parents=True, exist_ok=True)
        if there.exists():
            there.rename(there.with_name(f"{name}.away"))
        there.write_bytes(b"")

    def bring_back(self, name):
        """It is there again, with what it had."""
        there, away = self.destination(name), self.destination(f"{name}.away")
        there.unlink()
        if away.exists():
            away.rename(there)

    # ---- people -----------------------------------------------------------------------------------------------------

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


#: The URL of the cluster of a desk.
SERVER = "https://cp-1:6443"


class Desk:
    """An operator's machine: its directories are those of the environment.

    Attributes:
        said: What was told before runs.
        held: What is raised where a run has to wait for the lock of another; None where nobody has it.
    """

    def __init__(self, root, **site):
        self.held = None
        self.world = SiteWorld(root / "orchestrator", **site)
        self.site, self.clock = self.world.site, self.world.clock
        self.said = []
        self.metrics = root / "etcd.prom"
        self.app = SimpleNamespace(
            settings=Settings(context="lab"),
            session=SimpleNamespace(server=SERVER),
            reader=self.site.view(),
            machines=SimpleNamespace(know=lambda _: None),
            clock=self.clock,
            refuse_if_held=self._refuse_if_held,
            resume=self._resume,
            without_api=lambda err: None,  # the kubeconfig is there
        )
        self.world.meta = {"server": SERVER, runs.MACHINE: runs.machine(), runs.METRICS: str(self.metrics)}
        self._numbers = iter(range(1, 10_000))

    def _refuse_if_held(self):
        if self.held:
            raise self.held

    def url(self, name):
        return str(self.world.destination(name))

    def wish(self, *names, **asked):
        asked = {"recipients": (), "recovery": False, "compress": False, **asked}
        return backups.Wish(tuple(self.url(name) for name in names or ("a",)), **asked)

    def prepare(self, *names, **asked):
        return backups.prepare(self.app, self.wish(*names, **asked), self.said.append)

    def take(self, *names, life=None, stop=None, **asked):
        """As the command does: a run, and the file of metrics; the run's id."""
        wish, run = self.wish(*names, **asked), ""
        attempt = monitoring.Attempt(self.metrics, wish.destinations, self.clock.wall())
        try:
            plan = backups.prepare(self.app, wish, self.said.append)
            run = f"backup-{next(self._numbers):04}"
            self._named(run, lambda: self.world.start(plan, run=run, life=life, stop=stop))
        except OrchestratorError as err:
            monitoring.tell_failure(self.app, attempt, err)
            raise
        monitoring.tell(self.app, attempt, run)
        return run

    def _resume(self, run):
        """As `App.resume`."""
        known = self.world.read(run)
        self._named(run, lambda: self.world.resume(run))
        return Outcome(0, known.plan, run, ())

    def _named(self, run, work):
        """As `App` does: who fails tells of which run, when anything of it was begun."""
        try:
            work()
        except OrchestratorError as err:
            if self.world.read(run).past:
                err.run = run
            raise

    def peers(self, *names):
        """Members of etcd on these control planes, as a record has them."""
        machines = self.site.machines
        return tuple(
            Peer(id=f"{n}", name=name, peer_urls=(f"https://{machines[name].address}:2380",))
            for n, name in enumerate(names, start=1)
        )

    def staged(self):
        """Names of what is on its way."""
        return sorted(path.name for path in (self.site.kept / "staging").glob("*"))

    def library(self, *names):
        return library.Library(self.app, [self.url(name) for name in names or ("a",)])

    def told(self):
        [found] = metrics.parse(self.metrics.read_text())
        return found


def good(directory):
    """Names of the snapshots of a directory whose files are all there as recorded.

    Looked at without the code that is tested, so that it may be asked after each effect.
    """
    found = []
    for path in sorted(directory.glob("*.json")) if directory.is_dir() else ():
        record = json.loads(path.read_bytes())
        parts = [part for part in (record["data"], record["recovery"]) if part]
        files = [directory / part["file"] for part in parts]
        if all(
            file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == part["sha256"]
            for file, part in zip(files, parts, strict=True)
        ):
            found.append(record["name"])
    return found
