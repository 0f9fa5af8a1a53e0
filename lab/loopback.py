"""Where servers on this machine listen."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.processes import wait_for

if TYPE_CHECKING:
    from lab.processes import Daemon

ADDRESS = "127.0.0.1"
#: Below the range that the kernel takes the ports of outgoing connections from.
_PORTS = range(20000, 32000)


def free_port() -> int:
    """One that nobody listens at."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind((ADDRESS, port))
            except OSError:
                continue
            return port
    raise LabError("no port is free on loopback", remedy="stop what listens there: `ss -ltnp`")


def until_listens(what: str, daemon: Daemon, port: int, *, timeout_s: float) -> None:
    """Return once a server that was started listens.

    Raises:
        LabError: It ended, or does not in time.
    """

    def listens() -> bool:
        if daemon.pid() is None:
            raise LabError(f"{what} ended:\n{daemon.last_words()}", remedy=f"see {daemon.log}")
        with socket.socket() as probe:
            return probe.connect_ex((ADDRESS, port)) == 0

    wait_for(f"{what} to listen", listens, timeout_s=timeout_s, pause_s=0.02, remedy=f"see {daemon.log}")
