"""A snapshot of etcd: taken on a host, fetched off it, proven here, and recorded, before anything is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import __version__
from orchestrator.actions.members import elsewhere, members
from orchestrator.actions.packages import looked
from orchestrator.backup import records
from orchestrator.backup.directory import DirectoryStore
from orchestrator.backup.records import Hashed, Part, Peer, Record
from orchestrator.backup.snapshot import examine, intact
from orchestrator.cluster import queries
from orchestrator.cluster.etcdhosts import parse_hash, parse_host
from orchestrator.cluster.etcdqueries import ELSEWHERE, MEMBER
from orchestrator.cluster.kubeadm import CLUSTER, cluster_name
from orchestrator.engine.host import STATE, demand
from orchestrator.engine.plan import Done, Needed
from orchestrator.errors import ApiError, FactUnreadable, OrchestratorError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.backup.snapshot import Snapshot as Proven
    from orchestrator.cluster.etcdhosts import EtcdHost
    from orchestrator.cluster.hostfacts import HostFacts
    from orchestrator.engine.clock import Clock
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

#: To copy it.
FETCH_S = 1800.0

# Source: etcdctl, `snapshot save`: one endpoint; without a time limit it waits for ever for one that does not answer.
# It writes FILE.part, syncs and renames it. Room is looked for first: the file is as large as the database. etcd sends
# as fast as its client takes, and others wait for both: it gets a part of a processor, in slices that are short beside
# an answer of the API, where systemd can do that with this program. (It may be refused what it takes from a container:
# SELinux.) A unit that was ended by SIGTERM ended well, for systemd-run. Source: measured, docs/performance.md;
# systemd.resource-control(5); systemd 252, `is_clean_exit`.
_SAVE = (
    "set -u; umask 077"
    + MEMBER
    + ELSEWHERE
    + r"""
file=$1 patience=$2 needed=$3 share=$4
[ -n "$pid$remote" ] || { echo "no etcd runs on this host" >&2; exit 3; }
[ -n "$(tool etcdctl)" ] || { echo "there is no etcdctl, neither on this host nor in etcd's container" >&2; exit 4; }
dir=$(dirname -- "$file")
unit="orchestrator-snapshot-$(basename -- "$dir")"
systemctl stop "$unit-*" 2> /dev/null
mkdir -p -m 700 -- "$dir"; rm -f -- "$file" "$file.part"
free=$(df -P -B1 "$dir" | tail -n 1 | awk '{ print $4 }')
[ "$free" -ge "$needed" ] || { echo "$dir has $free bytes free; the snapshot needs $needed" >&2; exit 5; }
if [ -n "$share" ]; then
  started_by="systemd-run --quiet --collect --wait --pipe --property=Nice=19 --property=UMask=0077
    --property=CPUQuota=$share --property=CPUQuotaPeriodSec=10ms --property=RuntimeMaxSec=$patience"
  if $started_by "$(tool etcdctl)" version < /dev/null > /dev/null 2>&1
  then started_by="$started_by --unit=$unit-$$"; else started_by="nice -n 19"; fi
fi
etcdctl snapshot save "$file" < /dev/null >&2 || { rc=$?; rm -f -- "$file" "$file.part"; exit "$rc"; }
[ -s "$file" ] || { echo "etcdctl was ended" >&2; rm -f -- "$file.part"; exit 6; }
"""
)
#: Of one processor; all of it before a restore, when time counts.
_SHARE = "10%"
#: Room for a database that grows while it is copied.
_ROOM = 1.1


def recorded(path: Path) -> Record | None:
    """The record beside a snapshot that was fetched; None without one."""
    place = path.with_suffix(records.RECORD)
    return records.decode(place.read_bytes(), place.name, str(place.parent)) if place.is_file() else None


class Snapshot:
    """`etcd.snapshot`: a snapshot of the cluster's etcd is here, off the host, proven, and recorded.

    Params: `plan`; `file`, its name here; `reason`, one of `backup.records.REASONS`; `without_api`, where that is away.

    Args:
        clock: For its time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._proven: dict[Path, tuple[int, ...]] = {}

    def probe(self, view: Site, step: Step) -> Facts:
        """Whether it is here, whole, and recorded."""
        path = view.kept(step.params["file"])
        there = path is not None and recorded(path) is not None and (self._unchanged(path) or intact(path))
        return {"path": str(path or ""), "intact": there}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is."""
        del step, past
        return Done(f"verified: {now['path']}") if now["intact"] else Needed("none of this plan yet")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Save it on the host, fetch it, prove it here by reading all of it, record it, and remove it there.

        Raises:
            CommandFailed: etcd did not save it.
            SnapshotInvalid: It is not whole.
        """
        del now
        run.guard()
        path = f"{STATE}/{step.params['plan']}/{step.params['file'].rpartition('/')[2]}"
        host, timeout_s = hands.host(step.node), step.timeout_s or FETCH_S
        found = parse_host(step.node, hands.ask(step.node, queries.ETCD_HOST))
        needed = int(_ROOM * _size_bytes(hands, found))
        share = "" if step.params["reason"] == "pre-restore" else _SHARE
        words = [path, f"{timeout_s:.0f}s", str(needed), share]
        done = host.run(["sh", "-c", _SAVE, "sh", *words], timeout_s=timeout_s, repeatable=True)
        demand(host, done, remedy=f"see that etcd runs on {step.node} and {STATE} has room")
        at = self._clock.wall()
        local = hands.keep(step.node, path, step.params["file"], timeout_s=FETCH_S, compared=False)
        try:
            proven = examine(local)
            if proven.keys == 0:
                raise FactUnreadable(f"the snapshot of {step.node} has no keys ({local})", remedy="look at etcd there")
        except OrchestratorError:
            local.unlink(missing_ok=True)
            raise
        self._proven[local] = _version(local)
        record = _record(hands, step, found, proven, at, run.run)
        DirectoryStore(local.parent).put_bytes(records.encode(record), local.with_suffix(records.RECORD).name)
        host.run(["rm", "-f", "--", path], timeout_s=30.0, repeatable=True)
        size_bytes, keys, revision = proven.size_bytes, proven.keys, proven.revision
        run.emit("etcd.snapshot", file=str(local), size_bytes=size_bytes, keys=keys, revision=revision)

    def _unchanged(self, path: Path) -> bool:
        """It is what this process has read all of: a large file is not read once more to be told so."""
        return self._proven.get(path) == _version(path)


def _size_bytes(view: Site, found: EtcdHost) -> int:
    """Of the database, of the largest where it is on other machines; 0 when nobody tells."""
    if found.external:
        return max((s.db_size_bytes for s in elsewhere(view, found.node).statuses), default=0)
    return found.status.db_size_bytes if found.status else 0


def _version(path: Path) -> tuple[int, ...]:
    """Of a file: another one after anything was written to it, or it was replaced."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _record(view: Site, step: Step, found: EtcdHost, proven: Proven, at: float, run: str) -> Record:
    try:
        if step.params.get("without_api"):
            view.glance()  # what is away is not waited for
        name = cluster_name(view.configuration())
    except ApiError:  # it may be away, in a restore it is
        name = _named(looked(view, step.node))
    facts = elsewhere(view, step.node) if found.external else members(view, (step.node,))
    cluster_id = next((s.cluster for s in facts.statuses), 0)
    return Record(
        name=records.named(name, at, proven.revision),
        at=at,
        reason=step.params["reason"],
        run=run,
        cluster=name,
        cluster_id=f"{cluster_id:x}",
        authority=found.authority,
        node=step.node,
        etcd=found.version or next((s.version for s in facts.statuses), ""),
        storage=proven.storage,
        kubernetes=str(looked(view, step.node).server or ""),
        revision=proven.revision,
        compact_revision=proven.compact_revision,
        raft_index=proven.consistent_index,
        raft_term=proven.term,
        keys=proven.keys,
        prefixes=dict(proven.prefixes),
        alarms=proven.alarms,
        size_bytes=proven.size_bytes,
        sha256=proven.sha256,
        data=Part(file=step.params["file"].rpartition("/")[2], size_bytes=proven.size_bytes, sha256=proven.sha256),
        members=tuple(
            Peer(id=f"{m.id:x}", name=m.name, peer_urls=m.peer_urls, client_urls=m.client_urls) for m in facts.members
        ),
        tool=__version__,
        hashed=_hashed(view, step.node, proven.revision),
    )


def _named(host: HostFacts) -> str:
    """The cluster's name as its controller manager has it.

    Source: kubeadm writes `clusterName` of its ClusterConfiguration into that manifest, as `--cluster-name`.
    """
    manager = host.manifests.get("kube-controller-manager")
    return (manager.flag("cluster-name") if manager else "") or CLUSTER


def _hashed(view: Site, node: str, revision: int) -> Hashed | None:
    """The hash of the member's keys at a revision; None where it does not tell, as of one that was compacted since.

    Source: seen on etcd 3.6.6: what was compacted meanwhile may be answered with a hash that it kept, of a later
    revision, and says so. etcd 3.5 does not say of which revision its answer is.
    """
    found = parse_hash(view.ask(node, queries.ETCD_HASH, str(revision)))
    if found is None or found.revision != revision:
        return None
    return Hashed(value=found.hash, compact_revision=found.compact_revision)
