"""Steps of the run itself: a pause that was asked for, commands of the operator's, and leaving hosts clean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.actions.packages import looked
from orchestrator.engine.host import STATE, demand
from orchestrator.engine.plan import Done, Needed
from orchestrator.errors import Paused

if TYPE_CHECKING:
    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying


#: The directory of a plan, and the one that it is in when nothing else is there.
CLEAR = 'rm -rf -- "$1" || exit; rmdir -- "${1%/*}" 2> /dev/null || true'


class Pause:
    """`run.pause`: the run stops here, once; resuming it goes on.

    Params: `why`.
    """

    def __init__(self) -> None:
        self._here: set[str] = set()

    def probe(self, view: Site, step: Step) -> Facts:
        """Nothing."""
        del view, step
        return {}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when an earlier process came to it already."""
        del now
        if step.id in past and step.id not in self._here:
            return Done("resumed")
        return Needed(f"stops here: {step.params['why']}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Stop.

        Raises:
            Paused: Always.
        """
        del hands, now
        self._here.add(step.id)
        raise Paused(f"run {run.run} pauses as asked: {step.params['why']}", remedy=f"orchestrator resume {run.run}")


class Hook:
    """`hook.run`: a command of the operator's ended well. After a crash in its middle it runs again.

    Params: `argv`; `run_timeout_s`; `on_node`: it runs on the node, as root, instead of on the operator's machine. It
    is told the node in `ORCHESTRATOR_NODE` and the run in `ORCHESTRATOR_RUN`.
    """

    def __init__(self) -> None:
        self._ran: set[str] = set()

    def probe(self, view: Site, step: Step) -> Facts:
        """Nothing: only the command itself knows."""
        del view, step
        return {}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it ran in this process."""
        del now, past
        return Done("ran") if step.id in self._ran else Needed(" ".join(step.params["argv"])[:120])

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Run it.

        Raises:
            CommandFailed: It did not end well.
            CommandTimedOut: It did not end in time.
        """
        del now
        run.guard()
        names = [f"ORCHESTRATOR_NODE={step.node}", f"ORCHESTRATOR_RUN={run.run}"]
        there = step.params["on_node"]
        host = hands.host(step.node) if there else hands.here()
        done = host.run(["env", *names, *step.params["argv"]], timeout_s=step.params["run_timeout_s"], sudo=there)
        demand(host, done, remedy=f"mend the hook, then `orchestrator resume {run.run}`")
        self._ran.add(step.id)


class Tidy:
    """`host.tidy`: what this plan's commands left on the node's host is gone.

    Params: `plan`.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Whether anything is left."""
        return {"left": step.params["plan"] in looked(view, step.node).left}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when not. What is left is there after the first step that ran on the host."""
        del step
        return Needed("results of its commands to remove") if now["left"] or not past else Done("nothing is left there")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Remove the plan's directory, and that of all plans after the last one."""
        del now
        run.guard()
        host = hands.host(step.node)
        argv = ["sh", "-c", CLEAR, "sh", f"{STATE}/{step.params['plan']}"]
        demand(host, host.run(argv, timeout_s=30.0, repeatable=True))
        hands.host(step.node)  # what it said before counts no more
