"""A member of etcd given back its unused space, old revisions dropped, an alarm cleared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.actions.members import members
from orchestrator.cluster import queries
from orchestrator.cluster.etcd import serves, troubles
from orchestrator.cluster.etcdhosts import parse_hash, parse_host
from orchestrator.cluster.etcdqueries import MEMBER
from orchestrator.cluster.situation import size
from orchestrator.engine.host import STATE, demand
from orchestrator.engine.plan import Blocked, Done, Needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

#: A database of which more than this share of its quota is in use raises the alarm again at once.
FULL = 0.95
#: What `orchestrator etcd status` reads again.
_STAMP = f"{STATE}/etcd-defragmented"

_RUN = (
    "set -u; umask 077"
    + MEMBER
    + r"""
patience=$1; shift
[ -n "$pid" ] || { echo "no etcd runs on this host" >&2; exit 3; }
etcdctl "$@"
"""
)
_DEFRAGMENT = _RUN + f"rc=$?; [ $rc != 0 ] || {{ mkdir -p -m 700 {STATE} && touch {_STAMP}; }}\nexit $rc\n"


class Defragment:
    """`etcd.defragment`: the database of the member on the node has little unused space.

    Params: `share`, of the file that may be unused; `bytes`, of it that are too few to matter; `always`, once in this
    run whatever is unused: a member that takes no writes does not count what a compaction has freed (seen on 3.6);
    `members`, nodes of all of them: the others have to be well.

    Source: etcd's documentation, "Maintenance": a member that is defragmented answers nothing until it is done.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Sizes, and what is not well with the others."""
        host = parse_host(step.node, view.ask(step.node, queries.ETCD_HOST))
        status, facts = host.status, members(view, step.params["members"])
        found = troubles(facts.members, facts.statuses, facts.health) if len(facts.members) > 1 else ()
        return {
            "size": status.db_size_bytes if status else None,
            "in_use": status.in_use_bytes if status else None,
            "at": host.defragmented_at,
            # Want of space is what this is for: a member that complains of nothing else serves.
            "troubles": [trouble for trouble in found if not serves(trouble)],
        }

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Blocked while another member is not well: this one is away meanwhile."""
        if now["size"] is None:
            return Blocked(f"the member on {step.node} does not answer", f"orchestrator etcd status; see {step.node}")
        unused = now["size"] - now["in_use"]
        done = step.id in past and past[step.id]["at"] != now["at"]
        if step.params["always"] and done:
            return Done(f"{size(now['size'])} now")
        if not step.params["always"] and unused <= max(step.params["share"] * now["size"], step.params["bytes"]):
            return Done(f"{size(unused)} of {size(now['size'])} unused")
        if now["troubles"]:
            return Blocked(f"not while etcd is not well: {'; '.join(now['troubles'])}", "orchestrator etcd status")
        return Needed(f"{size(unused)} of {size(now['size'])} unused")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Have the member rewrite its database.

        Raises:
            CommandFailed: It did not.
        """
        run.guard()
        _etcdctl(hands, step, _DEFRAGMENT, ("defrag",))
        after = parse_host(step.node, hands.ask(step.node, queries.ETCD_HOST)).status
        run.emit("etcd.defragmented", before_bytes=now["size"], after_bytes=after.db_size_bytes if after else None)


class Compact:
    """`etcd.compact`: revisions before one are gone, on all members.

    Params: `revision`. Whoever watches from an older one lists again.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """What is compacted."""
        found = parse_hash(view.ask(step.node, queries.ETCD_HASH, "0"))
        return {"compacted": found.compact_revision if found else None}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it reaches that far."""
        del past
        if now["compacted"] is None:
            return Blocked(f"the member on {step.node} does not answer", f"orchestrator etcd status; see {step.node}")
        if now["compacted"] >= step.params["revision"]:
            return Done(f"compacted at {now['compacted']}")
        return Needed(f"revisions before {step.params['revision']} (compacted at {now['compacted']} now)")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Drop them, and wait until they are gone from the database.

        Raises:
            CommandFailed: It did not work.
        """
        del now
        run.guard()
        _etcdctl(hands, step, _RUN, ("compact", "--physical=true", str(step.params["revision"])))


class Disarm:
    """`etcd.disarm`: no alarm of want of space is raised.

    Params: `members`, nodes of all of them; `after`, the id of the step that makes room.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Alarms, and how full the fullest member is."""
        facts = members(view, step.params["members"])
        return {"alarms": list(facts.alarms), "share": max((s.full for s in facts.statuses), default=0.0)}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Blocked while it would be raised again at once."""
        del past
        if not now["alarms"]:
            return Done("no alarm")
        if now["share"] > FULL:
            return Blocked(
                f"{now['share']:.0%} of the quota are in use: the alarm would be raised again at once",
                "delete what is not needed (`orchestrator etcd verify --deep` shows what takes space), or raise"
                " --quota-backend-bytes in etcd.yaml",
                until=step.params["after"],
            )
        return Needed(", ".join(now["alarms"]))

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Clear it.

        Raises:
            CommandFailed: It did not work.
        """
        del now
        run.guard()
        _etcdctl(hands, step, _RUN, ("alarm", "disarm"))


def _etcdctl(hands: SiteHands, step: Step, script: str, words: Sequence[str]) -> None:
    host, timeout_s = hands.host(step.node), step.timeout_s or 0.0
    argv = ["sh", "-c", script, "sh", f"{timeout_s:.0f}s", *words]
    done = host.run(argv, timeout_s=timeout_s, repeatable=True)
    demand(host, done, remedy=f"see etcd's log on {step.node}: crictl logs of its etcd; then resume")
    for node in {step.node, *step.params.get("members", ())}:
        hands.host(node)  # any of them told of all members: what they answered before counts no more
