"""A fresh machine made a control plane of a recovery set and a snapshot, and what was put on it taken away again.

Whatever a plan puts on a machine is listed there before it is there, in `rebuilt-PLAN` of this program's directory:
that makes its own what a resume finds, and tells a release what to take away. Data are judged by what is there.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from orchestrator.actions.backups import in_memory
from orchestrator.actions.restore import ROOM
from orchestrator.backup import recovery as sets
from orchestrator.backup.seal import unseal_into
from orchestrator.cluster import queries
from orchestrator.cluster.rebuildqueries import OCCUPIED
from orchestrator.cluster.recovery import SIGNED, Member, heard, machine
from orchestrator.engine.host import STATE, demand
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import FactUnreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.backup.recovery import RecoverySet
    from orchestrator.engine.clock import Clock
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

SEND_S = 1800.0
#: A kubelet that was not heard for so long is away. Source: it renews its lease every 10 s.
HEARD_S = 40
#: For workers that survived to find the API server again. Source: client-go's pauses grow to 30 s; seen: 55 s.
PATIENCE_S = 75.0
PAUSE_S = 1.0

_HERE = r"""set -eu; umask 077
plan=$1 data=$2; shift 2
state=/var/lib/orchestrator pods=/etc/kubernetes/manifests aside=/etc/kubernetes/orchestrator-$plan
mark=$state/rebuilt-$plan here=$state/$plan config=$state/$plan/files/kubeadm.yaml
programs='etcd kube-apiserver kube-controller-manager kube-scheduler'
if mountpoint -q "$data"; then stage=$data/.rebuild-$plan kept=$data/.rebuilt-$plan; else
  stage=$data.rebuild-$plan kept=$data.rebuilt-$plan; fi
own() { [ -e "$mark/own" ] || { echo "$plan did not begin here" >&2; exit 7; }; }
"""

# Looked at and marked in one go: what is there from now on is this plan's.
_OWN = (
    _HERE
    + OCCUPIED
    + r"""
mkdir -p -m 700 "$here"
[ ! -e "$mark/own" ] || exit 0
found=$(occupied | tr '\n' ' ')
[ -z "$found" ] || { echo "not fresh, it has $found" >&2; exit 6; }
for name in $programs; do ! pidof "$name" > /dev/null || { echo "not fresh, $name runs" >&2; exit 6; }; done
rm -rf -- "$mark.new"; mkdir -m 700 "$mark.new"
systemctl is-enabled kubelet > "$mark.new/enabled" 2> /dev/null || true
systemctl is-active kubelet > "$mark.new/active" 2> /dev/null || true
: > "$mark.new/files"; : > "$mark.new/directories"; : > "$mark.new/own"
sync; mv -- "$mark.new" "$mark"; sync
"""
)

# Source: kubeadm's documentation, "kubeadm init phase": with the authorities in place it makes what is signed by them;
# half of a pair, as a killed one leaves it, it refuses. A kubelet without its settings starts again and again: it must
# not start on half of them. It reads everything in its directory of static pods: so these wait beside it.
_PLACE = (
    _HERE
    + r"""
own
trap 'rm -rf -- "$here/files/host"' EXIT; trap 'exit 143' HUP INT TERM
systemctl stop kubelet 2> /dev/null || true
made() {
  [ ! -d "$1" ] || return 0
  made "$(dirname -- "$1")"
  case $1 in
    /etc/kubernetes | /etc/kubernetes/pki | /etc/kubernetes/pki/etcd | "$pods" | /var/lib) mode=755 ;;
    *) mode=700 ;;
  esac
  echo "$1" >> "$mark/directories"; mkdir -m "$mode" -- "$1"
}
rm -rf -- "$here/files"; mkdir -m 700 "$here/files"
tar --extract --file="$here/set.tar" --directory="$here/files" --same-owner --same-permissions --numeric-owner
cd "$here/files/host"
find . -type f | sed 's/^\.//' > "$here/files/list"
while read -r file; do
  if ! grep -qxF -e "$file" "$mark/files"; then
    if [ -e "$file" ]; then mkdir -p -- "$mark/before${file%/*}"; cp -a -- "$file" "$mark/before$file"; fi
    echo "$file" >> "$mark/files"; sync "$mark/files"
  fi
  made "${file%/*}"
  cp -a -- ".$file" "$file.orchestrator"; mv -f -- "$file.orchestrator" "$file"
done < "$here/files/list"
made "$pods"
rm -f -- /etc/kubernetes/*.conf "$@"
(umask 022; kubeadm init phase certs all --config="$config" && kubeadm init phase kubeconfig all --config="$config") >&2
if command -v ctr > /dev/null; then
  ctr --namespace k8s.io images ls -q > "$here/files/images"
  for image in $(sed -n 's/^ *\(- \)\{0,1\}image: *//p' "$aside"/*.yaml | tr -d '"'); do
    grep -qxF -e "$image" "$here/files/images" || { kubeadm config images pull --config="$config" >&2; break; }
  done
fi
! command -v restorecon > /dev/null || restorecon -R /etc/kubernetes /var/lib/kubelet
sync; : > "$mark/placed"
rm -f -- "$here/set.tar"
"""
)

# Every member of the same snapshot, under its own name, with one token: so they are one cluster when they start.
# A raised revision, marked compacted, makes kubelets that survived list again instead of waiting for revisions that
# they have seen already. Source: etcd's documentation, "Disaster recovery".
_DATA = (
    _HERE
    + ROOM
    + r"""
own
name=$1 peer=$2 cluster=$3 token=$4 bump=$5 trailer=$6
[ ! -e "$data/member" ] || exit 0
! pidof etcd > /dev/null || { echo "etcd runs" >&2; exit 6; }
skip=; [ "$trailer" = yes ] || skip=--skip-hash-check
mkdir -p -m 755 -- "$(dirname -- "$data")"
roomy "$here/snapshot.db" "$(dirname -- "$stage")" ||
  { echo "$data has $free bytes free; it needs $needed" >&2; exit 5; }
rm -rf -- "$stage"
"$here/files/tools/etcdutl" snapshot restore "$here/snapshot.db" --data-dir "$stage" --name "$name" \
  --initial-cluster "$cluster" --initial-advertise-peer-urls "$peer" --initial-cluster-token "$token" \
  --bump-revision "$bump" --mark-compacted $skip >&2
! command -v restorecon > /dev/null || restorecon -R "$stage"
sync
if mountpoint -q "$data"; then mv -- "$stage/member" "$data/member"; rm -rf -- "$stage"; else
  [ ! -d "$data" ] || rmdir -- "$data"
  mv -- "$stage" "$data"
fi
chmod 700 "$data"; sync
rm -f -- "$here/snapshot.db"
"""
)

_KUBELET = (
    _HERE
    + r"""
own
systemctl daemon-reload
systemctl enable --quiet kubelet
systemctl restart kubelet
"""
)

# Source: kubeadm, `init phase kubelet-finalize`: the kubelet's kubeconfig was made with a certificate that ends in a
# year; from now on it names the one that the kubelet renews.
_FINISH = (
    _HERE
    + r"""
own
n=0
while grep -q '^rotateCertificates: true' /var/lib/kubelet/config.yaml &&
  [ ! -e /var/lib/kubelet/pki/kubelet-client-current.pem ]; do
  n=$((n + 1)); [ "$n" -lt 120 ] || { echo "the kubelet has no certificate of its own: see its log" >&2; exit 6; }
  sleep 0.5
done
(umask 022; kubeadm init phase kubelet-finalize all --config="$config") >&2
sync; : > "$mark/ended"
"""
)

# kubeadm's own way back takes away containers, mounts and its files; it is told of no etcd, for that is not there any
# more. Files that were there before come back; the mark goes last, so that a killed one begins again.
_UNDO = (
    _HERE
    + r"""
own
systemctl stop kubelet 2> /dev/null || true
n=0
for name in $programs; do
  while pidof "$name" > /dev/null; do
    n=$((n + 1)); [ "$n" -lt 120 ] || { echo "$name does not end" >&2; exit 6; }
    pkill -KILL -x "$(echo "$name" | cut -c1-15)" || true
    sleep 0.5
  done
done
if [ "$1" = yes ] && [ -e "$data/member" ] && [ ! -e "$kept/member" ]; then
  mkdir -p -- "$kept"; mv -- "$data/member" "$kept/member"
fi
rm -rf -- "$stage" "$data/member"
mountpoint -q "$data" || rmdir -- "$data" 2> /dev/null || true
kubeadm reset --force --skip-phases=preflight,remove-etcd-member >&2
while read -r file; do
  if [ -e "$mark/before$file" ]; then mkdir -p -- "${file%/*}"; cp -a -- "$mark/before$file" "$file"
  else rm -f -- "$file" "$file.orchestrator"; fi
done < "$mark/files"
rm -rf -- /etc/kubernetes/pki "$aside"; rm -f -- /etc/kubernetes/*.conf
sort -r "$mark/directories" | while read -r dir; do rmdir -- "$dir" 2> /dev/null || true; done
grep -q '^enabled' "$mark/enabled" || systemctl disable --quiet kubelet
! grep -q '^activ' "$mark/active" || systemctl start --no-block kubelet
sync; mv -- "$mark" "$mark.gone"; rm -rf -- "$mark.gone"
"""
)


class _OnMachine:
    """What the steps of a rebuild have in common: one look at the machine."""

    def probe(self, view: Site, step: Step) -> Facts:
        """How it stands, and how far this plan came there."""
        found = machine(step.node, view.ask(step.node, queries.REBUILD, step.params["plan"], step.params["data"]))
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(found).items()}


class Bring(_OnMachine):
    """`rebuild.bring`: the machine is this plan's, and has the snapshot and its part of the recovery set.

    Params: `plan`, `data`; `set`, `snapshot`, as they are stored, here; `identities`, files that decrypt them;
    `name`, `peer`, of its member; `members`, name, peer URL and address of all of them; `size_bytes` of the snapshot.
    """

    def __init__(self) -> None:
        self._sets: dict[str, RecoverySet] = {}
        self._snapshots: dict[str, IO[bytes]] = {}
        self._mutex = threading.Lock()

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it has them, or they are in place. Never on a machine that is in use."""
        del past
        there = (now["set"] or now["placed"]) and (now["snapshot"] or now["member"])
        if now["own"]:
            return Done("it has them") if there else Needed("bring the recovery set and the snapshot")
        used = [*now["occupied"], *(f"{each}, which runs" for each in now["processes"])]
        if used:
            return Blocked(
                f"{step.node} is not fresh: it has {', '.join(used)}",
                f"is it the right machine? what is there goes by `kubeadm reset` on {step.node}",
            )
        return Needed("bring the recovery set and the snapshot to a fresh machine")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Open both in memory and send them, readable by root only.

        Raises:
            HostError: They could not be sent.
            BackupError: They cannot be opened.
        """
        p, directory = step.params, f"{STATE}/{step.params['plan']}"
        run.guard()
        _script(hands, step, _OWN, ())
        if not (now["set"] or now["placed"]):
            members = [Member(*each) for each in p["members"]]
            mine = next(m for m in members if m.name == p["name"])
            packed = sets.packed(self._set(hands, step), mine, members, f"/etc/kubernetes/orchestrator-{p['plan']}")
            run.guard()
            host = hands.host(step.node)
            host.write(f"{directory}/set.tar", packed, mode=0o600, owner="root:root", timeout_s=SEND_S)
        if not (now["snapshot"] or now["member"]):
            path = self._snapshot(hands, step)
            run.guard()
            host = hands.host(step.node)
            host.send(path, f"{directory}/snapshot.db", mode=0o600, owner="root:root", timeout_s=SEND_S)
        hands.host(step.node)

    def _set(self, hands: SiteHands, step: Step) -> RecoverySet:
        """The set; opened once by a process."""
        name = step.params["set"]
        with self._mutex:
            if name not in self._sets:
                with opened(_kept(hands, name), _identities(step), sets.LIMIT_BYTES) as memory:
                    self._sets[name] = sets.read(memory, name)
            return self._sets[name]

    def _snapshot(self, hands: SiteHands, step: Step) -> Path:
        """The plain snapshot: the file itself where it is plain, else in memory as long as the process lives."""
        name = step.params["snapshot"]
        stored = _kept(hands, name)
        if is_plain(stored):
            return stored
        with self._mutex:
            if name not in self._snapshots:
                self._snapshots[name] = opened(stored, _identities(step), step.params["size_bytes"])
                weakref.finalize(self, self._snapshots[name].close)
            return Path(f"/dev/fd/{self._snapshots[name].fileno()}")


def opened(stored: Path, identities: Sequence[Path], limit_bytes: int) -> IO[bytes]:
    """What is stored compressed, encrypted or both, as a file in memory, at its begin.

    Raises:
        BackupError: It cannot be opened.
        BadUsage: An identity cannot be used.
    """
    memory = in_memory()
    try:
        compressed = ".zst" in stored.suffixes[-2:]
        unseal_into(stored, memory, compressed=compressed, identities=identities, limit_bytes=limit_bytes)
    except BaseException:
        memory.close()
        raise
    memory.seek(0)
    return memory


def is_plain(stored: Path) -> bool:
    """Nothing has to be opened, by its name."""
    return not {".zst", ".age"} & set(stored.suffixes[-2:])


def _kept(hands: SiteHands, name: str) -> Path:
    path = hands.kept(name)
    if path is None:
        raise FactUnreadable(f"{name} is not here any more", remedy="put it there again, or start a new rebuild")
    return path


def _identities(step: Step) -> list[Path]:
    return [Path(each) for each in step.params["identities"]]


class Place(_OnMachine):
    """`rebuild.place`: files of the set are in place, and kubeadm made what is this node's own; nothing runs yet.

    Params: `plan`, `data`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when they are."""
        del step, past
        return Done("in place") if now["placed"] else Needed("put files in place; certificates and kubeconfigs anew")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Unpack, and have kubeadm sign."""
        del now
        run.guard()
        _script(hands, step, _PLACE, SIGNED)


class Data(_OnMachine):
    """`rebuild.data`: etcd's data directory is that of a new member, restored from the snapshot.

    Params: `plan`, `data`; `name`, `peer`; `cluster`, all members as NAME=URL,…; `token`; `bump`; `trailer`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when there are data: the machine had none before."""
        del past
        return Done("restored") if now["own"] and now["member"] else Needed(f"restore into {step.params['data']}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Restore beside, then rename."""
        del now
        run.guard()
        p = step.params
        summed = "yes" if p["trailer"] else "no"
        _script(hands, step, _DATA, (p["name"], p["peer"], p["cluster"], p["token"], str(p["bump"]), summed))


class Started(_OnMachine):
    """`rebuild.kubelet`: the kubelet runs, with no static pod yet.

    Params: `plan`, `data`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when its service is active: it was stopped before its settings were put in place."""
        del step, past
        return Done("it runs") if now["placed"] and now["kubelet_runs"] else Needed("start the kubelet")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Start it, now and at each boot."""
        del now
        run.guard()
        _script(hands, step, _KUBELET, ())


class Finish(_OnMachine):
    """`rebuild.finish`: the kubelet uses the certificate that it renews.

    Params: `plan`, `data`.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when that was done."""
        del step, past
        return Done("it does") if now["ended"] else Needed("have the kubelet use the certificate that it renews")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Have kubeadm write that."""
        del now
        run.guard()
        _script(hands, step, _FINISH, ())


class Undo(_OnMachine):
    """`rebuild.undo`: the machine is as it was before the rebuild.

    Params: `plan`, `data`; `keep`, whether etcd ran on its data, which then stay, beside their place.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when nothing of the plan is there."""
        del past
        if not now["own"]:
            return Done("nothing of it is there")
        kept = f"; etcd's data stay at {step.params['data']}.rebuilt-…" if step.params["keep"] else ""
        return Needed(f"take away what the rebuild put there{kept}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Stop everything and take it away."""
        del now
        run.guard()
        _script(hands, step, _UNDO, ("yes" if step.params["keep"] else "no",))


class Nodes:
    """`rebuild.nodes`: all control planes are Ready, and the kubelets of whoever else survived are heard of.

    Params: `planes`.

    Args:
        clock: For the time that workers are given.
    """

    only_waits = True

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waited: set[str] = set()

    def probe(self, view: Site, step: Step) -> Facts:
        """Control planes that are not well, other nodes that are not heard of, and how many are.

        What is restored reads Ready, too: so its kubelet has to be heard of.
        """
        found = heard(view.ask(step.node, queries.KUBELETS))
        if found is None:
            return {"wrong": ["the API server does not tell of nodes yet"], "silent": [], "heard": 0}
        away = [h.name for h in found if h.age_s is None or h.age_s > HEARD_S]
        planes = step.params["planes"]
        wrong = [f"{name} has no node object" for name in planes if name not in {h.name for h in found}]
        wrong += [f"nothing is heard of {name} yet" for name in away if name in planes]
        wrong += [
            f"{h.name} is not Ready: {h.why}" for h in found if h.name in planes and h.name not in away and not h.ready
        ]
        return {"wrong": wrong, "silent": [n for n in away if n not in planes], "heard": len(found) - len(away)}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when control planes are Ready, and the others are heard of or had their time."""
        if not past:
            return Needed("waits for kubelets, those of workers that survived too")
        if now["wrong"]:
            return Needed("; ".join(now["wrong"]), again=True)
        if now["silent"] and step.id not in self._waited:
            return Needed(f"nothing is heard of {', '.join(now['silent'])} yet", again=True)
        return Done(_without(now["silent"]) or f"{now['heard']} kubelets are heard of")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Give others their time; then say which have no machine."""
        began, silent = self._clock.now(), now["silent"]
        if now["wrong"] or not silent:
            return
        while silent and self._clock.now() - began < PATIENCE_S:
            run.guard()
            self._clock.sleep(PAUSE_S)
            hands.host(step.node)
            silent = self.probe(hands, step)["silent"]
        self._waited.add(step.id)
        if silent:
            run.emit("rebuild.silent", level="warning", why=_without(silent))


def _without(silent: Sequence[str]) -> str:
    names = " ".join(silent)
    gone = f"no kubelet is heard of {names}: is the machine gone, too? then: kubectl delete node {names}"
    return gone if names else ""


def _script(hands: SiteHands, step: Step, script: str, words: Sequence[str]) -> None:
    host, params = hands.host(step.node), step.params
    argv: list[Any] = ["sh", "-c", script, "sh", params["plan"], params["data"], *words]
    done = host.run(argv, timeout_s=step.timeout_s or 600.0, repeatable=True)
    demand(host, done, remedy=f"see to it on {step.node}, then resume; or release, which takes away what was put there")
    hands.host(step.node)
