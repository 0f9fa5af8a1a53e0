"""Fresh machines in memory: what a rebuild's scripts do there is done here, and told when they are asked."""

from pathlib import Path

from orchestrator.actions import rebuild
from orchestrator.cluster import queries
from orchestrator.engine.host import Completed
from orchestrator.errors import ApiUnreachable
from tests.fakes.recoverysets import answer

SCRIPTS = {
    rebuild._OWN: "own", rebuild._PLACE: "placed", rebuild._DATA: "member", rebuild._KUBELET: "kubelet",
    rebuild._FINISH: "ended", rebuild._UNDO: "undone",
}  # fmt: skip


class NewMachine:
    """One host.

    Attributes:
        heads: What it tells of itself beside names and versions.
        changes: Of what it tells.
        ran: Which scripts, with their words.
        files: Path -> contents, mode and owner.
        fails: The script that does not work.
    """

    def __init__(self, name, address):
        self.name, self.address = name, address
        self.heads, self.changes, self.ran, self.files, self.fails = [], {}, [], {}, ""

    def run(self, argv, *, timeout_s, repeatable=False):
        what = SCRIPTS[argv[2]]
        self.ran.append((what, *argv[4:]))
        if what == self.fails:
            return Completed(tuple(argv), 6, b"", b"it does not work\n", 0.1)
        if what == "undone":
            self.heads, self.changes = [], {}
        elif what == "kubelet":
            self.changes["service"] = "active"
        else:
            self.heads.append(what)
        return Completed(tuple(argv), 0, b"", b"", 0.1)

    def write(self, path, data, *, mode, owner, timeout_s):
        self.files[path] = (data, mode, owner)
        self.heads.append("set")

    def send(self, local, path, *, mode, owner, timeout_s):
        self.files[path] = (Path(local).read_bytes(), mode, owner)
        self.heads.append("snapshot")


class NewMachines:
    """All of them, for those who read and those who change; the API is away unless `nodes` says otherwise."""

    def __init__(self, kept, *machines):
        self.machines = {m.name: m for m in machines}
        self.nodes_there, self.kubelets, self.known = None, [], []
        self._kept = kept

    def nodes(self):
        if isinstance(self.nodes_there, Exception):
            raise self.nodes_there
        if self.nodes_there is None:
            raise ApiUnreachable("nobody answers", remedy="wait")
        return self.nodes_there

    def know(self, nodes):
        self.known += nodes

    def ask(self, node, query, *words):
        machine = self.machines[node]
        if query is queries.KUBELETS:
            return self.kubelets.pop(0) if len(self.kubelets) > 1 else self.kubelets[0]
        assert query is queries.REBUILD
        return answer(**{"name": node, "address": machine.address, "heads": machine.heads, **machine.changes})

    def host(self, node):
        return self.machines[node]

    def kept(self, name):
        path = self._kept / name
        return path if path.is_file() else None
