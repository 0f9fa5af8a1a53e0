"""A cluster together with its hosts: what actions on nodes are handed. `actions.site` says what that is."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestrator.actions.site import Trace
from orchestrator.backup.catalogue import ReadOnly
from orchestrator.backup.stores import open_store
from orchestrator.cluster import queries
from orchestrator.engine.events import Event
from orchestrator.engine.host import demand
from orchestrator.errors import BadUsage
from orchestrator.hosts import detached
from orchestrator.hosts.detached import Unit
from orchestrator.hosts.local import LocalTransport
from orchestrator.hosts.locate import address
from orchestrator.hosts.machine import Machine
from orchestrator.hosts.recorded import Recorded
from orchestrator.hosts.secrets import Secrets
from orchestrator.kube.cluster import KubeHands
from orchestrator.kube.maintenance import KubeMaintenance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from orchestrator.actions.site import Errand
    from orchestrator.backup.catalogue import Shelf
    from orchestrator.backup.stores import Store
    from orchestrator.cluster.frame import Query
    from orchestrator.cluster.model import Node
    from orchestrator.engine.clock import Clock
    from orchestrator.engine.events import Sink
    from orchestrator.engine.host import Completed, Host
    from orchestrator.engine.journal import Journal
    from orchestrator.kube.cluster import KubeView

#: An answer of a host serves again for so long: a preview asks the same for each of a node's steps.
FRESH_S = 2.0


def this_machine(clock: Clock) -> Machine:
    """The one that this runs on; no cluster is needed for it."""
    return Machine(platform.node(), LocalTransport(), Secrets(), clock, patience_s=0.0)


class Machines:
    """The hosts behind the nodes of a cluster, each reached when it is first needed. Safe in threads.

    Args:
        reach: The host of a node.
        clock: For how old an answer is.
        kept: The directory of what was fetched from hosts.
        elsewhere: A host that is no node, by `[user@]host[:port]`.
    """

    def __init__(
        self,
        reach: Callable[[Node], Machine],
        clock: Clock,
        kept: Path,
        elsewhere: Callable[[str], Host] | None = None,
    ) -> None:
        self.elsewhere = elsewhere or _nowhere
        self._reach = reach
        self._clock = clock
        self._known: dict[str, Machine] = {}
        self._nodes: dict[str, Node] = {}
        self._answers: dict[tuple[str, ...], tuple[float, str]] = {}
        self._asking: dict[tuple[str, ...], threading.Lock] = {}
        self._forgotten: Counter[str] = Counter()
        self._mutex = threading.Lock()
        self.kept = kept

    def machine(self, view: KubeView, node: str) -> Machine:
        """The host of a node; where that is, the cluster is asked once, for it may be away later."""
        with self._mutex:
            known = self._known.get(node)
        if known is None:
            self.know([view.node(node)])
            with self._mutex:
                known = self._known[node]
        return known

    def know(self, nodes: Sequence[Node]) -> None:
        """Remember where these nodes are."""
        for node in nodes:
            host = self._reach(node)
            with self._mutex:
                self._known[node.name] = host
                self._nodes[node.name] = node

    def places(self) -> dict[str, tuple[str, str]]:
        """Node -> its address and its provider id, of all that are known so far."""
        with self._mutex:
            nodes = tuple(self._nodes.values())
        return {n.name: (address(n), n.provider_id) for n in nodes}

    def ask(self, host: Host, node: str, query: Query, words: tuple[str, ...]) -> str:
        """The answer to a question, or one that is still fresh; who asks the same meanwhile waits for that answer."""
        if query not in queries.ALL:
            raise ValueError(f"{query.name} is no question that a host may be asked")
        key = (node, query.name, *words)
        with self._mutex:
            one_at_a_time = self._asking.setdefault(key, threading.Lock())
        with one_at_a_time:
            with self._mutex:
                at, known = self._answers.get(key, (0.0, ""))
                if known and self._clock.now() - at < FRESH_S:
                    return known
                forgotten = self._forgotten[node]
            argv = ["sh", "-c", query.script, "sh", *words]
            done = demand(host, host.run(argv, timeout_s=query.timeout_s, repeatable=True))
            answer = done.stdout.decode(errors="replace")
            with self._mutex:
                if self._forgotten[node] == forgotten:
                    self._answers[key] = (self._clock.now(), answer)
            return answer

    def forget(self, node: str) -> None:
        """Something is done to a node's host: what it said before counts no more."""
        with self._mutex:
            self._forgotten[node] += 1
            self._answers = {key: value for key, value in self._answers.items() if key[0] != node}


class SiteView(KubeMaintenance):
    """Reads a cluster and its hosts; see `actions.site.Site`."""

    def __init__(self, *cluster: Any, machines: Machines, **how: Any) -> None:
        super().__init__(*cluster, **how)
        self._machines = machines

    def ask(self, node: str, query: Query, *words: str) -> str:
        """The answer of a host to a question that changes nothing there."""
        return self._machines.ask(self._recorded(node), node, query, words)

    def trace(self, node: str, errand: Errand) -> Trace:
        """What became of a command that was started earlier."""
        state, rc = detached.state(self._recorded(node), Unit(errand.plan, errand.step))
        return Trace(state, rc)

    def kept(self, name: str) -> Path | None:
        """A file that was fetched before."""
        path = self._machines.kept / name
        return path if path.is_file() else None

    def place(self, name: str) -> Path:
        """Where such a file is, or would be."""
        return self._machines.kept / name

    def shelf(self, url: str, node: str) -> Shelf:
        """A destination of backups, to read."""
        return ReadOnly(self._store(url, node))

    def _store(self, url: str, node: str) -> Store:
        def host(place: str) -> Host:
            if place.startswith("sftp://"):
                return self._machines.elsewhere(place)
            return self._recorded(node if place == "node" else place)

        return open_store(url, host=host)

    def _recorded(self, node: str) -> Host:
        return self._machines.machine(self, node)


def _nowhere(place: str) -> Host:
    raise BadUsage(f"{place} cannot be reached from here", remedy="name a directory")


class SiteHands(SiteView, KubeHands):
    """Changes a cluster and its hosts; see `actions.site.SiteHands`."""

    def __init__(self, *cluster: Any, machines: Machines, **how: Any) -> None:
        super().__init__(*cluster, machines=machines, **how)
        self._records: dict[str, Recorded] = {}
        self._record: Callable[[Machine], Recorded] | None = None

    @contextlib.contextmanager
    def recording(self, directory: Path, journal: Journal, sink: Sink) -> Iterator[None]:
        """Write down what runs on hosts meanwhile, in a run's directory and its journal, which is open so long."""

        def emit(name: str, *, level: str = "info", **fields: Any) -> None:
            sink.emit(Event(name, {"run": journal.run, **fields}, level))

        self._records.clear()
        self._record = lambda host: Recorded(host, directory, emit, self._clock, journal.command)
        try:
            yield
        finally:
            self._record = None
            self._records.clear()

    def host(self, node: str) -> Host:
        """The host of a node."""
        self._machines.forget(node)
        return self._recorded(node)

    def here(self) -> Host:
        """This machine; what runs on it is recorded as what runs on hosts is."""
        machine = this_machine(self._clock)
        return self._record(machine) if self._record else machine

    def finish(
        self,
        node: str,
        argv: Sequence[str],
        errand: Errand,
        *,
        timeout_s: float,
        anew: bool = False,
        on_line: Callable[[str], None] | None = None,
        waiting: Callable[[Exception, float], None] | None = None,
    ) -> Completed:
        """Run a command to its end, once, whatever the network does."""
        self._machines.forget(node)
        host, unit = self._machines.machine(self, node), Unit(errand.plan, errand.step)
        state, rc = detached.state(host, unit)
        recorded = self._recorded(node)
        if state in ("late", "vanished") or (state == "ended" and (rc or anew)):
            detached.clean(recorded, unit)

        def work(heard: Callable[[str], None] | None) -> Completed:
            return detached.run_detached(
                host, argv, unit=unit, timeout_s=timeout_s, clock=self._clock, on_line=heard, waiting=waiting
            )

        try:
            return recorded.recording(argv, work, on_line=on_line) if isinstance(recorded, Recorded) else work(on_line)
        finally:
            self._machines.forget(node)

    def store(self, url: str, node: str) -> Store:
        """A destination of backups, to write."""
        return self._store(url, node)

    def keep(self, node: str, path: str, name: str, *, timeout_s: float, compared: bool = True) -> Path:
        """Fetch a file, to be found by `kept` later."""
        local = self._machines.kept / name
        for directory in (self._machines.kept, local.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._recorded(node).fetch(path, local, timeout_s=timeout_s, compared=compared)
        return local

    def _recorded(self, node: str) -> Host:
        machine = self._machines.machine(self, node)
        if self._record is None:
            return machine
        return self._records.setdefault(node, self._record(machine))
