"""Commands that end with the lab, and daemons that outlive it but are known by more than a number."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# The kernel ends the command when the lab is gone, however it went. Source: setpriv(1), util-linux 2.33 and later.
TIED_TO_US = ("setpriv", "--pdeathsig", "KILL", "--")
_TAIL_LINES = 15


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
) -> str:
    """The standard output of a command that ended well.

    Raises:
        LabError: it did not; the message holds the end of what it said.
    """
    done = attempt(argv, stdin=stdin, env=env, cwd=cwd, timeout_s=timeout_s)
    if done.returncode:
        said = "\n".join((done.stderr + done.stdout).strip().splitlines()[-_TAIL_LINES:])
        raise LabError(
            f"`{' '.join(argv[:8])}` ended with {done.returncode}:\n{said}",
            remedy="see the message above; the same command can be run by hand",
        )
    return done.stdout


def attempt(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command's outcome, whatever it is."""
    try:
        return subprocess.run(
            [*TIED_TO_US, *argv],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=env,
            cwd=cwd,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as late:
        raise LabError(
            f"`{' '.join(argv[:8])}` did not end within {timeout_s} s",
            remedy="try again; the machine may be overloaded",
        ) from late


def wait_for(what: str, ready: Callable[[], bool], *, timeout_s: float, pause_s: float = 0.2, remedy: str) -> None:
    """Returns once `ready` says yes.

    Raises:
        LabError: it did not within the time.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout_s:.0f} s for {what}", remedy=remedy)
        time.sleep(pause_s)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process that the lab starts and leaves running.

    The record is written by the process itself before it becomes the daemon, so no daemon is ever without one. It names
    pid, start time and boot: a stranger with a reused pid is never taken for ours.
    """

    name: str
    record: Path
    log: Path

    def start(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start it, unless it runs."""
        if self.pid() is not None:
            return
        self.record.parent.mkdir(parents=True, exist_ok=True)
        become = (
            'echo "$$ $(cut -d" " -f22 /proc/$$/stat) $(cat /proc/sys/kernel/random/boot_id)" > "$0.new"'
            ' && mv "$0.new" "$0" && exec "$@"'
        )
        with self.log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            streams = [(os.POSIX_SPAWN_DUP2, from_.fileno(), to) for to, from_ in enumerate((nothing, log, log))]
            words = ["sh", "-c", become, str(self.record), *argv]
            os.posix_spawn("/bin/sh", words, os.environ if env is None else env, file_actions=streams, setsid=True)
        wait_for(
            f"{self.name} to start",
            lambda: self.pid() is not None,
            timeout_s=5,
            pause_s=0.02,
            remedy=f"see {self.log}",
        )

    def pid(self) -> int | None:
        """The process id of the running daemon."""
        try:
            pid, started, boot = self.record.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        same_boot = boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return int(pid) if same_boot and _start_time(int(pid)) == started else None

    def stop(self, *, timeout_s: float = 30) -> None:
        """End it, politely first."""
        for sign, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
            pid = self.pid()
            if pid is None:
                break
            os.kill(pid, sign)
            deadline = time.monotonic() + patience_s
            while self.pid() is not None and time.monotonic() < deadline:
                time.sleep(0.02)
            with contextlib.suppress(ChildProcessError):  # another process may have started it
                os.waitpid(pid, os.WNOHANG)
        self.record.unlink(missing_ok=True)

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]) if self.log.exists() else ""


def _start_time(pid: int) -> str | None:
    """Clock ticks since boot at which a living process started.

    Source: proc(5), `stat`: the command's name may hold spaces, so fields are counted after its closing bracket.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]
