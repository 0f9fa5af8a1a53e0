"""Compresses and encrypts files for storage, and the reverse, as streams: a snapshot of any size needs no memory.

What is written is readable by this user only from its first byte, and is gone again when anything goes wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from orchestrator.backup.keys import ENCRYPTED, opening, recipient
from orchestrator.errors import SnapshotInvalid, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from orchestrator.backup.keys import Identity, Recipient

PIECE_BYTES = 1 << 20
#: How much of a compressed file is decompressed at once. A block of zstd is 128 KiB at most and can be 4 bytes long, so
#: this much can become 32 MiB, and no more is in memory before it is counted.
#: Source: RFC 8878, 3.1.1.2.2, RLE_Block; 3.1.1.2.4, Block_Maximum_Size.
SLICE_BYTES = 1 << 10
#: What a frame may ask for to be decompressed. Source: RFC 8878, 3.1.1.1.2; `zstd` without --long refuses more.
WINDOW_BYTES = 1 << 27
_FETCH_AGAIN = "fetch the file again and compare it with its record; when it is still so, use another snapshot"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file as it was written.

    Attributes:
        size_bytes: Of it.
        sha256: Of it, in hex.
    """

    size_bytes: int
    sha256: str


def seal(
    source: Path, target: Path, *, level: int | None, recipients: Sequence[str], sha256: str | None = None
) -> Sealed:
    """`source`, compressed and then encrypted, as `target`.

    Args:
        source: Does not change meanwhile.
        target: Does not exist yet.
        level: Of zstd; None for no compression.
        recipients: Public keys, as of `keys.check_recipients`; none for no encryption.
        sha256: Of `source` when it was proven, in hex; None where nobody knows it.

    Raises:
        StoreError: `source` cannot be read, or `target` not be written.
        SnapshotInvalid: `source` changed under it, or since it was proven.
    """
    keys = [recipient(text) for text in recipients]
    read = hashlib.sha256()
    with _opened(source) as file, _Sink(target) as sink:
        pieces = _counted(_plain(file), read)
        reader = _Pieces(pieces if level is None else _compressed(pieces, file, level))
        if keys:
            _encrypt(reader, sink, keys, source)
        else:
            while piece := reader.read(PIECE_BYTES):
                sink.write(piece)
        if sha256 is not None and read.hexdigest() != sha256:
            raise SnapshotInvalid(
                f"{source} was changed: SHA-256 {read.hexdigest()[:16]}…, and {sha256[:16]}… when it was proven",
                remedy="check memory and disk of this machine, then start a new backup",
            )
        return sink.finish()


def unseal(
    source: Path, target: Path, *, compressed: bool, identities: Sequence[Path], limit_bytes: int | None = None
) -> Sealed:
    """`source`, decrypted if it is encrypted and then decompressed, as `target`.

    Args:
        source: What `seal` wrote.
        target: Does not exist yet.
        compressed: It is, under its encryption.
        identities: Files with identities of age, or private SSH keys. Not read when `source` is not encrypted.
        limit_bytes: `target` becomes no larger; None for no limit.

    Raises:
        SnapshotInvalid: `source` is damaged, cut short or too large, or none of the identities opens it.
        StoreError: `source` cannot be read, or `target` not be written.
        BadUsage: An identity file cannot be used.
    """
    with _Sink(target, _Limit(source, limit_bytes)) as sink:
        return _opened_into(sink, source, compressed=compressed, identities=identities)


def unseal_into(
    source: Path, file: IO[bytes], *, compressed: bool, identities: Sequence[Path], limit_bytes: int | None = None
) -> Sealed:
    """As `unseal`, into an open file that is empty: what may be on no disk goes to one that is in memory."""
    with _Sink(Path(f"/dev/fd/{file.fileno()}"), _Limit(source, limit_bytes), into=file.fileno()) as sink:
        return _opened_into(sink, source, compressed=compressed, identities=identities)


def measured(path: Path) -> Sealed:
    """A file as it is."""
    with path.open("rb") as file:
        return Sealed(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _opened_into(sink: _Sink, source: Path, *, compressed: bool, identities: Sequence[Path]) -> Sealed:
    with _opened(source) as file:
        encrypted = file.read(max(map(len, ENCRYPTED))).startswith(ENCRYPTED)
        file.seek(0)
        keys = opening(source, identities) if encrypted else []
        writer = _Decompressor(sink, source) if compressed else sink
        if encrypted:
            _decrypt(_Pieces(_plain(file)), writer, keys, source)
        else:
            for piece in _plain(file):
                writer.write(piece)
        if isinstance(writer, _Decompressor):
            writer.finish()
        return sink.finish()


# ---- streams ----------------------------------------------------------------------------------------------------


class _Writer(Protocol):
    def write(self, piece: bytes) -> int: ...

    def flush(self) -> None: ...

    @property
    def failure(self) -> BaseException | None: ...


class _Limit:
    """How large a file may become."""

    def __init__(self, source: Path, limit_bytes: int | None) -> None:
        self._source = source
        self._limit_bytes = limit_bytes

    def check(self, size_bytes: int) -> None:
        """Raises SnapshotInvalid when that is too large."""
        if self._limit_bytes is not None and size_bytes > self._limit_bytes:
            raise SnapshotInvalid(
                f"{self._source} becomes larger than {self._limit_bytes} bytes, which is all that was expected of it",
                remedy=_FETCH_AGAIN,
            )


class _Sink:
    """A file that is written, counted and hashed; gone at the end of the block unless it was finished.

    pyrage turns whatever a callback raises into errors of its own, an interrupt too, so the first is kept as `failure`.
    With `into`, a descriptor of somebody else's, it is that file, whose owner sees to its end.
    """

    def __init__(self, path: Path, limit: _Limit | None = None, *, into: int = -1) -> None:
        self.failure: BaseException | None = None
        self._into = into
        self._path = path
        self._limit = limit
        self._size_bytes = 0
        self._hash = hashlib.sha256()
        self._finished = False
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600) if self._into < 0 else os.dup(self._into)
        except OSError as err:
            raise _unwritable(self._path, err) from err
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if not self._finished and self._into < 0:
            self._path.unlink(missing_ok=True)

    def write(self, piece: bytes) -> int:
        try:
            if self._limit:
                self._limit.check(self._size_bytes + len(piece))
            rest = memoryview(piece)
            while rest:
                written = os.write(self._fd, rest)
                self._hash.update(rest[:written])
                self._size_bytes += written
                rest = rest[written:]
        except OSError as err:
            self.failure = _unwritable(self._path, err, written=self._size_bytes)
            raise self.failure from err
        except BaseException as err:
            self.failure = err
            raise
        return len(piece)

    def flush(self) -> None:
        """All is written at once."""

    def finish(self) -> Sealed:
        """What was written, once it is on the disk, with its name."""
        written = Sealed(self._size_bytes, self._hash.hexdigest())
        if self._into >= 0:
            return written
        try:
            os.fsync(self._fd)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as err:
            raise _unwritable(self._path, err, written=self._size_bytes) from err
        self._finished = True
        return written


class _Decompressor:
    """Writes what zstd's one frame holds to a sink."""

    def __init__(self, sink: _Sink, source: Path) -> None:
        import zstandard  # noqa: PLC0415

        self.failure: BaseException | None = None
        self._error = zstandard.ZstdError
        self._frame = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()
        self._sink = sink
        self._source = source
        self._held = bytearray()

    def write(self, piece: bytes) -> int:
        try:
            for start in range(0, len(piece), SLICE_BYTES):
                if self._frame.eof or (out := self._slice(piece[start : start + SLICE_BYTES])) is None:
                    raise self._invalid("something follows the end of its compressed data")
                self._held += out
                if len(self._held) >= PIECE_BYTES:
                    self._pass_on()
        except BaseException as err:
            self.failure = err
            raise
        return len(piece)

    def flush(self) -> None:
        """What is held is passed on by `finish`."""

    def finish(self) -> None:
        """Raises SnapshotInvalid when the frame has not ended."""
        if not self._frame.eof:
            raise self._invalid("its compressed data is cut short")
        self._pass_on()

    def _pass_on(self) -> None:
        self._sink.write(bytes(self._held))
        self._held.clear()

    def _slice(self, piece: bytes) -> bytes | None:
        """What a slice becomes; None when it goes on after the end."""
        try:
            out = self._frame.decompress(piece)
        except self._error as err:
            raise self._invalid(f"its compressed data is damaged ({err})") from err
        return None if self._frame.unused_data else out

    def _invalid(self, why: str) -> SnapshotInvalid:
        return SnapshotInvalid(f"{self._source}: {why}", remedy=_FETCH_AGAIN)


class _Pieces(io.RawIOBase):
    """A file over an iterator of pieces; keeps the first failure as `_Sink` does."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.failure: BaseException | None = None
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        try:
            while not self._rest and (piece := next(self._pieces, b"")):
                self._rest = memoryview(piece)
        except BaseException as err:
            self.failure = err
            raise
        taken = self._rest[: size if size >= 0 else None]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)


def _plain(file: io.BufferedReader) -> Iterator[bytes]:
    try:
        while piece := file.read(PIECE_BYTES):
            yield piece
    except OSError as err:
        raise _unreadable(Path(file.name), err) from err


def _counted(pieces: Iterator[bytes], total: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        total.update(piece)
        yield piece


def _compressed(pieces: Iterator[bytes], file: io.BufferedReader, level: int) -> Iterator[bytes]:
    """`pieces` of a file as one frame that tells its size and ends with a checksum of what it holds."""
    import zstandard  # noqa: PLC0415

    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    try:
        frame = compressor.compressobj(size=os.fstat(file.fileno()).st_size)
        for piece in pieces:
            if out := frame.compress(piece):  # an empty one would be the end
                yield out
        yield frame.flush()
    except zstandard.ZstdError as err:
        raise SnapshotInvalid(
            f"{file.name} changed while it was compressed ({err})", remedy="stop what writes to it, then repeat"
        ) from err


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[io.BufferedReader]:
    try:
        file = source.open("rb")
    except OSError as err:
        raise _unreadable(source, err) from err
    with file:
        yield file


def _unreadable(path: Path, err: OSError) -> StoreError:
    return StoreError(f"{path} cannot be read: {err.strerror}", remedy=f"look at it: ls -ld {path}")


def _unwritable(path: Path, err: OSError, *, written: int = 0) -> StoreError:
    if isinstance(err, FileExistsError):
        return StoreError(f"{path} is there already", remedy=f"look what it is, and move it away: ls -ld {path}")
    at = f" after {written} bytes" if written else ""
    return StoreError(
        f"{path} cannot be written{at}: {err.strerror}",
        remedy=f"look at rights and free space of {path.parent}: ls -ld {path.parent}; df -h {path.parent}",
    )


# ---- age --------------------------------------------------------------------------------------------------------


def _encrypt(reader: _Pieces, sink: _Sink, keys: Sequence[Recipient], source: Path) -> None:
    import pyrage  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        pyrage.encrypt_io(reader, sink, keys)
    except (pyrage.EncryptError, OSError) as err:
        if failure := _first(reader, sink):
            raise failure from failure.__cause__
        raise SnapshotInvalid(
            f"{source} cannot be encrypted: {err}", remedy="check the recipients, then repeat"
        ) from err


def _decrypt(reader: _Pieces, writer: _Writer, keys: Sequence[Identity], source: Path) -> None:
    """Source: age-encryption.org/v1, "Payload": each chunk is proven before it is given out, and the last is marked."""
    import pyrage  # noqa: PLC0415

    try:
        pyrage.decrypt_io(reader, writer, keys)
    except (pyrage.DecryptError, OSError) as err:  # the latter when it is damaged behind its header
        if failure := _first(reader, writer):
            raise failure from failure.__cause__
        if "No matching keys" in str(err):
            raise SnapshotInvalid(
                f"{source} is encrypted, and none of the {len(keys)} identities given opens it",
                remedy="give the file with the identity of one of the recipients in its record: --identity FILE",
            ) from err
        raise SnapshotInvalid(
            f"{source}: its encrypted data is damaged or cut short ({err})", remedy=_FETCH_AGAIN
        ) from err


def _first(*streams: _Pieces | _Writer) -> BaseException | None:
    return next((stream.failure for stream in streams if stream.failure is not None), None)
