"""The recovery set: opened in memory, for it holds the keys of a cluster, and packed anew for each control plane."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

from orchestrator.cluster import recovery
from orchestrator.errors import BackupError, OrchestratorError, SnapshotInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from orchestrator.cluster.recovery import Member, Told

#: A set is no larger: programs of etcd are most of it.
LIMIT_BYTES = 1 << 30
#: Within the archive that goes to a host: files of the host, and what is only used there.
HOST, CONFIGURATION = "host", "kubeadm.yaml"


@dataclass(frozen=True, slots=True)
class File:
    """One file, as it was on its host.

    Attributes:
        uid, gid: Of its owner, as numbers: a new machine may have other names for them.
        modified_s: Since the epoch.
    """

    content: bytes
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    modified_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RecoverySet:
    """One set.

    Attributes:
        files: Of the host by absolute path, and others by their names in the set.
        told: What they tell.
    """

    files: Mapping[str, File]
    told: Told


def with_configuration(archive: bytes, configuration: Callable[[], str]) -> bytes:
    """A set that a host packed; kubeadm's configuration is put in where the host, which has no kubectl, could not.

    Args:
        archive: As it came.
        configuration: Tells it, "" where there is none; not asked where the set has it.

    Raises:
        SnapshotInvalid: It is no set.
    """
    with _opened(io.BytesIO(archive), "what was packed") as tar:
        there = recovery.CONFIGMAPS in map(_path, tar.getnames())
    if there or not (text := configuration()):
        return archive
    told = {"kind": "ConfigMap", "metadata": {"name": "kubeadm-config"}, "data": {"ClusterConfiguration": text}}
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", **told}]}).encode()
    file = io.BytesIO(archive)
    with tarfile.open(fileobj=file, mode="a:") as tar:
        header = tarfile.TarInfo(recovery.CONFIGMAPS)
        header.size, header.mode = len(content), 0o600
        tar.addfile(header, io.BytesIO(content))
    return file.getvalue()


def read(archive: IO[bytes], where: str) -> RecoverySet:
    """A set that was opened.

    Raises:
        SnapshotInvalid: It is none.
        Refused: No control plane can be made of it.
    """
    files = _unpacked(archive, where)
    return RecoverySet(files, recovery.told(_texts(files), files.keys()))


def collected(archive: IO[bytes], node: str) -> tuple[str, ...]:
    """What an operator has to know of a set that was just made; nothing when a rebuild has all it needs.

    What the node should have and did not give is an error while it can be mended. What its cluster is made without, as
    the key of an authority that is somebody else's, is only said: no backup could ever have it.

    Raises:
        SnapshotInvalid: It is no set.
        BackupError: It lacks what a rebuild could not do without.
        FactUnreadable: It has that in a form that is not known.
        Refused: Certificates are in another place, and not in it.
    """
    files = _unpacked(archive, f"what {node} packed")
    texts, known = _texts(files), recovery.elsewhere(files)
    missing = recovery.lacks(texts, files)
    if lost := [path for path in missing if path not in known]:
        raise BackupError(
            f"a rebuild could not do without what {node} did not give for the recovery set: {', '.join(lost)}",
            remedy=f"{'; '.join(_remedies(node, lost))}; or leave the set out: --no-recovery-set",
        )
    if missing or recovery.apart(texts):
        why = f"has no {', '.join(missing)}" if missing else "keeps etcd's log apart, or runs etcd as another user"
        said = f"{node} {why}: `etcd restore --onto` refuses its recovery set, new machines are made with it by hand"
        return (f"{said}; have what is not in it at hand, too",)
    try:
        told = recovery.told(texts, files.keys())
    except OrchestratorError as err:
        err.remedy = f"see to it on {node}; or leave the set out: --no-recovery-set"
        raise
    return recovery.reservations(told, texts)


def _remedies(node: str, lost: Sequence[str]) -> Iterator[str]:
    """Source: `Recovery` asks kubectl on the host for the one, and looks into etcd's container, then on the host."""
    if recovery.CONFIGMAPS in lost:
        yield f"see that the API server answers, or install kubectl on {node}"
    if recovery.TOOL in lost:
        yield f"put the etcdutl of its etcd's version into /usr/local/bin on {node}"
    if set(lost) - {recovery.CONFIGMAPS, recovery.TOOL}:
        yield f"see why {node} has not all of these files"


@contextlib.contextmanager
def _opened(archive: IO[bytes], where: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError, OSError) as err:
        raise SnapshotInvalid(
            f"{where} is no recovery set: {err}", remedy="name a file NAME.recovery.tar.zst.age, as it was stored"
        ) from err


def _unpacked(archive: IO[bytes], where: str) -> dict[str, File]:
    files: dict[str, File] = {}
    with _opened(archive, where) as tar:
        for entry in tar:
            held = tar.extractfile(entry) if entry.isfile() else None
            if held is not None:
                files[_path(entry.name)] = File(held.read(), entry.mode & 0o7777, entry.uid, entry.gid, entry.mtime)
    if strange := [name for name in files if ".." in name.split("/")]:
        raise SnapshotInvalid(f"{where} names {strange[0]}, which no set does", remedy="see who wrote that file")
    return files


def _texts(files: Mapping[str, File]) -> dict[str, str]:
    wanted = [p for p in files if p.startswith(recovery.MANIFESTS) or p in (*recovery.KUBELET, recovery.CONFIGMAPS)]
    return {path: files[path].content.decode(errors="replace") for path in wanted}


def _path(name: str) -> str:
    """Source: `Recovery` packs files of the host without their first slash, and its own beside them."""
    name = name.removeprefix("./")
    return name if name == recovery.CONFIGMAPS or name.startswith("tools/") else f"/{name}"


def packed(found: RecoverySet, node: Member, members: Iterable[Member], aside: str) -> bytes:
    """What goes to one control plane, as a tar.

    Args:
        found: The set.
        node: Which one.
        members: All that are rebuilt.
        aside: Where its static pods wait, beside the kubelet's directory.
    """
    everyone, out = tuple(members), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, file in sorted(found.files.items()):
            if not path.startswith("/") or path in recovery.SIGNED or _is_kubeconfig(path):
                continue
            target, put = path, file
            if path.startswith(recovery.MANIFESTS) or path in recovery.KUBELET:
                text = recovery.rewritten(path, file.content.decode(), found.told, node, everyone)
                put = replace(file, content=text.encode())
            if path.startswith(recovery.MANIFESTS):
                target = f"{aside}/{path.rpartition('/')[2]}"
            _add(tar, f"{HOST}{target}", put)
        _add(tar, recovery.TOOL, replace(found.files[recovery.TOOL], mode=0o700, uid=0, gid=0))
        _add(tar, CONFIGURATION, File(recovery.configured(found.told, node).encode()))
    return out.getvalue()


def _is_kubeconfig(path: str) -> bool:
    """Each of them holds a certificate of one node, or of a year: kubeadm makes them anew."""
    return path.startswith("/etc/kubernetes/") and path.endswith(".conf") and path.count("/") == 3


def _add(tar: tarfile.TarFile, name: str, file: File) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(file.content), file.modified_s
    entry.mode, entry.uid, entry.gid = file.mode, file.uid, file.gid
    tar.addfile(entry, io.BytesIO(file.content))
