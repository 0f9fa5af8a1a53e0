"""The use case that looks at a cluster after a restore: what was lost, what came back, and what is not right yet."""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.actions.gates import LEADERS
from orchestrator.actions.restore import Forget
from orchestrator.actions.restored import compared
from orchestrator.backup import losses
from orchestrator.cluster.aftermath import Finding, World, findings, moved
from orchestrator.engine.together import together
from orchestrator.errors import ApiError, HostError
from orchestrator.planners import restore as planner
from orchestrator.report.restores import Aftermath, Old

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.actions.site import Site
    from orchestrator.app import App
    from orchestrator.backup.losses import Losses
    from orchestrator.engine.plan import Plan, Step

#: What may pass by itself is waited for so long. Seen: leaders after 20 s, kubelets within 10, pods within 30.
SETTLE_S = 90.0
#: All has to be right for so long: the API says for some seconds what the snapshot said.
LASTS_S = 5.0
PAUSE_S = 1.0


def wanted(plan: Plan) -> bool:
    """Whether that plan was a restore, of which there is something to tell."""
    return plan.kind == planner.KIND


def looked(app: App, run: str, plan: Plan, say: Callable[[str], None]) -> Aftermath:
    """What became of a cluster by a restore that ended. What may pass by itself is waited for first."""
    step = next((s for s in plan.steps() if s.action == "restore.compare"), None)
    found = _losses(app, step)
    shown = step.params["shown"] if step else []
    diff = ["orchestrator", "etcd", "diff", found.before, *shown] if found.before and shown else []
    dead = tuple(step.params["dead"]) if step else ()
    return Aftermath(
        run=run,
        snapshot=step.params["snapshot"] if step else "",
        losses=found,
        diff=shlex.join(diff),
        findings=_settled(app, found, dead, say),
        old=_old(app, plan),
    )


def forget(app: App, plan: Plan) -> None:
    """Remove the comparison of a restore whose old data are deleted."""
    for name in {s.params["plan"] for s in plan.steps() if s.action == "restore.forget"}:
        compared(app.view, name).unlink(missing_ok=True)


def _losses(app: App, step: Step | None) -> Losses:
    path = compared(app.view, step.params["plan"]) if step else None
    if path is None or not path.is_file():
        return losses.Losses(unknown="the two were not compared, or it was confirmed since")
    return losses.decode(path.read_bytes(), str(path))


def _settled(app: App, found: Losses, dead: tuple[str, ...], say: Callable[[str], None]) -> tuple[Finding, ...]:
    """What is wrong once nothing is left that passes by itself, or time is up."""
    look = _Look(app.view, found, dead)
    clock = app.clock
    end, since, told = clock.now() + SETTLE_S, clock.now(), ""
    while True:
        seen = _seen(look)
        passing = [each.text for each in seen if each.passes]
        if passing:
            since = clock.now()
            if passing[0] != told:
                told = passing[0]
                say(f"not yet: {told}")
        if clock.now() >= (end if passing else since + LASTS_S):
            return seen
        clock.sleep(PAUSE_S)


def _seen(look: Callable[[], World]) -> tuple[Finding, ...]:
    """What is wrong; that the API does not answer is one of it."""
    try:
        return findings(look())
    except ApiError as err:
        remedy = "orchestrator resume, with this run, shows all of this again once it can be"
        return (Finding("ApiUnread", f"the cluster could not be looked at: {err}", remedy, passes=err.retryable),)


class _Look:
    """One look after another. Kubelets that have spoken are not asked again."""

    def __init__(self, view: Site, found: Losses, dead: tuple[str, ...]) -> None:
        self._view = view
        self._found = found
        self._dead = dead
        self._first: dict[str, float | None] = {}
        self._heard: frozenset[str] = frozenset()

    def __call__(self) -> World:
        view, found = self._view, self._found
        nodes = view.nodes()
        names = [n.name for n in nodes if n.name not in self._dead]
        ask = {name: partial(view.heartbeat, name) for name in names} | {
            _key(name): partial(view.leads, name) for name in LEADERS
        }
        found_now = {name: asked() for name, asked in ask.items() if name not in self._heard}
        leases = {name: each.at if each else None for name, each in found_now.items()}
        for name, at in leases.items():
            self._first.setdefault(name, at)
        self._heard |= moved(self._first, leases)
        still = [each for each in LEADERS if _key(each) not in self._heard and self._first[_key(each)] is not None]
        return World(
            nodes=nodes,
            pods=view.pods(),
            workloads=view.workloads(),
            silent=frozenset(names) - self._heard,
            still=tuple(still),
            dead=self._dead,
            nodes_lost=found.nodes.get(losses.LOST, ()),
            nodes_back=found.nodes.get(losses.BACK, ()),
            volumes_lost=found.volumes.get(losses.LOST, ()),
            volumes_back=found.volumes.get(losses.BACK, ()),
        )


def _key(component: str) -> str:
    """No node has a slash in its name."""
    return f"/{component}"


def _old(app: App, plan: Plan) -> tuple[Old, ...]:
    steps = {s.node: s for s in plan.steps() if s.action == "restore.stage"}

    def each(node: str) -> Old:
        try:
            now = Forget().probe(app.view, steps[node])
        except HostError as err:
            return Old(node, "", why=str(err))
        return Old(node, now["old"], now["before_bytes"])

    return tuple(together(list(steps), each).values())
