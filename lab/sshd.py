"""OpenSSH's server on loopback, with keys of its own: what the transport over SSH is tested and measured against."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import host
from lab.loopback import ADDRESS, free_port, until_listens
from lab.processes import TIED_TO_US, Daemon, run

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
PROGRAM = "/usr/sbin/sshd"
START_S = 10
#: As root it wants this directory to be there. Source: sshd(8), FILES.
_PRIVILEGES = Path("/run/sshd")


@dataclass(frozen=True)
class Sshd:
    """A server that runs, or ran.

    Attributes:
        directory: All of it: keys, configuration, log.
        port: Where it listens.
        kinds: Of its host keys.
    """

    directory: Path
    port: int
    kinds: tuple[str, ...]

    @property
    def user(self) -> str:
        """Who can log in."""
        return getpass.getuser()

    @property
    def client_key(self) -> Path:
        """The private key that it accepts."""
        return self.directory / "client"

    @property
    def authorized_keys(self) -> Path:
        """The keys that it accepts."""
        return self.directory / "authorized_keys"

    @property
    def known_hosts(self) -> str:
        """The lines of known_hosts for all of its keys."""
        keys = [self.host_key(kind).with_suffix(".pub").read_text().split()[:2] for kind in self.kinds]
        return "".join(f"[{ADDRESS}]:{self.port} {' '.join(key)}\n" for key in keys)

    @property
    def daemon(self) -> Daemon:
        """Its process."""
        return Daemon(f"sshd-{self.port}", self.directory / "sshd.pid", self.directory / "sshd.log")

    def host_key(self, kind: str) -> Path:
        """Its private key of a kind."""
        return self.directory / f"host_{kind}"

    def ssh_config(self, known_hosts: Path, *, alias: str = "*") -> str:
        """What ~/.ssh/config needs to reach it."""
        lines = {
            "HostName": ADDRESS,
            "Port": self.port,
            "User": self.user,
            "IdentityFile": self.client_key,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "none",
        }
        return f"Host {alias}\n" + "".join(f"  {key} {value}\n" for key, value in lines.items())

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.daemon.start([*TIED_TO_US, PROGRAM, "-D", "-e", "-f", str(self.directory / "sshd_config")])
        until_listens("sshd", self.daemon, self.port, timeout_s=START_S)

    def stop(self) -> None:
        """No new connections; those that there are go on."""
        self.daemon.stop()

    def sessions(self) -> tuple[int, ...]:
        """The processes that serve a connection each."""
        main = str(self.daemon.pid())
        return tuple(int(pid) for pid, parent in _parents() if parent == main)

    def cut(self) -> int:
        """End all connections from one moment to the next, and no command with them; how many there were."""
        sessions = self.sessions()
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(pid, signal.SIGKILL)
        return len(sessions)


def create(directory: Path, *, kinds: tuple[str, ...] = ("ed25519",), only_sftp: bool = False) -> Sshd:
    """A server in an empty directory: all its files, nothing started. With `only_sftp` nobody has a shell there."""
    host.ensure_tools(PACKAGES)
    directory.mkdir(parents=True, mode=0o700)
    made = Sshd(directory, free_port(), kinds)
    for path, kind in ((made.client_key, "ed25519"), *((made.host_key(kind), kind) for kind in kinds)):
        run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)])
    made.authorized_keys.write_text(made.client_key.with_suffix(".pub").read_text())
    settings = {
        "ListenAddress": f"{ADDRESS}:{made.port}",
        "AuthorizedKeysFile": made.authorized_keys,
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "yes",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "MaxStartups": "1000",
        "MaxSessions": "200",
        "PrintMotd": "no",
        "UseDNS": "no",
        "Subsystem": "sftp internal-sftp",
    }
    if only_sftp:
        settings["ForceCommand"] = "internal-sftp"
    keys = "".join(f"HostKey {made.host_key(kind)}\n" for kind in kinds)
    (directory / "sshd_config").write_text(keys + "".join(f"{key} {value}\n" for key, value in settings.items()))
    if os.geteuid() == 0:
        _PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
    return made


@contextmanager
def running(directory: Path, *, kinds: tuple[str, ...] = ("ed25519",), only_sftp: bool = False) -> Iterator[Sshd]:
    """A server for as long as the context lasts; it ends with this process, however that ends."""
    made = create(directory, kinds=kinds, only_sftp=only_sftp)
    made.start()
    try:
        yield made
    finally:
        made.cut()
        made.stop()


def _parents() -> Iterator[tuple[str, str]]:
    """Process -> its parent. Source: proc(5), `stat`: the name in brackets may hold spaces."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield path.parent.name, fields[1]
