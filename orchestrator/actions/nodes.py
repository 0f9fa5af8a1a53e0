"""Cordon and uncordon, and putting a node back as a run found it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.cluster.model import CordonRecord
from orchestrator.engine.plan import Blocked, Done, Needed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.cluster.model import Node
    from orchestrator.cluster.ports import Hands, View
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying


def scheduling(node: Node) -> dict[str, Any]:
    """Whether the node takes pods, and whose the cordon is, as JSON values."""
    record = node.cordon
    return {
        "unschedulable": node.unschedulable,
        "owner": record.owner if record else None,
        "reason": record.reason if record else None,
        "run": record.run if record else None,
    }


def whose(facts: Facts) -> str:
    """Who made the cordon and why, for people."""
    if facts["owner"] is None:
        return "cordoned by another tool, no owner recorded"
    return f"cordoned by {facts['owner']}" + (f" ({facts['reason']})" if facts["reason"] else "")


class Cordon:
    """`node.cordon`: no new pods are to be scheduled on the node.

    Params: `owner` and `reason`, recorded on the node when this run makes the cordon. One that is there already is
    left as it is, with its owner.
    """

    def probe(self, view: View, step: Step) -> Facts:
        """The node's scheduling."""
        return scheduling(view.node(step.node))

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is unschedulable, whoever made it so."""
        del step, past
        return Done(f"already {whose(now)}") if now["unschedulable"] else Needed("takes new pods")

    def apply(self, hands: Hands, step: Step, now: Facts, run: Applying) -> None:
        """Patch the node, with the record of its owner."""
        del now
        record = CordonRecord(step.params["owner"], step.params["reason"], run.run, run.clock.wall())
        hands.cordon(hands.node(step.node), record)


class Uncordon:
    """`node.uncordon`: the node takes new pods again, unless somebody else had a reason against it.

    Params: `owner`, who asks; `force_owner`, to undo another owner's cordon too.
    """

    def probe(self, view: View, step: Step) -> Facts:
        """The node's scheduling."""
        return scheduling(view.node(step.node))

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Blocked while the cordon is another owner's. One without a recorded owner may be undone, as kubectl does."""
        del past
        if not now["unschedulable"]:
            return Done("takes new pods already")
        if now["owner"] not in (None, step.params["owner"]) and not step.params["force_owner"]:
            return Blocked(
                f"{step.node} is {whose(now)}",
                f"ask them, or `orchestrator uncordon {step.node} --force-owner`",
            )
        return Needed(whose(now))

    def apply(self, hands: Hands, step: Step, now: Facts, run: Applying) -> None:
        """Patch the node and remove the record."""
        del now, run
        hands.uncordon(hands.node(step.node))


class RestoreScheduling:
    """`node.restore_scheduling`: the node as the step `undoes` of the run `of_run` found it.

    Params: `found_unschedulable`, from that run's journal; `of_run`. A cordon that is not that run's own, or that
    somebody took over since, is left alone.
    """

    def probe(self, view: View, step: Step) -> Facts:
        """The node's scheduling."""
        return scheduling(view.node(step.node))

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Needed only for a cordon that the run itself made and that still carries its name."""
        del past
        params: Mapping[str, Any] = step.params
        if not now["unschedulable"]:
            return Done("takes new pods already")
        if params["found_unschedulable"]:
            return Done("was cordoned before that run")
        if now["run"] != params["of_run"]:
            return Done(f"left alone: {whose(now)}, not by that run")
        return Needed("cordoned by that run")

    def apply(self, hands: Hands, step: Step, now: Facts, run: Applying) -> None:
        """Patch the node and remove the record."""
        del now, run
        hands.uncordon(hands.node(step.node))


class Return:
    """`node.return`: the node takes new pods again, if it did when this run cordoned it.

    Params: `cordon`, the id of that step; `owner`, whose cordon it is.
    """

    def probe(self, view: View, step: Step) -> Facts:
        """The node's scheduling."""
        return scheduling(view.node(step.node))

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Whoever had cordoned it before, or took the cordon over since, keeps it."""
        found = past.get(step.params["cordon"])
        if found is None and not now["unschedulable"]:
            return Blocked("not cordoned yet", "resume", until=step.params["cordon"], then="back into service")
        if not now["unschedulable"]:
            return Done("takes new pods")
        if found is None or found["unschedulable"]:
            return Done("was cordoned before, and stays so")
        if now["owner"] not in (None, step.params["owner"]):
            return Done(f"left alone: {whose(now)} since")
        return Needed("back into service")

    def apply(self, hands: Hands, step: Step, now: Facts, run: Applying) -> None:
        """Patch the node and remove the record."""
        del now, run
        hands.uncordon(hands.node(step.node))
