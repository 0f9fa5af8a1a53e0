"""What runs on a control plane's host beside kubeadm, and beside its kubelet's restart: waits that lead to nothing end.

Nothing of what kubeadm does is done in its place. Where a tool or the kernel cannot, that wait is as long as it is by
itself. `docs/decisions` 8, 15 and 17 say what was measured, and what was rejected.
"""

from __future__ import annotations

# Connections are closed, and everybody at their other end connects again. Source: ss(8), -K: closes sockets that match,
# where the kernel can.
# - While a stacked etcd is replaced, the kubelet has stopped the old member, and wants to delete its mirror pod then,
#   through the API server of the same host, whose only etcd is the one that was stopped: seen on three of three
#   control planes, 34 s each. Without its connection the call fails at once, and it goes on to start the new one.
# - A member that is told to end waits up to 7 s for streams of its API server, which never end: seen, 7.2 s; 2.2 s
#   where they are closed 1.5 s after its new manifest. It has to be gone when the kubelet looks whether the new one may
#   start, after 10 s or more, or that comes as long again later. Source: etcd 3.6, `server/embed`, `Etcd.Close`.
# - An API server that is told to end closes its port at once, and then waits for clients that never leave (watches)
#   until it is killed after 30 s: seen, 30 s; 2.8 s where their connections are closed 2 s after the port, which is
#   what its requests in flight are left.
_CLOSE = r"""
began() {
  awk -v now="$(date +%s)" -v ticks="$(getconf CLK_TCK)" \
    'FNR == NR { up = $1; next } { sub(/.*\) /, ""); print int(now - up + $20 / ticks) }' /proc/uptime "/proc/$1/stat"
}
replaced() {
  member=$(pidof -s etcd) && written=$(stat -c %Y /etc/kubernetes/manifests/etcd.yaml 2> /dev/null) &&
    start=$(began "$member") && [ "$written" -gt "$start" ]
}
closing() {
  without=0 closed=0 ending=0
  while sleep 0.5; do
    if replaced; then ending=$((ending + 1)); else ending=0; fi
    [ "$ending" != 3 ] || ss -K -H -t -n state established "( sport = :2379 )" > /dev/null 2>&1
    if pidof kube-apiserver > /dev/null && ! listens; then
      closed=$((closed + 1))
      [ "$closed" -lt 4 ] || ss -K -H -t -n state established "( sport = :$port )" > /dev/null 2>&1
    else
      closed=0
    fi
    if pidof etcd > /dev/null || [ ! -f /etc/kubernetes/manifests/etcd.yaml ]; then without=0; continue; fi
    without=$((without + 1))
    [ "$without" -ge 16 ] && [ $((without % 4)) = 0 ] || continue
    kubelet=$(systemctl show kubelet --property=MainPID --value)
    ss -H -t -n -p state established "( dport = :$port )" | grep "pid=$kubelet," | while read -r _ _ from _; do
      ss -K -H -t -n state established src "$from" > /dev/null 2>&1
    done
  done
}
"""

# A kubelet that has to see the old static pod off before the new one starts looks again after 10 to 15 s, unless it
# hears of the pod meanwhile: its mirror pod, which is about to be replaced, is given an annotation while nothing of
# the component runs. Seen: 14.8 s for a controller manager that was gone after 0.2. Where the kubelet asks the API
# server that is replaced, it cannot hear. Source: Kubernetes 1.36, `pkg/kubelet/pod_workers.go`,
# `allowStaticPodStart`, and `kubelet.go`, `HandlePodUpdates`: an update of a mirror pod is one of its static pod.
_TELL = r"""
telling() {
  while sleep 0.5; do
    for name in kube-apiserver kube-controller-manager kube-scheduler; do
      [ -f "/etc/kubernetes/manifests/$name.yaml" ] && ! pidof "$name" > /dev/null || continue
      api annotate pod "$name-$1" --overwrite "kube-orchestrator.io/gone=$(date +%s.%N)" > /dev/null 2>&1 || true
    done
  done
}
"""

# A controller manager or scheduler that was replaced waits until the lease of the one before it runs out, for 15 s and
# more. Its holder is gone when it is one of this host, and renewed last before the only process of that name there
# began: the lease is then released as its holder would have released it, unless somebody changed it meanwhile.
# Source: client-go, `tools/leaderelection`: `release` empties the holder and leaves a second; proc(5), stat, field 22.
_RELEASE = r"""
releasing() { while sleep 1; do release kube-controller-manager; release kube-scheduler; done; }
release() {
  process=$(pidof "$1") || return 0
  case $process in *" "*) return 1 ;; esac
  start=$(began "$process") || return 1
  [ $(($(date +%s) - start)) -lt 60 ] || return 0
  said=$(own_api get lease "$1" -o 'jsonpath={.metadata.resourceVersion} {.spec.renewTime} {.spec.holderIdentity}' \
    2> /dev/null) || return 1
  read -r version renewed holder << END
$said
END
  case $holder in "$(hostname)"_*) ;; *) return 0 ;; esac
  [ "$(date -d "$renewed" +%s)" -lt "$start" ] || return 0
  own_api patch lease "$1" --type merge -p "{\"metadata\":{\"resourceVersion\":\"$version\"},\
\"spec\":{\"holderIdentity\":\"\",\"leaseDurationSeconds\":1}}" > /dev/null 2>&1
}
"""

# Clients of an only API server that is away are refused, and each waits longer after every refusal, up to a minute.
# While nobody listens on its port, who wants to connect is not answered instead, for 30 s at most, and is connected
# once there is somebody who is ready. The kernel ends that by itself, whatever becomes of this script, and nobody is
# kept from a server that serves. The kubelet of the same host is one of them: without its watch nobody learns that the
# new API server runs. But before it starts that, it wants to delete a mirror pod, and must be refused then; that comes
# 10 to 15 s after the manifest was replaced. With several API servers a refusal is what sends a client to another one:
# nothing is done there.
# Source: client-go, reflectors wait 0.8 s to 30 s, doubled by jitter, and dials last 30 s; tcp(7): a SYN that is not
# answered is sent again; nft(8), sets with timeouts; seen: decision 17.
_HOLD = r"""
only() {
  ! grep -q -- '--bind-address=' /etc/kubernetes/manifests/kube-apiserver.yaml &&
    [ "$(own_api get nodes -l node-role.kubernetes.io/control-plane -o name 2> /dev/null | grep -c .)" = 1 ]
}
ready() { own_api get --raw /readyz > /dev/null 2>&1; }
held() { nft "$1" element inet kube_orchestrator "$2" "{ $port $3 }" 2> /dev/null; }
refused() { held delete own ""; ss -K -H -t -n state syn-sent "( dport = :$port )" > /dev/null 2>&1; }
# Takes `yes` where the kubelet of this host has to be kept, too.
holding() {
  nft -f - 2> /dev/null << END || return 0
table inet kube_orchestrator
delete table inet kube_orchestrator
table inet kube_orchestrator {
  set others { type inet_service; flags timeout; }
  set own { type inet_service; flags timeout; }
  chain clients {
    type filter hook input priority -10; policy accept;
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
    iif "lo" tcp dport @own tcp flags & (syn | ack) == syn drop
    iif != "lo" tcp dport @others tcp flags & (syn | ack) == syn drop
  }
}
END
  trap 'nft delete table inet kube_orchestrator; exit' HUP INT TERM
  away=0
  while sleep 0.2; do
    if [ "$away" = 0 ]; then
      listens || { held add others "timeout 30s" && away=1; }
      [ "$away" = 0 ] || [ "$1" != yes ] || held add own "timeout 8s"
      continue
    fi
    away=$((away + 1))
    if listens && ready; then held delete others ""; held delete own ""; away=0; continue; fi
    [ "$1" = yes ] || continue
    [ "$away" != 36 ] || refused
    [ "$away" -le 36 ] || ! pidof kube-apiserver > /dev/null || held add own "timeout 4s"
  done
}
"""

_ALL = (
    _CLOSE
    + _TELL
    + _RELEASE
    + _HOLD
    + r"""
api() {
  timeout 5 kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 3s -n kube-system "$@"
}
run() { pidof kube-controller-manager > /dev/null && pidof kube-scheduler > /dev/null; }
own_api() { api --server "https://127.0.0.1:$port" --tls-server-name kubernetes "$@"; }
listens() { ss -H -l -t -n "( sport = :$port )" | grep -q .; }
beside=
hastening() {
  manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
  if [ ! -f "$manifest" ] || ! command -v ss > /dev/null; then return 0; fi
  port=$(sed -n 's/.*--secure-port=//p' "$manifest"); port=${port:-6443}
  closing & beside=$!
  releasing & beside="$beside $!"
  if command -v nft > /dev/null && only; then holding "$1" & beside="$beside $!"; fi
}
enough() {
  [ -n "$beside" ] || return 0
  kill $beside 2> /dev/null; wait $beside 2> /dev/null || true
}
"""
)

#: kubeadm with its words, and what is spared meanwhile. Takes the node's name, then kubeadm's command line.
HASTENED = (
    "set -u"
    + _ALL
    + r"""
node=$1; shift
hastening yes
[ -z "$beside" ] || { telling "$node" & beside="$beside $!"; }
"$@"; rc=$?
enough
exit "$rc"
"""
)

# A kubelet whose file was replaced goes on with the old one until it is restarted. With a new minor, its first start
# restarts the static pods of a control plane 2 to 5 s later: that is waited for here, so that it is as short as can be.
#: The kubelet restarted, behind `packages.INSTALL`.
RESTART = (
    "trap - EXIT; again"
    + _ALL
    + r"""
server=$(pidof kube-apiserver)
hastening no
systemctl daemon-reload && systemctl restart kubelet; rc=$?
n=0
while [ "$rc" = 0 ] && [ -n "$beside" ] && [ -n "$server" ] && [ "$n" -lt 40 ]; do
  [ "$(pidof kube-apiserver)" = "$server" ] || break
  if [ "$n" -ge 16 ] && listens; then break; fi
  n=$((n + 1)); sleep 0.5
done
n=0
while [ "$rc" = 0 ] && [ -n "$beside" ] && [ -n "$server" ] && [ "$n" -lt 40 ]; do
  ! { listens && ready && run && release kube-controller-manager && release kube-scheduler; } || break
  n=$((n + 1)); sleep 0.5
done
enough
exit "$rc"
"""
)
