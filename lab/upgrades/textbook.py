"""The upgrade of a cluster as Kubernetes' guide has it, command after command, and how long each step took.

Drain, the next minor's packages, kubeadm, `kubeadm upgrade`, kubelet, uncordon; one node after the other. It is what a
careful person types: a node that was not drained is not upgraded, and it waits for the API server to be back.
"""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import aptsite, debs, progress, ssh
from lab.errors import LabError
from lab.processes import TIED_TO_US, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab.state import Node
    from lab.upgrades.access import Access

VERSION = "1.37.2"
DRAIN, REPOSITORY, KUBEADM, UPGRADE, KUBELET, UNCORDON, WAIT = (
    "drain", "repository", "install kubeadm", "kubeadm upgrade", "install and restart kubelet", "uncordon", "wait",
)  # fmt: skip
STEPS = (DRAIN, REPOSITORY, KUBEADM, UPGRADE, KUBELET, UNCORDON, WAIT)
#: kubeadm's check of the cgroup version, among others, which the lab's machines may fail.
IGNORED = "SystemVerification"
_SOURCES = "/etc/apt/sources.list.d/kubernetes.list"
_DRAIN_S = 300
_BACK_S = 180
_PAUSE_S = 1.0
#: What an API server says while it comes or goes. A 403 is one of an API server that has not read its roles yet.
_COMING = re.compile(
    r"\(Forbidden\)|forbidden:|refused|EOF|[Tt]imeout|timed out|reset by peer|unable to handle the request|Unauthorized"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step on one node.

    Attributes:
        node: Its name.
        what: Of STEPS, or an action of another tool.
        ended_at: Seconds since 1970.
        took_s: How long.
    """

    node: str
    what: str
    ended_at: float
    took_s: float


class Textbook:
    """The sequence on one cluster.

    Args:
        access: To the cluster.
        version: To go to; the next minor of what there is.
    """

    def __init__(self, access: Access, version: str = VERSION) -> None:
        self._access = access
        self._version = version
        self._steps: list[Step] = []

    def run(self) -> tuple[Step, ...]:
        """Upgrade every node; the steps that were done, in order. Beside `kubeadm upgrade`, its parts.

        Raises:
            LabError: A command failed, and nothing was done after it.
        """
        first, *others = self._access.control_planes()
        apply = f"kubeadm upgrade apply -y v{self._version} --ignore-preflight-errors={IGNORED}"
        node = f"kubeadm upgrade node --ignore-preflight-errors={IGNORED}"
        self._upgrade(first, apply)
        for each in (*others, *self._access.workers()):
            self._upgrade(each, node)
        return tuple(self._steps)

    def _upgrade(self, node: Node, command: str) -> None:
        name = node.name
        with self._timed(name, DRAIN):
            self._drain(name)
        with self._timed(name, REPOSITORY):
            there, wanted = (aptsite.url(debs.minor(v)) for v in (self._access.cluster.version, self._version))
            self._on(name, f"sed -i 's#{there}#{wanted}#' {_SOURCES}; apt-get update -q")
        with self._timed(name, KUBEADM):
            self._install(name, "kubeadm")
        with self._timed(name, UPGRADE):
            self._kubeadm(name, command)
        with self._timed(name, KUBELET):
            self._install(name, "kubelet", "kubectl")
            self._on(name, "systemctl daemon-reload; systemctl restart kubelet")
        with self._timed(name, UNCORDON):
            self._until_taken("uncordon", name)
        if node.role == "control-plane":
            with self._timed(name, WAIT):
                self._until_ready(name)

    @contextmanager
    def _timed(self, node: str, what: str) -> Iterator[None]:
        began = time.monotonic()
        with progress.step(f"{node}: {what}"):
            yield
        self._steps.append(Step(node, what, time.time(), time.monotonic() - began))

    def _drain(self, node: str) -> None:
        self._until_taken("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={_DRAIN_S}s")

    def _until_taken(self, *words: str) -> None:
        """A command of kubectl, again while the API server comes or goes."""
        deadline = time.monotonic() + _BACK_S
        while True:
            done = self._access.attempt(*words)
            if done.returncode == 0:
                return
            if not _COMING.search(done.stderr) or time.monotonic() > deadline:
                raise LabError(f"kubectl {' '.join(words)}: {done.stderr[-800:]}", remedy="see the message")
            progress.say(f"kubectl {words[0]}: {done.stderr.strip().splitlines()[-1][:160]}; again")
            time.sleep(_PAUSE_S)

    def _until_ready(self, node: str) -> None:
        condition = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        wait_for(
            f"the API server to call {node} Ready",
            lambda: self._access.attempt("get", "node", node, "-o", condition).stdout == "True",
            timeout_s=_BACK_S, pause_s=_PAUSE_S, remedy=f"kubectl describe node {node}",
        )  # fmt: skip

    def _install(self, node: str, *packages: str) -> None:
        wanted = " ".join(f"{package}={self._version}-*" for package in packages)
        self._on(node, f"apt-mark unhold {' '.join(packages)}; apt-get install -y -q {wanted}")

    def _on(self, node: str, script: str) -> None:
        self._access.ssh(node, f"export DEBIAN_FRONTEND=noninteractive; {{ {script}; }} >&2\n")

    def _kubeadm(self, node: str, command: str) -> None:
        """Run it and note, beside the whole, what each component took."""
        argv = [*TIED_TO_US, *ssh.command(self._access.cluster, node, (command,))]
        lines: list[tuple[float, str]] = [(time.time(), "")]
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            lines += [(time.time(), line) for line in process.stdout or ()]
        if process.returncode:
            said = "".join(line for _, line in lines[-15:])
            raise LabError(f"`{command}` on {node} ended with {process.returncode}:\n{said}", remedy="see the message")
        self._steps += parts(node, [*lines, (time.time(), "")])


_BEGINS = re.compile(r'Preparing for "(?P<component>[a-z-]+)" upgrade')
_PART = "kubeadm: "
_BEFORE, _AFTER = "before the components", "after the components"
_COMPONENTS_END = "control plane instance for this node was successfully upgraded"


def parts(node: str, lines: Sequence[tuple[float, str]]) -> list[Step]:
    """What `kubeadm upgrade` spent its time on, by the times of its lines; nothing where it upgrades no component.

    Source: kubeadm 1.37, `phases/upgrade/staticpods.go`: a line `Preparing for "etcd" upgrade` begins each component.
    """
    marks = [(lines[0][0], _BEFORE)]
    for at, line in lines:
        found = _BEGINS.search(line)
        if found:
            marks.append((at, found["component"]))
        elif len(marks) > 1 and marks[-1][1] != _AFTER and _COMPONENTS_END in line:
            marks.append((at, _AFTER))
    if len(marks) == 1:
        return []
    ends = [at for at, _ in marks[1:]] + [lines[-1][0]]
    return [Step(node, _PART + what, end, end - began) for (began, what), end in zip(marks, ends, strict=True)]


def part(step: Step) -> bool:
    """Whether a step is contained in another one."""
    return step.what.startswith(_PART)
