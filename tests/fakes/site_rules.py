"""What an upgrade may never do, looked at after everything that happens to a cluster in memory."""

from orchestrator.cluster.etcd import quorum
from tests.fakes.site_machines import minor_of


def _minor(version):
    return int(minor_of(version).partition(".")[2])


class Rules:
    """Fails the test at once.

    Attributes:
        owner: Whose cordons are the run's.
        broken: What was broken; a test looks at it in the end, for a run may have swallowed the error.
    """

    def __init__(self, site, owner, max_unavailable):
        self._site = site
        self.owner = owner
        self.max_unavailable = max_unavailable
        self.broken = []

    def _demand(self, holds, text):
        if not holds:
            self.broken.append(text)
            raise AssertionError(text)

    def look(self):
        """Skew of API servers and kubelets, and how many workers are out of service."""
        minors = [_minor(m.server) for m in self._site.planes()]
        self._demand(max(minors) - min(minors) <= 1, f"API servers are too far apart: {minors}")
        for machine in self._site.machines.values():
            oldest = machine.server if machine.asks_itself else min(m.server for m in self._site.planes())
            newer = _minor(machine.running) > _minor(oldest)
            self._demand(not newer, f"the kubelet of {machine.name} is newer than its API server: {oldest}")
        nodes = self._site.nodes
        ours = [n for n in nodes.values() if n.unschedulable and n.cordon and n.cordon.owner == self.owner]
        out = [n.name for n in ours if not self._site.machines[n.name].plane]
        self._demand(len(out) <= self.max_unavailable, f"out of service at once: {out}")

    def installs(self, machine, names):
        """kubelet and kubectl, only on a node that is drained."""
        if not {"kubelet", "kubectl"} & set(names):
            return
        self._demand(self._site.nodes[machine.name].unschedulable, f"{machine.name} takes pods, and its kubelet goes")
        self._demand(not self._site.evictable(machine.name), f"{machine.name} is not drained, and its kubelet goes")

    def kubeadm(self, machine, mode, version):
        """Workers after all API servers; one control plane at a time."""
        if not machine.plane:
            old = [m.name for m in self._site.planes() if minor_of(m.server) != minor_of(version)]
            self._demand(mode == "node", f"kubeadm upgrade {mode} on {machine.name}")
            self._demand(not old, f"{machine.name} to {version} before the API servers of {old}")
            self._demand(minor_of(machine.packages["kubeadm"].version) == minor_of(version), f"old on {machine.name}")
            return
        others = [m.name for m in self._site.planes() if m is not machine and m.working("kubeadm")]
        self._demand(not others, f"kubeadm on {machine.name} while it runs on {others}")

    def etcd_stops(self, machine):
        """A member is stopped by us: the others have to have a quorum, where there are others."""
        planes = self._site.planes()
        living = [m.name for m in planes if m is not machine and m.up("etcd")]
        enough = len(planes) == 1 or len(living) >= quorum(len(planes))
        self._demand(enough, f"etcd of {machine.name} stops, and only {living} live")

    def uncordons(self, node):
        """Nobody else's cordon goes."""
        mine = not node.unschedulable or (node.cordon is not None and node.cordon.owner == self.owner)
        self._demand(mine, f"the cordon of {node.name} was not ours")
