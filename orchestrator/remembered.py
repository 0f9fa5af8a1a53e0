"""A cluster whose only API server is away, as upgrades that were started here knew it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import parse_api, parse_look
from orchestrator.cluster.model import Node
from orchestrator.engine import runs
from orchestrator.engine.together import each
from orchestrator.errors import Locked
from orchestrator.kube.kubeconfig import reaching

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.app import App
    from orchestrator.engine.journal import Contents
    from orchestrator.errors import ApiUnreachable

#: Runs whose hosts are all nodes of the cluster.
KINDS = ("upgrade", "rollback")
#: A run that was begun so long ago at most has found control planes as they are.
LATELY_S = 86400.0
BY_HAND = "by hand: docs/upgrade.md, “By hand”"


@dataclass(frozen=True, slots=True)
class Remembered:
    """A cluster with one control plane.

    Attributes:
        nodes: The control plane, and those whose kubelets are known.
        unseen: Nodes whose hosts are not reached.
        run: Who knew it.
        over: That run is not under way: since then, control planes may have joined.
    """

    nodes: tuple[Node, ...]
    unseen: tuple[str, ...]
    run: str
    over: bool


def remembered(app: App, node: str, why: ApiUnreachable, say: Callable[[str], None]) -> Remembered:
    """The cluster whose only control plane is `node`; kubelets as their hosts tell.

    Args:
        app: Hosts are known to it afterwards.
        node: The control plane.
        why: What became of asking the API.
        say: Tells a person.

    Raises:
        ApiUnreachable: `why`: no run knew the cluster, it has other control planes, or the API server is not away.
        Locked: A process from here is at work on that cluster.
    """
    run = _latest(app, node, why)
    if busy := runs.at_work(app.session.server):
        raise Locked(f"{busy} is at work on that cluster", remedy="stop it with Ctrl-C, and try again")
    if run.meta.get("ssh"):
        app.settings = replace(app.settings, ssh=True)
    app.session.answered = True  # when that run began: one that comes back is given its time
    places = {name: Node.at(name, *place) for name, place in run.meta[runs.HOSTS].items()}
    app.machines.know(list(places.values()))
    if parse_api(app.reader.ask(node, queries.API, "0"))[1]:
        why.add_note(f"its API server answers on {node} itself: see the way from here to {app.session.server}")
        raise why
    say(f"no API server answers ({why}); nodes are those that {run.run} knew: {', '.join(places)}")
    say("nothing is drained, and cordons stay as they are")

    def kubelet(name: str) -> str:
        host = parse_look(name, app.reader.ask(name, queries.LOOK))
        return str(max((v for v in (host.running, host.kubelet) if v), default=""))

    seen = each([name for name in places if name != node], kubelet)
    nodes = [replace(places[one.item], kubelet_version=one.value) for one in seen if one.value is not None]
    unseen = tuple(one.item for one in seen if one.error)
    return Remembered((places[node], *nodes), unseen, run.run, not _under_way(app, run, node))


def _under_way(app: App, run: Contents, node: str) -> bool:
    """Whether a run has begun with that control plane, not long ago, and has not ended."""
    begun = any(s.node == node and s.action.startswith("kubeadm.") and s.id in run.past for s in run.plan.steps())
    return begun and not run.ended and app.clock.wall() - run.started < LATELY_S


def _latest(app: App, node: str, why: ApiUnreachable) -> Contents:
    """The latest run that knew the cluster; `why`, with a note, where there is none, or it has other control planes."""
    knew = [run for run in runs.known() if run.plan.kind in KINDS and node in run.meta.get(runs.HOSTS, {})]
    run = next((run for run in knew if run.meta.get("server") == app.session.server), None)
    planes = {name for step in run.plan.steps() for name in step.params.get("control_planes", ())} if run else set()
    if run and planes == {node}:
        return run
    if run is None:
        note = f"no upgrade that was started here noted where {node} is; {BY_HAND}"
        if knew:
            meta = knew[0].meta
            note = f"{knew[0].run} knew {node}, of the cluster at {meta.get('server')}; to use that, "
            note += reaching(meta.get("kubeconfig") or (), meta.get("context") or "")
    elif node not in planes:
        note = f"{node} was no control plane of it: {', '.join(sorted(planes))}"
    else:
        note = f"there are other control planes: {', '.join(sorted(planes - {node}))}; see what keeps their API servers"
    why.add_note(note)
    raise why
