"""A control plane taken back to the version that it had before an upgrade: static pods, etcd's data, settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.actions.kubeadm import advice, behind, misfits, restarts, state_of, versions
from orchestrator.actions.kubelets import KUBELET
from orchestrator.actions.members import until_spared
from orchestrator.actions.packages import INSTALL, install, looked, standing, target, traced, unfit
from orchestrator.actions.site import Errand
from orchestrator.cluster.frame import DATA_OF
from orchestrator.cluster.hostfacts import CONTROL_PLANE
from orchestrator.cluster.kubeadm import BACKUPS
from orchestrator.engine.host import demand
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import ApiError, CommandFailed

if TYPE_CHECKING:
    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

# Nothing is deleted: what is replaced is moved into the plan's own directory, data beside the data. The kubelet reads
# every file of its directory, but for those that begin with a dot: a manifest appears there whole or not at all. The
# data directory is the one that the older manifest names; a mount point cannot be renamed, so what is in it moves.
# The data come out of the copy by the older etcd's own program, with a revision raised well above any that was seen
# since: clients that watch from a revision that does not exist yet would hear nothing until it does. They take the
# place of the present ones only when no etcd and no API server runs any more.
# Source: etcd's documentation, "Disaster recovery", revision difference; `etcdutl snapshot restore --help`.
_STATIC_PODS = (
    DATA_OF
    + KUBELET
    + r"""set -eu; umask 077
data=$1 mark=$2 tools=
shift 2
leave() {
  [ -z "$tools" ] || ctr --namespace k8s.io images unmount "$tools" > /dev/null 2>&1 || true
  [ -z "$tools" ] || rmdir -- "$tools" || true
  awake
}
trap leave EXIT; trap 'exit 143' HUP INT TERM
manifests=/etc/kubernetes/manifests keep="/etc/kubernetes/tmp/rollback-$mark"
backup="$keep/back"
mkdir -p "$backup"
collect() { cp -- "$1" "$keep/.new"; mv -- "$keep/.new" "$backup/$(basename -- "$1")"; }
for given; do
  if [ -d "$given" ]; then for file in "$given"/*.yaml; do collect "$file"; done
  elif [ -f "$given" ]; then collect "$given"
  elif [ ! -f "$backup/$(basename -- "$given")" ]; then echo "$given is gone" >&2; exit 7; fi
done
# An API server whose etcd's data are replaced need not take leave of anybody.
gone() {
  for name in "$@"; do end_by_hand TERM "$name"; done
  i=0
  for name in "$@"; do
    patience=60; if [ -n "$data" ] && [ "$name" = kube-apiserver ]; then patience=8; fi
    while pidof "$name" > /dev/null; do
      i=$((i + 1)); [ "$i" -lt 240 ] || { echo "$name does not end" >&2; exit 5; }
      [ "$i" -lt "$patience" ] || end_by_hand KILL "$name"
      sleep 0.5
    done
  done
}
aside() { [ ! -f "$manifests/$1.yaml" ] || mv -- "$manifests/$1.yaml" "$keep/$1.yaml"; }
flag() { sed -n "s/.*--$1=//p" "$backup/etcd.yaml"; }
restored() {
  image=$(sed -n 's/^ *\(- \)\{0,1\}image: *//p' "$backup/etcd.yaml")
  tools=$(mktemp -d /var/tmp/orchestrator.XXXXXX)
  ctr --namespace k8s.io images mount "$image" "$tools" > /dev/null
  rm -rf -- "$1"
  "$tools/usr/local/bin/etcdutl" snapshot restore "$data/member/snap/db" --data-dir "$1" --skip-hash-check \
    --bump-revision 1000000000 --mark-compacted --name "$(flag name)" \
    --initial-cluster "$(flag name)=$(flag initial-advertise-peer-urls)" \
    --initial-advertise-peer-urls "$(flag initial-advertise-peer-urls)" >&2
}
if [ -n "$data" ] && [ ! -e "$keep/data-replaced" ]; then
  live=$(data_of "$backup/etcd.yaml")
  [ -n "$live" ] || { echo "$backup/etcd.yaml does not say where etcd's data are" >&2; exit 6; }
  inside=; beside=$live.; if mountpoint -q "$live"; then inside=yes; beside=$live/.; fi
  new=${beside}new-$mark before=${beside}before-$mark
  [ -e "$keep/data-restored" ] || { restored "$new"; sync; : > "$keep/data-restored"; }
  systemctl stop kubelet
  aside kube-apiserver; aside etcd
  gone kube-apiserver etcd
  if [ -n "$inside" ]; then
    mkdir -p -- "$before"
    [ ! -e "$live/member" ] || [ -e "$before/member" ] || mv -- "$live/member" "$before/member"
    [ -e "$live/member" ] || mv -- "$new/member" "$live/member"
    rm -rf -- "$new"
  else
    [ ! -d "$live" ] || [ -e "$before" ] || mv -- "$live" "$before"
    [ -d "$live" ] || mv -- "$new" "$live"
  fi
  : > "$keep/data-replaced"
fi
# It was only stopped, for etcd's data: its manifest stays what it is.
server=kube-apiserver.yaml
if [ -e "$keep/$server" ] && [ ! -e "$backup/$server" ]; then collect "$keep/$server"; fi
differ=
for file in "$backup"/*.yaml; do
  name=$(basename -- "$file" .yaml)
  cmp -s -- "$file" "$manifests/$name.yaml" || differ="$differ $name"
done
[ -n "$differ" ] || exit 0
systemctl stop kubelet
for name in $differ; do [ -e "$keep/$name.yaml" ] || aside "$name"; done
gone $differ
for name in $differ; do
  cp -- "$backup/$name.yaml" "$manifests/.$name.new"; chmod 600 "$manifests/.$name.new"; sync
  mv -- "$manifests/.$name.new" "$manifests/$name.yaml"
done
"""
)

# Source: kubeadm keeps the cluster's version in kube-system/kubeadm-config, and `upgrade node` goes by it.
_SETTINGS = r"""set -eu
kubectl() { command kubectl --kubeconfig=/etc/kubernetes/admin.conf --request-timeout=20s "$@"; }
kubectl -n kube-system get configmap kubeadm-config -o yaml \
  | sed "s/^\( *kubernetesVersion:\).*/\1 $1/" | kubectl replace -f - > /dev/null
"""


_DOWNGRADE = INSTALL.replace("apt-get install -y", "apt-get install -y --allow-downgrades")
_RESTART = "trap - EXIT; again\nsystemctl daemon-reload && systemctl restart kubelet\n"


class StaticPods:
    """`kubeadm.rollback`: the static pods of a control plane are those that an upgrade had replaced.

    Params: `plan`, `version`; `control_planes`; `manifests`, those that go back, in the copies that kubeadm kept;
    `data`, a copy of the member's data that takes the place of the present ones, or "" to keep those; `etcd`, the
    version of its manifest among them, "" where it stays.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Versions of manifests and processes, and what became of the command."""
        trace = traced(view, step)
        found = looked(view, step.node)
        return {
            **versions(found),
            "trace": trace.state,
            "rc": trace.rc,
        }

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when they run; where data come back, when that was done by this plan."""
        del past
        version = target(step)
        ended = now["trace"] == "ended" and now["rc"] == 0
        wanted = dict.fromkeys(CONTROL_PLANE, str(version))
        if step.params.get("etcd"):
            wanted["etcd"] = step.params["etcd"]
        if ended and (other := misfits(now["manifests"], wanted)):
            return Blocked(
                f"{step.node}: the manifests that kubeadm kept are back, and {', '.join(other)} is not of {version}",
                f"look for theirs in {BACKUPS} on {step.node}, put them into /etc/kubernetes/manifests, then resume",
            )
        late = behind(now, wanted)
        if not late and (ended or not step.params["data"]):
            return Done(f"static pods run {version}")
        what = f"{', '.join(late) or 'etcd'} to {version}"
        return Needed(f"{what}, with the data of {step.params['data']}" if step.params["data"] else what)

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Put them back, by a command that outlasts a cut connection.

        Raises:
            CommandFailed: It failed; the error says in what state things are.
            Refused: It would restart a member of etcd that the others need.
        """
        # Once it ended well nothing is done again: only its result is read.
        if step.params.get("etcd", "?") and not (now["trace"] == "ended" and now["rc"] == 0):
            until_spared(hands, step, now, run)
        run.guard()
        # A run that an earlier version began names a directory.
        manifests = step.params.get("manifests") or [step.params["backup"]]
        words = [step.params["data"], step.params["plan"], *manifests]
        errand = Errand(step.params["plan"], step.id)
        done = hands.finish(
            step.node, ["sh", "-c", _STATIC_PODS, "sh", *words], errand, timeout_s=step.timeout_s or 0.0
        )  # fmt: skip
        try:
            demand(hands.host(step.node), done, remedy=advice(step, run.run, control_plane=True))
        except CommandFailed as err:
            err.add_note(state_of(hands, step.node, ""))
            raise


class Settings:
    """`kubeadm.settings`: the version of the cluster in kubeadm's settings.

    Params: `version`; `without_api`, where the API may be away before the run.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """What they say; nothing while the API is away that the steps before this one bring back."""
        try:
            if step.params.get("without_api"):
                view.glance()  # what is away is not waited for
            said = view.configuration()
        except ApiError as err:
            if not step.params.get("without_api") or not err.retryable:
                raise
            said = ""
        lines = [line.split() for line in said.splitlines() if line.startswith("kubernetesVersion:")]
        return {"version": lines[0][1] if lines and len(lines[0]) > 1 else ""}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is that."""
        del past
        wanted = str(target(step))
        if now["version"] == wanted:
            return Done(f"{wanted} there")
        return Needed(f"{now['version']} there, to {wanted}" if now["version"] else f"to {wanted}, if they are not")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Write them, on the host, with kubeadm's own rights."""
        del now
        run.guard()
        host = hands.host(step.node)
        done = host.run(["sh", "-c", _SETTINGS, "sh", str(target(step))], timeout_s=60.0, repeatable=True)
        demand(host, done)


class Downgrade:
    """`packages.downgrade`: packages of an earlier version, held as they were; a kubelet among them runs again.

    Params: `plan`, `version`, `packages`; `control_planes`, where a kubelet is among them.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """What is installed, held, and runs."""
        found = looked(view, step.node)
        return {
            **standing(found, tuple(step.params["packages"])),
            "trace": traced(view, step).state,
            "running": str(found.running or ""),
            "replaced": found.replaced,
        }

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when they are there, and the kubelet that runs is that one."""
        version, found = target(step), past.get(step.id, now)
        why = unfit(now, tuple(step.params["packages"]), version, found["held"])
        kubelet = "kubelet" in step.params["packages"]
        if not why and (not kubelet or (now["running"] == str(version) and not now["replaced"])):
            return Done(f"{version} is installed")
        return Needed(why or f"kubelet {now['running'] or 'not running'} to {version}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Install the earlier ones; hold again; restart the kubelet.

        Raises:
            CommandFailed: It failed.
            CommandTimedOut: It hung, and was ended.
            CommandVanished: Its host went down.
            Refused: It would restart a member of etcd that the others need.
        """
        if restarts(now, target(step)):
            until_spared(hands, step, now, run)
        run.guard()
        script = _DOWNGRADE + (_RESTART if "kubelet" in step.params["packages"] else "")
        remedy = f"see `apt-cache madison kubeadm` on {step.node}, then resume"
        install(hands, step, now, run, script=script, remedy=remedy)
