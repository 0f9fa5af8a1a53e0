"""A control plane as the scripts of a restore meet it: directories below a root of its own, a kubelet that is at once.

The scripts are the real ones, carried out by this machine's shell. Programs of etcd and the system's process table are
stood in for; `mv`, `cp`, `rm` and the like are the machine's own, and can be told to kill the script that calls them.
"""

import os
import re
import shutil

from orchestrator.cluster.model import Node
from orchestrator.site import Machines, SiteHands
from tests.fakes.hosts import HereAsRoot, machine
from tests.fakes.sink import Recorder
from tests.fakes.time import FakeClock

MANIFEST = """apiVersion: v1
kind: Pod
metadata:
  name: etcd
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=https://198.18.0.1:2379
    - --data-dir={data}
    - --wal=x{data}
    image: registry.k8s.io/etcd:3.6.8-0
    livenessProbe:
      httpGet:
        path: /livez
    volumeMounts:
    - mountPath: {data}
      name: etcd-data
    - mountPath: {pki}/etcd
      name: etcd-certs
  volumes:
  - hostPath:
      path: {pki}/etcd
      type: DirectoryOrCreate
    name: etcd-certs
  - hostPath:
      path: {data}
      type: DirectoryOrCreate
    name: etcd-data
status: {{}}
"""
#: Programs that change something, or make it last.
CHANGING = ("mv", "cp", "rm", "mkdir", "rmdir", "chmod", "chown", "sync", "find", "awk")
STATIC = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
#: In the place of the shell's own.
KILL = "kill-there"
#: No script makes so many of them.
MOST = 60
MOVED = ("/etc/kubernetes", "/var/tmp", "/var/lib/etcd", "/var/lib/orchestrator", "/var/lib/new-etcd")


class Below(HereAsRoot):
    """This machine, where what a restore touches is below a root, and its own programs come first."""

    def __init__(self, root):
        super().__init__()
        self._root = root

    def execute(self, argv, **how):
        words = [self._moved(word) for word in argv]
        return super().execute(words, **how)

    def _moved(self, word):
        if str(self._root) not in word:
            word = re.sub("|".join(MOVED), rf"{self._root}\g<0>", word)
        own = f'PATH={self._root}/bin:$PATH\nkill() {{ {self._root}/bin/{KILL} "$@"; }}\n'
        return f"{own}{word}" if "\n" in word else word


class RestoreHost:
    """One host, `cp-1`, and hands that work on it.

    Attributes:
        root: Where it is.
        data: Its data directory.
        hands: As actions are handed them.
    """

    def __init__(self, directory, *, mount=False):
        self._directory = directory
        self.root = directory / "host"
        self.data = self.root / "var/lib/etcd"
        self.manifests = self.root / "etc/kubernetes/manifests"
        for each in (self.manifests, self.data / "member/snap", *(self.root / n for n in ("bin", "run", "var/tmp"))):
            each.mkdir(parents=True)
        self.data.chmod(0o700)
        (self.data / "member/snap/db").write_text("old")
        self.manifest = MANIFEST.format(data=self.data, pki=self.root / "etc/kubernetes/pki")
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
            (self.manifests / f"{name}.yaml").write_text(name)
        (self.manifests / "etcd.yaml").write_text(self.manifest)
        (self.manifests / "etcd.yaml").chmod(0o600)
        self._programs(mount=mount)
        machines = Machines(lambda node: machine(Below(self.root), name=node.name), FakeClock(), directory / "kept")
        machines.know([Node("cp-1", "", "", unschedulable=False, ready=True)])
        self.hands = SiteHands(None, FakeClock(), Recorder(), machines=machines)
        self.kept = directory / "kept"

    def _programs(self, *, mount):
        """A kubelet runs what is in its directory; what is stubborn runs until it is killed.

        While the kubelet is stopped, what ran goes on until somebody ends it. Numbers of processes are none that there
        could be.
        """
        run = f"run={self.root}/run; "
        numbers = "".join(f"{name}) n={number};; " for number, name in enumerate(STATIC, 4_194_401))
        names = "".join(f"{number}) n={name};; " for number, name in enumerate(STATIC, 4_194_401))
        self._program(
            "pidof",
            f'{run}[ "$1" != -s ] || shift; [ ! -e $run/backs-off ] || exit 1; n=4194499; case $1 in {numbers}esac; '
            f"if [ -e $run/halted ]; then at=$run/alive-$1; else at={self.manifests}/$1.yaml; fi; "
            '[ -e "$at" ] || [ -e "$run/$1" ] || exit 1; echo $n',
        )
        self._program(
            KILL,
            f"{run}case $2 in {names}*) exit 1;; esac; touch $run/killed; "
            '[ "$1" = -KILL ] || [ ! -e "$run/$n" ] || exit 0; rm -f "$run/$n" "$run/alive-$n"',
        )
        self._program("journalctl", f"cat {self.root}/run/backs-off")
        self._program(
            "systemctl",
            f'{run}case "$1" in is-active) [ ! -e $run/halted ]; exit;; '
            f'stop) [ -e $run/halted ] || for file in {self.manifests}/*.yaml; do [ ! -e "$file" ] || '
            'touch "$run/alive-$(basename -- "$file" .yaml)"; done; touch $run/halted;; '
            'start) rm -f $run/halted $run/alive-*;; restart) rm -f $run/backs-off;; esac; echo "$*" >> $run/told',
        )
        self._program("mountpoint", "true" if mount else "false")
        self._program("sleep", "exec /bin/sleep 0.01")
        self._program("nice", 'shift 2; exec "$@"')
        # Words: snapshot restore FILE --data-dir DIRECTORY …
        self._program(
            "etcdutl.real",
            f'[ ! -e "$5" ] || exit 1; mkdir -p "$5/member/snap"; '
            f'[ ! -e {self.root}/run/spoilt ] || {{ echo "snapshot file is corrupt" >&2; exit 1; }}; '
            'cat "$3" > "$5/member/snap/db"',
        )

    def _program(self, name, script):
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def bring_etcdutl(self, plan):
        """etcd's program is where an earlier look left it."""
        there = self.root / "var/lib/orchestrator" / plan
        there.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.root / "bin/etcdutl.real", there / "etcdutl")

    def stubborn(self, name):
        """A process that does not end by itself."""
        (self.root / "run" / name).touch()

    @property
    def told(self):
        """What systemd was told to do."""
        told = self.root / "run/told"
        return told.read_text().splitlines() if told.exists() else []

    def backs_off(self, name):
        """The kubelet starts nothing until it is restarted, or the reason is gone, and says so of this one."""
        said = f'err="back-off 2m40s restarting failed container={name} pod={name}-cp-1_kube-system(1)"'
        (self.root / "run/backs-off").write_text(f"{said}\n")

    def spoil(self):
        """etcd's program fails on the snapshot."""
        (self.root / "run/spoilt").touch()

    def kill_at(self, call):
        """The script that makes that call of a program that changes something is killed by it, before its effect."""
        count = self.root / "run/calls"
        count.write_text("0")
        for name in CHANGING:
            real = shutil.which(name, path=os.defpath)
            self._program(
                name,
                f'n=$(($(cat {count}) + 1)); echo $n > {count}; [ "$n" != {call} ] || kill -9 $PPID; exec {real} "$@"',
            )

    def again_and_again(self):
        """The numbers of calls to be killed at; before each the host is what it is now."""
        saved = self._directory.with_name(f"{self._directory.name}-saved")
        shutil.copytree(self._directory, saved)
        for call in range(1, MOST):
            shutil.rmtree(self._directory)
            shutil.copytree(saved, self._directory)
            yield call

    def heal(self):
        """Programs do nothing but their work again; how many calls there were."""
        for name in CHANGING:
            (self.root / "bin" / name).unlink()
        return int((self.root / "run/calls").read_text())

    def fail(self, program, pattern):
        """A program fails on words that look so."""
        real = shutil.which(program, path=os.defpath)
        self._program(program, f'case "$*" in {pattern}) echo "{program}: no" >&2; exit 1;; esac; exec {real} "$@"')

    def tree(self):
        """Every file and directory below the root that a restore may touch, with what files hold."""
        found = {}
        for place in ("etc", "var"):
            for path in sorted((self.root / place).rglob("*")):
                name = str(path.relative_to(self.root))
                found[name] = path.read_text() if path.is_file() else None
        return found
