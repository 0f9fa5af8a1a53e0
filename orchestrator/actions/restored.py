"""What is left to do once a restored cluster serves: compare it with what it was, and have kubeadm know its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator.actions.snapshots import recorded
from orchestrator.backup import contents, losses
from orchestrator.backup.losses import Losses
from orchestrator.cluster import kubeadm
from orchestrator.engine.host import demand
from orchestrator.engine.plan import Done, Needed
from orchestrator.errors import ApiUnreachable, BackupError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

#: Where comparisons are kept, beside the snapshots of this user.
KEPT = "restores"


def compared(view: Site, plan: str) -> Path:
    """Where the comparison of a plan's restore is, or would be."""
    return view.place(f"{KEPT}/{plan}.json")


class Compare:
    """`restore.compare`: what was lost and what came back is known, from two snapshots that are here.

    Params: `plan`; `before`, the snapshot of the old state here, "" where no member answered; `file`, the restored one;
    `trailer`, whether that has its sum.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Whether it was compared."""
        return {"compared": compared(view, step.params["plan"]).is_file()}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it was."""
        del step, past
        return Done("compared") if now["compared"] else Needed("compare the old state with the restored one")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Compare them. A cluster that is well does not fail for a comparison: why there is none is part of it."""
        del now
        run.guard()
        target = compared(hands, step.params["plan"])
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        part.write_bytes(losses.encode(_losses(hands, step)))
        part.replace(target)


def _losses(view: Site, step: Step) -> Losses:
    if not step.params["before"]:
        return Losses(unknown="no member answered before the restore")
    before, after = (view.kept(step.params[each]) for each in ("before", "file"))
    try:
        record = recorded(before) if before else None
    except BackupError as err:
        return Losses(unknown=str(err))
    if before is None or after is None or record is None:
        return Losses(unknown="a snapshot of the two is not here any more")
    try:
        changes = contents.diff(before, after, after_trailer=step.params["trailer"])
        return losses.told(changes, record.name, record.revision)
    except BackupError as err:
        return Losses(before=record.name, before_revision=record.revision, unknown=str(err))


class DataDir:
    """`restore.datadir`: kubeadm's settings have the data directory of etcd where it is, so that an upgrade keeps it.

    Params: `plan`; `path`.

    Source: kubeadm 1.36 and 1.37: an upgrade writes etcd's manifest anew, from `etcd.local.dataDir`.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """The path that the settings have; "" where kubeadm left none, None while no API server answers."""
        del step
        try:
            return {"path": kubeadm.data_dir(view.configuration())}
        except ApiUnreachable:
            return {"path": None}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is that path, or there are no settings."""
        del past
        path = step.params["path"]
        if now["path"] in ("", path):
            return Done(f"kubeadm has {path}" if now["path"] else "kubeadm left no settings")
        return Needed(f"kubeadm's settings to {path}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Change that one line of the ConfigMap.

        Raises:
            CommandFailed: The API server did not take it.
        """
        del now
        run.guard()
        changed = kubeadm.with_data_dir(hands.configuration(), step.params["path"])
        patch = msgspec.json.encode({"data": {"ClusterConfiguration": changed}})
        argv = ["kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "--request-timeout=20s", "-n", "kube-system"]
        argv += ["patch", "configmap", "kubeadm-config", "--type=merge", "--patch-file=/dev/stdin"]
        host = hands.host(step.node)
        done = host.run(argv, timeout_s=60.0, stdin=patch, repeatable=True)
        demand(host, done, remedy=f"see that kubectl works on {step.node}, then resume")
