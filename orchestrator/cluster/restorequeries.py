"""What a control plane is asked in the middle of a restore; see `cluster.queries`. Pure."""

from __future__ import annotations

from orchestrator.cluster.frame import FRAME, Query

# Running means a process, not a port and not a record: an API server closes its port half a minute before it ends.
_RESTORE = (
    FRAME
    + r"""
plan=$1 data=$2
pods=/etc/kubernetes/manifests; aside=/etc/kubernetes/orchestrator-$plan
ask manifests sh -c 'cd "$1" && ls ./*.yaml' sh "$pods"
ask aside sh -c 'cd "$1" && ls ./*.yaml' sh "$aside"
for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
  for pid in $(pidof "$name"); do head process "$name" "$pid"; done
done
if mountpoint -q "$data"; then stage=$data/.restore-$plan before=$data/.before-$plan; else
  stage=$data.restore-$plan before=$data.before-$plan; fi
[ ! -e "$stage/ready" ] || head staged
[ ! -e "$before" ] || { head before; du -s -B1 "$before" 2> /dev/null | cut -f1 | body; }
[ ! -e "$before/moved" ] || head moved
[ ! -e "$data/member" ] || head member
head end
"""
)

#: Static pods and data of etcd, as a plan of a restore left them. Takes the plan's name and the data directory.
RESTORE = Query("restore", _RESTORE, 30.0)
