"""A host of which everything that runs on it is in the run's record."""

from __future__ import annotations

import itertools
import re
import threading
from dataclasses import replace
from typing import IO, TYPE_CHECKING

from orchestrator.engine.host import Completed, shown
from orchestrator.hosts.output import private_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from orchestrator.engine.clock import Clock
    from orchestrator.engine.host import Files, Host, T

#: A word of a command is cut to this in events and the journal; the file has all of it.
WORD = 200
#: Below the run's directory.
FOLDER = "hosts"


class Recorded:
    """Runs everything on `host`, and writes down what it was, how it ended, and what it said.

    Contents of files are not written down: they may be keys. Nor is the output of commands that are `private`.

    Args:
        host: The host itself.
        directory: The run's own.
        emit: Reports an event, as `engine.runner.Applying.emit` does.
        clock: For times.
        note: Writes the same into the run's journal.
    """

    def __init__(
        self,
        host: Host,
        directory: Path,
        emit: Callable[..., None],
        clock: Clock,
        note: Callable[..., None] = lambda **_: None,
    ) -> None:
        self._host = host
        self._directory = directory / FOLDER / re.sub(r"[^A-Za-z0-9_.-]", "_", host.name)
        self._emit = emit
        self._clock = clock
        self._note = note
        self._numbers = itertools.count(1)
        self._mutex = threading.Lock()

    @property
    def name(self) -> str:
        """The node's name."""
        return self._host.name

    def close(self) -> None:
        """Let go of the connection."""
        self._host.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes | Path = b"",
        sudo: bool = True,
        repeatable: bool = False,
        private: bool = False,
        stdout_to: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a command to its end."""

        def work(heard: Callable[[str], None] | None) -> Completed:
            return self._host.run(
                argv,
                timeout_s=timeout_s,
                stdin=stdin,
                sudo=sudo,
                repeatable=repeatable,
                private=private,
                stdout_to=stdout_to,
                on_line=heard,
            )

        return self.recording(argv, work, private=private, on_line=on_line)

    def recording(
        self,
        argv: Sequence[str],
        work: Callable[[Callable[[str], None] | None], Completed],
        *,
        private: bool = False,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """`work`, which runs `argv` on the host and is handed who listens to its lines, written down."""
        path, file = self._opened(argv)
        with file:

            def heard(line: str) -> None:
                if not private:
                    file.write(line.encode() + b"\n")
                if on_line:
                    on_line(line)

            began = self._clock.now()
            try:
                done = work(heard if on_line or not private else None)
            except Exception as err:
                self._ended(argv, file, path, None, self._clock.now() - began, f"{type(err).__name__}: {err}")
                err.add_note(f"all that it said: {path}")
                raise
            self._ended(argv, file, path, done.rc, done.took_s, "")
            return replace(done, log=str(path))

    def read(self, path: str, *, timeout_s: float) -> bytes:
        """The contents of a file."""
        began = self._clock.now()
        data = self._host.read(path, timeout_s=timeout_s)
        self._file("read", path, len(data), began)
        return data

    def write(self, path: str, data: bytes, *, mode: int, owner: str, timeout_s: float) -> None:
        """Put a file there, whole or not at all."""
        began = self._clock.now()
        self._host.write(path, data, mode=mode, owner=owner, timeout_s=timeout_s)
        self._file("write", path, len(data), began)

    def fetch(self, path: str, local: Path, *, timeout_s: float, compared: bool = True) -> str:
        """Copy a file of any size from there."""
        began = self._clock.now()
        sha256 = self._host.fetch(path, local, timeout_s=timeout_s, compared=compared)
        self._file("fetch", path, local.stat().st_size, began)
        return sha256

    def send(self, local: Path, path: str, *, mode: int, owner: str, timeout_s: float) -> str:
        """Copy a file of any size to there."""
        began = self._clock.now()
        sha256 = self._host.send(local, path, mode=mode, owner=owner, timeout_s=timeout_s)
        self._file("send", path, local.stat().st_size, began)
        return sha256

    def files(self, talk: Callable[[Files], T], *, silence_s: float) -> T:
        """What a conversation about files comes to. None of it is written down: it is their contents."""
        return self._host.files(talk, silence_s=silence_s)

    def _opened(self, argv: Sequence[str]) -> tuple[Path, IO[bytes]]:
        """A new file for one command, with the command in its first line."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._mutex:
            path = next(p for n in self._numbers if not (p := self._directory / f"{n:04d}.log").exists())
            file = private_file(path)
        file.write(f"$ {shown(argv, 1 << 20)}\n".encode())
        return path, file

    def _ended(self, argv: Sequence[str], file: IO[bytes], path: Path, rc: int | None, took_s: float, why: str) -> None:
        took_s = round(took_s, 3)
        end = why or f"rc={rc}"
        file.write(f"# {end} after {took_s} s\n".encode())
        words = [word if len(word) <= WORD else f"{word[: WORD - 1]}…" for word in argv]
        output = str(path.relative_to(self._directory.parent.parent))
        self._emit("host.command", level="debug", host=self.name, argv=words, rc=rc, took_s=took_s, output=output)
        self._note(host=self.name, argv=words, rc=rc, took_s=took_s, output=output)

    def _file(self, what: str, path: str, size_bytes: int, began: float) -> None:
        took_s = round(self._clock.now() - began, 3)
        self._emit(
            "host.file", level="debug", host=self.name, what=what, path=path, size_bytes=size_bytes, took_s=took_s
        )
        self._note(host=self.name, what=what, path=path, size_bytes=size_bytes, took_s=took_s)
