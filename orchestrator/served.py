"""A snapshot served for a moment: by an etcd of its own, and by an API server on that; then all of it is cleared away.

What is asked of them meanwhile is the caller's: `drills` compares, `extracts` takes an object out.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator import away
from orchestrator.actions.backups import STAGING
from orchestrator.backup.contents import ROOT, parse_key
from orchestrator.backup.snapshot import entries
from orchestrator.cluster import recovery
from orchestrator.cluster.etcdqueries import MEMBER, UNPACKED
from orchestrator.cluster.frame import FRAME
from orchestrator.engine.host import STATE, demand
from orchestrator.errors import BadUsage
from orchestrator.library import home

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from orchestrator.app import App
    from orchestrator.engine.host import Host
    from orchestrator.library import Proven

#: Seconds for all of it on a large snapshot.
SERVE_S = 1800.0
SEND_S = 1800.0

# The static pod of an API server that may not run: in its place, or where a run has put it aside.
MANIFEST = r"""
for file in /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/orchestrator-*/kube-apiserver.yaml; do
  if [ -r "$file" ]; then exec cat "$file"; fi
done
"""

# What tidies up after the last plan may take the empty parent away between the two.
_DIRECTORY = r"""
for attempt in 1 2 3; do
  mkdir -p -m 700 -- "$1"
  if mkdir -m 700 -- "$2"; then exit 0; fi
done
exit 1
"""

# A real etcd of the snapshot's own minor, on sockets in a directory that only root may enter: what it serves holds
# every Secret. It gets the lowest priority, and memory in proportion to the database. It ends with this shell, even
# when that is killed; the directory is then removed by the next one, for nobody holds its lock. PIPE is what it gets
# when whoever asked is gone.
# Source: etcd listens on Unix sockets for URLs `unix://HOST:PORT`, files of that name in its working directory.
# Source: `etcdutl snapshot restore` checks the sum at the snapshot's end; etcd 3.6 has no `etcdctl snapshot restore`.
# Source: setpriv(1), `--pdeathsig`: the signal that a process gets when its parent ends; it outlasts execve(2).
_ETCD = (
    FRAME
    + MEMBER
    + UNPACKED
    + r"""
umask 077
dir=$1 programs=$2 trailer=$3 memory=$4 room=$5; shift 5
started=
over() { [ -z "$started" ] || { kill -9 $started; wait; } 2> /dev/null; cd /; packed; rm -rf -- "$dir"; }
trap over EXIT; trap 'exit 143' HUP INT TERM PIPE
cd "$dir" || exit
if command -v flock > /dev/null; then
  exec 9< "$dir"; flock -n 9
  find "$(dirname -- "$dir")" -mindepth 1 -maxdepth 1 -type d -name 'served-*' -mmin +60 \
    -exec flock -n '{}' rm -rf -- '{}' ';'
fi
[ -n "$programs" ] || unpacked
unset -f etcdctl  # `command -v` has to find the program
place_of() {
  place=
  if [ -n "$programs" ]; then
    place=$(echo "$programs" | tr : '\n' | while read -r at; do [ ! -x "$at/$1" ] || echo "$at/$1"; done | sed 1q)
  else
    place=$(tool "$1")
  fi
  if [ -n "$place" ]; then echo "$place"; else command -v "$1"; fi
}
for name in etcd etcdctl etcdutl; do
  program=$(place_of "$name") || { head missing "$name"; exit 0; }
  cp "$program" "$dir/$name" || exit
done
head version; ./etcd --version | body
head tool; ./etcdutl version | body
skip=; [ "$trailer" = yes ] || skip=--skip-hash-check
clock() { date +%s.%N; }
head began; clock | body
nice -n 19 ./etcdutl snapshot restore snapshot.db --data-dir data --name drill \
  --initial-cluster drill=http://127.0.0.1:2 \
  --initial-advertise-peer-urls http://127.0.0.1:2 --initial-cluster-token "drill-$$" $skip > said 2>&1 ||
  { head failed restore; tail -n 5 said | body; exit 0; }
rm -f snapshot.db
head restored; clock | body
tied=; ! setpriv --pdeathsig KILL true 2> /dev/null || tied="setpriv --pdeathsig KILL"
limited() {
  if command -v systemd-run > /dev/null && [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ]; then
    echo "$tied systemd-run --scope --quiet --collect -p MemoryMax=$1 -p CPUWeight=10 -p IOWeight=10 nice -n 19"
  else
    echo "$tied nice -n 19"
  fi
}
$(limited "$memory") ./etcd --name drill --data-dir data --listen-client-urls unix://127.0.0.1:1 \
  --advertise-client-urls unix://127.0.0.1:1 --listen-peer-urls unix://127.0.0.1:2 \
  --initial-advertise-peer-urls http://127.0.0.1:2 --listen-metrics-urls unix://127.0.0.1:3 \
  --quota-backend-bytes "$memory" --log-level error > log 2>&1 &
started=$!
ask_it() { ./etcdctl --endpoints=unix://127.0.0.1:1 --command-timeout=60s "$@"; }
n=0
until ask_it --command-timeout=1s endpoint health > /dev/null 2>&1; do
  n=$((n + 1))
  if [ "$n" -ge 240 ] || ! kill -0 "$started" 2> /dev/null; then head failed start; tail -n 5 log | body; exit 0; fi
  sleep 0.25
done
head started; clock | body
"""
)

# An API server on that etcd, and on nothing else. It is this host's own program, of its image where it does not run,
# with those of its settings that decide what it can read. `k` is kubectl for it, by a token that was made here and
# stands in no command line.
#
# It reaches nothing else, but for plugins that have keys: its etcd is a socket of this directory; for root it is in a
# network of its own that has only loopback, so that nobody else reaches it either; and what it would send into the
# cluster (webhooks of admission and of conversion, aggregated APIs) is told to go through a socket that does not exist.
# Source: k8s.io/apiserver, EgressSelectorConfiguration: `cluster` is what goes to Services, `controlplane` what goes to
# URLs of webhooks. unshare(1), nsenter(1), proc(5).
# Source: flags of kube-apiserver 1.35 to 1.37; without its watch cache it reads what is asked for, and no more. It
# makes its own certificate where there is none. RBAC is left out: there is one user, who may read all of it.
API_SERVER = r"""
cat > input
sed -n 's/^definition //p' input > definitions
head server-began; clock | body
serving=; : > flags
if [ -z "$programs" ]; then
  serving=$(pidof -s kube-apiserver) || serving=
  # One that ends at this very moment is none.
  if ! { [ -n "$serving" ] && cp "/proc/$serving/root$(readlink "/proc/$serving/exe")" kube-apiserver &&
    tr '\0' '\n' < "/proc/$serving/cmdline" > flags && [ -s flags ]; } 2> /dev/null; then serving=; fi
fi
if [ -n "$serving" ]; then
  program=$dir/kube-apiserver
elif [ -s manifest ]; then
  mount_of kube-apiserver; program=$mount/usr/local/bin/kube-apiserver
  sed -n 's/^ *- "\{0,1\}\(--[^"]*\)"\{0,1\}$/\1/p' manifest > flags
else
  program=$(place_of kube-apiserver)
fi
[ -x "$program" ] || { head missing kube-apiserver; exit 0; }
kubectl=$(place_of kubectl) || { head missing kubectl; exit 0; }
setting() { sed -n "s/^--$1=//p" flags | tail -n 1; }
# As the server that runs has them; else where its manifest says that the host does.
keys=$(setting encryption-provider-config)
if [ ! -f encryption.yaml ] && [ -n "$keys" ]; then
  if [ -z "$serving" ] || ! cp "/proc/$serving/root$keys" encryption.yaml 2> /dev/null; then
    [ ! -s keys-at ] || keys=$(cat keys-at)
    cp "$keys" encryption.yaml 2> said || { head failed keys; body < said; exit 0; }
  fi
fi
if [ -f encryption.yaml ] && [ -f sockets ]; then sed -i -f sockets encryption.yaml; fi
cat > egress.yaml << END
apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection: &nowhere {proxyProtocol: HTTPConnect, transport: {uds: {udsName: $dir/nowhere}}}
- name: controlplane
  connection: *nowhere
END
wall=
if [ "$(id -u)" = 0 ] && command -v ip > /dev/null && unshare --net true 2> /dev/null; then wall="unshare --net"; fi
port=
until [ -n "$port" ] && ! grep -qi ":$(printf %04x "$port") [0-9A-F]*:0000 0A" /proc/net/tcp; do
  port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
done
token=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
echo "$token,orchestrator,orchestrator,system:masters" > tokens.csv
cat > kubeconfig << END
apiVersion: v1
kind: Config
clusters: [{name: s, cluster: {server: "https://127.0.0.1:$port", certificate-authority: $dir/certs/apiserver.crt}}]
users: [{name: s, user: {token: "$token"}}]
contexts: [{name: s, context: {cluster: s, user: s}}]
current-context: s
END
"$program" --help > help 2>&1
off=
for plugin in MutatingAdmissionWebhook ValidatingAdmissionWebhook MutatingAdmissionPolicy ValidatingAdmissionPolicy; do
  ! grep -q "$plugin" help || off=$off,$plugin
done
serve() {
  for name in service-cluster-ip-range runtime-config feature-gates; do
    value=$(setting "$name")
    [ -n "$value" ] || [ "$name" != service-cluster-ip-range ] || value=10.96.0.0/12
    [ -z "$value" ] || set -- "$@" "--$name=$value"
  done
  [ ! -f encryption.yaml ] || set -- "$@" --encryption-provider-config=encryption.yaml
  exec $(limited "$room") $wall sh -c '[ "$1" = no ] || ip link set lo up; shift; exec "$@"' sh "${wall:-no}" \
    env GOMEMLIMIT="$((room * 9 / 10))" "$program" --etcd-servers=unix://127.0.0.1:1 --bind-address=127.0.0.1 \
    --advertise-address=127.0.0.1 --secure-port="$port" --cert-dir="$dir/certs" --endpoint-reconciler-type=none \
    --watch-cache=false --profiling=false --authorization-mode=AlwaysAllow --anonymous-auth=false \
    --token-auth-file=tokens.csv --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file=accounts.key --service-account-signing-key-file=accounts.key \
    --egress-selector-config-file=egress.yaml --disable-admission-plugins="${off#,}" "$@"
}
serve > server.log 2>&1 < /dev/null &
server=$!
started="$started $server"
k() {
  inside=; [ -z "$wall" ] || inside="nsenter --net=/proc/$server/ns/net"
  HOME=$dir nice -n 19 $inside "$kubectl" --kubeconfig="$dir/kubeconfig" --cache-dir="$dir/cache" "$@"
}
# Its caches are not waited for: where Secrets cannot be decrypted, that of Secrets is never filled, and the rest can be
# read all the same; nor are plugins that have keys. Who asks for Secrets is told.
# Source: k8s.io/apiserver 1.37, `server/options/encryptionconfig`: plugins of KMS v2 are one check, of v1 one each.
unasked='exclude=informer-sync&exclude=kms-providers&exclude=kms-provider-0&exclude=kms-provider-1'
n=0
until k --request-timeout=5s get --raw "/readyz?$unasked" > said 2>&1; do
  n=$((n + 1))
  if [ "$n" -ge 480 ] || ! kill -0 "$server" 2> /dev/null; then
    head failed server; { grep -E '^[EF][0-9]|^[Ee]rror' server.log || cat said; } | tail -n 5 | body; exit 0
  fi
  sleep 0.25
done
# Custom resources are served some time after it is ready; those whose definition is not established never are.
n=0
until k api-resources --verbs=list --no-headers 2> /dev/null | sed -e 's/  */ /g' > kinds &&
  [ -z "$(awk 'FNR == NR { g = $(NF - 2); sub("/.*", "", g); s[$1 "." g]; next } !($1 in s)' kinds definitions)" ]; do
  n=$((n + 1)); [ "$n" -lt 60 ] || break
  sleep 0.5
done
# A custom resource may have to be converted by a webhook, from the version that it was stored in to that which is asked
# for. No webhook is reached here: so it is asked for again as it was stored, which the error names.
# Source: k8s.io/apiextensions-apiserver 1.36.
STORED_AS='conversion webhook for \([^ ,/]*\)/\([^ ,/]*\), Kind=\([A-Za-z0-9]*\) failed'
head ready; clock | body
ask kubernetes k get --raw /version
"""


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a snapshot is served, and by what.

    Attributes:
        node: On whose host, with the programs that run there; "" for that of the member that it was taken of.
        here: On this machine.
        programs: Directories of this machine with etcd, etcdctl, etcdutl, and for an API server kube-apiserver and
            kubectl; what is in none of them is looked for on PATH.
        encryption: The EncryptionConfiguration that values at rest were encrypted by; None for that of the API server
            there, whether it runs or not.
    """

    node: str = ""
    here: bool = False
    programs: tuple[Path, ...] = ()
    encryption: Path | None = None

    @property
    def where(self) -> str:
        """For people."""
        return "this machine" if self.here else self.node


def seated(app: App, seat: Seat, copy: Proven, say: Callable[[str], None]) -> Seat:
    """The one of a snapshot, with its node, which is known where it is.

    Raises:
        BadUsage: Which node that is, is not known.
        ApiError, HostError, Refused: As `away.reach`.
    """
    node = "" if seat.here else seat.node or (copy.held.record.node if copy.held else "")
    if not node and not seat.here:
        raise BadUsage("of a file nobody knows where it was taken", remedy="name a --node, or pass --here")
    if node:
        away.reach(app, node, copy.record, say, chosen=bool(seat.node))
    return replace(seat, node=node)


def definitions(copy: Proven) -> tuple[str, ...]:
    """Names of the CustomResourceDefinitions of a snapshot.

    Raises:
        SnapshotInvalid: The bucket of keys is damaged.
    """
    prefix = f"{ROOT}apiextensions.k8s.io/customresourcedefinitions/".encode()
    return tuple(parse_key(each.key).name for each in entries(copy.path, trailer=copy.trailer, prefix=prefix))


def moment(
    app: App, copy: Proven, place: Seat, job: str, words: Sequence[str], lines: Sequence[str] | None = None
) -> str:
    """What a script says while an etcd has the snapshot.

    Args:
        app: For the host.
        copy: The snapshot.
        place: Where.
        job: The script. `ask_it` is etcdctl for that etcd; after `API_SERVER`, `k` is kubectl for an API server on it.
        words: `$1`, `$2`, … of the script.
        lines: In its file `input`, where an API server is started. Those that begin with `definition` name
            CustomResourceDefinitions, which are waited for. What comes back may then hold Secrets.

    Returns:
        Its answer, in the frame of `cluster.frame`, behind what was seen before it began.

    Raises:
        HostError: The host could not be worked on.
    """
    here, api_server = place.here, lines is not None
    files = _equipment(place) if api_server else {}
    host = app.here() if here else app.host(place.node)
    if api_server and not place.programs:
        files |= _told_by_manifest(host, sudo=not here)
    parent = str(home() / STAGING) if here else STATE
    owner, directory = "" if here else "root:root", f"{parent}/served-{secrets.token_hex(6)}"
    size = copy.snapshot.size_bytes
    programs, trailer = ":".join(map(str, place.programs)), "yes" if copy.trailer else "no"
    limits = (str(4 * size + (512 << 20)), str(2 * size + (1 << 30)))
    argv = ["sh", "-c", _ETCD + job, "sh", directory, programs, trailer, *limits, *words]
    stdin = "".join(f"{line}\n" for line in lines or ()).encode()
    making = ["sh", "-c", _DIRECTORY, "sh", parent, directory]
    demand(host, host.run(making, timeout_s=30.0, sudo=not here))
    try:
        host.send(copy.path, f"{directory}/snapshot.db", mode=0o600, owner=owner, timeout_s=SEND_S)
        for name, content in files.items():
            host.write(f"{directory}/{name}", content, mode=0o600, owner=owner, timeout_s=30.0)
        done = host.run(argv, timeout_s=SERVE_S, stdin=stdin, sudo=not here, private=api_server)
    finally:
        host.run(["rm", "-rf", "--", directory], timeout_s=60.0, sudo=not here, repeatable=True)
    return done.stdout.decode(errors="replace")


def _equipment(place: Seat) -> dict[str, bytes]:
    """Files that an API server needs beside a snapshot: a key for tokens that nobody else takes, those of encryption.

    Raises:
        BadUsage: The ones that were named cannot be read.
    """
    files = {"accounts.key": _key()}
    if place.encryption:
        try:
            files["encryption.yaml"] = place.encryption.read_bytes()
        except OSError as err:
            raise BadUsage(
                f"{place.encryption} cannot be read: {err.strerror}",
                remedy="name the API server's EncryptionConfiguration: it is in the recovery set",
            ) from err
    return files


def _told_by_manifest(host: Host, *, sudo: bool) -> dict[str, bytes]:
    """Files that tell of a host's API server, which may not run, what its manifest does; empty ones where it has none.

    Raises:
        HostError: The host could not be asked.
    """
    text = demand(host, host.run(["sh", "-c", MANIFEST], timeout_s=30.0, sudo=sudo, repeatable=True)).text
    told = {"manifest": text, "keys-at": recovery.encryption(text), "sockets": recovery.sockets(text)}
    return {name: content.encode() for name, content in told.items()}


def _key() -> bytes:
    """A new key for tokens of service accounts.

    Source: kube-apiserver 1.36 reads EC keys in the traditional form only, for flags that take public ones, too.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  slow to import
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(*form)
