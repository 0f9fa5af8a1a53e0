"""What is not right in a cluster that came back out of a snapshot, and what passes by itself. Pure.

Nothing here asks for a restart. The restore raises the revision and marks what is below it as compacted, so whoever
watches lists again; and the API says for some seconds what the snapshot said: pods read Running whose containers are
gone, until their kubelets have spoken. So what is wrong is waited for first, and told when it stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.cluster.applications import Owners, applications
from orchestrator.words import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.cluster.applications import Application
    from orchestrator.cluster.model import Node, Pod, Workload

#: Names in a finding before it says how many more there are.
NAMES = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an operator has to look at.

    Attributes:
        check: Its name.
        text: What was seen, with names.
        remedy: What to do, or what happens by itself.
        passes: It may pass by itself within a minute.
    """

    check: str
    text: str
    remedy: str
    passes: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """A cluster after a restore.

    Attributes:
        nodes: All that the API has.
        pods: All pods.
        workloads: All controllers, read after the pods.
        silent: Names of nodes whose kubelet has not renewed its lease since the restore.
        still: Components that lead nothing since the restore: their lease is as it was in the snapshot.
        dead: Control planes that the restore was told are gone for good.
        nodes_lost: Nodes that the state before the restore had and the restored one has not; `nodes_back` the reverse.
        volumes_lost: PersistentVolumes likewise; `volumes_back` the reverse.
    """

    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    workloads: tuple[Workload, ...]
    silent: frozenset[str] = frozenset()
    still: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    nodes_lost: tuple[str, ...] = ()
    nodes_back: tuple[str, ...] = ()
    volumes_lost: tuple[str, ...] = ()
    volumes_back: tuple[str, ...] = ()
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Know the nodes by name."""
        object.__setattr__(self, "known", frozenset(n.name for n in self.nodes))


def findings(world: World) -> tuple[Finding, ...]:
    """All that is not right, nodes first."""
    return (*_nodes(world), *_volumes(world), *_pods(world))


def _nodes(world: World) -> Iterator[Finding]:
    if world.still:
        yield Finding(
            "NoLeader",
            f"nobody leads yet: {_names(world.still)}",
            "the lease in the snapshot still names who led then; it runs out by itself",
            passes=True,
        )
    for name in (n for n in world.dead if n in world.known):
        yield Finding(
            "NodeDead",
            f"{name} is in the API and was said to be gone for good",
            f"kubectl delete node {name}; its machine joins again only once it was wiped (kubeadm reset): its etcd has "
            "the old data, and the members here do not talk to it",
        )
    for node in world.nodes:
        if node.name in world.dead:
            continue
        back = node.name in world.nodes_back
        if node.name in world.silent:
            text = f"{node.name} is in the API, and no kubelet has spoken for it since the restore"
            if back:
                yield Finding(
                    "NodeBack",
                    f"{text}; the state before the restore did not have it",
                    f"if its machine is gone: kubectl delete node {node.name}",
                    passes=True,
                )
            else:
                remedy = f"see whether its machine and its kubelet run; if it is gone: kubectl delete node {node.name}"
                yield Finding("NodeSilent", text, remedy, passes=True)
        elif not node.ready:
            why = f" ({node.ready_reason})" if node.ready_reason else ""
            remedy = f"kubectl describe node {node.name}"
            yield Finding("NodeNotReady", f"{node.name} is not Ready{why}", remedy, passes=True)
    for name in (n for n in world.nodes_lost if n not in world.known):
        # Source: kubelet, `registerWithAPIServer`: it registers its node when it starts, and not again.
        yield Finding(
            "NodeUnknown",
            f"{name} was in the cluster before the restore, and the restored API does not know it: its pods run on "
            "without being known",
            f"where it is to stay, on {name}: systemctl restart kubelet, which registers it anew; else stop it there",
        )


def _volumes(world: World) -> Iterator[Finding]:
    if world.volumes_back:
        yield Finding(
            "VolumesBack",
            f"PersistentVolumes came back that had been deleted: {_names(world.volumes_back)}",
            "their disks did not come back with them: see that each is there before something is started on it",
        )
    if world.volumes_lost:
        yield Finding(
            "VolumesLost",
            f"PersistentVolumes are gone that were made since: {_names(world.volumes_lost)}",
            "their disks are there yet, and nobody knows them: import them, or delete them where they are",
        )


def _pods(world: World) -> Iterator[Finding]:
    live = [p for p in world.pods if not p.finished]
    strays = [p for p in live if p.node and p.node not in world.known]
    if strays:
        # Source: kube-controller-manager, `podgc`, gcOrphaned: after 40 s they are deleted.
        yield Finding(
            "PodsOfUnknownNodes",
            f"pods are bound to nodes that the API does not know: {_names([p.key for p in strays])}",
            "the controller manager deletes them within a minute or two; controllers make others",
        )
    quiet = world.silent.union(world.dead)
    owners = Owners(world.workloads)
    short = [a for a in applications(live, world.workloads, owners) if a.wanted is not None and a.ready < a.wanted]
    if short:
        yield Finding(
            "NotBack",
            f"not back at their number of ready pods: {_names([_number(a, quiet) for a in short])}",
            "they may have been so before; kubectl get pods -A shows why",
            passes=any(a.ready + _on(a, quiet) < (a.wanted or 0) for a in short),
        )
    named = {a.identity for a in short}
    rest = [
        p
        for p in live
        if not p.ready and not p.mirror and p not in strays and owners.identity(p) not in named and _of_ours(p, owners)
    ]
    if rest:
        yield Finding(
            "PodsNotReady",
            f"pods are not ready: {_names([_waiting(p) for p in rest])}",
            "kubectl describe pod tells why; their kubelets start them anew by themselves",
            passes=any(p.node not in quiet for p in rest),
        )


def _of_ours(pod: Pod, owners: Owners) -> bool:
    """A Job's pods are not ready once they are done, and that they run is all there is to know."""
    return owners.identity(pod).kind != "Job"


def _on(application: Application, quiet: frozenset[str]) -> int:
    """Its pods on nodes that nobody can hear."""
    return sum(count for node, count in application.nodes if node in quiet)


def _number(application: Application, quiet: frozenset[str]) -> str:
    identity = application.identity
    unheard = f", {count} on nodes that nobody can hear" if (count := _on(application, quiet)) else ""
    where = f"{identity.kind} {identity.namespace}/{identity.name}"
    return f"{where} ({application.ready} of {application.wanted}{unheard})"


def _waiting(pod: Pod) -> str:
    return f"{pod.key} ({pod.waiting_reason})" if pod.waiting_reason else pod.key


def _names(items: Sequence[str]) -> str:
    return names(items, NAMES)


def moved(first: Mapping[str, float | None], now: Mapping[str, float | None]) -> frozenset[str]:
    """Names of those whose lease was renewed between two looks, whatever clock wrote it."""
    return frozenset(name for name, at in now.items() if at is not None and at != first.get(name, at))
