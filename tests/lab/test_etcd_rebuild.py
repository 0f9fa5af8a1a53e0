"""Control planes that are gone with all that was on them, made anew of a recovery set and a snapshot."""

import base64
import json
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest
import yaml

from lab import cluster, kms, progress, ssh, state
from lab.cluster import Request
from lab.state import Shape
from lab.upgrades.access import Access
from tests.api.command import Command
from tests.lab.real import Place, Real, deployment, serving, until
from tests.lab.upgrading import join_anew

pytestmark = [pytest.mark.lab, pytest.mark.lab_full]
VERSION, OFFERED = "1.36.3", ("1.36.3", "1.37.2")
LONG_S = 600

# As a person switches encryption at rest on: a key, a flag, a mount; then what is stored is written anew. The host has
# it elsewhere than the flag says.
ENCRYPT = r"""
mkdir -p -m 700 /opt/keys
umask 077
cat > /opt/keys/config.yaml <<FILE
CONFIGURATION
FILE
m=/etc/kubernetes/manifests/kube-apiserver.yaml
sed -e 's#^    - --enable-bootstrap.*#&\n    - --encryption-provider-config=/etc/kubernetes/enc/config.yaml#' \
  -e 's#^    volumeMounts:#&\n    - {mountPath: /etc/kubernetes/enc, name: enc, readOnly: true}#' \
  -e 's#^  volumes:#&\n  - {hostPath: {path: /opt/keys, type: Directory}, name: enc}#' "$m" > /root/new.yaml
mv /root/new.yaml "$m"
"""
# A machine as its installer leaves it: packages, images, a container runtime, and nothing of a cluster. What the lab
# itself lays down for the pod network is the machine's; elsewhere the plugin's DaemonSet would.
ERASE = r"""
cp -a /etc/cni/net.d/10-lab.conflist /root/
kubeadm reset --force > /dev/null 2>&1
systemctl stop kubelet
rm -rf /etc/kubernetes /opt/keys /var/lib/etcd /var/lib/orchestrator /etc/cni/net.d
find /var/lib/kubelet -mindepth 1 -delete
mkdir -p /etc/kubernetes/manifests /etc/cni/net.d
cp -a /root/10-lab.conflist /etc/cni/net.d/
systemctl restart containerd
"""
# All that a rebuild could leave on a machine: names, contents, and whether kubelet and static pods run.
STATE = r"""
{
  find /etc/kubernetes /opt/keys /var/lib/kubelet /var/lib/etcd* /etc/default/kubelet -type f 2> /dev/null || true
} | sort |
  while read -r file; do sha256sum "$file"; done
ls /var/lib/orchestrator 2> /dev/null || true
pidof etcd kube-apiserver kube-controller-manager kube-scheduler || true
"""
# The same of a machine whose kubelet and etcd go on writing.
SETTLED = "find /etc/kubernetes -type f -exec sha256sum {} + | sort; ls -A /var/lib/orchestrator 2> /dev/null || true"
# A static pod with a directory that its host does not have is not started. Source: Kubernetes, "hostPath volume types".
STOPPED = r"""
m=/etc/kubernetes/manifests/kube-apiserver.yaml
sed -e 's#^    volumeMounts:#&\n    - {mountPath: /no/such, name: no}#' \
  -e 's#^  volumes:#&\n  - {hostPath: {path: /no/such, type: Directory}, name: no}#' "$m" > /root/new.yaml
mv /root/new.yaml "$m"
i=0; while pidof kube-apiserver > /dev/null; do i=$((i + 1)); [ $i -lt 180 ]; sleep 1; done
"""
ETCDCTL = r"""
p=/etc/kubernetes/pki/etcd
/proc/$(pidof -s etcd)/root/usr/local/bin/etcdctl --endpoints=https://127.0.0.1:2379 --cacert=$p/ca.crt \
  --cert=$p/server.crt --key=$p/server.key """


# What docs/disaster-recovery.md says to do by hand, once the two files are opened.
BY_HAND = r"""
tar -x -C / --exclude '*/kubelet.conf' < /root/set.tar
mkdir /root/manifests && mv /etc/kubernetes/manifests/*.yaml /root/manifests/
/tools/etcdutl snapshot restore /root/snapshot.db --data-dir /var/lib/etcd --name NODE \
  --initial-cluster NODE=https://ADDRESS:2380 --initial-advertise-peer-urls https://ADDRESS:2380 \
  --initial-cluster-token new-1 --bump-revision 1000000000 --mark-compacted
kubeadm init phase kubeconfig kubelet --node-name NODE --apiserver-advertise-address ADDRESS \
  --control-plane-endpoint ENDPOINT --kubernetes-version VERSION
mv /root/manifests/*.yaml /etc/kubernetes/manifests/ && systemctl restart kubelet
"""


class Site:
    """A cluster of a test's own, its operator with a key, and backups."""

    def __init__(self, made, home):
        self.real, self.access = Real(made), Access(made)
        (home / ".ssh").mkdir(mode=0o700, parents=True)
        self.known = home / ".ssh" / "known_hosts"
        shutil.copy(ssh.known_hosts(made), self.known)
        told = ssh.config(made).read_text().replace(str(ssh.known_hosts(made)), str(self.known))
        (home / ".ssh" / "config").write_text(told)
        self.command = Command(made.kubeconfig, home)
        self.key = home / "key.txt"
        self.planes = [node.name for node in self.access.control_planes()]
        self.recipient = self._identity()

    def _identity(self):
        from pyrage import x25519  # noqa: PLC0415

        made = x25519.Identity.generate()
        self.key.touch(mode=0o600)
        self.key.write_text(f"{made}\n")
        return str(made.to_public())

    @property
    def snapshots(self):
        return self.command.home / "state/orchestrator/snapshots"

    def backup(self):
        self.command("etcd", "backup", "--ssh", "--recipient", self.recipient)

    def words(self, *more, onto=None):
        named = [word for name in onto or self.planes for word in ("--onto", name)]
        return ("etcd", "restore", "last", *named, "-i", str(self.key), "--ssh", *more)

    def rebuild(self, *more, code=0, onto=None):
        return self.command(*self.words(*more, onto=onto), code=code, timeout_s=LONG_S)

    def bring(self, node, found, path):
        """What another program opens, on a machine."""
        import pyrage  # noqa: PLC0415

        [sealed] = found
        identity = pyrage.x25519.Identity.from_str(self.key.read_text().strip())
        stored = pyrage.decrypt(sealed.read_bytes(), [identity])
        content = subprocess.run(["zstd", "-d"], input=stored, capture_output=True, check=True, timeout=60).stdout
        argv = ssh.command(self.real.cluster, node, (f"cat > {path}",))
        subprocess.run(argv, input=content, check=True, timeout=60)

    def erase(self, *names):
        for name in names or self.planes:
            self.access.ssh(name, ERASE)

    def new_host_keys(self, name):
        """A machine that was installed anew shows other keys: refused until somebody vouches for them."""
        self.access.ssh(name, "rm /etc/ssh/ssh_host_*; ssh-keygen -q -A; systemctl restart ssh")
        refused = self.rebuild("--yes", code=11)
        assert "hosts trust" in refused.stderr
        self.command("hosts", "trust", name, "--replace", "--yes", "--ssh")
        shutil.copy(self.known, ssh.known_hosts(self.real.cluster))  # the lab's own commands go there, too

    def secret(self, name):
        held = self.real.read("secret", name, "-n", "kept")["data"]["a"]
        return base64.b64decode(held).decode()

    def stored(self, name):
        """What etcd has of a secret, its beginning."""
        return self.access.ssh(
            self.planes[0], f"{ETCDCTL} get --print-value-only /registry/secrets/kept/{name} | head -c 20"
        )

    def works(self, name):
        """Kubelets, controllers and the scheduler do their work: new pods on every worker's kubelet, and an answer."""
        self.real.until_ready(*(n["metadata"]["name"] for n in self.real.read("nodes")["items"]))
        place = Place(self.real, "kept")
        place.create(deployment(name, 4, serving(name)))
        self.real.kubectl("-n", "kept", "rollout", "status", f"deployment/{name}", "--timeout=120s")
        assert (
            self.real.kubectl("-n", "kept", "exec", f"deployment/{name}", "--", "/bin/busybox", "echo", "hello")
            == "hello\n"
        )

    def plain(self):
        """Files here in which the cluster's keys, or a secret, stand as they are."""
        found = []
        for path in self.command.home.rglob("*"):
            if path.is_file() and path != self.key:
                content = path.read_bytes()
                if b"PRIVATE KEY-----" in content or content[16:20] == b"\xed\xda\x0c\xed":
                    found.append(path)
        return found


@contextmanager
def own(name, home, shape):
    """A cluster that goes with the test, and a namespace with a secret."""
    with state.lock(f"tests-{name}"):
        if state.load(name):
            cluster.down(name)  # of a run that was killed
        try:
            site = Site(cluster.up(Request(name, shape, VERSION, OFFERED)), home)
            yield site
            site.command.end()
        finally:
            cluster.down(name)


def aescbc():
    """A provider with its key."""
    return {"aescbc": {"keys": [{"name": "key1", "secret": base64.b64encode(bytes(range(32))).decode()}]}}


def encrypted(site, provider=None, stored="k8s:enc:aescbc:v1:k"):
    """Encryption at rest switched on, on every control plane with one key, and secrets written anew."""
    configuration = json.dumps(kms.configuration(provider or aescbc(), {"identity": {}}))
    for name in site.planes:
        before = site.access.ssh(name, "pidof kube-apiserver")
        site.access.ssh(name, ENCRYPT.replace("CONFIGURATION", configuration))
        until(
            "another API server",
            lambda name=name, before=before: (
                site.access.ssh(name, "pidof kube-apiserver || true").strip() not in ("", before.strip())
            ),
        )
    until("the API", lambda: site.real.attempt("get", "--raw", "/readyz").returncode == 0)
    site.real.kubectl("create", "namespace", "kept")
    site.real.kubectl("-n", "kept", "create", "secret", "generic", "before", "--from-literal=a=kept")
    everything = site.real.kubectl("get", "secrets", "-A", "-o", "json")
    site.real.kubectl("replace", "-f", "-", stdin=everything)
    assert site.stored("before").startswith(stored)


def told(said):
    return [json.loads(line) for line in said.stderr.splitlines() if line.startswith("{")]


def figures(what, said):
    """How long the steps took, for people."""
    events = told(said)
    steps = {f"{e['node']} {e['step']}": e["took_s"] for e in events if e["event"] == "step.finished"}
    took = next((e["took_s"] for e in events if e["event"] == "run.finished"), None)
    progress.say(f"{what}: {took} s; {steps}")


JSON = ("--yes", "--log-format", "json")


def test_one_control_plane_with_encryption_at_rest_comes_back_and_workers_find_it(tmp_path):
    with own("nm-one", tmp_path / "home", Shape(1, 2)) as site:
        encrypted(site)
        Place(site.real, "kept").create(deployment("old", 2, serving("old")))
        site.real.kubectl("-n", "kept", "rollout", "status", "deployment/old", "--timeout=120s")
        site.backup()
        alive = site.rebuild("--yes", code=20)
        assert "the cluster is not gone" in alive.stderr

        site.erase()
        site.new_host_keys(site.planes[0])
        fresh = site.access.ssh(site.planes[0], STATE)
        site.rebuild("--dry-run", code=3)
        asked = site.rebuild(code=20)
        assert "has to be confirmed" in asked.stderr
        assert site.access.ssh(site.planes[0], STATE) == fresh
        assert list((site.snapshots / "staging").iterdir()) == []

        said = site.rebuild(*JSON)
        figures("one control plane", said)
        assert site.secret("before") == "kept"
        assert site.stored("before").startswith("k8s:enc:aescbc:v1:k")
        site.works("after")
        site.real.kubectl("-n", "kept", "create", "secret", "generic", "later", "--from-literal=a=new")
        assert site.stored("later").startswith("k8s:enc:aescbc:v1:k")
        assert [h["node"] for h in site.command.json("etcd", "status", "--ssh")["hosts"]] == site.planes
        site.backup()
        assert site.plain() == []

        run = site.command.json("runs")["runs"]
        rebuilt = next(r["id"] for r in run if r["id"].startswith("rebuild-"))
        site.command("release", rebuilt, "--yes", timeout_s=LONG_S)
        left = site.access.ssh(site.planes[0], STATE)
        ours = re.compile("/etc/kubernetes|/opt/keys|/var/lib/kubelet")
        assert [line for line in left.splitlines() if ours.search(line)] == []
        kept = [line for line in left.splitlines() if line not in fresh.splitlines()]
        assert all("/var/lib/etcd.rebuilt-" in line or line == "run-lock" for line in kept), left


KILLED = (
    "rebuild.bring", "rebuild.place", "rebuild.data", "rebuild.kubelet", "restore.start", "cluster.gate",
    "rebuild.finish", "rebuild.nodes", "host.tidy",
)  # fmt: skip


def test_killed_at_each_step_it_is_resumed_to_its_end(tmp_path):
    with own("nm-kill", tmp_path / "home", Shape(1, 1)) as site:
        encrypted(site)
        site.backup()
        for action in KILLED:
            site.erase()
            process = site.command.start(*site.words(*JSON))
            until(f"{action} to begin", lambda process=process, action=action: begun(site, process, action), LONG_S)
            process.send_signal(signal.SIGKILL)
            process.wait()
            said = site.command("resume", "last", "--log-format", "json", timeout_s=LONG_S)
            figures(f"killed at {action}", said)
            assert site.secret("before") == "kept"
            site.real.until_ready(*(n["metadata"]["name"] for n in site.real.read("nodes")["items"]))
        site.works("after")
        assert site.plain() == []


def begun(site, process, action):
    found = [
        json.loads(line) for line in site.command.stderr.splitlines() if line.startswith("{") and line.endswith("}")
    ]
    if any(e["event"] == "step.started" and e.get("action") == action for e in found):
        return True
    if any(e["event"] == "step.skipped" and e.get("action") == action for e in found):
        return True
    assert process.poll() is None, site.command.stderr
    return False


def test_what_is_not_fresh_or_not_the_same_is_refused_and_left_as_it_is(tmp_path):
    with own("nm-no", tmp_path / "home", Shape(1, 1)) as site:
        site.real.kubectl("create", "namespace", "kept")
        site.backup()
        plane, worker = site.planes[0], site.access.workers()[0].name
        site.access.ssh(plane, "mv /etc/kubernetes/manifests/kube-apiserver.yaml /root/")
        until("the API server to end", lambda: not site.access.ssh(plane, "pidof kube-apiserver || true"))
        before = site.access.ssh(plane, SETTLED)

        used = site.rebuild("--yes", code=20)
        nobody = site.rebuild("--yes", code=2, onto=[worker])
        unnamed = site.command("etcd", "restore", "last", "--recovery-set", "x", code=2)

        assert "it is not fresh" in used.stderr
        assert "etcd runs" in used.stderr
        assert "is no member of etcd in the snapshot" in nobody.stderr
        assert "needs --onto" in unnamed.stderr
        assert site.access.ssh(plane, SETTLED) == before

        site.erase()
        site.access.ssh(plane, "hostname elsewhere; mv /usr/bin/kubectl /root/")
        other = site.rebuild("--yes", code=20)
        assert "its host name is elsewhere" in other.stderr
        assert "kubectl is not installed" in other.stderr

        site.access.ssh(plane, f"hostname {plane}; mv /root/kubectl /usr/bin/; mv /usr/bin/kubeadm /root/")
        site.access.ssh(plane, "printf '#!/bin/sh\\necho v1.37.2\\n' > /usr/bin/kubeadm; chmod 755 /usr/bin/kubeadm")
        newer = site.rebuild("--yes", code=20)
        assert "kubeadm is v1.37.2, the set is of v1.36.3" in newer.stderr

        # What fails in the middle says how far it is, and goes away again.
        failing = (
            '#!/bin/sh\ncase "$*" in *certs*) echo "it does not sign" >&2; exit 1;; esac\nexec /root/kubeadm "$@"\n'
        )
        site.access.ssh(plane, f"cat > /usr/bin/kubeadm <<'FILE'\n{failing}FILE")
        fresh = site.access.ssh(plane, STATE)
        failed = site.rebuild("--yes", code=11)
        assert "it does not sign" in failed.stderr
        assert "go back: orchestrator release" in failed.stderr
        site.command("release", "last", "--yes", timeout_s=LONG_S)
        assert [x for x in site.access.ssh(plane, STATE).splitlines() if x not in fresh.splitlines()] in (
            [],
            ["run-lock"],
        )

        site.access.ssh(plane, "mv /root/kubeadm /usr/bin/kubeadm")
        site.rebuild("--yes")
        site.works("after")


def test_a_set_and_a_snapshot_do_without_this_tool(tmp_path):
    with own("nm-hand", tmp_path / "home", Shape(1, 1)) as site:
        encrypted(site)
        site.backup()
        site.erase()

        plane = site.access.control_planes()[0]
        for name, ending in (("set.tar", "*.recovery.tar.zst.age"), ("snapshot.db", "*.db.zst.age")):
            site.bring(plane.name, site.snapshots.glob(ending), f"/root/{name}")
        script = BY_HAND
        meant = {
            "NODE": plane.name,
            "ADDRESS": plane.address,
            "ENDPOINT": f"{plane.name}:6443",
            "VERSION": f"v{VERSION}",
        }
        for word, value in meant.items():
            script = script.replace(word, value)
        site.access.ssh(plane.name, script)

        until("the API", lambda: site.real.attempt("get", "--raw", "/readyz").returncode == 0)
        assert site.secret("before") == "kept"
        site.works("after")


def test_three_control_planes_come_back_of_one_set_and_a_worker_that_is_gone_is_told(tmp_path):
    with own("nm-three", tmp_path / "home", Shape(3, 2)) as site:
        encrypted(site)
        site.backup()
        gone = site.access.workers()[-1]
        cluster.power(gone, site.real.cluster, "off")
        site.erase()

        said = site.rebuild(*JSON)

        figures("three control planes", said)
        silent = [e["why"] for e in told(said) if e["event"] == "rebuild.silent"]
        assert len(silent) == 1
        assert f"kubectl delete node {gone.name}" in silent[0]
        site.real.kubectl("delete", "node", gone.name)
        assert site.secret("before") == "kept"
        site.works("after")
        members = json.loads(site.access.ssh(site.planes[0], f"{ETCDCTL} member list -w json"))["members"]
        assert sorted(m["name"] for m in members) == sorted(site.planes)
        hashes = json.loads(site.access.ssh(site.planes[0], f"{ETCDCTL} endpoint hashkv --cluster -w json"))
        assert len(hashes) == 3
        assert len({h["HashKV"]["hash"] for h in hashes}) == 1
        for name in site.planes:  # each reads what is encrypted, not only the one that the set was taken on
            node = next(n for n in site.access.control_planes() if n.name == name)
            server = site.access.server_of(node)
            held = site.real.kubectl(
                "--server", server, "-n", "kept", "get", "secret", "before", "-o", "jsonpath={.data.a}"
            )
            assert base64.b64decode(held) == b"kept"
        site.backup()
        assert site.plain() == []


def test_some_of_three_control_planes_come_back_and_the_other_joins_them_anew(tmp_path):
    with own("nm-some", tmp_path / "home", Shape(3, 1)) as site:
        site.real.kubectl("create", "namespace", "kept")
        site.backup()
        site.erase()
        *some, other = site.planes

        said = site.rebuild(*JSON, onto=some)

        figures("two of three control planes", said)
        assert f"{other} is not rebuilt: its node object has no machine then" in said.stderr
        site.real.kubectl("delete", "node", other)
        join_anew(site.access, other, some[0])
        site.works("after")
        found = site.command.json("etcd", "status", "--ssh")
        assert sorted(m["name"] for m in found["members"] if not m["health"]) == sorted(site.planes)
        site.backup()


def test_where_no_api_server_starts_a_snapshot_is_read_by_its_image_and_its_keys(tmp_path):
    with own("nm-read", tmp_path / "home", Shape(1, 0)) as site:
        encrypted(site)
        site.backup()
        site.access.ssh(site.planes[0], STOPPED, timeout_s=LONG_S)
        opened = ("-i", str(site.key), "--ssh")

        drill = site.command.json("etcd", "drill", "--api-server", *opened)
        taken = site.command("etcd", "extract", "last", "secret", "kept/before", *opened)

        assert site.access.ssh(site.planes[0], "pidof kube-apiserver || true") == ""
        assert (drill["ok"], drill["apiServer"]["version"], drill["apiServer"]["unread"]) == (True, f"v{VERSION}", {})
        assert yaml.safe_load(taken.stdout)["data"] == {"a": base64.b64encode(b"kept").decode()}
        assert f"where {site.planes[0]} is, the snapshot's record tells" in taken.stderr
        left = site.access.ssh(site.planes[0], "ls -d /var/lib/orchestrator/served-* /var/tmp/orchestrator.* || true")
        assert left == ""
        assert site.plain() == []


@contextmanager
def reaching(site, plugin):
    """The plugin's socket, on the control plane's host beside its API server's configuration."""
    plane, there = site.planes[0], "/opt/keys/kms.sock"
    site.access.ssh(plane, f"mkdir -p -m 700 /opt/keys; rm -f {there}")
    argv = ["ssh", "-F", str(ssh.config(site.real.cluster)), "-N", "-o", "ExitOnForwardFailure=yes"]
    with subprocess.Popen([*argv, "-R", f"{there}:{plugin.socket}", plane]) as process:
        try:
            until("the socket", lambda: site.access.ssh(plane, f"ls {there} 2> /dev/null || true"))
            yield
        finally:
            process.terminate()


def test_what_a_kms_encrypts_is_read_on_the_control_plane_and_on_a_new_one(tmp_path):
    provider = kms.provider("unix:///etc/kubernetes/enc/kms.sock")
    with own("nm-kms", tmp_path / "home", Shape(1, 0)) as site, kms.running(tmp_path / "kms") as plugin:
        with reaching(site, plugin):
            encrypted(site, provider, "k8s:enc:kms:v2:lab")
            site.backup()
            opened = ("-i", str(site.key), "--ssh")

            drill = site.command.json("etcd", "drill", "--api-server", *opened)
            site.access.ssh(site.planes[0], STOPPED, timeout_s=LONG_S)
            stopped = site.command.json("etcd", "drill", "--api-server", *opened)
            taken = site.command("etcd", "extract", "last", "secret", "kept/before", *opened)

        assert site.access.ssh(site.planes[0], "pidof kube-apiserver || true") == ""
        for each in (drill, stopped):
            assert (each["ok"], each["apiServer"]["unread"]) == (True, {})
        assert yaml.safe_load(taken.stdout)["data"] == {"a": base64.b64encode(b"kept").decode()}
        site.erase()
        with reaching(site, plugin):
            site.rebuild("--yes")

            assert site.secret("before") == "kept"
            assert site.stored("before").startswith("k8s:enc:kms:v2:lab")


# A file system of its own, as it is when it was made.
MOUNTED = r"""
truncate -s 2G /root/etcd.img
mkfs.ext4 -q -F /root/etcd.img
mkdir -p /var/lib/etcd
mount -o loop /root/etcd.img /var/lib/etcd
"""


def test_a_disk_of_etcd_s_own_stays_the_new_machines_and_goes_back_with_the_plan(tmp_path):
    with own("nm-disk", tmp_path / "home", Shape(1, 0)) as site:
        plane = site.planes[0]
        site.real.kubectl("create", "namespace", "kept")
        site.real.kubectl("-n", "kept", "create", "secret", "generic", "before", "--from-literal=a=kept")
        site.backup()
        site.erase()
        site.access.ssh(plane, MOUNTED)
        try:
            site.rebuild("--yes")

            assert site.secret("before") == "kept"
            assert site.access.ssh(plane, "mountpoint /var/lib/etcd; ls -A /var/lib/etcd").split()[-2:] == [
                "lost+found", "member",
            ]  # fmt: skip
            assert site.command.json("etcd", "status", "--ssh")["hosts"][0]["mount"]
            rebuilt = next(r["id"] for r in site.command.json("runs")["runs"] if r["id"].startswith("rebuild-"))
            site.command("release", rebuilt, "--yes", timeout_s=LONG_S)
            kept = site.access.ssh(plane, "mountpoint /var/lib/etcd; ls -A /var/lib/etcd; ls /var/lib/etcd/.rebuilt-*")
            assert re.search(r"is a mountpoint\n\.rebuilt-\S+\nlost\+found\nmember\n$", kept), kept
        finally:
            site.access.ssh(plane, "umount /var/lib/etcd || true; rm /root/etcd.img")
