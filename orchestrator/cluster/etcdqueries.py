"""What hosts are asked about etcd; see `cluster.queries`. Pure."""

from __future__ import annotations

from orchestrator.cluster.frame import DATA_OF, FRAME, Query

# The member of etcd that runs on a host, and etcd's own programs, which are in its container and seldom elsewhere. What
# they write is on the host, for only their root is looked through. Source: proc(5), `/proc/PID/root`. `started_by`
# is a command that takes the client as its words, where it is not started as it is. `etcdctl` leaves no variable
# behind: the scripts around it have a `file` of their own, which they remove.
# Source of `flag`: etcd's documentation, "Configuration options": a flag wins over its variable; with --config-file
# both are ignored, and keys of that file are flags' names, those of TLS in two sections of their own. Where nothing is
# said it listens to clients on http://localhost:2379.
MEMBER = r"""
started_by=
pid=$(pidof -s etcd) || pid=
root=; [ -z "$pid" ] || root="/proc/$pid/root"
given() {
  value=$(tr '\0' '\n' < "/proc/$pid/cmdline" | sed -n -e "s/^--*$1=//p" -e "/^--*$1\$/{n;p;}" | tail -n 1)
  name=ETCD_$(echo "$1" | tr a-z- A-Z_)
  [ -n "$value" ] || value=$(tr '\0' '\n' < "/proc/$pid/environ" | sed -n "s/^$name=//p" | tail -n 1)
  echo "$value"
}
settings=; [ -z "$pid" ] || settings=$(given config-file 2> /dev/null)
flag() {
  if [ -z "$settings" ]; then given "$1"; return; fi
  case $1 in
    peer-cert-file|peer-key-file|peer-trusted-ca-file) set -- "${1#peer-}" peer-transport-security ;;
    cert-file|key-file|trusted-ca-file|client-cert-auth) set -- "$1" client-transport-security ;;
  esac
  awk -v key="$1:" -v wanted="${2:-}" '
    /^[^ #]/ { section = "" }
    /^[^ #]+: *(#.*)?$/ { section = substr($1, 1, length($1) - 1) }
    $1 == key && section == wanted {
      sub(/^[^:]*: */, ""); sub(/ +#.*/, ""); gsub(/^["\047]|["\047] *$/, ""); print; exit
    }' "$root$settings"
}
tool() {
  for dir in "$root/usr/local/bin" "$root/usr/bin" "$root/bin" /usr/local/bin /usr/bin; do
    if [ -x "$dir/$1" ]; then echo "$dir/$1"; return; fi
  done
}
etcdctl() (
  urls=$(flag listen-client-urls | tr , '\n')
  url=$(echo "$urls" | grep -E '//(127\.0\.0\.1|localhost|\[::1\])[:/]' | sed 1q)
  [ -n "$url" ] || url=$(flag advertise-client-urls | cut -d, -f1)
  [ -n "$url" ] || url=http://localhost:2379
  set -- --endpoints="$url" --command-timeout="${patience:-5s}" -w json "$@"
  case $url in https:*)
    for each in trusted-ca-file=cacert cert-file=cert key-file=key; do
      file=$(flag "${each%=*}")
      [ -z "$file" ] || set -- "--${each#*=}=$root$file" "$@"
    done
  esac
  $started_by "$(tool etcdctl)" "$@"
)
"""

# Where etcd is on other machines, it is asked as the API server of this host asks it: `remote` has its URLs, `endpoint`
# one of them that is well, if any is. To be put behind `MEMBER`; nothing changes where etcd runs, or should, here.
# Source: kube-apiserver's `--etcd-…` flags; etcdctl, `endpoint health`: a learner is not well.
ELSEWHERE = r"""
server() {
  sed -n 's/^ *- "\{0,1\}--'"$1"'=\([^" ]*\)"\{0,1\}$/\1/p' /etc/kubernetes/manifests/kube-apiserver.yaml 2> /dev/null
}
remote=; endpoint=
if [ -z "$pid" ] && [ ! -f /etc/kubernetes/manifests/etcd.yaml ]; then remote=$(server etcd-servers | tr , ' '); fi
case $remote in *//127.*|*//localhost*|*'//[::1]'*) remote= ;; esac
[ -n "$(tool etcdctl)" ] || remote=
if [ -n "$remote" ]; then
  flag() {
    case $1 in
      advertise-client-urls) echo "$endpoint" ;;
      trusted-ca-file) server etcd-cafile ;;
      cert-file) server etcd-certfile ;;
      key-file) server etcd-keyfile ;;
    esac
  }
  for endpoint in $remote; do
    if etcdctl endpoint health > /dev/null 2>&1; then break; fi
  done
fi
"""

# Where a static pod does not run there is its image: `mount_of NAME` mounts it at `$mount`, which is empty where that
# cannot be; `unpacked` has `tool` look into etcd's; `packed` ends all of it.
# Source: ctr(8), `images mount`: a read-only view at a directory.
UNPACKED = r"""
mounted=; mount=
mount_of() {
  mount=
  image=$(cat "/etc/kubernetes/manifests/$1.yaml" /etc/kubernetes/orchestrator-*/"$1.yaml" 2> /dev/null |
    sed -n 's/^ *\(- \)\{0,1\}image: *//p' | sed 1q)
  place=$(mktemp -d /var/tmp/orchestrator.XXXXXX) || return 0
  mounted="$mounted $place"
  if ctr --namespace k8s.io images mount "$image" "$place" > /dev/null 2>&1; then mount=$place; fi
}
unpacked() {
  [ -z "$root" ] || return 0
  mount_of etcd; root=$mount
}
packed() {
  for place in $mounted; do
    ctr --namespace k8s.io images unmount "$place" > /dev/null 2>&1 || true
    rmdir -- "$place" 2> /dev/null || true
  done
  mounted=
}
"""

_MEMBERS = """
ask members etcdctl member list
ask status etcdctl endpoint status --cluster
ask health etcdctl endpoint health --cluster
ask alarms etcdctl alarm list
"""

# The client of the member's own version, out of the running container. Source: seen on etcd 3.6 and 3.7 of kubeadm,
# whose images have no shell. An answer of some members comes with an exit code of 1.
_ETCD = (
    FRAME
    + MEMBER
    + r"""
here='--etcd-servers=https://\(127\.0\.0\.1\|localhost\|\[::1\]\):'
if [ -f /etc/kubernetes/manifests/etcd.yaml ] || grep -q -s -e "$here" /etc/kubernetes/manifests/kube-apiserver.yaml
then head stacked; fi
[ -n "$pid" ] || exit 0
"""
    + _MEMBERS
)

#: Every etcd member, asked directly by one that runs on this host; nothing of them where none does, but that one
#: should. Takes no words.
ETCD = Query("etcd", _ETCD, 60.0)

#: As `ETCD`, of an etcd on other machines; nothing where it is on this one, or no client is. Takes no words.
ETCD_ELSEWHERE = Query("etcd-elsewhere", FRAME + MEMBER + ELSEWHERE + '[ -n "$remote" ] || exit 0' + _MEMBERS, 120.0)

# What else there is to know of the member on a host: how it was started, where its data are, what it measured.
# Source: proc(5); etcd takes each flag from its environment too, as ETCD_NAME; kubeadm's hostPath of `etcd-data` is
# what its containers see at --data-dir. Its metrics are plain HTTP on loopback, where kubeadm left them.
_ETCD_HOST = (
    FRAME
    + DATA_OF
    + MEMBER
    + r"""
pods=/etc/kubernetes/manifests
if [ -f "$pods/etcd.yaml" ]; then head manifest "$pods/etcd.yaml"; body < "$pods/etcd.yaml"; fi
ask servers sed -n 's/.*--etcd-servers=//p' "$pods/kube-apiserver.yaml"
ask apiserver sed -n 's/^ *\(- \)\{0,1\}image: *//p' "$pods/kube-apiserver.yaml"
ask authority sha256sum /etc/kubernetes/pki/ca.crt
data=$(data_of "$pods/etcd.yaml" 2> /dev/null)
metrics() {
  for url in $(flag listen-metrics-urls | tr , ' '); do
    case $url in http://*) ;; *) continue ;; esac
    where=${url#http://}
    bash -c 'exec 3<> "/dev/tcp/$0/$1" && printf "GET /metrics HTTP/1.0\r\n\r\n" >&3 && timeout 5 cat <&3' \
      "${where%:*}" "${where##*:}" && return
  done
}
if [ -n "$pid" ]; then
  head process "$pid"
  for name in name data-dir wal-dir cert-file key-file trusted-ca-file client-cert-auth listen-client-urls \
    advertise-client-urls listen-peer-urls initial-advertise-peer-urls peer-cert-file peer-key-file \
    peer-trusted-ca-file quota-backend-bytes listen-metrics-urls; do
    echo "$name=$(flag "$name")"
  done | body
  ask cgroup cat "/proc/$pid/cgroup"
  ask version "/proc/$pid/root$(readlink "/proc/$pid/exe")" --version
  for name in etcdctl etcdutl; do
    program=$(tool "$name"); if [ -n "$program" ]; then head tool "$name" "$program"; fi
  done
  [ -n "$data" ] || data=$(flag data-dir)
  ask status etcdctl endpoint status
  ask health etcdctl endpoint health
  head metrics
  metrics 2> /dev/null | grep -E '^etcd_disk_(wal_fsync|backend_(commit|defrag))_duration_seconds_(sum|count)' | body
fi
if [ -n "$data" ] && [ -d "$data" ]; then
  head data "$data"
  {
    stat -c '%u %g %a %C' "$data"
    if mountpoint -q "$data"; then echo yes; else echo no; fi
    df -P -B1 "$data" | tail -n 1
    du -s -B1 "$data" | cut -f1
    ls -A "$data"
  } 2> /dev/null | body
fi
stamp=/var/lib/orchestrator/etcd-defragmented
if [ -f "$stamp" ]; then ask defragmented stat -c %Y "$stamp"; fi
head end
"""
)

#: The member of etcd on this host: flags, files, data directory, version, programs, latencies. Takes no words.
ETCD_HOST = Query("etcd-host", _ETCD_HOST, 60.0)

# One answer is at one revision. Source: seen on etcd 3.6 and 3.7: with --keys-only the server leaves values out.
_ETCD_KEYS = (
    FRAME
    + MEMBER
    + r"""
patience=60s
if [ -n "$pid" ]; then ask keys etcdctl get / --prefix --keys-only; fi
head end
"""
)

#: Every key of etcd with its revisions, without values. Takes no words.
ETCD_KEYS = Query("etcd-keys", _ETCD_KEYS, 120.0)

_ETCD_HASH = (
    FRAME
    + MEMBER
    + r"""
if [ -n "$pid" ]; then ask hash etcdctl endpoint hashkv --rev "$1"; fi
head end
"""
)

#: The hash of the keys of the member on this host. Takes a revision, 0 for the latest.
ETCD_HASH = Query("etcd-hash", _ETCD_HASH, 120.0)
