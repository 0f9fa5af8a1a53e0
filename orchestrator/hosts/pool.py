"""The hosts of one process: each connected once, as many at a time as is asked for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from orchestrator.hosts.container import ContainerTransport
from orchestrator.hosts.keyring import Keyring
from orchestrator.hosts.locate import BySsh
from orchestrator.hosts.machine import Machine
from orchestrator.hosts.ssh import SshTransport, Switchboard

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from orchestrator.engine.clock import Clock
    from orchestrator.errors import OrchestratorError
    from orchestrator.hosts.config import Route, SshConfig
    from orchestrator.hosts.locate import Place
    from orchestrator.hosts.machine import Transport
    from orchestrator.hosts.secrets import Secrets


class Pool:
    """Hosts by their place. A context manager: leaving it ends all connections. Safe in threads.

    Args:
        config: The user's SSH settings.
        secrets: Passphrases and passwords.
        clock: For pauses.
        patience_s: How long a connection is tried.
        retried: Told of each failure that is followed by another attempt, and of the pause.
        trusting: Options of `hosts trust`, for whoever is told to vouch for a key.
    """

    def __init__(
        self,
        config: SshConfig,
        secrets: Secrets,
        clock: Clock,
        *,
        patience_s: float,
        retried: Callable[[OrchestratorError, float], None] | None = None,
        trusting: str = "",
    ) -> None:
        self._config = config
        self._secrets = secrets
        self._clock = clock
        self._patience_s = patience_s
        self._retried = retried
        self._hosts: dict[Place, Machine] = {}
        self._mutex = threading.Lock()
        self.board = Switchboard(Keyring(secrets), trusting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            for host in self._hosts.values():
                host.close()
            self._hosts.clear()
        self.board.close()

    def host(self, place: Place) -> Machine:
        """The host at a place; the same for all who ask. Nothing is connected yet.

        Raises:
            BadUsage: The SSH settings for it cannot be meant.
        """
        with self._mutex:
            if place not in self._hosts:
                name, transport = self._transport(place)
                self._hosts[place] = Machine(
                    name, transport, self._secrets, self._clock, patience_s=self._patience_s, retried=self._retried
                )
            return self._hosts[place]

    def route(self, place: BySsh) -> Route:
        """The way to it.

        Raises:
            BadUsage: The SSH settings for it cannot be meant.
        """
        return self._config.route(place.alias, place.address, place.user, place.port)

    def _transport(self, place: Place) -> tuple[str, Transport]:
        if isinstance(place, BySsh):
            return place.alias, SshTransport(self.route(place), self.board)
        return place.container, ContainerTransport(place.container, place.engine)
