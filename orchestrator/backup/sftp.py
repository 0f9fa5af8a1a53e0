"""What `sftp://` names: a directory of an account on another machine, with a shell or with SFTP only."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import stat
import threading
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from orchestrator.backup.stores import (
    RECORD_BYTES,
    HostStore,
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
from orchestrator.engine.host import Declined, Garbled
from orchestrator.errors import HostLacks, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from orchestrator.backup.stores import Store
    from orchestrator.engine.host import Files, Host

T = TypeVar("T")

#: A server that says nothing for so long is given up.
SILENT_S = 60.0
_ASKED_S = 20.0
_WORD = "shell"


def has_shell(host: Host) -> bool:
    """Whether the account there runs commands.

    Source: sshd_config(5), ForceCommand: the forced one runs whatever was asked for, and says other things. Servers
    that are for SFTP only refuse; accounts without a shell say so, and fail.
    """
    try:
        done = host.run(["sh", "-c", f"echo {_WORD}"], timeout_s=_ASKED_S, sudo=False, repeatable=True)
    except HostLacks:
        return False
    return done.rc == 0 and done.text == _WORD


class AccountStore:
    """A directory of an account: by its shell where it has one, for a file then crosses the line once; else by SFTP.

    Args:
        host: The machine, with the account.
        directory: On it. One that begins with `./` is the user's.
        url: Of both together.
    """

    def __init__(self, host: Host, directory: str, url: str) -> None:
        self._host = host
        self._directory = directory
        self._url = url
        self._found: Store | None = None
        self._mutex = threading.Lock()

    @property
    def chosen(self) -> Store:
        """The store that does it; found out at the first use."""
        with self._mutex:
            if self._found is None:
                kind = HostStore if has_shell(self._host) else SftpStore
                self._found = kind(self._host, self._directory, self._url)
            return self._found

    @property
    def url(self) -> str:
        """Where it is."""
        return self._url

    def names(self) -> tuple[Stored, ...]:
        """Its files by name."""
        return self.chosen.names()

    def put(self, source: Path, name: str, sha256: str) -> None:
        """Copy a file there."""
        self.chosen.put(source, name, sha256)

    def put_bytes(self, content: bytes, name: str) -> None:
        """Write a small file there."""
        self.chosen.put_bytes(content, name)

    def get(self, name: str, target: Path, *, limit_bytes: int | None = None) -> None:
        """Copy a file from there."""
        self.chosen.get(name, target, limit_bytes=limit_bytes)

    def get_bytes(self, name: str, limit_bytes: int = RECORD_BYTES) -> bytes:
        """The contents of a small file."""
        return self.chosen.get_bytes(name, limit_bytes)

    def remove(self, name: str) -> None:
        """Take a file away."""
        self.chosen.remove(name)

    def free_bytes(self) -> int | None:
        """How much there is room for."""
        return self.chosen.free_bytes()

    def tidy(self, older_than_s: float, now: float) -> tuple[str, ...]:
        """The half-written files that are removed."""
        return self.chosen.tidy(older_than_s, now)


class SftpStore:
    """A directory of another machine over SFTP alone. A file is read back over the line, and hashed here.

    When it reaches the disk there is the server's affair, and how much room there is is not known: SFTP itself has no
    words for either, and the library none for OpenSSH's.

    Args:
        host: The machine, as the user who logs in.
        directory: On it; made, for its user only, when it is missing. A relative one is the user's.
        url: Of both together.
    """

    def __init__(self, host: Host, directory: str, url: str) -> None:
        self._host = host
        self._directory = directory.rstrip("/") or "/"
        self._url = url

    @property
    def url(self) -> str:
        """Where it is."""
        return self._url

    def names(self) -> tuple[Stored, ...]:
        """Its files by name."""
        return tuple(file for file in self._talk(self._files, "it cannot be listed") if plain(file.name))

    def put(self, source: Path, name: str, sha256: str) -> None:
        """Copy a file there."""
        self._put(lambda: pieces_of(source), size_of(source), checked(name, self.url), sha256)

    def put_bytes(self, content: bytes, name: str) -> None:
        """Write a small file there."""
        self._put(lambda: [content], len(content), checked(name, self.url), hashlib.sha256(content).hexdigest())

    def get(self, name: str, target: Path, *, limit_bytes: int | None = None) -> None:
        """Copy a file from there."""
        checked(name, self.url)

        def work(files: Files) -> None:
            pieces = self._pieces(files, name, limit_bytes)  # what is missing is told before anything is made
            with arriving(target) as write:
                for piece in pieces:
                    write(piece)

        self._talk(work, f"{name} cannot be read")

    def get_bytes(self, name: str, limit_bytes: int = RECORD_BYTES) -> bytes:
        """The contents of a small file."""
        checked(name, self.url)
        return self._talk(lambda files: b"".join(self._pieces(files, name, limit_bytes)), f"{name} cannot be read")

    def remove(self, name: str) -> None:
        """Take a file away."""
        path = self._at(checked(name, self.url))
        self._talk(lambda files: files.remove(path), f"{name} cannot be removed")

    def free_bytes(self) -> int | None:
        """Not known."""
        return None

    def tidy(self, older_than_s: float, now: float) -> tuple[str, ...]:
        """The half-written files that are removed."""

        def work(files: Files) -> tuple[str, ...]:
            old = tuple(file.name for file in self._files(files) if left_over(file, older_than_s, now))
            for name in old:
                files.remove(self._at(name))
            return old

        return self._talk(work, "what is left of other runs cannot be removed")

    # ---- steps of a conversation ------------------------------------------------------------------------------

    def _files(self, files: Files) -> list[Stored]:
        """Regular ones, and no links."""
        try:
            found = files.listed(self._directory)
        except Declined as err:
            if not err.missing or self._there(files):
                raise
            return []
        stored = []
        for each in found:
            name = each.name
            if stat.S_ISREG(self._told(each.mode, name)):
                stored.append(Stored(name, self._told(each.size_bytes, name), float(self._told(each.modified, name))))
        return sorted(stored, key=lambda file: file.name)

    def _there(self, files: Files) -> bool:
        """The directory is there.

        Raises:
            StoreError: Something else is. To list that is "no such file" for OpenSSH, too.
        """
        seen = files.seen(self._directory, followed=True)
        if seen and seen.mode is not None and not stat.S_ISDIR(seen.mode):
            raise StoreError(f"{self.url} is no directory", remedy="move it away, or name another destination")
        return seen is not None

    def _put(self, pieces: Callable[[], Iterable[bytes]], size_bytes: int, name: str, sha256: str) -> None:
        part = self._at(part_of(name))

        def work(files: Files) -> None:
            if not self._there(files):
                _make(files, self._directory)
            there = files.seen(self._at(name))
            if there and stat.S_ISDIR(self._told(there.mode, name)):
                raise StoreError(f"{self.url}: {name} is a directory there", remedy="move it away, then repeat")
            files.remove(part)  # the connection was lost under it
            files.write(part, pieces())
            if (found := self._hash(files, part)) != sha256:
                raise differs(self.url, name, found, sha256)
            files.rename(part, self._at(name))

        try:
            self._talk(work, f"{name}, of {size_bytes} bytes, cannot be written")
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what counts; `tidy` comes later
                self._talk(lambda files: files.remove(part), "")
            raise

    def _hash(self, files: Files, path: str) -> str:
        """SHA-256 of all that is in a file."""
        digest = hashlib.sha256()
        seen = files.seen(path)
        for piece in files.read(path, self._told(seen.size_bytes if seen else None, path)):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, files: Files, name: str, limit_bytes: int | None) -> Generator[bytes, None, None]:
        seen = files.seen(self._at(name))
        if seen is None or not stat.S_ISREG(self._told(seen.mode, name)):
            raise missing(self.url, name)
        size = self._told(seen.size_bytes, name)
        if limit_bytes is not None and size > limit_bytes:
            raise too_large(self.url, name, limit_bytes)
        return files.read(self._at(name), size)

    def _told(self, value: int | None, name: str) -> int:
        """What a server need not tell, and all do."""
        if value is None:
            raise StoreError(
                f"{self.url}: its SFTP server does not tell kind, size and time of {name}",
                remedy="use another destination, or an account with a shell there",
            )
        return value

    def _at(self, name: str) -> str:
        return posixpath.join(self._directory, name)

    # ---- the conversation -------------------------------------------------------------------------------------

    def _talk(self, work: Callable[[Files], T], what: str) -> T:
        """What `work` comes to; from the beginning again when the connection is lost, as commands are."""

        def talk(files: Files) -> T:
            try:
                return work(files)
            except Declined as err:
                raise self._failed(what, err) from err
            except Garbled as err:
                raise StoreError(f"{self.url}: {what}: {err}", remedy=f"try `{self._by_hand}`, then repeat") from err

        try:
            return self._host.files(talk, silence_s=SILENT_S)
        except Garbled as err:
            raise StoreError(
                f"{self.url}: {self._host.name} does not speak SFTP to this account: {err}",
                remedy=f"try `{self._by_hand}`; see ForceCommand and Subsystem in the sshd_config there",
            ) from err

    def _failed(self, what: str, err: Declined) -> StoreError:
        return StoreError(
            f"{self.url}: {what}: {err}",
            remedy=f"look at rights and room there: `{self._by_hand}`, then `ls -la {self._directory}` and `df -h`",
        )

    @property
    def _by_hand(self) -> str:
        return f"sftp sftp://{urlsplit(self._url).netloc}"


def _make(files: Files, directory: str) -> None:
    """A directory that is not there, and those above it; where another run makes one at the same time that is fine."""
    above = posixpath.dirname(directory)
    if above and files.seen(above, followed=True) is None:
        _make(files, above)
    try:
        files.make_directory(directory, 0o700)
    except Declined:
        if files.seen(directory, followed=True) is None:
            raise
