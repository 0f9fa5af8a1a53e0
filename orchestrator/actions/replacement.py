"""A control plane's member of etcd taken out of the cluster, and a fresh one in its place, step by step.

Nothing is deleted: manifests are moved beside their directory, data beside the data. What runs is judged by processes,
what is a member by the list of those that are left: the old one may answer as a cluster of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.actions import restore
from orchestrator.actions.restore import PLACES, START, scripted
from orchestrator.cluster import queries
from orchestrator.cluster.etcd import RAFT_LAG
from orchestrator.cluster.etcdqueries import MEMBER
from orchestrator.cluster.frame import sections
from orchestrator.cluster.hostfacts import EtcdFacts, parse_etcd
from orchestrator.cluster.membership import initial_cluster, joins, lacking, of_node, rejoining
from orchestrator.cluster.situation import size
from orchestrator.engine.host import demand
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import FactUnreadable, HostError, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

#: For a file of a host, in seconds.
FILE_S = 30.0
#: Of etcd, when it will do it a little later: all others have to have been connected for five seconds.
_LATER = ("unhealthy cluster", "not enough started members", "in sync with leader", "too many requests")

# What was set aside once stays: whatever came in its place since goes beside that. The directory that is left is empty,
# with owner, mode and label of the old one.
_ASIDE = (
    PLACES
    + r"""
none etcd
target=$before n=0
while [ -e "$target" ] && { [ -z "$inside" ] || [ -e "$target/moved" ]; }; do n=$((n + 1)); target=$before.$n; done
if [ -n "$inside" ]; then
  mkdir -p "$target"; over "$data" "$target"; : > "$target/moved"
elif [ -e "$data" ]; then
  mv -- "$data" "$target"
fi
if [ ! -e "$data" ]; then
  mkdir -m 700 "$data.new-$plan" 2> /dev/null || [ -d "$data.new-$plan" ]
  if [ -e "$before" ]; then
    chown --reference="$before" "$data.new-$plan"; chmod --reference="$before" "$data.new-$plan"
    chcon --reference="$before" "$data.new-$plan" 2> /dev/null || true
  fi
  mv -- "$data.new-$plan" "$data"
fi
sync
"""
)

_BACK = (
    PLACES
    + r"""
none etcd
if [ -e "$before" ]; then
  if [ -z "$inside" ]; then
    [ ! -e "$data" ] || rmdir -- "$data"
    mv -- "$before" "$data"
  else
    rm -f -- "$before/moved"; over "$before" "$data"; rmdir -- "$before"
  fi
fi
sync
"""
)

_RETURN = (
    PLACES
    + r"""
for name in "$@"; do [ ! -f "$aside/$name.yaml" ] || mv -- "$aside/$name.yaml" "$pods/$name.yaml"; done
awake
rmdir -- "$aside" 2> /dev/null || true
"""
)

_FORGET = (
    PLACES
    + r"""rm -rf -- "$before" "$before".[0-9]*; rm -f -- "$aside/etcd.before"; rmdir -- "$aside" 2> /dev/null || true"""
)

_KEEP = PLACES + r"""[ -e "$aside/etcd.before" ] || cp -p -- "$aside/etcd.yaml" "$aside/etcd.before"; sync"""

_ETCDCTL = (
    "set -u"
    + MEMBER
    + r"""
patience=20s
[ -n "$pid" ] || { echo "no etcd runs on this host" >&2; exit 3; }
etcdctl "$@"
"""
)


class _OnHost:
    """What steps on the host have in common: one look at it."""

    def probe(self, view: Site, step: Step) -> Facts:
        """Static pods, processes, and which data are where."""
        p = step.params
        answer = view.ask(step.node, queries.MEMBER_HOST, p["plan"], p["data"])
        found = sections(answer)
        if "whole" not in found:
            raise FactUnreadable(f"{step.node}: its answer is not whole", remedy=f"look at {step.node}, then resume")
        manifest = found.get("etcd", [])
        return {
            **restore.standing(found),
            "there": "there" in found,
            "manifest": manifest[0].text if manifest else "",
            "place": list(manifest[0].words) if manifest else [],
            "lacks": sorted({each.words[0] for each in found.get("lacks", ())}),
        }


class _OnList:
    """What steps on the list of members have in common: those that are left are asked, one after another."""

    def probe(self, view: Site, step: Step) -> Facts:
        """Who is listed, and how those that are left are."""
        speaker, found = ask(view, step.params["others"])
        p, answered = step.params, {s.id: s for s in found.statuses}
        mine = of_node(found.members, p["member"], p["peers"])
        new = next((m for m in mine if f"{m.id:x}" not in p["old"]), None)
        status = answered.get(new.id) if new else None
        front = max((s.raft_index for s in found.statuses), default=0)
        return {
            "speaker": speaker,
            "old": [f"{m.id:x}" for m in found.members if f"{m.id:x}" in p["old"]],
            "new": f"{new.id:x}" if new else "",
            "votes": bool(new and not new.learner),
            "behind": front - status.raft_applied if status else None,
            "lacking": list(lacking(found.members, found.statuses, found.health, [f"{m.id:x}" for m in mine])),
            "cluster": initial_cluster(found.members, p["member"], p["peers"]),
        }


def ask(view: Site, others: Sequence[str]) -> tuple[str, EtcdFacts]:
    """The first of these nodes whose member knows of all members, and what it told; "" where none does.

    Raises:
        HostError: None of them answers, and one could not be asked.
    """
    failed: HostError | FactUnreadable | None = None
    for name in others:
        try:
            found = parse_etcd(view.ask(name, queries.ETCD))
        except (HostError, FactUnreadable) as err:  # it may just restart; the next one knows as well
            failed = err
            continue
        if found.members:
            return name, found
    if failed is not None:
        raise failed
    return "", EtcdFacts()


class Stop(_OnHost, restore.Stop):
    """`member.stop`: as `restore.stop`.

    Params: `plan`, `data`; `names`.
    """


class Aside(_OnHost):
    """`member.aside`: the data of the old member are beside, and an empty directory is in their place.

    Params: `plan`, `data`; `stopped`, the id of the step that stops etcd here.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when the directory is there, without a member. Never while etcd runs here."""
        if now["there"] and not now["member"] and (now["before"] or past):
            return Done("the old data are beside" if now["before"] else "there are no old data")
        if "etcd" in now["processes"]:
            return Blocked(
                f"{step.node}: etcd runs", "resume, which stops it first", until=step.params["stopped"],
                then=f"set {step.params['data']} aside",
            )  # fmt: skip
        return Needed(f"set {step.params['data']} aside")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Rename."""
        del now
        run.guard()
        scripted(hands, step, _ASIDE, (), back=False)


class Remove(_OnList):
    """`member.remove`: members that are listed as the node's, and were when the plan was made, are none any more.

    Params: `others`, `old`, `member`, `peers`; `stopped`, the id of the step that stops etcd there.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Who is listed, and whether etcd runs there."""
        there = _OnHost().probe(view, step)
        return {**_OnList.probe(self, view, step), "runs": "etcd" in there["processes"] or "etcd" in there["manifests"]}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Blocked while another one is not well, or the old one may run: it would go on as a cluster of its own."""
        del past
        if silent := _silent(now):
            return silent
        if not now["old"]:
            return Done("it is no member any more" if step.params["old"] else "it was no member any more")
        if now["lacking"]:
            return Blocked("; ".join(now["lacking"]), "orchestrator etcd status")
        then = f"take member {', '.join(now['old'])} out"
        if now["runs"]:
            return Blocked(f"{step.node}: etcd runs", "resume", until=step.params["stopped"], then=then)
        return Needed(then, again=True)

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Have a member that is left take it out, after a last look: answers may be a second or two old.

        Raises:
            Refused: Another one is not well any more.
            CommandFailed: It did not.
        """
        for name in (step.node, *step.params["others"]):
            hands.host(name)
        now = self.probe(hands, step)
        decision = self.decide(now, step, {})
        if isinstance(decision, Blocked):
            raise Refused(decision.why, remedy=decision.remedy)
        for each in now["old"]:
            _change(hands, step, now, run, ("member", "remove", each))


class Add(_OnList):
    """`member.add`: a new member with the node's peer URL is listed, as a learner.

    Params: `others`, `old`, `member`, `peers`; `removed`, the id of the step that takes the old one out.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is. Blocked while the old one has its address."""
        del past
        if silent := _silent(now):
            return silent
        if now["new"]:
            return Done(f"member {now['new']} is listed")
        then = f"add a learner for {step.node}"
        if now["old"]:
            why = f"member {', '.join(now['old'])} is listed yet"
            return Blocked(why, "resume", until=step.params["removed"], then=then)
        return Needed(then, again=True)

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Have a member that is there add it, once all of them have been connected for long enough.

        Raises:
            CommandFailed: It did not.
        """
        urls = ",".join(step.params["peers"])
        _change(hands, step, now, run, ("member", "add", step.params["member"], "--learner", f"--peer-urls={urls}"))


class Manifest(_OnHost):
    """`member.manifest`: etcd.yaml has the member join the others, and is as it was otherwise; a copy is beside.

    Params: `plan`, `data`, `others`, `old`, `member`, `peers`; `stopped`, `added`, ids of those steps.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """The manifest, and whom it has to name."""
        return {**_OnHost.probe(self, view, step), **_OnList.probe(_OnList(), view, step)}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it names all that are listed."""
        if silent := _silent(now):
            return silent
        if not now["manifest"]:
            return Blocked(f"{step.node} has no etcd.yaml", f"ls /etc/kubernetes/orchestrator-* on {step.node}")
        then = "--initial-cluster with all members, --initial-cluster-state=existing"
        if not now["new"]:
            why = f"no member of {step.node} is listed"
            return Blocked(why, "resume, which adds it first", until=step.params["added"], then=then)
        if past and joins(now["manifest"], now["cluster"]):
            return Done("etcd.yaml names all members")
        if "etcd" in now["manifests"]:
            why = f"{step.node}: etcd.yaml is in the kubelet's directory"
            return Blocked(why, "resume, which stops it first", until=step.params["stopped"], then=then)
        return Needed(then)

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Keep a copy, and write it, whole or not at all, where the kubelet does not look."""
        path, mode, owner = now["place"]
        host = hands.host(step.node)
        text = rejoining(host.read(path, timeout_s=FILE_S).decode(), now["cluster"])
        run.guard()
        scripted(hands, step, _KEEP, (), back=False)
        host.write(path, text.encode(), mode=int(mode, 8), owner=owner, timeout_s=FILE_S)
        hands.host(step.node)


class Start(_OnHost, restore.Start):
    """`member.start`: as `restore.start`.

    Params: `plan`, `data`; `names`; `aside`, the id of the step that leaves the data directory empty, or "".
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Blocked where a new member would find data."""
        decision = restore.Start.decide(self, now, step, past)
        if past and step.params["aside"] and now["member"] and "etcd" not in now["manifests"]:
            why = f"{step.node}: {step.params['data']} has data again: somebody started etcd there"
            return Blocked(why, "resume, which sets them aside, too", until=step.params["aside"])
        return decision

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Move the manifests back and wait for the processes."""
        run.guard()
        known = [n for n in step.params["names"] if n in now["manifests"] or n in now["aside"]]
        scripted(hands, step, START, known, back=False)


class Promote(_OnList):
    """`member.promote`: the new member votes.

    Params: `others`, `old`, `member`, `peers`.

    Source: etcd's documentation, "Learner": it is given its vote once it has nine tenths of the leader's log, which
    after a long life may be far behind; so it is waited for as members that follow are judged.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it does."""
        if silent := _silent(now):
            return silent
        if now["votes"]:
            return Done(f"member {now['new']} votes")
        if not past:
            return Needed("waits until the new member is in sync, and gives it its vote")
        if not now["new"]:
            return Blocked(f"no member of {step.node} is listed", "somebody took it out: release, and start again")
        why = "give it its vote"
        if now["behind"] is None:
            why = f"the new member does not answer: crictl logs of etcd on {step.node}"
        elif now["behind"] > RAFT_LAG:
            why = f"the new member is {now['behind']} entries behind"
        return Needed(why, again=True)

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Give it its vote, where it is in sync.

        Raises:
            CommandFailed: It was not given.
        """
        if now["new"] and now["behind"] is not None and now["behind"] <= RAFT_LAG:
            _change(hands, step, now, run, ("member", "promote", now["new"]))
        hands.host(step.node)
        hands.host(now["speaker"])


class Listed(_OnList):
    """`member.listed`: the members are those that they were when the plan was made: the old one can be started again.

    Params: `others`, `old`, `member`, `peers`, `of_run`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Blocked once they were changed: there is only a way on."""
        del past
        if silent := _silent(now):
            return silent
        gone = [each for each in step.params["old"] if each not in now["old"]]
        if gone or now["new"]:
            what = f"member {', '.join(gone)} was taken out" if gone else f"member {now['new']} was added"
            return Blocked(
                f"{what}: the old data of {step.node} belong to no member any more, they cannot be used again",
                f"orchestrator resume {step.params['of_run']}: there is only a way on",
            )
        return Done("members are as they were found")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Nothing: it is Done or Blocked."""


class Back(_OnHost):
    """`member.back`: the old data are in place again.

    Params: `plan`, `data`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when none are beside."""
        del past
        if not now["before"]:
            return Done("the old data are in place")
        if "etcd" in now["processes"]:
            return Blocked(f"{step.node}: etcd runs", "stop it, then resume")
        return Needed("put the old data back")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Rename back."""
        del now
        run.guard()
        scripted(hands, step, _BACK, (), back=False)


class Return(_OnHost):
    """`member.return`: static pods are back in the kubelet's directory. Whether they run is as it was.

    Params: `plan`, `data`; `names`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when none of them is aside."""
        del past
        waiting = [name for name in step.params["names"] if name in now["aside"]]
        if not waiting and now["halted"]:
            return Needed("start the kubelet")
        return Needed(f"start {', '.join(waiting)}") if waiting else Done("static pods are in their directory")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Move them."""
        del now
        run.guard()
        scripted(hands, step, _RETURN, step.params["names"], back=False)


class Forget(_OnHost):
    """`member.forget`: the old data are deleted: somebody said that the new member is good.

    Params: `plan`, `data`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when they are gone. Not while no etcd runs here."""
        del past
        if not now["before"]:
            return Done("there are no old data")
        if "etcd" not in now["processes"]:
            return Blocked(f"{step.node}: etcd does not run", "orchestrator etcd status")
        return Needed(f"delete the old data ({size(now['before_bytes'])})")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Delete them."""
        del now
        run.guard()
        scripted(hands, step, _FORGET, (), back=False)


def _silent(now: Facts) -> Blocked | None:
    if now["speaker"]:
        return None
    return Blocked("no other member tells who is one: quorum is lost", "orchestrator etcd status; etcd restore")


def _change(hands: SiteHands, step: Step, now: Mapping[str, Any], run: Applying, words: Sequence[str]) -> None:
    """Ask a member for a change of members; what it will do only later is asked again."""
    run.guard()
    host = hands.host(now["speaker"])
    done = host.run(["sh", "-c", _ETCDCTL, "sh", *words], timeout_s=60.0)
    if done.rc and any(each in done.stderr.decode(errors="replace") for each in _LATER):
        run.emit("etcd.waiting", why=done.stderr.decode(errors="replace").strip()[-256:])
    else:
        demand(host, done, remedy=f"orchestrator etcd status; see etcd's log on {host.name}; then resume")
    for name in (step.node, *step.params["others"]):
        hands.host(name)
