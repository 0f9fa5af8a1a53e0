"""The use case of a drill: a snapshot restored beside everything, a real etcd started on it, and looked at."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.actions.backups import STAGING
from orchestrator.backup import metrics
from orchestrator.backup.drilled import Drilled, judged
from orchestrator.backup.records import Drill
from orchestrator.cluster.etcdqueries import MEMBER, UNPACKED
from orchestrator.cluster.frame import FRAME
from orchestrator.engine.host import STATE
from orchestrator.errors import BackupError, BadUsage
from orchestrator.library import home, proven

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator.app import App
    from orchestrator.backup.snapshot import Snapshot
    from orchestrator.library import Library

#: Seconds for all of it on a large snapshot.
DRILL_S = 1800.0
SEND_S = 1800.0
#: Prefixes whose keys are counted again by the etcd that was started.
_PREFIXES = 5

# A real etcd of the snapshot's own minor, on sockets in a directory that only root may enter: what it serves holds
# every Secret. It gets the lowest priority, and memory in proportion to the database.
# Source: etcd listens on Unix sockets for URLs `unix://HOST:PORT`, files of that name in its working directory.
# Source: `etcdutl snapshot restore` checks the sum at the snapshot's end; etcd 3.6 has no `etcdctl snapshot restore`.
_DRILL = (
    FRAME
    + MEMBER
    + UNPACKED
    + r"""
umask 077
dir=$1 programs=$2 trailer=$3 memory=$4; shift 4
started=
over() { [ -z "$started" ] || kill -9 "$started" 2> /dev/null; cd /; packed; rm -rf -- "$dir"; }
trap over EXIT; trap 'exit 143' HUP INT TERM
cd "$dir" || exit
[ -n "$programs" ] || unpacked
place_of() { if [ -n "$programs" ]; then echo "$programs/$1"; else tool "$1"; fi; }
for name in etcd etcdctl etcdutl; do
  program=$(place_of "$name")
  [ -x "$program" ] || program=$(command -v "$name") || { head missing "$name"; exit 0; }
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
limit=
if command -v systemd-run > /dev/null && [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ]; then
  limit="systemd-run --scope --quiet --collect -p MemoryMax=$memory -p CPUWeight=10 -p IOWeight=10"
fi
$limit nice -n 19 ./etcd --name drill --data-dir data --listen-client-urls unix://127.0.0.1:1 \
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
head status; ask_it endpoint status -w json 2> /dev/null | body
head hash; ask_it endpoint hashkv -w json 2> /dev/null | body
count() { ask_it get "$@" --count-only --write-out=fields 2> /dev/null | sed -n 's/^"Count" : //p'; }
head count all; count "" --from-key | body
for prefix in "$@"; do head count "$prefix"; count "$prefix" --prefix | body; done
head ended; clock | body
"""
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for.

    Attributes:
        name: A recorded snapshot, or a file.
        node: On whose host, with its etcd's own programs; "" for that of the member that it was taken of.
        here: On this machine.
        programs: A directory with etcd, etcdctl and etcdutl, for this machine; "" for those on PATH.
        identities: What decrypts.
        trailer: False for a copy of `member/snap/db`.
    """

    name: str
    node: str = ""
    here: bool = False
    programs: str = ""
    identities: tuple[Path, ...] = ()
    trailer: bool = True


def drill(app: App, library: Library, wish: Wish, say: Callable[[str], None]) -> Drilled:
    """Restore a snapshot into a directory of its own, start etcd on it, compare, and clear all of it away.

    The outcome is put into the snapshot's record at every destination.

    Raises:
        BackupError: The snapshot is not whole.
        BadUsage: There is no such snapshot, or no etcd to start.
        HostError: The host could not be worked on.
    """
    say("reading the snapshot")
    with proven(library, wish.name, wish.identities, trailer=wish.trailer) as copy:
        node = "" if wish.here else wish.node or (copy.held.record.node if copy.held else "")
        if not node and not wish.here:
            raise BadUsage("of a file nobody knows where it was taken", remedy="name a --node, or pass --here")
        say(f"restoring it on {node or 'this machine'}")
        found = _on(app, copy.path, copy.snapshot, node, trailer=copy.trailer, programs=wish.programs)
    if copy.held is None:
        return replace(found, name=wish.name)
    record = copy.held.record
    library.rewrite(record, drill=Drill(at=library.now(), ok=not found.wrong, where=found.where, text=found.text))
    return replace(found, cluster=record.cluster, name=record.name)


def rehearse(app: App, path: Path, expected: Snapshot, node: str, *, trailer: bool) -> Drilled:
    """A drill of a plain snapshot on a node, which has to go well.

    Raises:
        BackupError: It did not.
    """
    found = _on(app, path, expected, node, trailer=trailer)
    demand(found)
    return found


def _on(app: App, path: Path, expected: Snapshot, node: str, *, trailer: bool, programs: str = "") -> Drilled:
    """The drill itself, on a node's host, or on this machine for ""."""
    here = not node
    host = app.hands.here() if here else app.host(node)
    parent = str(home() / STAGING) if here else STATE
    place = f"{parent}/drill-{secrets.token_hex(6)}"
    host.run(["mkdir", "-p", "-m", "700", "--", parent], timeout_s=30.0, sudo=not here, repeatable=True)
    host.run(["mkdir", "-m", "700", "--", place], timeout_s=30.0, sudo=not here)
    try:
        host.send(path, f"{place}/snapshot.db", mode=0o600, owner="" if here else "root:root", timeout_s=SEND_S)
        memory = str(4 * expected.size_bytes + (512 << 20))
        largest = sorted(expected.prefixes, key=lambda prefix: -expected.prefixes[prefix])
        prefixes = [f"{name}/" for name in largest if name.startswith("/")][:_PREFIXES]
        words = [place, programs, "yes" if trailer else "no", memory, *prefixes]
        done = host.run(["sh", "-c", _DRILL, "sh", *words], timeout_s=DRILL_S, sudo=not here)
    finally:
        host.run(["rm", "-rf", "--", place], timeout_s=60.0, sudo=not here, repeatable=True)
    return judged(path.name, node, done.stdout.decode(errors="replace"), expected)


def tell(path: Path, found: Drilled, now: float) -> None:
    """Put the outcome into the file of metrics, of the cluster that the snapshot is of.

    Raises:
        StoreError: The file cannot be written.
    """
    if found.cluster:
        metrics.update(path, metrics.Metrics(cluster=found.cluster, drill_at=now, drill_ok=not found.wrong))


def demand(found: Drilled) -> None:
    """Nothing, when it went well.

    Raises:
        BackupError: It did not.
    """
    if found.wrong:
        raise BackupError(
            f"{found.name}: the drill on {found.where} failed: {found.text}",
            remedy="this snapshot may not restore: take another, and see `orchestrator etcd verify`",
        )
