"""Upgrades on clusters of the tests' own: the command, what it tells, and what is on hosts before and after."""

import json
import shutil
import subprocess
import threading
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lab import aptsite, cluster, network, progress, ssh, state
from lab.cluster import Request
from lab.state import Shape
from lab.upgrades.access import Access
from lab.upgrades.askers import ServiceClient
from lab.upgrades.budgets import BudgetWatch
from tests.api.command import Command
from tests.lab.real import Real, lab, until

OLD, NEW = "1.36.3", "1.37.2"
ONE_AND_TWO = Shape(1, 2)
ACCEPTED = ("--accept", "SystemVerification")
APPLY = ("upgrade", "apply", "--to", "1.37", *ACCEPTED, "--yes", "--ssh", "--log-format", "json")
RESUME = ("resume", "last", "--log-format", "json")
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
#: One whole upgrade, with all that may be in its way.
PATIENCE_S = 900
#: How long a network is cut.
CUT_S = 60

_LOOK = r"""
dpkg-query -W -f 'package ${Package} ${Version}\n' kubeadm kubectl kubelet
apt-mark showhold | sed 's/^/held /'
sed -n 's#^deb .*/v\([0-9.]*\)/deb.*#minor \1#p' /etc/apt/sources.list.d/kubernetes.list
ls /etc/apt/sources.list.d | sed 's/^/file /'
{ ls -d /var/lib/orchestrator /var/lib/orchestrator/* 2> /dev/null || true; } | sed 's/^/left /'
echo "kubelet $(/proc/$(pidof -s kubelet)/exe --version | cut -d' ' -f2)"
"""

ARCHIVES = "/var/cache/apt/archives"
LIST = "/etc/apt/sources.list.d/kubernetes.list"
FRONTEND = "/var/lib/dpkg/lock-frontend"
FILL = f"mount -t tmpfs -o size=1m,mode=755 full {ARCHIVES}"

# What a worker was before, kept there; and dpkg, which stops half-way once when /run/slow says for how long.
PREPARE = r"""
mkdir -p /root/before
(cd /var/lib/kubelet; cp -a config.yaml instance-config.yaml kubeadm-flags.env /root/before/)
cp -a /etc/apt/sources.list.d/kubernetes.list /root/before.list
cat > /usr/local/sbin/lab-slow <<'SCRIPT'
#!/bin/sh
[ -e /run/slow ] || exit 0
mv /run/slow /run/slowed
sleep "$(cat /run/slowed)"
SCRIPT
chmod 755 /usr/local/sbin/lab-slow
echo post-invoke=/usr/local/sbin/lab-slow > /etc/dpkg/dpkg.cfg.d/lab-slow
"""
RESET = rf"""
umount -q {ARCHIVES} || true
rm -f /run/slow /run/slowed /var/log/apt/history.log /etc/apt/sources.list.d/*.bak
rm -rf /var/lib/orchestrator
cp -a /root/before.list /etc/apt/sources.list.d/kubernetes.list
export DEBIAN_FRONTEND=noninteractive
{{
  dpkg --configure -a
  apt-get update -q
  apt-get install -y -q --allow-downgrades --allow-change-held-packages \
    kubeadm={OLD}-1.1 kubelet={OLD}-1.1 kubectl={OLD}-1.1
  apt-mark hold kubeadm kubectl kubelet
}} >&2
rm -f /var/log/apt/history.log
cp -a /root/before/. /var/lib/kubelet/
systemctl daemon-reload
systemctl restart kubelet
"""
# Holds dpkg's lock, as apt does, until it is told to let go.
HOLDER = f"""
cat > /run/holder.py <<'PROGRAM'
import fcntl, os, time
lock = open({FRONTEND!r}, "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
open("/run/holds", "w").write(str(os.getpid()))
while not os.path.exists("/run/let-go"):
    time.sleep(0.1)
PROGRAM
rm -f /run/holds /run/let-go
systemd-run -q --collect --unit=lab-holder python3 /run/holder.py
while [ ! -s /run/holds ]; do sleep 0.1; done
cat /run/holds
"""


@dataclass
class Site:
    """A cluster of a test's own, and the command of whoever upgrades it."""

    real: Real
    access: Access
    command: Command

    @property
    def plane(self):
        return self.planes[0]

    @property
    def planes(self):
        return [node.name for node in self.access.control_planes()]

    @property
    def workers(self):
        return [node.name for node in self.access.workers()]

    @property
    def nodes(self):
        return [self.plane, *self.workers]

    def operator(self, home):
        """Another person with the same rights, and records of their own."""
        (home / ".ssh").mkdir(mode=0o700, parents=True)
        shutil.copy(ssh.config(self.real.cluster), home / ".ssh" / "config")
        return Command(self.real.cluster.kubeconfig, home)

    def host(self, node):
        """What is on a host: `package`, `held`, `minor` and `file` of its sources, `left` by commands, `kubelet`."""
        found = {kind: [] for kind in ("package", "held", "minor", "file", "left", "kubelet")}
        for line in self.access.ssh(node, _LOOK).splitlines():
            kind, _, rest = line.partition(" ")
            found[kind].append(rest)
        return found

    def running(self):
        """Component of the control plane -> the version that runs, by the API, once it tells: it may just restart."""
        said = []

        def told():
            done = self.real.attempt("get", "-n", "kube-system", "pods", "-l", "tier=control-plane", "-o", "json")
            said.append(done.stdout)
            return done.returncode == 0

        until("the API to tell what runs", told, 300)
        pods = json.loads(said[-1])["items"]
        return {
            pod["metadata"]["labels"]["component"]: pod["spec"]["containers"][0]["image"].rpartition(":")[2]
            for pod in pods
        }

    def kubelets(self):
        """Node -> version, and whether it is cordoned, by the API."""
        found = self.real.read("nodes")["items"]
        return {
            node["metadata"]["name"]: (
                node["status"]["nodeInfo"]["kubeletVersion"],
                bool(node["spec"].get("unschedulable")),
            )
            for node in found
        }

    def installs(self, node, package):
        """How often apt moved a package to another version."""
        log = self.access.ssh(node, "cat /var/log/apt/history.log 2> /dev/null || true")
        moves = [line for line in log.splitlines() if line.startswith(("Upgrade:", "Downgrade:"))]
        return sum(f" {package}:" in line for line in moves)


def join_anew(access, node, through):
    """A machine becomes a control plane once more, by the lines of docs/disaster-recovery.md, out of another one."""
    key = access.ssh(through, "kubeadm init phase upload-certs --upload-certs").split()[-1]
    join = access.ssh(through, f"kubeadm token create --print-join-command --certificate-key {key}").strip()
    access.ssh(node, "kubeadm reset --force", timeout_s=300)
    # A machine of the lab shares the kernel and the swap of this one.
    access.ssh(node, f"{join} --ignore-preflight-errors=all", timeout_s=600)


@contextmanager
def own_cluster(name, home, *, shape=ONE_AND_TWO, version=OLD, offered=(OLD, NEW)):
    """A cluster at the old version; it goes with the test, however that ends."""
    with state.lock(f"tests-{name}"):
        if state.load(name):
            cluster.down(name)  # of a run that was killed
        try:
            real = Real(cluster.up(Request(name, shape, version, offered)))
            site = Site(real, Access(real.cluster), Command(real.cluster.kubeconfig, home))
            site.command = site.operator(home / "operator")
            yield site
            site.command.end()
        finally:
            cluster.down(name)


@contextmanager
def stale_mirror(directory):
    """The address of a mirror of the old minor, which says that it is the new one, too."""
    there = directory / "old"
    there.mkdir()
    for name in ("InRelease", "Packages.gz"):
        with urllib.request.urlopen(aptsite.url("1.36") + name) as answer:
            (there / name).write_bytes(answer.read())
    for minor in ("1.36", "1.37"):
        place = directory / f"core:/stable:/v{minor}"
        place.mkdir(parents=True)
        (place / "deb").symlink_to(there)
    with ThreadingHTTPServer((network.GATEWAY, 0), partial(SimpleHTTPRequestHandler, directory=directory)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{network.GATEWAY}:{server.server_port}"
        server.shutdown()


def as_wanted(version=NEW, *, moved=True):
    """A host as it should be at a version, whether it came there by an upgrade or was made so."""
    minor = version.rpartition(".")[0]
    copy = ["kubernetes.list.v1.36.bak"] if moved else []
    return {
        "package": [f"{name} {version}-1.1" for name in ("kubeadm", "kubectl", "kubelet")],
        "held": ["kubeadm", "kubectl", "kubelet"],
        "minor": [minor],
        "file": ["kubernetes.list", *copy],
        "left": [],
        "kubelet": [f"v{version}"],
    }


def events(command):
    """What the command beside has told so far."""
    return told_in(command.stderr)


def told_in(stderr):
    """The events among what a command said."""
    lines = stderr.splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def until_told(command, process, action, *, event="step.started", node="", but=(), timeout_s=300):
    """The node of that action, once the command beside tells of it; a certain one, or any but some."""
    nodes = []

    def told():
        found = [e["node"] for e in events(command) if e["event"] == event and e.get("action") == action]
        nodes[:] = [each for each in found if node in (each, "") and each not in but]
        if nodes:
            return True
        assert process.poll() is None, f"it ended with {process.returncode} before {action}:\n{command.stderr}"
        return False

    until(f"{event} of {action}", told, timeout_s)
    return nodes[0]


def until_in_the_middle_of_kubeadm(command, process, component="kube-apiserver", *, node=""):
    """Return when it has replaced what comes before that component, and comes to it."""
    middle = f'Preparing for "{component}"'

    def so():
        assert process.poll() is None, command.stderr
        said = [e for e in events(command) if e["event"] == "kubeadm.said" and node in (e["node"], "")]
        return any(middle in each["line"] for each in said)

    until("kubeadm to be in the middle", so, 300)


def ended(command, process, *, code=0, timeout_s=PATIENCE_S):
    """What the command beside said; it has to end with `code`."""
    process.wait(timeout_s)
    said = (command.home / "stdout").read_text() + command.stderr
    assert process.returncode == code, f"exit code {process.returncode}\n{said}"
    return said


@contextmanager
def watched(site, *, by=""):
    """Somebody uses the application, and somebody watches its budget. Told when they stop."""
    with ServiceClient(site.access, site.app, node=by or site.plane) as client, BudgetWatch(site.access) as watch:
        yield client, watch
        answers, held = client.stop(), watch.stop()
        progress.say(f"application: {answers}; shortages: {held.shortages}")


def unharmed(client, watch):
    assert client.stop().failures == (), str(client.stop())
    assert watch.stop().shortages == ()


def seen(command, *actions):
    """What became of those actions, for people."""
    for each in events(command):
        if each["event"] in {"step.finished", "step.failed", "retry.scheduled"} and (
            not actions or each.get("action") in actions
        ):
            progress.say(f"{each['event']} {each.get('action')} {each.get('took_s', '')} {each.get('why', '')[:200]}")


def cut(site, node, process):
    """Its network is gone for a while; whoever works on it does not give up."""
    lab("network", node, "cut")
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(CUT_S)
    finally:
        lab("network", node, "heal")
