"""What a machine is asked that becomes a control plane again; see `cluster.queries`. Pure."""

from __future__ import annotations

from orchestrator.cluster.frame import FRAME, OWN_API, Query

# What a machine has that is a node already, or was one. `rebuild.bring` looks with the same words before it begins.
# Source: the packages of kubeadm and kubelet leave empty directories; `kubeadm reset` empties these.
OCCUPIED = r"""
occupied() {
  for file in "$pods"/*.yaml /etc/kubernetes/*.conf; do [ ! -e "$file" ] || echo "$file"; done
  [ ! -e /etc/kubernetes/pki ] || find /etc/kubernetes/pki -type f | sed 1q
  [ ! -e "$data/member" ] || echo "$data/member"
  [ ! -e /var/lib/kubelet/pki/kubelet-client-current.pem ] || echo /var/lib/kubelet/pki/kubelet-client-current.pem
}
"""

_REBUILD = (
    FRAME
    + OCCUPIED
    + r"""
plan=$1 data=$2
state=/var/lib/orchestrator pods=/etc/kubernetes/manifests aside=/etc/kubernetes/orchestrator-$plan
mark=$state/rebuilt-$plan
ask name hostname
ask addresses sh -c 'ip -o addr show | sed "s/.* inet6* \([^ /]*\).*/\1/"'
ask kubeadm kubeadm version -o short
ask kubelet kubelet --version
ask kubectl sh -c 'command -v kubectl'
ask runtime systemctl is-active containerd crio
ask service systemctl is-active kubelet
ask manifests sh -c 'cd "$1" && ls ./*.yaml' sh "$pods"
ask aside sh -c 'cd "$1" && ls ./*.yaml' sh "$aside"
head others
for other in "$state"/rebuilt-*; do
  case $other in *.new | *.gone) continue ;; esac
  [ ! -e "$other/own" ] || [ -e "$other/ended" ] || [ "$other" = "$mark" ] || echo "${other#*/rebuilt-}"
done | body
for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
  for pid in $(pidof "$name"); do head process "$name" "$pid"; done
done
if [ -e "$mark/own" ]; then head own; else occupied | while read -r file; do head occupied "$file"; done; fi
[ ! -e "$mark/placed" ] || head placed
[ ! -e "$state/$plan/set.tar" ] || head set
[ ! -e "$state/$plan/snapshot.db" ] || head snapshot
[ ! -e "$data/member" ] || head member
[ ! -e "$mark/ended" ] || head ended
head end
"""
)

#: How a machine stands, and how far a plan of a rebuild came there. Takes the plan's name and etcd's data directory.
REBUILD = Query("rebuild", _REBUILD, 30.0)

# Restored node objects read Ready from the snapshot; a lease that is renewed has a kubelet behind it. Ages by the
# host's own clock. Source: a kubelet renews its lease every 10 s, and counts as away after 40 to 50.
_KUBELETS = (
    FRAME
    + OWN_API
    + r"""
api() { own_api --request-timeout=10s "$@"; }
ready='{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}'
nodes=$(api get nodes -o "jsonpath={range .items[*]}{.metadata.name} $ready{\"\\n\"}{end}" 2> /dev/null) || exit 0
leases=$(api -n kube-node-lease get leases \
  -o 'jsonpath={range .items[*]}{.metadata.name} {.spec.renewTime}{"\n"}{end}' 2> /dev/null) || exit 0
now=$(date +%s)
echo "$nodes" | while read -r name is why; do head node "$name" "$is"; echo "$why" | body; done
echo "$leases" | while read -r name time; do
  [ -z "$time" ] || head lease "$name" "$((now - $(date -d "$time" +%s)))"
done
head end
"""
)

#: Node objects with their condition, and how long ago each kubelet renewed its lease, by this host's own API server.
#: Takes no words.
KUBELETS = Query("kubelets", _KUBELETS, 30.0)
