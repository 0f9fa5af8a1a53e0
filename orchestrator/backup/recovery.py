"""The recovery set: opened in memory, for it holds the keys of a cluster, and packed anew for each control plane."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

from orchestrator.cluster import recovery
from orchestrator.errors import SnapshotInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


def read(archive: IO[bytes], where: str) -> RecoverySet:
    """A set that was opened.

    Raises:
        SnapshotInvalid: It is none.
        Refused: No control plane can be made of it.
    """
    files: dict[str, File] = {}
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for entry in tar:
                held = tar.extractfile(entry) if entry.isfile() else None
                if held is not None:
                    files[_path(entry.name)] = File(held.read(), entry.mode & 0o7777, entry.uid, entry.gid, entry.mtime)
    except (tarfile.TarError, EOFError, OSError) as err:
        raise SnapshotInvalid(
            f"{where} is no recovery set: {err}", remedy="name a file NAME.recovery.tar.zst.age, as it was stored"
        ) from err
    if strange := [name for name in files if ".." in name.split("/")]:
        raise SnapshotInvalid(f"{where} names {strange[0]}, which no set does", remedy="see who wrote that file")
    wanted = [p for p in files if p.startswith(recovery.MANIFESTS) or p in (*recovery.KUBELET, recovery.CONFIGMAPS)]
    texts = {path: files[path].content.decode(errors="replace") for path in wanted}
    return RecoverySet(files, recovery.told(texts, files.keys()))


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
