"""etcd taken back to a snapshot on every control plane, barrier by barrier, and back from that again.

Nothing is deleted: manifests are moved beside their directory, data beside the data. What runs is judged by processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.actions.etcdcare import FULL
from orchestrator.actions.kubelets import KUBELET
from orchestrator.actions.members import members
from orchestrator.cluster import queries
from orchestrator.cluster.etcd import serves, troubles
from orchestrator.cluster.etcdhosts import parse_hash
from orchestrator.cluster.etcdqueries import MEMBER, UNPACKED
from orchestrator.cluster.frame import sections
from orchestrator.cluster.situation import size
from orchestrator.engine.host import STATE, demand
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import FactUnreadable, HostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.cluster.frame import Section
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

SEND_S = 1800.0

# A data directory that is a mount point cannot be renamed: its contents are moved then, within it. With a `target` the
# old data stay where they are, and the manifest is pointed to the restored ones: the three lines that kubeadm makes of
# its `dataDir`, and no other byte. Source: kubeadm 1.36 and 1.37, `phases/etcd/local.go`, `GetEtcdPodSpec`.
PLACES = (
    r"""set -eu; umask 077
plan=$1 data=$2 target=$3; shift 3
pods=/etc/kubernetes/manifests aside=/etc/kubernetes/orchestrator-$plan kept=/etc/kubernetes/etcd.yaml.before-$plan
inside=; if mountpoint -q "$data"; then inside=yes; fi
if [ -n "$target" ]; then at=$target.; elif [ -n "$inside" ]; then at=$data/.; else at=$data.; fi
stage=${at}restore-$plan before=${at}before-$plan after=${at}restored-$plan
stamp=/etc/kubernetes/etcd.yaml.swapped-$plan gone=/etc/kubernetes/etcd.yaml.deleted-$plan
if [ -n "$inside" ]; then own=$data/.; else own=$data.; fi
back=${own}back-$plan raw=${own}raw-$plan
pointed() {
  awk -v old="$data" -v new="$target" '
    { text = $0; sub(/^ *(- )?/, "", text); lead = substr($0, 1, length($0) - length(text)); key = "" }
    text == "--data-dir=" old { key = "--data-dir=" }
    text == "mountPath: " old || text == "path: " old { key = substr(text, 1, length(text) - length(old)) }
    key != "" { print lead key new; found++; next }
    { print }
    END { exit found != 3 }' "$1"
}
none() { for each in "$@"; do ! pidof "$each" > /dev/null || { echo "$each runs" >&2; exit 6; }; done; }
entries() {
  find "$1" -mindepth 1 -maxdepth 1 ! -name '.restore*-*' ! -name '.before-*' ! -name '.back-*' ! -name '.raw-*' \
    ! -name moved ! -name ready
}
over() { entries "$1" | while read -r each; do mv -- "$each" "$2/"; done; }
"""
    + KUBELET
)

# Whether a snapshot can be restored below a directory: twice its size, and a new log, which is two files of 64 MB.
ROOM = r"""
roomy() {
  needed=$(($(stat -c %s "$1") * 2 + 134217728)) free=$(df -P -B1 "$2" | tail -n 1 | awk '{ print $4 }')
  [ "$free" -ge "$needed" ]
}
"""

# Restored beside the live data while etcd serves, so that only the swap costs time. The program is etcd's own, kept for
# later: while no etcd runs there is none to take it from. A new token gives new ids: a member that was forgotten cannot
# talk to these. Source: etcd's documentation, "Disaster recovery": a raised revision, marked compacted, makes watchers
# list again instead of waiting for revisions that they have seen already.
_RESTORED = (
    MEMBER
    + UNPACKED
    + ROOM
    + r"""
trap packed EXIT; trap 'exit 143' HUP INT TERM
unpacked
snapshot=$1 name=$2 peer=$3 cluster=$4 token=$5 bump=$6 trailer=$7
skip=; [ "$trailer" = yes ] || skip=--skip-hash-check
program=$(dirname -- "$snapshot")/etcdutl
[ -x "$program" ] || cp -- "$(tool etcdutl)" "$program"
[ -d "$data" ] || { echo "there is no $data" >&2; exit 7; }
place=$data
if [ -n "$target" ]; then
  pointed "$pods/etcd.yaml" > /dev/null || { echo "etcd.yaml does not name $data where kubeadm does" >&2; exit 8; }
  [ ! -e "$target" ] || { echo "there is something at $target already" >&2; exit 9; }
  place=$(dirname -- "$target"); mkdir -p -- "$place"
fi
roomy "$snapshot" "$place" || { echo "$place has $free bytes free; a restored copy needs $needed" >&2; exit 5; }
rm -rf -- "$stage"
nice -n 19 "$program" snapshot restore "$snapshot" --data-dir "$stage" --name "$name" --initial-cluster "$cluster" \
  --initial-advertise-peer-urls "$peer" --initial-cluster-token "$token" --bump-revision "$bump" --mark-compacted \
  $skip >&2
chown -R --reference="$data" "$stage"; chmod --reference="$data" "$stage"
chcon -R --reference="$data" "$stage" 2> /dev/null || true
sync; : > "$stage/ready"
"""
)
_STAGE = PLACES + _RESTORED
#: The same beside data that come back.
RAISE = PLACES + "stage=$back target=\n" + _RESTORED

# An API server takes half a minute to leave by itself, for watches that nobody ends; its etcd is about to be replaced.
# An etcd that leads waits seven seconds for another member to take over, and here they all end at once; its log is on
# the disk before it answers, so that it may be killed. Seen: 7.1 s of 18 that the API was away.
# Source: etcd 3.6, `TryTransferLeadershipOnShutdown`: five seconds and two election timeouts.
# The kubelet is started again when that one has ended, too, which comes right after.
STOP = (
    PLACES
    + r"""
who=$1; shift
mkdir -p -m 700 "$aside"
[ "$who" = kubelet ] || halt
for name in "$@"; do [ ! -f "$pods/$name.yaml" ] || mv -- "$pods/$name.yaml" "$aside/$name.yaml"; done
[ "$who" = kubelet ] || for name in "$@"; do end_by_hand TERM "$name"; done
n=0
for name in "$@"; do
  while pidof "$name" > /dev/null; do
    n=$((n + 1)); [ "$n" -lt 240 ] || { echo "$name does not end" >&2; exit 6; }
    [ "$name" = etcd ] || [ "$n" -lt 8 ] || end_by_hand KILL "$name"
    [ "$name" != etcd ] || [ "$n" -lt 6 ] || end_by_hand KILL "$name"
    sleep 0.5
  done
done
case " $* " in *" etcd "*) ;; *) trap - EXIT ;; esac
"""
)

# A kubelet that has started the same static pod several times in ten minutes waits up to five minutes before it does so
# again. One that says so is restarted, which forgets that; containers go on. Source: kubelet 1.37, `doBackOff`, by the
# pod's UID, which is the hash of its manifest; seen after a dozen restores in a row.
START = (
    PLACES
    + r"""
for name in "$@"; do [ -f "$pods/$name.yaml" ] || mv -- "$aside/$name.yaml" "$pods/$name.yaml"; done
awake
backs_off() {
  journalctl --quiet --unit=kubelet --since=-30s --output=cat 2> /dev/null |
    grep -q "back-off .* restarting failed container=$1 "
}
n=0 again=
for name in "$@"; do
  until pidof "$name" > /dev/null; do
    n=$((n + 1)); [ "$n" -lt 360 ] || { echo "$name does not start: see the kubelet's log" >&2; exit 6; }
    if [ -z "$again" ] && [ "$((n % 20))" = 0 ] && backs_off "$name"; then again=no; systemctl restart kubelet; fi
    sleep 0.5
  done
done
rmdir -- "$aside" 2> /dev/null || true
"""
)

# What is younger than the stamp was written by an etcd that ran on the restored data.
_SWAP = (
    PLACES
    + r"""
none etcd kube-apiserver
[ -e "$stamp" ] || : > "$stamp"
[ -z "$target" ] || before=$kept
[ -e "$stage/ready" ] || [ -e "$before" ] || { echo "nothing was restored at $stage" >&2; exit 7; }
if [ -n "$target" ]; then
  if [ ! -e "$kept" ]; then
    [ ! -e "$target" ] || { echo "there is something at $target already" >&2; exit 9; }
    cp -p -- "$aside/etcd.yaml" "$kept.new"; sync; mv -- "$kept.new" "$kept"
  fi
  [ -e "$target" ] || { rm -f -- "$stage/ready"; mv -- "$stage" "$target"; }
  pointed "$kept" > "$kept.new" || { echo "etcd.yaml does not name $data where kubeadm does" >&2; exit 8; }
  chmod --reference="$kept" "$kept.new"; sync; mv -- "$kept.new" "$aside/etcd.yaml"
elif [ -z "$inside" ]; then
  [ -e "$before" ] || mv -- "$data" "$before"
  [ -e "$data" ] || { rm -f -- "$stage/ready"; mv -- "$stage" "$data"; }
else
  mkdir -p "$before"
  [ -e "$before/moved" ] || { over "$data" "$before"; : > "$before/moved"; }
  if [ -e "$stage" ]; then over "$stage" "$data"; rm -rf -- "$stage"; fi
fi
sync
"""
)

# Half of the old data are no way back: whoever looks is told, until all of them are gone.
_FORGET = (
    PLACES
    + r"""
: > "$gone"; sync
if [ -n "$target" ] && [ -e "$kept" ]; then
  if [ -n "$inside" ]; then find "$data" -mindepth 1 -delete; else rm -rf -- "$data"; fi
  rm -f -- "$kept"
fi
rm -rf -- "$before" "$after" "$stage" "$back" "$raw" "$kept.new" "$stamp"; rmdir -- "$aside" 2> /dev/null || true
sync; rm -f -- "$gone"
"""
)


class OnHost:
    """What the steps of a restore have in common: one look at the host.

    Params of each: `plan`; `data`, the data directory; `target`, the path of their own that the restored data get, or
    "" where they take the place of the old ones.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Manifests in place and aside, processes, and which data are where."""
        target = step.params.get("target", "")
        words = (step.params["plan"], step.params["data"], *([target] if target else []))
        found = sections(view.ask(step.node, queries.RESTORE, *words))
        if "end" not in found:
            raise FactUnreadable(f"{step.node}: its answer is not whole", remedy=f"look at {step.node}, then resume")
        return standing(found)


def standing(found: Mapping[str, Sequence[Section]]) -> Facts:
    """What the sections of `queries.RESTORE` tell."""
    names = {key: _names(found[key][0].text) if key in found else [] for key in ("manifests", "aside")}
    before = found["before"][0].text.strip() if "before" in found else ""
    return {
        **names,
        "halted": "halted" in found,
        "processes": sorted({each.words[0] for each in found.get("process", ())}),
        "beside": "beside" in found,
        "staged": "staged" in found,
        "raised": "raised" in found,
        "before": "before" in found,
        "before_bytes": int(before) if before.isdigit() else 0,
        "old": found["before"][0].words[0] if "before" in found else "",
        "member": "member" in found,
        "occupied": "occupied" in found,
        "released": "released" in found,
        "forgotten": "forgotten" in found,
        # Where etcd.yaml has the restored data; one that is in both places has to in both.
        "pointed": "pointed" in found and "elsewhere" not in found,
    }


def _names(text: str) -> list[str]:
    return sorted(line.removeprefix("./").removesuffix(".yaml") for line in text.split())


class Stage(OnHost):
    """`restore.stage`: the snapshot is restored beside the live data, which stay as they are.

    Params: `file`, the snapshot here; `name`, `peer`, of this member; `cluster`, all of them as
    NAME=URL,…; `token`; `bump`, what is added to the revision; `trailer`, whether the snapshot has its sum.
    """

    script = _STAGE

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is, or has taken its place already."""
        del past
        if now["staged"] or (now["before"] and now["member"]):
            return Done("restored beside the live data")
        return Needed(f"restore the snapshot beside {step.params['data']}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Send the snapshot there and restore it.

        Raises:
            HostError: It did not work; nothing is stopped yet.
        """
        del now
        run.guard()
        path = hands.kept(step.params["file"])
        if path is None:
            raise FactUnreadable(f"{step.params['file']} is not here any more", remedy="start a new restore")
        host, directory = hands.host(step.node), f"{STATE}/{step.params['plan']}"
        demand(host, host.run(["mkdir", "-p", "-m", "700", "--", directory], timeout_s=30.0, repeatable=True))
        there = f"{directory}/snapshot.db"
        host.send(path, there, mode=0o600, owner="root:root", timeout_s=SEND_S)
        p = step.params
        summed = "yes" if p["trailer"] else "no"
        scripted(
            hands, step, self.script, (there, p["name"], p["peer"], p["cluster"], p["token"], str(p["bump"]), summed)
        )


class Stop(OnHost):
    """`restore.stop`: static pods are out of the kubelet's directory, and their processes gone.

    Params: `plan`, `data`; `names`; `by_kubelet`, where it is known to end them by itself, and goes on; `back`, where
    that is only for old data that are to come back.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when nothing of them is left."""
        del past
        if step.params.get("back") and not now["before"]:
            return Done("the old data are in place: nothing is stopped for them")
        left = [n for n in step.params["names"] if n in now["manifests"] or n in now["processes"]]
        return Needed(f"stop {', '.join(left)}") if left else Done(f"stopped: {', '.join(step.params['names'])}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Move the manifests aside and see the processes off."""
        del now
        run.guard()
        who = "kubelet" if step.params.get("by_kubelet") else "hand"
        scripted(hands, step, STOP, [who, *step.params["names"]])


class Start(OnHost):
    """`restore.start`: static pods are back in the kubelet's directory, and run.

    Params: `plan`, `data`; `names`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when they run. One that was never there is none of ours."""
        if not past:  # nothing is stopped yet: what will be done is what people want to know
            return Needed(f"start {', '.join(step.params['names'])}")
        known = [n for n in step.params["names"] if n in now["manifests"] or n in now["aside"]]
        waiting = [n for n in known if n not in now["manifests"] or n not in now["processes"]]
        if not known:
            return Blocked(
                f"{step.node} has no manifest of {', '.join(step.params['names'])}", "look in /etc/kubernetes"
            )
        if not waiting and now["halted"]:  # a command that stopped it was cut short
            return Needed("start the kubelet")
        return Needed(f"start {', '.join(waiting)}") if waiting else Done(f"running: {', '.join(known)}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Move the manifests back and wait for the processes."""
        run.guard()
        known = [n for n in step.params["names"] if n in now["manifests"] or n in now["aside"]]
        scripted(hands, step, START, known)


class Swap(OnHost):
    """`restore.swap`: the restored data are in place of the old ones, which are beside them.

    Params: `plan`, `data`; `stopped`, the id of the step that stops etcd here.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when they are. Never while etcd or an API server runs here."""
        del past
        if now["before"] and not now["staged"] and now["member"] and now["pointed"]:
            return Done(f"in place; the old data ({size(now['before_bytes'])}) are beside")
        running = [n for n in ("etcd", "kube-apiserver") if n in now["processes"]]
        if running:
            why = f"{step.node}: {', '.join(running)} runs"
            return Blocked(
                why, "resume, which stops it first", until=step.params["stopped"], then="put the data in place"
            )
        return Needed("put the restored data in place of the old ones")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Rename."""
        del now
        run.guard()
        scripted(hands, step, _SWAP, ())


class Forget(OnHost):
    """`restore.forget`: the old data are deleted: somebody said that the new ones are good.

    Params: `plan`, `data`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when they are gone. Not while the restored ones are not in use."""
        del past
        if not now["before"] and not now["forgotten"]:
            return Done("there are no old data")
        if "etcd" not in now["processes"] or not now["pointed"]:
            return Blocked(f"{step.node}: etcd does not run on the restored data", "orchestrator etcd status")
        return Needed(f"delete the old data ({size(now['before_bytes'])})")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Delete them."""
        del now
        run.guard()
        scripted(hands, step, _FORGET, ())


class Quorum:
    """`restore.quorum`: every member answers, all have the same keys, and no alarm is raised.

    Params: `members`, nodes of all of them; `revision`, which they have to have at least.
    """

    only_waits = True

    def probe(self, view: Site, step: Step) -> Facts:
        """What is not well yet."""
        nodes = step.params["members"]
        try:
            facts = members(view, nodes)
            wrong = list(troubles(facts.members, facts.statuses, facts.health))
            if len(facts.statuses) < len(nodes):
                wrong.append(f"{len(facts.statuses)} of {len(nodes)} members answer")
            revisions = [s.revision for s in facts.statuses]
            if not wrong and min(revisions) < step.params["revision"]:
                wrong.append(f"revision {min(revisions)}, wanted {step.params['revision']}")
            if not wrong:
                wrong += _hashes(view, nodes, min(revisions))
        except (FactUnreadable, HostError) as err:
            return {"wrong": [str(err)], "alarms": [], "share": 0.0}
        # The alarm of want of space is in the snapshot, and comes back with it.
        mine = [text for text in wrong if not serves(text)]
        share = max((s.full for s in facts.statuses), default=0.0)
        return {"wrong": mine, "alarms": list(facts.alarms), "share": share}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when all is well."""
        del step
        if not past:
            return Needed("waits until every member answers, with the same keys")
        if now["wrong"]:
            return Needed("; ".join(now["wrong"][:3]))
        return Needed(f"alarms to clear: {', '.join(now['alarms'])}") if now["alarms"] else Done("all members agree")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Clear an alarm that came with the snapshot; all else is waited for."""
        if not now["wrong"] and now["alarms"] and now["share"] < FULL:
            run.guard()
            host = hands.host(step.node)
            done = host.run(["sh", "-c", f"set -u{MEMBER}\netcdctl alarm disarm", "sh"], timeout_s=30.0)
            demand(host, done, remedy=f"see etcd's log on {step.node}")
        for node in step.params["members"]:
            hands.host(node)


def _hashes(view: Site, nodes: Sequence[str], revision: int) -> list[str]:
    found = {node: parse_hash(view.ask(node, queries.ETCD_HASH, str(revision))) for node in nodes}
    silent = [node for node, each in found.items() if each is None]
    if silent:
        return [f"{', '.join(silent)} did not tell the hash of its keys"]
    hashes = {each.hash for each in found.values() if each}
    return ["members have different keys"] if len(hashes) > 1 else []


def scripted(hands: SiteHands, step: Step, script: str, words: Sequence[str], *, back: bool = True) -> None:
    """Carry a script out where the step is, with the places of its plan and these words.

    Args:
        hands: For the host.
        step: Its node, `plan`, `data` and `target`.
        script: It begins with `PLACES`.
        words: Its own, behind these.
        back: A release puts everything back, which is said when it fails.

    Raises:
        CommandFailed: It failed.
    """
    host, params = hands.host(step.node), step.params
    argv: list[Any] = ["sh", "-c", script, "sh", params["plan"], params["data"], params.get("target", ""), *words]
    done = host.run(argv, timeout_s=step.timeout_s or 600.0, repeatable=True)
    undone = "; or release, which puts everything back" if back else ""
    demand(host, done, remedy=f"see to it on {step.node}, then resume{undone}")
    hands.host(step.node)
