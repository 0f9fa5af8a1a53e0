"""Where the output of a command goes: into memory, into a file, and line by line to whoever watches."""

from __future__ import annotations

import os
import threading
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

#: How much of the errors is kept.
STDERR_BYTES = 1 << 20
#: A line that goes on for longer is handed on in pieces.
LINE_BYTES = 1 << 16


class Output:
    r"""Takes the bytes of both streams as they come, from two threads. A context manager.

    Args:
        stdout_to: A file for standard output, made anew; None keeps it in memory.
        on_line: Told each line of either stream; what is not UTF-8 is shown as `\xNN`.
        keep_bytes: Of standard output in memory, half of it from its beginning, half from its end; None keeps all.
    """

    def __init__(
        self,
        stdout_to: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        keep_bytes: int | None = None,
    ) -> None:
        self._path = stdout_to
        self._file: IO[bytes] | None = None
        self._stdout: list[bytes] = []
        self._room = keep_bytes // 2 if keep_bytes is not None else None
        self._end = bytearray()
        self._left_out_bytes = 0
        self._stderr = bytearray()
        self._lines = (_Lines(on_line), _Lines(on_line)) if on_line else None
        self._mutex = threading.Lock()

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = private_file(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lines in self._lines or ():
            lines.end()
        if self._file is not None:
            self._file.close()

    def out(self, chunk: bytes) -> None:
        """More of standard output."""
        if self._file is not None:
            self._file.write(chunk)
        else:
            self._keep(chunk)
        if self._lines:
            with self._mutex:
                self._lines[0].feed(chunk)

    def err(self, chunk: bytes) -> None:
        """More of standard error."""
        self._stderr += chunk
        if len(self._stderr) > 2 * STDERR_BYTES:
            del self._stderr[:-STDERR_BYTES]
        if self._lines:
            with self._mutex:
                self._lines[1].feed(chunk)

    def _keep(self, chunk: bytes) -> None:
        if self._room is None:
            self._stdout.append(chunk)
            return
        begun = sum(len(piece) for piece in self._stdout)
        first = chunk[: self._room - begun]
        if first:
            self._stdout.append(first)
        self._end += chunk[len(first) :]
        if len(self._end) > 2 * self._room:
            self._left_out_bytes += len(self._end) - self._room
            del self._end[: -self._room]

    @property
    def stdout(self) -> bytes:
        """What is in memory, with a line for what is not."""
        said = f"\n… {self._left_out_bytes} bytes …\n".encode() if self._left_out_bytes else b""
        return b"".join(self._stdout) + said + bytes(self._end)

    @property
    def stderr(self) -> bytes:
        """The end of it."""
        return bytes(self._stderr[-STDERR_BYTES:])


class _Lines:
    """Cuts a stream into lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for line in whole:
            self._tell(line)
        if len(self._rest) > LINE_BYTES:
            self.end()

    def end(self) -> None:
        if self._rest:
            self._tell(self._rest)
        self._rest = b""

    def _tell(self, line: bytes) -> None:
        self._on_line(line.removesuffix(b"\r").decode(errors="backslashreplace"))


def private_file(path: Path) -> IO[bytes]:
    """A new file at `path` that only this user may read, from its first byte on."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
