"""Where servers on this machine listen."""

from __future__ import annotations

import random
import socket

from lab.errors import LabError

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


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) == 0
