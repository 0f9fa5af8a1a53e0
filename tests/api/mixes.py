"""Mixes of pods for `test_kubectl_parity`: hand-made ones for each rule, and generated ones for what nobody thought of.

Owners are names only: neither kubectl nor the tool looks an owner up, but for DaemonSets. The module that uses them
runs no controllers, so nothing repairs them.
"""

import random
from dataclasses import dataclass

from lab.api import objects

SEED = 20261124
GENERATED = 40


@dataclass(frozen=True)
class Pod:
    """A pod as a mix describes it; `owner` is kind, apiVersion and name."""

    owner: tuple[str, str, str] | None = None
    controls: bool = True
    empty_dir: bool = False
    mirror: bool = False
    phase: str = "Running"
    leaving: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    volumes: tuple[str, ...] = ()

    def described(self, name, node):
        metadata = {"labels": dict(self.labels)}
        if self.owner:
            kind, version, owner = self.owner
            metadata["ownerReferences"] = [
                {
                    "kind": kind,
                    "apiVersion": version,
                    "name": owner,
                    "uid": f"uid-of-{owner}",
                    "controller": self.controls,
                }
            ]
        if self.mirror:
            metadata["annotations"] = {"kubernetes.io/config.mirror": "a-hash"}
        volumes = [{"name": "scratch", "emptyDir": {}}] if self.empty_dir else []
        volumes += [{"name": f"v{i}", **_VOLUMES[kind]} for i, kind in enumerate(self.volumes)]
        return objects.pod(name, node, metadata=metadata, spec={"volumes": volumes} if volumes else {})


_VOLUMES = {
    "hostPath": {"hostPath": {"path": "/var/log"}},
    "configMap": {"configMap": {"name": "c"}},
    "claim": {"persistentVolumeClaim": {"claimName": "data"}},
    "memory": {"emptyDir": {"medium": "Memory"}},
    "projected": {"projected": {"sources": [{"configMap": {"name": "c"}}]}},
}

REPLICA_SET = ("ReplicaSet", "apps/v1", "web")
STATEFUL_SET = ("StatefulSet", "apps/v1", "db")
JOB = ("Job", "batch/v1", "once")
CONTROLLER = ("ReplicationController", "v1", "old")
CUSTOM = ("Rollout", "argoproj.io/v1alpha1", "shop")
CUSTOM_DAEMON = ("DaemonSet", "apps.kruise.io/v1alpha1", "agent")
OLD_DAEMON = ("DaemonSet", "extensions/v1beta1", "agent")
DAEMON = ("DaemonSet", "apps/v1", "agent")  # there is one of that name
LOST_DAEMON = ("DaemonSet", "apps/v1", "gone")  # there is none

ALL = ("--force", "--ignore-daemonsets", "--delete-emptydir-data")

#: Name -> pods, and the flag sets that it is drained with beside NO_FLAGS and ALL.
HAND_MADE = {
    "nothing at all": ((), ()),
    "a pod of a ReplicaSet": ((Pod(REPLICA_SET),), ()),
    "a pod of a StatefulSet": ((Pod(STATEFUL_SET),), ()),
    "a pod of a Job": ((Pod(JOB),), ()),
    "a pod of a ReplicationController": ((Pod(CONTROLLER),), ()),
    "a pod of a custom kind": ((Pod(CUSTOM),), ()),
    "a pod of a DaemonSet": ((Pod(DAEMON),), (("--ignore-daemonsets",), ("--force",))),
    "a pod of a DaemonSet that is gone": ((Pod(LOST_DAEMON),), (("--ignore-daemonsets",), ("--force",))),
    "a DaemonSet of another group": ((Pod(CUSTOM_DAEMON),), (("--ignore-daemonsets",),)),
    "a DaemonSet of an old group": ((Pod(OLD_DAEMON),), (("--ignore-daemonsets",),)),
    "a pod of a DaemonSet with local data": ((Pod(DAEMON, empty_dir=True),), (("--ignore-daemonsets",),)),
    "a lost DaemonSet's pod with local data": (
        (Pod(LOST_DAEMON, empty_dir=True),), (("--force",), ("--delete-emptydir-data",), ("--ignore-daemonsets",)),
    ),
    "a finished pod of a DaemonSet": ((Pod(DAEMON, phase="Succeeded"),), ()),
    "a failed pod of a DaemonSet": ((Pod(DAEMON, phase="Failed"),), ()),
    "a finished pod of a lost DaemonSet": ((Pod(LOST_DAEMON, phase="Failed"),), ()),
    "a naked pod": ((Pod(),), (("--force",), ("--delete-emptydir-data",))),
    "a naked pod that succeeded": ((Pod(phase="Succeeded"),), ()),
    "a naked pod that failed": ((Pod(phase="Failed"),), ()),
    "a naked pending pod": ((Pod(phase="Pending"),), (("--force",),)),
    "a naked pod of unknown phase": ((Pod(phase="Unknown"),), (("--force",),)),
    "a naked pod with local data": ((Pod(empty_dir=True),), (("--force",), ("--delete-emptydir-data",))),
    "a naked finished pod with local data": ((Pod(empty_dir=True, phase="Succeeded"),), ()),
    "an owner that does not control": ((Pod(REPLICA_SET, controls=False),), (("--force",),)),
    "a DaemonSet that owns and does not control": (
        (Pod(DAEMON, controls=False),), (("--force",), ("--ignore-daemonsets",)),
    ),
    "local data in memory": ((Pod(REPLICA_SET, volumes=("memory",)),), (("--delete-emptydir-data",),)),
    "local data of a ReplicaSet": ((Pod(REPLICA_SET, empty_dir=True),), (("--delete-emptydir-data",), ("--force",))),
    "local data of a finished Job": ((Pod(JOB, empty_dir=True, phase="Succeeded"),), ()),
    "local data of a running Job": ((Pod(JOB, empty_dir=True),), (("--delete-emptydir-data",),)),
    "volumes that are not local": ((Pod(REPLICA_SET, volumes=("hostPath", "configMap", "projected", "claim")),), ()),
    "a mirror pod": ((Pod(mirror=True),), ()),
    "a mirror pod with local data": ((Pod(mirror=True, empty_dir=True),), ()),
    "a finished mirror pod": ((Pod(mirror=True, phase="Succeeded"),), ()),
    "a mirror pod beside others": ((Pod(mirror=True), Pod(REPLICA_SET), Pod(DAEMON)), (("--ignore-daemonsets",),)),
    "a pod that is leaving": ((Pod(REPLICA_SET, leaving=True),), (("--skip-wait-for-delete-timeout=1",),)),
    "a naked pod that is leaving": (
        (Pod(leaving=True),), (("--skip-wait-for-delete-timeout=1",), ("--skip-wait-for-delete-timeout=1", "--force")),
    ),
    "a leaving pod of a DaemonSet": (
        (Pod(DAEMON, leaving=True),),
        (("--skip-wait-for-delete-timeout=1",), ("--skip-wait-for-delete-timeout=3600",), ("--ignore-daemonsets",)),
    ),
    "a leaving pod not yet overdue": ((Pod(leaving=True), Pod()), (("--skip-wait-for-delete-timeout=3600",),)),
    "one of everything": (
        (
            Pod(), Pod(REPLICA_SET), Pod(DAEMON), Pod(LOST_DAEMON), Pod(mirror=True), Pod(JOB, phase="Succeeded"),
            Pod(empty_dir=True), Pod(REPLICA_SET, empty_dir=True), Pod(CUSTOM), Pod(leaving=True),
        ),
        (
            ("--force",), ("--ignore-daemonsets",), ("--force", "--ignore-daemonsets"),
            ("--ignore-daemonsets", "--delete-emptydir-data"),
        ),
    ),
    "a selector that hides what forbids it": (
        (Pod(labels=(("app", "debug"),)), Pod(REPLICA_SET, labels=(("app", "web"),))),
        (("--pod-selector=app=web",), ("--pod-selector=app=debug",), ("--pod-selector=app!=debug",)),
    ),
    "a selector by set": (
        (Pod(REPLICA_SET, labels=(("tier", "a"),)), Pod(REPLICA_SET, labels=(("tier", "b"),)), Pod()),
        (("--pod-selector=tier in (a,b)",), ("--pod-selector=!tier",), ("--pod-selector=tier notin (a)", "--force")),
    ),
}  # fmt: skip

OWNERS = (None, None, REPLICA_SET, STATEFUL_SET, JOB, CONTROLLER, CUSTOM, CUSTOM_DAEMON, DAEMON, LOST_DAEMON)
PHASES = ("Running", "Running", "Running", "Pending", "Succeeded", "Failed")


def generated():
    """Name -> pods and flag sets, the same ones every time."""
    chance = random.Random(SEED)
    return {f"generated {number}": _mix(chance) for number in range(1, GENERATED + 1)}


def _mix(chance):
    pods = tuple(
        Pod(
            chance.choice(OWNERS),
            controls=chance.random() < 0.85,
            empty_dir=chance.random() < 0.25,
            mirror=chance.random() < 0.1,
            phase=chance.choice(PHASES),
            leaving=chance.random() < 0.15,
            labels=(("tier", chance.choice("ab")),),
            volumes=tuple(chance.sample(("hostPath", "configMap", "memory"), chance.randint(0, 2))),
        )
        for _ in range(chance.randint(1, 6))
    )
    flags = [
        flag for flag in (*ALL, "--skip-wait-for-delete-timeout=1", "--pod-selector=tier=a") if chance.random() < 0.5
    ]
    return pods, (tuple(flags),)


MIXES = {**HAND_MADE, **generated()}
