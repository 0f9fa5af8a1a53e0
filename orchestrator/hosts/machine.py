"""A host as the core sees it, whatever carries its commands: rights, timeouts, retries, files."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from orchestrator.engine import retry
from orchestrator.engine.host import Completed, demand, shown
from orchestrator.errors import CommandTimedOut, HostAuthFailed, HostError, HostFileMissing
from orchestrator.hosts import commands
from orchestrator.hosts.commands import Sudo
from orchestrator.hosts.output import Output
from orchestrator.hosts.sftp import SftpFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from orchestrator.engine.clock import Clock
    from orchestrator.engine.host import Files, Stream, T
    from orchestrator.errors import OrchestratorError
    from orchestrator.hosts.secrets import Secrets

CHUNK_BYTES = 1 << 18
#: To find out how root is become.
SUDO_S = 20.0
#: How often a file that changed under its copy is copied again.
COPIES = 3

_HOW_SUDO = (
    'if [ "$(id -u)" = 0 ]; then echo root; elif ! command -v sudo >/dev/null; then echo none;'
    " elif sudo -k -n true 2>/dev/null; then echo free; else echo password; fi"
)


class Transport(Protocol):
    """Carries one command to a host and its output back."""

    @property
    def user(self) -> str:
        """Who commands run as; "" when that is not known beforehand."""
        ...

    def execute(
        self, argv: Sequence[str], *, stdin: Iterator[bytes], output: Output, deadline_s: float, repeatable: bool
    ) -> int:
        """Run `argv` to its end; its exit status.

        Args:
            argv: The program and its arguments.
            stdin: What it reads, in pieces.
            output: Takes what it says.
            deadline_s: Seconds from now after which the far end counts as lost.
            repeatable: A loss is HostUnreachable then.

        Raises:
            HostUnreachable: Nothing was started, or it may be repeated.
            HostConnectionLost: What became of it is not known.
        """
        ...

    def converse(self, service: str, talk: Callable[[Stream], T], *, silence_s: float) -> T:
        """What one conversation with a service comes to. It is not repeated here."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Machine:
    """A Host over a Transport. Safe in threads.

    Args:
        name: The node's.
        transport: Carries its commands.
        secrets: For sudo's password.
        clock: For pauses and times.
        patience_s: How long a connection is tried.
        retried: Told of each failure that is followed by another attempt, and of the pause.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        secrets: Secrets,
        clock: Clock,
        *,
        patience_s: float,
        retried: Callable[[OrchestratorError, float], None] | None = None,
    ) -> None:
        self._name = name
        self._transport = transport
        self._secrets = secrets
        self._clock = clock
        self._policy = replace(retry.HOST_CONNECT, give_up_s=patience_s)
        self._retried = retried
        self._sudo: Sudo | None = None
        self._mutex = threading.Lock()

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    def close(self) -> None:
        """Let go of the connection."""
        self._transport.close()

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
        del private  # nothing is recorded here
        how = self.sudo() if sudo else Sudo.NONE
        before = commands.password_lines(self._password()) if how is Sudo.PASSWORD else b""
        words = commands.wrapped(argv, timeout_s=timeout_s, sudo=how)

        def attempt() -> Completed:
            began = self._clock.now()
            with Output(stdout_to, on_line) as output:
                rc = self._transport.execute(
                    words,
                    stdin=_pieces(before, stdin),
                    output=output,
                    deadline_s=timeout_s + commands.KILL_AFTER_S + commands.GRACE_S,
                    repeatable=repeatable,
                )
            return Completed(tuple(argv), rc, output.stdout, output.stderr, self._clock.now() - began)

        done = retry.call(self._policy, attempt, clock=self._clock, scheduled=self._retried)
        if commands.timed_out(done.rc, done.took_s, timeout_s):
            raise CommandTimedOut(
                f"{self.name}: `{shown(argv)}` did not end within {timeout_s:g} s, and was ended",
                remedy=f"look at {self.name} for what it waits for, then repeat",
            )
        return done

    def converse(self, service: str, talk: Callable[[Stream], T], *, silence_s: float) -> T:
        """What a conversation with a service of the host comes to."""

        def attempt() -> T:
            return self._transport.converse(service, talk, silence_s=silence_s)

        return retry.call(self._policy, attempt, clock=self._clock, scheduled=self._retried)

    def files(self, talk: Callable[[Files], T], *, silence_s: float) -> T:
        """What a conversation about files comes to."""
        return self.converse("sftp", lambda stream: talk(SftpFiles(stream, self.name)), silence_s=silence_s)

    # ---- files ------------------------------------------------------------------------------------------------

    def read(self, path: str, *, timeout_s: float) -> bytes:
        """The contents of a file."""
        done = self.run(commands.reading(path), timeout_s=timeout_s, repeatable=True)
        return self._file(done, path).stdout

    def write(self, path: str, data: bytes, *, mode: int, owner: str, timeout_s: float) -> None:
        """Put a file there, whole or not at all."""
        self._put(data, path, hashlib.sha256(data).hexdigest(), mode, owner, timeout_s)

    def send(self, local: Path, path: str, *, mode: int, owner: str, timeout_s: float) -> str:
        """Copy a file of any size to there."""
        with local.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
        self._put(local, path, sha256, mode, owner, timeout_s)
        return sha256

    def fetch(self, path: str, local: Path, *, timeout_s: float, compared: bool = True) -> str:
        """Copy a file of any size from there."""
        part = local.with_name(f".{local.name}.part")
        try:
            for _ in range(COPIES):
                there = self._copied(path, part, timeout_s, hashed=compared)
                with part.open("rb") as copy:
                    if not compared or hashlib.file_digest(copy, "sha256").hexdigest() == there:
                        os.fsync(copy.fileno())
                        part.replace(local)
                        return there
        finally:
            part.unlink(missing_ok=True)
        raise HostError(
            f"{self.name}: {path} changed under each of {COPIES} copies",
            remedy="stop what writes to it, or copy a snapshot of it",
        )

    def _copied(self, path: str, part: Path, timeout_s: float, *, hashed: bool) -> str:
        """Copy a file from there to `part`; its SHA-256 there, or "" where it is not hashed."""
        with ThreadPoolExecutor(1, "digest") as beside:
            # Hashed there while it is copied: one after the other takes half as long again.
            argv = commands.digesting(path)
            digest = beside.submit(self.run, argv, timeout_s=timeout_s, repeatable=True) if hashed else None
            self._file(self.run(commands.reading(path), timeout_s=timeout_s, repeatable=True, stdout_to=part), path)
        return self._file(digest.result(), path).text.partition(" ")[0] if digest else ""

    def _put(self, source: bytes | Path, path: str, sha256: str, mode: int, owner: str, timeout_s: float) -> None:
        argv = commands.writing(path, mode=mode, owner=owner, sha256=sha256)
        done = self.run(argv, stdin=source, timeout_s=timeout_s, repeatable=True)
        why = {
            commands.A_DIRECTORY: "it is a directory",
            commands.DAMAGED: "what arrived is not what was sent",
        }.get(done.rc) or done.stderr[-256:].decode(errors="replace").strip()
        if done.rc:
            raise HostError(
                f"{self.name}: {path} cannot be written: {why}",
                remedy=f"look at the directory, its rights and its free space on {self.name}, then repeat",
            )

    def _file(self, done: Completed, path: str) -> Completed:
        if done.rc == commands.MISSING:
            raise HostFileMissing(
                f"{self.name}: there is no file {path}", remedy=f"look for it on {self.name}: ls -l {path}"
            )
        return demand(self, done)

    # ---- root -------------------------------------------------------------------------------------------------

    def sudo(self) -> Sudo:
        """How root is become there; found out once.

        Raises:
            HostAuthFailed: There is no way.
        """
        if self._transport.user == "root":
            return Sudo.NONE
        with self._mutex:
            if self._sudo is None:
                self._sudo = self._find_sudo()
            return self._sudo

    def _find_sudo(self) -> Sudo:
        done = self.run(["sh", "-c", _HOW_SUDO], timeout_s=SUDO_S, sudo=False, repeatable=True)
        match done.text:
            case "root":
                return Sudo.NONE
            case "free":
                return Sudo.FREE
            case "password":
                self._prove_password()
                return Sudo.PASSWORD
        raise HostAuthFailed(
            f"{self.name}: {self._transport.user or 'the user'} is not root, and there is no sudo",
            remedy="log in as root, or install sudo there and allow it for the user",
        )

    def _prove_password(self) -> None:
        """One attempt with nothing behind it: sudo asks three times, and would read a command's input as guesses."""
        argv = ("sudo", "-k", "-S", "-p", "", "--", "true")
        rc = 1
        while rc:
            password = self._password()
            with Output() as output:
                given = iter([f"{password}\n".encode()])
                rc = self._transport.execute(argv, stdin=given, output=output, deadline_s=SUDO_S, repeatable=True)
            if rc and not self._secrets.wrong(self._sudo_prompt, password):
                break
        if not rc:
            self._secrets.proved(self._sudo_prompt)
        else:
            said = output.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise HostAuthFailed(
                f"{self.name}: sudo refuses {self._transport.user or 'the user'}: {said[0][:256]}",
                remedy=f"check the password, and `sudo -l` on {self.name}",
            )

    @property
    def _sudo_prompt(self) -> str:
        return f"sudo password of {self._transport.user or 'this user'}"

    def _password(self) -> str:
        user = self._transport.user or "this user"
        if password := self._secrets.secret(self._sudo_prompt):
            return password
        raise HostAuthFailed(
            f"{self.name}: sudo wants the password of {user}, and there is nobody to ask",
            remedy=f"run it on a terminal, or allow {user} sudo without a password there",
        )


def _pieces(before: bytes, stdin: bytes | Path) -> Iterator[bytes]:
    if before:
        yield before
    if isinstance(stdin, bytes):
        for start in range(0, len(stdin), CHUNK_BYTES):
            yield stdin[start : start + CHUNK_BYTES]
        return
    with stdin.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
