"""Three members of etcd, one of them lost: its host is a directory, on which the real scripts run.

Its kubelet is simple: a static pod runs while its manifest is in the kubelet's directory. etcd is as strict as it is in
truth: it joins only with the very list of members, on an empty directory; it lists members only where it votes.
"""

import json
import os
import stat
import subprocess

from orchestrator.actions import replacement, restore
from orchestrator.actions.etcdcare import _RUN
from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import STATIC
from orchestrator.engine.host import Completed
from tests.fakes.site import FakeHost, FakeSite
from tests.fakes.site_answers import ID, _section, answer
from tests.fakes.site_world import SiteWorld

LOST = "cp-3"
PLACES = ("/etc/kubernetes", "/var/lib/etcd", "/var/lib/kubelet", "/var/log/pods")
SCRIPTS = {
    restore.STOP: "stop",
    restore.START: "start",
    replacement._ASIDE: "aside",
    replacement._BACK: "back",
    replacement._RETURN: "return",
    replacement._FORGET: "forget",
    replacement._KEEP: "keep",
}
#: Entries of its log that the leader sends between two looks at a learner.
SENT = 3000

_PIDOF = r"""
[ "$1" != -s ] || shift
manifest=ROOT/etc/kubernetes/manifests/$1.yaml
[ -f "$manifest" ] || exit 1
[ "$1" != etcd ] || [ ! -e ROOT/refuses ] || grep -q -F -- "$(cat ROOT/joins)" "$manifest" || exit 1
echo 4194401  # none that there could be
"""


class Ring(FakeSite):
    """The cluster.

    Attributes:
        root: The host's own directory.
        listed: Members, by id: name, peer URL, whether it votes.
        joined: The id as which the lost one runs; None while it does not.
        behind: Entries that it lacks.
        silent: Nodes whose members do not answer.
        complaint: What etcd says to the next change of members instead of doing it.
        refuses: The lost one does not start as it is.
        room: Bytes that are free on its disk.
        garbled: Nodes whose member answers in a form that nobody knows.
        half: Of the lost one's host, answers are cut short.
    """

    def __init__(self, clock, kept, **site):
        super().__init__(clock, kept, **site)
        self.root = kept.parent / "host"
        self.listed = {number: [m.name, self.peer(m.name), True] for number, m in enumerate(self.planes(), start=1)}
        self.joined, self.behind, self.silent, self.complaint, self.refuses = None, 0, set(), "", True
        self.room, self.garbled, self.half = 30_000_000_000, set(), False
        self.programs()
        self.manifest = f"""apiVersion: v1
kind: Pod
spec:
  containers:
  - command:
    - etcd
    - --initial-advertise-peer-urls={self.peer(LOST)}
    - --initial-cluster={LOST}={self.peer(LOST)}
    - --name={LOST}
    - --peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt
    image: registry.k8s.io/etcd:3.6.8-0
  volumes:
  - hostPath:
      path: /var/lib/etcd
    name: etcd-data
"""
        pods = self.at("/etc/kubernetes/manifests")
        pods.mkdir(parents=True)
        for name in STATIC:
            (pods / f"{name}.yaml").write_text(self.manifest if name == "etcd" else f"# {name}\n")
        (pods / "etcd.yaml").chmod(0o600)
        self.write("/var/lib/etcd/member/snap/db", "old")
        self.write("/etc/kubernetes/pki/etcd/peer.crt", "certificate")
        self.at("/var/log/pods/kube-system_etcd-cp-3_u1").mkdir(parents=True)
        self.turn()

    def programs(self):
        self.bin = self.root / "bin"
        self.bin.mkdir(parents=True)
        self.program("pidof", _PIDOF.replace("ROOT", str(self.root)))
        self.program("mountpoint", f"[ -e {self.root}/mounted ]")
        # Processes are as manifests are; the kubelet is stopped until it is started again.
        self.program(
            "systemctl",
            f'case "$1" in is-active) [ ! -e {self.root}/halted ];; stop) touch {self.root}/halted;; '
            f"start) rm -f {self.root}/halted;; esac",
        )
        self.program("sync", "exit 0")

    def program(self, name, text):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def at(self, path):
        return self.root / path[1:]

    def write(self, path, text):
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)

    def peer(self, name):
        return f"https://{self.machines[name].address}:2380"

    def client(self, name):
        return f"https://{self.machines[name].address}:2379"

    def host_of(self, machine, life):
        return Member(self, machine, life)

    # ---- what the host does by itself ---------------------------------------------------------------------------

    def turn(self):
        """Its kubelet and its etcd go on."""
        (self.root / "joins").write_text(f"--initial-cluster={self.cluster()}\n")
        refuses = self.root / "refuses"
        refuses.touch() if self.refuses else refuses.unlink(missing_ok=True)
        pods, pod = self.at("/etc/kubernetes/manifests"), self.at("/var/lib/kubelet/pods/u1")
        there = (pods / "etcd.yaml").exists()
        pod.mkdir(parents=True, exist_ok=True) if there else pod.is_dir() and pod.rmdir()
        self.machines[LOST].components = {
            name: version
            for name, version in self.machines[LOST].manifests.items()
            if (pods / f"{name}.yaml").exists() and (name != "etcd" or self.joined or not self.refuses)
        }
        self.join(pods / "etcd.yaml")

    def join(self, manifest):
        """etcd starts, where it would."""
        if not manifest.exists():
            self.joined = None
            return
        mine = [number for number, (_, peer, _) in self.listed.items() if peer == self.peer(LOST)]
        data = self.at("/var/lib/etcd/member")
        if self.joined in mine or not mine or self.cluster() not in manifest.read_text():
            return
        if not data.exists():
            assert "--initial-cluster-state=existing" in manifest.read_text()
            data.mkdir(parents=True)
            (data / "id").write_text(str(mine[0]))
            self.behind = 2 * SENT
        if (data / "id").is_file() and (data / "id").read_text() == str(mine[0]):
            self.joined = mine[0]
            self.listed[mine[0]][0] = LOST

    def cluster(self):
        pairs = {(name or LOST, peer) for name, peer, _ in self.listed.values()}
        return ",".join(f"{name}={peer}" for name, peer in sorted(pairs))

    # ---- what etcd does -----------------------------------------------------------------------------------------

    def change(self, words):
        """A change of members, as etcdctl asks for it: rc, stdout, stderr."""
        if self.complaint:
            said, self.complaint = self.complaint, ""
            return 1, b"", said.encode()
        match words:
            case ["member", "remove", number]:
                assert self.joined != int(number, 16), "it runs"
                if self.listed.pop(int(number, 16), None) is None:
                    return 1, b"", b"etcdserver: member not found"
            case ["member", "add", _, "--learner", urls]:
                peer = urls.removeprefix("--peer-urls=")
                assert peer not in [each for _, each, _ in self.listed.values()], "two members of one address"
                self.listed[max(self.listed) + 0xA] = ["", peer, False]
            case ["member", "promote", number]:
                assert self.joined == int(number, 16)
                assert self.behind <= replacement.RAFT_LAG
                self.listed[int(number, 16)][2] = True
            case ["alarm", "disarm"]:
                self.alarms = []
            case _:
                raise AssertionError(words)
        return 0, b"", b""

    def answering(self):
        """Id -> node, of members that answer."""
        of = {name: number for number, (name, _, votes) in self.listed.items() if name and name != LOST}
        found = {number: name for name, number in of.items() if name not in self.silent}
        if self.joined in self.listed:
            found[self.joined] = LOST
        return found

    def status(self, number, name, endpoint):
        told = {
            "header": {"cluster_id": ID, "member_id": number, "revision": self.revision, "raft_term": 3},
            "version": "3.6.8", "dbSize": 100, "leader": 1, "raftIndex": 9000,
            "raftAppliedIndex": 9000 - (self.behind if name == LOST else 0),
        }  # fmt: skip
        return {"Endpoint": endpoint, "Status": told | ({} if self.listed[number][2] else {"isLearner": True})}

    def told(self, name):
        """What a member tells of all."""
        up = self.answering()
        mine = next((number for number, node in up.items() if node == name), None)
        if mine is None or not self.listed[mine][2] or len(up) <= len([m for m in self.listed.values() if m[2]]) // 2:
            return ""
        self.behind = max(0, self.behind - SENT)
        members = [
            {"ID": number, "name": node, "peerURLs": [peer], "clientURLs": [self.client(node)] if node else []}
            | ({} if votes else {"isLearner": True})
            for number, (node, peer, votes) in self.listed.items()
        ]
        statuses = [self.status(number, node, self.client(node)) for number, node in up.items()]
        health = [
            {"endpoint": self.client(node), "health": node in up.values() and votes, "error": "no answer"}
            for node, _, votes in self.listed.values()
            if node
        ]
        said = _section("members", text=json.dumps({"members": members}))
        said += _section("status", text=json.dumps(statuses)) + _section("health", text=json.dumps(health))
        return said + _section("alarms", text=json.dumps({"alarms": self.alarms}))

    def own(self, name):
        """What a host tells of its member; the rest is as of any control plane."""
        manifest = self.at("/etc/kubernetes/manifests/etcd.yaml")
        text = manifest.read_text() if name == LOST and manifest.exists() else ""
        found = _section("manifest", "/etc/kubernetes/manifests/etcd.yaml", text=text) if text else ""
        if self.external:
            return _section("servers", text=self.external) + _section("end", text="")
        if name == LOST and text:
            disk = f"/dev/vda 270553174016 1 {self.room} 56% /var"
            found += _section("data", "/var/lib/etcd", text=f"0 0 700 ?\nno\n{disk}\n1000\nmember")
        if name in self.garbled:
            return found + _section("process", "7", text="name=x") + _section("status", text="[") + "\n"
        up = {node: number for number, node in self.answering().items()}
        if name in up:
            local = "https://127.0.0.1:2379"
            flags = {"name": name, "initial-advertise-peer-urls": self.peer(name)}
            found += _section("process", "7", text="\n".join(f"{key}={value}" for key, value in flags.items()))
            found += _section("cgroup", text="0::/kubepods/x")
            found += _section("status", text=json.dumps([self.status(up[name], name, local)]))
            found += _section("health", text=json.dumps([{"endpoint": local, "health": self.listed[up[name]][2]}]))
        elif name != LOST:
            found += _section("manifest", "/etc/kubernetes/manifests/etcd.yaml", text=f"    - --name={name}\n")
        return found + _section("end", text="")


class Member(FakeHost):
    """A host."""

    def run(self, argv, *, timeout_s, **how):
        script = argv[2] if argv[:2] == ["sh", "-c"] else ""
        if script in SCRIPTS:
            assert self.name == LOST
            return self._done(argv, self._life.effect((SCRIPTS[script], self.name), lambda: self._run(argv)))
        if script in (replacement._ETCDCTL, _RUN):
            words = argv[4:] if script == replacement._ETCDCTL else argv[5:]
            assert self.name != LOST
            return self._done(argv, self._life.effect(tuple(words[:2]), lambda: self._site.change(words)))
        return super().run(argv, timeout_s=timeout_s, **how)

    def _done(self, argv, outcome):
        self._site.turn()
        return Completed(tuple(argv), *outcome, 0.1)

    def _run(self, argv, path=""):
        here = [self._here(word) for word in argv]
        environ = {**os.environ, "PATH": f"{self._site.bin}:{os.environ['PATH']}"}
        done = subprocess.run(here, env=environ, capture_output=True, timeout=60, check=False)
        return done.returncode, done.stdout.replace(str(self._site.root).encode(), b""), done.stderr

    def _here(self, text):
        """`text`, with the host's paths as they are here; those in a manifest are the host's own."""
        for place in PLACES:
            text = text.replace(place, f"{self._site.root}{place}")
        return text.replace('-s "$file"', f'-s "{self._site.root}$file"')

    def _answer(self, query, words):
        self._site.turn()
        if query is queries.ETCD:
            return self._site.told(self.name)
        if query is queries.ETCD_HOST:
            return self._site.own(self.name)
        if query is queries.MEMBER_HOST:
            rc, out, err = self._run(["sh", "-c", query.script, "sh", *words])
            assert rc == 0, err
            return out.decode().removesuffix("@@whole\n") if self._site.half else out.decode()
        if query is queries.ETCD_HASH and self.name not in self._site.answering().values():
            return _section("end", text="")
        return answer(self._machine, query, words, self._site.clock.wall())

    def read(self, path, *, timeout_s):
        if not path.startswith("/etc/kubernetes"):
            return super().read(path, timeout_s=timeout_s)
        return self._site.at(path).read_bytes()

    def write(self, path, data, *, mode, owner, timeout_s):
        def put():
            self._site.at(path).write_bytes(data)
            self._site.at(path).chmod(mode)

        assert mode == stat.S_IMODE(self._site.at(path).stat().st_mode)
        self._life.effect(("write", self.name), put)
        self._site.turn()


class RingWorld(SiteWorld):
    """Three control planes and all that a run needs."""

    site_of = Ring

    def __init__(self, root):
        super().__init__(root, planes=3, workers=0)

    def left(self):
        """What is beside the host's manifests and data, without the plan's name."""
        found = [*self.site.at("/var/lib").iterdir(), *self.site.at("/etc/kubernetes").iterdir()]
        names = {path.name.replace("replace-1", "") for path in found}
        return sorted(names - {"etcd", "kubelet", "manifests", "pki"})
