"""Every action by its name: what a plan, or a playbook, can ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.actions import replacement
from orchestrator.actions.backups import Complete, Recovery, Retain, Store, Supersede, Unstage
from orchestrator.actions.drain import Drain
from orchestrator.actions.etcdcare import Compact, Defragment, Disarm
from orchestrator.actions.gates import Gate, Note
from orchestrator.actions.kubeadm import Kubelet, Upgrade
from orchestrator.actions.nodes import Cordon, RestoreScheduling, Return, Uncordon
from orchestrator.actions.packages import Install, Prefetch, Repository
from orchestrator.actions.rebuild import Bring, Data, Finish, Nodes, Place, Started, Undo
from orchestrator.actions.restore import Forget, Quorum, Stage, Start, Stop, Swap
from orchestrator.actions.restoreback import Back, Fetch, Kept, Raise
from orchestrator.actions.restored import Compare, DataDir
from orchestrator.actions.rollback import Downgrade, Settings, StaticPods
from orchestrator.actions.runs import Hook, Pause, Tidy
from orchestrator.actions.snapshots import Snapshot
from orchestrator.engine.crew import Crew, Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.clock import Clock
    from orchestrator.engine.runner import Action


def actions(clock: Clock, crew: Callable[[int], Crew] = Threads) -> Mapping[str, Action[Site, SiteHands]]:
    """The actions of one process: those that remember what lasted, or what they were asked, do so in there.

    Args:
        clock: For ages and durations.
        crew: Makes the threads of a drain.
    """
    return {
        "node.cordon": Cordon(),
        "node.uncordon": Uncordon(),
        "node.restore_scheduling": RestoreScheduling(),
        "node.return": Return(),
        "node.drain": Drain(crew, clock),
        "etcd.snapshot": Snapshot(clock),
        "etcd.recovery": Recovery(),
        "etcd.complete": Complete(),
        "etcd.store": Store(),
        "etcd.retain": Retain(clock),
        "etcd.supersede": Supersede(),
        "etcd.unstage": Unstage(),
        "etcd.defragment": Defragment(),
        "etcd.compact": Compact(),
        "etcd.disarm": Disarm(),
        "restore.stage": Stage(),
        "restore.stop": Stop(),
        "restore.swap": Swap(),
        "restore.start": Start(),
        "restore.quorum": Quorum(),
        "restore.kept": Kept(),
        "restore.fetch": Fetch(),
        "restore.raise": Raise(),
        "restore.back": Back(),
        "restore.forget": Forget(),
        "member.stop": replacement.Stop(),
        "member.aside": replacement.Aside(),
        "member.remove": replacement.Remove(),
        "member.add": replacement.Add(),
        "member.manifest": replacement.Manifest(),
        "member.start": replacement.Start(),
        "member.promote": replacement.Promote(),
        "member.quorum": Quorum(),
        "member.listed": replacement.Listed(),
        "member.back": replacement.Back(),
        "member.return": replacement.Return(),
        "member.forget": replacement.Forget(),
        "restore.compare": Compare(),
        "restore.datadir": DataDir(),
        "rebuild.bring": Bring(),
        "rebuild.place": Place(),
        "rebuild.data": Data(),
        "rebuild.kubelet": Started(),
        "rebuild.finish": Finish(),
        "rebuild.nodes": Nodes(clock),
        "rebuild.undo": Undo(),
        "packages.prefetch": Prefetch(),
        "packages.repository": Repository(),
        "packages.install": Install(),
        "kubeadm.upgrade": Upgrade(),
        "kubeadm.rollback": StaticPods(),
        "kubeadm.settings": Settings(),
        "packages.downgrade": Downgrade(),
        "kubelet.upgrade": Kubelet(clock),
        "cluster.note": Note(),
        "cluster.gate": Gate(clock),
        "run.pause": Pause(),
        "hook.run": Hook(),
        "host.tidy": Tidy(),
    }
