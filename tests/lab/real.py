"""A cluster of the lab: looked at and changed behind the tool's back, and the lab's own command."""

import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import gobuild, images, versions
from lab.processes import run, wait_for
from lab.state import Cluster

ROOT = Path(__file__).parents[2]
#: Of the shared cluster. `make lab-full` runs the tests of etcd with the newer one, too.
VERSION = os.environ.get("LAB_VERSION", versions.DEFAULT)
ETCD = versions.KUBERNETES[VERSION].etcd
WORKER, WORKER2, CONTROL_PLANE = "test-worker", "test-worker2", "test-control-plane"


def begin(*words, env=None, **streams):
    """The lab's command, going on beside the test in a process group of its own."""
    argv = [sys.executable, "-m", "lab", *words]
    return subprocess.Popen(argv, cwd=ROOT, env=env, start_new_session=True, **streams)


def lab(*words, code=0, stdin=b"", env=None):
    """What the lab's command said, which has to end with `code`, if it is one, and without a traceback."""
    process = begin(*words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(stdin, timeout=600)
    assert code in (None, process.returncode), (
        f"{words}: ended with {process.returncode}\n{out.decode()}\n{err.decode()}"
    )
    assert b"Traceback" not in err
    return subprocess.CompletedProcess(words, code, out, err.decode())


def until(what, ready, timeout_s=120):
    """Returns once `ready` says yes."""
    wait_for(what, ready, timeout_s=timeout_s, pause_s=0.1, remedy="")


def guard():
    """The rules that keep packets in the lab's range."""
    return [rule for rule in run(["iptables", "-w", "-S"]).splitlines() if "ORCHESTRATOR-LAB" in rule]


def since(started):
    """Seconds, for people to read."""
    return round(time.monotonic() - started, 1)


@dataclass
class Real:
    """One cluster."""

    cluster: Cluster

    def argv(self, *words):
        """A kubectl command."""
        program = gobuild.kubernetes(self.cluster.version) / "kubectl"
        return [str(program), "--kubeconfig", str(self.cluster.kubeconfig), *words]

    def attempt(self, *words, stdin=None):
        """The outcome of a kubectl command, whatever it is."""
        return subprocess.run(self.argv(*words), input=stdin, capture_output=True, text=True, timeout=300, check=False)

    def kubectl(self, *words, stdin=None):
        """What kubectl said, which has to end well."""
        done = self.attempt(*words, stdin=stdin)
        assert done.returncode == 0, f"kubectl {words}: {done.stderr}"
        return done.stdout

    def read(self, *words):
        """What kubectl found."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def node(self, name):
        return self.read("node", name)

    def ready(self, name):
        """`True`, `False` or `Unknown`, as the API server has it; what it says instead when it does not tell.

        One that has just come back answers 403 until it knows its roles, and load balancers ask it too early for that.
        """
        condition = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        done = self.attempt("get", "node", name, "-o", condition)
        return done.stderr or done.stdout

    def boot_id(self, name):
        return self.node(name)["status"]["nodeInfo"]["bootID"]

    def ssh(self, name, *words, code=0):
        """What a command on a node said."""
        return lab("ssh", name, "--", *words, code=code).stdout.decode()

    @contextmanager
    def ahead_of(self, name, program, script):
        """On a node, a shell script that comes before a program of the system's, which goes on unless it exits."""
        over = f"/usr/local/bin/{program}"  # found first
        whole = shlex.quote(f'#!/bin/sh\n{script}\nexec /usr/bin/{program} "$@"')
        self.ssh(name, f"printf '%s\\n' {whole} > {over}; chmod 755 {over}")
        try:
            yield
        finally:
            self.ssh(name, f"rm {over}")

    def until_served(self, timeout_s=120):
        until("the API to answer", lambda: self.attempt("get", "nodes").returncode == 0, timeout_s)

    def until_ready(self, *names, timeout_s=180):
        until(f"{names} to be Ready", lambda: all(self.ready(name) == "True" for name in names), timeout_s)

    def reboot(self, name):
        """Reboot a node from within; seconds until the API server knows of a new boot and calls the node Ready."""
        before, started = self.boot_id(name), time.monotonic()
        lab("ssh", name, "--", "systemctl reboot; true")
        until(f"{name} to boot", lambda: self.boot_id(name) != before)
        self.until_ready(name)
        return since(started)


@dataclass
class Place:
    """A namespace of a test's own."""

    real: Real
    name: str

    def kubectl(self, *words, stdin=None):
        return self.real.kubectl("--namespace", self.name, *words, stdin=stdin)

    def create(self, *objects):
        everything = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(everything))

    def read(self, *words):
        """What kubectl found here."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def pods(self):
        """Name -> pod."""
        return {pod["metadata"]["name"]: pod for pod in self.read("pods")["items"]}

    def until_ready(self, number):
        until(f"{number} pods of {self.name}", lambda: sum(map(ready, self.pods().values())) == number)

    def attempt(self, pod, *command):
        """The outcome of a command in a pod, whatever it is."""
        return self.real.attempt("--namespace", self.name, "exec", pod, "--", "/bin/busybox", *command)

    def until_named(self, pod, *names):
        """Returns once every DNS server of the cluster knows these Services: each has a watch of its own, and one that
        lost it when the API server was away comes back to it after up to a minute."""
        found = self.real.read("pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns")["items"]
        servers = [entry["status"]["podIP"] for entry in found]
        services = {name: self.read("service", name)["spec"]["clusterIP"] for name in names}

        def knows(server, name):
            return services[name] in self.said(pod, "nslookup", f"{name}.{self.name}.svc.cluster.local", server)

        until(f"DNS to know {names}", lambda: all(knows(server, name) for server in servers for name in names))

    def said(self, pod, *command):
        """All that a command in a pod said."""
        done = self.attempt(pod, *command)
        return done.stdout + done.stderr

    def fetched(self, pod, address):
        """What a pod gets from an address; why not, when it gets nothing."""
        done = self.attempt(pod, "timeout", "10", "/bin/busybox", "wget", "-q", "-O-", f"http://{address}:8080/")
        return done.stdout or done.stderr

    def clear(self):
        """No pods, and nothing that would bring them back."""
        self.kubectl("delete", "deployments,poddisruptionbudgets,pods", "--all", "--cascade=foreground")


def starts(pod):
    """How often the containers of a pod have started anew."""
    return sum(entry["restartCount"] for entry in pod["status"].get("containerStatuses", ()))


def ready(pod):
    conditions = pod["status"].get("conditions", ())
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def serving(text, *, ending="", grace_s=1):
    """A pod's specification: it serves a text, and does what `ending` says before it goes."""
    serve = f"echo {text} > /www/index.html; /bin/busybox httpd -p 8080 -h /www"
    waiting = f"trap '{ending} exit 0' TERM; while :; do /bin/busybox sleep 3600 & wait; done"
    container = {
        "name": "web",
        "image": images.TEST_IMAGE,
        "command": ["/bin/sh", "-c", f"{serve}; {waiting}"],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    return {"terminationGracePeriodSeconds": grace_s, "containers": [container]}


def pod(name, spec, *, node=None):
    pinned = {**spec, "nodeName": node} if node else spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": pinned}


def deployment(name, replicas, spec):
    labels = {"app": name}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    template = {"metadata": {"labels": labels}, "spec": {**spec, "topologySpreadConstraints": [spread]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def budget(name, needed):
    spec = {"minAvailable": needed, "selector": {"matchLabels": {"app": name}}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec}


def service(name):
    spec = {"selector": {"app": name}, "ports": [{"port": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
