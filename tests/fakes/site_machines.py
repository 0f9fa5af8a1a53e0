"""One host of a cluster in memory: its packages, sources, static pods and kubelet, and commands that outlast a process.

What a command does, it does in stages, on the cluster's clock; losing power between two of them leaves what was done.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from orchestrator.actions.backups import _COLLECT
from orchestrator.actions.hasten import HASTENED, RESTART
from orchestrator.actions.packages import _PREFETCH, INSTALL, LOCK_WAIT_S
from orchestrator.actions.runs import CLEAR
from orchestrator.actions.snapshots import _SAVE
from orchestrator.cluster.hostfacts import STATIC
from orchestrator.cluster.packages import KUBERNETES
from orchestrator.cluster.packages import source as apt_source
from orchestrator.cluster.recovery import PKI
from tests.fakes import boltfiles, recoverysets

LIST = "/etc/apt/sources.list.d/kubernetes.list"
LEFT = "/var/lib/orchestrator"
MANIFESTS = "/etc/kubernetes/manifests"
#: Minor -> etcd of its kubeadm.
ETCD = {"1.35": "3.6.5-0", "1.36": "3.6.8-0", "1.37": "3.7.0-0", "1.38": "3.7.1-0"}
#: Minor -> versions.
OFFERS = {"1.36": ("1.36.3",), "1.37": ("1.37.2",), "1.38": ("1.38.1",)}
#: A kubelet that starts with another minor restarts its static pods so much later, for so long.
RESTARTS_AFTER_S, RESTARTS_FOR_S = 3.0, 5.0
#: Clients of an API server that was away follow pods again so much later.
DEAF_FOR_S = 20.0
#: A leader's lease runs out so long after it was renewed last.
LEADS_FOR_S = 15.0
FOLLOWERS = 10
#: Live keys of etcd: the first changes ever made.
KEYS = tuple(f"/registry/pods/default/web-{number}".encode() for number in range(3))
#: What is secret in what new machines need.
SECRET = b"-----BEGIN RSA PRIVATE KEY-----"
EVER_S = 86400.0


def minor_of(version):
    return ".".join(version.split(".")[:2])


def static_of(name, version):
    return ETCD[minor_of(version)] if name == "etcd" else version


@lru_cache(maxsize=4096)
def snapshot_of(node, revision):
    """A snapshot of the member on a node, with etcd at a revision."""
    keys = boltfiles.Keys()
    keys.main = revision - len(KEYS)
    for key in KEYS if revision else ():
        keys.put(key)
    return boltfiles.snapshot(keys.pairs, members=[(b"8e9e05c52164694d", boltfiles.member(name=node))])


@lru_cache(maxsize=64)
def recovery_of(node, without=""):
    """What new machines need, as a host packs it; without one of its files."""
    found = {**recoverysets.texts(node), f"{PKI}/ca.crt": node, f"{PKI}/ca.key": SECRET.decode()}
    return recoverysets.archive({path: text for path, text in found.items() if path != without})


@dataclass
class FakePackage:
    version: str
    held: bool = True
    state: str = "ok installed"


@dataclass
class FakeErrand:
    """A command that was started: its state is as `actions.site.Trace` has it."""

    argv: tuple[str, ...]
    state: str = "running"
    rc: int = -1
    lines: list = field(default_factory=list)

    def say(self, line, *, error=False):
        self.lines.append((error, line))

    def text(self, *, error):
        return "".join(f"{line}\n" for mine, line in self.lines if mine is error).encode()


class FakeMachine:
    """A host.

    Attributes:
        offers: Minor -> versions that its package repository has.
        lacks: Packages that it does not have.
        requested: Lines of its API server's metrics on deprecated APIs.
        ahead_s: How far ahead its clock is.
        lists: Minor -> those that apt knows of, since it read its lists last.
        asks_itself: Its kubelet asks the API server of the same host only.
        faults: What goes wrong, until somebody mends it: `apt` is `refuses`, `lock`, `disk` or `hangs`, `kubeadm` is
            `refuses`, `fails` or `hangs`, `snapshot` is `refuses`, `damaged`, `truncated` or `empty`, `collect` is
            `refuses` or the path of what it does not give, `etcd` is `cut short`, `learner`, `unhealthy`, `differs` or
            `mute` (it tells no members, no hash); `hash` is the revision that a hash is said to be of, None where it
            was compacted; `static pods` are the components that run as they did before.
        free_bytes: Of its disk.
        db_size_bytes: What its member says of its database; 0 for the size of a snapshot.
        private: Commands that ran so that nothing of them is recorded.
        server_flags: Of its API server, more than the usual ones.
        authority: As of the site, where it is another.
        taught: Command -> a generator like those here.
        started: How often each errand was started.
        kept: What kubeadm kept of upgrades: when, version by component, whether it copied etcd's data.
    """

    def __init__(self, site, name, address, version, *, plane):
        self.site = site
        self.name = name
        self.address = address
        self.asks_itself = plane
        self.offers, self.lacks = dict(OFFERS), set()
        self.ahead_s, self.requested = 0.0, []
        self.lists = {}
        self.faults = {}
        self.free_bytes = 90_000_000_000
        self.db_size_bytes = 0
        self.private = []
        self.taught = {}
        self.packages = {each: FakePackage(version) for each in KUBERNETES}
        self.unfinished = ""
        self.files = {LIST: f"deb http://198.18.0.1:8089/core:/stable:/v{minor_of(version)}/deb/ /\n".encode()}
        self.modes = {}
        self.server_flags, self.authority = (), ""
        self.manifests = {each: static_of(each, version) for each in STATIC} if plane else {}
        self.components = dict(self.manifests)
        self.running = self.settings = version
        self.replaced = False
        self.fetched = set()
        self.kept = []
        self.errands = {}
        self.left = set()
        self.started = Counter()
        self.looks = Counter()
        self.on, self.cut, self.boots = True, False, 1
        self.off_at = 0.0
        self._gone = []

    @property
    def plane(self):
        return bool(self.manifests)

    @property
    def server(self):
        return self.components.get("kube-apiserver", "")

    @property
    def reachable(self):
        return self.on and not self.cut

    def working(self, program):
        """Whether an errand of that program runs."""
        return any(e.state == "running" and program in e.argv for e in self.errands.values())

    # ---- static pods ------------------------------------------------------------------------------------------------

    def gone(self, names, after_s, for_s):
        """These do not run for a while."""
        at = self.site.wall() + after_s
        self._gone.append((frozenset(names), at, at + for_s))

    def up(self, name, since=None):
        """Whether a static pod runs, and did since."""
        now = self.site.wall()
        since = now if since is None else min(since, now)
        away = any(name in names and at <= now and end > since for names, at, end in self._gone)
        return self.on and name in self.components and not away

    def breaks(self, name, since, until):
        """The first moment between the two at which a static pod does not run, or None."""
        moments = [max(at, since) for names, at, end in self._gone if name in names and at <= until and end > since]
        return min(moments, default=None)

    def back_at(self, name):
        """When it will run again, as things are."""
        now = self.site.wall()
        return max((end for names, at, end in self._gone if name in names and at <= now < end), default=now)

    def followers(self):
        """How many clients follow pods at this API server."""
        now = self.site.wall()
        if not self.up("kube-apiserver"):
            return 0
        ends = [end for names, _, end in self._gone if "kube-apiserver" in names and end <= now]
        return FOLLOWERS if now - max(ends, default=0.0) >= DEAF_FOR_S else FOLLOWERS - 4

    def led_at(self, name):
        """When a component of this host that leads renewed its lease last."""
        now = self.site.wall()
        spans = [(at, max(end, at + LEADS_FOR_S)) for names, at, end in self._gone if name in names]
        return min((at for at, end in spans if at <= now < end), default=now)

    # ---- power ------------------------------------------------------------------------------------------------------

    def power_off(self):
        self.on, self.off_at = False, self.site.wall()
        for errand in self.errands.values():
            if errand.state == "running":
                errand.state = "vanished"
        self.site.change_node(self.name, ready=False, ready_reason="NodeStatusUnknown")

    def power_on(self):
        """Static pods and the kubelet that is installed start."""
        self.on, self.boots = True, self.boots + 1
        self.components = dict(self.manifests)
        self.gone(STATIC, 0.0, RESTARTS_FOR_S)
        self._start_kubelet()

    def _start_kubelet(self):
        self.running, self.replaced = self.packages["kubelet"].version, False
        self.site.change_node(self.name, ready=False, ready_reason="KubeletNotReady")
        self.site.after(1.5, self._tell)
        self.site.rules.look()

    def _tell(self):
        if self.on:
            version = f"v{self.running}"
            self.site.change_node(self.name, kubelet_version=version, ready=True, ready_reason="KubeletReady")

    def restart_kubelet(self):
        other = minor_of(self.running) != minor_of(self.packages["kubelet"].version)
        if other and self.plane:
            self.site.rules.etcd_stops(self)
            self.gone(STATIC, RESTARTS_AFTER_S, RESTARTS_FOR_S)
        self._start_kubelet()

    # ---- commands ---------------------------------------------------------------------------------------------------

    def start(self, key, argv, timeout_s):
        """Start a command; it goes on by itself."""
        errand = self.errands[key] = FakeErrand(tuple(argv))
        self.started[key] += 1
        self.left.add(key[0])
        work = self._program(list(argv), errand)

        def stage():
            if errand.state != "running":
                return
            try:
                self.site.after(next(work), stage)
            except StopIteration as end:
                errand.state, errand.rc = "ended", end.value or 0

        def late():
            if errand.state == "running":
                errand.state = "late"
                self._hold(argv[4].split() if argv[0] == "sh" and argv[2].startswith(INSTALL) else ())

        self.site.after(timeout_s, late)
        stage()

    def _program(self, argv, errand):
        if tuple(argv) in self.taught:
            return self.taught[tuple(argv)](errand)
        match argv:
            case ["sh", "-c", script, "sh", held, sources, *wanted] if script == INSTALL:
                return self._install(errand, held.split(), sources.split(), wanted)
            case ["sh", "-c", script, "sh", held, sources, *wanted] if script == INSTALL + RESTART:
                return self._install_and_restart(errand, held.split(), sources.split(), wanted)
            case ["sh", "-c", script, "sh", minor, version, images, *wanted] if script == _PREFETCH:
                return self._prefetch(errand, minor, version, images, wanted)
            case ["sh", "-c", script, "sh", node, "kubeadm", "upgrade", *words] if script == HASTENED:
                assert node == self.name
                return self._kubeadm(errand, words)
            case ["kubeadm", "upgrade", *words]:
                return self._kubeadm(errand, words)
        raise AssertionError(f"this host does not know how to run {argv}")

    def _install_and_restart(self, errand, held, sources, wanted):
        rc = yield from self._install(errand, held, sources, wanted)
        if rc == 0:
            yield 1.0
            self.restart_kubelet()
        return rc

    def _install(self, errand, held, sources, wanted):
        yield 1.0
        rc = yield from self._apt(errand, sources, wanted)
        self._hold(held)
        return rc

    def _hold(self, names):
        for name in names:
            self.packages[name].held = True

    def _apt(self, errand, sources, wanted):
        fault = self.faults.get("apt")
        if self.unfinished and fault != "disk":
            self.unfinished = ""
            for package in self.packages.values():
                package.state = "ok installed"
        if fault == "refuses":
            return self._refused(errand, "E: The repository is not signed.")
        offered = self._listed(sources, wanted)
        yield 2.0
        if fault == "lock":
            yield float(LOCK_WAIT_S)
            return self._refused(errand, "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7")
        if fault == "hangs":
            yield EVER_S
        found = {name: self._found(wish, offered) for name, _, wish in (each.partition("=") for each in wanted)}
        for name, version in found.items():
            if version is None:
                return self._refused(errand, f"E: Version for '{name}' was not found")
        self.site.rules.installs(self, found)
        for name, version in found.items():
            self.packages[name] = FakePackage(version, held=False)
            self.replaced |= name == "kubelet" and version != self.running
            if fault == "disk":
                self.packages[name].state = "ok unpacked"
                self.unfinished = f"{name} is only half configured"
                return self._refused(errand, "E: No space left on device")
            yield 1.0
        return 0

    def _listed(self, sources, wanted):
        """Versions that lists have; they are read again unless all that is wanted was fetched."""
        minors = [m for path in sources for m in self._minors(path)]
        at_hand = {v for m in minors for v in self.lists.get(m, ())} & {v.removeprefix("v") for v in self.fetched}
        if not all(self._found(each.partition("=")[2], at_hand) for each in wanted):
            self.lists = {m: tuple(self.offers.get(m, ())) for m in minors}
        return [v for m in minors for v in self.lists.get(m, ())]

    def _minors(self, path):
        found = apt_source(path, self.files[path].decode())
        return found.minors if found else ()

    def _found(self, wish, offered):
        return next((v for v in offered if v == wish.removesuffix("-*")), None)

    def _refused(self, errand, text):
        errand.say(text, error=True)
        return 100

    def _prefetch(self, errand, minor, version, images, wanted):
        yield 5.0
        offered = self.offers.get(minor, ())
        if any(self._found(each.partition("=")[2], offered) is None for each in wanted):
            return self._refused(errand, f"E: Can't find version {version}")
        if images not in ("yes", "no"):
            raise AssertionError(f"images: {images}")
        self.fetched.add(version)
        return 0

    # ---- kubeadm ----------------------------------------------------------------------------------------------------

    def _kubeadm(self, errand, words):
        mode, version = words[0], self.site.kubernetes if words[0] == "node" else words[-1].removeprefix("v")
        self.site.rules.kubeadm(self, mode, version)
        errand.say("[upgrade/preflight] Running preflight checks")
        yield 2.0
        if self.faults.get("kubeadm") == "refuses":
            errand.say("\t[ERROR CoreDNSUnsupportedPlugins]: start version 'x' not supported", error=True)
            return 1
        if self.plane:
            if not (yield from self._replace(errand, version)):
                return 1
            if mode == "apply":
                self.site.kubernetes = version
        yield 3.0
        if self.faults.get("kubeadm") == "fails late":
            errand.say("error: error execution phase kubelet-config", error=True)
            return 1
        self.settings = version
        if mode == "apply":
            errand.say(f'[upgrade] SUCCESS! A control plane node of your cluster was upgraded to "v{version}".')
        return 0

    def _replace(self, errand, version):
        """Static pods one after another; False when it failed, and moved back all but etcd."""
        found, fault = dict(self.manifests), self.faults.get("kubeadm")
        for name in STATIC:
            if self.manifests[name] == static_of(name, version):
                if self.components[name] != self.manifests[name]:
                    yield 8.0  # kubeadm was cut short before
                    self.components[name] = self.manifests[name]
                continue
            kept = f"/etc/kubernetes/tmp/kubeadm-backup-manifests-2026-11-23/{name}.yaml"
            errand.say(
                f'[upgrade/staticpods] Moving new manifest to "{MANIFESTS}/{name}.yaml" and backing up old manifest to'
                f' "{kept}"'
            )
            if name == "etcd":
                self.site.rules.etcd_stops(self)
            self.manifests[name] = static_of(name, version)
            self.gone((name, "kube-apiserver") if name == "etcd" else (name,), 0.0, 4.0)
            yield 8.0
            if name == "kube-controller-manager" and fault == "hangs":
                yield EVER_S
            if name == "kube-controller-manager" and fault == "fails":
                self.manifests = {**found, "etcd": self.manifests["etcd"]}
                self.components = dict(self.manifests)
                self.gone(("kube-apiserver",), 0.0, 4.0)
                yield 6.0
                errand.say(
                    "error: error execution phase control-plane: couldn't upgrade control plane. kubeadm has tried to"
                    " recover everything into the earlier state. Errors faced: static Pod hash did not change",
                    error=True,
                )
                return False
            self.components[name] = self.manifests[name]
            self.site.rules.look()
        return True

    # ---- short commands ---------------------------------------------------------------------------------------------

    def carry_out(self, argv):
        """A command that is over at once: rc, stdout, stderr."""
        match list(argv):
            case ["sh", "-c", script, "sh", path, _, needed, _] if script == _SAVE:
                return self._save(path, int(needed))
            case ["sh", "-c", script, "sh", *files] if script == _COLLECT:
                self.collected = files
                return self._collect()
            case ["rm", "-f", "--", path]:
                self.files.pop(path, None)
            case ["sh", "-c", script, "sh", path] if script == CLEAR:
                self.files = {name: text for name, text in self.files.items() if not name.startswith(f"{path}/")}
                self.left.discard(path.removeprefix(f"{LEFT}/"))
                self.errands = {k: e for k, e in self.errands.items() if k[0] != path.removeprefix(f"{LEFT}/")}
            case ["sha256sum", "/etc/kubernetes/pki/ca.crt" as path]:
                return 0, f"{self.authority or self.site.authority}  {path}\n".encode(), b""
            case _:
                raise AssertionError(f"this host does not know how to run {argv}")
        return 0, b"", b""

    def _save(self, path, needed):
        fault = self.faults.get("snapshot")
        if fault == "refuses" or not (self.up("etcd") or self.name in self.site.clients):
            return 3, b"", b"no etcd runs on this host\n"
        directory = path.rpartition("/")[0]
        self.left.add(path.removeprefix(f"{LEFT}/").partition("/")[0])
        if self.free_bytes < needed:
            return 5, b"", f"{directory} has {self.free_bytes} bytes free; the snapshot needs {needed}\n".encode()
        content = snapshot_of(self.name, 0 if fault == "empty" else self.site.revision)
        spoilt = {"damaged": content[:-1] + b"?", "truncated": content[:-4096]}
        self.files[path] = spoilt.get(fault, content)
        return 0, b"", b"Snapshot saved\n"

    def _collect(self):
        if self.faults.get("collect") == "refuses":
            return 2, b"", b"tar: /etc/kubernetes: Cannot open: Input/output error\n"
        return 0, recovery_of(self.name, self.faults.get("collect", "")), b""
