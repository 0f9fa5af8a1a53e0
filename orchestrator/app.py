"""The composition root: settings in, adapters and runner put together, one use case carried out, exit code out."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import socket
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.engine import retry, runs
from orchestrator.engine.clock import SystemClock
from orchestrator.engine.events import retrying
from orchestrator.engine.journal import Contents, Journal, read
from orchestrator.engine.lease import Lease, locked
from orchestrator.engine.plan import Blocked, Done
from orchestrator.engine.runner import execute, preview
from orchestrator.engine.stopping import stopping
from orchestrator.engine.together import together
from orchestrator.errors import ApiError, BadUsage, OrchestratorError, Refused
from orchestrator.planners import nodes as planners
from orchestrator.planners.rollback import way_back

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.cluster.model import Node
    from orchestrator.cluster.ports import EvictionAnswer
    from orchestrator.engine.events import Sink
    from orchestrator.engine.lease import LeaseStore
    from orchestrator.engine.plan import Plan
    from orchestrator.engine.runner import Action, Preview
    from orchestrator.hosts.machine import Machine
    from orchestrator.hosts.pool import Pool
    from orchestrator.kube.cluster import KubeRehearsal
    from orchestrator.kube.session import Session
    from orchestrator.site import Machines
    from orchestrator.site import SiteHands as RecordingHands

DONE = 0
WORK_NEEDED = 3
#: Plans that are asked about though they are of one node: something can be lost by them.
ALWAYS_ASKED = frozenset({"rollback", "restore", "rebuild", "confirm"})
#: Plans during which the API server takes no writes: their lock is on a control plane's disk.
WITHOUT_API = frozenset({"disarm"})
#: How long a host that does not answer is tried. A step that waits for one that boots tries it again.
HOST_PATIENCE_S = 30.0


class DryRun(StrEnum):
    """kubectl's `--dry-run`."""

    NONE = "none"
    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is common to all commands.

    Attributes:
        owner: Whose cordons and leases they are: `user@host` unless `--owner` says otherwise.
        yes: A plan of several nodes may start without being confirmed.
        patience_s: How long a failure of the API that passes is retried, in seconds.
        ssh: Every node is reached by SSH, those of kind and minikube too.
        chunk_size: Objects a page of a list; 0 for all at once.
    """

    kubeconfig: str | None = None
    context: str | None = None
    owner: str = ""
    yes: bool = False
    dry_run: DryRun = DryRun.NONE
    patience_s: float = 60.0
    chunk_size: int = 500
    ssh: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a use case ended.

    Attributes:
        exit_code: 0, or 3 for a dry run that found work.
        run: The id of the run; "" when none was needed.
        previews: Each step with what was decided before anything started.
    """

    exit_code: int
    plan: Plan
    run: str
    previews: tuple[Preview, ...]


def default_owner() -> str:
    """`user@host` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def notice(text: str) -> None:
    """One line on stderr, past Python's buffers: a signal may come in the middle of another line."""
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(2, f"\n{text}\n".encode())


class App:
    """One process's use of one cluster. Nothing is connected before it is needed.

    Args:
        settings: What the command line said.
        sink: Where events go.
        confirm: Shows a plan and asks; None where nobody can be asked.
        say: Tells a person who asked it to stop what that leads to; see `stopping`.
        ask_secret: Shows a prompt and reads a line without echo; None where nobody can be asked.
    """

    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        confirm: Callable[[Plan], bool] | None = None,
        say: Callable[[str], None] = notice,
        ask_secret: Callable[[str], str] | None = None,
    ) -> None:
        self.settings = settings
        self.sink = sink
        self.clock = SystemClock()
        self._confirm = confirm
        self._say = say
        self._ask_secret = ask_secret

    @cached_property
    def session(self) -> Session:
        """The connection."""
        from orchestrator.kube.session import connect  # noqa: PLC0415  the client library is slow to import

        return connect(self.settings.kubeconfig, self.settings.context)

    def without_api(self, why: ApiError) -> None:
        """Go on without an API where none was connected to, for hosts that are known; whatever asks it raises `why`.

        Raises:
            BadUsage: The kubeconfig or its context cannot be meant.
        """
        if "session" not in self.__dict__:
            from orchestrator.kube.session import unconnected  # noqa: PLC0415

            self.session = unconnected(self.settings.kubeconfig, self.settings.context, why)

    @cached_property
    def view(self) -> Site:
        """Reads the cluster, and its hosts, which are reached when one is first asked."""
        from orchestrator.site import SiteView  # noqa: PLC0415

        return SiteView(self.session, self.clock, self.sink, machines=self.machines, **self._reading)

    @cached_property
    def hands(self) -> RecordingHands:
        """Changes the cluster and its hosts."""
        from orchestrator.site import SiteHands  # noqa: PLC0415

        return SiteHands(self.session, self.clock, self.sink, machines=self.machines, **self._reading)

    @property
    def reader(self) -> Site:
        """Reads for a command: a dry run has nothing to change with; for others the hands' own readings serve on."""
        return self.hands if self.settings.dry_run is DryRun.NONE else self.view

    @cached_property
    def machines(self) -> Machines:
        """The hosts behind the nodes."""
        from orchestrator.site import Machines  # noqa: PLC0415

        return Machines(self._host_of, self.clock, runs.snapshots(), self.elsewhere)

    @cached_property
    def pool(self) -> Pool:
        """Connections to hosts, by the user's own settings; they end with the process."""
        from orchestrator.hosts.config import SshConfig  # noqa: PLC0415
        from orchestrator.hosts.pool import Pool  # noqa: PLC0415
        from orchestrator.hosts.secrets import Secrets  # noqa: PLC0415

        secrets = Secrets(self._ask_secret)
        return Pool(SshConfig(), secrets, self.clock, patience_s=HOST_PATIENCE_S, trusting=self.trusting)

    @property
    def trusting(self) -> str:
        """The options with which `hosts trust` finds the same hosts."""
        given = {"--kubeconfig": self.settings.kubeconfig, "--context": self.settings.context}
        words = [f"{name} {shlex.quote(value)}" for name, value in given.items() if value]
        return " ".join([*words, "--ssh"] if self.settings.ssh else words)

    def host(self, node: str) -> Machine:
        """The host of a node, outside of a run: nothing that is done there is recorded."""
        return self.machines.machine(self.hands, node)

    def _host_of(self, node: Node) -> Machine:
        from orchestrator.hosts.locate import by_ssh, place  # noqa: PLC0415

        return self.pool.host(by_ssh(node) if self.settings.ssh else place(node))

    def here(self) -> Machine:
        """This machine, for which no cluster has to be there."""
        from orchestrator.site import this_machine  # noqa: PLC0415

        return this_machine(self.clock)

    def elsewhere(self, text: str) -> Machine:
        """A host that is no node: where backups go, by `sftp://[USER@]HOST[:PORT]`."""
        from orchestrator.hosts.locate import named  # noqa: PLC0415

        return self.pool.host(named(text))

    @cached_property
    def rehearsal(self) -> KubeRehearsal:
        """Asks the cluster what it would answer."""
        from orchestrator.kube.cluster import KubeRehearsal  # noqa: PLC0415

        return KubeRehearsal(self.session, self.clock, self.sink, **self._reading)

    @property
    def _reading(self) -> dict[str, Any]:
        return {"patience_s": self.settings.patience_s, "chunk_size": self.settings.chunk_size}

    @cached_property
    def actions(self) -> Mapping[str, Action[Site, SiteHands]]:
        """Every action by its name."""
        from orchestrator import catalogue  # noqa: PLC0415

        return catalogue.actions(self.clock)

    @property
    def owner(self) -> str:
        """Whose changes these are."""
        return self.settings.owner or default_owner()

    def refuse_if_held(self) -> None:
        """Refuse early, before a long look, what the lease would refuse later. It is no lock by itself.

        Raises:
            Locked: Another run has renewed the cluster's lease lately, and is not known to be over.
        """
        from orchestrator.kube.lease import KubeLeases  # noqa: PLC0415

        read, deadline = KubeLeases(self.session, self.clock).read, self.clock.now() + self.settings.patience_s
        there = retry.call(retry.API_READ, read, clock=self.clock, deadline=deadline, scheduled=retrying(self.sink))
        held = there and there.holder and self.clock.wall() - there.renewed < there.duration_s
        if there and held and not runs.unattended(there.run):
            raise locked(there)

    def perform(
        self, plan: Plan, *, shown: Callable[[tuple[Preview, ...]], None], noted: Mapping[str, str] | None = None
    ) -> Outcome:
        """Carry `plan` out, or, in a dry run, only look.

        Whatever forbids a step is named before the first one starts. What is `noted` is in the run's meta.

        Raises:
            Refused: A step is forbidden, or nobody confirmed a plan of several nodes.
            OrchestratorError: It failed; the run can be resumed.
        """
        dry = self.settings.dry_run is not DryRun.NONE
        previews = preview(plan, self.reader, self.actions, together=together)
        shown(previews)
        _refuse_blocked(previews)
        needed = any(not isinstance(p.decision, Done) for p in previews)
        if dry:
            return Outcome(WORK_NEEDED if needed else DONE, plan, "", previews)
        if not needed:
            return Outcome(DONE, plan, "", previews)
        self._ask(plan)
        run = runs.new_id(plan.kind, self.clock.wall())
        meta = {
            "owner": self.owner,
            "server": self.session.server,
            "context": self.session.choice.context,
            "kubeconfig": [str(p.absolute()) for p in self.session.choice.files],
            "ssh": self.settings.ssh,
            runs.MACHINE: runs.machine(),
            runs.HOSTS: self.machines.places(),
            **(noted or {}),
        }
        with Journal.create(runs.directory(run), run, plan, meta=meta, wall=self.clock.wall) as journal:
            self._execute(journal, resumed=False)
        runs.retain()
        return Outcome(DONE, plan, run, previews)

    def rehearse(self, previews: tuple[Preview, ...]) -> tuple[tuple[str, EvictionAnswer], ...]:
        """What the API server would answer to every change that is needed; it makes none.

        Returns:
            For each pod that would be evicted, its key and the answer.

        Raises:
            ApiError: A cordon, or its undoing, would be refused.
        """
        from orchestrator.actions.drain import evictable  # noqa: PLC0415

        answers: list[tuple[str, EvictionAnswer]] = []
        for step in (p.step for p in previews if not isinstance(p.decision, Done)):
            if step.action == "node.cordon":
                self.rehearsal.would_cordon(self.rehearsal.node(step.node))
            if step.action in ("node.uncordon", "node.restore_scheduling"):
                self.rehearsal.would_uncordon(self.rehearsal.node(step.node))
            if step.action == "node.drain":
                ask = self.rehearsal.would_delete if step.params["disable_eviction"] else self.rehearsal.would_evict
                for pod in evictable(self.rehearsal, step, self.clock.wall()):
                    answer = ask(pod, grace_s=step.params["grace_period_s"], timeout_s=self.settings.patience_s)
                    answers.append((pod.key, answer))
        return tuple(answers)

    def resume(self, name: str) -> Outcome:
        """Continue a run where it stopped.

        Raises:
            BadUsage: There is no such run, or it was of another cluster.
            Refused: It was released meanwhile.
            Locked: A process is working on it.
        """
        place = runs.directory(runs.resolve(name))
        known = read(place)
        if known.last == "released":
            raise Refused(f"run {known.run} was released", remedy="start a new run")
        if not known.ended:
            self.follow(known)
            with Journal.open(place, self.clock.wall) as journal:
                self._execute(journal, resumed=True)
            if undone := planners.released_run(known.plan):
                with Journal.open(runs.directory(undone), self.clock.wall) as journal:
                    journal.mark("released")
        return Outcome(DONE, known.plan, known.run, ())

    def release(self, name: str, *, shown: Callable[[tuple[Preview, ...]], None]) -> Outcome:
        """Put back what a run changed. A release that was begun and stopped goes on.

        Raises:
            BadUsage: There is no such run, or it was of another cluster.
            Locked: A process is working on it.
        """
        place = runs.directory(runs.resolve(name))
        known = read(place)
        self.follow(known)
        plan = planners.release(known.run, known.plan, known.past)
        if self.settings.dry_run is DryRun.NONE and (begun := runs.unfinished(plan)):
            return self.resume(begun)
        with Journal.open(place, self.clock.wall) as journal:
            outcome = self.perform(plan, shown=shown)
            if self.settings.dry_run is DryRun.NONE:
                journal.mark("released")
        return outcome

    def follow(self, known: Contents) -> None:
        """Go on where a run was: the same cluster, hosts reached the same way.

        Where its hosts are is remembered, if its plan tells, or does without the API, which else would.

        Raises:
            BadUsage: That run was of another cluster.
        """
        from orchestrator.cluster.model import Node  # noqa: PLC0415

        if known.meta.get("ssh"):
            self.settings = replace(self.settings, ssh=True)
        steps = tuple(known.plan.steps())
        away = any(s.params.get("without_api") for s in steps)
        self._connect(away=away)
        self._same_cluster(known)
        places = {s.node: (s.params["address"], s.params["provider"]) for s in steps if "provider" in s.params}
        if away:
            places = {**known.meta.get(runs.HOSTS, {}), **places}
        self.machines.know([Node.at(name, address, provider) for name, (address, provider) in places.items()])

    def _execute(self, journal: Journal, *, resumed: bool) -> None:
        recording = self.hands.recording(runs.directory(journal.run), journal, self.sink)
        with recording, stopping(self._say) as stop:
            try:
                with self._lease_as_well(journal.plan, journal.run):
                    execute(
                        journal.plan,
                        self.hands,
                        self.actions,
                        journal=journal,
                        leases=self._leases(journal.plan),
                        holder=self.owner,
                        clock=self.clock,
                        sink=self.sink,
                        stop=stop,
                        resumed=resumed,
                    )
            except OrchestratorError as err:
                if journal.past:
                    err.run = journal.run
                if way := way_back(journal.plan, journal.past, err):
                    err.remedy = f"{err.remedy}\n{way}"
                raise

    def _leases(self, plan: Plan) -> LeaseStore:
        """Where the run's lock is: a Lease of the cluster, or a control plane's disk where the API takes no writes."""
        steps = tuple(plan.steps())
        away = any(s.action.startswith(("restore.", "rebuild.")) or s.params.get("without_api") for s in steps)
        if plan.kind in WITHOUT_API or away:
            from orchestrator.hostlease import HostLeases  # noqa: PLC0415

            node = next((s.params["lock"] for s in steps if "lock" in s.params), min(plan.nodes()))
            return HostLeases(self.host(node), self.clock)
        from orchestrator.kube.lease import KubeLeases  # noqa: PLC0415

        return KubeLeases(self.session, self.clock)

    def _lease_as_well(self, plan: Plan, run: str) -> contextlib.AbstractContextManager[None]:
        """The Lease, too, for a run that has its lock on a disk beside an API that may serve others: they look at that.

        A restore has, while it stages; so has a backup, once the API is back.
        """
        actions = {s.action.partition(".")[0] for s in plan.steps()}
        backup = any("lock" in s.params for s in plan.steps())
        if not backup and ("restore" not in actions or "rebuild" in actions):
            return contextlib.nullcontext()
        from orchestrator.hostlease import Aside, as_well  # noqa: PLC0415
        from orchestrator.kube.lease import KubeLeases  # noqa: PLC0415

        store = KubeLeases(self.session, self.clock)
        sink, known = Aside(self.sink), runs.unattended
        lease = Lease(store, self.owner, run, self.clock, sink, turns_back=not backup, unattended=known)
        return as_well(store, lease, run, self.sink, binding=plan.kind != "release")

    def _ask(self, plan: Plan) -> None:
        named = any("cluster_name" in step.params for step in plan.steps())
        always = named or plan.kind in ALWAYS_ASKED or _takes_down(plan)
        if self.settings.yes or (len(plan.nodes()) < 2 and not always):
            return
        if self._confirm is None:
            raise Refused(
                f"{plan.title}: {'it' if len(plan.nodes()) < 2 else 'a plan of several nodes'} has to be confirmed, and"
                " there is no terminal to ask on",
                remedy="pass --yes; --dry-run shows what it would do",
            )
        if not self._confirm(plan):
            raise Refused(f"{plan.title}: not confirmed; nothing was changed", remedy="pass --yes to skip the question")

    def _connect(self, *, away: bool) -> None:
        """Of a run that does without the API, `away`, which cluster is meant is all that is needed."""
        try:
            _ = self.session
        except ApiError as err:
            if not away:
                raise
            self.without_api(err)
            if not self.session.server:
                raise

    def _same_cluster(self, known: Contents) -> None:
        self.session.answered = True  # when the run began
        there = known.meta.get("server")
        if there != self.session.server:
            from orchestrator.kube.kubeconfig import reaching  # noqa: PLC0415

            raise BadUsage(
                f"run {known.run} is of the cluster at {there}, this context is {self.session.server}",
                remedy=reaching(known.meta.get("kubeconfig") or (), known.meta.get("context") or ""),
            )


def _takes_down(plan: Plan) -> bool:
    """An upgrade whose drains ask no budgets: what runs on its nodes is down meanwhile."""
    return plan.kind == "upgrade" and any(step.params.get("disable_eviction") for step in plan.steps())


def _refuse_blocked(previews: tuple[Preview, ...]) -> None:
    """Raise for everything that forbids a step, all of it at once."""
    blocked = [p.decision for p in previews if isinstance(p.decision, Blocked)]
    if not blocked:
        return
    remedies = dict.fromkeys(b.remedy for b in blocked)
    raise Refused("\n".join(b.why for b in blocked), remedy="\n".join(remedies))
