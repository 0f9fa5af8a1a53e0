"""Snapshots in a directory of this machine."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from orchestrator.backup.stores import (
    PIECE_BYTES,
    RECORD_BYTES,
    Stored,
    arriving,
    checked,
    differs,
    left_over,
    missing,
    part_of,
    pieces_of,
    plain,
    size_of,
    too_large,
)
from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

#: No room, of the disk, of a quota, or for files so large.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DirectoryStore:
    """A directory; made, with those above it, for this user only, when it is missing.

    Args:
        path: Of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._path)

    def names(self) -> tuple[Stored, ...]:
        """Its files by name."""
        return tuple(file for file in self._files() if plain(file.name))

    def put(self, source: Path, name: str, sha256: str) -> None:
        """Copy a file there."""
        self._put(pieces_of(source), size_of(source), checked(name, self.url), sha256)

    def put_bytes(self, content: bytes, name: str) -> None:
        """Write a small file there."""
        self._put([content], len(content), checked(name, self.url), hashlib.sha256(content).hexdigest())

    def get(self, name: str, target: Path, *, limit_bytes: int | None = None) -> None:
        """Copy a file from there."""
        with contextlib.closing(self._pieces(name, limit_bytes)) as pieces:
            first = next(pieces, b"")  # what is missing is told before anything is made
            with arriving(target) as write:
                write(first)
                for piece in pieces:
                    write(piece)

    def get_bytes(self, name: str, limit_bytes: int = RECORD_BYTES) -> bytes:
        """The contents of a small file."""
        return b"".join(self._pieces(name, limit_bytes))

    def remove(self, name: str) -> None:
        """Take a file away."""
        path = self._path / checked(name, self.url)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as err:
            raise self._failed(f"{name} cannot be removed", err) from err

    def free_bytes(self) -> int | None:
        """How much there is room for, for this user."""
        there = self._path
        try:
            while not there.exists() and there != there.parent:
                there = there.parent
            found = os.statvfs(there)
        except OSError:  # as of a file system of the network whose server is away: the run tells
            return None
        return found.f_bavail * found.f_frsize

    def tidy(self, older_than_s: float, now: float) -> tuple[str, ...]:
        """The half-written files that are removed."""
        old = tuple(file.name for file in self._files() if left_over(file, older_than_s, now))
        for name in old:
            try:
                (self._path / name).unlink(missing_ok=True)
            except OSError as err:
                raise self._failed(f"{name} cannot be removed", err) from err
        return old

    def _files(self) -> list[Stored]:
        """Regular ones, and no links."""
        found = []
        try:
            with os.scandir(self._path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # another run is done with it
                        seen = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(seen.st_mode):
                            found.append(Stored(entry.name, seen.st_size, seen.st_mtime))
        except FileNotFoundError:
            return []
        except OSError as err:
            raise self._failed("it cannot be listed", err) from err
        return sorted(found, key=lambda file: file.name)

    def _put(self, pieces: Iterable[bytes], size_bytes: int, name: str, sha256: str) -> None:
        part = self._path / part_of(name)
        try:
            self._make()
            try:
                self._write(part, pieces)
                if (found := _digest(part)) != sha256:
                    raise differs(self.url, name, found, sha256)
                part.replace(self._path / name)
                _sync(self._path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as err:
            raise self._unstored(name, size_bytes, err) from err

    def _make(self) -> None:
        missing_ones = [each for each in (self._path, *self._path.parents) if not each.exists()]
        for each in reversed(missing_ones):
            each.mkdir(mode=0o700, exist_ok=True)
            _sync(each.parent)

    def _write(self, part: Path, pieces: Iterable[bytes]) -> None:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def _pieces(self, name: str, limit_bytes: int | None) -> Generator[bytes, None, None]:
        path = self._path / checked(name, self.url)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd, "rb", buffering=0) as file:  # noqa: PTH123  it is open already
                read = 0
                while piece := file.read(PIECE_BYTES):
                    read += len(piece)
                    if limit_bytes is not None and read > limit_bytes:
                        raise too_large(self.url, name, limit_bytes)
                    yield piece
        except FileNotFoundError as err:
            raise missing(self.url, name) from err
        except OSError as err:
            raise self._failed(f"{name} cannot be read", err) from err

    def _unstored(self, name: str, size_bytes: int, err: OSError) -> StoreError:
        if err.errno in _FULL:
            return StoreError(
                f"{self.url}: {name} needs {size_bytes} bytes, and {self.free_bytes()} are free: {err.strerror}",
                remedy=f"remove old backups (orchestrator etcd prune), or give another destination; df -h {self.url}",
            )
        return self._failed(f"{name} cannot be written", err)

    def _failed(self, what: str, err: OSError) -> StoreError:
        return StoreError(
            f"{self.url}: {what}: {err.strerror}", remedy=f"look at it: ls -ld {err.filename or self.url}"
        )


def _digest(path: Path) -> str:
    """SHA-256 of a file as the disk has it, as far as the kernel lets go of what it remembers."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
