"""SFTP as its clients speak it, over any stream: version 3, and three of OpenSSH's extensions.

Paramiko has a client as well. It makes files that others may read until their mode is set, drops the answers to the
last writes of a file that is written ahead, dies of names that are not UTF-8, and forgets which extensions there are.

Source: draft-ietf-secsh-filexfer-02; OpenSSH's `PROTOCOL`, section 4.
"""

from __future__ import annotations

import itertools
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from orchestrator.engine.host import Stream

#: Every server takes packets of 34000 bytes, and many none that are much larger. Source: section 3.
PIECE_BYTES = 32 << 10
#: So many requests are under way when a file is read or written, which bounds memory too. OpenSSH's client has as many.
AHEAD = 64
#: A packet that says it is longer is none.
_LONGEST_BYTES = 1 << 20

_INIT, _VERSION, _OPEN, _CLOSE, _READ, _WRITE, _LSTAT = 1, 2, 3, 4, 5, 6, 7
_OPENDIR, _READDIR, _REMOVE, _MKDIR, _STAT, _RENAME = 11, 12, 13, 14, 17, 18
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS = 101, 102, 103, 104, 105
_EXTENDED, _EXTENDED_REPLY = 200, 201
_FOR_READING, _FOR_WRITING, _CREATED, _EXCLUSIVE = 0x1, 0x2, 0x8, 0x20
_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES, _HAS_MORE = 0x1, 0x2, 0x4, 0x8, 0x80000000

_OK, _END, NO_SUCH_FILE, FAILED = 0, 1, 2, 4
_WORDS = {
    _END: "it ends there",
    NO_SUCH_FILE: "no such file",
    3: "permission denied",
    FAILED: "the server only says that it failed",
    5: "the server did not understand",
    8: "the server does not do that",
}

_FSYNC, _RENAME_OVER, _ROOM = "fsync@openssh.com", "posix-rename@openssh.com", "statvfs@openssh.com"


class Garbled(Exception):
    """What came is no SFTP, or not what was asked for."""


class Ended(Garbled):
    """The server went away in the middle."""


class Declined(Exception):
    """The server did not do something.

    Attributes:
        code: Of SSH_FX.
    """

    def __init__(self, code: int, said: str) -> None:
        words = _WORDS.get(code, f"error {code}")
        said = " ".join(said.split())[:200]
        super().__init__(f"{words} ({said})" if said and said.lower() not in (words, "failure") else words)
        self.code = code


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a server tells of a file; None for what it leaves out.

    Attributes:
        size_bytes: Of it.
        mode: Its kind and rights, as in `stat`.
        modified: In seconds since the epoch.
    """

    size_bytes: int | None = None
    mode: int | None = None
    modified: int | None = None


class Reader:
    """The fields of a packet, one after the other. Raises Garbled where it is too short."""

    def __init__(self, packet: bytes) -> None:
        self._rest = memoryview(packet)

    def take(self, size_bytes: int) -> bytes:
        """The next bytes."""
        if size_bytes > len(self._rest):
            raise Garbled("a packet ends too early")
        taken, self._rest = self._rest[:size_bytes], self._rest[size_bytes:]
        return bytes(taken)

    def number(self) -> int:
        """32 bits."""
        return int.from_bytes(self.take(4), "big")

    def long(self) -> int:
        """64 bits."""
        return int.from_bytes(self.take(8), "big")

    def string(self) -> bytes:
        """As long as it says."""
        return self.take(self.number())

    def text(self) -> str:
        """A string for people, or a name; what is not UTF-8 in it comes back as it was."""
        return self.string().decode(errors="surrogateescape")

    def attributes(self) -> Attributes:
        """Of a file. Source: section 5."""
        flags = self.number()
        size = self.long() if flags & _HAS_SIZE else None
        if flags & _HAS_OWNER:
            self.take(8)
        mode = self.number() if flags & _HAS_MODE else None
        modified = (self.number(), self.number())[1] if flags & _HAS_TIMES else None
        for _ in range(self.number() if flags & _HAS_MORE else 0):
            self.string(), self.string()
        return Attributes(size, mode, modified)

    @property
    def empty(self) -> bool:
        """All has been read."""
        return not self._rest


def _packed(*fields: int | bytes | str) -> bytes:
    """Fields in a row: numbers of 32 bits, and strings."""
    parts = []
    for field in fields:
        if isinstance(field, int):
            parts.append(struct.pack(">I", field))
        else:
            content = field.encode(errors="surrogateescape") if isinstance(field, str) else field
            parts += [struct.pack(">I", len(content)), content]
    return b"".join(parts)


class Session:
    """One conversation, for one thread. All methods raise Declined and Garbled, and what the stream raises.

    Args:
        stream: A server of SFTP that has not been talked to.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._numbers = itertools.count(1)
        self._heard = bytearray()
        self._answers: dict[int, tuple[int, Reader]] = {}
        self._send(_INIT, struct.pack(">I", 3))
        kind, answer = self._packet()
        if kind != _VERSION or answer.number() != 3:
            raise Garbled("it does not answer as SFTP's version 3 does")
        self._extensions = set()
        while not answer.empty:
            self._extensions.add(answer.text())
            answer.string()

    # ---- files ------------------------------------------------------------------------------------------------

    def listed(self, directory: str) -> list[tuple[str, Attributes]]:
        """The names in a directory with what they are, links as links, in no order."""
        handle = self._handle(_OPENDIR, _packed(directory))
        found = []
        while True:
            try:
                answer = self._asked(_NAME, _READDIR, _packed(handle))
            except Declined as err:
                if err.code != _END:
                    raise
                break
            for _ in range(answer.number()):
                name, _for_people = answer.text(), answer.string()
                found.append((name, answer.attributes()))
        self._asked(_STATUS, _CLOSE, _packed(handle))
        return found

    def seen(self, path: str, *, followed: bool = False) -> Attributes | None:
        """What is there, a link as a link unless it is followed; None where nothing is."""
        try:
            return self._asked(_ATTRS, _STAT if followed else _LSTAT, _packed(path)).attributes()
        except Declined as err:
            if err.code == NO_SUCH_FILE:
                return None
            raise

    def make_directory(self, path: str, mode: int) -> None:
        """One that is not there yet."""
        self._asked(_STATUS, _MKDIR, _packed(path, _HAS_MODE, mode))

    def remove(self, path: str) -> None:
        """A file, or a link; that it is not there is fine."""
        try:
            self._asked(_STATUS, _REMOVE, _packed(path))
        except Declined as err:
            if err.code != NO_SUCH_FILE:
                raise

    def rename(self, path: str, to: str) -> None:
        """A file gets another name, which it takes from what has it.

        Source: section 6.5: RENAME fails when there is such a file; that is then removed first, so for a moment there
        is neither. OpenSSH's extension is rename(2).
        """
        if _RENAME_OVER in self._extensions:
            self._asked(_STATUS, _EXTENDED, _packed(_RENAME_OVER, path, to))
        else:
            self.remove(to)
            self._asked(_STATUS, _RENAME, _packed(path, to))

    def room_bytes(self, path: str) -> int | None:
        """Free for this user where a path is that exists; None when the server does not tell.

        Source: OpenSSH's PROTOCOL, 4.4: eleven numbers; the second is f_frsize, the fifth f_bavail.
        """
        if _ROOM not in self._extensions:
            return None
        answer = self._asked(_EXTENDED_REPLY, _EXTENDED, _packed(_ROOM, path))
        numbers = [answer.long() for _ in range(11)]
        return numbers[1] * numbers[4]

    def write(self, path: str, mode: int, pieces: Iterable[bytes]) -> None:
        """Make a file that is not there yet, with its mode from the first byte on, on the disk where there is fsync."""
        flags = _FOR_WRITING | _CREATED | _EXCLUSIVE
        handle = self._handle(_OPEN, _packed(path, flags, _HAS_MODE, mode))
        pending: deque[int] = deque()
        offset = 0
        for piece in (p[at : at + PIECE_BYTES] for p in pieces for at in range(0, len(p), PIECE_BYTES)):
            head, tail = _packed(handle), _packed(piece)
            pending.append(self._ask(_WRITE, head + struct.pack(">Q", offset) + tail))
            offset += len(piece)
            if len(pending) >= AHEAD:
                self._answer(_STATUS, pending.popleft())
        while pending:
            self._answer(_STATUS, pending.popleft())
        if _FSYNC in self._extensions:
            self._asked(_STATUS, _EXTENDED, _packed(_FSYNC, handle))
        self._asked(_STATUS, _CLOSE, _packed(handle))

    def read(self, path: str, size_bytes: int) -> Generator[bytes, None, None]:
        """The first bytes of a file, in order.

        Raises:
            Garbled: It has fewer.
        """
        handle = self._handle(_OPEN, _packed(path, _FOR_READING, 0))
        offsets = iter(range(0, size_bytes, PIECE_BYTES))
        pending: deque[tuple[int, int, int]] = deque()

        def ask(offset: int, length: int) -> tuple[int, int, int]:
            where = struct.pack(">QI", offset, length)
            return self._ask(_READ, _packed(handle) + where), offset, length

        while True:
            for offset in itertools.islice(offsets, AHEAD - len(pending)):
                pending.append(ask(offset, min(PIECE_BYTES, size_bytes - offset)))
            if not pending:
                break
            number, offset, length = pending.popleft()
            piece = self._piece(number, path, length)
            if len(piece) < length:  # a server may give less than was asked for
                pending.appendleft(ask(offset + len(piece), length - len(piece)))
            yield piece
        self._asked(_STATUS, _CLOSE, _packed(handle))

    # ---- packets ----------------------------------------------------------------------------------------------

    def _piece(self, number: int, path: str, length: int) -> bytes:
        try:
            piece = self._answer(_DATA, number).string()
        except Declined as err:
            if err.code != _END:
                raise
            raise Garbled(f"{path} ended too early") from err
        if not 0 < len(piece) <= length:
            raise Garbled(f"{length} bytes were asked for, and {len(piece)} came")
        return piece

    def _handle(self, kind: int, fields: bytes) -> bytes:
        return self._asked(_HANDLE, kind, fields).string()

    def _asked(self, wanted: int, kind: int, fields: bytes) -> Reader:
        return self._answer(wanted, self._ask(kind, fields))

    def _ask(self, kind: int, fields: bytes) -> int:
        """Send a request; its number."""
        number = next(self._numbers)
        self._send(kind, struct.pack(">I", number) + fields)
        return number

    def _answer(self, wanted: int, number: int) -> Reader:
        """The answer to a request, whichever order they come in."""
        while number not in self._answers:
            kind, packet = self._packet()
            self._answers[packet.number()] = kind, packet
        kind, answer = self._answers.pop(number)
        if kind == _STATUS and (code := answer.number()) != _OK:
            raise Declined(code, "" if answer.empty else answer.text())
        if kind != wanted:
            raise Garbled(f"it answers with {kind} instead of {wanted}")
        return answer

    def _send(self, kind: int, content: bytes) -> None:
        self._stream.send(struct.pack(">IB", len(content) + 1, kind) + content)

    def _packet(self) -> tuple[int, Reader]:
        size = int.from_bytes(self._next(4), "big")
        if not 0 < size <= _LONGEST_BYTES:
            raise Garbled("what it says is no SFTP")
        packet = self._next(size)
        return packet[0], Reader(packet[1:])

    def _next(self, size_bytes: int) -> bytes:
        while len(self._heard) < size_bytes:
            if not (chunk := self._stream.receive(1 << 16)):
                raise Ended("it ended before it had answered")
            self._heard += chunk
        taken = bytes(self._heard[:size_bytes])
        del self._heard[:size_bytes]
        return taken
