"""What `sftp://` names: a directory of an account on another machine, with a shell or with SFTP only."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import stat
import threading
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from orchestrator.backup.sftpwire import FAILED, NO_SUCH_FILE, Declined, Ended, Garbled, Session
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
from orchestrator.errors import HostLacks, HostUnreachable, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from orchestrator.backup.stores import Store
    from orchestrator.engine.host import Host, Stream

T = TypeVar("T")

#: A server that says nothing for so long is given up,
SILENT_S = 60.0
#: but it is silent, too, while it brings a file to its disk: for no longer than this takes.
_SLOWEST_DISK_BYTES_S = 16 << 20
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

    Its contents are brought to the disk there where the server can (OpenSSH's can); SFTP has no way to ask that for
    its name.

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

        def work(session: Session) -> None:
            pieces = self._pieces(session, name, limit_bytes)  # what is missing is told before anything is made
            with arriving(target) as write:
                for piece in pieces:
                    write(piece)

        self._talk(work, f"{name} cannot be read")

    def get_bytes(self, name: str, limit_bytes: int = RECORD_BYTES) -> bytes:
        """The contents of a small file."""
        checked(name, self.url)
        return self._talk(lambda session: b"".join(self._pieces(session, name, limit_bytes)), f"{name} cannot be read")

    def remove(self, name: str) -> None:
        """Take a file away."""
        path = self._at(checked(name, self.url))
        self._talk(lambda session: session.remove(path), f"{name} cannot be removed")

    def free_bytes(self) -> int | None:
        """How much there is room for; None when the server does not tell."""
        return self._talk(self._room, "it cannot be looked at")

    def tidy(self, older_than_s: float, now: float) -> tuple[str, ...]:
        """The half-written files that are removed."""

        def work(session: Session) -> tuple[str, ...]:
            old = tuple(file.name for file in self._files(session) if left_over(file, older_than_s, now))
            for name in old:
                session.remove(self._at(name))
            return old

        return self._talk(work, "what is left of other runs cannot be removed")

    # ---- steps of a conversation ------------------------------------------------------------------------------

    def _files(self, session: Session) -> list[Stored]:
        """Regular ones, and no links."""
        try:
            found = session.listed(self._directory)
        except Declined as err:
            if err.code != NO_SUCH_FILE or self._there(session):
                raise
            return []
        stored = []
        for name, seen in found:
            if stat.S_ISREG(self._told(seen.mode, name)):
                stored.append(Stored(name, self._told(seen.size_bytes, name), float(self._told(seen.modified, name))))
        return sorted(stored, key=lambda file: file.name)

    def _there(self, session: Session) -> bool:
        """The directory is there.

        Raises:
            StoreError: Something else is. To list that is "no such file" for OpenSSH, too.
        """
        seen = session.seen(self._directory, followed=True)
        if seen and seen.mode is not None and not stat.S_ISDIR(seen.mode):
            raise StoreError(f"{self.url} is no directory", remedy="move it away, or name another destination")
        return seen is not None

    def _put(self, pieces: Callable[[], Iterable[bytes]], size_bytes: int, name: str, sha256: str) -> None:
        part = self._at(part_of(name))

        def work(session: Session) -> None:
            if not self._there(session):
                _make(session, self._directory)
            there = session.seen(self._at(name))
            if there and stat.S_ISDIR(self._told(there.mode, name)):
                raise StoreError(f"{self.url}: {name} is a directory there", remedy="move it away, then repeat")
            session.remove(part)  # the connection was lost under it
            self._write(session, part, pieces(), f"{name} needs {size_bytes} bytes")
            if (found := self._hash(session, part)) != sha256:
                raise differs(self.url, name, found, sha256)
            session.rename(part, self._at(name))

        try:
            self._talk(work, f"{name} cannot be written", SILENT_S + size_bytes / _SLOWEST_DISK_BYTES_S)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what counts; `tidy` comes later
                self._talk(lambda session: session.remove(part), "")
            raise

    def _write(self, session: Session, part: str, pieces: Iterable[bytes], needs: str) -> None:
        """Version 3 of SFTP has no words for a full disk: how much is free is told with the error."""
        try:
            session.write(part, 0o600, pieces)
        except Declined as err:
            if err.code != FAILED or (room := self._room(session)) is None:
                raise
            raise self._failed(f"{needs}, and {room} are free", err) from err

    def _hash(self, session: Session, path: str) -> str:
        """SHA-256 of all that is in a file."""
        digest = hashlib.sha256()
        seen = session.seen(path)
        for piece in session.read(path, self._told(seen.size_bytes if seen else None, path)):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, session: Session, name: str, limit_bytes: int | None) -> Generator[bytes, None, None]:
        seen = session.seen(self._at(name))
        if seen is None or not stat.S_ISREG(self._told(seen.mode, name)):
            raise missing(self.url, name)
        size = self._told(seen.size_bytes, name)
        if limit_bytes is not None and size > limit_bytes:
            raise too_large(self.url, name, limit_bytes)
        return session.read(self._at(name), size)

    def _room(self, session: Session) -> int | None:
        """Where the directory is, or will be made."""
        there = self._directory
        try:
            while session.seen(there, followed=True) is None and there not in {"/", ".", ""}:
                there = posixpath.dirname(there)
            return session.room_bytes(there)
        except Declined:
            return None

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

    def _talk(self, work: Callable[[Session], T], what: str, silence_s: float | None = None) -> T:
        """What `work` comes to; from the beginning again when the connection is lost, as commands are."""

        def talk(stream: Stream) -> T:
            try:
                session = Session(stream)
            except Garbled as err:
                raise StoreError(
                    f"{self.url}: {self._host.name} does not speak SFTP to this account: {err}",
                    remedy=f"try `{self._by_hand}`; see ForceCommand and Subsystem in the sshd_config there",
                ) from err
            try:
                return work(session)
            except Declined as err:
                raise self._failed(what, err) from err
            except Ended as err:
                raise HostUnreachable(
                    f"{self._host.name}: its SFTP server ended in the middle", remedy=f"try `{self._by_hand}`"
                ) from err
            except Garbled as err:
                raise StoreError(f"{self.url}: {what}: {err}", remedy=f"try `{self._by_hand}`, then repeat") from err

        return self._host.converse("sftp", talk, silence_s=silence_s or SILENT_S)

    def _failed(self, what: str, err: Declined) -> StoreError:
        return StoreError(
            f"{self.url}: {what}: {err}",
            remedy=f"look at rights and room there: `{self._by_hand}`, then `ls -la {self._directory}` and `df -h`",
        )

    @property
    def _by_hand(self) -> str:
        return f"sftp sftp://{urlsplit(self._url).netloc}"


def _make(session: Session, directory: str) -> None:
    """A directory that is not there, and those above it; where another run makes one at the same time that is fine."""
    above = posixpath.dirname(directory)
    if above and session.seen(above, followed=True) is None:
        _make(session, above)
    try:
        session.make_directory(directory, 0o700)
    except Declined:
        if session.seen(directory, followed=True) is None:
            raise
