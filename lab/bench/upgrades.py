"""`python -m lab bench upgrade`: the textbook's upgrade and orchestrator's, on equal clusters, one after the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import cluster, debs, docker, host, progress, ssh, state, versions
from lab.bench import upgrade_report
from lab.errors import LabError
from lab.processes import TIED_TO_US, wait_for
from lab.state import Shape
from lab.upgrades import application
from lab.upgrades.access import Access
from lab.upgrades.askers import ApiClient, EtcdWatch, ServiceClient
from lab.upgrades.budgets import BudgetWatch
from lab.upgrades.textbook import IGNORED, VERSION, Step, Textbook, part, parts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from lab.upgrades.application import Application

NAME = "bench"
TEXTBOOK, OURS = "textbook", "orchestrator"
TOOLS = (TEXTBOOK, OURS)
FROM = "1.36.3"
_PODS_PER_WORKER = 2
_KNOWN_S = 60


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What one upgrade of one cluster took, and what those saw who were there meanwhile.

    Attributes:
        tool: Of TOOLS.
        shape: Control planes + workers.
        at_once: Workers at a time; the textbook takes one.
        took_s: From the first command to the end of the last.
        steps: Of both kinds of nodes; some may be contained in others.
        out_s: Worker -> seconds from cordon to uncordon.
        asked: Requests to the application.
        failed: Those of them that were not answered right.
        gap_s: The longest time without a right answer.
        short: How often a budget had too few pods.
        api_s: The longest time in which the API did not answer.
        members: The fewest members of etcd that were alive at once.
    """

    tool: str
    shape: str
    at_once: int
    took_s: float
    steps: tuple[Step, ...]
    out_s: dict[str, float]
    asked: int
    failed: int
    gap_s: float
    short: int
    api_s: float
    members: int

    @property
    def kind(self) -> tuple[str, str, int]:
        """What distinguishes it from others."""
        return self.tool, self.shape, self.at_once

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Upgraded:
        """As read from a file."""
        return cls(**{**kept, "steps": tuple(Step(**step) for step in kept["steps"])})

    def nodes(self, role: str) -> tuple[str, ...]:
        """Those of `control-plane` or `worker`, in the order of their steps."""
        names = dict.fromkeys(step.node for step in self.steps if f"-{role}" in step.node)
        return tuple(names)

    def node_s(self, node: str) -> float:
        """What its steps took together."""
        return sum(step.took_s for step in self.steps if step.node == node and not part(step))


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `upgrade` to the command line of the benchmarks."""
    upgrade = commands.add_parser("upgrade", help="upgrades beside the textbook's sequence, on equal clusters")
    upgrade.add_argument("--shape", default="1+2", help="control planes + workers (default: 1+2)")
    upgrade.add_argument(
        "--max-unavailable", type=int, default=1, metavar="N", help="workers at a time, orchestrator's"
    )
    upgrade.add_argument("--only", choices=TOOLS, help="one of them; with --json, beside the other one's kept run")
    upgrade.add_argument("--ssh", action="store_true", help="have orchestrator reach the nodes by SSH")
    upgrade.add_argument("--name", default=NAME, help=f"of the clusters, which are new each time (default: {NAME})")
    upgrade.add_argument("--json", type=Path, metavar="FILE", help="keep the runs there, beside those of other shapes")
    upgrade.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    upgrade.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    host.check_machine()
    shape = Shape.parse(args.shape)
    runs = _load(args.json)
    for tool in [args.only] if args.only else TOOLS:
        at_once = args.max_unavailable if tool == OURS else 1
        done = measure(tool, shape, at_once=at_once, name=args.name, by_ssh=args.ssh)
        runs = [*(run for run in runs if run.kind != done.kind), done]
        if args.json:
            args.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    print(upgrade_report.text(runs))
    if args.write:
        upgrade_report.write(runs)
    return 0


def _load(path: Path | None) -> list[Upgraded]:
    return [Upgraded.from_json(each) for each in json.loads(path.read_text())] if path and path.exists() else []


def measure(tool: str, shape: Shape, *, at_once: int, name: str, by_ssh: bool) -> Upgraded:
    """Upgrade a new cluster, with an application on it and everybody watching; the cluster goes afterwards."""
    with new_cluster(name, shape) as access, ExitStack() as watching:
        app = _application(access, shape)
        client = watching.enter_context(ServiceClient(access, app))
        api = watching.enter_context(ApiClient(access))
        budgets = watching.enter_context(BudgetWatch(access))
        etcd = watching.enter_context(EtcdWatch(access))
        began = time.monotonic()
        with progress.step(f"{tool} upgrades {shape} nodes"):
            steps = Textbook(access).run() if tool == TEXTBOOK else _ours(access, at_once=at_once, by_ssh=by_ssh)
        took_s = time.monotonic() - began
        _insist(access)
        seen, answers, answered = budgets.stop(), client.stop(), api.stop()
        progress.say(f"application: {answers}")
        away = ", ".join(f"{took_s:.1f} s" for _, took_s in answered.outages)
        progress.say(f"API: {answered}; away: {away}")
        return Upgraded(
            tool, str(shape), at_once, took_s, steps,
            {node.name: seen.out_of_service_s(node.name) for node in access.workers()},
            answers.asked, len(answers.failures), answers.longest_gap_s, len(seen.shortages),
            answered.longest_outage_s, etcd.stop().lowest,
        )  # fmt: skip


def _application(access: Access, shape: Shape) -> Application:
    """Two pods on each worker, of which a quarter may be away."""
    pods = max(application.REPLICAS, _PODS_PER_WORKER * shape.workers)
    wanted = pods * application.NEEDED // application.REPLICAS
    return application.deploy(access, replicas=pods, needed=wanted, anywhere=shape.workers < 2)


@contextmanager
def new_cluster(name: str, shape: Shape) -> Iterator[Access]:
    """A cluster of that shape, at the version that upgrades start from, for as long as the context."""
    if state.load(name):
        cluster.down(name)  # of a run that was killed
    try:
        yield Access(cluster.up(cluster.Request(name, shape, FROM, versions.USUAL)))
    finally:
        cluster.down(name)


def _insist(access: Access) -> None:
    """The figures must not be those of an upgrade that is not one. A kubelet tells its version soon after its start."""

    def left() -> list[str]:
        nodes = access.read("nodes")["items"]
        return [node["metadata"]["name"] for node in nodes if not _done(node)]

    wait_for(
        f"all nodes to have {VERSION} and take pods", lambda: not left(),
        timeout_s=_KNOWN_S, remedy="see what the tool said",
    )  # fmt: skip


def _done(node: dict[str, Any]) -> bool:
    return node["status"]["nodeInfo"]["kubeletVersion"] == f"v{VERSION}" and not node["spec"].get("unschedulable")


def _ours(access: Access, *, at_once: int, by_ssh: bool) -> tuple[Step, ...]:
    """What the steps of `orchestrator upgrade apply` took, by its own events."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        argv = _argv(access, at_once=at_once, by_ssh=by_ssh)
        steps, last = [], [""]
        said: list[tuple[str, float, str]] = []
        with subprocess.Popen(
            [*TIED_TO_US, *argv], env=environ(access, Path(home)), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            for line in process.stderr or ():
                steps += heard(line)
                said += kubeadm_line(line)
                last = [*last[-15:], line]
        if process.returncode:
            words = "".join(last)
            raise LabError(f"`{' '.join(argv)}` ended with {process.returncode}:\n{words}", remedy="see the message")
        return (*steps, *_parts(steps, said))


def _parts(steps: Sequence[Step], said: Sequence[tuple[str, float, str]]) -> Iterator[Step]:
    """What each component took within kubeadm's upgrade of a control plane."""
    for step in (each for each in steps if each.what == "kubeadm.upgrade"):
        mine = [(at, line) for node, at, line in said if node == step.node]
        if any("Preparing for" in line for _, line in mine):
            yield from parts(step.node, [(step.ended_at - step.took_s, ""), *mine, (step.ended_at, "")])


def kubeadm_line(line: str) -> list[tuple[str, float, str]]:
    """Node, time and words of an event that says where kubeadm is; nothing for another one."""
    event = json.loads(line) if line.startswith("{") else {}
    if event.get("event") != "kubeadm.said":
        return []
    return [(event["node"], datetime.fromisoformat(event["at"]).timestamp(), event["line"])]


def _argv(access: Access, *, at_once: int, by_ssh: bool) -> list[str]:
    program = str(Path(sys.executable).parent / OURS)
    argv = [program, "upgrade", "apply", "--to", debs.minor(VERSION), "--accept", IGNORED, "--yes"]
    argv += ["--delete-emptydir-data"]  # the textbook's drain has it, too
    argv += ["--log-format", "json", "--kubeconfig", str(access.cluster.kubeconfig)]
    argv += ["--context", access.cluster.context]
    argv += ["--max-unavailable", str(at_once)] if at_once > 1 else []
    return argv + (["--ssh"] if by_ssh else [])


def environ(access: Access, home: Path) -> dict[str, str]:
    """A home of its own, whose SSH configuration knows the nodes, and the daemon that they run on."""
    (home / ".ssh").mkdir(mode=0o700)
    shutil.copy(ssh.config(access.cluster), home / ".ssh" / "config")
    daemon = docker.current()
    engine = daemon.env() if daemon else dict(os.environ)
    return {**engine, "HOME": str(home), "XDG_STATE_HOME": str(home / "state")}


def heard(line: str) -> list[Step]:
    """The step that an event says is done. One that is called skipped may have looked for a long time, as gates do."""
    if not line.startswith("{"):
        return []
    event = json.loads(line)
    if event["event"] not in {"step.finished", "step.skipped"}:
        return []
    step = Step(
        event.get("node") or "", event["action"], datetime.fromisoformat(event["at"]).timestamp(), event["took_s"]
    )
    progress.say(f"{step.node}: {step.what}: {step.took_s:.1f} s")
    return [step]
