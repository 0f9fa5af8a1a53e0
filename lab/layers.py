"""Container images made of plain directories and tar files, and work done inside a root file system.

No image builder is needed for that: an image is a list of tar files and a JSON description.

Source: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format": `docker load` and
containerd's `ctr images import` both read it.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lab.errors import LabError
from lab.processes import attempt, run

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A tar file and the digest of what is in it."""

    tar: Path
    digest: str

    @classmethod
    def of(cls, directory: Path) -> Layer:
        """The layer that `seal` left in a directory."""
        return cls(directory / "layer.tar", (directory / "layer.sha256").read_text())


@dataclass(frozen=True, slots=True)
class Image:
    """An image as a list of layers, lowest first, and how to start it."""

    tag: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any] = field(default_factory=dict)

    def write(self, out: IO[bytes]) -> None:
        """The archive of this image, as a stream."""
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": [f"PATH={PATH}"], **self.config},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in self.layers]},
            },
            sort_keys=True,
        ).encode()
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        paths = [f"{layer.digest}/layer.tar" for layer in self.layers]
        manifest = json.dumps([{"Config": name, "RepoTags": [self.tag], "Layers": paths}]).encode()
        with tarfile.open(fileobj=out, mode="w|") as archive:
            for layer, path in zip(self.layers, paths, strict=True):
                entry = tarfile.TarInfo(path)
                entry.size = layer.tar.stat().st_size
                with layer.tar.open("rb") as content:
                    archive.addfile(entry, content)
            for path, content_bytes in ((name, config), ("manifest.json", manifest)):
                entry = tarfile.TarInfo(path)
                entry.size = len(content_bytes)
                archive.addfile(entry, io.BytesIO(content_bytes))


def seal(directory: Path) -> Layer:
    """Digest the `layer.tar` in a directory, and keep the digest beside it."""
    digest = hashlib.sha256()
    with (directory / "layer.tar").open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    (directory / "layer.sha256").write_text(digest.hexdigest())
    return Layer.of(directory)


def pack(root: Path, into: Path, *, prefix: str = ".") -> Layer:
    """A layer of everything below `root`, placed below `prefix` in the image; the same content gives the same bytes."""
    argv = ["tar", "--create", "--file", str(into / "layer.tar"), "--directory", str(root), "--sort=name"]
    argv += ["--mtime=@0", "--numeric-owner", "--one-file-system", f"--transform=flags=rSh;s,^\\.,{prefix},", "."]
    run(argv)
    return seal(into)


def pack_files(files: Mapping[str, Path | str], into: Path, *, directories: Sequence[str] = ()) -> Layer:
    """A layer of single files: image path -> file here, or the target of a symbolic link."""
    with tarfile.open(into / "layer.tar", mode="w") as archive:
        for path in directories:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if path == "/tmp" else 0o755  # noqa: S108 - inside the image
            archive.addfile(entry)
        for path, source in sorted(files.items()):
            entry = tarfile.TarInfo(path.lstrip("/"))
            if isinstance(source, str):
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, source, 0o777
                archive.addfile(entry)
                continue
            known = source.stat()
            entry.size, entry.mode = known.st_size, 0o755 if known.st_mode & 0o100 else 0o644
            with source.open("rb") as content:
                archive.addfile(entry, content)
    return seal(into)


def in_root(root: Path, script: str, *, scratch: Path, binds: Mapping[str, Path] | None = None) -> Path:
    """Run a shell script with `root` as its root file system and give the directory of what it changed.

    `root` itself stays as it is: the script writes to an overlay. Everything runs in mount and process namespaces that
    end with it, so neither a mount nor a process is left behind, whatever ends the lab.

    Args:
        root: The root file system.
        script: For /bin/sh, with -eu.
        scratch: A directory for the overlay, beside `root` on the same disk.
        binds: Directory in the root -> directory here, writable, not part of what changed.

    Raises:
        LabError: the script failed, or removed files of `root`, which a layer here does not express.
    """
    upper, work, merged = (scratch / name for name in ("upper", "work", "merged"))
    for directory in (upper, work, merged):
        directory.mkdir(parents=True)
    mounts = [
        f"mount -t overlay overlay -o lowerdir='{root}',upperdir='{upper}',workdir='{work}' '{merged}'",
        f"mount -t proc proc '{merged}/proc'",
        f"mount -t tmpfs tmpfs '{merged}/run'",
        f"mount -t tmpfs tmpfs '{merged}/tmp'",  # noqa: S108 - inside the root
    ]
    for inside, here in (binds or {}).items():
        mounts += [f"mkdir -p '{merged}{inside}'", f"mount --bind '{here}' '{merged}{inside}'"]
    steps = "\n".join((*mounts, f"exec chroot '{merged}' /bin/sh -euc \"$1\""))
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    run([*namespaces, "sh", "-euc", steps, "sh", script], env={"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"})
    removed = [path for path in upper.rglob("*") if _is_whiteout(path.lstat())]
    if removed:
        raise LabError(
            f"the script removed {removed[0]} from the root below it", remedy="report this: a bug of the lab"
        )
    return upper


def _is_whiteout(found: os.stat_result) -> bool:
    """Source: the kernel's overlayfs documentation: a removed file is a character device 0/0 in the upper directory."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def closure(root: Path, paths: Sequence[str]) -> dict[str, Path | str]:
    """The files of a root with the links and shared libraries that they need, as `pack_files` takes them.

    Source: Debian 12 has a merged /usr: /bin, /sbin, /lib and /lib64 are links, a file has one real path below /usr.
    """
    found: dict[str, Path | str] = {f"/{top}": f"usr/{top}" for top in ("bin", "sbin", "lib", "lib64")}
    todo = list(paths)
    while todo:
        inside = Path(todo.pop())
        parent = (root / inside.relative_to("/").parent).resolve()
        here = parent / inside.name
        path = f"/{here.relative_to(root.resolve())}"
        if path in found:
            continue
        if here.is_symlink():
            target = str(here.readlink())
            found[path] = target
            todo.append(target if target.startswith("/") else f"{Path(path).parent}/{target}")
        elif here.is_file():
            found[path] = here
            todo.extend(_libraries(root, path))
        else:
            raise LabError(f"{path} is not in the node's file system", remedy="python -m lab clean, then up again")
    return found


def _libraries(root: Path, path: str) -> Iterator[str]:
    """The shared libraries that the loader of `root` finds for a program; none for a script or a static one."""
    with (root / path.lstrip("/")).open("rb") as content:
        if content.read(4) != b"\x7fELF":
            return
    listing = attempt(["chroot", str(root), "/lib64/ld-linux-x86-64.so.2", "--list", path]).stdout
    yield from (word for word in listing.split() if word.startswith("/"))
