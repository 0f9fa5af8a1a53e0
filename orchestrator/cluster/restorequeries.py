"""What a control plane is asked in the middle of a restore; see `cluster.queries`. Pure."""

from __future__ import annotations

from orchestrator.cluster.frame import DATA_OF, FRAME, Query

# Running means a process, not a port and not a record: an API server closes its port half a minute before it ends.
_RESTORE = (
    FRAME
    + DATA_OF
    + r"""
plan=$1 data=$2 target=${3:-}
pods=/etc/kubernetes/manifests; aside=/etc/kubernetes/orchestrator-$plan
ask manifests sh -c 'cd "$1" && ls ./*.yaml' sh "$pods"
ask aside sh -c 'cd "$1" && ls ./*.yaml' sh "$aside"
for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
  for pid in $(pidof "$name"); do head process "$name" "$pid"; done
done
systemctl is-active --quiet kubelet || head halted
kept=/etc/kubernetes/etcd.yaml.before-$plan
old() { head before "$1"; du -s -B1 "$1" 2> /dev/null | cut -f1 | body; }
if [ -n "$target" ]; then
  at=$target stage=$target.restore-$plan
  [ ! -e "$kept" ] || old "$data"
  [ ! -e "$target" ] || head occupied
else
  at=$data
  if mountpoint -q "$data"; then stage=$data/.restore-$plan before=$data/.before-$plan; else
    stage=$data.restore-$plan before=$data.before-$plan; fi
  [ ! -e "$before" ] || old "$before"
fi
[ ! -e "$stage" ] || head beside
[ ! -e "$stage/ready" ] || head staged
if mountpoint -q "$data"; then own=$data/.; else own=$data.; fi
if [ -n "$target" ]; then after=$target.restored-$plan; else after=${own}restored-$plan; fi
[ ! -e "${own}back-$plan/ready" ] || head raised
if [ -e "$after" ] || [ -e "${own}raw-$plan" ]; then head released; fi
[ ! -e "/etc/kubernetes/etcd.yaml.deleted-$plan" ] || head forgotten
[ ! -e "$at/member" ] || head member
for file in "$pods/etcd.yaml" "$aside/etcd.yaml"; do
  [ ! -f "$file" ] || if [ "$(data_of "$file")" = "${target:-$data}" ]; then head pointed; else head elsewhere; fi
done
head end
"""
)

#: Static pods and data of etcd, as a plan of a restore left them. Takes the plan's name and the data directory; where
#: the restored ones have a path of their own, that too.
RESTORE = Query("restore", _RESTORE, 30.0)
