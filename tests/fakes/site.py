"""A cluster together with its hosts, in memory: `view` gives somebody who reads, `hands` somebody who changes.

What a kubeadm cluster does in an upgrade, it does with the delays that were seen on real ones; what an upgrade may
never do fails the test at once (`site_rules`).
"""

import hashlib
import re
from contextlib import contextmanager
from pathlib import Path

from orchestrator.actions.backups import _COLLECT
from orchestrator.actions.packages import looked
from orchestrator.actions.site import Trace
from orchestrator.actions.snapshots import _SAVE
from orchestrator.backup.catalogue import ReadOnly
from orchestrator.backup.directory import DirectoryStore
from orchestrator.backup.stores import open_store, part_of
from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import STATIC
from orchestrator.cluster.model import Renewal
from orchestrator.engine.host import Completed
from orchestrator.errors import (
    ApiUnreachable,
    CommandTimedOut,
    CommandVanished,
    HostFileMissing,
    HostUnreachable,
    Refused,
    StoreError,
)
from orchestrator.site import Machines
from tests.fakes.cluster import FakeCluster, FakeHands, FakeView
from tests.fakes.crash import Life
from tests.fakes.site_answers import answer
from tests.fakes.site_machines import KEYS, FakeMachine
from tests.fakes.site_rules import Rules

#: How long an API server, and a host, is asked again by what stands behind the ports.
API_PATIENCE_S, HOST_PATIENCE_S = 60.0, 30.0
#: Short commands on hosts, as effects.
SHORT = {_SAVE: "save", _COLLECT: "collect"}
_ON_A_NODE = re.compile(r"([a-z][a-z0-9-]*):(/[^/].*)")


class FakeSite(FakeCluster):
    """The world.

    Args:
        clock: Its time.
        kept: Where files go that were fetched from hosts.
        planes: How many control planes, `cp-1` and so on.
        workers: How many workers, `node-1` and so on.
        version: Of everything.
        max_unavailable: How many workers the run may have out of service at once.

    Attributes:
        machines: Name -> host.
        kubernetes: The version that kubeadm's configuration names.
        leader: The control plane whose etcd member leads.
        hooks: Commands of the operator's that ran, and where.
        hook_rc: What they end with.
        last_asked: When a host was last asked for how it stands.
        cluster_name: As kubeadm wrote it into manifests.
        authority: SHA-256 of the certificate of the cluster's authority.
        revision: Of etcd.
        alarms: Of etcd, as etcdctl tells them.
        configured: kubeadm's configuration is in the cluster.
        external: `--etcd-servers` of API servers whose etcd is on other machines.
        clients: Control planes that have a client of that one.
        full: Destinations that have no room.
        ahead_s: The cluster's clocks are ahead of the operator's.
        lagging_s: Node -> its clock is behind the cluster's others.
        breaks: Reads through the operator's endpoint, or that of the cluster as hosts ask it, that break.
    """

    def __init__(self, clock, kept, *, planes=1, workers=2, version="1.36.3", max_unavailable=1):
        super().__init__(clock)
        self.kept = kept
        self.kubernetes = version
        self.machines = {}
        self.hooks, self.hook_rc = [], 0
        self.last_asked = clock.wall()
        self.rules = Rules(self, "ann@laptop", max_unavailable)
        for number in range(1, planes + 1):
            self._add(f"cp-{number}", version, plane=True)
        for number in range(1, workers + 1):
            self._add(f"node-{number}", version, plane=False)
        self.leader = "cp-1"
        self.cluster_name = "kubernetes"
        self.authority = hashlib.sha256(b"ca.crt").hexdigest()
        self.revision, self.alarms, self.configured = 1 + len(KEYS), [], True
        self.external, self.clients = "", ()
        self.full = set()
        self.ahead_s, self.lagging_s = 0.0, {}
        self.breaks = {"here": 0, "endpoint": 0}

    def _add(self, name, version, *, plane):
        # Pods of applications prefer workers, as if control planes were tainted softly.
        roles, labels = (("control-plane",), {}) if plane else ((), {"preferred": ""})
        address = f"198.18.0.{len(self.machines) + 11}"
        self.machines[name] = FakeMachine(self, name, address, version, plane=plane)
        self.add_node(name, roles=roles, labels=labels, kubelet_version=f"v{version}")
        if plane:
            for each in STATIC:
                self.add_pod("kube-system", f"{each}-{name}", name, mirror=True)

    def add_applications(self):
        """A service with a budget, a stateful set, and a DaemonSet."""
        workers = [name for name, machine in self.machines.items() if not machine.plane] or list(self.machines)
        self.add_controller("ReplicaSet", "default", "web", 4, on=workers)
        self.add_controller("StatefulSet", "default", "db", 2, on=workers)
        self.add_controller("DaemonSet", "kube-system", "proxy", 0)
        self.add_budget("default", "web", max_unavailable=1, app="web")
        self.pass_time(1)

    # ---- who uses it ------------------------------------------------------------------------------------------------

    def view(self):
        return FakeSiteView(self)

    def hands(self, life=None):
        return FakeSiteHands(self, life or Life())

    def host_of(self, machine, life):
        """A host, for one process."""
        return FakeHost(self, machine, life)

    # ---- what one asks ----------------------------------------------------------------------------------------------

    def planes(self):
        return [m for m in self.machines.values() if m.plane]

    def serves(self):
        """Whether an API server answers the operator."""
        return any(m.reachable and m.up("kube-apiserver") for m in self.planes())

    def broke(self, where):
        """Whether a read breaks there; one fewer will."""
        self.breaks[where] -= (left := self.breaks[where]) > 0
        return left > 0

    def facts(self, node):
        """What its host says of itself."""
        return looked(self.view(), node)

    def evictable(self, node):
        """Pods that a drain moves."""
        pods = [p for p in self.pods.values() if p.node == node and not p.mirror]
        return [p.key for p in pods if not (p.controller and p.controller.kind == "DaemonSet")]

    def standing(self):
        """All that an upgrade is about: hosts, cordons, settings, and how many pods of each owner are ready."""
        hosts = {
            name: (
                {each: (p.version, p.held, p.state) for each, p in m.packages.items()},
                dict(sorted(m.files.items())),
                (m.manifests, m.components),
                (m.running, m.replaced, m.settings, m.unfinished),
                sorted(m.left),
                self.nodes[name].kubelet_version,
            )
            for name, m in self.machines.items()
        }
        owners = {c.owner.name: sum(p.ready for p in self.controlled(c)) for c in self.controllers()}
        return hosts, self.cordons(), self.kubernetes, owners

    # ---- etcd, and where its backups go -----------------------------------------------------------------------------

    def use_external_etcd(self, servers, clients=()):
        """It is on other machines; these control planes have a client, and reach it."""
        self.external, self.clients = servers, clients
        for machine in self.planes():
            machine.manifests.pop("etcd")
            machine.components.pop("etcd")

    def destination(self, url, node, life):
        """A directory, or one of a node: that is a directory here, which is away with the node."""
        found = _ON_A_NODE.fullmatch(url)
        if found is None:
            url = open_store(url, host=None).url
            return FakeStore(self, life, Path(url), url)
        name = node if found[1] == "node" else found[1]
        directory = self.kept.parent / "hosts" / name / found[2][1:]
        return FakeStore(self, life, directory, url, self.machines[name])

    # ---- hooks ------------------------------------------------------------------------------------------------------

    def hook(self, argv, where, life):
        """A command of the operator's: rc, stdout, stderr."""
        with self.lock:
            life.effect(("hook", where, *argv[1:]), lambda: self.hooks.append((where, tuple(argv))))
        return self.hook_rc, b"", b"not today\n" if self.hook_rc else b""

    # ---- time -------------------------------------------------------------------------------------------------------

    def wait_for_api(self):
        """Until an API server answers the operator: what stands behind the port asks again and again.

        Raises:
            ApiUnreachable: None does within its patience.
        """
        with self.lock:
            self.catch_up()
            end = self.clock.wall() + API_PATIENCE_S
            while not self.serves():
                if self.clock.wall() >= end:
                    raise ApiUnreachable("no answer", remedy="wait")
                back = min((m.back_at("kube-apiserver") for m in self.planes()), default=end)
                self._wait(back if back > self.clock.wall() else end, end)

    def wait_for_host(self, machine, until, waiting=None):
        """Until a host can be reached.

        Raises:
            HostUnreachable: It cannot.
        """
        with self.lock:
            self.catch_up()
            while not machine.reachable:
                err = HostUnreachable(f"{machine.name}: no connection", remedy="see that it is up")
                if self.clock.wall() >= until:
                    raise err
                if waiting:
                    waiting(err, until - self.clock.wall())
                self._wait(until, until)

    def wait_for_errand(self, errand):
        """Until something happens, when it has not ended yet."""
        with self.lock:
            self.catch_up()
            if errand.state == "running":
                self._wait(self.next_at(), self.next_at())

    def _wait(self, moment, end):
        """To a moment, or to what happens before it."""
        happens = self.next_at()
        moment = min(each for each in (moment, end, happens) if each is not None)
        self.pass_time(max(0.0, moment - self.clock.wall()))


class FakeSiteView(FakeView):
    """Reads a cluster and its hosts."""

    def __init__(self, site, *life):
        super().__init__(site, *life)
        self._site = site
        self._life = life[0] if life else Life()
        self.machines = Machines(lambda node: site.host_of(site.machines[node.name], self._life), site.clock, site.kept)

    def _asked(self, what, of=""):
        self._life.check()
        self._site.wait_for_api()
        return super()._asked(what, of)

    def ask(self, node, query, *words):
        self._life.check()
        return self.machines.ask(self.machines.machine(self, node), node, query, words)

    def trace(self, node, errand):
        self._life.check()
        machine = self._site.machines[node]
        self._site.wait_for_host(machine, self._site.clock.wall() + HOST_PATIENCE_S)
        with self._site.lock:
            found = machine.errands.get((errand.plan, errand.step))
            return Trace(found.state, found.rc if found.state == "ended" else -1) if found else Trace("absent")

    def heartbeat(self, node):
        with self._asked("heartbeat", node):
            site, machine, now = self._site, self._site.machines[node], self._site.clock.wall()
            at = now - now % 10 if machine.on else machine.off_at
            return Renewal(at + site.ahead_s - site.lagging_s.get(node, 0.0), now + site.ahead_s)

    def leads(self, component):
        with self._asked("leads", component):
            site, plane = self._site, self._site.planes()[0]
            at = plane.led_at(component) + site.ahead_s - site.lagging_s.get(plane.name, 0.0)
            return Renewal(at, site.clock.wall() + site.ahead_s)

    def glance(self):
        self._life.check()
        with self._site.lock:
            if self._site.broke("here") or not self._site.serves():
                raise ApiUnreachable("the endpoint hung up", remedy="wait")

    def configuration(self):
        with self._asked("configuration"):
            kind = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration"
            return f"{kind}\nkubernetesVersion: v{self._site.kubernetes}\n" if self._site.configured else ""

    def deprecated(self):
        with self._asked("deprecated"):
            return ()

    def written(self, versions):
        with self._asked("written"):
            assert all(version.count("/") in (1, 2) for version in versions)
            return ()

    def kept(self, name):
        path = self._site.kept / name
        return path if path.is_file() else None

    def place(self, name):
        return self._site.kept / name

    def shelf(self, url, node):
        return ReadOnly(self._site.destination(url, node, self._life))


class FakeSiteHands(FakeSiteView, FakeHands):
    """Changes a cluster and its hosts, in the `life` of one process."""

    def cordon(self, node, record):
        stored = super().cordon(node, record)
        self._site.rules.look()
        return stored

    def uncordon(self, node):
        self._site.rules.uncordons(self._site.nodes[node.name])
        return super().uncordon(node)

    def host(self, node):
        self.machines.forget(node)
        return self.machines.machine(self, node)

    def here(self):
        return FakeHere(self._site, self._life)

    def finish(self, node, argv, errand, *, timeout_s, anew=False, on_line=None, waiting=None):
        machine = self._site.machines[node]
        end = self._site.clock.wall() + timeout_s
        self.machines.forget(node)
        self._life.check()
        self._site.wait_for_host(machine, end, waiting)
        try:
            found = self._started(machine, tuple(argv), errand, timeout_s, anew=anew)
            self._followed(machine, found, end, on_line, waiting)
        finally:
            self.machines.forget(node)
        if found.state == "late":
            raise CommandTimedOut(f"{node}: it did not end in its time, and was ended", remedy="look there")
        if found.state == "vanished":
            raise CommandVanished(f"{node}: it is gone and left no result: the host went down", remedy="look there")
        return Completed(tuple(argv), found.rc, found.text(error=False), found.text(error=True), 1.0)

    def _started(self, machine, argv, errand, timeout_s, *, anew):
        key = (errand.plan, errand.step)
        with self._site.lock:
            found = machine.errands.get(key)
            if found and (found.state in ("late", "vanished") or (found.state == "ended" and (found.rc or anew))):
                found = None
            if found is None:
                work = (key, argv, timeout_s)
                self._life.effect(("start", machine.name, errand.step), lambda: machine.start(*work))
            elif found.argv != argv:
                raise Refused(f"{machine.name}: {errand.step} belongs to another command", remedy="look there")
            return machine.errands[key]

    def _followed(self, machine, errand, end, on_line, waiting):
        told = 0
        while True:
            self._life.check()
            self._site.wait_for_host(machine, end, waiting)
            for _, line in errand.lines[told:] if on_line else ():
                on_line(line)
            told = len(errand.lines)
            if errand.state != "running":
                return
            self._site.wait_for_errand(errand)

    def keep(self, node, path, name, *, timeout_s, compared=True):
        local = self._site.kept / name
        for directory in (self._site.kept, local.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.machines.machine(self, node).fetch(path, local, timeout_s=timeout_s, compared=compared)
        return local

    def store(self, url, node):
        return self._site.destination(url, node, self._life)


class FakeHost:
    """A host's commands and files: what changes something is an effect of the process."""

    def __init__(self, site, machine, life):
        self._site = site
        self._machine = machine
        self._life = life
        self.name = machine.name

    def close(self):
        pass

    def run(
        self, argv, *, timeout_s, stdin=b"", sudo=True, repeatable=False, private=False, stdout_to=None, on_line=None
    ):
        with self._reached():
            query = next((q for q in queries.ALL if argv[2:3] == [q.script]), None)
            if argv[0] == "env":
                rc, out, err = self._site.hook(argv, self.name, self._life)
            elif argv[0] == "stat":
                mode, _ = self._machine.modes.get(argv[-1], (0o644, ""))
                rc, out, err = 0, f"{mode:o}\n".encode(), b""
            elif query:
                rc, out, err = 0, self._answer(query, argv[4:]).encode(), b""
            else:
                what = SHORT.get(argv[2], "sh") if argv[0] == "sh" else argv[0]
                if private:
                    self._machine.private.append(what)
                rc, out, err = self._life.effect((what, self.name), lambda: self._machine.carry_out(argv))
        return Completed(tuple(argv), rc, out, err, 0.1)

    def _answer(self, query, words):
        now = self._site.clock.wall()
        lasting = query is queries.API and float(words[0]) > 0
        # Those who look for a while begin at once, after a look; the clock may have moved for one of them by now.
        since = min(now, self._site.last_asked) if lasting else now
        if not lasting:
            self._site.last_asked = now
        self._machine.looks[query.name] += 1
        return answer(self._machine, query, words, since)

    def read(self, path, *, timeout_s):
        with self._reached():
            if path not in self._machine.files:
                raise HostFileMissing(f"{self.name}: there is no file {path}", remedy=f"look for it: ls -l {path}")
            return self._machine.files[path]

    def write(self, path, data, *, mode, owner, timeout_s):
        def put():
            self._machine.files[path], self._machine.modes[path] = data, (mode, owner)

        with self._reached():
            self._life.effect(("write", self.name, path), put)

    def fetch(self, path, local, *, timeout_s, compared=True):
        contents = self.read(path, timeout_s=timeout_s)
        with self._reached():
            # A point to die at, though nothing of the cluster is changed: it is no effect that a test would see twice.
            self._life._reach("effect", lambda: local.write_bytes(contents))
        local.chmod(0o600)
        return hashlib.sha256(contents).hexdigest() if compared else ""

    def send(self, local, path, *, mode, owner, timeout_s):
        contents = local.read_bytes()
        self.write(path, contents, mode=mode, owner=owner, timeout_s=timeout_s)
        return hashlib.sha256(contents).hexdigest()

    @contextmanager
    def _reached(self):
        """Nothing else happens meanwhile."""
        self._life.check()
        with self._site.lock:
            self._site.wait_for_host(self._machine, self._site.clock.wall() + HOST_PATIENCE_S)
            yield


class FakeHere:
    """The operator's own machine, on which hooks run."""

    name = "laptop"

    def __init__(self, site, life):
        self._site = site
        self._life = life

    def run(self, argv, *, timeout_s, sudo=True):
        rc, out, err = self._site.hook(argv, self.name, self._life)
        return Completed(tuple(argv), rc, out, err, 1.0)


class FakeStore:
    """A destination: what changes it is an effect of the process.

    Args:
        directory: What is behind it.
        url: It, for people.
        machine: The host that it is on, None for this machine.
    """

    def __init__(self, site, life, directory, url, machine=None):
        self.url = url
        self._site = site
        self._life = life
        self._directory = directory
        self._real = DirectoryStore(directory)
        self._machine = machine

    def names(self):
        self._reach()
        return self._real.names()

    def get(self, name, target, *, limit_bytes=None):
        self._reach()
        self._real.get(name, target, limit_bytes=limit_bytes)

    def get_bytes(self, name, limit_bytes=1 << 20):
        self._reach()
        return self._real.get_bytes(name, limit_bytes)

    def put(self, source, name, sha256):
        self._put(name, source.read_bytes(), lambda: self._real.put(source, name, sha256))

    def put_bytes(self, content, name):
        self._put(name, content, lambda: self._real.put_bytes(content, name))

    def remove(self, name):
        self._reach()
        self._life.effect(("remove", self.url, name), lambda: self._real.remove(name))

    def free_bytes(self):
        self._reach()
        return 0 if self.url in self._site.full else self._real.free_bytes()

    def tidy(self, older_than_s, now):
        self._reach()
        return self._life.effect(("tidy", self.url), lambda: self._real.tidy(older_than_s, now))

    def _put(self, name, content, put):
        """Who dies after half of it leaves that, under another name."""
        self._reach()
        if self.url in self._site.full:
            needed = f"{name} needs {len(content)} bytes, and 0 are free"
            raise StoreError(f"{self.url}: {needed}", remedy=f"make room: df -h {self.url}")
        half = self._directory / part_of(name)
        if self._directory.is_dir():
            self._life._reach("effect", lambda: half.write_bytes(content[: len(content) // 2]))
        self._life.effect(("store", self.url, name), lambda: (half.is_file() and half.unlink(), put()))

    def _reach(self):
        self._life.check()
        if self._machine:
            self._site.wait_for_host(self._machine, self._site.clock.wall() + HOST_PATIENCE_S)
