"""The main job on a real cluster, told as it goes: every command is printed as a person would type it, then run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import cluster, gobuild, images, versions
from lab.errors import LabError
from lab.state import Shape

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

NAMESPACE = "orchestrator-demo"
NAME = "demo"
#: Of a cluster that the lab did not make: small, public, and serves something.
PUBLIC_IMAGE = "docker.io/library/busybox:stable"
SERVE = ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/"]
REFUSED, WORK_NEEDED = 20, 3
RECOGNISED = ("kind-", "minikube")


@dataclass(frozen=True, slots=True)
class Place:
    """The cluster to show it on.

    Attributes:
        kubeconfig: Its file.
        context: The context in it.
        kubectl: A kubectl for it.
        image: Of the pods that are deployed.
    """

    kubeconfig: str
    context: str
    kubectl: str
    image: str


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `demo` to the lab's command line."""
    demo = commands.add_parser("demo", help="a drain on a real cluster, told step by step")
    demo.add_argument("--context", default="", help="a kind or minikube cluster of yours, instead of the lab's")
    demo.add_argument("--version", default=versions.DEFAULT, help="of the lab's cluster")
    demo.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show it. The cluster stays up."""
    place = _theirs(args.context) if args.context else _ours(args.version)
    story = _Story(place)
    story.tell()
    return 0


def _ours(version: str) -> Place:
    made = cluster.up(cluster.Request(NAME, Shape(1, 2), version, (version,), ""))
    kubectl = gobuild.kubernetes(version) / "kubectl"
    return Place(str(made.kubeconfig), made.context, str(kubectl), images.TEST_IMAGE)


def _theirs(context: str) -> Place:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise LabError("kubectl is not on PATH", remedy="install it, or run `make demo` without CONTEXT")
    if not context.startswith(RECOGNISED):
        raise LabError(
            f"{context} is not a kind or minikube cluster: the demo drains a node of it",
            remedy="name a context that begins with kind- or minikube, or leave CONTEXT out",
        )
    kubeconfig = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return Place(kubeconfig, context, kubectl, PUBLIC_IMAGE)


class _Story:
    """The demo on one cluster."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._environ = {
            **os.environ,
            "KUBECONFIG": place.kubeconfig,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def tell(self) -> None:
        """From the deployment to the node back in service."""
        node = self._a_worker()
        self._say("Two applications with disruption budgets, and one pod that nobody would bring back:")
        self._deploy(node)
        self._orchestrator("status", codes=(0,))
        self._say(f"Which pods would be lost for good if {node} went away?")
        self._orchestrator("unmanaged", node, codes=(0,))
        self._say("A drain is refused because of it, before anything is changed:")
        self._orchestrator("drain", node, "--ignore-daemonsets", codes=(REFUSED,))
        self._say("With --force it would go. First the plan only; exit code 3 says that there is something to do:")
        drain = ("drain", node, "--ignore-daemonsets", "--force", "--timeout", "2m")
        self._orchestrator(*drain, "--dry-run", codes=(WORK_NEEDED,))
        self._say("Now for real. The budgets hold: pods go only as their replacements get ready.")
        self._orchestrator(*drain, "--reason", "demo", codes=(0,))
        self._say("Where everything went:")
        self._orchestrator("status", codes=(0,))
        self._say("And the node back in service:")
        self._orchestrator("uncordon", node, codes=(0,))
        self._end(node)

    def _end(self, node: str) -> None:
        self._say("The cluster stays up. To try next, in this directory:")
        print(f"  export KUBECONFIG={self._place.kubeconfig} PATH=$PWD/.venv/bin:$PATH")
        for command in (
            f"orchestrator --context {self._place.context} drain {node} --ignore-daemonsets --dry-run=server",
            f"orchestrator --context {self._place.context} cordon {node} --reason 'my turn'",
            f"orchestrator --context {self._place.context} status -o json",
        ):
            print(f"  {command}")
        if self._place.context == f"kind-{NAME}":
            print("`make lab-down` stops it.")

    def _a_worker(self) -> str:
        found = json.loads(self._kubectl("get", "nodes", "-o", "json"))["items"]
        workers = [n["metadata"]["name"] for n in found if not n["spec"].get("taints")]
        if len(workers) < 2:
            raise LabError(
                f"{self._place.context} has {len(workers)} nodes that take pods, the demo needs 2",
                remedy="minikube start --nodes 3, or a kind configuration with two workers",
            )
        return str(min(workers))

    def _deploy(self, node: str) -> None:
        objects = [_namespace(), *_application("shop", 4, 3, self._place.image)]
        objects += [*_application("search", 3, 2, self._place.image), _lonely(node, self._place.image)]
        self._kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        for name in ("shop", "search"):
            self._kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{name}", "--timeout=120s")
        self._kubectl("-n", NAMESPACE, "wait", "pod/debug-shell", "--for=condition=Ready", "--timeout=60s")

    def _say(self, text: str) -> None:
        print(f"\n# {text}", flush=True)

    def _orchestrator(self, *words: str, codes: Sequence[int]) -> None:
        """Print the command, run it, and insist on its exit code: the demo must not tell what is not so."""
        argv = ["orchestrator", words[0], "--context", self._place.context, *words[1:]]
        shown = " ".join(["orchestrator", *words])
        print(f"$ {shown}", flush=True)
        done = subprocess.run(argv, env=self._environ, stdin=subprocess.DEVNULL, check=False)
        if done.returncode not in codes:
            raise LabError(
                f"`{shown}` ended with exit code {done.returncode}, expected {codes[0]}",
                remedy="this is a defect: see the output above",
            )

    def _kubectl(self, *words: str, stdin: str | None = None) -> str:
        argv = [self._place.kubectl, "--context", self._place.context, *words]
        done = subprocess.run(argv, env=self._environ, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"kubectl {words[0]}: {done.stderr.strip()}", remedy="is the cluster healthy?")
        return done.stdout


def _namespace() -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def _application(name: str, replicas: int, needed: int, image: str) -> list[dict[str, Any]]:
    labels = {"app": name}
    meta = {"name": name, "namespace": NAMESPACE}
    container = {
        "name": name,
        "image": image,
        "command": SERVE,
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {"terminationGracePeriodSeconds": 2, "containers": [container], "topologySpreadConstraints": [spread]}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": meta,
            "spec": {"minAvailable": needed, "selector": {"matchLabels": labels}},
        },
    ]


def _lonely(node: str, image: str) -> dict[str, Any]:
    container = {"name": "shell", "image": image, "command": SERVE}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "debug-shell", "namespace": NAMESPACE},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]},
    }
