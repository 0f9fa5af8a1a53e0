"""Drains of one node by kubectl and by orchestrator in turn, on the same control plane."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lab import progress
from lab.api import objects
from lab.api.stages import GOES_AFTER
from lab.bench.audit import Log
from lab.bench.measure import Run, measure
from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lab.api.client import Client
    from lab.api.tier import ControlPlane
    from lab.bench.audit import Request

KUBECTL, OURS, NOBODY = "kubectl", "orchestrator", "nobody"
DRAINED, FREE = "n1", "n2"
APP = "web"
SWEEP = (1, 4, 16, 64)
SWEEP_PODS = 250
_IDLE_S = 5
_SETTLE_S = 1.0
_PATIENCE_S = 180.0
_PODS = f"/api/v1/namespaces/{objects.NAMESPACE}/pods"
_DEPLOYMENT = f"/apis/apps/v1/namespaces/{objects.NAMESPACE}/deployments/{APP}"
_BUDGET = f"/apis/policy/v1/namespaces/{objects.NAMESPACE}/poddisruptionbudgets/{APP}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What stands on the node.

    Attributes:
        title: For people.
        unavailable: `maxUnavailable` of the budget; None for no budget.
        goes_after: How long each pod takes to go, such as `10s`; empty for at once.
    """

    title: str
    unavailable: int | str | None = None
    goes_after: str = ""

    def allowed(self, pods: int) -> int:
        """Evictions that its budget allows at first.

        Source: disruption controller: a percentage of `maxUnavailable` is rounded up.
        """
        if isinstance(self.unavailable, str):
            return math.ceil(pods * int(self.unavailable.removesuffix("%")) / 100)
        return self.unavailable or 0


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "free": Scenario("no budget"),
        "tenth": Scenario("`maxUnavailable: 10%`", unavailable="10%"),
        "single": Scenario("`maxUnavailable: 1`", unavailable=1),
        "slow": Scenario("no budget, pods take 10 s to go", goes_after="10s"),
        "slow-tenth": Scenario("`maxUnavailable: 10%`, pods take 10 s to go", unavailable="10%", goes_after="10s"),
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured run.

    Attributes:
        scenario: Its key in SCENARIOS.
        pods: How many were on the node.
        tool: KUBECTL, OURS, or NOBODY for the control plane at rest.
        parallel: What OURS was told with `--parallel`; 0 for its default.
        run: What it cost.
    """

    scenario: str
    pods: int
    tool: str
    parallel: int
    run: Run

    def as_json(self) -> dict[str, Any]:
        """As kept in a file."""
        return asdict(replace(self, run=replace(self.run, other_ms=tuple(round(ms, 2) for ms in self.run.other_ms))))

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Row:
        """As read from one."""
        return cls(**{**kept, "run": Run(**{**kept["run"], "other_ms": tuple(kept["run"]["other_ms"])})})


class Workbench:
    """A control plane with two nodes, on which drains are measured.

    Args:
        plane: It runs.
        load: Fills it and clears it up; not counted.
        other: The client whose latency is taken.
        home: A directory for what the tools keep; on a disk, so that journals are synced for real.
    """

    def __init__(self, plane: ControlPlane, load: Client, other: Client, home: Path) -> None:
        self._plane = plane
        self._load = load
        self._other = other
        self._home = home
        self._log = Log(plane.audit_log)
        objects.ensure_nodes(load, [DRAINED, FREE])
        objects.ensure_account(load)

    def compare(self, name: str, pods: int, repeat: int) -> tuple[Row, ...]:
        """Both tools in turn, `repeat` times, and the control plane at rest before."""
        with self._populated(name, pods) as reset:
            rows = [self._row(name, pods, NOBODY)]
            for _ in range(repeat):
                rows += [self._after(reset, name, pods, tool) for tool in (KUBECTL, OURS)]
        return tuple(rows)

    def sweep(self, name: str, repeat: int) -> tuple[Row, ...]:
        """OURS with different numbers of evictions at once, in turn."""
        with self._populated(name, SWEEP_PODS) as reset:
            runs = [many for _ in range(repeat) for many in SWEEP]
            return tuple(self._after(reset, name, SWEEP_PODS, OURS, many) for many in runs)

    def _populated(self, name: str, pods: int) -> _Populated:
        return _Populated(self._load, SCENARIOS[name], pods)

    def _after(self, reset: Callable[[], None], name: str, pods: int, tool: str, parallel: int = 0) -> Row:
        reset()
        return self._row(name, pods, tool, parallel)

    def _row(self, name: str, pods: int, tool: str, parallel: int = 0) -> Row:
        said = self._home / "said"
        said.unlink(missing_ok=True)
        run = measure(
            self._argv(tool, parallel),
            self._environ(),
            audit=lambda: self._asked(tool),
            probe=lambda: self._other.get("/api/v1/namespaces/kube-system") and None,
            servers=[pid for daemon in self._plane.daemons if (pid := daemon.pid())],
            said=said,
        )
        left = 0 if tool == NOBODY else objects.ready_on(self._load, DRAINED)
        if run.code or left:
            words = "\n".join(said.read_text(errors="replace").splitlines()[-15:])
            raise LabError(f"{tool} ended with {run.code}, {left} pods are left:\n{words}", remedy="see the message")
        progress.say(
            f"{name} {pods} {tool}{f' --parallel {parallel}' if parallel else ''}: {run.wall_s:.2f} s,"
            f" CPU {run.cpu_s:.2f} s, {run.peak_mib:.0f} MiB, {run.total} requests ({run.refused} refused),"
            f" other client p50 {run.other(50):.1f} p99 {run.other(99):.1f} ms, foreign CPU {run.foreign_percent:.0f} %"
        )
        return Row(name, pods, tool, parallel, run)

    def _argv(self, tool: str, parallel: int) -> Sequence[str]:
        if tool == NOBODY:
            return ["sleep", str(_IDLE_S)]
        if tool == KUBECTL:
            return [str(self._plane.kubectl), "drain", DRAINED]
        program = str(Path(sys.executable).parent / OURS)
        return [program, "drain", DRAINED, *(["--parallel", str(parallel)] if parallel else [])]

    def _environ(self) -> dict[str, str]:
        state = str(self._home / "state")
        kubeconfig = str(self._plane.kubeconfig)
        return {"PATH": os.environ["PATH"], "HOME": str(self._home), "XDG_STATE_HOME": state, "KUBECONFIG": kubeconfig}

    def _asked(self, tool: str) -> tuple[Request, ...]:
        return tuple(each for each in self._log.new() if each.agent.endswith(tool))


class _Populated:
    """An application with all of its pods on one node. A context manager that gives what puts it back so."""

    def __init__(self, load: Client, scenario: Scenario, pods: int) -> None:
        self._load = load
        self._scenario = scenario
        self._pods = pods

    def __enter__(self) -> Callable[[], None]:
        after = {GOES_AFTER: self._scenario.goes_after} if self._scenario.goes_after else {}
        with progress.step(f"{self._pods} pods on {DRAINED}, {self._scenario.title}"):
            self._uncordon(DRAINED)
            self._cordon(FREE)
            self._load.create(objects.deployment(APP, self._pods, node=DRAINED, annotations=after))
            if self._scenario.unavailable is not None:
                self._load.create(objects.budget(APP, {"maxUnavailable": self._scenario.unavailable}))
            self._settled()
        return self._reset

    def __exit__(self, *_: object) -> None:
        if self._scenario.unavailable is not None:
            self._load.delete([_BUDGET])
        self._load.delete([f"{_DEPLOYMENT}?propagationPolicy=Foreground"])
        self._uncordon(DRAINED)
        self._uncordon(FREE)
        self._remove_pods()
        self._load.wait("the application to be gone", self._gone, timeout_s=_PATIENCE_S)

    def _reset(self) -> None:
        """All pods back on the node, as in the beginning."""
        self._uncordon(DRAINED)
        if objects.ready_on(self._load, DRAINED) < self._pods:
            self._cordon(FREE)
            self._remove_pods()
        self._settled()

    def _remove_pods(self) -> None:
        self._load.ask("DELETE", f"{_PODS}?gracePeriodSeconds=0")

    def _cordon(self, node: str) -> None:
        self._load.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": True}})

    def _uncordon(self, node: str) -> None:
        self._load.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": None}})

    def _settled(self) -> None:
        """Wait until the controllers have seen it all, then let them come to rest."""
        self._load.wait(
            f"{self._pods} ready pods", lambda: objects.ready_on(self._load, DRAINED) == self._pods,
            timeout_s=_PATIENCE_S, pause_s=0.3,
        )  # fmt: skip
        self._load.wait("the application to be whole", self._whole, timeout_s=_PATIENCE_S, pause_s=0.3)
        self._uncordon(FREE)
        time.sleep(_SETTLE_S)

    def _gone(self) -> bool:
        return self._load.attempt("GET", _DEPLOYMENT)[0] == 404 and not self._load.get(_PODS)["items"]

    def _whole(self) -> bool:
        status = self._load.get(_DEPLOYMENT)["status"]
        if status.get("readyReplicas") != self._pods or len(self._load.get(_PODS)["items"]) != self._pods:
            return False
        if self._scenario.unavailable is None:
            return True
        budget = self._load.get(_BUDGET)["status"]
        allowed = self._scenario.allowed(self._pods)
        return budget.get("disruptionsAllowed") == allowed and not budget.get("disruptedPods")
