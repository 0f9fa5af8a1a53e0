"""What the core needs of a machine that it works on: commands and files.

`hosts` has the real ones (SSH, a container's runtime, this machine), and `tests/contract/hosts.py` is the one suite
that holds for all of them. Everything is done as root unless `sudo=False` says otherwise. All methods raise HostError.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from orchestrator.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

T = TypeVar("T")

#: Where on a host what is this program's is kept: of each run a directory, with what its commands left there.
STATE = "/var/lib/orchestrator"


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended, whatever its status.

    Attributes:
        argv: As it was asked for.
        rc: Its exit status; 128 and the signal's number when a signal ended it.
        stdout: All of it; empty when it went to a file. Of a detached command its first and its last MiB.
        stderr: Its last MiB.
        took_s: As seen from here.
        log: The file of a run's record that has all that it said; "" without one.
    """

    argv: tuple[str, ...]
    rc: int
    stdout: bytes
    stderr: bytes
    took_s: float
    log: str = ""

    @property
    def text(self) -> str:
        """Its standard output as text, without white space around it."""
        return self.stdout.decode(errors="replace").strip()


@dataclass(frozen=True, slots=True)
class Reached:
    """How one host answered when it was looked at.

    Attributes:
        name: Its name.
        via: How it is reached, in words.
        user: Who commands run as; "" when it was not reached.
        root: How root is become there, in words.
        systemd: It runs there, so detached commands are its units.
        latency_s: Of a command that does nothing, over the connection that there is; None when it was not reached.
        error: Why it cannot be worked on; "" when it can.
        remedy: What to do about that.
    """

    name: str
    via: str
    user: str = ""
    root: str = ""
    systemd: bool = False
    latency_s: float | None = None
    error: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Vouched:
    """A host key that somebody is asked to vouch for.

    Attributes:
        host: As it was named.
        name: How known_hosts calls it.
        kind: Of the key.
        fingerprint: Of the key.
        state: `known`, `new`, or `changed` when it takes the place of another.
        file: The known_hosts file.
    """

    host: str
    name: str
    kind: str
    fingerprint: str
    state: str
    file: str


class Stream(Protocol):
    """Both directions of a conversation with a service of a host. Its methods raise HostUnreachable when it is lost."""

    def send(self, content: bytes) -> None:
        """Send all of it."""
        ...

    def receive(self, most_bytes: int) -> bytes:
        """What has come, as soon as something has; b"" when the service has ended."""
        ...


class Declined(Exception):
    """A host did not do something with a file, for the reason that is its text.

    Attributes:
        missing: There is no such file.
    """

    def __init__(self, why: str, *, missing: bool = False) -> None:
        super().__init__(why)
        self.missing = missing


class Garbled(Exception):
    """What a host answers is not what it was asked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is told of a file; None for what is left out.

    Attributes:
        name: As it was asked for, or listed.
        size_bytes: Of it.
        mode: Its kind and rights, as in `stat`.
        modified: In seconds since the epoch.
    """

    name: str
    size_bytes: int | None
    mode: int | None
    modified: int | None


class Files(Protocol):
    """Files of a host without commands. Its methods raise Declined, Garbled, and HostUnreachable when it is lost."""

    def listed(self, directory: str) -> list[Entry]:
        """The names in a directory with what they are, links as links, in no order."""
        ...

    def seen(self, path: str, *, followed: bool = False) -> Entry | None:
        """What is there, a link as a link unless it is followed; None where nothing is."""
        ...

    def make_directory(self, path: str, mode: int) -> None:
        """One that is not there yet."""
        ...

    def remove(self, path: str) -> None:
        """A file, or a link; that it is not there is fine."""
        ...

    def rename(self, path: str, to: str) -> None:
        """A file gets another name, which it takes from what has it."""
        ...

    def write(self, path: str, pieces: Iterable[bytes]) -> None:
        """Make a file that is not there yet, for its user only."""
        ...

    def read(self, path: str, size_bytes: int) -> Generator[bytes, None, None]:
        """The first bytes of a file, in order; Garbled when it has fewer."""
        ...


class Host(Protocol):
    """One machine."""

    @property
    def name(self) -> str:
        """The node's name."""
        ...

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
        """Run a command to its end. No shell reads `argv`; ask for `["sh", "-c", …]` where one is wanted.

        Args:
            argv: The program and its arguments. Never a secret: other users of the host can read them.
            timeout_s: Then the command is ended on the host, with all that it started.
            stdin: What it reads; a Path is streamed.
            sudo: As root; else as the user who logged in.
            repeatable: It may run twice, so a lost connection is retried instead of being raised.
            private: Its output holds secrets: it is kept in no record.
            stdout_to: A local file that gets the output, made anew and readable by this user only.
            on_line: Told each line of output and errors as it comes.

        Raises:
            CommandTimedOut: It did not end in time.
            HostUnreachable: Nothing was started.
            HostConnectionLost: What became of it is not known.
        """
        ...

    def read(self, path: str, *, timeout_s: float) -> bytes:
        """The contents of a file.

        Raises:
            HostFileMissing: There is none.
        """
        ...

    def write(self, path: str, data: bytes, *, mode: int, owner: str, timeout_s: float) -> None:
        """Put a file there, whole or not at all; what was at `path` is replaced, a symbolic link too.

        Args:
            path: Its directory exists.
            data: Its contents.
            mode: From its first byte on.
            owner: As chown takes it, such as `root:root`; "" for whoever writes it.
            timeout_s: For all of it.
        """
        ...

    def fetch(self, path: str, local: Path, *, timeout_s: float, compared: bool = True) -> str:
        """Copy a file of any size from there; it appears whole or not at all, readable by this user only.

        Args:
            path: The file.
            local: Where it is wanted.
            timeout_s: For all of it.
            compared: Not for a file with a sum of its own, which whoever fetches it checks: it is read once there.

        Returns:
            Its SHA-256 in hex, as counted on both sides; "" where it was not.
        """
        ...

    def send(self, local: Path, path: str, *, mode: int, owner: str, timeout_s: float) -> str:
        """Copy a file of any size to there, otherwise as `write`. Returns its SHA-256, as counted on both sides."""
        ...

    def files(self, talk: Callable[[Files], T], *, silence_s: float) -> T:
        """What a conversation about files comes to. It is by SFTP, as the user who logged in, and needs no commands.

        Args:
            talk: Holds the conversation, and may repeat it: it is called again when the connection is lost.
            silence_s: For how long nothing may come or go before it counts as lost.

        Raises:
            HostLacks: There is no SFTP.
            HostUnreachable: No connection, or it was lost.
            Garbled: What the host offers as SFTP is none.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; the next use makes another."""
        ...


def shown(argv: Sequence[str], most: int = 120) -> str:
    """`argv` for people, in one line, cut."""
    text = " ".join(shlex.join(argv).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def demand(host: Host, done: Completed, *, remedy: str = "") -> Completed:
    """`done`, which has to have ended with 0.

    Raises:
        CommandFailed: It did not; the message has the end of what it said.
    """
    if done.rc == 0:
        return done
    said = (done.stderr.strip() or done.stdout.strip())[-512:].decode(errors="replace")
    raise CommandFailed(
        f"{host.name}: `{shown(done.argv)}` ended with {done.rc}: {said[-256:] or 'it said nothing'}",
        remedy=remedy or f"run it by hand on {host.name}, put right what it complains of, and repeat",
        rc=done.rc,
    )
