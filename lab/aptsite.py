"""The apt repositories, served to the nodes on the network's own address."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from lab import debs, network, state
from lab.errors import LabError
from lab.processes import Daemon, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

PORT = 8089


def url(minor: str) -> str:
    """The address of a minor's repository, with the path that pkgs.k8s.io has for it."""
    return f"http://{network.GATEWAY}:{PORT}/core:/stable:/v{minor}/deb/"


def source_line(minor: str) -> str:
    """The apt source of a minor, as Kubernetes' own install guide writes it."""
    return f"deb [signed-by=/etc/apt/keyrings/{debs.KEYRING}] {url(minor)} /\n"


def by_minor(offered: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Versions of each minor, both in order."""
    minors = sorted({debs.minor(version) for version in offered})
    return {minor: tuple(sorted({v for v in offered if debs.minor(v) == minor})) for minor in minors}


def serve(offered: Iterable[str]) -> None:
    """Offer the repositories of these versions, in addition to what is offered already for other clusters."""
    wanted = {*offered, *(version for cluster in state.clusters() for version in cluster.offered)}
    for minor, members in by_minor(wanted).items():
        place = _directory() / f"core:/stable:/v{minor}"
        place.mkdir(parents=True, exist_ok=True)
        draft = place / "deb.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(debs.repository(minor, members))
        draft.replace(place / "deb")
    daemon = _daemon()
    daemon.start(
        [sys.executable, "-m", "http.server", str(PORT), f"--bind={network.GATEWAY}", f"--directory={_directory()}"]
    )
    wait_for(
        "the apt server to answer",
        lambda: daemon.pid() is None or _answers(),
        timeout_s=10,
        pause_s=0.05,
        remedy=f"see {daemon.log}",
    )
    if daemon.pid() is None:
        raise LabError(
            f"the apt server ended:\n{daemon.last_words()}", remedy=f"free port {PORT}: ss -ltnp 'sport = :{PORT}'"
        )


def stop() -> None:
    """End the server."""
    _daemon().stop(timeout_s=5)


def _answers() -> bool:
    try:
        with socket.create_connection((network.GATEWAY, PORT), timeout=1):
            return True
    except OSError:
        return False


def _daemon() -> Daemon:
    return Daemon("the apt server", state.run_directory() / "apt.pid", state.run_directory() / "apt.log")


def _directory() -> Path:
    return state.run_directory() / "apt"
