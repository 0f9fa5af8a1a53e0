"""Files of an account by SFTP: paramiko's client, over a conversation with the host."""

from __future__ import annotations

import contextlib
import errno
import itertools
import struct
import threading
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.sftp import CMD_VERSION

from orchestrator.engine.host import Declined, Entry, Garbled
from orchestrator.errors import HostError, HostUnreachable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from orchestrator.engine.host import Stream

#: Every server takes packets of 34000 bytes. Source: draft-ietf-secsh-filexfer-02, section 3.
PIECE_BYTES = 32 << 10
#: So many pieces are asked for at once, which bounds memory too. OpenSSH's client has as many.
AHEAD = 64

_WORDS = {errno.ENOENT: "no such file", errno.EACCES: "permission denied"}


class SftpFiles:
    """What `engine.host.Files` asks for, by one conversation, for one thread.

    Args:
        stream: A server of SFTP that has not been talked to.
        host: Its machine, for errors.
    """

    def __init__(self, stream: Stream, host: str) -> None:
        self._line = _Line(stream, host)
        try:
            with self._asking():
                self._client = _Client(self._line)
        except HostUnreachable as err:
            if not self._line.ended:
                raise
            raise Garbled("it ended before it had answered") from err

    def listed(self, directory: str) -> list[Entry]:
        """The names in a directory with what they are, links as links, in no order."""
        with self._asking():
            return [_entry(found, found.filename) for found in self._client.listdir_attr(_sent(directory))]

    def seen(self, path: str, *, followed: bool = False) -> Entry | None:
        """What is there, a link as a link unless it is followed; None where nothing is."""
        look = self._client.stat if followed else self._client.lstat
        try:
            with self._asking():
                return _entry(look(_sent(path)), path)
        except Declined as err:
            if err.missing:
                return None
            raise

    def make_directory(self, path: str, mode: int) -> None:
        """One that is not there yet."""
        with self._asking():
            self._client.mkdir(_sent(path), mode)

    def remove(self, path: str) -> None:
        """A file, or a link; that it is not there is fine."""
        try:
            with self._asking():
                self._client.remove(_sent(path))
        except Declined as err:
            if not err.missing:
                raise

    def rename(self, path: str, to: str) -> None:
        """A file gets another name, which it takes from what has it.

        Source: draft-ietf-secsh-filexfer-02, 6.5: RENAME fails when there is such a file; it is then removed first,
        so for a moment there is neither. OpenSSH's extension is rename(2).
        """
        if not self._client.renames_over:
            self.remove(to)
        rename = self._client.posix_rename if self._client.renames_over else self._client.rename
        with self._asking():
            rename(_sent(path), _sent(to))

    def write(self, path: str, pieces: Iterable[bytes]) -> None:
        """Make a file that is not there yet, for its user only before its first byte.

        Source: paramiko 5.1 `SFTPFile._write`: a file that is pipelined is closed without a look at the last answers;
        a write that is not pipelined waits for all that are due.
        """
        with self._opened(path, "wx") as file:
            with self._asking():
                file.chmod(0o600)
            file.set_pipelined(True)
            last = b""
            for piece in pieces:
                with self._asking():
                    file.write(last)
                last = piece
            file.set_pipelined(False)
            with self._asking():
                file.write(last)

    def read(self, path: str, size_bytes: int) -> Generator[bytes, None, None]:
        """The first bytes of a file, in order.

        Raises:
            Garbled: It has fewer.

        Source: paramiko 5.1 `SFTPFile._async_response`: an answer that comes before the next request is sent ends what
        is read ahead, and what was still asked for is kept until the file is closed. It is opened anew for each step,
        so that this is never much; `prefetch` would ask for, and keep, all of a file.
        """
        offsets = iter(range(0, size_bytes, PIECE_BYTES))
        while batch := [(at, min(PIECE_BYTES, size_bytes - at)) for at in itertools.islice(offsets, AHEAD)]:
            with self._opened(path, "r") as file, self._asking():
                pieces = list(file.readv(batch))
            if [len(piece) for piece in pieces] != [length for _, length in batch]:
                raise Garbled(f"{path} ended too early")
            yield from pieces

    @contextlib.contextmanager
    def _opened(self, path: str, mode: str) -> Iterator[paramiko.SFTPFile]:
        with self._asking():
            file = self._client.open(_sent(path), mode)
        try:
            yield file
        finally:
            with self._asking():
                file.close()

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """What the library raises in the block becomes what `Files` raises."""
        try:
            yield
        except (paramiko.SFTPError, paramiko.SSHException, OSError, EOFError, ValueError, struct.error) as err:
            if self._line.failed is not None:
                raise self._line.failed from err
            raise _told(err) from err
        except BaseException:  # Ctrl-C, maybe in the middle of a packet: no answer is waited for any more
            self._line.failed = HostUnreachable("the conversation was interrupted", remedy="repeat")
            raise


class _Line:
    """A stream as the library wants its socket.

    What breaks it is kept, and to the library is an OSError, which it expects when it closes files. In the thread that
    it sends from when it reads ahead nothing is raised, where nobody would catch it: whoever waits for the answer sees
    it.
    """

    def __init__(self, stream: Stream, host: str) -> None:
        self.failed: HostError | None = None
        self.ended = False
        self._stream = stream
        self._host = host
        self._owner = threading.current_thread()
        self._whole = threading.Lock()

    def send(self, content: bytes) -> int:
        with self._whole:  # a packet of each thread at a time
            try:
                if self.failed is None:
                    self._stream.send(content)
            except HostError as err:
                self.failed = err
        if self.failed is not None and threading.current_thread() is self._owner:
            raise OSError(str(self.failed))
        return len(content)

    def recv(self, most_bytes: int) -> bytes:
        try:
            if self.failed is None and (chunk := self._stream.receive(most_bytes)):
                return chunk
        except HostError as err:
            self.failed = self.failed or err
        if self.failed is None:
            self.ended = True
            self.failed = HostUnreachable(
                f"{self._host}: its SFTP server ended in the middle",
                remedy=f"see what the log of sshd on {self._host} says of it",
            )
        raise OSError(str(self.failed))

    def recv_ready(self) -> bool:
        """Answers to writes are read whenever there are many, which bounds how many are due."""
        return True

    def get_name(self) -> str:
        return self._host


class _Client(paramiko.SFTPClient):  # type: ignore[misc]
    """The library's, which dies of names that are not UTF-8, and forgets which extensions there are.

    Attributes:
        renames_over: A file can take the name of another one.
    """

    renames_over = False

    def _read_packet(self) -> tuple[Any, Any]:
        kind, content = super()._read_packet()
        if kind == CMD_VERSION:
            self.renames_over = b"posix-rename@openssh.com" in content
        return kind, content

    def _read_response(self, waitfor: int | None = None) -> tuple[Any, Any]:
        kind, answer = super()._read_response(waitfor)
        return kind, answer and _Lenient(answer.get_remainder())


class _Lenient(paramiko.Message):  # type: ignore[misc]
    def get_text(self) -> str:
        return str(self.get_string(), errors="surrogateescape")


def _sent(path: str) -> bytes:
    return path.encode(errors="surrogateescape")


def _entry(found: paramiko.SFTPAttributes, name: str) -> Entry:
    return Entry(name, found.st_size, found.st_mode, found.st_mtime)


def _told(err: Exception) -> Exception:
    said = " ".join(str(err).split())[:200]
    if isinstance(err, EOFError):
        return Declined("it ends there")
    if not isinstance(err, OSError):
        return Garbled(f"what it says is no SFTP: {said}")
    if err.errno in _WORDS:
        return Declined(_WORDS[err.errno], missing=err.errno == errno.ENOENT)
    return Declined(
        "the server only says that it failed" + (f" ({said})" if said.lower() not in ("", "failure") else "")
    )
