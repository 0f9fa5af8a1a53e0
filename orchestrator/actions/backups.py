"""A snapshot on its way to where it is kept: what new machines need beside it, destinations, retention."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from orchestrator.actions.packages import looked
from orchestrator.actions.snapshots import recorded
from orchestrator.backup import catalogue, records, recovery, retention
from orchestrator.backup.configmap import kubeadm_configuration
from orchestrator.backup.records import Part
from orchestrator.backup.seal import Sealed, measured, seal
from orchestrator.backup.stores import parent
from orchestrator.cluster.etcdqueries import MEMBER
from orchestrator.cluster.recovery import named
from orchestrator.engine.host import demand
from orchestrator.engine.plan import Done, Needed
from orchestrator.errors import ApiError, BackupError, FactUnreadable, OrchestratorError, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.backup.records import Record
    from orchestrator.backup.stores import Store as Destination
    from orchestrator.engine.clock import Clock
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

STAGING = "staging"
_LACKS = ".lacks"
#: Flags of files that the API server writes.
_WRITTEN = re.compile(r"log-(path|file|dir)$")
#: A destination that ends so is one plain file, as etcdutl takes it.
PLAIN = ".db"

# Source: kubeadm's documentation, "Certificate management" and its phases: with the authorities, the key of service
# accounts and the configuration, kubeadm makes everything else anew. Files that flags of the API server name (keys of
# encryption at rest, audit policy, …) are in its manifest only by their path; the words are theirs, as this host has
# them. Links are followed.
_COLLECT = (
    "set -u; umask 077"
    + MEMBER
    + r"""
dir=$(mktemp -d /var/lib/orchestrator.XXXXXX) || exit 1
trap 'rm -rf -- "$dir"' EXIT; trap 'exit 143' HUP INT TERM
mkdir "$dir/tools"
kubectl --kubeconfig=/etc/kubernetes/admin.conf --request-timeout=20s -n kube-system get configmap kubeadm-config \
  kubelet-config kube-proxy --ignore-not-found -o yaml > "$dir/configmaps.yaml" 2> /dev/null ||
  rm -f "$dir/configmaps.yaml"
for name in etcdctl etcdutl; do
  program=$(tool "$name"); [ -z "$program" ] || cp "$program" "$dir/tools/$name"
done
cd / || exit
{
  find -L etc/kubernetes/pki etc/kubernetes/manifests etc/kubernetes/*.conf -type f
  for file in /var/lib/kubelet/config.yaml /var/lib/kubelet/instance-config.yaml /var/lib/kubelet/kubeadm-flags.env \
    /etc/default/kubelet "$@"; do
    [ ! -f "$file" ] || echo "${file#/}"
  done
} 2> /dev/null | sort -u > "$dir/list"
tar --create --dereference --file=- --directory=/ --files-from="$dir/list" --directory="$dir" tools \
  $(cd "$dir" && ls configmaps.yaml 2> /dev/null)
"""
)


class Recovery:
    """`etcd.recovery`: what new machines need of the cluster is here, encrypted.

    Params: `plan`; `file`, its name here; `recipients`, at least one: keys are stored encrypted, or not at all;
    `without_api`, where that is away; `snapshot`, which tells kubeadm's configuration then.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Whether it is here."""
        return {"there": view.kept(step.params["file"]) is not None}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is."""
        del step, past
        return Done("collected") if now["there"] else Needed("certificates, keys, manifests and settings to collect")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Have the host pack it, read it as a rebuild would, and encrypt it before any of it is on a disk here.

        What a rebuild could not do without stops nothing here, for the snapshot is to be stored: see `Complete`.

        Raises:
            CommandFailed: The host could not pack it.
        """
        del now
        run.guard()
        host = hands.host(step.node)
        timeout_s = step.timeout_s or 0.0
        with in_memory() as memory:
            argv = ["sh", "-c", _COLLECT, "sh", *_files(hands, step.node)]
            done = host.run(argv, timeout_s=timeout_s, repeatable=True, private=True)
            demand(host, done, remedy=f"see that tar works on {step.node}, or leave it out: --no-recovery-set")
            packed, reservations, lacks = _read(hands, step, done.stdout)
            memory.write(packed)
            memory.flush()
            memory.seek(0)
            target = hands.place(step.params["file"])
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            part = target.with_name(f".{target.name}.part")
            part.unlink(missing_ok=True)
            seal(Path(f"/dev/fd/{memory.fileno()}"), part, level=3, recipients=step.params["recipients"])
            _marker(target).unlink(missing_ok=True)
            if lacks:
                _marker(target).write_text(json.dumps({"why": str(lacks), "remedy": lacks.remedy}))
            part.replace(target)
        run.emit("etcd.recovery", file=str(target), size_bytes=target.stat().st_size)
        for why in reservations:
            run.emit("etcd.reserved", level="warning", why=why)


class Complete:
    """`etcd.complete`: a rebuild has all that it needs in the recovery set that was stored.

    Params: `plan`; `file`, the set's name here. It comes last: a snapshot is worth more than its set, and nobody has to
    clear up after a run that failed by it.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Why not, with the remedy; nothing when it has."""
        marker = _marker(view.place(step.params["file"]))
        return json.loads(marker.read_text()) if marker.is_file() else {}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it has, or that it has not was told. Before a set was made there is something to see to."""
        if now or not past:
            return Needed(now.get("why", "whether a rebuild has all it needs"))
        before = told(step, past)
        return Done(f"told before: {before}" if before else "a rebuild has all it needs")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Nothing can be done about it here: it is told, once. A run that is gone on with collects no other set.

        Raises:
            BackupError: It lacks something.
        """
        del run
        if now:
            _marker(hands.place(step.params["file"])).unlink(missing_ok=True)
            remedy = f"{now['remedy']}; then take another: orchestrator etcd backup"
            raise BackupError(f"the snapshot is stored, but {now['why']}", remedy=remedy)


def told(step: Step, past: Past) -> str:
    """What a recovery set lacks, as `etcd.complete` found when it began; "" where it did not, or nothing."""
    return str(past.get(step.id, {}).get("why", ""))


def _files(view: Site, node: str) -> list[str]:
    """Files of a host that flags of its API server name; none where that is no static pod."""
    server = looked(view, node).manifests.get("kube-apiserver")
    return [path for flag, path in named(server.text) if not _WRITTEN.search(flag)] if server else []


def _marker(target: Path) -> Path:
    """Where it stands what a set lacks, in words."""
    return target.with_name(f"{target.name}{_LACKS}")


def _read(view: Site, step: Step, packed: bytes) -> tuple[bytes, tuple[str, ...], OrchestratorError | None]:
    """A set with kubeadm's configuration in it, what an operator has to know of it, and what is wrong with it."""
    try:
        whole = recovery.with_configuration(packed, lambda: _configuration(view, step))
        return whole, recovery.collected(io.BytesIO(whole), step.node), None
    except (BackupError, FactUnreadable, Refused) as err:
        return packed, (), err


def _configuration(view: Site, step: Step) -> str:
    """Of kubeadm, by the API or the snapshot; "" where neither tells: what a set lacks is said by who reads it."""
    try:
        if step.params.get("without_api"):
            view.glance()  # what is away is not waited for
        return view.configuration()
    except ApiError:
        path = view.kept(step.params.get("snapshot", ""))
        return kubeadm_configuration(path) if path else ""


def in_memory() -> IO[bytes]:
    """A file that is on no disk; where the system has no such thing, one without a name, so that nothing stays."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("recovery"), "w+b")
    return tempfile.TemporaryFile()


@dataclass(frozen=True, slots=True)
class _Place:
    """A destination.

    Attributes:
        url: Of its directory.
        file: The one plain file that is wanted there; "" for a directory of backups.
    """

    url: str
    file: str

    def record_name(self, record: Record) -> str:
        """The name of the record there."""
        return (self.file.removesuffix(PLAIN) if self.file else record.name) + records.RECORD


def placed(destination: str) -> _Place:
    """A destination as the directory that is opened, and the one file in it where that is meant.

    Raises:
        BadUsage: It names neither.
    """
    return _Place(*parent(destination)) if destination.endswith(PLAIN) else _Place(destination, "")


class Store:
    """`etcd.store`: the snapshot is at every destination, whole, with its record.

    Params: `plan`; `file`, the snapshot's name here; `recovery`, that of what new machines need, or "";
    `destinations`; `recipients`; `level`, zstd's, or None; `pin`.
    """

    def __init__(self) -> None:
        self._sealed: dict[str, tuple[Path, Sealed]] = {}

    def probe(self, view: Site, step: Step) -> Facts:
        """Destination -> True when it has all of it, False when not, or why it cannot be told."""
        path = view.kept(step.params["file"])
        draft = recorded(path) if path else None
        if draft is None:
            return {"stored": {}}
        return {"stored": {url: _has(view, step, url, draft) for url in step.params["destinations"]}}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when all of them have it."""
        del past
        missing = [url for url in step.params["destinations"] if now["stored"].get(url) is not True]
        return Needed(f"to {', '.join(missing)}") if missing else Done("at every destination")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Compress and encrypt it once, and put it to each destination that lacks it.

        Raises:
            OrchestratorError: One of them did not take it; its notes say which have it.
        """
        path = hands.kept(step.params["file"])
        draft = recorded(path) if path else None
        if path is None or draft is None:
            raise FactUnreadable("the snapshot that was taken is not here any more", remedy="start a new backup")
        failed: list[tuple[str, OrchestratorError]] = []
        done = [url for url, there in now["stored"].items() if there is True]
        for url in step.params["destinations"]:
            if url in done:
                continue
            run.guard()
            try:
                self._put(hands, step, path, draft, url, run)
                done.append(url)
            except OrchestratorError as err:
                failed.append((url, err))
        if failed:
            first = failed[0][1]
            for other, also in failed[1:]:
                first.add_note(f"{other}: {also}")
            first.add_note(f"stored at {', '.join(done)}" if done else "it is stored nowhere; the snapshot is here yet")
            raise first

    def _put(self, hands: SiteHands, step: Step, path: Path, draft: Record, url: str, run: Applying) -> None:
        place = placed(url)
        store = hands.store(place.url, step.node)
        if place.file:
            data, file = Part(file=place.file, size_bytes=draft.size_bytes, sha256=draft.sha256), path
            record = msgspec.structs.replace(draft, data=data, pin=step.params["pin"])
        else:
            file, sealed = self._seal(step, path, draft)
            ending = file.name.partition(PLAIN)[2]
            data = _part(f"{draft.name}{PLAIN}{ending}", sealed)
            record = msgspec.structs.replace(
                draft,
                data=data,
                recovery=self._recovery(hands, step, store, draft),
                recipients=tuple(step.params["recipients"]),
                pin=step.params["pin"],
            )
        store.put(file, data.file, data.sha256)
        store.put_bytes(records.encode(record), place.record_name(record))
        run.emit("etcd.stored", destination=store.url, file=data.file, size_bytes=data.size_bytes)

    def _seal(self, step: Step, path: Path, draft: Record) -> tuple[Path, Sealed]:
        """The file as it is stored; made once by a process: what an earlier one left may be half of it."""
        if step.id not in self._sealed:
            level, recipients = step.params["level"], step.params["recipients"]
            target = path.with_name(path.name + (".zst" if level is not None else "") + (".age" if recipients else ""))
            if target == path:
                self._sealed[step.id] = path, Sealed(draft.size_bytes, draft.sha256)
            else:
                target.unlink(missing_ok=True)
                sealed = seal(path, target, level=level, recipients=recipients, sha256=draft.sha256)
                self._sealed[step.id] = target, sealed
        return self._sealed[step.id]

    def _recovery(self, hands: SiteHands, step: Step, store: Destination, draft: Record) -> Part | None:
        path = hands.kept(step.params["recovery"]) if step.params["recovery"] else None
        if path is None:
            return None
        part = _part(f"{draft.name}{records.RECOVERY}.zst.age", measured(path))
        store.put(path, part.file, part.sha256)
        return part


class Retain:
    """`etcd.retain`: of this cluster's snapshots, destinations hold those that the policy keeps.

    Params: `destinations`; `keep`, the policy; `unfinished`, runs whose snapshots stay; `file`, the snapshot here.

    Args:
        clock: For ages.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def probe(self, view: Site, step: Step) -> Facts:
        """Destination -> names of what goes, each with its reason; nothing before there is a new snapshot.

        Nothing goes for one whose recovery set is not whole, either: those of the others may be.
        """
        path = view.kept(step.params["file"])
        mine = recorded(path) if path else None
        if mine is None:
            return {"going": None}
        recovery = step.params.get("recovery")
        if recovery and _marker(view.place(recovery)).is_file():
            return {"going": {}, "why": "the new recovery set is not whole"}
        going = {}
        for url in step.params["destinations"]:
            if not placed(url).file:
                going[url] = {j.record.name: j.rules[0] for j in self._judged(view, step, url, mine) if not j.keep}
        return {"going": going}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when nothing goes."""
        del past
        if now["going"] is None:
            return Needed(f"what {step.params['keep']} does not keep")
        names = [name for going in now["going"].values() for name in going]
        if not names:
            return Done(now.get("why", "nothing to remove"))
        return Needed(f"{len(names)} to remove: {', '.join(names[:3])}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Remove the files of each, its record last: what is left of a half removed one is seen, and removed later."""
        for url, going in (now["going"] or {}).items():
            store = hands.store(url, step.node)
            for held in catalogue.read(store).held:
                if held.record.name in going:
                    run.guard()
                    for file in held.files:
                        store.remove(file)
                    why = going[held.record.name]
                    run.emit("etcd.removed", destination=store.url, snapshot=held.record.name, why=why)

    def _judged(self, view: Site, step: Step, url: str, mine: Record) -> tuple[retention.Judged, ...]:
        held = catalogue.read(view.shelf(url, step.node)).held
        ours = [h for h in held if (h.record.cluster, h.record.authority) == (mine.cluster, mine.authority)]
        whole = {h.record.name for h in ours if not h.wrong}
        policy = retention.parse(step.params["keep"])
        return retention.judge(
            [h.record for h in ours],
            policy,
            self._clock.wall(),
            unfinished=step.params["unfinished"],
            good=lambda record: record.name in whole,
        )


class Supersede:
    """`etcd.supersede`: what earlier backups left here is gone: the one that begins takes a newer snapshot.

    Params: `plans`, by their names. It is a step, for under the cluster's lock none of them is at work.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Names of what is here."""
        return {
            "left": sorted(path.name for plan in step.params["plans"] for path in staged(view.place(STAGING), plan))
        }

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when nothing is."""
        del past
        if now["left"]:
            return Needed(f"what runs that failed left here: {', '.join(step.params['plans'])}")
        return Done("nothing of earlier runs is left here")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Remove it."""
        del now
        for plan in step.params["plans"]:
            run.guard()
            for path in staged(hands.place(STAGING), plan):
                path.unlink(missing_ok=True)


class Unstage:
    """`etcd.unstage`: what a backup made here on its way is gone.

    Params: `plan`; `of_run`, when that is given up. Else what its recovery set lacks stays until it was told.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Names of what is here."""
        return {"left": sorted(path.name for path in self._own(view, step))}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when nothing is. There is something after the first step."""
        del step
        return Needed("what was made here on the way") if now["left"] or not past else Done("nothing is left here")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Remove it."""
        del now
        run.guard()
        for path in self._own(hands, step):
            path.unlink(missing_ok=True)

    def _own(self, view: Site, step: Step) -> Iterator[Path]:
        left = staged(view.place(STAGING), step.params["plan"])
        return (path for path in left if "of_run" in step.params or path.suffix != _LACKS)


def _part(file: str, sealed: Sealed) -> Part:
    return Part(file=file, size_bytes=sealed.size_bytes, sha256=sealed.sha256)


def staged(directory: Path, plan: str) -> list[Path]:
    """The files of a plan in the directory of what is on its way; none where there is no such directory."""
    return list(directory.glob(f"*{plan}.*")) if directory.is_dir() else []


def _has(view: Site, step: Step, url: str, draft: Record) -> bool | str:
    place = placed(url)
    try:
        held = catalogue.read(view.shelf(place.url, step.node)).held
    except OrchestratorError as err:
        return str(err)
    return any(
        (h.record.name, h.record.sha256) == (draft.name, draft.sha256)
        and not h.wrong
        and (not place.file or h.record.data.file == place.file)
        for h in held
    )
