"""What hosts are asked, as scripts that only read. Pure.

A host is asked nothing else by who may only look (`actions.site.Site`). What a script writes is below a directory of
its own in `/var/tmp`, which it removes.
"""

from __future__ import annotations

from orchestrator.cluster.etcdqueries import ETCD, ETCD_ELSEWHERE, ETCD_HASH, ETCD_HOST, ETCD_KEYS
from orchestrator.cluster.frame import DATA_OF, FRAME, OWN_API, Query
from orchestrator.cluster.memberqueries import MEMBER_HOST
from orchestrator.cluster.rebuildqueries import KUBELETS, REBUILD
from orchestrator.cluster.restorequeries import RESTORE

__all__ = [
    "ALL", "API", "BESIDE", "CLOCK", "EDITED", "ENDPOINT", "ETCD", "ETCD_ELSEWHERE", "ETCD_HASH", "ETCD_HOST",
    "ETCD_KEYS", "EXAMINE",
    "KEPT", "KUBELETS", "LOOK", "MEMBER_HOST", "OFFERS", "PREFLIGHT", "REBUILD", "REQUESTED", "RESTORE", "STATIC_PODS",
    "WATCHES", "Query",
]  # fmt: skip

# Running means a process: a record in the API or the runtime is none. A static Go program tells its version from the
# outside, through /proc. Source: proc(5): an executable that was replaced reads `… (deleted)`.
_LOOK = (
    FRAME
    + r"""
ask boot cat /proc/sys/kernel/random/boot_id
ask left ls /var/lib/orchestrator
ask os sh -c '. /etc/os-release; echo "$PRETTY_NAME"; command -v apt-get'
ask server sed -n 's/^ *server: *//p' /etc/kubernetes/kubelet.conf
ask kubeadm kubeadm version -o short
ask kubelet kubelet --version
pid=$(systemctl show kubelet --property=MainPID --value 2>/dev/null)
if [ "${pid:-0}" != 0 ] && exe=$(readlink "/proc/$pid/exe"); then
  head running "$exe"; "/proc/$pid/exe" --version 2>/dev/null | body
  ask arguments tr '\0' '\n' < "/proc/$pid/cmdline"
fi
ask installed dpkg-query -W -f='${Package}\t${Version}\t${Status}\n' kubeadm kubelet kubectl cri-tools kubernetes-cni
ask unfinished dpkg --audit
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  if [ -f "$file" ]; then head source "$file"; sed 's#//[^/@ ]*@#//…@#g' "$file" | body; fi
done
for file in /etc/kubernetes/manifests/*.yaml; do
  if [ -f "$file" ]; then head manifest "$file"; body < "$file"; fi
done
for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
  for pid in $(pidof "$name"); do
    program=$(readlink "/proc/$pid/exe")
    head component "$name" "$pid"; "/proc/$pid/root$program" --version 2>/dev/null | body
  done
done
"""
)

#: The facts that actions decide by: versions, packages, manifests, what runs. Takes no words.
LOOK = Query("look", _LOOK, 30.0)

#: A host's clock. Takes no words.
CLOCK = Query("clock", FRAME + "ask clock date +%s.%N\n", 30.0)

_EXAMINE = (
    _LOOK
    + DATA_OF
    + r"""
for pid in $(pidof kube-proxy); do
  program=$(readlink "/proc/$pid/exe"); head proxy "$pid"; "/proc/$pid/root$program" --version 2>/dev/null | body
done
# Source: proc_locks(5): `…: POSIX ADVISORY WRITE PID MAJOR:MINOR:INODE …`.
for file in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock; do
  inode=$(stat -c %i "$file" 2>/dev/null) || continue
  holder=$(awk -v end=":$inode" 'substr($6, length($6) - length(end) + 1) == end { print $5 }' /proc/locks)
  if [ -n "$holder" ]; then
    head lock "$file"
    for pid in $holder; do echo "$pid $(tr '\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null)"; done | body
  fi
done
data=$(data_of /etc/kubernetes/manifests/etcd.yaml 2> /dev/null)
for place in / /var/lib/containerd /etc/kubernetes /etc/kubernetes/tmp /var/cache/apt/archives; do
  if [ -d "$place" ]; then head disk "$place"; df -P -B1 "$place" | tail -n 1 | body; fi
done
ask sizes du -s -B1 "${data:-/var/lib/etcd}" /etc/kubernetes/tmp
ask swap sh -c 'tail -n +2 /proc/swaps'
ask cgroup stat -f -c %T /sys/fs/cgroup
for file in /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env /etc/default/kubelet; do
  if [ -f "$file" ]; then head file "$file"; body < "$file"; fi
done
ask images ctr --namespace k8s.io images ls -q
if [ -f /etc/kubernetes/admin.conf ] || [ -f /etc/kubernetes/manifests/kube-apiserver.yaml ]; then
  said=$(kubeadm certs check-expiration -o json 2>/dev/null); rc=$?
  head certificates "$rc"; printf '%s\n' "$said" | body
  [ "$rc" = 0 ] || { head unread; kubeadm certs check-expiration 2>&1 >/dev/null | tail -n 3 | body; }
fi
"""
)

#: As LOOK, and what a preflight wants: disks, locks, certificates, images, settings. Takes no words.
EXAMINE = Query("examine", _EXAMINE, 60.0)

_SERVER = FRAME + OWN_API + 'api() { own_api --request-timeout=3s "$@" 2>&1; }\n'
_API = (
    _SERVER
    + r"""
end=$(($(date +%s) + $1))
while :; do
  said=$(api get --raw /readyz) || { head broken readyz; echo "$said" | tail -n 1 | body; exit 0; }
  said=$(api get --raw '/api/v1/namespaces?limit=1') || { head broken read; echo "$said" | tail -n 1 | body; exit 0; }
  [ "$(date +%s)" -lt "$end" ] || break
  sleep 0.5
done
head version; api get --raw /version | body
"""
)

#: This host's own API server, ready and answering authorised reads without a break. Takes how many seconds.
API = Query("api", _API, 60.0)

# Source: kubeadm's admin.conf names the cluster's controlPlaneEndpoint, where it has one: a load balancer, mostly.
_ENDPOINT = (
    _SERVER
    + r"""
there=$(sed -n 's/^ *server: *//p' /etc/kubernetes/admin.conf)
if [ "$there" = "https://$address:${port:-6443}" ]; then exit 0; fi
read_it() {
  kubectl --kubeconfig=/etc/kubernetes/admin.conf --request-timeout=3s get --raw '/api/v1/namespaces?limit=1' 2>&1
}
end=$(($(date +%s) + $1))
while :; do
  said=$(read_it) || { head broken "$there"; echo "$said" | tail -n 1 | body; exit 0; }
  [ "$(date +%s)" -lt "$end" ] || break
  sleep 0.5
done
"""
)

#: The endpoint of the cluster, as this host asks it, where that is not its own API server: authorised reads without a
#: break. Takes how many seconds.
ENDPOINT = Query("endpoint", _ENDPOINT, 60.0)

# Source: kubelet, `/pods`: what it is to run; a static pod's UID is the hash of its manifest, which stands in its
# annotation `kubernetes.io/config.hash`, too. proc(5): a process's control group has the UID of the pod that it is of.
# The API's copy of it, the mirror pod, is made when the pod is synced; while the API server is away, that comes up to a
# minute and a half later.
_STATIC_PODS = (
    _SERVER
    + r"""
head wanted
api get --raw "/api/v1/nodes/$1/proxy/pods" | grep -o '"kubernetes.io/config.hash":"[^"]*"' | cut -d '"' -f 4 | body
head mirror
api get --raw "/api/v1/namespaces/kube-system/pods?fieldSelector=spec.nodeName%3D$1" \
  | grep -o '"kubernetes.io/config.mirror":"[^"]*"' | cut -d '"' -f 4 | body
for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
  for pid in $(pidof -s "$name"); do
    head pod "$name"; sed -n 's/.*pod\([0-9a-f_-]\{32,36\}\).*/\1/p' "/proc/$pid/cgroup" | sed 1q | tr _ - | body
  done
done
"""
)

#: Hashes of the static pods that this host's kubelet is to run, of those that the API has, and those that run. Takes
#: the node's name.
STATIC_PODS = Query("static-pods", _STATIC_PODS, 30.0)

# Source: the API server's metric `apiserver_longrunning_requests`. Kubelets and controllers watch pods; each kube-proxy
# watches Services and where their pods are: one that does not yet would send requests to pods that are gone.
_WATCHES = (
    _SERVER
    + r"""
head watches
api get --raw /metrics | grep '^apiserver_longrunning_requests{.*verb="WATCH"' \
  | grep -E 'resource="(pods|services|endpointslices)"' | awk '{ sum += $NF } END { print sum + 0 }' | body
"""
)

#: How many watches on pods, Services and EndpointSlices this host's own API server serves. Takes no words.
WATCHES = Query("watches", _WATCHES, 30.0)

_REQUESTED = (
    _SERVER
    + r"""
head requested; api get --raw /metrics | grep '^apiserver_requested_deprecated_apis{' | body
"""
)

#: The deprecated APIs that this host's own API server was asked for, as its metrics tell. Takes no words.
REQUESTED = Query("requested", _REQUESTED, 30.0)

# Source: kubeadm 1.36 and 1.37: before it replaces a manifest, it moves the old one into a directory of that upgrade;
# before it replaces a stacked etcd, it copies the member's data. `hosts.detached` says what `started` is.
_KEPT = (
    FRAME
    + r"""
for dir in /etc/kubernetes/tmp/kubeadm-backup-manifests-*; do
  for file in "$dir"/*.yaml; do
    [ -f "$file" ] && { head manifest "$file" "$dir"; grep 'image:' "$file" | body; }
  done
done
for dir in /etc/kubernetes/tmp/kubeadm-backup-etcd-*; do
  [ -d "$dir/etcd/member" ] && head data "$dir/etcd" "$dir"
done
for pid in $(pidof kubeadm); do head work kubeadm "$pid"; done
read -r now < /proc/sys/kernel/random/boot_id
for file in /var/lib/orchestrator/*/*/started; do
  dir=${file%/started}
  if [ ! -f "$file" ] || [ -e "$dir/rc" ]; then continue; fi
  read -r pid began boot < "$file" || continue
  [ "$boot" = "$now" ] || continue
  set -- $(cut -d" " -f3,22 "/proc/$pid/stat" 2> /dev/null)
  if [ "${2:-}" = "$began" ] && [ "$1" != Z ]; then head work "${dir#/var/lib/orchestrator/}" "$pid"; fi
done
head end
"""
)

#: What kubeadm kept of what it replaced on a control plane, and what is at work there. Takes no words.
KEPT = Query("kept", _KEPT, 30.0)

# A repository is looked at beside the host's own lists, with the host's own keys and settings. The host moves its own
# source files to another minor: what stands in them, credentials too, does not leave it.
# `wanted` lists a version's images, as its kubeadm, unpacked in `$dir/new`, names them by the cluster's own settings.
# Source: https://pkgs.k8s.io: the minor is in the path, `/core:/stable:/v1.36/deb/`; `packages.moved` is the same here.
BESIDE = r"""set -u
dir=$(mktemp -d /var/tmp/orchestrator.XXXXXX) || exit 1
trap 'rm -rf -- "$dir"' EXIT; trap 'exit 143' HUP INT TERM
chmod 755 "$dir"; mkdir -p "$dir/lists/partial" "$dir/parts"
: > "$dir/none.list"
moved() { sed 's#\(https\{0,1\}://[^ ]*/core:/[A-Za-z_]*:/v\)[0-9]*\.[0-9]*\(/deb\)#\1'"$1"'\2#g'; }
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  if [ -f "$file" ] && grep -q '^[^#]*/core:/[A-Za-z_]*:/v[0-9]' "$file"; then
    moved "$1" < "$file" > "$dir/parts/$(basename "$file" | sed 's/^sources.list$/sources.list.list/')"
  fi
done
beside() {
  program=$1; shift
  "$program" -q -o Dir::Etc::sourcelist="$dir/none.list" -o Dir::Etc::sourceparts="$dir/parts" \
    -o Dir::State::lists="$dir/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o APT::Sandbox::User=root -o Acquire::Retries=1 -o Acquire::http::Timeout=15 "$@"
}
wanted() {
  kubectl --kubeconfig=/etc/kubernetes/admin.conf --request-timeout=20s -n kube-system get configmap kubeadm-config \
    -o 'jsonpath={.data.ClusterConfiguration}' > "$dir/now.yaml" || return
  sed "s/^kubernetesVersion:.*/kubernetesVersion: $1/" "$dir/now.yaml" > "$dir/configuration.yaml"
  "$dir/new/usr/bin/kubeadm" config images list --config "$dir/configuration.yaml"
}
"""
_OFFERS = (
    BESIDE
    + FRAME
    + r"""
beside apt-get update > "$dir/said" 2>&1; rc=$?
head update "$rc"; body < "$dir/said"
head madison; beside apt-cache madison kubeadm kubelet kubectl 2>/dev/null | body
"""
)

#: What a repository of this host's offers it, its signature checked. Takes a minor, as `1.37`.
OFFERS = Query("offers", _OFFERS, 120.0)

_PREFLIGHT = (
    BESIDE
    + FRAME
    + r"""
new() {
  beside apt-get update && cd "$dir" && beside apt-get download "kubeadm=$2" && dpkg-deb -x kubeadm_*.deb "$dir/new"
}
new "$@" > "$dir/said" 2>&1 || { head failed; body < "$dir/said"; exit 0; }
export KUBEADM_UPGRADE_DRYRUN_DIR="$dir/dry"
check() {
  if [ -f /etc/kubernetes/manifests/kube-apiserver.yaml ]; then
    "$dir/new/usr/bin/kubeadm" upgrade apply phase preflight --dry-run --yes "$1"
  else
    "$dir/new/usr/bin/kubeadm" upgrade node phase preflight
  fi
}
if [ -f /etc/kubernetes/manifests/kube-apiserver.yaml ]; then
  wanted "$3" > "$dir/images" 2> "$dir/why"; rc=$?
  head wanted "$rc"; body < "$dir/images"
  head unlisted; tail -n 3 "$dir/why" | body
fi
check "$3" > "$dir/said" 2>&1; rc=$?
head preflight "$rc"; grep -E '\[(ERROR|WARNING) ' "$dir/said" | body
head end; tail -n 3 "$dir/said" | body
"""
)

#: The checks of kubeadm of another version, which is not installed. Takes its minor, its revision, and it.
PREFLIGHT = Query("preflight", _PREFLIGHT, 180.0)

_EDITED = (
    FRAME
    + r"""
dir=$(mktemp -d /var/tmp/orchestrator.XXXXXX) || exit 1
trap 'rm -rf -- "$dir"' EXIT; trap 'exit 143' HUP INT TERM
kubeadm upgrade diff "$1" > "$dir/said" 2> "$dir/why"; rc=$?
head diff "$rc"; body < "$dir/said"
head why; tail -n 3 "$dir/why" | body
"""
)

#: What kubeadm of the installed version would change in this host's manifests, but for etcd's. Takes that version.
EDITED = Query("edited", _EDITED, 60.0)

#: All there are: nothing else may be asked.
ALL = (
    LOOK, CLOCK, EXAMINE, ETCD, ETCD_ELSEWHERE, ETCD_HOST, ETCD_HASH, ETCD_KEYS,
    RESTORE, MEMBER_HOST, REBUILD, KUBELETS, API, ENDPOINT,
    STATIC_PODS, WATCHES, REQUESTED, KEPT, OFFERS, PREFLIGHT, EDITED,
)  # fmt: skip
